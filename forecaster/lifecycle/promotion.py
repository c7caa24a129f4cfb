"""From a registered version to champion, through the gate: recipes are tried on the same data, at the same cutoffs."""

import statistics
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from forecaster.domain.config import build_config
from forecaster.domain.errors import BundleError, RegistryError, UnknownModel
from forecaster.domain.yaml_text import parse_yaml
from forecaster.evaluation.metrics import mae
from forecaster.evaluation.significance import Comparison, diebold_mariano
from forecaster.lifecycle.backtest import MODEL, Backtest, BacktestConfig
from forecaster.lifecycle.gate import Decision, Evidence, GateConfig, decide
from forecaster.lifecycle.report import losses, overlap
from forecaster.lifecycle.trial import try_recipe
from forecaster.registry.bundle import Bundle, read_bundle
from forecaster.registry.cache import CHALLENGER, CHAMPION
from forecaster.registry.predictor import Predictor
from forecaster.registry.store import RegisteredModel, Store
from forecaster.registry.trial import limits_from_environment, try_bundles
from forecaster.training import attempts, past_runs
from forecaster.training.recipe import TrainConfig

_LATENCY_RUNS = 200


def judge(store: Store, name: str, version: int, gate: GateConfig, trial: BacktestConfig, tries: int = 1) -> Decision:
    """Try a version's recipe and the champion's, decide, and record the decision with the version's run.

    Args:
        store: the registry.
        name: the model.
        version: the challenger; it gets that alias.
        gate: how strict.
        trial: at which cutoffs.
        tries: how many recipes are tried at once.

    Raises:
        UnknownModel: there is no such version.
        RegistryError: the challenger and the champion cannot be compared.
        DataError, TrainingError, BundleError: as their names say.
    """
    model = store.find(name)
    if version not in model.runs:
        raise UnknownModel(f"model '{name}' has no version {version}; it has {sorted(model.runs)}")
    store.set_alias(name, CHALLENGER, version)
    decision = decide(replace(_gather(store, model, version, trial), tries=tries), gate)
    past_runs.log_decision(
        store.uri,
        model.runs[version],
        [vars(one) for one in decision.criteria],
        decision.is_promoted,
        judged_beside(model.aliases.get(CHAMPION), gate, trial),
    )
    return decision


def judged_beside(champion: int | None, gate: GateConfig, trial: BacktestConfig) -> str:
    """Return what decides on a version beside itself; where it is another, the version is judged anew."""
    return f"{champion or 'none'} {attempts.work_of(gate.model_dump_json(), trial.model_dump_json())}"


def make_champion(store: Store, name: str, version: int) -> dict[str, int]:
    """Make a version the champion, say so with its run, and return the aliases as read back.

    Raises:
        UnknownModel, RegistryError: as `Store.promote` says.
    """
    aliases = store.promote(name, version)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    past_runs.log_tag(store.uri, store.find(name).runs[version], past_runs.PROMOTED_AT, now)
    return aliases


def check_certified(store: Store, name: str, version: int) -> None:
    """Raise BundleError unless a version has a leakage certificate and passes its trial: else there is no promotion.

    Raises:
        UnknownModel: there is no such version.
    """
    model = store.find(name)
    if version not in model.runs:
        raise UnknownModel(f"model '{name}' has no version {version}; it has {sorted(model.runs)}")
    with tempfile.TemporaryDirectory() as draft:
        manifest = _tried_bundle(store, name, version, Path(draft)).manifest
    if manifest.certificate is None:
        raise BundleError(f"model '{name}' version {version} has no leakage certificate; train it again")


def _gather(store: Store, model: RegisteredModel, version: int, trial: BacktestConfig) -> Evidence:
    config = _recipe(store, model.runs[version])
    champion = model.aliases.get(CHAMPION)
    with tempfile.TemporaryDirectory() as draft:
        bundle = _tried_bundle(store, model.name, version, Path(draft))
        latency_seconds = _latency(bundle)
    beside, theirs = None, None
    roles = {attempts.MODEL: model.name, "beside": str(champion or "")}
    # what is judged again replaces what was judged
    tried = try_recipe(config, trial, roles | {"version": str(version), "tried_as": CHALLENGER}, is_anew=True)
    if champion is not None and champion != version:
        other = _recipe(store, model.runs[champion])
        _check_comparable(config, other, model.name, champion)
        # on the challenger's data, so that both are asked the same
        rival = try_recipe(
            other.model_copy(update={"data": config.data}),
            trial,
            roles | {"version": str(champion), "tried_as": CHAMPION},
            is_anew=True,
        )
        beside, theirs = _compare(tried.result, rival.result, len(tried.series), trial)
    return Evidence(tried.metrics, trial.levels, bundle.manifest.certificate, latency_seconds, beside, theirs)


def _tried_bundle(store: Store, name: str, version: int, draft: Path) -> Bundle:
    """Return a version's bundle, downloaded into a folder, once it has passed the trial that a sync will give it."""
    folder = store.download(name, version, draft)
    (reason,) = try_bundles([folder], limits_from_environment())
    if reason:
        raise BundleError(f"model '{name}' version {version}: {reason}")
    return read_bundle(folder)


def _recipe(store: Store, run_id: str) -> TrainConfig:
    text = store.read_artifact(run_id, "config.yaml")
    where = f"run {run_id}, config.yaml"
    config = build_config(parse_yaml(text, where), TrainConfig, where)
    # a store may have moved, and a run keeps no password
    tracking = config.tracking.model_copy(update={"uri": store.uri})
    return config.model_copy(update={"tracking": tracking})


def _check_comparable(config: TrainConfig, other: TrainConfig, name: str, champion: int) -> None:
    ours, theirs = (config.horizon, config.freq), (other.horizon, other.freq)
    if ours != theirs:
        raise RegistryError(
            f"model '{name}': horizon and freq are {ours}, the champion's (version {champion}) {theirs}, and cannot be "
            "compared; register it under another name, or promote it without the gate"
        )


def _compare(ours: Backtest, theirs: Backtest, n_series: int, trial: BacktestConfig) -> tuple[Comparison, float]:
    """Return our losses beside theirs and their MAE, on the windows that both have."""
    keys, others = (one.origins.numbers * n_series + one.origins.windows.owners for one in (ours, theirs))
    _, mine, other = np.intersect1d(keys, others, return_indices=True)
    first, second = ours.choose(mine), theirs.choose(other)
    reach = overlap(ours.actual.shape[1], trial.step_size)
    comparison = diebold_mariano(losses(first, MODEL), losses(second, MODEL), reach, "less")
    return comparison, mae(second.actual, second.forecasts[MODEL])


def _latency(bundle: Bundle) -> float:
    """Return the median time of one forecast of one series, in seconds."""
    predictor, golden = Predictor(bundle), bundle.golden.inputs.take(slice(0, 1))
    seconds = []
    for _ in range(_LATENCY_RUNS):
        begin = time.perf_counter()
        predictor.predict_arrays(golden.values, known=golden.known)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)
