"""Rows before a series begins, in which all values are missing, for series that are shorter than a window."""

from dataclasses import replace

import numpy as np

from forecaster.domain.frequency import Step
from forecaster.domain.series import Series


def pad_series(series: Series, rows: int, step: Step) -> Series:
    """Return series that begin `rows` rows earlier; their times continue backwards, and their values are missing.

    Args:
        series: without columns known ahead.
        rows: number of rows before each series.
        step: the step between timestamps.
    """
    if rows == 0:
        return series
    earlier = np.full((rows, series.values.shape[1]), np.nan)
    values, times = [], []
    for _, within in series:
        own = series.timestamps[within]
        values += [earlier, series.values[within]]
        times += [step.before(own[0], rows), own]
    return replace(
        series,
        values=np.concatenate(values),
        timestamps=np.concatenate(times),
        bounds=series.bounds + rows * np.arange(len(series) + 1),
    )
