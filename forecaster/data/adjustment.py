"""Adjusted prices: a later dividend multiplies every earlier price by one factor, and which transforms cancel it.

A window of adjusted prices therefore tells of dividends that were paid after it, unless what the network sees and what
it answers for do not depend on the factor.
"""

import numpy as np

from forecaster.data.transforms import Chain
from forecaster.domain.series import Floats

_WINDOWS, _STEPS, _HORIZON = 16, 24, 4
# a year's dividends, and a century's
_FACTORS = (0.97, 0.05)


def cancels_factor(chain: Chain) -> bool:
    """Say whether a factor on a window leaves the network's inputs as they are, and multiplies its forecast.

    Asked of the transforms themselves, fitted on made-up prices.
    """
    random = np.random.default_rng(0)
    prices = 100 * np.exp(np.cumsum(random.normal(0, 0.02, (_WINDOWS, _STEPS)), axis=1))
    fitted, outputs = chain.fit(lambda: [prices]), random.normal(size=(_WINDOWS, _HORIZON))
    inputs, forecasts = _through(fitted, prices, outputs)
    for factor in _FACTORS:
        others, forecast = _through(fitted, factor * prices, outputs)
        if not np.allclose(inputs, others, atol=1e-6) or not np.allclose(factor * forecasts, forecast, rtol=1e-6):
            return False
    return True


def _through(chain: Chain, prices: Floats, outputs: Floats) -> tuple[Floats, Floats]:
    """Return what the network would see of some prices, and its outputs as prices."""
    inputs, contexts = chain.forward(prices)
    return inputs, chain.inverse(outputs, chain.last_contexts(contexts))
