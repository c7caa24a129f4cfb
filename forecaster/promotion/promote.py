"""From a registered version to champion, through the gate."""

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from forecaster.backtesting.backtest import MODEL, Backtest, BacktestConfig
from forecaster.backtesting.report import losses, overlap
from forecaster.backtesting.tracking import Tried, try_recipe
from forecaster.domain.config import build_config
from forecaster.domain.errors import BundleError, RegistryError, StoreUnavailable, UnknownModel
from forecaster.domain.manifest import Manifest
from forecaster.domain.yaml_text import parse_yaml
from forecaster.evaluation.significance import Ratio, compare_losses
from forecaster.promotion.champion import Rival, compare
from forecaster.promotion.gate import KEPT, PROMOTED, SHADOW, Decision, Evidence, GateConfig, decide
from forecaster.registry.bundle import Bundle, read_bundle
from forecaster.registry.cache import CHALLENGER, CHAMPION, PREVIOUS
from forecaster.registry.predictor import Predictor
from forecaster.registry.store import RegisteredModel, Store
from forecaster.registry.trial import limits_from_environment, try_bundles
from forecaster.training import attempts, past_runs
from forecaster.training.config import TrainConfig

_LATENCY_RUNS = 200


def judge(
    store: Store,
    name: str,
    version: int,
    gate: GateConfig,
    trial: BacktestConfig,
    tried: Tried | None = None,
    tries: int = 1,
) -> Decision:
    """Try a version's recipe, compare it with the champion, decide, and record the decision with the version's run.

    Args:
        store: the registry.
        name: the model.
        version: the challenger; it gets that alias, unless another one waits in the shadow for actuals.
        gate: how strict.
        trial: at which cutoffs.
        tried: the version's recipe at these cutoffs, where that was done just now.
        tries: how many versions this is the best of; those judged beside the same champion before are counted too.

    Raises:
        UnknownModel: there is no such version.
        RegistryError: the challenger and the champion cannot be compared.
        DataError, TrainingError, BundleError: as their names say.
    """
    model = _find(store, name, version)
    evidence, manifest = _gather(store, model, version, gate, trial, tried, tries)
    decision = decide(evidence, gate)
    if decision.is_promoted or not _waits(store, model, version):
        store.set_alias(name, CHALLENGER, version)
    past_runs.log_decision(
        store.uri,
        model.runs[version],
        {
            "outcome": decision.outcome,
            "criteria": [vars(criterion) for criterion in decision.criteria],
            # what scores of the forecasts in the shadow are judged by
            "gate": gate.model_dump(),
            "tries": evidence.tries,
            # from here on its forecasts count, for as many steps
            "trained_until": manifest.trained_until,
            "horizon": manifest.horizon,
        },
        judged_beside(model.aliases.get(CHAMPION), gate, trial),
    )
    return decision


def judged_beside(champion: int | None, gate: GateConfig, trial: BacktestConfig) -> str:
    """Return what decides on a version beside itself; where it is another, the version is judged anew."""
    return f"{champion or 'none'} {attempts.work_of(gate.model_dump_json(), trial.model_dump_json())}"


def _waits(store: Store, model: RegisteredModel, version: int) -> bool:
    """Say whether another version than this forecasts in the shadow of the champion, until scores tell."""
    challenger, champion = model.aliases.get(CHALLENGER), model.aliases.get(CHAMPION)
    if challenger in (None, version, champion) or challenger not in model.runs:
        return False
    return is_in_shadow(past_runs.read_tags(store.uri, model.runs[challenger]), champion)


def is_in_shadow(tags: Mapping[str, str], champion: int | None) -> bool:
    """Say whether the gate left a version, whose run has these tags, in the shadow of this champion."""
    return tags.get(past_runs.GATE) == SHADOW and tags.get(past_runs.GATE_BESIDE, "").startswith(f"{champion} ")


def make_champion(
    store: Store, name: str, version: int, *, instead_of: int | Literal["any"] | None = "any"
) -> dict[str, int]:
    """Make a version the champion, say so with its run, and return the aliases as read back.

    Arguments are those of `Store.promote`.

    Raises:
        UnknownModel, RegistryError: as `Store.promote` says.
    """
    aliases = store.promote(name, version, instead_of=instead_of)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    past_runs.log_tag(store.uri, store.find(name).runs[version], past_runs.PROMOTED_AT, now)
    return aliases


def check_certified(store: Store, name: str, version: int) -> None:
    """Raise BundleError unless a version has a leakage certificate and passes its trial: else there is no promotion.

    Raises:
        UnknownModel: there is no such version.
    """
    _find(store, name, version)
    with tempfile.TemporaryDirectory() as draft:
        manifest = _tried_bundle(store, name, version, Path(draft)).manifest
    if manifest.certificate is None:
        raise BundleError(f"model '{name}' version {version} has no leakage certificate; train it again")


def _find(store: Store, name: str, version: int) -> RegisteredModel:
    model = store.find(name)
    if version not in model.runs:
        raise UnknownModel(f"model '{name}' has no version {version}; it has {sorted(model.runs)}")
    return model


def try_version(store: Store, name: str, version: int, trial: BacktestConfig) -> Tried:
    """Try a version's recipe at the cutoffs of `trial`; a run of the same version beside the same champion is replaced.

    Raises:
        UnknownModel: there is no such version.
        DataError, TrainingError, WorkspaceError, StoreUnavailable: as `try_recipe` says.
    """
    model = _find(store, name, version)
    tags = _tags(model, version) | {"tried_as": CHALLENGER}
    return try_recipe(_recipe(store, model.runs[version]), trial, tags, is_anew=True)


