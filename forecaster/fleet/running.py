"""A fleet from its orders to its table."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from forecaster.domain.errors import FleetError
from forecaster.domain.files import write_atomically
from forecaster.fleet.on_processes import in_processes
from forecaster.fleet.on_ray import on_ray
from forecaster.fleet.plan import Ended, FleetConfig, Order
from forecaster.fleet.work import FAILED

# where workers are: takes the configuration, the orders as JSON and a folder for logs, and yields each order's end
Executor = Callable[[FleetConfig, Sequence[str], Path], Iterator[Ended]]
EXECUTORS: dict[str, Executor] = {"processes": in_processes, "ray": on_ray}
COLUMNS = ("symbol", "outcome", "version", "relative_mae", "coverage", "seconds", "reason")


@dataclass(frozen=True)
class Report:
    """What became of each symbol.

    Args:
        table: a row for each, in the order of the configuration; `COLUMNS`.
        out: the file that holds it.
    """

    table: pd.DataFrame
    out: Path

    @property
    def failed(self) -> dict[str, str]:
        """Return the reason of each symbol that failed."""
        rows = self.table[self.table["outcome"] == FAILED]
        return dict(zip(rows["symbol"], rows["reason"], strict=True))


def run_fleet(config: FleetConfig, orders: Sequence[Order], on_symbol: Callable[[str, str], None]) -> Report:
    """Carry out the orders and write the table.

    Args:
        config: where and by how many workers.
        orders: as `plan` makes them.
        on_symbol: told of each symbol and its outcome, as it comes.

    Raises:
        ConfigError, FleetError: nothing can be carried out, or the table cannot be written.
    """
    folder = orders[0].folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FleetError(f"{folder}: cannot be written ({error}); set fleet.folder") from error
    answers: dict[int, dict[str, Any]] = {}
    for ended in EXECUTORS[config.on](config, [order.model_dump_json() for order in orders], folder):
        answer = _read(ended, orders[ended.number].symbol)
        answers[ended.number] = answer
        on_symbol(answer["symbol"], answer["outcome"])
    table = pd.DataFrame([answers[number] for number in sorted(answers)], columns=list(COLUMNS))
    table = table.astype({"version": "Int64", "relative_mae": float, "coverage": float, "seconds": float})
    out = config.out or folder / "report.parquet"
    _write(table, out)
    return Report(table, out)


def _read(ended: Ended, symbol: str) -> dict[str, Any]:
    if ended.answer is None:
        return {"symbol": symbol, "outcome": FAILED, "reason": ended.reason}
    answer: dict[str, Any] = json.loads(ended.answer)
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
        raise FleetError(f"{out}: the table cannot be written ({error}); free space, or set fleet.out") from error
