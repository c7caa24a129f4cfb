"""Judge a registered version with the gate, and promote it to champion."""

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
from forecaster.backtesting.tracking import BacktestRun, run_backtest
from forecaster.domain.config import build_config
from forecaster.domain.errors import BundleError, RegistryError, StoreUnavailable, UnknownModel
from forecaster.domain.manifest import Manifest
from forecaster.domain.yaml_text import parse_yaml
from forecaster.evaluation.significance import Ratio, compare_losses
from forecaster.promotion.comparison import Contender, compare
from forecaster.promotion.gate import KEPT, PROMOTED, SHADOW, Decision, Evidence, GateConfig, decide
from forecaster.registry.bundle import Bundle, read_bundle
from forecaster.registry.cache import CHALLENGER, CHAMPION, PREVIOUS
from forecaster.registry.predictor import ArrayPredictor
from forecaster.registry.sandbox import check_bundles, limits_from_environment
from forecaster.registry.store import RegisteredModel, Store
from forecaster.training import attempts, past_runs
from forecaster.training.config import TrainConfig

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
    model = _find(store, name, version)
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


def make_champion(
    store: Store, name: str, version: int, *, instead_of: int | Literal["any"] | None = "any"
) -> dict[str, int]:
    """Make a version the champion, tag its run with the time, and return the aliases as read back.

    Takes the arguments of `Store.promote`.

    Raises:
        UnknownModel, RegistryError: as `Store.promote` raises them.
    """
    aliases = store.promote(name, version, instead_of=instead_of)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    past_runs.log_tag(store.uri, store.find(name).runs[version], past_runs.PROMOTED_AT, now)
    return aliases


def check_certified(store: Store, name: str, version: int) -> None:
    """Raise BundleError unless a version passes its trial in the sandbox and has a leakage certificate.

    Raises:
        UnknownModel: there is no such version.
    """
    _find(store, name, version)
    with tempfile.TemporaryDirectory() as draft:
        manifest = _download_bundle(store, name, version, Path(draft)).manifest
    if manifest.certificate is None:
        raise BundleError(f"model '{name}' version {version} has no leakage certificate; train it again")


def _find(store: Store, name: str, version: int) -> RegisteredModel:
    model = store.find(name)
    if version not in model.runs:
        raise UnknownModel(f"model '{name}' has no version {version}; it has {sorted(model.runs)}")
    return model


def backtest_version(store: Store, name: str, version: int, backtest_config: BacktestConfig) -> BacktestRun:
    """Backtest a version's recipe; an earlier run of the same version against the same champion is replaced.

    Raises:
        UnknownModel: there is no such version.
        DataError, TrainingError, WorkspaceError, StoreUnavailable: as `run_backtest` raises them.
    """
    model = _find(store, name, version)
    tags = _tags(model, version) | {"tried_as": CHALLENGER}
    return run_backtest(_recipe(store, model.runs[version]), backtest_config, tags, replace_existing=True)


def _gather(
    store: Store,
    model: RegisteredModel,
    version: int,
    gate: GateConfig,
    backtest_config: BacktestConfig,
    run: BacktestRun | None,
    tries: int,
) -> tuple[Evidence, Manifest]:
    champion, comparison = model.aliases.get(CHAMPION), None
    with tempfile.TemporaryDirectory() as draft:
        challenger = _load_contender(store, model, version, Path(draft))
        run = run or backtest_version(store, model.name, version, backtest_config)
        if champion is not None and champion != version:
            other = _load_champion(store, model, champion, Path(draft))
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


def _load_champion(store: Store, model: RegisteredModel, version: int, draft: Path) -> Contender:
    """Return the champion.

    Raises:
        RegistryError: it cannot be loaded.
    """
    try:
        return _load_contender(store, model, version, draft)
    except (BundleError, StoreUnavailable) as error:
        raise RegistryError(
            f"model '{model.name}': the champion, version {version}, cannot be loaded for a comparison: {error}; if it "
            "is lost, promote a version with --without-gate"
        ) from error


def _load_contender(store: Store, model: RegisteredModel, version: int, draft: Path) -> Contender:
    """Return a version with its recipe and its bundle, downloaded into a folder in `draft`."""
    folder = draft / str(version)
    folder.mkdir()
    run_id = model.runs[version]
    tags = past_runs.read_tags(store.uri, run_id)
    warm = None
    if past_runs.WARM_EPOCHS in tags:
        warm = int(tags[past_runs.WARM_FROM]), int(tags[past_runs.WARM_EPOCHS])
    return Contender(version, _recipe(store, run_id), _download_bundle(store, model.name, version, folder), warm)


