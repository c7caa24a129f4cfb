"""What prices must and should be: hard rules reject, soft rules flag, nothing is ever filled in.

A rule is a function of bars and the sessions that there should be, yielding the days that break it. A new one is an
entry in `HARD` or `SOFT`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster.data.bars import ADJUSTED_CLOSE, CLOSE, COLUMNS, DIVIDEND, HIGH, LOW, OPEN, PRICES, SPLIT, Bars
from forecaster.domain.errors import QualityError
from forecaster.domain.series import Times

# in units of 1.4826 times the median absolute deviation, which is a normal's standard deviation
OUTLIER_Z = 15.0
STALE_DAYS = 5
_TOLERANCE = 1e-4
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
    """Return what is wrong with `bars`, given the sessions `(n,)` that its exchange had in their range."""
    hard = tuple(_apply(HARD, bars, expected, is_hard=True))
    # soft rules compute with prices, which hard ones must have found to be numbers
    return Report(bars.symbol, hard or tuple(_apply(SOFT, bars, expected, is_hard=False)))


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
    moves = np.log(close[splits] / close[splits - 1])
    # adjusted prices move by a day's return across a split, unadjusted ones by the split
    return bars.sessions[splits[np.abs(moves + np.log(ratios)) < np.abs(moves)]], "prices jump by the size of a split"


def _inconsistent(bars: Bars, expected: Times) -> tuple[Times, str]:
    frame = bars.frame
    top, bottom = frame[[OPEN, CLOSE]].max(axis=1), frame[[OPEN, CLOSE]].min(axis=1)
    wrong = (frame[HIGH] < top * (1 - _TOLERANCE)) | (frame[LOW] > bottom * (1 + _TOLERANCE))
    return bars.sessions[wrong.to_numpy()], "open or close lies outside low to high"


def _missing_session(bars: Bars, expected: Times) -> tuple[Times, str]:
    return np.setdiff1d(expected, bars.sessions), "the exchange was open and there is no bar"


def _unexpected_session(bars: Bars, expected: Times) -> tuple[Times, str]:
    return np.setdiff1d(bars.sessions, expected), "there is a bar and the exchange was closed"


def _outlier(bars: Bars, expected: Times) -> tuple[Times, str]:
    returns = np.diff(np.log(bars.frame[CLOSE].to_numpy()))
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


HARD: dict[str, Rule] = {
    "bad_price": _bad_price,
    "bad_number": _bad_number,
    "out_of_order": _out_of_order,
    "split_not_applied": _split_not_applied,
}
SOFT: dict[str, Rule] = {
    "inconsistent": _inconsistent,
    "missing_session": _missing_session,
    "unexpected_session": _unexpected_session,
    "outlier": _outlier,
    "stale": _stale,
    "dividend_not_adjusted": _dividend_not_adjusted,
}
