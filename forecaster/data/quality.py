"""Quality rules for prices: hard rules reject bars, soft rules flag them, and nothing is imputed.

A rule takes bars and the expected sessions, and returns the days that break it and a message. To add a rule, add an
entry to `ROWS` or `SERIES` (hard rules), or to `SOFT`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecaster.data.bars import ADJUSTED_CLOSE, CLOSE, COLUMNS, DIVIDEND, HIGH, LOW, OPEN, PRICES, SPLIT, Bars
from forecaster.data.jumps import CERTAIN_JUMP, MIN_JUMP, MOVE_DEVIATIONS, robust_deviation
from forecaster.domain.errors import QualityError
from forecaster.domain.series import Floats, Times

# in robust standard deviations, 1.4826 times the median absolute deviation
OUTLIER_Z = 15.0
STALE_DAYS = 5
# relative tolerance between our adjusted close and the source's, on top of rounding
ADJUSTED_TOLERANCE = 1e-6
_PRICE_TOLERANCE = 1e-4
# log ratio of the smallest split that exceeds usual daily returns
_MIN_SPLIT = np.log(1.2)
Rule = Callable[[Bars, Times], tuple[Times, str]]


@dataclass(frozen=True)
class Issue:
    """A broken rule and the days that break it."""

    rule: str
    is_hard: bool
    days: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        shown = ", ".join(self.days[:3]) + (", …" if len(self.days) > 3 else "")
        return f"{self.rule}: {self.message} ({len(self.days)}: {shown})"


@dataclass(frozen=True)
class Report:
    """The issues in a symbol's bars."""

    symbol: str
    issues: tuple[Issue, ...]

    def raise_for_hard_issues(self) -> None:
        """Raise QualityError if a hard rule is broken."""
        hard = [str(issue) for issue in self.issues if issue.is_hard]
        if hard:
            raise QualityError(self.symbol, "; ".join(hard) + "; nothing was stored: try later or use another source")


def check(bars: Bars, expected: Times) -> Report:
    """Apply all rules to `bars`, given the exchange's sessions `(n,)` in their range.

    A hold on the bars is reported like a broken soft rule.
    """
    # each group of rules assumes that the bars pass the groups before it
    for rules, is_hard in ((ROWS, True), (SERIES, True), (SOFT, False)):
        issues = tuple(_apply(rules, bars, expected, is_hard=is_hard))
        if issues:
            break
    held = (Issue("held", False, bars.held.days, bars.held.seen),) if bars.held else ()
    return Report(bars.symbol, held + issues)


def check_rows(bars: Bars) -> Report:
    """Apply the hard rules that look at a row and the row before it."""
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
    return bars.sessions[wrong], "a date is repeated or earlier than the previous date"


def _split_not_applied(bars: Bars, expected: Times) -> tuple[Times, str]:
    splits = np.flatnonzero((bars.frame[SPLIT] > 0) & (bars.frame[SPLIT] != 1))
    splits = splits[splits > 0]
    close, ratios = bars.frame[CLOSE].to_numpy(), bars.frame[SPLIT].to_numpy()[splits]
    # another rule reports missing prices
    with np.errstate(all="ignore"):
        moves = np.abs(np.log(close[splits] / close[splits - 1]))
        without = np.abs(np.log(close[splits] / close[splits - 1] * ratios))
    # across a split, adjusted prices move by the day's return; unadjusted prices move by the split, so the move almost
    # vanishes once the split is applied. A small split, such as 21:20, is no larger than a return; `adjusted_otherwise`
    # may find it
    wrong = (np.abs(np.log(ratios)) > _MIN_SPLIT) & (without < moves / 4)
    return bars.sessions[splits[wrong]], "prices jump by the size of a split"


def _dividend_too_large(bars: Bars, expected: Times) -> tuple[Times, str]:
    wrong = np.flatnonzero(bars.frame[DIVIDEND].to_numpy()[1:] >= bars.frame[CLOSE].to_numpy()[:-1])
    return bars.sessions[wrong + 1], "a dividend is not below the previous close"


def _bad_adjusted_price(bars: Bars, expected: Times) -> tuple[Times, str]:
    prices = bars.adjusted()[list(PRICES)].to_numpy()
    return bars.sessions[~(np.isfinite(prices) & (prices > 0)).all(axis=1)], "an adjusted price is not above 0"


def _adjusted_otherwise(bars: Bars, expected: Times) -> tuple[Times, str]:
    # the source's adjustment includes dividends after the last session, so scale it to 1 there, like ours
    theirs = (bars.frame[ADJUSTED_CLOSE] / bars.frame[CLOSE]).to_numpy()
    differences = np.abs(bars.adjustment() / (theirs / theirs[-1]) - 1)
    days = bars.sessions[differences > ADJUSTED_TOLERANCE + _rounding(bars)]
    hint = f"; check the dividends after {days[-1]}" if len(days) else ""
    return days, f"our adjusted close differs from the source's{hint}"


