"""Bars made of synthetic series, on an exchange's sessions: to try everything that needs prices without a network."""

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
# what the sessions decide
_DECIDED = {"length", "start", "freq", "n_series", "unique_id"}


@dataclass(frozen=True)
class SyntheticBars:
    """Generators by symbol: each one's `y` becomes the closes of an exchange's sessions from `start` on.

    The same sessions always get the same prices, however many are asked for.
    """

    series: Mapping[str, Generator]
    start: np.datetime64
    calendar: str
    name: str = "synthetic"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        """Return the daily bars from `first` to `last`, both included; each opens at the close before it.

        Raises:
            UnknownSymbol: there is no generator for it.
            ConfigError: the generator's values are not all above 0, or it sets what the sessions decide.
        """
        if symbol not in self.series:
            raise UnknownSymbol(symbol, f"there is no series of that name; there are {sorted(self.series)}")
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
    decided = sorted(generator.model_fields_set & _DECIDED)
    if decided:
        raise ConfigError(f"series.{symbol}: {decided} are decided by start, end and calendar; remove them")
    values = generator.model_copy(update={"length": count, "freq": "D"}).load()[Y].to_numpy()
    if not (values > 0).all():
        raise ConfigError(
            f"series.{symbol}: {(values <= 0).sum()} of {count} values are not above 0, and prices must be; "
            f"raise level, or train on it without the store, with data: {{source: {generator.source}}}"
        )
    return values
