"""Calendar features, computed from timestamps alone and so known ahead. Each lies between -.5 and .5.

Training and serving share this module, so it needs only numpy. To add a feature, add an entry to `FEATURES`.
Source: the time features of Salinas et al. (2020), arXiv 1704.04110, section 3.3.
"""

from collections.abc import Callable, Sequence

import numpy as np

from forecaster.domain.errors import ConfigError
from forecaster.domain.frequency import Step
from forecaster.domain.series import Floats, Times
from forecaster.domain.sessions import Sessions

# distances to a holiday are capped at this number of sessions
FARTHEST_SESSIONS = 10
Feature = Callable[[Times, Step], Floats]


def calendar_features(names: Sequence[str], timestamps: Times, step: Step) -> Floats:
    """Return calendar features.

    Args:
        names: keys of `FEATURES`.
        timestamps: local times, of any shape.
        step: the frequency or the sessions of the timestamps.

    Returns:
        `(*timestamps.shape, len(names))`.

    Raises:
        CalendarError: the exchange's calendar ends before the next holiday.
    """
    unique = np.unique(timestamps)
    positions = np.searchsorted(unique, timestamps)
    return np.stack([FEATURES[name](unique, step)[positions] for name in names], axis=-1)


def check_names(names: Sequence[str], step: Step | None) -> None:
    """Raise ConfigError if a feature is unknown, or needs sessions and `step` has none."""
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise ConfigError(f"calendar_features: {unknown} are unknown; choose from {list(FEATURES)}")
    holidays = [name for name in names if FEATURES[name] in (_since_holiday, _until_holiday)]
    if holidays and not isinstance(step, Sessions):
        raise ConfigError(f"calendar_features: {holidays} need an exchange's sessions; set freq, such as XNYS")


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
