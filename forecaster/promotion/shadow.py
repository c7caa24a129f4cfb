"""Challengers that forecast in the shadow: promoted or kept out once the ledger's scores can tell."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from sqlalchemy import Engine

from forecaster.domain.errors import ForecasterError
from forecaster.domain.instants import HOUR
from forecaster.evaluation.significance import compare_losses
from forecaster.ledger.paired_losses import PairedLosses, models_with_shadow_scores, paired_losses
from forecaster.promotion.gate import KEPT, PROMOTED, SHADOW, BesideChampion, Criterion, GateConfig, replaces
from forecaster.promotion.promote import is_in_shadow, make_champion
from forecaster.registry.cache import CHALLENGER, CHAMPION, PREVIOUS
from forecaster.registry.store import Store
from forecaster.training import past_runs

# forecasts that do not overlap: the first look at the evidence, and the next each time there are twice as many. A look
# at every new score would find a difference by chance sooner or later.
FIRST_LOOK = 8
# how far clocks of zones are from universal time
_ZONES = 14 * HOUR
FAILED = "failed"


def settle_shadows(engine: Engine, tracking_uri: str) -> dict[str, dict[str, Any]]:
    """Promote or keep out each challenger that the gate left to forecast in the shadow, where its scores suffice.

    Returns:
        By model, the `version`, its `outcome` (`promoted`, `kept`, `shadow` where the scores do not suffice yet, or
        `failed`) and the `reason`. A model that fails stops no other.

    Raises:
        DatabaseUnavailable, StoreUnavailable: as their names say.
    """
    models = models_with_shadow_scores(engine)
    if not models:
        return {}
    store = Store(tracking_uri)
    settled: dict[str, dict[str, Any]] = {}
    for name in models:
        try:
            found = _settle(engine, store, name) if store.has(name) else None
        except ForecasterError as error:
            found = {"version": None, "outcome": FAILED, "reason": str(error)}
        if found:
            settled[name] = found
    return settled


def judge_shadow(paired: PairedLosses, champion: int, gate: GateConfig, tries: int) -> Criterion | None:
    """Return what paired scores say of a fresher challenger; None as long as there are too few for a look.

    Args:
        paired: the challenger's errors beside the champion's.
        champion: its version.
        gate: the one that left the challenger in the shadow.
        tries: how many versions were tried beside the same champion.
    """
    n_looked_at = FIRST_LOOK * paired.overlap
    if len(paired.ours) < n_looked_at:
        return None
    while 2 * n_looked_at <= len(paired.ours):
        n_looked_at *= 2
    seen = paired.first(n_looked_at)
    ratio = compare_losses(seen.ours, seen.theirs, seen.overlap)
    criterion = replaces(BesideChampion(champion, ratio, n_looked_at, True, True, {}), gate, tries)
    return replace(criterion, reason=f"in the shadow, {criterion.reason}")


def _settle(engine: Engine, store: Store, name: str) -> dict[str, Any] | None:
    """Settle one model's challenger; None where none waits."""
    model = store.read(name)
    version, champion = model.aliases.get(CHALLENGER), model.aliases.get(CHAMPION)
    if version is None or champion is None or version not in model.runs:
        return None
    # one that was champion before was rolled back, or another followed it
    if version in (champion, model.aliases.get(PREVIOUS)):
        return None
    run_id = model.runs[version]
    tags = past_runs.read_tags(store.uri, run_id)
    if not is_in_shadow(tags, champion) or past_runs.PROMOTED_AT in tags:
        return None
    decision = json.loads(store.read_artifact(run_id, "gate.json"))
    # the manifest has the series' own clock, the ledger universal time
    until = int(np.datetime64(decision["trained_until"], "us").astype(np.int64)) + _ZONES
    found = judge_shadow(
        paired_losses(engine, name, version, champion, until, decision["horizon"]),
        champion,
        GateConfig.model_validate(decision["gate"]),
        decision["tries"],
    )
    if found is None or found.is_open:
        reason = "too few scores to tell" if found is None else found.reason
        return {"version": version, "outcome": SHADOW, "reason": reason}
    outcome = PROMOTED if found.is_met else KEPT
    if found.is_met:
        # before it is recorded: killed in between, a second look finds it settled
        make_champion(store, name, version, instead_of=champion)
    others = [criterion for criterion in decision["criteria"] if criterion["name"] != found.name]
    decision |= {"outcome": outcome, "criteria": [*others, asdict(found)]}
    past_runs.log_decision(store.uri, run_id, decision, tags[past_runs.GATE_BESIDE])
    return {"version": version, "outcome": outcome, "reason": found.reason}
