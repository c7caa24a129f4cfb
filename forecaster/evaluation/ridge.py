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


def fit_ridge(chunks: Iterable[tuple[Floats, Floats]], penalty: float = PENALTY) -> Ridge:
    """Fit a ridge regression to chunks of data, all minus the last input.

    Args:
        chunks: pairs of raw inputs `(n, input_size)` and targets `(n, horizon)`.
        penalty: as in `solve_ridge`; it makes the weight of the last input, which is 0 after the subtraction, 0.
    """
    return Ridge(*solve_ridge(((x - x[:, -1:], y - x[:, -1:]) for x, y in chunks), penalty))


def solve_ridge(chunks: Iterable[tuple[Floats, Floats]], penalty: float = PENALTY) -> tuple[Floats, Floats]:
    """Return the weights `(inputs, outputs)` and the intercept `(outputs,)` of a ridge regression, in bounded memory.

    Args:
        chunks: pairs of inputs `(n, inputs)` and outputs `(n, outputs)`.
        penalty: relative to the mean square of the inputs, so that it is independent of their unit; the intercept is
            not penalized.

    Source: Hoerl & Kennard (1970), doi:10.1080/00401706.1970.10488634, equation 2.1.
    """
    gram: Floats = np.zeros(())
    moments: Floats = np.zeros(())
    for inputs, outputs in chunks:
        x = np.concatenate([inputs, np.ones_like(inputs[:, :1])], axis=1)
        gram = gram + x.T @ x
        moments = moments + x.T @ outputs
    diagonal = gram.diagonal()[:-1]
    shrink = penalty * float(diagonal.mean()) or 1.0
    solved = np.linalg.solve(gram + np.diag([*np.full(len(diagonal), shrink), 0.0]), moments)
    return np.asarray(solved[:-1], dtype=np.float64), np.asarray(solved[-1], dtype=np.float64)
