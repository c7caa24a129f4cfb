"""The linear baseline: one ridge regression for all series, on windows minus their last value, in closed form."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from forecaster.domain.series import Floats


@dataclass(frozen=True)
class Ridge:
    """A fitted linear map from windows to horizons.

    Args:
        weights: `(input_size, horizon)`, for inputs minus their last value.
        intercept: `(horizon,)`.
    """

    weights: Floats
    intercept: Floats

    def predict(self, inputs: Floats) -> Floats:
        """Return forecasts `(n, horizon)` of windows `(n, input_size)`."""
        last = inputs[:, -1:]
        return np.asarray(last + (inputs - last) @ self.weights + self.intercept)


def fit_ridge(chunks: Iterable[tuple[Floats, Floats]], penalty: float = 1e-3) -> Ridge:
    """Fit a ridge regression to chunks of data, so that memory is bounded.

    Args:
        chunks: pairs of raw inputs `(n, input_size)` and targets `(n, horizon)`.
        penalty: relative to the mean square of the inputs, so that it is independent of their unit; the intercept is
            not penalized.

    Source: Hoerl & Kennard (1970), doi:10.1080/00401706.1970.10488634, equation 2.1.
    """
    gram: Floats = np.zeros(())
    moments: Floats = np.zeros(())
    for inputs, targets in chunks:
        last = inputs[:, -1:]
        x = np.concatenate([inputs - last, np.ones_like(last)], axis=1)
        gram = gram + x.T @ x
        moments = moments + x.T @ (targets - last)
    diagonal = gram.diagonal()[:-1]
    shrink = penalty * float(diagonal.mean()) or 1.0
    # the last input minus itself is 0, so the penalty makes its weight 0
    solved = np.linalg.solve(gram + np.diag([*np.full(len(diagonal), shrink), 0.0]), moments)
    return Ridge(np.asarray(solved[:-1], dtype=np.float64), np.asarray(solved[-1], dtype=np.float64))
