"""Features of bars, for `hist_exog`: one function for training from the store and for serving from its tails.

numpy only, as serving needs it. A new feature is an entry in `FEATURES`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from forecaster.domain.errors import ConfigError
from forecaster.domain.series import Floats

Columns = Mapping[str, Floats]

FEATURES: dict[str, Callable[[Columns], Floats]] = {
    "open": lambda bars: bars["open"],
    "high": lambda bars: bars["high"],
    "low": lambda bars: bars["low"],
    "volume": lambda bars: bars["volume"],
    # log-ratios within a day, which need no level: from open to close, from low to high
    "return_within": lambda bars: np.log(bars["close"] / bars["open"]),
    "range_within": lambda bars: np.log(bars["high"] / bars["low"]),
}


def is_price(name: str) -> bool:
    """Say whether a feature of bars is multiplied with their prices, and so carries their adjustment."""
    values = {"open": 1.0, "high": 4.0, "low": 0.5, "close": 2.0, "volume": 3.0}
    bars = {column: np.array([value]) for column, value in values.items()}
    twice = {column: one if column == "volume" else 2 * one for column, one in bars.items()}
    return not np.array_equal(bar_feature(name, bars), bar_feature(name, twice))


def bar_feature(name: str, bars: Columns) -> Floats:
    """Return a feature `(n,)` of adjusted bars, whose columns are `open, high, low, close, volume`, `(n,)` each.

    Raises:
        ConfigError: there is no such feature.
    """
    if name not in FEATURES:
        raise ConfigError(f"hist_exog: bars have no feature '{name}'; choose from {list(FEATURES)}")
    return np.asarray(FEATURES[name](bars))
