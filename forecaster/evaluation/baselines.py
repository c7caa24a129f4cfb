"""Naive forecasts that every model must be compared with. A new baseline is one entry in `BASELINES`."""

from collections.abc import Callable

import numpy as np

from forecaster.domain.series import Floats

Baseline = Callable[[Floats, int], Floats]


def last_value(inputs: Floats, horizon: int) -> Floats:
    """Repeat the last known value: `(n, input_size) → (n, horizon)`, same unit, a read-only view.

    Source: Hyndman & Athanasopoulos (2021), Forecasting: Principles and Practice, 5.2 (naive method).
    """
    return np.broadcast_to(inputs[:, -1:], (len(inputs), horizon))


BASELINES: dict[str, Baseline] = {"naive": last_value}
