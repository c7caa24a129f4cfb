"""How each step of a forecast depends on each value of its window: gradients of the served graph.

A gradient is measured, not derived: each value is moved up and down by two distances, and all moved windows are
forecast as one batch. So it describes what is served, transforms included, and needs no training library.

Source: Richardson (1911), doi:10.1098/rsta.1911.0009, for the extrapolation from two distances.
"""

from collections.abc import Callable, Sequence

import numpy as np

from forecaster.domain.missing import carried
from forecaster.domain.series import Floats

# relative to a column's range. A longer step has a greater truncation error, a shorter step a greater rounding error of
# the graph, which computes in float32
_STEP = 0.02
# a value that must stay above another moves by at most this share of its distance to it
_MAX_SHARE = 0.1


def gradients(forecast: Callable[[Floats], Floats], window: Floats, *, above: Sequence[float | None] = ()) -> Floats:
    """Return the derivatives of a window's mean forecasts, `(horizon, input_size, 1 + hist_exog)`.

    A missing value has no derivative: it is NaN.

    Args:
        forecast: returns the means `(n, horizon)` of windows `(n, input_size, 1 + hist_exog)`.
        window: raw values, the target first, `(input_size, 1 + hist_exog)`; NaN where they are missing.
        above: by column, what its values must stay above; None if they may be anything.
    """
    distances = _distances(carried(window.T).T, above)
    moves = np.eye(window.size).reshape(window.size, *window.shape) * distances
    moved = np.concatenate([window + factor * moves for factor in (1, -1, 0.5, -0.5)])
    up, down, half_up, half_down = np.split(forecast(moved), 4)
    # the error of each difference grows with the square of its distance
    whole, half = up - down, 2 * (half_up - half_down)
    slopes = (4 * half - whole) / 3 / (2 * distances.reshape(-1, 1))
    return np.where(np.isnan(window), np.nan, slopes.T.reshape(-1, *window.shape))


def _distances(window: Floats, above: Sequence[float | None]) -> Floats:
    """Return how far each value is moved, `(input_size, 1 + hist_exog)`."""
    ranges, sizes = np.ptp(window, axis=0), np.abs(window).max(axis=0)
    scales = np.where(ranges > 1e-9 * sizes, ranges, np.where(sizes > 0, sizes, 1.0))
    distances = np.broadcast_to(_STEP * scales, window.shape).copy()
    for number, least in enumerate(above):
        if least is not None:
            distances[:, number] = np.minimum(distances[:, number], _MAX_SHARE * (window[:, number] - least))
    return distances
