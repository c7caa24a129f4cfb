"""Calendar features: what a timestamp alone tells, known for the past and the future alike.

One function serves training and serving, so it needs numpy only. A new feature is an entry in `FEATURES`. Each lies
between -.5 and .5. Source: the time features of Salinas et al. (2020), arXiv 1704.04110, section 3.3.
"""

from collections.abc import Callable, Sequence

import numpy as np

from forecaster.domain.errors import ConfigError
from forecaster.domain.frequency import Step
from forecaster.domain.series import Floats, Times
from forecaster.domain.sessions import Sessions

# a holiday further away is as good as none
FARTHEST_SESSIONS = 10
Feature = Callable[[Times, Step], Floats]


def calendar_features(names: Sequence[str], timestamps: Times, step: Step) -> Floats:
    """Return the features of timestamps.

    Args:
        names: of `FEATURES`.
        timestamps: as the series' own clock shows them, of any shape.
        step: their frequency or sessions.

    Returns:
        `(*timestamps.shape, len(names))`.

    Raises:
        CalendarError: a holiday is asked for beyond what the exchange's calendar knows.
    """
    flat = np.unique(timestamps)
    where = np.searchsorted(flat, timestamps)
    return np.stack([FEATURES[name](flat, step)[where] for name in names], axis=-1)


def check_names(names: Sequence[str], step: Step | None) -> None:
    """Raise ConfigError for a name that is unknown, or that needs sessions where there are none."""
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise ConfigError(f"calendar_features: {unknown} are unknown; choose from {list(FEATURES)}")
    needing = [name for name in names if FEATURES[name] in (_since_holiday, _until_holiday)]
    if needing and not isinstance(step, Sessions):
        raise ConfigError(f"calendar_features: {needing} need an exchange's sessions; set freq, such as XNYS")


def _scaled(part: Floats, count: int) -> Floats:
    return np.asarray(part / (count - 1) - 0.5)


def _day_number(timestamps: Times) -> Floats:
    return timestamps.astype("M8[D]").astype(np.float64)


def _hour_of_day(timestamps: Times, step: Step) -> Floats:
    seconds = (timestamps - timestamps.astype("M8[D]")) / np.timedelta64(1, "s")
    return _scaled(np.asarray(seconds // 3600), 24)


def _day_of_week(timestamps: Times, step: Step) -> Floats:
    # day 0 of the epoch was a Thursday
    return _scaled((_day_number(timestamps) + 3) % 7, 7)


def _day_of_month(timestamps: Times, step: Step) -> Floats:
    months = timestamps.astype("M8[M]").astype("M8[D]")
    return _scaled((timestamps.astype("M8[D]") - months).astype(np.float64), 31)


def _month(timestamps: Times, step: Step) -> Floats:
    return _scaled(timestamps.astype("M8[M]").astype(np.float64) % 12, 12)


def _since_holiday(timestamps: Times, step: Step) -> Floats:
    return _scaled(_sessions(step).since_holiday(timestamps, FARTHEST_SESSIONS), FARTHEST_SESSIONS + 1)


def _until_holiday(timestamps: Times, step: Step) -> Floats:
    return _scaled(_sessions(step).until_holiday(timestamps, FARTHEST_SESSIONS), FARTHEST_SESSIONS + 1)


def _sessions(step: Step) -> Sessions:
    if not isinstance(step, Sessions):
        raise ConfigError("calendar_features: holidays need an exchange's sessions; set freq, such as XNYS")
    return step


FEATURES: dict[str, Feature] = {
    "hour_of_day": _hour_of_day,
    "day_of_week": _day_of_week,
    "day_of_month": _day_of_month,
    "month": _month,
    "sessions_since_holiday": _since_holiday,
    "sessions_until_holiday": _until_holiday,
}
