"""Stored bars beside an answer that is to take their place: what has changed, what is lost, what nothing explains."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from forecaster.data.bars import ADJUSTED_CLOSE, CLOSE, SPLIT, VOLUME, Bars
from forecaster.data.jumps import MIN_JUMP, usual_move
from forecaster.domain.errors import BadResponse, QualityError

# a close is corrected by more; an adjustment is exact but for float32
_CLOSE, _ADJUSTMENT = 1e-4, 5e-7
# how far daily returns may be from the stored ones, in usual moves: those of two symbols are about one apart
_OTHERS = 0.25


def describe_change(old: Bars, fresh: Bars) -> str | None:
    """Return what is not as it was in the sessions of `old`, or None."""
    lost = np.setdiff1d(old.sessions, fresh.sessions)
    if len(lost):
        return f"session {lost[0]} is gone"
    both = pd.merge(old.frame, fresh.frame, left_index=True, right_index=True, suffixes=("", "_now"))
    for name, before, now, tolerance in (
        ("close", both[CLOSE], both[f"{CLOSE}_now"], _CLOSE),
        (
            "adjustment",
            both[ADJUSTED_CLOSE] / both[CLOSE],
            both[f"{ADJUSTED_CLOSE}_now"] / both[f"{CLOSE}_now"],
            _ADJUSTMENT,
        ),
    ):
        wrong = np.flatnonzero(~np.isclose(now, before, rtol=tolerance))
        if len(wrong):
            return f"the {name} of {both.index[wrong[0]]:%Y-%m-%d} changed"
    return None


def check_no_session_lost(old: Bars, fresh: Bars) -> None:
    """Raise BadResponse if a stored session is not in the answer."""
    lost = np.setdiff1d(old.sessions, fresh.sessions)
    if len(lost):
        shown = ", ".join(str(day) for day in lost[:3]) + (", …" if len(lost) > 3 else "")
        raise BadResponse(
            old.symbol,
            f"the answer lacks {len(lost)} stored sessions ({shown}): stored are {_range(old)}, answered are "
            f"{_range(fresh)}; the store is unchanged: try later, or, if they are to go, fetch with --replace",
        )


def _range(bars: Bars) -> str:
    return f"{bars.sessions[0]} to {bars.sessions[-1]} ({len(bars)})" if len(bars) else "none"


def check_scale(old: Bars, fresh: Bars, confirmed: Sequence[str] = ()) -> None:
    """Raise QualityError if most prices have changed by a factor that is not that of new splits.

    A jump that was just confirmed changes the scale of one side of it, and not of both.
    """
    times = fresh.frame[CLOSE] / old.frame[CLOSE]
    splits = _all_splits(fresh) / _all_splits(old)
    sides = np.searchsorted(np.sort(np.array(confirmed, dtype="M8[D]")), times.index.to_numpy(), side="right")
    apart = times.groupby(sides).median().dropna()
    if (np.minimum(np.abs(np.log(apart)), np.abs(np.log(apart * splits))) > MIN_JUMP).all():
        raise QualityError(
            old.symbol,
            f"most prices are {times.median():.4g} times the stored ones, and no split explains it; the store is "
            "unchanged: try later, or, if they are right, fetch with --replace",
        )


def check_returns(old: Bars, fresh: Bars) -> None:
    """Raise QualityError if the stored sessions' prices move as those of another symbol, whatever their scale."""
    both = pd.DataFrame({"stored": old.frame[CLOSE], "now": fresh.frame[CLOSE]}).dropna()
    usual = usual_move(both["stored"].to_numpy())
    moved = np.diff(np.log(both["now"].to_numpy() / both["stored"].to_numpy()))
    if usual > 0 and np.median(np.abs(moved)) > _OTHERS * usual:
        raise QualityError(
            old.symbol,
            "most prices move otherwise than the stored ones, as another symbol's would; the store is unchanged: try "
            "later, or, if they are right, fetch with --replace",
        )


def _all_splits(bars: Bars) -> float:
    ratios = bars.frame[SPLIT].to_numpy()
    return float(np.prod(ratios[ratios > 0]))


def is_history_rewritten(old: Bars, bars: Bars) -> bool:
    """Say whether a whole answer has changed stored bars, volumes aside."""
    is_whole = bars.origin.full_at != old.origin.full_at
    before, now = (one.drop(columns=VOLUME) for one in (old.frame, bars.frame.reindex(old.frame.index)))
    return is_whole and not now.equals(before)
