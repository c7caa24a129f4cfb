"""Find the season of series: the number of rows after which they repeat."""

from collections.abc import Sequence

import numpy as np

from forecaster.domain.frequency import Frequency
from forecaster.domain.missing import carried
from forecaster.domain.series import Floats
from forecaster.evaluation.baselines import seasonal_naive

_DAY = 86_400
# the seconds of a step of each unit that has a fixed length
_SECONDS = {"s": 1, "min": 60, "h": 3600, "D": _DAY}
# the seasons of a series in seconds: an hour, a day, a week
_CYCLES = (3600, _DAY, 7 * _DAY)
# peaks of the autocorrelation that are tried, the highest first
_MOST_PEAKS = 5
# errors that count as equal, relative to each other
_NEARLY = 1.02
# rows at the end of a series in which seasons are sought
_MOST_ROWS = 20_000


def natural_seasons(frequency: Frequency) -> tuple[int, ...]:
    """Return the calendar's seasons in steps of a frequency, the shortest first: of hours, 24 and 168."""
    if frequency.unit == "B":
        return (5,) if frequency.count == 1 else ()
    if frequency.unit in ("MS", "ME"):
        return (12 // frequency.count,) if 12 % frequency.count == 0 and frequency.count < 12 else ()
    step = _SECONDS[frequency.unit] * frequency.count
    found = [cycle // step for cycle in _CYCLES if cycle % step == 0 and cycle >= 2 * step]
    # a year of weeks and of days
    return (*found, *([round(365.25 * _DAY / step)] if step >= _DAY else []))


def find_season(windows: Floats, targets: Floats, series: Sequence[Floats], natural: Sequence[int]) -> int | None:
    """Return the season with which the seasonal naive forecast is best; None if nothing repeats within a window.

    Tried are the natural seasons and the highest peaks of the autocorrelation. A series need not have the season that
    is found: the last value may be a better forecast.

    Args:
        windows: inputs, `(n, input_size)`.
        targets: what followed them, `(n, horizon)`.
        series: the rows of each series.
        natural: seasons to try.
    """
    known, horizon = carried(windows), targets.shape[1]
    shorter = {season for season in natural if 2 <= season < windows.shape[1]}
    tried = sorted(shorter | set(_peaks(series, windows.shape[1] - 1)))
    errors = [float(np.nanmean(np.abs(targets - seasonal_naive(known, horizon, season)))) for season in tried]
    # twice the season forecasts as well; the shortest is meant
    return next((season for season, error in zip(tried, errors, strict=True) if error <= _NEARLY * min(errors)), None)


def _peaks(series: Sequence[Floats], longest: int) -> list[int]:
    """Return the lags of the highest peaks of the mean autocorrelation, at most `longest`."""
    found = [autocorrelation(rows[-_MOST_ROWS:], longest + 1) for rows in series if len(rows) > 2 * longest]
    if not found:
        return []
    mean = np.mean(found, axis=0)
    inner = mean[1:-1]
    lags = np.flatnonzero((inner > mean[:-2]) & (inner >= mean[2:]) & (inner > 0)) + 1
    best = lags[np.argsort(-mean[lags], kind="stable")][:_MOST_PEAKS]
    return [int(lag) for lag in best if lag >= 2]


def autocorrelation(rows: Floats, lags: int) -> Floats:
    """Return the autocorrelation of a series without its linear trend at lags 0 to `lags`, `(lags + 1,)`.

    Missing values count as the trend. Without more than a trend, all are 0. Source: Box & Jenkins (1976), Time Series
    Analysis, 2.1.5.
    """
    time = np.arange(len(rows), dtype=np.float64)
    is_observed = ~np.isnan(rows)
    trend = np.polynomial.Polynomial.fit(time[is_observed], rows[is_observed], 1)
    centred = np.where(is_observed, rows - trend(time), 0.0)
    size = 2 ** int(np.ceil(np.log2(2 * len(rows))))
    spectrum = np.abs(np.fft.rfft(centred, size)) ** 2
    covariance = np.fft.irfft(spectrum, size)[: lags + 1]
    # a trend alone leaves rounding errors
    is_flat = np.abs(centred).max() <= 1e-9 * np.nanmax(np.abs(rows))
    return np.zeros(lags + 1) if is_flat else np.asarray(covariance / covariance[0])
