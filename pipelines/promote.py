"""Let a version through the gate to champion: `python -m pipelines.promote pipelines/configs/sine.yaml`."""

import argparse
import sys
from typing import Any

from pydantic import Field

from forecaster.domain.config import Config
from forecaster.domain.errors import ConfigError
from forecaster.lifecycle.backtest import BacktestConfig
from forecaster.lifecycle.gate import Decision, GateConfig
from forecaster.lifecycle.promotion import check_certified, judge, make_champion
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


def promote(config: PromoteConfig, has_gate: bool = True, tries: int = 1, is_quiet: bool = False) -> dict[str, Any]:
    """Judge a version and, if it is let through, make it the champion; the answer has the aliases as read back.

    Of several `tries` at once, one is better by chance more easily, and its p-value is multiplied with their number.
    """
    store = Store(config.tracking.uri)
    model = store.find(config.name)
    version = config.version or max(model.runs)
    answer: dict[str, Any] = {"model": config.name, "version": version, "promoted": True, "criteria": []}
    if has_gate:
        decision = judge(store, config.name, version, config.gate, config.backtest, tries)
        if not is_quiet:
            _say(decision)
        answer |= {"promoted": decision.is_promoted, "criteria": [vars(one) for one in decision.criteria]}
    else:
        check_certified(store, config.name, version)
    aliases = make_champion(store, config.name, version) if answer["promoted"] else store.find(config.name).aliases
    return answer | {"aliases": aliases}


def roll_back(config: PromoteConfig) -> dict[str, Any]:
    """Make the previous version the champion again."""
    return {"model": config.name, "aliases": Store(config.tracking.uri).roll_back(config.name)}


def as_row(criterion: dict[str, Any]) -> dict[str, str]:
    """Return a criterion as a row of words."""
    return {
        "criterion": criterion["name"],
        "": "met" if criterion["is_met"] else "NOT MET",
        "reason": criterion["reason"],
    }


def _say(decision: Decision) -> None:
    table = left_table([as_row(vars(one)) for one in decision.criteria])
    sys.stdout.write(f"{table}\n{'promoted' if decision.is_promoted else 'kept out: the champion stays'}\n")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    (config,) = load_sections(arguments, promote=PromoteConfig)
    if arguments.rollback and arguments.without_gate:
        raise ConfigError("--rollback and --without-gate: give one of them")
    return roll_back(config) if arguments.rollback else promote(config, not arguments.without_gate)


if __name__ == "__main__":
    parser = config_parser(
        "promote",
        "Try a version beside the champion and the baselines, and make it the champion if it is let through.",
        "python -m pipelines.promote pipelines/configs/sine.yaml --set version=2\n"
        "  python -m pipelines.promote pipelines/configs/sine.yaml --rollback",
    )
    parser.add_argument("--rollback", action="store_true", help="make the previous version the champion again")
    parser.add_argument("--without-gate", action="store_true", help="promote it as it is, certified but not tried")
    parsed = parser.parse_args()
    sys.exit(run(lambda: _run(parsed)))
