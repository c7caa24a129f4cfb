"""Rows before a series begins, in which all values are missing, for series that are shorter than a window."""

from dataclasses import replace

import numpy as np

from forecaster.domain.errors import SeriesError
from forecaster.domain.frequency import Step
from forecaster.domain.series import FIRST_TIME, Series


def pad_series(series: Series, rows: int, step: Step) -> Series:
    """Return series that begin `rows` rows earlier; their times continue backwards, and their values are missing.

    Args:
        series: without columns known ahead.
        rows: number of rows before each series.
        step: the step between timestamps.

    Raises:
        SeriesError: the rows begin before the first time that can be represented.
    """
    if rows == 0:
        return series
    earlier = np.full((rows, series.values.shape[1]), np.nan)
    values, times = [], []
    for name, within in series:
        own = series.timestamps[within]
        if step.before(own[0], rows)[0] > own[0]:
            raise SeriesError(
                f"series '{name}': {rows} rows before {own[0]} begin before {FIRST_TIME}; lower input_size, or raise "
                "least_rows"
            )
        values += [earlier, series.values[within]]
        times += [step.before(own[0], rows), own]
    return replace(
        series,
        values=np.concatenate(values),
        timestamps=np.concatenate(times),
        bounds=series.bounds + rows * np.arange(len(series) + 1),
    )
