"""Stored bars beside an answer that is to take their place: what has changed, what is lost, what nothing explains."""

import numpy as np
import pandas as pd

from forecaster.data.bars import ADJUSTED_CLOSE, CLOSE, SPLIT, VOLUME, Bars
from forecaster.data.jumps import LEAST
from forecaster.domain.errors import BadResponse, QualityError

# a close is corrected by more; an adjustment is exact but for float32
_CLOSE, _ADJUSTMENT = 1e-4, 5e-7


def what_changed(old: Bars, fresh: Bars) -> str | None:
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


def refuse_shorter(old: Bars, fresh: Bars) -> None:
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


def refuse_rescaled(old: Bars, fresh: Bars) -> None:
    """Raise QualityError if most prices have changed by a factor that is not that of new splits."""
    apart = float((fresh.frame[CLOSE] / old.frame[CLOSE]).median())
    splits = _all_splits(fresh) / _all_splits(old)
    if min(abs(np.log(apart)), abs(np.log(apart * splits))) > LEAST:
        raise QualityError(
            old.symbol,
            f"most prices are {apart:.4g} times the stored ones, and no split explains it; the store is unchanged: "
            "try later, or, if they are right, fetch with --replace",
        )


def _all_splits(bars: Bars) -> float:
    ratios = bars.frame[SPLIT].to_numpy()
    return float(np.prod(ratios[ratios > 0]))


def has_new_past(old: Bars, bars: Bars) -> bool:
    """Say whether a whole answer has changed stored bars, volumes aside."""
    is_whole = bars.origin.full_at != old.origin.full_at
    before, now = (one.drop(columns=VOLUME) for one in (old.frame, bars.frame.reindex(old.frame.index)))
    return is_whole and not now.equals(before)
