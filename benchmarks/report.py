"""The output of every benchmark: a table, a JSON object as the last line, and an exit status."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from forecaster.domain.cores import usable_cores
from forecaster.domain.exits import FAILED, SUCCESS
from forecaster.training.tracking import git_revision


@dataclass(frozen=True)
class Row:
    """A measurement of a benchmark.

    Args:
        name: what was measured.
        value: the measured value; the median of several runs.
        bar: the highest (or lowest) value allowed; None if there is no limit.
        unit: the unit of the value and the bar.
        is_least: whether the bar is the lowest value allowed.
        extremes: the lowest and the highest value of several runs.
    """

    name: str
    value: float
    bar: float | None
    unit: str
    is_least: bool = False
    extremes: tuple[float, float] | None = None

    @classmethod
    def of_runs(
        cls, name: str, values: Sequence[float], bar: float | None, unit: str, *, is_least: bool = False
    ) -> "Row":
        """Return the median of several runs, with the lowest and the highest value."""
        return cls(name, statistics.median(values), bar, unit, is_least, (min(values), max(values)))

    @property
    def met(self) -> bool | None:
        """Return whether the bar is met; None if there is no bar."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.is_least else self.value <= self.bar


def report(rows: Sequence[Row]) -> int:
    """Print `rows` as a table, then as JSON with the machine and the git revision.

    Returns:
        The exit status: 1 if a bar is missed, else 0.
    """
    width = max(len(row.name) for row in rows)
    verdicts = {True: "met", False: "MISSED", None: ""}
    sys.stdout.write(f"{'':{width}}  {'value':>10}  {'min to max':>22}  {'bar':>10}  unit\n")
    for row in rows:
        bar = "" if row.bar is None else f"{'>=' if row.is_least else '<='} {row.bar:.4g}"
        spread = "{:.4g} to {:.4g}".format(*row.extremes) if row.extremes else ""
        line = f"{row.name:{width}}  {row.value:>10.4g}  {spread:>22}  {bar:>10}  {row.unit:12} {verdicts[row.met]}"
        sys.stdout.write(line.rstrip() + "\n")
    result = {
        "rows": [asdict(row) | {"met": row.met} for row in rows],
        "machine": machine(),
        "revision": git_revision(),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    missed = [row.name for row in rows if row.met is False]
    if missed:
        sys.stderr.write(f"missed: {'; '.join(missed)}\n")
    return FAILED if missed else SUCCESS


def machine() -> dict[str, Any]:
    """Return the properties of the machine that the measurements depend on."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": usable_cores(),
        "load_average": round(os.getloadavg()[0], 1),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
