"""What every benchmark ends with: a table for people, one JSON object as the last line for machines, an exit status."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from forecaster.domain.exits import FAILED, SUCCESS
from forecaster.training.tracking import git_revision


@dataclass(frozen=True)
class Row:
    """A figure of a benchmark.

    Args:
        name: what was measured.
        value: the figure; of several runs their median.
        bar: the most that it may be, or the least; None for a figure that only informs.
        unit: of the value and the bar.
        is_least: whether the bar is the least.
        extremes: the lowest and the highest of several runs.
    """

    name: str
    value: float
    bar: float | None
    unit: str
    is_least: bool = False
    extremes: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        """Say whether the bar is met; None without one."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.is_least else self.value <= self.bar


def report(rows: Sequence[Row]) -> int:
    """Print `rows` as a table and, as the last line, as JSON with the machine and the revision.

    Returns:
        the exit status: 1 if a bar is missed, else 0.
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
    """Return what the figures depend on."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
