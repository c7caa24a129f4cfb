"""Let a version through the gate to champion: `python -m pipelines.promote pipelines/configs/sine.yaml`."""

import argparse
import sys
from typing import Any

from pydantic import Field

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.backtesting.tracking import BacktestRun
from forecaster.domain.config import Config
from forecaster.domain.errors import ConfigError
from forecaster.promotion.gate import KEPT, PROMOTED, SHADOW, Decision, GateConfig
from forecaster.promotion.promote import check_certified, judge, make_champion
from forecaster.registry.cache import CHAMPION
from forecaster.registry.store import Store
from forecaster.training.tracking import TrackingConfig
from pipelines.command import config_parser, left_table, load_sections, run


class PromoteConfig(Config):
    """Which version of which model (the newest when `version` is null), how strict the gate is, where it is tried."""

    name: str
    version: int | None = Field(None, ge=1, lt=2**31)
    gate: GateConfig = GateConfig()
    backtest: BacktestConfig = BacktestConfig()
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)


def check_heeded(config: PromoteConfig, trial: BacktestConfig, tracking: TrackingConfig) -> None:
    """Refuse what a retraining, which judges its own version, would not heed of a section `promote`.

    Raises:
        ConfigError: there is such a key.
    """
    ours: dict[str, Any] = {"version": None, "backtest": trial, "tracking": tracking}
    for name, own in ours.items():
        if name in config.model_fields_set and getattr(config, name) != own:
            what = "judges the version that it trains" if own is None else f"takes what the job says of {name}"
            raise ConfigError(f"promote.{name}: a retraining does not heed it, it {what}; remove it")


def promote(config: PromoteConfig, has_gate: bool = True) -> dict[str, Any]:
    """Judge a version and, if it passes, make it the champion; the answer has the aliases as read back."""
    store = Store(config.tracking.uri)
    version = config.version or max(store.find(config.name).runs)
    if not has_gate:
        check_certified(store, config.name, version)
        aliases = make_champion(store, config.name, version)
        return {"model": config.name, "version": version, "promoted": True, "criteria": [], "aliases": aliases}
    answer, decision = promote_if_passed(store, config, version)
    say(decision)
    return answer


def promote_if_passed(
    store: Store, config: PromoteConfig, version: int, tried: BacktestRun | None = None, tries: int = 1
) -> tuple[dict[str, Any], Decision]:
    """Judge a version, which is the best of some `tries`, and make it the champion if it passes the gate."""
    champion = store.find(config.name).aliases.get(CHAMPION)
    decision = judge(store, config.name, version, config.gate, config.backtest, tried, tries)
    if decision.is_promoted:
        aliases = make_champion(store, config.name, version, instead_of=champion)
    else:
        aliases = store.find(config.name).aliases
    answer = {
        "model": config.name,
        "version": version,
        "promoted": decision.is_promoted,
        "outcome": decision.outcome,
        "criteria": [vars(criterion) for criterion in decision.criteria],
        "aliases": aliases,
    }
    return answer, decision


def roll_back(config: PromoteConfig) -> dict[str, Any]:
    """Make the previous version the champion again."""
    return {"model": config.name, "aliases": Store(config.tracking.uri).roll_back(config.name)}


def as_row(criterion: dict[str, Any]) -> dict[str, str]:
    """Return a criterion as a row of words."""
    return {
        "criterion": criterion["name"],
        "": "met" if criterion["is_met"] else "OPEN" if criterion.get("is_open") else "NOT MET",
        "reason": criterion["reason"],
    }


_OUTCOMES = {
    PROMOTED: "promoted",
    SHADOW: "the champion stays; the version forecasts in the shadow until pipelines.score can tell which is better",
    KEPT: "kept out: the champion stays",
}


def say(decision: Decision) -> None:
    """Print the criteria as a table, and what follows from them."""
    table = left_table([as_row(vars(one)) for one in decision.criteria])
    sys.stdout.write(f"{table}\n{_OUTCOMES[decision.outcome]}\n")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    (config,) = load_sections(arguments, promote=PromoteConfig)
    if arguments.rollback and arguments.without_gate:
        raise ConfigError("--rollback and --without-gate: give one of them")
    return roll_back(config) if arguments.rollback else promote(config, not arguments.without_gate)


if __name__ == "__main__":
    parser = config_parser(
        "promote",
        "Try a version beside the champion and the baselines, and make it the champion if it passes the gate.\n\n"
        "A version becomes champion as `first`, as `better` (another recipe, or the same; significantly, and by at\n"
        "least gate.better_by) or as `fresher` (the same recipe, newer rows, not worse by a non-inferiority test).\n"
        "gate.require says what it must show beside the last value: not_worse (the default) is a test too; skill\n"
        "means significantly better. A champion without skill is marked so in each answer and on the dashboard;\n"
        "FORECASTER_WITHOUT_SKILL says whether the service answers by it or by the last value.",
        "python -m pipelines.promote pipelines/configs/sine.yaml --set version=2\n"
        "  python -m pipelines.promote pipelines/configs/sine.yaml --rollback",
    )
    parser.add_argument("--rollback", action="store_true", help="make the previous version the champion again")
    parser.add_argument("--without-gate", action="store_true", help="promote it as it is, certified but not tried")
    parsed = parser.parse_args()
    sys.exit(run(lambda: _run(parsed)))
