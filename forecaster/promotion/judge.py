"""Judge a registered version: gather the evidence, let the gate decide, and record the decision with the run."""

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from forecaster.backtesting.backtest import MODEL, Backtest, BacktestConfig
from forecaster.backtesting.report import losses, overlap
from forecaster.backtesting.tracking import BacktestRun, run_backtest
from forecaster.domain.errors import BundleError
from forecaster.domain.manifest import Manifest
from forecaster.evaluation.significance import Ratio, compare_losses
from forecaster.promotion.comparison import check_comparable, compare
from forecaster.promotion.contenders import download_bundle, find_version, load_champion, load_contender, read_recipe
from forecaster.promotion.gate import SHADOW, Decision, Evidence, GateConfig, decide
from forecaster.registry.bundle import Bundle
from forecaster.registry.cache import CHALLENGER, CHAMPION
from forecaster.registry.predictor import ArrayPredictor
from forecaster.registry.store import RegisteredModel, Store
from forecaster.training import attempts, past_runs

_LATENCY_RUNS = 200


def judge(
    store: Store,
    name: str,
    version: int,
    gate: GateConfig,
    backtest_config: BacktestConfig,
    run: BacktestRun | None = None,
    tries: int = 1,
) -> Decision:
    """Backtest a version's recipe, compare it with the champion, decide, and record the decision with its run.

    Args:
        store: the registry.
        name: the model.
        version: the challenger. It gets the alias `challenger`, unless another version forecasts in the shadow.
        gate: the settings of the gate.
        backtest_config: the settings of the backtest.
        run: the backtest of the version's recipe with these settings, if it has already been made.
        tries: the number of versions that this is the best of; versions that were judged against the same champion
            before are added to it.

    Raises:
        UnknownModel: there is no such version.
        RegistryError: the challenger and the champion cannot be compared.
        DataError, TrainingError, BundleError: as their names say.
    """
    model = find_version(store, name, version)
    evidence, manifest = _gather(store, model, version, gate, backtest_config, run, tries)
    decision = decide(evidence, gate)
    if decision.is_promoted or not _has_other_shadow(store, model, version):
        store.set_alias(name, CHALLENGER, version)
    past_runs.log_decision(
        store.uri,
        model.runs[version],
        {
            "outcome": decision.outcome,
            "criteria": [vars(criterion) for criterion in decision.criteria],
            # for the later decision on shadow forecasts
            "gate": gate.model_dump(),
            "tries": evidence.tries,
            # only forecasts after this time count, and only the steps of this horizon
            "trained_until": manifest.trained_until,
            "horizon": manifest.horizon,
        },
        judgement_key(model.aliases.get(CHAMPION), gate, backtest_config),
    )
    return decision


def judgement_key(champion: int | None, gate: GateConfig, backtest_config: BacktestConfig) -> str:
    """Return a key of everything but the version that a decision depends on; a version is judged once per key."""
    return f"{champion or 'none'} {attempts.work_key(gate.model_dump_json(), backtest_config.model_dump_json())}"


def _has_other_shadow(store: Store, model: RegisteredModel, version: int) -> bool:
    """Return whether another version forecasts in the shadow of the champion."""
    challenger, champion = model.aliases.get(CHALLENGER), model.aliases.get(CHAMPION)
    if challenger in (None, version, champion) or challenger not in model.runs:
        return False
    return is_in_shadow(past_runs.read_tags(store.uri, model.runs[challenger]), champion)


def is_in_shadow(tags: Mapping[str, str], champion: int | None) -> bool:
    """Return whether the gate left the version of a run with these tags in the shadow of this champion."""
    return tags.get(past_runs.GATE) == SHADOW and tags.get(past_runs.JUDGED_AGAINST, "").startswith(f"{champion} ")


def check_certified(store: Store, name: str, version: int) -> None:
    """Raise BundleError unless a version passes its trial in the sandbox and has a leakage certificate.

    Raises:
        UnknownModel: there is no such version.
    """
    find_version(store, name, version)
    with tempfile.TemporaryDirectory() as draft:
        manifest = download_bundle(store, name, version, Path(draft)).manifest
    if manifest.certificate is None:
        raise BundleError(f"model '{name}' version {version} has no leakage certificate; train it again")


def backtest_version(store: Store, name: str, version: int, backtest_config: BacktestConfig) -> BacktestRun:
    """Backtest a version's recipe; an earlier run of the same version against the same champion is replaced.

    Raises:
        UnknownModel: there is no such version.
        DataError, TrainingError, WorkspaceError, StoreUnavailable: as `run_backtest` raises them.
    """
    model = find_version(store, name, version)
    tags = _tags(model, version) | {"tried_as": CHALLENGER}
    return run_backtest(read_recipe(store, model.runs[version]), backtest_config, tags, replace_existing=True)


def _gather(
    store: Store,
    model: RegisteredModel,
    version: int,
    gate: GateConfig,
    backtest_config: BacktestConfig,
    run: BacktestRun | None,
    tries: int,
) -> tuple[Evidence, Manifest]:
    champion, other, comparison = model.aliases.get(CHAMPION), None, None
    with tempfile.TemporaryDirectory() as draft:
        challenger = load_contender(store, model, version, Path(draft))
        if champion is not None and champion != version:
            other = load_champion(store, model, champion, Path(draft))
            check_comparable(challenger, other)
        run = run or backtest_version(store, model.name, version, backtest_config)
        if other:
            comparison = compare(challenger, other, run, gate, backtest_config, _tags(model, version))
        judged = past_runs.find_judged_runs(challenger.config.tracking, model.name, champion)
        manifest = challenger.bundle.manifest
        evidence = Evidence(
            run.metrics,
            backtest_config.levels,
            manifest.certificate,
            _measure_latency(challenger.bundle),
            _compare_with_last_value(run.result, backtest_config),
            comparison,
            tries + len(judged - {model.runs[version]}),
            tries,
        )
        return evidence, manifest


def _tags(model: RegisteredModel, version: int) -> dict[str, str]:
    """Return the common tags of a judgement's runs."""
    return {
        attempts.MODEL: model.name,
        "version": str(version),
        "beside": str(model.aliases.get(CHAMPION) or ""),
    }


def _compare_with_last_value(result: Backtest, backtest_config: BacktestConfig) -> Ratio | None:
    """Return a backtest's MAE over the last-value baseline's; None if there are too few windows for a test."""
    n_overlap = overlap(result.actual.shape[1], backtest_config.step_size)
    return compare_losses(losses(result, MODEL), losses(result, "naive"), n_overlap)


def _measure_latency(bundle: Bundle) -> float:
    """Return the median time to forecast one series, in seconds."""
    predictor, golden = ArrayPredictor(bundle), bundle.golden.inputs.take(slice(0, 1))
    seconds = []
    for _ in range(_LATENCY_RUNS):
        begin = time.perf_counter()
        predictor.forecast(golden)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)
