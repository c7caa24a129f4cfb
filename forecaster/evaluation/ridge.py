"""Ridge regression in closed form, and the linear baseline: one for all series, on windows minus their last value."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from forecaster.domain.series import Floats

# relative to the mean square of the inputs
PENALTY = 1e-3


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


@dataclass(frozen=True)
class Moments:
    """The sums over windows that determine a ridge regression.

    Args:
        gram: the products of the inputs and a constant 1 with each other, `(inputs + 1, inputs + 1)`.
        cross: their products with the outputs, `(inputs + 1, outputs)`.
    """

    gram: Floats
    cross: Floats

    def solve(self, penalty: float = PENALTY) -> tuple[Floats, Floats]:
        """Return the weights `(inputs, outputs)` and the intercept `(outputs,)`.

        Args:
            penalty: relative to the mean square of the inputs, so that it is independent of their unit; the intercept
                is not penalized.

        Source: Hoerl & Kennard (1970), doi:10.1080/00401706.1970.10488634, equation 2.1.
        """
        diagonal = self.gram.diagonal()[:-1]
        shrink = penalty * float(diagonal.mean()) or 1.0
        solved = np.linalg.solve(self.gram + np.diag([*np.full(len(diagonal), shrink), 0.0]), self.cross)
        return np.asarray(solved[:-1], dtype=np.float64), np.asarray(solved[-1], dtype=np.float64)


def sum_moments(chunks: Iterable[tuple[Floats, Floats]]) -> Moments:
    """Return the moments of chunks of data, pairs of inputs `(n, inputs)` and outputs `(n, outputs)`."""
    gram: Floats = np.zeros(())
    cross: Floats = np.zeros(())
    for inputs, outputs in chunks:
        x = np.concatenate([inputs, np.ones_like(inputs[:, :1])], axis=1)
        gram = gram + x.T @ x
        cross = cross + x.T @ outputs
    return Moments(gram, cross)


def fit_ridge(chunks: Iterable[tuple[Floats, Floats]], penalty: float = PENALTY) -> Ridge:
    """Fit a ridge regression to chunks of data, all minus the last input.

    Args:
        chunks: pairs of raw inputs `(n, input_size)` and targets `(n, horizon)`.
        penalty: as in `Moments.solve`; it makes the weight of the last input, which is 0 after the subtraction, 0.
    """
    return Ridge(*sum_moments((x - x[:, -1:], y - x[:, -1:]) for x, y in chunks).solve(penalty))
