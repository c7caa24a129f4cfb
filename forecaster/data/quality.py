"""What prices must and should be: hard rules reject, soft rules flag, nothing is ever filled in.

A rule is a function of bars and the sessions that there should be, returning the days that break it and why. A new one
is an entry in `ROWS` or `SERIES`, which are hard, or in `SOFT`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecaster.data.bars import ADJUSTED_CLOSE, CLOSE, COLUMNS, DIVIDEND, HIGH, LOW, OPEN, PRICES, SPLIT, Bars
from forecaster.data.jumps import MAX_USUAL_JUMP, MIN_JUMP, USUAL_MOVES, usual_move
from forecaster.domain.errors import QualityError
from forecaster.domain.series import Floats, Times

# in units of 1.4826 times the median absolute deviation, which is a normal's standard deviation
OUTLIER_Z = 15.0
STALE_DAYS = 5
# how far our adjusted close may be from the source's, beside what rounding explains
ADJUSTED_ALIKE = 1e-6
_TOLERANCE = 1e-4
# the log of the least ratio of a split that no usual return is as large as
_LEAST_SPLIT = np.log(1.2)
Rule = Callable[[Bars, Times], tuple[Times, str]]


@dataclass(frozen=True)
class Issue:
    """A rule that some days break."""

    rule: str
    is_hard: bool
    days: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        shown = ", ".join(self.days[:3]) + (", …" if len(self.days) > 3 else "")
        return f"{self.rule}: {self.message} ({len(self.days)}: {shown})"


@dataclass(frozen=True)
class Report:
    """What was found in a symbol's bars."""

    symbol: str
    issues: tuple[Issue, ...]

    def refuse(self) -> None:
        """Raise QualityError if a hard rule is broken."""
        hard = [str(issue) for issue in self.issues if issue.is_hard]
        if hard:
            raise QualityError(self.symbol, "; ".join(hard) + "; nothing was stored: try later, or another source")


def check(bars: Bars, expected: Times) -> Report:
    """Return what is wrong with `bars`, given the sessions `(n,)` that its exchange had in their range.

    A hold on them is told too, as if it were a soft rule.
    """
    # each kind computes with what the kinds before it have found to be right
    for rules, is_hard in ((ROWS, True), (SERIES, True), (SOFT, False)):
        issues = tuple(_apply(rules, bars, expected, is_hard=is_hard))
        if issues:
            break
    held = (Issue("held", False, bars.held.days, bars.held.seen),) if bars.held else ()
    return Report(bars.symbol, held + issues)


def check_rows(bars: Bars) -> Report:
    """Return which rows are wrong by themselves, or beside the row before them."""
    return Report(bars.symbol, tuple(_apply(ROWS, bars, bars.sessions, is_hard=True)))


def _apply(rules: dict[str, Rule], bars: Bars, expected: Times, *, is_hard: bool) -> Iterator[Issue]:
    for name, rule in rules.items():
        days, message = rule(bars, expected)
        if len(days):
            yield Issue(name, is_hard, tuple(str(day) for day in days), message)


def _bad_price(bars: Bars, expected: Times) -> tuple[Times, str]:
    prices = bars.frame[[*PRICES, ADJUSTED_CLOSE]].to_numpy()
    return bars.sessions[
        ~(np.isfinite(prices) & (prices > 0)).all(axis=1)
    ], "a price is missing, infinite or not above 0"


def _bad_number(bars: Bars, expected: Times) -> tuple[Times, str]:
    others = bars.frame[[name for name in COLUMNS if name not in PRICES]].to_numpy()
    return bars.sessions[
        ~(np.isfinite(others) & (others >= 0)).all(axis=1)
    ], "a volume, dividend or split is not a number"


def _out_of_order(bars: Bars, expected: Times) -> tuple[Times, str]:
    wrong = np.flatnonzero(np.diff(bars.sessions) <= np.timedelta64(0, "D")) + 1
    return bars.sessions[wrong], "a date is repeated or earlier than the one before it"


