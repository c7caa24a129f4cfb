"""Updates: several updates equal a fresh fetch, and a failure leaves the store unchanged."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.data.bars import Bars
from forecaster.data.session import SessionConfig
from forecaster.data.sources.yahoo import YahooSource
from forecaster.data.store import BarStore
from forecaster.data.update import OVERLAP_SESSIONS, update
from forecaster.domain.errors import NoData, QualityError, SourceUnavailable
from tests.conftest import ROOT
from tests.data.fake_yahoo import Yahoo, chart, serve_yahoo
from tests.data.prices import Company

FIRST = np.datetime64("2024-01-02")
COMPANY = Company(dividends={"2024-06-13": 1.2}, splits={"2024-09-09": 4.0})
pytestmark = pytest.mark.filterwarnings("ignore:::yfinance")


@dataclass
class SourceAsOfDay:
    """A source as of a day, with the events up to that day."""

    day: str
    name: str = "yahoo"
    answers: bool = True
    requested: list[tuple[str, str]] = field(default_factory=list)

    def fetch(self, symbol: str, first: np.datetime64, last: np.datetime64, exchange: str | None = None) -> Bars:
        self.requested.append((str(first), str(last)))
        if not self.answers:
            raise SourceUnavailable(symbol, "is away")
        bars = COMPANY.bars(str(first), self.day).until(last)
        return replace(bars, origin=replace(bars.origin, source=self.name, asked_from=""))


def evening(day: str) -> datetime:
    return datetime.fromisoformat(f"{day}T23:00:00").replace(tzinfo=UTC)


def run(store: BarStore, source: SourceAsOfDay, first: np.datetime64 = FIRST) -> str | None:
    return update(store, source, "ABC", first, np.datetime64(source.day), evening(source.day)).refetched


def test_updates_across_a_dividend_and_a_split_equal_a_fresh_fetch(tmp_path: Path) -> None:
    step, whole = BarStore(tmp_path / "step"), BarStore(tmp_path / "whole")
    reasons = [
        run(step, SourceAsOfDay(day)) for day in ("2024-05-31", "2024-06-03", "2024-06-14", "2024-09-10", "2024-09-11")
    ]
    assert reasons[:2] == [None, None]
    assert reasons[2] is not None and "the adjustment of 2024-" in reasons[2]
    assert reasons[3] is not None and "the close of 2024-" in reasons[3]
    assert reasons[4] is None
    run(whole, SourceAsOfDay("2024-09-11"))
    updated, fetched = step.read("ABC"), whole.read("ABC")
    assert updated is not None and fetched is not None
    pd.testing.assert_frame_equal(updated.frame, fetched.frame, check_exact=True)


def test_update_requests_only_the_ends_and_new_sessions(tmp_path: Path) -> None:
    store, source = BarStore(tmp_path), SourceAsOfDay("2024-05-31")
    run(store, source)
    later = SourceAsOfDay("2024-06-05")
    run(store, later)
    old = COMPANY.bars(last="2024-05-31").sessions
    first, last = (str(old[0]), str(old[OVERLAP_SESSIONS - 1])), (str(old[-OVERLAP_SESSIONS]), "2024-06-05")
    assert later.requested == [last, first]
    before = (tmp_path / "ABC.parquet").stat().st_mtime_ns
    assert update(store, later, "ABC", FIRST, np.datetime64("2024-06-05"), evening("2024-06-05")).new == 0
    # an update without changes writes nothing
    assert (tmp_path / "ABC.parquet").stat().st_mtime_ns == before


def test_earlier_start_fetches_all_sessions(tmp_path: Path) -> None:
    store = BarStore(tmp_path)
    run(store, SourceAsOfDay("2024-05-31"), np.datetime64("2024-03-01"))
    assert run(store, SourceAsOfDay("2024-05-31")) == "the store began at 2024-03-01"
    bars = store.read("ABC")
    assert bars is not None and bars.sessions[0] == FIRST
    assert run(store, SourceAsOfDay("2024-05-31")) is None


def test_bar_of_a_running_session_is_not_stored(tmp_path: Path) -> None:
    store = BarStore(tmp_path)
    noon = datetime(2024, 5, 31, 16, 0, tzinfo=UTC)
    update(store, SourceAsOfDay("2024-05-31"), "ABC", FIRST, np.datetime64("2024-05-31"), noon)
    bars = store.read("ABC")
    assert bars is not None and str(bars.sessions[-1]) == "2024-05-30"
    with pytest.raises(NoData, match="no session from 2024-05-31 to 2024-05-31 is complete yet"):
        update(
            BarStore(tmp_path / "new"),
            SourceAsOfDay("2024-05-31"),
            "ABC",
            np.datetime64("2024-05-31"),
            np.datetime64("2024-05-31"),
            noon,
        )


def test_update_refuses_another_source(tmp_path: Path) -> None:
    store = BarStore(tmp_path)
    run(store, SourceAsOfDay("2024-05-31"))
    with pytest.raises(QualityError, match="ABC: is stored from source yahoo, and sources cannot be mixed"):
        run(store, SourceAsOfDay("2024-06-05", name="files"))


def test_broken_hard_rule_leaves_the_store_unchanged(tmp_path: Path) -> None:
    store = BarStore(tmp_path)
    run(store, SourceAsOfDay("2024-05-31"))
    before = (tmp_path / "ABC.parquet").read_bytes()

    class Spoilt(SourceAsOfDay):
        def fetch(self, *arguments: object, **options: object) -> Bars:
            bars = super().fetch(*arguments, **options)  # type: ignore[arg-type]
            bars.frame.iloc[-1, 3] = np.nan
            return bars

    with pytest.raises(QualityError, match=r"bad_price: .*2024-06-05"):
        run(store, Spoilt("2024-06-05"))
    assert (tmp_path / "ABC.parquet").read_bytes() == before


@pytest.fixture
def yahoo() -> Iterator[Yahoo]:
    with serve_yahoo(Yahoo({"ABC": COMPANY.bars()})) as yahoo:
        yield yahoo


def test_failing_source_leaves_the_store_unchanged(yahoo: Yahoo, tmp_path: Path) -> None:
    store = BarStore(tmp_path / "bars")
    session = SessionConfig(origin=yahoo.url, pause_seconds=0, timeout_seconds=2)
    source = YahooSource(session, cache=tmp_path / "yfinance", tries=2, backoff_seconds=0.01)
    now = evening("2024-12-31")
    update(store, source, "ABC", FIRST, np.datetime64("2024-11-29"), now)
    before = (tmp_path / "bars" / "ABC.parquet").read_bytes()
    yahoo.misbehave = lambda symbol: (500, b"<html>")
    with pytest.raises(SourceUnavailable):
        update(store, source, "ABC", FIRST, np.datetime64("2024-12-31"), now)
    assert (tmp_path / "bars" / "ABC.parquet").read_bytes() == before
    yahoo.misbehave = None
    update(store, source, "ABC", FIRST, np.datetime64("2024-12-31"), now)
    bars = store.read("ABC")
    assert bars is not None
    pd.testing.assert_frame_equal(bars.frame, COMPANY.bars().frame, check_freq=False, check_index_type=False)


def _null(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(result: dict[str, Any]) -> None:
        for name in names:
            result["indicators"]["quote"][0][name][100] = None

    return change


def _close(price: float) -> Callable[[dict[str, Any]], None]:
    return lambda result: result["indicators"]["quote"][0]["close"].__setitem__(100, price)


def _repeated_tail(result: dict[str, Any]) -> None:
    result["timestamp"][-2] = result["timestamp"][-1]


def _nothing(result: dict[str, Any]) -> None:
    _null(*PRICE_NAMES, "volume")(result)
    result["indicators"]["adjclose"][0]["adjclose"][100] = None


PRICE_NAMES = ("open", "high", "low", "close")
# malformed charts seen from Yahoo, the rule that they break, and whether the rule is hard
SHAPES: dict[str, tuple[Callable[[dict[str, Any]], object], str, bool]] = {
    # a row without values is dropped
    "no prices and no volume": (_nothing, "missing_session", False),
    "no prices with a volume": (_null(*PRICE_NAMES), "bad_price", True),
    "no close": (_null("close"), "bad_price", True),
    "no open": (_null("open"), "bad_price", True),
    "a close of zero": (_close(0.0), "bad_price", True),
    "a negative close": (_close(-5.0), "bad_price", True),
    "a close of a billion": (_close(1e9), "held", False),
    "a repeated date at the tail": (_repeated_tail, "missing_session", False),
    # yfinance then sets the adjusted closes to the closes, even across a dividend
    "no adjusted closes at all": (lambda result: result["indicators"].pop("adjclose"), "adjusted_otherwise", True),
}


@pytest.mark.parametrize(("change", "rule", "is_hard"), SHAPES.values(), ids=SHAPES.keys())
def test_invalid_shapes_are_refused_or_flagged_and_never_imputed(
    yahoo: Yahoo, tmp_path: Path, change: Callable[[dict[str, Any]], object], rule: str, is_hard: bool
) -> None:
    body = chart(COMPANY.bars(), 0, 9e9)
    change(body["chart"]["result"][0])
    yahoo.misbehave = lambda symbol: (200, json.dumps(body).encode())
    store = BarStore(tmp_path / "bars")
    session = SessionConfig(origin=yahoo.url, pause_seconds=0, timeout_seconds=2)
    source = YahooSource(session, cache=tmp_path / "yfinance", tries=1)
    last, now = np.datetime64("2024-12-31"), evening("2024-12-31")
    if is_hard:
        with pytest.raises(QualityError, match=f"{rule}: .*(2024-05-24|after 2024-06-12)"):
            update(store, source, "ABC", FIRST, last, now)
        assert store.symbols() == []
    else:
        assert any(issue.startswith(f"{rule}: ") for issue in update(store, source, "ABC", FIRST, last, now).issues)


def test_missing_volume_becomes_zero(yahoo: Yahoo, tmp_path: Path) -> None:
    body = chart(COMPANY.bars(), 0, 9e9)
    _null("volume")(body["chart"]["result"][0])
    yahoo.misbehave = lambda symbol: (200, json.dumps(body).encode())
    session = SessionConfig(origin=yahoo.url, pause_seconds=0, timeout_seconds=2)
    bars = YahooSource(session, cache=tmp_path, tries=1).fetch("ABC", FIRST, np.datetime64("2024-12-31"))
    assert bars.frame["volume"].iloc[100] == 0
    assert np.isfinite(bars.frame.to_numpy()).all()


UPDATER = """
import sys
from pathlib import Path
import numpy as np
from forecaster.data.store import BarStore
from tests.data.test_update import SourceAsOfDay, run
for day in ("2024-05-31", "2024-06-14", "2024-09-10", "2024-09-11") * 3:
    if sys.argv[2] == "late" or day < "2024-09":
        run(BarStore(Path(sys.argv[1])), SourceAsOfDay(max(day, sys.argv[3])))
"""


def test_concurrent_updates_leave_a_complete_store(tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", UPDATER, tmp_path, kind, "2024-09-11"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        for kind in ("late", "early")
    ]
    for process in both:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    bars = BarStore(tmp_path).read("ABC")
    assert bars is not None
    pd.testing.assert_frame_equal(
        bars.frame, COMPANY.bars(last="2024-09-11").frame, check_freq=False, check_index_type=False
    )
