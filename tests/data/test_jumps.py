"""Jumps of scale: held back on their day until they are confirmed or corrected; real prices have none."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.data.bars import COLUMNS, PRICES, SESSION, Bars
from forecaster.data.jumps import find_hold, find_jumps
from forecaster.data.sources.price_files import PriceFiles
from forecaster.data.sources.stored import StoredSource
from forecaster.data.store import BarStore
from forecaster.data.tails import read_tail
from forecaster.data.update import Updated, update
from forecaster.domain.errors import QualityError, Unconfirmed
from tests.conftest import REAL_DATA, needs_real_data
from tests.data.prices import ORIGIN, Company
from tests.data.test_past import COMPANY, Change, ChangedSource

FIRST, LAST, NOW = np.datetime64("2024-01-02"), np.datetime64("2024-12-31"), datetime(2025, 1, 1, tzinfo=UTC)
SCALED = [*PRICES, "adj_close", "dividend"]
DAY, DAY_AFTER, DAY_BEFORE = "2024-07-10", "2024-07-11", "2024-07-09"
FACTORS = [100.0, 0.01, 2.0, 0.5, 1.5, 2 / 3]


def from_then_on(factor: float, first: str = DAY, last: str | None = None) -> Change:
    def change(frame: Any) -> Any:
        frame.loc[first:last, SCALED] *= factor
        return frame

    return change


def one_row(factor: float) -> Change:
    return from_then_on(factor, DAY, DAY)


def closes_of_one_row(factor: float) -> Change:
    def change(frame: Any) -> Any:
        frame.loc[DAY, "close"] *= factor
        return frame

    return change


def run(store: BarStore, change: Change = lambda frame: frame, until: str = "2024-12-31", *confirm: str) -> Updated:
    source = ChangedSource(change=change)
    return update(store, source, "ABC", FIRST, np.datetime64(until), NOW, confirm=confirm)


def train(store: BarStore) -> pd.DataFrame:
    return StoredSource(symbols=("ABC",), folder=store.folder, max_age_sessions=None).load()


@pytest.fixture
def store(tmp_path: Path) -> BarStore:
    return BarStore(tmp_path)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kind", [from_then_on, one_row, closes_of_one_row])
@pytest.mark.parametrize("until", [None, DAY_BEFORE, "2024-12-31"])
def test_a_jump_is_held_back_with_its_date_and_earlier_bars_stay(
    store: BarStore, factor: float, kind: Callable[[float], Change], until: str | None
) -> None:
    """On the first fetch, between the last stored bar and the first new one, and within what is stored."""
    if until:
        run(store, until=until)
    done = update(store, ChangedSource(change=kind(factor)), "ABC", FIRST, LAST, NOW, full=True)
    assert done.held is not None
    assert done.held.startswith(f"held back from {DAY} on: the close goes from ")
    assert f"--confirm ABC:{DAY}" in done.held
    bars = store.read("ABC")
    assert bars is not None
    # nothing of it is stored, and what was stored is not lost
    expected = COMPANY.bars(last="2024-12-31").until(np.datetime64(max(until or "", DAY_BEFORE)))
    pd.testing.assert_frame_equal(bars.frame, expected.frame, check_freq=False, check_index_type=False)
    with pytest.raises(Unconfirmed, match=f"ABC: held back from {DAY} on"):
        train(store)
    tail = read_tail(store.folder, "ABC")
    assert str(tail.days[-1]) == str(bars.sessions[-1])
    with pytest.raises(Unconfirmed, match=f"ABC: held back from {DAY} on"):
        tail.check_usable(NOW, NOW - NOW)
    (held, *_) = json.loads((store.folder / "ABC.quality.json").read_text())["issues"]
    assert (held["rule"], held["days"][0]) == ("held", DAY)


def test_a_row_that_is_spoilt_is_one_message_with_two_dates(store: BarStore) -> None:
    held = run(store, one_row(100)).held
    assert held is not None
    assert f"--confirm ABC:{DAY} --confirm ABC:{DAY_AFTER}" in held
    assert "(×" in held and "(÷" in held


def test_a_hold_ends_by_itself_when_the_source_corrects_its_bars(store: BarStore) -> None:
    assert run(store, one_row(100)).held
    assert run(store, one_row(100)).held
    done = run(store)
    assert (done.held, done.bars, done.refetched) == (None, 252, "it was held back")
    assert len(train(store)) == 252
    assert read_tail(store.folder, "ABC").held is None


def test_a_confirmed_jump_is_stored_and_remembered_as_long_as_it_is_the_same(store: BarStore) -> None:
    crash = from_then_on(0.4)
    assert run(store, crash).held
    done = run(store, crash, "2024-11-29", DAY)
    assert (done.held, done.bars) == (None, 231)
    assert len(train(store)) == 231
    # a full read and new bars bring no question back
    source = ChangedSource(change=crash)
    again = update(store, source, "ABC", FIRST, LAST, NOW, full=True, may_lose=True)
    assert (again.held, again.bars) == (None, 252)
    # on the same day another jump is another jump
    assert update(store, ChangedSource(change=from_then_on(40)), "ABC", FIRST, LAST, NOW, full=True).held
    assert len(train_bars(store)) == 252


def train_bars(store: BarStore) -> Bars:
    bars = store.read("ABC")
    assert bars is not None
    return bars


def test_what_is_no_jump_cannot_be_confirmed(store: BarStore) -> None:
    run(store, until="2024-11-29")
    before = {path.name: path.read_bytes() for path in store.folder.glob("*.parquet*")}
    with pytest.raises(QualityError, match=f"no jump on 2024-07-09 to confirm; there are {DAY}"):
        run(store, from_then_on(2), "2024-12-31", "2024-07-09")
    assert {path.name: path.read_bytes() for path in store.folder.glob("*.parquet*")} == before


def test_a_dividend_explains_a_jump_and_a_split_that_was_not_applied_is_refused_outright(store: BarStore) -> None:
    paid = Company(dividends={DAY: 45.0})
    frame = paid.bars().frame
    # the close falls by what is paid, as it does
    before = frame["close"].shift(1)[DAY]
    frame.loc[DAY:, [*PRICES, "adj_close"]] *= (before - 45.0) / before
    frame.loc[:DAY_BEFORE, "adj_close"] = frame["close"][:DAY_BEFORE] * (1 - 45.0 / before)
    assert find_jumps(Bars("ABC", frame, ORIGIN)) == []
    assert find_jumps(Bars("ABC", frame.assign(dividend=0.0), ORIGIN)) != []
    # a dividend makes no jump: it is for the comparison with the source's adjusted closes to judge
    assert find_jumps(Bars("ABC", Company().bars().frame.assign(dividend=60.0), ORIGIN)) == []

    def unapplied(frame: Any) -> Any:
        frame.loc[:"2024-09-06", [*PRICES, "adj_close"]] *= 4
        return frame

    with pytest.raises(QualityError, match=r"split_not_applied: .*2024-09-09"):
        run(store, unapplied)


def test_a_split_applied_to_a_part_of_the_prices_is_held_back(store: BarStore) -> None:
    assert run(store, from_then_on(4, "2024-03-01", DAY_BEFORE)).held


def test_units_that_change_each_day_are_jumps_too() -> None:
    frame = COMPANY.bars().frame
    frame.iloc[::2, : len(PRICES)] *= 100
    bars = Bars("ABC", frame, ORIGIN)
    assert len(find_jumps(bars)) == len(frame) - 1
    hold = find_hold(bars)
    assert hold is not None
    # message in a line, however many they are
    assert "and 248 more" in hold.seen and len(hold.message_for("ABC")) < 600


def test_bars_that_an_earlier_release_stored_past_a_jump_are_kept_and_refused(store: BarStore) -> None:
    bars = ChangedSource(change=from_then_on(100)).fetch("ABC", FIRST, np.datetime64("2024-11-29"))
    with store.lock("ABC"):
        store.write(bars, NOW)
    with pytest.raises(Unconfirmed, match=DAY):
        train(store)
    assert str(read_tail(store.folder, "ABC").days[-1]) == DAY_BEFORE
    assert run(store, from_then_on(100)).held
    assert len(train_bars(store)) == 231
    assert run(store).held is None
    assert train_bars(store).frame["close"].max() < 200


@needs_real_data
@pytest.mark.parametrize("file", sorted((REAL_DATA / "stock").glob("*-*.csv")) if REAL_DATA.is_dir() else [])
def test_real_prices_have_no_jumps_and_every_change_of_scale_in_them_is_one(file: Path) -> None:
    if file.name in ("data-02-stock_daily.csv", "djia-KO_2006-01-01_to_2018-01-01.csv"):
        pytest.skip("has no dates, or a blank price")
    bars = PriceFiles({"A": file}, "XNYS", "USD").fetch("A", np.datetime64("1970-01-01"), np.datetime64("2026-06-01"))
    assert find_jumps(bars) == []
    # an index of volatility moves by more than most splits, and has none
    factors = [100, 0.01] if "vix" in file.name else FACTORS
    for at in np.random.default_rng(7).integers(10, len(bars) - 10, 20):
        for factor in factors:
            frame: Any = bars.frame.copy()
            frame.iloc[at:, [frame.columns.get_loc(name) for name in PRICES]] *= factor
            moves = [jump.day for jump in find_jumps(Bars("A", frame, bars.origin))]
            day = str(bars.sessions[at])
            # a day on which the market itself has undone a part of it can hide three for two
            calm = abs(np.log(bars.frame["close"].iloc[at] / bars.frame["close"].iloc[at - 1])) < 0.05
            assert moves == [day] or (not calm and abs(np.log(factor)) < 0.5)


def test_few_bars_are_judged_by_the_least_jump() -> None:
    frame = pd.DataFrame(100.0, pd.date_range("2024-01-02", periods=3, name=SESSION), list(COLUMNS))
    frame = frame.assign(dividend=0.0, split=0.0)
    assert find_jumps(Bars("A", frame, ORIGIN)) == []
    frame.iloc[2, : len(PRICES)] *= 1.5
    assert [jump.day for jump in find_jumps(Bars("A", frame, ORIGIN))] == ["2024-01-04"]
