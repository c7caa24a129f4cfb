"""Promote a version to champion if it passes the gate; a call that was killed can be repeated."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.promotion.gate import KEPT, PROMOTED, SHADOW, GateConfig
from forecaster.promotion.judge import judge, judgement_key
from forecaster.registry.cache import CHALLENGER, CHAMPION, PREVIOUS
from forecaster.registry.store import Store
from forecaster.training import past_runs


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
