"""Bars: a symbol's daily prices from a source, and the adjusted prices computed from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from forecaster.data.bar_features import bar_feature
from forecaster.data.hold import Hold
from forecaster.domain.series import DS, UNIQUE_ID, Floats, Times, Y

if TYPE_CHECKING:
    from typing import Self

SESSION = "session"
OPEN, HIGH, LOW, CLOSE = PRICES = ("open", "high", "low", "close")
ADJUSTED_CLOSE, VOLUME, DIVIDEND, SPLIT = "adj_close", "volume", "dividend", "split"
COLUMNS = (*PRICES, ADJUSTED_CLOSE, VOLUME, DIVIDEND, SPLIT)
# tolerance, in days, by which the first bar may precede the first trade that the source reports
FIRST_TRADE_DAYS = 7


@dataclass(frozen=True)
class Origin:
    """The origin of bars.

    Args:
        source: the name of the source.
        currency: the currency of prices and dividends.
        exchange: the source's name of the exchange.
        zone: the exchange's time zone.
        fetched_at: the time of the last fetch, ISO 8601, UTC.
        asked_from: the first requested date, ISO 8601; the first bar may be later.
        full_at: the time of the last full fetch, ISO 8601, UTC; empty if unknown.
        first_trade: the first trading day according to the source, ISO 8601; empty if unknown.
        known_missing: sessions declared as missing in the source, ISO 8601.
    """

    source: str
    currency: str
    exchange: str
    zone: str
    fetched_at: str
    asked_from: str = ""
    full_at: str = ""
    first_trade: str = ""
    known_missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # JSON has no tuples
        object.__setattr__(self, "known_missing", tuple(self.known_missing))


@dataclass(frozen=True)
class Bars:
    """A symbol's daily bars.

    Args:
        symbol: as the source spells it.
        frame: index `session`, increasing dates without a time zone; columns `COLUMNS`, float64. Prices and dividends
            are in `origin.currency`, adjusted for splits but not for dividends. `dividend` is all distributed cash,
            including a fund's capital gains. `split` is new shares per old share, 0 on days without a split.
            `adj_close` is the source's own adjusted close, for comparison.
        origin: the origin of the bars.
        confirmed: confirmed jumps, by date the log ratio of the close to the previous close.
        held: why later bars are held back, or why the stored bars are in doubt; None if there is no hold.
    """

    symbol: str
    frame: pd.DataFrame
    origin: Origin
    confirmed: Mapping[str, float] = field(default_factory=dict)
    held: Hold | None = None

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def sessions(self) -> Times:
        """Return the dates, `(n,)`, datetime64[D]."""
        return np.asarray(self.frame.index.to_numpy().astype("M8[D]"))

    def until(self, last: np.datetime64) -> "Self":
        """Return the bars of sessions up to and including `last`."""
        return replace(self, frame=self.frame[self.sessions <= last])

    def since(self, first: np.datetime64) -> "Self":
        """Return the bars of sessions from `first` on."""
        return replace(self, frame=self.frame[self.sessions >= first])

    def before(self, first: np.datetime64) -> "Self":
        """Return the bars of sessions before `first`."""
        return replace(self, frame=self.frame[self.sessions < first])

    def adjustment(self) -> Floats:
        """Return the factor of each session's prices that accounts for later dividends, `(n,)`."""
        return adjustment_of(self.frame)

    def adjusted(self) -> pd.DataFrame:
        """Return open, high, low and close adjusted for dividends and splits, and the volume; same index."""
        prices = self.frame[list(PRICES)].mul(self.adjustment(), axis=0)
        return prices.assign(**{VOLUME: self.frame[VOLUME]})

    def long_frame(self, features: Sequence[str] = ()) -> pd.DataFrame:
        """Return the adjusted closes as a long frame `unique_id, ds, y` with a column per bar feature.

        Raises:
            ConfigError: a bar feature is unknown.
        """
        prices = self.adjusted()
        columns = {str(name): column.to_numpy() for name, column in prices.items()}
        frame = pd.DataFrame({UNIQUE_ID: self.symbol, DS: prices.index, Y: columns[CLOSE]})
        return frame.assign(**{name: bar_feature(name, columns) for name in features})


def adjustment_of(frame: pd.DataFrame) -> Floats:
    """Return the factor of each row's prices that accounts for later dividends, `(n,)`.

    Source: the CRSP convention, the product over all later dividends of `1 - dividend / previous close`.
    """
    previous = frame[CLOSE].shift(1).to_numpy()
    factors = np.where(frame[DIVIDEND] > 0, 1 - frame[DIVIDEND] / previous, 1.0)
    # a dividend on the first session adjusts nothing, because no price precedes it
    later = np.cumprod(factors[:0:-1])[::-1]
    return np.asarray(np.append(later, 1.0))
