"""Random misbehaviour of a source: no session is lost, and a refused update changes no byte."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.data.bars import COLUMNS, PRICES, Bars
from forecaster.data.jumps import find_hold
from forecaster.data.store import BarStore
from forecaster.data.tails import read_tail
from forecaster.data.update import update
from forecaster.domain.errors import MarketDataError
from tests.data.prices import Company

GOOD = Company(last="2024-06-28", dividends={"2024-03-14": 1.0, "2024-05-16": 1.1}, splits={"2024-04-15": 2.0}).bars()
FIRST, N = GOOD.sessions[0], len(GOOD)
Change = Callable[[Any], Any]

rows = st.integers(0, N)
factors = st.sampled_from([100.0, 0.01, 2.0, 0.5, 1.5, 1.1, 0.99, 1.0001, -1.0, 0.0, np.nan, np.inf])
columns = st.one_of(
    st.just((*PRICES, "adj_close", "dividend")), st.just(PRICES), st.sampled_from(COLUMNS).map(lambda name: (name,))
)


def _without(first: int, last: int) -> Change:
    return lambda frame: frame.drop(index=GOOD.frame.index[min(first, last) : max(first, last)], errors="ignore")


def _times(first: int, last: int, factor: float, names: tuple[str, ...]) -> Change:
    def change(frame: Any) -> Any:
        days = GOOD.frame.index[min(first, last) : max(first, last) + 1]
        frame.loc[frame.index.isin(days), list(names)] *= factor
        return frame

    return change


def _set(row: int, name: str, value: float) -> Change:
    def change(frame: Any) -> Any:
        frame.loc[frame.index == GOOD.frame.index[min(row, N - 1)], name] = value
        return frame

    return change


changes = st.one_of(
    st.builds(_without, rows, rows),
    st.builds(_times, rows, rows, factors, columns),
    st.builds(_set, rows, st.sampled_from(["dividend", "split"]), st.sampled_from([0.0, 0.5, 2.0, 60.0, 2e4, -1.0])),
    rows.map(lambda n: lambda frame: frame.tail(n)),
    rows.map(lambda n: lambda frame: frame.head(n)),
    st.integers(-3, 3).map(lambda n: lambda frame: frame.set_axis(frame.index + pd.Timedelta(days=n))),
    st.just(lambda frame: frame.resample("W-FRI").last()),
    st.just(lambda frame: frame[::-1]),
    st.just(lambda frame: pd.concat([frame, frame.tail(2)])),
)


@dataclass
class MisbehavingSource:
    """A source that changes the correct bars, and may ignore the requested range."""

    changes: tuple[Change, ...] = ()
    is_deaf: bool = False
    name: str = "test"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        bars = replace(GOOD, frame=GOOD.frame.copy())
        if not self.is_deaf:
            bars = bars.since(first).until(last)
        for change in self.changes:
            bars = replace(bars, frame=change(bars.frame.copy()))
        return bars


steps = st.lists(
    st.tuples(
        st.builds(MisbehavingSource, st.lists(changes, max_size=2).map(tuple), st.booleans()),
        st.integers(20, N - 1),
        st.integers(0, 40),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.suffix != ".lock"}


@settings(max_examples=80)
@given(steps)
def test_no_response_loses_a_session_and_refusals_change_nothing(
    steps: list[tuple[MisbehavingSource, int, int, bool]],
) -> None:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as folder:
        store = BarStore(Path(folder))
        known: set[Any] = set()
        for source, until, days, full in steps:
            now += timedelta(days=days)
            before = contents(store.folder)
            try:
                update(store, source, "ABC", FIRST, GOOD.sessions[until], now, full=full)
            except MarketDataError:
                assert contents(store.folder) == before
            bars = store.read("ABC")
            if bars is None:
                continue
            sessions = set(bars.sessions.tolist())
            assert known <= sessions
            known = sessions
            adjusted = bars.adjusted()[list(PRICES)].to_numpy()
            assert (np.isfinite(adjusted) & (adjusted > 0)).all()
            # stored bars have no unconfirmed jump
            assert find_hold(bars) is None
            tail = read_tail(store.folder, "ABC")
            assert tail.bars["close"].tolist() == bars.adjusted()["close"].tolist()
            assert tail.held == bars.held
        # an update with `allow_loss` repairs the store
        update(store, MisbehavingSource(), "ABC", FIRST, GOOD.sessions[-1], now, allow_loss=True)
        healed = store.read("ABC")
        assert healed is not None and healed.held is None
        pd.testing.assert_frame_equal(healed.frame, GOOD.frame, check_freq=False, check_index_type=False)
