"""Bars: a symbol's daily prices as a source gives them, and the adjusted prices that we compute from them."""

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
# how far the first bar may lie before the day on which trading began, as the source says
FIRST_TRADE_DAYS = 7


@dataclass(frozen=True)
class Origin:
    """Where bars come from.

    Args:
        source: its name.
        currency: of prices and dividends.
        exchange: as the source names it.
        zone: the exchange's.
        fetched_at: ISO 8601, UTC.
        asked_from: the first date that was asked for, ISO 8601; the first bar may be later.
        full_at: when all of them were last read at once, ISO 8601, UTC; empty where that is not known.
        first_trade: when trading began as the source says, ISO 8601; empty where it does not.
        known_missing: sessions that the source is declared not to have, ISO 8601.
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
        frame: index `session`, increasing dates without a zone; columns `COLUMNS`, float64. Prices and dividends are
            in `origin.currency`, adjusted for splits and not for dividends; `dividend` is all cash that is distributed,
            a fund's capital gains too; `split` is new shares per old, 0 on other days; `adj_close` is the source's own,
            for comparison.
        origin: where they come from.
        confirmed: the jumps that a person has confirmed, by date: the log of close over the close before it.
        held: why later bars are not stored, or the stored ones not believed; None where all is well.
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
        """Return the bars of sessions up to `last`, included."""
        return replace(self, frame=self.frame[self.sessions <= last])

    def since(self, first: np.datetime64) -> "Self":
        """Return the bars of sessions from `first` on."""
        return replace(self, frame=self.frame[self.sessions >= first])

    def before(self, first: np.datetime64) -> "Self":
        """Return the bars of sessions before `first`."""
        return replace(self, frame=self.frame[self.sessions < first])

    def adjustment(self) -> Floats:
        """Return what each session's prices are multiplied with to account for later dividends, `(n,)`."""
        return adjustment_of(self.frame)

    def adjusted(self) -> pd.DataFrame:
        """Return open, high, low and close adjusted for dividends and splits, and volume; same index."""
        prices = self.frame[list(PRICES)].mul(self.adjustment(), axis=0)
        return prices.assign(**{VOLUME: self.frame[VOLUME]})

    def long_frame(self, features: Sequence[str] = ()) -> pd.DataFrame:
        """Return the adjusted closes as a long frame `unique_id, ds, y`, and bar features beside them.

        Raises:
            ConfigError: there is no such bar feature.
        """
        prices = self.adjusted()
        columns = {str(name): column.to_numpy() for name, column in prices.items()}
        frame = pd.DataFrame({UNIQUE_ID: self.symbol, DS: prices.index, Y: columns[CLOSE]})
        return frame.assign(**{name: bar_feature(name, columns) for name in features})


def adjustment_of(frame: pd.DataFrame) -> Floats:
    """Return what each row's prices are multiplied with to account for later dividends, `(n,)`.

    Source: the factor `1 - dividend / previous close` of the CRSP convention, taken over all later dividends.
    """
    previous = frame[CLOSE].shift(1).to_numpy()
    factors = np.where(frame[DIVIDEND] > 0, 1 - frame[DIVIDEND] / previous, 1.0)
    # the first session's own dividend has no close before it, and nothing that it could adjust
    later = np.cumprod(factors[:0:-1])[::-1]
    return np.asarray(np.append(later, 1.0))
