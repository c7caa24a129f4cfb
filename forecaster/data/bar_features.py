"""Features of bars for `hist_exog`, shared by training from the store and serving from its tails.

Needs only numpy, because the serving process imports it. To add a feature, add an entry to `FEATURES`.
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
    # log ratios within a session, which are independent of the price level
    "return_within": lambda bars: np.log(bars["close"] / bars["open"]),
    "range_within": lambda bars: np.log(bars["high"] / bars["low"]),
}


def is_price(name: str) -> bool:
    """Whether a feature scales with the prices, and so contains their adjustment."""
    values = {"open": 1.0, "high": 4.0, "low": 0.5, "close": 2.0, "volume": 3.0}
    bars = {name: np.array([value]) for name, value in values.items()}
    doubled = {name: column if name == "volume" else 2 * column for name, column in bars.items()}
    return not np.array_equal(bar_feature(name, bars), bar_feature(name, doubled))


def bar_feature(name: str, bars: Columns) -> Floats:
    """Return a feature `(n,)` of adjusted bars with the columns `open, high, low, close, volume`, `(n,)` each.

    Raises:
        ConfigError: the feature is unknown.
    """
    if name not in FEATURES:
        raise ConfigError(f"hist_exog: bars have no feature '{name}'; choose from {list(FEATURES)}")
    return np.asarray(FEATURES[name](bars))
