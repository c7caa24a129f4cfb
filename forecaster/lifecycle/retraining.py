"""What becomes of a trained version: judged once, then promoted, kept out, or left to forecast in the shadow."""

import json
from dataclasses import dataclass, field

from forecaster.lifecycle.backtest import BacktestConfig
from forecaster.lifecycle.gate import KEPT, PROMOTED, SHADOW, GateConfig
from forecaster.lifecycle.promotion import judge, judged_beside, make_champion
from forecaster.registry.cache import CHALLENGER, CHAMPION, PREVIOUS
from forecaster.registry.store import Store
from forecaster.training import past_runs


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
