"""Run a fleet: execute its orders and write its table."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from forecaster.domain.errors import FleetError
from forecaster.domain.files import write_atomically
from forecaster.fleet.local_workers import run_locally
from forecaster.fleet.plan import FleetConfig, Order, OrderResult
from forecaster.fleet.ray_workers import run_on_ray
from forecaster.fleet.work import FAILED

# takes the configuration, the orders as JSON and a folder for logs, and yields the result of each order
Executor = Callable[[FleetConfig, Sequence[str], Path], Iterator[OrderResult]]
EXECUTORS: dict[str, Executor] = {"processes": run_locally, "ray": run_on_ray}
COLUMNS = ("symbol", "outcome", "version", "relative_mae", "coverage", "seconds", "reason")


@dataclass(frozen=True)
class Report:
    """The results of a fleet.

    Args:
        table: one row per symbol, in the order of the configuration, with `COLUMNS`.
        out: the file with the table.
    """

    table: pd.DataFrame
    out: Path

    @property
    def failed(self) -> dict[str, str]:
        """Return the reason for each symbol that failed."""
        rows = self.table[self.table["outcome"] == FAILED]
        return dict(zip(rows["symbol"], rows["reason"], strict=True))


def run_fleet(config: FleetConfig, orders: Sequence[Order], on_symbol: Callable[[str, str], None]) -> Report:
    """Execute the orders and write the table.

    Args:
        config: the settings of the fleet.
        orders: the orders from `plan`.
        on_symbol: called with each symbol and its outcome, as it finishes.

    Raises:
        ConfigError, FleetError: the workers cannot be started, or the table cannot be written.
    """
    folder = orders[0].folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FleetError(f"{folder}: cannot be written ({error}); set fleet.folder") from error
    answers: dict[int, dict[str, Any]] = {}
    for result in EXECUTORS[config.on](config, [order.model_dump_json() for order in orders], folder):
        answer = _read(result, orders[result.number].symbol)
        answers[result.number] = answer
        on_symbol(answer["symbol"], answer["outcome"])
    table = pd.DataFrame([answers[number] for number in sorted(answers)], columns=list(COLUMNS))
    table = table.astype({"version": "Int64", "relative_mae": float, "coverage": float, "seconds": float})
    out = config.out or folder / "report.parquet"
    _write(table, out)
    return Report(table, out)


def _read(result: OrderResult, symbol: str) -> dict[str, Any]:
    if result.answer is None:
        return {"symbol": symbol, "outcome": FAILED, "reason": result.reason}
    answer: dict[str, Any] = json.loads(result.answer)
    return answer


def _write(table: pd.DataFrame, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(out) as draft:
            if out.suffix == ".csv":
                table.to_csv(draft, index=False)
            else:
                table.to_parquet(draft, index=False)
    except OSError as error:
        raise FleetError(f"{out}: the table cannot be written ({error}); free disk space, or set fleet.out") from error
