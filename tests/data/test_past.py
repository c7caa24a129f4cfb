"""Stored history: updates extend and recheck it, and lose no session unless `allow_loss` is set."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.data.bars import PRICES, Bars
from forecaster.data.store import BarStore
from forecaster.data.tails import read_tail
from forecaster.data.update import REREAD_DAYS, Updated, update
from forecaster.domain.errors import BadResponse, MarketDataError, QualityError
from tests.data.prices import Company

FIRST, LAST = np.datetime64("2024-01-02"), np.datetime64("2024-12-31")
NOW = datetime(2025, 1, 1, tzinfo=UTC)
COMPANY = Company(dividends={"2024-06-13": 1.2}, splits={"2024-09-09": 4.0})
# Any, because pandas' stubs support few ways of indexing
Change = Callable[[Any], Any]


@dataclass
class ChangedSource:
    """A source whose bars a test changes."""

    company: Company = field(default_factory=lambda: COMPANY)
    change: Change = lambda frame: frame
    name: str = "test"

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        bars = self.company.bars()
        return replace(bars, frame=self.change(bars.frame.copy())).since(first).until(last)


def stored(store: BarStore) -> Bars:
    bars = store.read("ABC")
    assert bars is not None
    return bars


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def run(
    store: BarStore, source: ChangedSource, until: str = "2024-12-31", now: datetime = NOW, **wishes: Any
) -> Updated:
    return update(store, source, "ABC", FIRST, np.datetime64(until), now, **wishes)


@pytest.fixture
def store(tmp_path: Path) -> BarStore:
    """A store with bars until the end of November."""
    store = BarStore(tmp_path)
    run(store, ChangedSource(), "2024-11-29", NOW - timedelta(days=29))
    return store


SHORT: dict[str, Change] = {
    "only the last sessions": lambda frame: frame.tail(13),
    "only the first sessions": lambda frame: frame.head(200),
    "a gap within the overlap": lambda frame: frame.drop(index=frame["2024-11-18":"2024-11-22"].index),
    "a gap long ago": lambda frame: frame.drop(index=frame["2024-03-04":"2024-03-08"].index),
    "one session missing": lambda frame: frame.drop(index=pd.Timestamp("2024-11-26")),
    "the last stored session missing": lambda frame: frame.drop(index=pd.Timestamp("2024-11-29")),
    "weekly bars": lambda frame: frame.resample("W-FRI").last(),
    "a later first session": lambda frame: frame["2024-01-08":],
    "every date a day later": lambda frame: frame.set_axis(frame.index + pd.Timedelta(days=1)),
    "nothing": lambda frame: frame.head(0),
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("change", SHORT.values(), ids=SHORT.keys())
def test_update_refuses_a_response_without_stored_sessions(store: BarStore, change: Change, full: bool) -> None:
    before = contents(store.folder)
    if full or change not in (SHORT["a gap long ago"],):
        with pytest.raises(BadResponse, match=r"lacks \d+ stored sessions \(2024-.*2024-01-02 to 2024-11-29 \(231\), "):
            run(store, ChangedSource(change=change), full=full)
        assert contents(store.folder) == before
    else:
        # neither end shows the gap, and the store keeps the middle
        assert run(store, ChangedSource(change=change)).bars == 252


def test_update_succeeds_after_a_short_response(store: BarStore) -> None:
    with pytest.raises(BadResponse):
        run(store, ChangedSource(change=SHORT["only the last sessions"]))
    assert (run(store, ChangedSource()).new, len(stored(store))) == (21, 252)


def test_allow_loss_drops_sessions_and_keeps_the_previous_generation(store: BarStore) -> None:
    before = contents(store.folder)
    done = run(store, ChangedSource(change=SHORT["only the last sessions"]), allow_loss=True)
    assert (done.bars, len(stored(store))) == (13, 13)
    assert contents(store.folder)["ABC.parquet.previous"] == before["ABC.parquet"]
    assert store.symbols() == ["ABC"]
    # restore the previous generation as documented; the next update repairs the tail even if the source fails
    (store.folder / "ABC.parquet.previous").replace(store.folder / "ABC.parquet")
    with pytest.raises(BadResponse):
        run(store, ChangedSource(change=SHORT["nothing"]))
    assert len(stored(store)) == len(read_tail(store.folder, "ABC").days) == 231


def test_other_dates_and_a_wrong_clock_lose_no_session(store: BarStore) -> None:
    before = stored(store).frame
    update(store, ChangedSource(), "ABC", np.datetime64("2024-08-01"), np.datetime64("2024-09-30"), NOW)
    update(store, ChangedSource(), "ABC", FIRST, LAST, datetime(2024, 3, 1, tzinfo=UTC), full=True)
    assert stored(store).frame.equals(before)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        # earlier than the overlap
        (replace(COMPANY, dividends={"2024-03-14": 0.5, **COMPANY.dividends}), "the adjustment of 2024-01-02 changed"),
        (replace(COMPANY, dividends={"2024-06-13": 1.3}), "the adjustment of 2024-01-02 changed"),
        (replace(COMPANY, dividends={}), "the adjustment of 2024-01-02 changed"),
        (replace(COMPANY, splits={"2024-04-08": 2.0, **COMPANY.splits}), "the close of 2024-01-02 changed"),
    ],
)
def test_update_finds_a_change_of_an_old_event(store: BarStore, changed: Company, message: str) -> None:
    before = contents(store.folder)["ABC.parquet"]
    done = run(store, ChangedSource(changed))
    assert (done.refetched, done.held) == (message, None)
    pd.testing.assert_frame_equal(
        stored(store).frame, changed.bars().frame, check_freq=False, check_index_type=False, check_exact=True
    )
    assert contents(store.folder)["ABC.parquet.previous"] == before


def _corrected(frame: Any) -> Any:
    frame.loc["2024-05-06", [*PRICES, "adj_close"]] *= 1.02
    return frame


def test_full_fetch_finds_an_old_correction_and_is_due_every_thirty_days(store: BarStore, tmp_path: Path) -> None:
    source = ChangedSource(change=_corrected)
    assert run(store, source).refetched is None
    assert run(store, source, full=True).refetched == "the close of 2024-05-06 changed"
    other = BarStore(tmp_path / "other")
    begun = NOW - timedelta(days=REREAD_DAYS)
    run(other, ChangedSource(), "2024-11-29", begun)
    assert run(other, source, now=NOW - timedelta(hours=1)).refetched is None
    assert run(other, source, now=NOW).refetched == "the close of 2024-05-06 changed"
    assert stored(other).frame.equals(stored(store).frame)
    # the full fetch is recorded
    assert stored(other).origin.full_at == NOW.isoformat()


def test_update_refuses_rescaled_prices_without_a_split(store: BarStore) -> None:
    def pence(frame: Any) -> Any:
        return frame.assign(**{name: frame[name] * 100 for name in (*PRICES, "adj_close", "dividend")})

    before = contents(store.folder)
    with pytest.raises(QualityError, match="most prices are 100 times the stored prices, and no split explains it"):
        run(store, ChangedSource(change=pence))
    assert contents(store.folder) == before
    assert run(store, ChangedSource(change=pence), allow_loss=True).bars == 252


def test_update_refuses_rescaled_prices_with_a_new_jump(store: BarStore) -> None:
    """Test rescaled bars before a jump, which would replace stored bars although the later bars are held back."""

    def crash_in_pence(frame: Any) -> Any:
        frame.loc["2024-12-10":, [*PRICES, "adj_close"]] *= 0.3
        return frame.assign(**{name: frame[name] * 100 for name in (*PRICES, "adj_close", "dividend")})

    before = contents(store.folder)
    for confirm in ((), ("2024-12-10",)):
        with pytest.raises(QualityError, match="most prices are 100 times the stored prices"):
            run(store, ChangedSource(change=crash_in_pence), confirm=confirm)
        assert contents(store.folder) == before


def test_update_refuses_the_prices_of_another_symbol(store: BarStore) -> None:
    other = ChangedSource(replace(COMPANY, seed=5))
    before = contents(store.folder)
    for full in (False, True):
        with pytest.raises(QualityError, match="most returns differ from the stored returns"):
            run(store, other, full=full)
        assert contents(store.folder) == before
    assert run(store, other, allow_loss=True).bars == 252


def test_update_refuses_a_dividend_that_contradicts_the_adjusted_closes(store: BarStore) -> None:
    before = contents(store.folder)

    def hundredfold(frame: Any) -> Any:
        frame.loc["2024-06-13", "dividend"] *= 100
        return frame

    with pytest.raises(MarketDataError, match=r"(dividend_too_large|adjusted_otherwise): .*2024-06-1[23]"):
        run(store, ChangedSource(change=hundredfold), full=True)
    assert contents(store.folder) == before