def _gather(
    store: Store,
    model: RegisteredModel,
    version: int,
    gate: GateConfig,
    trial: BacktestConfig,
    tried: Tried | None,
    tries: int,
) -> tuple[Evidence, Manifest]:
    champion, beside = model.aliases.get(CHAMPION), None
    with tempfile.TemporaryDirectory() as draft:
        challenger = _rival(store, model, version, Path(draft))
        tried = tried or try_version(store, model.name, version, trial)
        if champion is not None and champion != version:
            rival = _champion(store, model, champion, Path(draft))
            beside = compare(challenger, rival, tried, gate, trial, _tags(model, version))
        before = past_runs.judged_beside_champion(challenger.config.tracking, model.name, champion)
        manifest = challenger.bundle.manifest
        evidence = Evidence(
            tried.metrics,
            trial.levels,
            manifest.certificate,
            _latency(challenger.bundle),
            _beside_last_value(tried.result, trial),
            beside,
            tries + len(before - {model.runs[version]}),
            tries,
        )
        return evidence, manifest


def _tags(model: RegisteredModel, version: int) -> dict[str, str]:
    """Return what the runs of a judgement have in common."""
    return {
        attempts.MODEL: model.name,
        "version": str(version),
        "beside": str(model.aliases.get(CHAMPION) or ""),
    }


def _beside_last_value(result: Backtest, trial: BacktestConfig) -> Ratio | None:
    """Return the ratio of a backtest's MAE to the last value's; None where there are too few windows to tell."""
    reach = overlap(result.actual.shape[1], trial.step_size)
    return compare_losses(losses(result, MODEL), losses(result, "naive"), reach)


def _champion(store: Store, model: RegisteredModel, version: int, draft: Path) -> Rival:
    """Return the champion.

    Raises:
        RegistryError: it cannot be had.
    """
    try:
        return _rival(store, model, version, draft)
    except (BundleError, StoreUnavailable) as error:
        raise RegistryError(
            f"model '{model.name}': nothing can be judged beside the champion, version {version}: {error}; if it is "
            "lost, promote a version with --without-gate"
        ) from error


def _rival(store: Store, model: RegisteredModel, version: int, draft: Path) -> Rival:
    """Return a version with its recipe and its bundle, downloaded into a folder of its own in `draft`."""
    folder = draft / str(version)
    folder.mkdir()
    run_id = model.runs[version]
    tags = past_runs.read_tags(store.uri, run_id)
    warm = None
    if past_runs.WARM_EPOCHS in tags:
        warm = int(tags[past_runs.WARM_FROM]), int(tags[past_runs.WARM_EPOCHS])
    return Rival(version, _recipe(store, run_id), _tried_bundle(store, model.name, version, folder), warm)


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


def _latency(bundle: Bundle) -> float:
    """Return the median time of one forecast of one series, in seconds."""
    predictor, golden = Predictor(bundle), bundle.golden.inputs.take(slice(0, 1))
    seconds = []
    for _ in range(_LATENCY_RUNS):
        begin = time.perf_counter()
        predictor.predict_arrays(golden.values, known=golden.known)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


@dataclass(frozen=True)
class Settled:
    """What became of a version.

    Args:
        outcome: `promoted`: it is the champion; `shadow`: the champion stays until actuals tell which is better;
            `kept`: the champion stays.
        reason: why.
        aliases: the model's, as read back.
        criteria: the gate's.
    """

    outcome: str
    reason: str
    aliases: dict[str, int]
    criteria: list[dict[str, object]] = field(default_factory=list)


def settle(store: Store, name: str, version: int, gate: GateConfig, trial: BacktestConfig) -> Settled:
    """Judge a version unless that was done alike, and make it champion if it is let through.

    Alike is what `judged_beside` says: the same champion, gate and trial.

    Killed at any point and asked again, it ends the same. A version that was champion and is no longer, because
    somebody rolled it back or a later one came, stays what it is.

    Raises:
        UnknownModel, RegistryError, DataError, TrainingError, BundleError: as `judge` and `make_champion` say.
    """
    model = store.find(name)
    champion, tags = model.aliases.get(CHAMPION), past_runs.read_tags(store.uri, model.runs[version])
    # killed before it was said that it was champion, and rolled back since
    is_previous = model.aliases.get(PREVIOUS) == version
    if past_runs.PROMOTED_AT in tags or is_previous:
        now = "is the champion" if champion == version else f"was champion before version {champion}"
        return Settled(KEPT, f"version {version} {now}, and nothing has changed since it was trained", model.aliases)
    if champion == version:
        # killed before that was said
        return Settled(PROMOTED, "every criterion was met", make_champion(store, name, version))
    is_judged = past_runs.GATE in tags and tags.get(past_runs.GATE_BESIDE) == judged_beside(champion, gate, trial)
    if not is_judged:
        judge(store, name, version, gate, trial)
    decision = json.loads(store.read_artifact(model.runs[version], "gate.json"))
    criteria = decision["criteria"]
    if decision["outcome"] == PROMOTED:
        aliases = make_champion(store, name, version, instead_of=champion)
        way = next(str(one["reason"]) for one in criteria if one["name"] == "champion")
        return Settled(PROMOTED, f"every criterion is met; {way}", aliases, criteria)
    unmet = "; ".join(f"{one['name']}: {one['reason']}" for one in criteria if not one["is_met"])
    before = "judged before, and nothing has changed since: " if is_judged else ""
    aliases = store.find(name).aliases
    if decision["outcome"] == SHADOW and aliases.get(CHALLENGER) != version:
        unmet += f"; version {aliases[CHALLENGER]} is in the shadow already and goes first"
    return Settled(decision["outcome"], before + unmet, aliases, criteria)
