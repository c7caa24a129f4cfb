"""Jumps of scale: a unit that changes in mid-series, a split applied to a part of it, a row times a hundred.

A jump is a move of the close from one session to the next that no dividend explains, of more than `LEAST`, and of more
than `USUAL_MOVES` usual ones; the smaller `USUAL_GAPS` suffices where the open has jumped already, as it does when the
scale changes and seldom when the market moves. A split explains nothing: prices are adjusted for splits.

Source of the limits: sixty years of daily closes. The largest moves of AAPL, AMZN, GOOG, KO, MSFT, SPY and TSLA are
×1.24 and ÷1.27 in a day. The VIX has 26 beyond ×1.4, none of which is a jump: the largest, ×2.16, is 14.8 usual ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.data.bars import CLOSE, DIVIDEND, OPEN, Bars
from forecaster.data.hold import SHOWN, Hold
from forecaster.domain.series import Floats

# logs of ratios; what is beyond `MOST` is a jump whatever is usual, or a series of nothing but jumps would have none
LEAST, MOST = np.log(1.4), np.log(5)
# in units of a normal's standard deviation
USUAL_MOVES, USUAL_GAPS = 15.0, 10.0
# with fewer returns nobody knows what is usual
FEWEST = 20
# how far a jump may be, in logs, from the one that was confirmed on its day
_SAME = 0.1


@dataclass(frozen=True)
class Jump:
    """A move of the close that nothing explains."""

    day: str
    before: float
    after: float

    @property
    def move(self) -> float:
        """Return the log of close over the close before it."""
        return float(np.log(self.after / self.before))

    def __str__(self) -> str:
        times = f"×{self.after / self.before:.4g}" if self.after > self.before else f"÷{self.before / self.after:.4g}"
        return f"the close goes from {self.before:.6g} to {self.after:.6g} ({times}) on {self.day}"


def find_jumps(bars: Bars) -> list[Jump]:
    """Return the jumps, in order of time; none at a price that is no number above 0, which the hard rules refuse."""
    if len(bars) < 2:
        return []
    # from objects too: what is no number is for the hard rules
    opened, close, dividend = (np.asarray(bars.frame[name], np.float64) for name in (OPEN, CLOSE, DIVIDEND))
    with np.errstate(all="ignore"):
        previous, dividends = close[:-1], dividend[1:]
        moves, gaps = (_unexplained(prices[1:], previous, dividends) for prices in (close, opened))
        usual = usual_move(close)
        is_jump = moves > np.clip(USUAL_MOVES * usual, LEAST, MOST)
        is_jump |= np.minimum(moves, gaps) > np.clip(USUAL_GAPS * usual, LEAST, MOST)
    days = bars.sessions
    return [Jump(str(days[at + 1]), float(close[at]), float(close[at + 1])) for at in np.flatnonzero(is_jump)]


def hold_of(bars: Bars) -> Hold | None:
    """Return the hold on bars whose jumps are not all confirmed."""
    jumps = [jump for jump in find_jumps(bars) if not _is_confirmed(jump, bars)]
    if not jumps:
        return None
    more = f"; and {len(jumps) - SHOWN} more" if len(jumps) > SHOWN else ""
    return Hold(tuple(jump.day for jump in jumps), "; ".join(map(str, jumps[:SHOWN])) + more)


def usual_move(close: Floats) -> float:
    """Return the robust standard deviation of the log-returns of closes `(n,)`; 0 where they are too few to tell."""
    with np.errstate(all="ignore"):
        returns = np.diff(np.log(close))
    returns = returns[np.isfinite(returns)]
    if len(returns) < FEWEST:
        return 0.0
    return float(1.4826 * np.median(np.abs(returns - np.median(returns))))


def _unexplained(prices: Floats, previous: Floats, dividends: Floats) -> Any:
    """Return the size of the moves in logs; a dividend may explain one and never makes one."""
    moves = np.abs(np.log(prices / previous))
    with_dividends = np.abs(np.log((prices + dividends) / previous))
    sizes = np.where(dividends > 0, np.minimum(moves, with_dividends), moves)
    return np.where(np.isfinite(sizes), sizes, 0.0)


def _is_confirmed(jump: Jump, bars: Bars) -> bool:
    return abs(bars.confirmed.get(jump.day, np.inf) - jump.move) < _SAME
