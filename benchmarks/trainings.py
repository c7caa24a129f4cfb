"""Trainings on data sets of papers: what each yields, the rows of the table, and the ridge regression beside them."""

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from benchmarks.report import Row
from forecaster.data.windows import Windows
from forecaster.domain.series import Floats
from forecaster.evaluation.ridge import fit_ridge

E = TypeVar("E")


@dataclass(frozen=True)
class Result(Generic[E]):
    """What a training yields.

    Args:
        validation: its errors on the validation part.
        test: its errors on the test part.
        seconds: the time of its fits.
        memory: the peak of its process's memory in MiB, which a process that trains several times keeps.
    """

    validation: E
    test: E
    seconds: float
    memory: float


def used_memory() -> float:
    """Return the largest memory that this process has used, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows_of(
    results: Sequence[Result[E]], bars: Mapping[str, float | None], seconds: float | None, prefix: str = ""
) -> list[Row]:
    """Return the rows of trainings with several seeds.

    Args:
        results: of each seed.
        bars: by the name of an error, the largest one allowed on the test part.
        seconds: the longest training allowed.
        prefix: what each row's name begins with.
    """
    rows = []
    for part in ("validation", "test"):
        for name, most in bars.items():
            values = [getattr(getattr(result, part), name) for result in results]
            bar = most if part == "test" else None
            rows.append(Row.of_runs(f"{prefix}{part}, {name.upper()}", values, bar, ""))
    rows.append(Row.of_runs(f"{prefix}training", [result.seconds for result in results], seconds, "s"))
    rows.append(Row.of_runs(f"{prefix}memory", [result.memory for result in results], None, "MiB"))
    return rows


def ridge_forecast(train: Windows, test: Windows) -> Floats:
    """Return the forecasts `(n, horizon)` of a ridge regression for all series, fitted on `train`."""
    fitted = fit_ridge((train.inputs(index).target, train.targets(index)) for index in train.chunks(4096))
    return fitted.predict(test.inputs().target)
