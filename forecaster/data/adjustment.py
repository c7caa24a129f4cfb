"""Leakage through adjusted prices: a later dividend multiplies every earlier price by a factor.

A window of adjusted prices therefore leaks later dividends, unless the transforms cancel the factor: the network's
inputs must not depend on it, and the forecast must be proportional to it.
"""

import numpy as np

from forecaster.data.transforms import Chain
from forecaster.domain.series import Floats

_WINDOWS, _STEPS, _HORIZON = 16, 24, 4
# the dividends of a year and of a century
_FACTORS = (0.97, 0.05)


def cancels_factor(chain: Chain) -> bool:
    """Whether multiplying a window by a factor leaves the inputs unchanged and multiplies the forecast.

    The transforms are fitted on synthetic prices and tested.
    """
    random = np.random.default_rng(0)
    prices = 100 * np.exp(np.cumsum(random.normal(0, 0.02, (_WINDOWS, _STEPS)), axis=1))
    fitted, outputs = chain.fit(lambda: [prices]), random.normal(size=(_WINDOWS, _HORIZON))
    inputs, forecast = _apply(fitted, prices, outputs)
    for factor in _FACTORS:
        scaled_inputs, scaled_forecast = _apply(fitted, factor * prices, outputs)
        if not np.allclose(inputs, scaled_inputs, atol=1e-6):
            return False
        if not np.allclose(factor * forecast, scaled_forecast, rtol=1e-6):
            return False
    return True


def _apply(chain: Chain, prices: Floats, outputs: Floats) -> tuple[Floats, Floats]:
    """Return the network's inputs for these prices, and its outputs converted to prices."""
    inputs, contexts = chain.forward(prices)
    return inputs, chain.inverse(outputs, chain.last_contexts(contexts))