def _download_bundle(store: Store, name: str, version: int, draft: Path) -> Bundle:
    """Download a version's bundle into a folder, and return it if it passes the same trial as in a sync."""
    folder = store.download(name, version, draft)
    (reason,) = check_bundles([folder], limits_from_environment())
    if reason:
        raise BundleError(f"model '{name}' version {version}: {reason}")
    return read_bundle(folder)


def _recipe(store: Store, run_id: str) -> TrainConfig:
    text = store.read_artifact(run_id, "config.yaml")
    where = f"run {run_id}, config.yaml"
    config = build_config(parse_yaml(text, where), TrainConfig, where)
    # the store may have moved, and the logged URI has no password
    tracking = config.tracking.model_copy(update={"uri": store.uri})
    return config.model_copy(update={"tracking": tracking})


def _measure_latency(bundle: Bundle) -> float:
    """Return the median time to forecast one series, in seconds."""
    predictor, golden = ArrayPredictor(bundle), bundle.golden.inputs.take(slice(0, 1))
    seconds = []
    for _ in range(_LATENCY_RUNS):
        begin = time.perf_counter()
        predictor.predict_arrays(golden.values, known=golden.known)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


@dataclass(frozen=True)
class PromotionResult:
    """The outcome for a version.

    Args:
        outcome: `promoted` if the version became champion, `shadow` if actuals will decide, `kept` if the champion
            stays.
        reason: the reason for the outcome.
        aliases: the model's aliases, as read back.
        criteria: the gate's criteria, each with `name`, `is_met` and `reason`.
    """

    outcome: str
    reason: str
    aliases: dict[str, int]
    criteria: list[dict[str, object]] = field(default_factory=list)


def judge_and_promote(
    store: Store, name: str, version: int, gate: GateConfig, backtest_config: BacktestConfig
) -> PromotionResult:
    """Judge a version, unless that was already done with the same `judgement_key`, and promote it if it passes.

    A call that was killed at any point can be repeated and ends the same. A former champion, which was rolled back or
    replaced, is not promoted again.

    Raises:
        UnknownModel, RegistryError, DataError, TrainingError, BundleError: as `judge` and `make_champion` raise them.
    """
    model = store.find(name)
    champion, tags = model.aliases.get(CHAMPION), past_runs.read_tags(store.uri, model.runs[version])
    # a kill may have prevented the tag of a champion that was rolled back since
    is_previous = model.aliases.get(PREVIOUS) == version
    if past_runs.PROMOTED_AT in tags or is_previous:
        status = "is the champion" if champion == version else f"was champion before version {champion}"
        return PromotionResult(
            KEPT, f"version {version} {status}, and nothing has changed since it was trained", model.aliases
        )
    if champion == version:
        # a kill prevented the tag
        return PromotionResult(PROMOTED, "every criterion was met", make_champion(store, name, version))
    is_judged = past_runs.GATE in tags and tags.get(past_runs.JUDGED_AGAINST) == judgement_key(
        champion, gate, backtest_config
    )
    if not is_judged:
        judge(store, name, version, gate, backtest_config)
    decision = json.loads(store.read_artifact(model.runs[version], "gate.json"))
    criteria = decision["criteria"]
    if decision["outcome"] == PROMOTED:
        aliases = make_champion(store, name, version, instead_of=champion)
        reason = next(str(criterion["reason"]) for criterion in criteria if criterion["name"] == "champion")
        return PromotionResult(PROMOTED, f"every criterion is met; {reason}", aliases, criteria)
    unmet = "; ".join(
        f"{criterion['name']}: {criterion['reason']}" for criterion in criteria if not criterion["is_met"]
    )
    prefix = "judged before, and nothing has changed since: " if is_judged else ""
    aliases = store.find(name).aliases
    if decision["outcome"] == SHADOW and aliases.get(CHALLENGER) != version:
        unmet += f"; version {aliases[CHALLENGER]} already forecasts in the shadow and is decided on first"
    return PromotionResult(decision["outcome"], prefix + unmet, aliases, criteria)
