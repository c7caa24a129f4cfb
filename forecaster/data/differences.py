"""Compare stored bars with fetched bars that would replace them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from forecaster.data.bars import ADJUSTED_CLOSE, CLOSE, SPLIT, VOLUME, Bars
from forecaster.data.jumps import MIN_JUMP, robust_deviation
from forecaster.domain.errors import BadResponse, QualityError

# relative tolerances: corrections of a close are larger; adjustments differ only by float32 rounding
_CLOSE_TOLERANCE, _ADJUSTMENT_TOLERANCE = 1e-4, 5e-7
# tolerance of daily returns, in standard deviations; the returns of two symbols differ by about 1
_RETURNS_TOLERANCE = 0.25


def describe_change(old: Bars, fresh: Bars) -> str | None:
    """Describe the first difference within the sessions of `old`; None if there is none."""
    lost = np.setdiff1d(old.sessions, fresh.sessions)
    if len(lost):
        return f"session {lost[0]} is gone"
    both = pd.merge(old.frame, fresh.frame, left_index=True, right_index=True, suffixes=("", "_now"))
    for name, before, now, tolerance in (
        ("close", both[CLOSE], both[f"{CLOSE}_now"], _CLOSE_TOLERANCE),
        (
            "adjustment",
            both[ADJUSTED_CLOSE] / both[CLOSE],
            both[f"{ADJUSTED_CLOSE}_now"] / both[f"{CLOSE}_now"],
            _ADJUSTMENT_TOLERANCE,
        ),
    ):
        wrong = np.flatnonzero(~np.isclose(now, before, rtol=tolerance))
        if len(wrong):
            return f"the {name} of {both.index[wrong[0]]:%Y-%m-%d} changed"
    return None


def check_no_session_lost(old: Bars, fresh: Bars) -> None:
    """Raise BadResponse if the response lacks a stored session."""
    lost = np.setdiff1d(old.sessions, fresh.sessions)
    if len(lost):
        shown = ", ".join(str(day) for day in lost[:3]) + (", …" if len(lost) > 3 else "")
        raise BadResponse(
            old.symbol,
            f"the response lacks {len(lost)} stored sessions ({shown}): the store has {_range(old)}, the response "
            f"{_range(fresh)}; nothing was stored: try later, or run with --replace to drop these sessions",
        )


def _range(bars: Bars) -> str:
    return f"{bars.sessions[0]} to {bars.sessions[-1]} ({len(bars)})" if len(bars) else "none"


def check_scale(old: Bars, fresh: Bars, confirmed: Sequence[str] = ()) -> None:
    """Raise QualityError if most prices changed by a factor that new splits do not explain.

    A newly confirmed jump may rescale the prices on one side of it, but not on both.
    """
    factors = fresh.frame[CLOSE] / old.frame[CLOSE]
    splits = _all_splits(fresh) / _all_splits(old)
    sides = np.searchsorted(np.sort(np.array(confirmed, dtype="M8[D]")), factors.index.to_numpy(), side="right")
    by_side = factors.groupby(sides).median().dropna()
    if (np.minimum(np.abs(np.log(by_side)), np.abs(np.log(by_side * splits))) > MIN_JUMP).all():
        raise QualityError(
            old.symbol,
            f"most prices are {factors.median():.4g} times the stored prices, and no split explains it; nothing was "
            "stored: try later, or run with --replace if the new prices are right",
        )


def check_returns(old: Bars, fresh: Bars) -> None:
    """Raise QualityError if the returns differ from the stored returns, as those of another symbol do."""
    both = pd.DataFrame({"stored": old.frame[CLOSE], "now": fresh.frame[CLOSE]}).dropna()
    deviation = robust_deviation(both["stored"].to_numpy())
    differences = np.diff(np.log(both["now"].to_numpy() / both["stored"].to_numpy()))
    if deviation > 0 and np.median(np.abs(differences)) > _RETURNS_TOLERANCE * deviation:
        raise QualityError(
            old.symbol,
            "most returns differ from the stored returns, as if from another symbol; nothing was stored: try later, "
            "or run with --replace if the new prices are right",
        )


def _all_splits(bars: Bars) -> float:
    ratios = bars.frame[SPLIT].to_numpy()
    return float(np.prod(ratios[ratios > 0]))


def is_history_rewritten(old: Bars, bars: Bars) -> bool:
    """Whether a full fetch changed stored bars, apart from their volume."""
    is_full = bars.origin.full_at != old.origin.full_at
    before, now = (frame.drop(columns=VOLUME) for frame in (old.frame, bars.frame.reindex(old.frame.index)))
    return is_full and not now.equals(before)
