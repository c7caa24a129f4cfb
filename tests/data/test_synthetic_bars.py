"""Synthetic bars: prices above 0 on the exchange's sessions, independent of the requested range."""

import numpy as np
import pytest

from forecaster.data.calendars import get_calendar
from forecaster.data.quality import check
from forecaster.data.sources.synthetic import RandomWalkSource, Sine, SineSource
from forecaster.data.sources.synthetic_bars import Generator, SyntheticBars
from forecaster.domain.errors import ConfigError, UnknownSymbol

START = np.datetime64("2024-01-02")
SERIES: dict[str, Generator] = {
    "WALK": RandomWalkSource(seed=4),
    "WAVE": SineSource(level=50, sines=(Sine(amplitude=5, period=21),)),
    "LOW": SineSource(level=0.5),
}


@pytest.mark.parametrize("symbol", ["WALK", "WAVE"])
def test_prices_do_not_depend_on_the_requested_range(symbol: str) -> None:
    source = SyntheticBars(SERIES, START, "XNYS")
    short = source.fetch(symbol, START, np.datetime64("2024-06-28"))
    longer = source.fetch(symbol, np.datetime64("2024-03-01"), np.datetime64("2024-12-31"))
    both = longer.until(short.sessions[-1])
    np.testing.assert_array_equal(both.frame, short.frame[short.sessions >= np.datetime64("2024-03-01")])
    days = get_calendar("XNYS").sessions(np.datetime64("2024-03-01"), np.datetime64("2024-12-31"))
    assert longer.sessions.tolist() == days.tolist()
    assert check(longer, days).issues == ()
    assert len(np.unique(longer.frame["close"])) == len(days)


def test_generators_without_valid_prices_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"LOW: \d+ of 252 values are not above 0, .* raise level"):
        SyntheticBars(SERIES, START, "XNYS").fetch("LOW", START, np.datetime64("2024-12-31"))
    with pytest.raises(ConfigError, match=r"LONG: \['length'\] follow from start, end and calendar"):
        SyntheticBars({"LONG": SineSource(length=5)}, START, "XNYS").fetch("LONG", START, START)
    with pytest.raises(UnknownSymbol, match=r"choose from \['LOW', 'WALK', 'WAVE'\]"):
        SyntheticBars(SERIES, START, "XNYS").fetch("NOBODY", START, START)
