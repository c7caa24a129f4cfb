"""Jumps of scale: bars are held back until the jump is confirmed or corrected; real prices have no jumps."""

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


def scale_from(factor: float, first: str = DAY, last: str | None = None) -> Change:
    def change(frame: Any) -> Any:
        frame.loc[first:last, SCALED] *= factor
        return frame

    return change


def one_row(factor: float) -> Change:
    return scale_from(factor, DAY, DAY)


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
@pytest.mark.parametrize("kind", [scale_from, one_row, closes_of_one_row])
@pytest.mark.parametrize("until", [None, DAY_BEFORE, "2024-12-31"])
def test_update_holds_back_bars_from_a_jump_on(
    store: BarStore, factor: float, kind: Callable[[float], Change], until: str | None
) -> None:
    """Test a first fetch, a jump right after the stored bars, and a jump within the stored bars."""
    if until:
        run(store, until=until)
    done = update(store, ChangedSource(change=kind(factor)), "ABC", FIRST, LAST, NOW, full=True)
    assert done.held is not None
    assert done.held.startswith(f"held back from {DAY} on: the close goes from ")
    assert f"--confirm ABC:{DAY}" in done.held
    bars = store.read("ABC")
    assert bars is not None
    # no bar from the jump on is stored, and no stored bar is lost
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


def test_hold_of_a_bad_row_lists_two_dates(store: BarStore) -> None:
    held = run(store, one_row(100)).held
    assert held is not None
    assert f"--confirm ABC:{DAY} --confirm ABC:{DAY_AFTER}" in held
    assert "(×" in held and "(÷" in held


def test_hold_ends_when_the_source_corrects_its_bars(store: BarStore) -> None:
    assert run(store, one_row(100)).held
    assert run(store, one_row(100)).held
    done = run(store)
    assert (done.held, done.bars, done.refetched) == (None, 252, "it was held back")
    assert len(train(store)) == 252
    assert read_tail(store.folder, "ABC").held is None


def test_confirmed_jump_is_stored_and_remembered(store: BarStore) -> None:
    crash = scale_from(0.4)
    assert run(store, crash).held
    done = run(store, crash, "2024-11-29", DAY)
    assert (done.held, done.bars) == (None, 231)
    assert len(train(store)) == 231
    # neither a full fetch nor new bars ask for the confirmation again
    source = ChangedSource(change=crash)
    again = update(store, source, "ABC", FIRST, LAST, NOW, full=True, allow_loss=True)
    assert (again.held, again.bars) == (None, 252)
    # another jump on the same day is not confirmed
    assert update(store, ChangedSource(change=scale_from(40)), "ABC", FIRST, LAST, NOW, full=True).held
    assert len(stored_bars(store)) == 252


def stored_bars(store: BarStore) -> Bars:
    bars = store.read("ABC")
    assert bars is not None
    return bars


def test_confirming_a_day_without_a_jump_is_an_error(store: BarStore) -> None:
    run(store, until="2024-11-29")
    before = {path.name: path.read_bytes() for path in store.folder.glob("*.parquet*")}
    with pytest.raises(QualityError, match=f"no jump on 2024-07-09 to confirm; the jumps are on {DAY}"):
        run(store, scale_from(2), "2024-12-31", "2024-07-09")
    assert {path.name: path.read_bytes() for path in store.folder.glob("*.parquet*")} == before


