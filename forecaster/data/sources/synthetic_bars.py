"""Synthetic bars on an exchange's sessions, to try pipelines without a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from forecaster.data.bars import COLUMNS, SESSION, Bars, Origin
from forecaster.data.calendars import get_calendar
from forecaster.data.sources.synthetic import RandomWalkSource, SineSource
from forecaster.domain.errors import ConfigError, UnknownSymbol
from forecaster.domain.series import Y

Generator = SineSource | RandomWalkSource
# settings that the sessions determine
_DETERMINED = {"length", "start", "freq", "n_series", "unique_id"}


@dataclass(frozen=True)
class SyntheticBars:
    """A source of synthetic bars: the `y` of a symbol's generator becomes its closes from `start` on.

    A session's prices do not depend on the requested range.
    """

    series: Mapping[str, Generator]
    start: np.datetime64
    calendar: str
    name: str = "synthetic"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, inclusive; each opens at the previous close.

        Raises:
            UnknownSymbol: the symbol has no generator.
            ConfigError: a value of the generator is not above 0, or it sets `length`, `start` or the like.
        """
        if symbol not in self.series:
            raise UnknownSymbol(symbol, f"there is no series of that name; choose from {sorted(self.series)}")
        calendar = get_calendar(self.calendar)
        days = calendar.sessions(self.start, last)
        close = _values(symbol, self.series[symbol], len(days))
        opened = np.concatenate([close[:1], close[:-1]])
        columns = dict.fromkeys(COLUMNS, np.zeros(len(days))) | {
            "open": opened,
            "high": np.maximum(opened, close),
            "low": np.minimum(opened, close),
            "close": close,
            "adj_close": close,
        }
        frame = pd.DataFrame(columns, index=pd.DatetimeIndex(days.astype("M8[ns]"), name=SESSION))
        fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
        return Bars(symbol, frame[days >= first], Origin(self.name, "", self.calendar, calendar.zone, fetched_at))


def _values(symbol: str, generator: Generator, count: int) -> np.ndarray:
    determined = sorted(generator.model_fields_set & _DETERMINED)
    if determined:
        raise ConfigError(f"series.{symbol}: {determined} follow from start, end and calendar; remove them")
    values = generator.model_copy(update={"length": count, "freq": "D"}).load()[Y].to_numpy()
    if not (values > 0).all():
        raise ConfigError(
            f"series.{symbol}: {(values <= 0).sum()} of {count} values are not above 0, but prices must be; "
            f"raise level, or train without the store, with data: {{source: {generator.source}}}"
        )
    return values
