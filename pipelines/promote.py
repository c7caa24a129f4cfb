"""Promote a version to champion if it passes the gate: `python -m pipelines.promote pipelines/configs/sine.yaml`."""

import argparse
import sys
from typing import Any

from pydantic import Field

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.backtesting.tracking import BacktestRun
from forecaster.domain.config import Config
from forecaster.domain.errors import ConfigError
from forecaster.promotion.gate import KEPT, PROMOTED, SHADOW, Decision, GateConfig
from forecaster.promotion.judge import check_certified, judge
from forecaster.promotion.promote import make_champion
from forecaster.registry.cache import CHAMPION
from forecaster.registry.store import Store
from forecaster.training.tracking import TrackingConfig
from pipelines.command import config_parser, format_table, load_sections, run


class PromoteConfig(Config):
    """The model and version to promote (null: the newest version), the gate, its backtest, and MLflow."""

    name: str
    version: int | None = Field(None, ge=1, lt=2**31)
    gate: GateConfig = GateConfig()
    backtest: BacktestConfig = BacktestConfig()
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)


def check_no_ignored_keys(config: PromoteConfig, trial: BacktestConfig, tracking: TrackingConfig) -> None:
    """Check that a section `promote` sets nothing that a retraining would ignore.

    Raises:
        ConfigError: it sets such a key to another value than the job's.
    """
    job_values: dict[str, Any] = {"version": None, "backtest": trial, "tracking": tracking}
    for name, value in job_values.items():
        if name in config.model_fields_set and getattr(config, name) != value:
            instead = "judges the version that it trains" if value is None else f"uses the job's {name}"
            raise ConfigError(f"promote.{name}: a retraining ignores this key and {instead}; remove it")


def promote(config: PromoteConfig, has_gate: bool = True) -> dict[str, Any]:
    """Judge a version and make it the champion if it passes the gate; return the decision and the new aliases."""
    store = Store(config.tracking.uri)
    version = config.version or max(store.find(config.name).runs)
    if not has_gate:
        check_certified(store, config.name, version)
        aliases = make_champion(store, config.name, version)
        return {
            "model": config.name,
            "version": version,
            "promoted": True,
            "outcome": PROMOTED,
            "criteria": [],
            "aliases": aliases,
        }
    result, decision = promote_if_passed(store, config, version)
    print_decision(decision)
    return result


def promote_if_passed(
    store: Store, config: PromoteConfig, version: int, tried: BacktestRun | None = None, tries: int = 1
) -> tuple[dict[str, Any], Decision]:
    """Judge a version, the best of `tries` candidates, and make it the champion if it passes the gate."""
    champion = store.find(config.name).aliases.get(CHAMPION)
    decision = judge(store, config.name, version, config.gate, config.backtest, tried, tries)
    if decision.is_promoted:
        aliases = make_champion(store, config.name, version, instead_of=champion)
    else:
        aliases = store.find(config.name).aliases
    result = {
        "model": config.name,
        "version": version,
        "promoted": decision.is_promoted,
        "outcome": decision.outcome,
        "criteria": [vars(criterion) for criterion in decision.criteria],
        "aliases": aliases,
    }
    return result, decision


def roll_back(config: PromoteConfig) -> dict[str, Any]:
    """Make the previous version the champion again."""
    return {"model": config.name, "aliases": Store(config.tracking.uri).roll_back(config.name)}


def as_row(criterion: dict[str, Any]) -> dict[str, str]:
    """Return a criterion as a row of the table."""
    return {
        "criterion": criterion["name"],
        "": "met" if criterion["is_met"] else "OPEN" if criterion.get("is_open") else "NOT MET",
        "reason": criterion["reason"],
    }


_OUTCOMES = {
    PROMOTED: "promoted",
    SHADOW: "not promoted yet: the version forecasts in the shadow until pipelines.score can tell which is better",
    KEPT: "not promoted: the champion stays",
}


def print_decision(decision: Decision) -> None:
    """Print the criteria as a table, and the outcome."""
    table = format_table([as_row(vars(criterion)) for criterion in decision.criteria])
    sys.stdout.write(f"{table}\n{_OUTCOMES[decision.outcome]}\n")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    (config,) = load_sections(arguments, promote=PromoteConfig)
    if arguments.rollback and arguments.without_gate:
        raise ConfigError("--rollback and --without-gate: give only one of them")
    return roll_back(config) if arguments.rollback else promote(config, not arguments.without_gate)


if __name__ == "__main__":
    parser = config_parser(
        "promote",
        "Compare a version with the champion and the baselines, and make it the champion if it passes the gate.\n\n"
        "A version is promoted as `first` (there is no champion), as `better` (its error is significantly smaller, by\n"
        "at least gate.better_by) or as `fresher` (same recipe, newer rows, not worse by a non-inferiority test).\n"
        "gate.require is the comparison with the last value: `not_worse` (the default) is a non-inferiority test,\n"
        "`skill` requires a significantly smaller error. Answers and the dashboard mark a champion without skill;\n"
        "FORECASTER_WITHOUT_SKILL selects whether the service then serves the champion or the last value.",
        "python -m pipelines.promote pipelines/configs/sine.yaml --set version=2\n"
        "  python -m pipelines.promote pipelines/configs/sine.yaml --rollback",
    )
    parser.add_argument("--rollback", action="store_true", help="swap the champion and the previous champion")
    parser.add_argument("--without-gate", action="store_true", help="promote a certified version without comparing it")
    parsed = parser.parse_args()
    sys.exit(run(lambda: _run(parsed)))
