"""The support of a target: the values that it can take, such as counts, which are whole numbers of 0 and above.

A forecast respects the support: no mean, quantile or bound lies below `at_least`, and the quantiles and bounds of an
integer target are integers. The mean of an integer target is not rounded: it is an expectation, and rounding a rate of
0.3 a day to 0 would forecast that nothing is ever sold.
"""

from typing import Any

import numpy as np
from pydantic import model_validator

from forecaster.domain.config import Config
from forecaster.domain.errors import SeriesError
from forecaster.domain.series import Floats

# an integer plus a rounding error stays this integer
_ROUNDING = 1e-6


class Support(Config):
    """The values that a target can take.

    Args:
        at_least: the least value; None if there is none.
        integer: whether all values are whole numbers.
    """

    at_least: float | None = None
    integer: bool = False

    @model_validator(mode="after")
    def _has_an_integer_bound(self) -> "Support":
        if self.integer and self.at_least is not None and not self.at_least.is_integer():
            raise ValueError(f"at_least must be a whole number if integer is true, got {self.at_least:g}")
        return self

    def check(self, values: Floats, where: str) -> None:
        """Raise SeriesError if a value of `(rows,)` lies outside the support."""
        found = self.find_outside(values)
        if found:
            (row,), reason = found
            raise SeriesError(f"{where}, row {row}: {values[row]:g} {reason}; correct the row, or change support")

    def find_outside(self, values: Floats) -> tuple[tuple[int, ...], str] | None:
        """Return the position of the first value outside the support, and the reason; None if all are inside."""
        if self.at_least is None and not self.integer:
            return None
        is_below = np.zeros(values.shape, bool) if self.at_least is None else values < self.at_least
        is_fraction = values % 1 > 0 if self.integer else np.zeros(values.shape, bool)
        outside = np.argwhere(is_below | is_fraction)
        if not len(outside):
            return None
        at = tuple(outside[0].tolist())
        return at, f"is below {self.at_least:g}, the least value" if is_below[at] else "is not a whole number"

    def bounded(self, values: Any) -> Any:
        """Return values, of any array API, with `at_least` in place of those below it."""
        if self.at_least is None:
            return values
        xp = values.__array_namespace__()
        least = xp.zeros_like(values) + self.at_least
        # a value that is not a number stays so
        return xp.where(least > values, least, values)

    @property
    def continuous(self) -> "Support":
        """Return the support without the restriction to integers."""
        return Support(at_least=self.at_least)

    def nearest(self, values: Floats) -> Floats:
        """Return the value of the support that is nearest to each value."""
        return np.asarray(self.bounded(np.rint(values) if self.integer else values))

    def quantiles(self, values: Floats, probabilities: Floats) -> Floats:
        """Return quantiles within the support, in the order in which they were.

        Integers are rounded outwards, so that no interval loses a value that it had; the median is rounded to the
        nearest integer.

        Args:
            values: quantiles `(…, n_probabilities)`.
            probabilities: 0–1, broadcast against `values`.
        """
        if self.integer:
            down, up = np.floor(values + _ROUNDING), np.ceil(values - _ROUNDING)
            is_median = np.abs(probabilities - 0.5) < 1e-9
            values = np.where(is_median, np.rint(values), np.where(probabilities < 0.5, down, up))
        return np.asarray(self.bounded(values))


EVERYTHING = Support()
