"""Detect jumps of scale in daily prices, such as a changed unit, a partly applied split or a row times a hundred.

A jump is a move from one close to the next that no dividend explains. It exceeds `MIN_JUMP` and `MOVE_DEVIATIONS`
standard deviations. If the open has already jumped, `GAP_DEVIATIONS` standard deviations are enough: a change of scale
moves the open too, a market move seldom does. A split never explains a jump, because prices are adjusted for splits.

Source of the limits: sixty years of daily closes. The largest daily moves of AAPL, AMZN, GOOG, KO, MSFT, SPY and TSLA
are ×1.24 and ÷1.27. The VIX has 26 moves beyond ×1.4, and none is a jump: the largest, ×2.16, is 14.8 standard
deviations.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.data.bars import CLOSE, DIVIDEND, OPEN, Bars
from forecaster.data.hold import MAX_DAYS_SHOWN, Hold
from forecaster.domain.series import Floats

# log ratios: no smaller move is a jump, and any move beyond `CERTAIN_JUMP` is; a series of nothing but jumps, whose
# standard deviation is huge, needs the latter
MIN_JUMP, CERTAIN_JUMP = np.log(1.4), np.log(5)
# in robust standard deviations of the log returns
MOVE_DEVIATIONS, GAP_DEVIATIONS = 15.0, 10.0
# fewer returns give no estimate of the standard deviation
MIN_RETURNS = 20
# tolerance, in log units, between a jump and the confirmed jump of the same day
_CONFIRMED_TOLERANCE = 0.1


@dataclass(frozen=True)
class Jump:
    """An unexplained move of the close."""

    day: str
    before: float
    after: float

    @property
    def move(self) -> float:
        """Return the log ratio of the close to the previous close."""
        return float(np.log(self.after / self.before))

    def __str__(self) -> str:
        times = f"×{self.after / self.before:.4g}" if self.after > self.before else f"÷{self.before / self.after:.4g}"
        return f"the close goes from {self.before:.6g} to {self.after:.6g} ({times}) on {self.day}"


def find_jumps(bars: Bars) -> list[Jump]:
    """Return the jumps in chronological order; a missing or non-positive price is left to the hard quality rules."""
    if len(bars) < 2:
        return []
    # object columns are converted too; the hard quality rules report what is not a number
    opened, close, dividend = (np.asarray(bars.frame[name], np.float64) for name in (OPEN, CLOSE, DIVIDEND))
    with np.errstate(all="ignore"):
        previous, dividends = close[:-1], dividend[1:]
        moves, gaps = (_unexplained(prices[1:], previous, dividends) for prices in (close, opened))
        deviation = robust_deviation(close)
        is_jump = moves > np.clip(MOVE_DEVIATIONS * deviation, MIN_JUMP, CERTAIN_JUMP)
        is_jump |= np.minimum(moves, gaps) > np.clip(GAP_DEVIATIONS * deviation, MIN_JUMP, CERTAIN_JUMP)
    days = bars.sessions
    return [Jump(str(days[at + 1]), float(close[at]), float(close[at + 1])) for at in np.flatnonzero(is_jump)]


def find_hold(bars: Bars) -> Hold | None:
    """Return the hold on bars with an unconfirmed jump, or None."""
    jumps = [jump for jump in find_jumps(bars) if not _is_confirmed(jump, bars)]
    if not jumps:
        return None
    more = f"; and {len(jumps) - MAX_DAYS_SHOWN} more" if len(jumps) > MAX_DAYS_SHOWN else ""
    return Hold(tuple(jump.day for jump in jumps), "; ".join(map(str, jumps[:MAX_DAYS_SHOWN])) + more)


def robust_deviation(close: Floats) -> float:
    """Return the robust standard deviation of the log returns of closes `(n,)`; 0 if there are too few."""
    with np.errstate(all="ignore"):
        returns = np.diff(np.log(close))
    returns = returns[np.isfinite(returns)]
    if len(returns) < MIN_RETURNS:
        return 0.0
    return float(1.4826 * np.median(np.abs(returns - np.median(returns))))


def _unexplained(prices: Floats, previous: Floats, dividends: Floats) -> Any:
    """Return the absolute log moves; a dividend can explain a move but never adds one."""
    moves = np.abs(np.log(prices / previous))
    with_dividends = np.abs(np.log((prices + dividends) / previous))
    sizes = np.where(dividends > 0, np.minimum(moves, with_dividends), moves)
    return np.where(np.isfinite(sizes), sizes, 0.0)


def _is_confirmed(jump: Jump, bars: Bars) -> bool:
    return abs(bars.confirmed.get(jump.day, np.inf) - jump.move) < _CONFIRMED_TOLERANCE