def _split_not_applied(bars: Bars, expected: Times) -> tuple[Times, str]:
    splits = np.flatnonzero((bars.frame[SPLIT] > 0) & (bars.frame[SPLIT] != 1))
    splits = splits[splits > 0]
    close, ratios = bars.frame[CLOSE].to_numpy(), bars.frame[SPLIT].to_numpy()[splits]
    # a price that is no number breaks another rule
    with np.errstate(all="ignore"):
        moves = np.abs(np.log(close[splits] / close[splits - 1]))
        without = np.abs(np.log(close[splits] / close[splits - 1] * ratios))
    # adjusted prices move by a day's return across a split, unadjusted ones by the split, and next to nothing without
    # it. A return may be as large as a split of 21:20: those show in the source's adjusted close, or not at all
    wrong = (np.abs(np.log(ratios)) > _LEAST_SPLIT) & (without < moves / 4)
    return bars.sessions[splits[wrong]], "prices jump by the size of a split"


def _dividend_too_large(bars: Bars, expected: Times) -> tuple[Times, str]:
    wrong = np.flatnonzero(bars.frame[DIVIDEND].to_numpy()[1:] >= bars.frame[CLOSE].to_numpy()[:-1])
    return bars.sessions[wrong + 1], "a dividend is not below the close before it"


def _bad_adjusted_price(bars: Bars, expected: Times) -> tuple[Times, str]:
    prices = bars.adjusted()[list(PRICES)].to_numpy()
    return bars.sessions[~(np.isfinite(prices) & (prices > 0)).all(axis=1)], "an adjusted price is not above 0"


def _adjusted_otherwise(bars: Bars, expected: Times) -> tuple[Times, str]:
    # what was paid after the last session is in the source's numbers and not in ours: both are 1 at the last
    theirs = (bars.frame[ADJUSTED_CLOSE] / bars.frame[CLOSE]).to_numpy()
    apart = np.abs(bars.adjustment() / (theirs / theirs[-1]) - 1)
    days = bars.sessions[apart > ADJUSTED_ALIKE + _rounding(bars)]
    after = f"; look at the dividends after {days[-1]}" if len(days) else ""
    return days, f"our adjusted close is not the source's{after}"


def _rounding(bars: Bars) -> Floats:
    """Return how far, relatively, rounding alone can take our adjusted closes from the source's, `(n,)`.

    Each price may be wrong by half of its last decimal, dividends by half a millionth. Errors of several dividends are
    independent, so that they add up as squares do.
    """
    close, dividends = bars.frame[CLOSE].to_numpy(), bars.frame[DIVIDEND].to_numpy()
    one = rounding_of_adjustment(bars.frame)
    of_events = np.where(dividends[1:] > 0, one[1:] + one[:-1] + 0.5e-6 / close[:-1], 0.0)
    later = np.sqrt(np.append(np.cumsum(of_events[::-1] ** 2)[::-1], 0.0))
    return np.asarray(one + one[-1] + 2 * later)


def rounding_of_adjustment(frame: pd.DataFrame) -> Floats:
    """Return how far, relatively, rounding can take a source's adjusted close over its close from the truth, `(n,)`."""
    close, adjusted = frame[CLOSE].to_numpy(), frame[ADJUSTED_CLOSE].to_numpy()
    # a file may hold a price of 0, which the hard rules name
    with np.errstate(all="ignore"):
        return np.asarray(_half_unit(close) / close + _half_unit(adjusted) / adjusted)


def _half_unit(prices: Floats) -> Floats:
    """Return half of the last decimal of prices that are rounded to 2 … 8, and at least the precision of float32."""
    rounded = (places for places in range(2, 9) if np.allclose(prices, prices.round(places), rtol=1e-13, atol=0))
    places = next(rounded, None)
    # Yahoo computes in float32
    return np.maximum(prices * 2.0**-24, 0.0 if places is None else 0.5 * 10.0**-places)