def _rounding(bars: Bars) -> Floats:
    """Return the relative difference between our adjusted closes and the source's that rounding explains, `(n,)`.

    The rounding error of a price is up to half of its last decimal, that of a dividend up to half a millionth. The
    errors of several dividends are independent, so their squares add up.
    """
    close, dividends = bars.frame[CLOSE].to_numpy(), bars.frame[DIVIDEND].to_numpy()
    by_row = rounding_of_adjustment(bars.frame)
    by_dividend = np.where(dividends[1:] > 0, by_row[1:] + by_row[:-1] + 0.5e-6 / close[:-1], 0.0)
    later = np.sqrt(np.append(np.cumsum(by_dividend[::-1] ** 2)[::-1], 0.0))
    return np.asarray(by_row + by_row[-1] + 2 * later)


def rounding_of_adjustment(frame: pd.DataFrame) -> Floats:
    """Return the relative rounding error of a source's adjusted close divided by its close, `(n,)`."""
    close, adjusted = frame[CLOSE].to_numpy(), frame[ADJUSTED_CLOSE].to_numpy()
    # a hard rule reports prices of 0
    with np.errstate(all="ignore"):
        return np.asarray(_half_unit(close) / close + _half_unit(adjusted) / adjusted)


def _half_unit(prices: Floats) -> Floats:
    """Return half a unit of the last decimal of prices rounded to 2–8 decimals, at least the precision of float32."""
    candidates = (places for places in range(2, 9) if np.allclose(prices, prices.round(places), rtol=1e-13, atol=0))
    places = next(candidates, None)
    # Yahoo computes in float32
    return np.maximum(prices * 2.0**-24, 0.0 if places is None else 0.5 * 10.0**-places)


def _inconsistent(bars: Bars, expected: Times) -> tuple[Times, str]:
    frame = bars.frame
    top, bottom = frame[[OPEN, CLOSE]].max(axis=1), frame[[OPEN, CLOSE]].min(axis=1)
    wrong = (frame[HIGH] < top * (1 - _PRICE_TOLERANCE)) | (frame[LOW] > bottom * (1 + _PRICE_TOLERANCE))
    return bars.sessions[wrong.to_numpy()], "open or close lies outside the range from low to high"


def _spike(bars: Bars, expected: Times) -> tuple[Times, str]:
    close = bars.frame[CLOSE].to_numpy()
    moves = np.abs(np.log(bars.frame[[OPEN, HIGH, LOW]].to_numpy() / close[:, None])).max(axis=1)
    limit = float(np.clip(MOVE_DEVIATIONS * robust_deviation(close), MIN_JUMP, CERTAIN_JUMP))
    return bars.sessions[moves > limit], f"open, high or low is not within ×{np.exp(limit):.3g} of the close"


def _missing_session(bars: Bars, expected: Times) -> tuple[Times, str]:
    declared = np.array(bars.origin.known_missing, dtype="M8[D]")
    present = np.concatenate([bars.sessions, declared])
    return np.setdiff1d(expected, present), "the exchange was open, but there is no bar"


def _unexpected_session(bars: Bars, expected: Times) -> tuple[Times, str]:
    return np.setdiff1d(bars.sessions, expected), "there is a bar, but the exchange was closed"


def _outlier(bars: Bars, expected: Times) -> tuple[Times, str]:
    # total returns, because a dividend lowers the close
    close, dividends = bars.frame[CLOSE].to_numpy(), bars.frame[DIVIDEND].to_numpy()
    returns = np.log((close[1:] + dividends[1:]) / close[:-1])
    deviations = np.abs(returns - np.median(returns)) if len(returns) else returns
    scale = 1.4826 * np.median(deviations) if len(returns) else 0.0
    is_split = (bars.frame[SPLIT] > 0).to_numpy()[1:]
    wrong = (deviations > OUTLIER_Z * scale) & ~is_split & (scale > 0)
    return bars.sessions[1:][wrong], f"a return beyond {OUTLIER_Z:g} standard deviations"


def _stale(bars: Bars, expected: Times) -> tuple[Times, str]:
    same: NDArray[np.bool_] = np.diff(bars.frame[CLOSE].to_numpy()) == 0
    run, days = 0, []
    for day, is_same in zip(bars.sessions[1:], same, strict=True):
        run = run + 1 if is_same else 0
        if run >= STALE_DAYS - 1:
            days.append(day)
    return np.array(days, dtype="M8[D]"), f"the close is constant for {STALE_DAYS} sessions or more"


def _dividend_not_adjusted(bars: Bars, expected: Times) -> tuple[Times, str]:
    factor = (bars.frame[ADJUSTED_CLOSE] / bars.frame[CLOSE]).to_numpy()
    paid = np.flatnonzero((bars.frame[DIVIDEND] / bars.frame[CLOSE] > 10 * _PRICE_TOLERANCE).to_numpy())
    paid = paid[paid > 0]
    ignored = paid[np.abs(factor[paid] / factor[paid - 1] - 1) < _PRICE_TOLERANCE]
    return bars.sessions[ignored], "the adjusted close ignores a dividend"


# rules that look at a row and the row before it
ROWS: dict[str, Rule] = {
    "bad_price": _bad_price,
    "bad_number": _bad_number,
    "out_of_order": _out_of_order,
    "split_not_applied": _split_not_applied,
    "dividend_too_large": _dividend_too_large,
}
# rules that need all rows
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