def test_dividend_explains_a_jump_and_an_unapplied_split_is_refused(store: BarStore) -> None:
    paid = Company(dividends={DAY: 45.0})
    frame = paid.bars().frame
    # the close falls by the dividend
    before = frame["close"].shift(1)[DAY]
    frame.loc[DAY:, [*PRICES, "adj_close"]] *= (before - 45.0) / before
    frame.loc[:DAY_BEFORE, "adj_close"] = frame["close"][:DAY_BEFORE] * (1 - 45.0 / before)
    assert find_jumps(Bars("ABC", frame, ORIGIN)) == []
    assert find_jumps(Bars("ABC", frame.assign(dividend=0.0), ORIGIN)) != []
    # a dividend without a move is not a jump; a quality rule compares it with the source's adjusted closes
    assert find_jumps(Bars("ABC", Company().bars().frame.assign(dividend=60.0), ORIGIN)) == []

    def unapplied(frame: Any) -> Any:
        frame.loc[:"2024-09-06", [*PRICES, "adj_close"]] *= 4
        return frame

    with pytest.raises(QualityError, match=r"split_not_applied: .*2024-09-09"):
        run(store, unapplied)


def test_partly_applied_split_is_held_back(store: BarStore) -> None:
    assert run(store, scale_from(4, "2024-03-01", DAY_BEFORE)).held


def test_daily_changes_of_unit_are_jumps() -> None:
    frame = COMPANY.bars().frame
    frame.iloc[::2, : len(PRICES)] *= 100
    bars = Bars("ABC", frame, ORIGIN)
    assert len(find_jumps(bars)) == len(frame) - 1
    hold = find_hold(bars)
    assert hold is not None
    # the message stays short for any number of jumps
    assert "and 248 more" in hold.seen and len(hold.message_for("ABC")) < 600


def test_jumps_stored_by_an_earlier_release_are_kept_and_refused(store: BarStore) -> None:
    bars = ChangedSource(change=scale_from(100)).fetch("ABC", FIRST, np.datetime64("2024-11-29"))
    with store.lock("ABC"):
        store.write(bars, NOW)
    with pytest.raises(Unconfirmed, match=DAY):
        train(store)
    assert str(read_tail(store.folder, "ABC").days[-1]) == DAY_BEFORE
    assert run(store, scale_from(100)).held
    assert len(stored_bars(store)) == 231
    assert run(store).held is None
    assert stored_bars(store).frame["close"].max() < 200


@needs_real_data
@pytest.mark.parametrize("file", sorted((REAL_DATA / "stock").glob("*-*.csv")) if REAL_DATA.is_dir() else [])
def test_real_prices_have_no_jumps_and_injected_changes_of_scale_are_found(file: Path) -> None:
    if file.name in ("data-02-stock_daily.csv", "djia-KO_2006-01-01_to_2018-01-01.csv"):
        pytest.skip("has no dates, or a blank price")
    bars = PriceFiles({"A": file}, "XNYS", "USD").fetch("A", np.datetime64("1970-01-01"), np.datetime64("2026-06-01"))
    assert find_jumps(bars) == []
    # a volatility index moves by more than most splits
    factors = [100, 0.01] if "vix" in file.name else FACTORS
    for at in np.random.default_rng(7).integers(10, len(bars) - 10, 20):
        for factor in factors:
            frame: Any = bars.frame.copy()
            frame.iloc[at:, [frame.columns.get_loc(name) for name in PRICES]] *= factor
            moves = [jump.day for jump in find_jumps(Bars("A", frame, bars.origin))]
            day = str(bars.sessions[at])
            # a large market move on the same day can hide a factor of 3:2
            calm = abs(np.log(bars.frame["close"].iloc[at] / bars.frame["close"].iloc[at - 1])) < 0.05
            assert moves == [day] or (not calm and abs(np.log(factor)) < 0.5)


def test_find_jumps_uses_the_minimum_jump_for_few_bars() -> None:
    frame = pd.DataFrame(100.0, pd.date_range("2024-01-02", periods=3, name=SESSION), list(COLUMNS))
    frame = frame.assign(dividend=0.0, split=0.0)
    assert find_jumps(Bars("A", frame, ORIGIN)) == []
    frame.iloc[2, : len(PRICES)] *= 1.5
    assert [jump.day for jump in find_jumps(Bars("A", frame, ORIGIN))] == ["2024-01-04"]