def _inconsistent(bars: Bars, expected: Times) -> tuple[Times, str]:
    frame = bars.frame
    top, bottom = frame[[OPEN, CLOSE]].max(axis=1), frame[[OPEN, CLOSE]].min(axis=1)
    wrong = (frame[HIGH] < top * (1 - _TOLERANCE)) | (frame[LOW] > bottom * (1 + _TOLERANCE))
    return bars.sessions[wrong.to_numpy()], "open or close lies outside low to high"


def _spike(bars: Bars, expected: Times) -> tuple[Times, str]:
    close = bars.frame[CLOSE].to_numpy()
    apart = np.abs(np.log(bars.frame[[OPEN, HIGH, LOW]].to_numpy() / close[:, None])).max(axis=1)
    far = float(np.clip(USUAL_MOVES * usual_move(close), MIN_JUMP, MAX_USUAL_JUMP))
    return bars.sessions[apart > far], f"open, high or low is not within ×{np.exp(far):.3g} of the close"


def _missing_session(bars: Bars, expected: Times) -> tuple[Times, str]:
    declared = np.array(bars.origin.known_missing, dtype="M8[D]")
    there = np.concatenate([bars.sessions, declared])
    return np.setdiff1d(expected, there), "the exchange was open and there is no bar"


def _unexpected_session(bars: Bars, expected: Times) -> tuple[Times, str]:
    return np.setdiff1d(bars.sessions, expected), "there is a bar and the exchange was closed"


def _outlier(bars: Bars, expected: Times) -> tuple[Times, str]:
    # as a shareholder has them: the close falls by what is paid
    close, dividends = bars.frame[CLOSE].to_numpy(), bars.frame[DIVIDEND].to_numpy()
    returns = np.log((close[1:] + dividends[1:]) / close[:-1])
    deviations = np.abs(returns - np.median(returns)) if len(returns) else returns
    scale = 1.4826 * np.median(deviations) if len(returns) else 0.0
    is_split = (bars.frame[SPLIT] > 0).to_numpy()[1:]
    wrong = (deviations > OUTLIER_Z * scale) & ~is_split & (scale > 0)
    return bars.sessions[1:][wrong], f"a return of more than {OUTLIER_Z:g} usual ones"


def _stale(bars: Bars, expected: Times) -> tuple[Times, str]:
    same: NDArray[np.bool_] = np.diff(bars.frame[CLOSE].to_numpy()) == 0
    run, days = 0, []
    for day, is_same in zip(bars.sessions[1:], same, strict=True):
        run = run + 1 if is_same else 0
        if run >= STALE_DAYS - 1:
            days.append(day)
    return np.array(days, dtype="M8[D]"), f"the same close for {STALE_DAYS} sessions or more"


def _dividend_not_adjusted(bars: Bars, expected: Times) -> tuple[Times, str]:
    factor = (bars.frame[ADJUSTED_CLOSE] / bars.frame[CLOSE]).to_numpy()
    paid = np.flatnonzero((bars.frame[DIVIDEND] / bars.frame[CLOSE] > 10 * _TOLERANCE).to_numpy())
    paid = paid[paid > 0]
    return bars.sessions[paid[np.abs(factor[paid] / factor[paid - 1] - 1) < _TOLERANCE]], "a dividend left no trace"


# what a row and its neighbour tell, and what takes all of them
ROWS: dict[str, Rule] = {
    "bad_price": _bad_price,
    "bad_number": _bad_number,
    "out_of_order": _out_of_order,
    "split_not_applied": _split_not_applied,
    "dividend_too_large": _dividend_too_large,
}
SERIES: dict[str, Rule] = {
    "bad_adjusted_price": _bad_adjusted_price,
    "adjusted_otherwise": _adjusted_otherwise,
}
HARD = ROWS | SERIES
SOFT: dict[str, Rule] = {
    "inconsistent": _inconsistent,
    "spike": _spike,
    "missing_session": _missing_session,
    "unexpected_session": _unexpected_session,
    "outlier": _outlier,
    "stale": _stale,
    "dividend_not_adjusted": _dividend_not_adjusted,
}
