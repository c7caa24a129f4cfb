"""Decide on challengers that forecast in the shadow, once the ledger has enough scores."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from sqlalchemy import Engine

from forecaster.domain.errors import ForecasterError
from forecaster.domain.instants import HOUR
from forecaster.evaluation.significance import compare_losses
from forecaster.ledger.paired_losses import PairedLosses, models_with_shadow_scores, paired_losses
from forecaster.promotion.gate import (
    KEPT,
    PROMOTED,
    SHADOW,
    ChampionComparison,
    Criterion,
    GateConfig,
    compare_with_champion,
)
from forecaster.promotion.judge import is_in_shadow
from forecaster.promotion.promote import make_champion
from forecaster.registry.cache import CHALLENGER, CHAMPION, PREVIOUS
from forecaster.registry.store import Store
from forecaster.training import past_runs

# the number of forecasts that do not overlap at the first test; each later test needs twice as many as the one before.
# Testing after every new score would find a difference by chance sooner or later.
FIRST_LOOK = 8
# the largest offset of a time zone from UTC
_ZONES = 14 * HOUR
FAILED = "failed"


def resolve_shadows(engine: Engine, tracking_uri: str) -> dict[str, dict[str, Any]]:
    """Promote or reject each shadow challenger that has enough scores.

    An error with one model does not affect the others.

    Returns:
        By model, the `version`, its `outcome` (`promoted`, `kept`, `shadow` if there are too few scores yet, or
        `failed`) and the `reason`.

    Raises:
        DatabaseUnavailable, StoreUnavailable: as their names say.
    """
    models = models_with_shadow_scores(engine)
    if not models:
        return {}
    store = Store(tracking_uri)
    results: dict[str, dict[str, Any]] = {}
    for name in models:
        try:
            result = _resolve(engine, store, name) if store.has(name) else None
        except ForecasterError as error:
            result = {"version": None, "outcome": FAILED, "reason": str(error)}
        if result:
            results[name] = result
    return results


def judge_shadow(paired: PairedLosses, champion: int, gate: GateConfig, tries: int) -> Criterion | None:
    """Test a fresher challenger's scores against the champion's; None while there are too few.

    Args:
        paired: the challenger's and the champion's errors on the same forecasts.
        champion: the champion's version.
        gate: the settings of the gate that left the challenger in the shadow.
        tries: the number of versions that were judged against the same champion.
    """
    n_tested = FIRST_LOOK * paired.overlap
    if len(paired.ours) < n_tested:
        return None
    while 2 * n_tested <= len(paired.ours):
        n_tested *= 2
    tested = paired.first(n_tested)
    ratio = compare_losses(tested.ours, tested.theirs, tested.overlap)
    criterion = compare_with_champion(ChampionComparison(champion, ratio, n_tested, True, True, {}), gate, tries)
    return replace(criterion, reason=f"in the shadow, {criterion.reason}")


def _resolve(engine: Engine, store: Store, name: str) -> dict[str, Any] | None:
    """Decide on one model's challenger; return None if none forecasts in the shadow."""
    model = store.read(name)
    version, champion = model.aliases.get(CHALLENGER), model.aliases.get(CHAMPION)
    if version is None or champion is None or version not in model.runs:
        return None
    # a former champion was rolled back, or replaced
    if version in (champion, model.aliases.get(PREVIOUS)):
        return None
    run_id = model.runs[version]
    tags = past_runs.read_tags(store.uri, run_id)
    if not is_in_shadow(tags, champion) or past_runs.PROMOTED_AT in tags:
        return None
    decision = json.loads(store.read_artifact(run_id, "gate.json"))
    # the manifest has local time, the ledger UTC
    until = int(np.datetime64(decision["trained_until"], "us").astype(np.int64)) + _ZONES
    criterion = judge_shadow(
        paired_losses(engine, name, version, champion, until, decision["horizon"]),
        champion,
        GateConfig.model_validate(decision["gate"]),
        decision["tries"],
    )
    if criterion is None or criterion.is_open:
        reason = "too few scores for a test" if criterion is None else criterion.reason
        return {"version": version, "outcome": SHADOW, "reason": reason}
    outcome = PROMOTED if criterion.is_met else KEPT
    if criterion.is_met:
        # promoted before the decision is recorded: after a kill in between, the next call finds the champion
        make_champion(store, name, version, instead_of=champion)
    others = [other for other in decision["criteria"] if other["name"] != criterion.name]
    decision |= {"outcome": outcome, "criteria": [*others, asdict(criterion)]}
    past_runs.log_decision(store.uri, run_id, decision, tags[past_runs.JUDGED_AGAINST])
    return {"version": version, "outcome": outcome, "reason": criterion.reason}
