"""What every benchmark ends with: a table for people, and one JSON object as the last line for machines."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from forecaster.training.tracking import git_revision


@dataclass(frozen=True)
class Row:
    """One figure; `bar` is the most that it may be, None for a figure that only informs."""

    name: str
    value: float
    bar: float | None
    unit: str

    @property
    def met(self) -> bool | None:
        """Say whether the bar is met; None without one."""
        return None if self.bar is None else self.value <= self.bar


def report(rows: Sequence[Row]) -> None:
    """Print `rows` as a table and, as the last line, as JSON with the machine and the revision."""
    width = max(len(row.name) for row in rows)
    verdicts = {True: "met", False: "MISSED", None: ""}
    sys.stdout.write(f"{'':{width}}  {'value':>10}  {'bar':>8}  unit\n")
    for row in rows:
        bar = "" if row.bar is None else f"{row.bar:.4g}"
        sys.stdout.write(f"{row.name:{width}}  {row.value:>10.4g}  {bar:>8}  {row.unit:8} {verdicts[row.met]}\n")
    result = {
        "rows": [asdict(row) | {"met": row.met} for row in rows],
        "machine": machine(),
        "revision": git_revision(),
    }
    sys.stdout.write(json.dumps(result) + "\n")


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
