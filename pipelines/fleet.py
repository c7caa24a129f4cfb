"""Apply one recipe to many symbols, with a model for each: `python -m pipelines.fleet CONFIG.yaml`."""

import argparse
import sys
import time
from typing import Any

import pandas as pd
from tqdm import tqdm

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.domain.config import Config, section_names
from forecaster.domain.errors import ConfigError
from forecaster.domain.exits import FAILED, PARTLY_FAILED
from forecaster.fleet.plan import FleetConfig, plan
from forecaster.fleet.running import Report, run_fleet
from forecaster.training.config import TrainConfig
from pipelines.command import config_parser, format_table, load_sections, run
from pipelines.promote import PromoteConfig, check_no_ignored_keys


def fleet(config: FleetConfig, train: TrainConfig, trial: BacktestConfig, promote: PromoteConfig) -> dict[str, Any]:
    """Run the fleet and print a table; return the number of symbols by outcome, and the failures."""
    orders, start = plan(config, train, trial, promote.gate), time.perf_counter()
    with tqdm(total=len(orders), unit="symbol", dynamic_ncols=True) as bar:

        def show(symbol: str, outcome: str) -> None:
            bar.set_description(f"{symbol} {outcome}", refresh=False)
            bar.update()

        report = run_fleet(config, orders, show)
    _print_report(report)
    return {
        "do": config.do,
        "symbols": len(orders),
        "outcomes": {str(name): int(count) for name, count in report.table["outcome"].value_counts().items()},
        "failed": report.failed,
        "seconds": round(time.perf_counter() - start, 1),
        "out": str(report.out),
    }


def status(answer: dict[str, Any]) -> int:
    """Return the exit status: 0 only if no symbol failed."""
    if len(answer["failed"]) == answer["symbols"]:
        return FAILED
    return PARTLY_FAILED if answer["failed"] else 0


def _print_report(report: Report) -> None:
    rows = [{str(name): _cell(value) for name, value in row.items()} for row in report.table.to_dict("records")]
    sys.stdout.write(format_table(rows) + "\n")


def _cell(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    names = section_names(arguments.config)
    if not {"fleet", "train"} <= names:
        raise ConfigError(f"{arguments.config}: needs the sections fleet and train; it has {sorted(names)}")
    optional: dict[str, type[Config]] = {"backtest": BacktestConfig, "promote": PromoteConfig}
    present = {name: model for name, model in optional.items() if name in names}
    sections = dict(
        zip(
            ("train", *present, "fleet"),
            load_sections(arguments, train=TrainConfig, **present, fleet=FleetConfig),
            strict=True,
        )
    )
    config, train = sections["fleet"], sections["train"]
    if missing := [name for name in ("backtest", "promote") if config.do == "retrain" and name not in sections]:
        raise ConfigError(f"{arguments.config}: has no section {missing[0]}, which do: retrain needs")
    if "promote" in sections:
        check_no_ignored_keys(sections["promote"], sections.get("backtest", BacktestConfig()), train.tracking)
    return fleet(
        config,
        train,
        sections.get("backtest", BacktestConfig()),
        sections.get("promote", PromoteConfig(name=train.name)),
    )


if __name__ == "__main__":
    parser = config_parser(
        "fleet",
        "Retrain a model for each of many symbols, or backtest the recipe on each, in parallel.\n\n"
        "A symbol that fails does not stop the others, and a second run skips finished symbols. The last line is JSON\n"
        "with the reason of each failure. Exit status: 0 all succeeded, 1 all failed, 2 invalid configuration,\n"
        "3 some failed.",
        "python -m pipelines.fleet pipelines/configs/stock.yaml --set fleet.workers=4\n"
        "  python -m pipelines.fleet pipelines/configs/stock.yaml --set fleet.do=backtest 'fleet.symbols=[SPY]'",
    )
    parsed = parser.parse_args()
    sys.exit(run(lambda: _run(parsed), status))
