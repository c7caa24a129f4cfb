"""The bar store: reads return what was written, file names are unique, and a kill leaves complete files."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.data.store import TAIL_ROWS, BarStore
from forecaster.data.tails import file_name, read_tail
from forecaster.domain.errors import DataError, FileFormatError, SourceUnavailable
from tests.conftest import ROOT
from tests.data.prices import ORIGIN, Company
from tests.data.test_update import SourceAsOfDay, run

DUE = datetime(2025, 1, 2, 21, 30, tzinfo=UTC)
SYMBOLS = ["BRK-B", "^GSPC", "EURUSD=X", "005930.KS", "brk-b", "../evil", "a/b", "Ä", "."]


def test_read_returns_what_write_has_stored(tmp_path: Path) -> None:
    store = BarStore(tmp_path)
    for number, symbol in enumerate(SYMBOLS):
        bars = Company(symbol=symbol, seed=number, dividends={"2024-03-14": 1.0}).bars()
        with store.lock(symbol):
            store.write(bars, DUE)
        found = store.read(symbol)
        assert found is not None
        assert (found.symbol, found.origin) == (symbol, ORIGIN)
        pd.testing.assert_frame_equal(found.frame, bars.frame, check_freq=False, check_index_type=False)
        tail = read_tail(tmp_path, symbol)
        assert (tail.symbol, str(tail.days[-1]), tail.due_at) == (symbol, "2024-12-31", DUE)
        assert tail.bars["close"].tolist() == bars.adjusted()["close"].tail(TAIL_ROWS).tolist()
    assert store.symbols() == sorted(SYMBOLS)
    assert store.read("NOBODY") is None


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_file_names_are_safe_and_unique(first: str, second: str) -> None:
    names = []
    for symbol in (first, second):
        try:
            symbol.encode()
        except UnicodeEncodeError:
            return
        names.append(file_name(symbol))
    assert (names[0].lower() == names[1].lower()) == (first == second)
    assert all(character.isascii() and (character.isalnum() or character in "-_.%") for character in names[0])


def test_error_names_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "ABC.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(FileFormatError, match=r"ABC\.parquet: cannot be read"):
        BarStore(tmp_path).read("ABC")


def test_lock_excludes_other_processes_and_ends_with_them(tmp_path: Path) -> None:
    store = BarStore(tmp_path, lock_timeout_seconds=0.2)
    script = "import sys,time; from pathlib import Path; from forecaster.data.store import BarStore\n"
    script += "with BarStore(Path(sys.argv[1])).lock('ABC'): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DataError, match="ABC: another process"), store.lock("ABC"):
        pass
    with store.lock("OTHER"):
        pass
    holder.kill()
    holder.communicate()
    # the lock ends with the process
    with store.lock("ABC"):
        pass


WRITER = """
import sys
from pathlib import Path
from typing import Any
from forecaster.data.store import BarStore
from tests.data.test_store import DUE
from tests.data.prices import Company
store = BarStore(Path(sys.argv[1]))
versions = [Company(seed=seed, dividends={"2024-03-14": 1.0}).bars() for seed in (1, 2)]
with store.lock("ABC"):
    store.write(versions[0], DUE)
print("ready", flush=True)
while True:
    for bars in versions:
        with store.lock("ABC"):
            store.write(bars, DUE)
"""


def test_kill_during_a_write_leaves_a_complete_file(tmp_path: Path) -> None:
    store = BarStore(tmp_path)
    whole = {seed: Company(seed=seed, dividends={"2024-03-14": 1.0}).bars().frame["close"].iloc[0] for seed in (1, 2)}
    for attempt in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        kill_at = time.monotonic() + 0.1 + attempt * 0.0075
        while time.monotonic() < kill_at:
            # a reader without the lock sees complete files too
            assert store.read("ABC") is not None
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        found = store.read("ABC")
        assert found is not None
        assert len(found) == 252
        assert found.frame["close"].iloc[0] in whole.values()
        assert len(json.loads((tmp_path / "ABC.tail.json").read_text())["bars"]["close"]) == 252
    with store.lock("ABC"):
        store.write(Company(seed=1).bars(), DUE)
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".json", ".lock"}


KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from forecaster.data import store
from tests.data.test_update import SourceAsOfDay, run
write = store._write
def write_or_die(path, content):
    if path.name.endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
store._write = write_or_die
run(store.BarStore(Path(sys.argv[1])), SourceAsOfDay("2024-06-14"))
"""


@pytest.mark.parametrize("at", ["tail.json", "quality.json"])
def test_next_update_repairs_the_tail_after_a_kill(tmp_path: Path, at: str) -> None:
    store = BarStore(tmp_path)
    run(store, SourceAsOfDay("2024-05-31"))
    left = subprocess.run([sys.executable, "-c", KILLED, tmp_path, at], cwd=ROOT, check=False)
    assert left.returncode == -signal.SIGKILL
    bars = store.read("ABC")
    assert bars is not None and str(bars.sessions[-1]) == "2024-06-14"
    assert str(read_tail(tmp_path, "ABC").days[-1]) == "2024-05-31"
    # the next update has no new bars, or its source is unavailable
    source = SourceAsOfDay("2024-06-14") if at == "tail.json" else SourceAsOfDay("2024-06-14", answers=False)
    with contextlib.suppress(SourceUnavailable):
        run(store, source)
    tail = read_tail(tmp_path, "ABC")
    assert tail.bars["close"].tolist() == bars.adjusted()["close"].tail(TAIL_ROWS).tolist()
    assert store.is_whole("ABC")
    assert json.loads((tmp_path / "ABC.quality.json").read_text())["symbol"] == "ABC"


@pytest.mark.parametrize("lost", [Path.unlink, lambda path: path.write_text("{")])
def test_update_rewrites_a_missing_or_damaged_tail(tmp_path: Path, lost: Callable[[Path], object]) -> None:
    store = BarStore(tmp_path)
    run(store, SourceAsOfDay("2024-05-31"))
    before = (tmp_path / "ABC.tail.json").read_bytes()
    lost(tmp_path / "ABC.tail.json")
    run(store, SourceAsOfDay("2024-05-31"))
    assert (tmp_path / "ABC.tail.json").read_bytes() == before


def test_lock_removes_only_the_symbols_own_drafts(tmp_path: Path) -> None:
    others = [".SAP.DE.parquet.draft", ".SAP.DE.tail.json.draft", ".SAP-X.parquet.draft", ".A.SAP.parquet.draft"]
    own = [".SAP.parquet.draft", ".SAP.parquet.previous.draft", ".SAP.tail.json.draft", ".SAP.quality.json.draft"]
    for name in others + own:
        (tmp_path / name).touch()
    with BarStore(tmp_path).lock("SAP"):
        assert {path.name for path in tmp_path.glob(".*.draft")} == set(others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"due_at": "2025-01-02T21:30:00"}, "due_at has no time zone"),
        ({"ds": ["2024-01-03", "2024-01-02"]}, "ds is not increasing"),
        ({"ds": ["2024-01-02", "NaT"]}, "ds is not increasing"),
        ({"bars": [1.0]}, "must be integers"),
        ({"bars": {}}, "'open'"),
        ({"close": [1.0]}, "close does not have one finite number per day"),
        ({"close": [1.0, float("nan")]}, "close does not have one finite number per day"),
        ("[" * 100_000, "maximum recursion depth"),
    ],
)
def test_read_tail_refuses_a_damaged_tail(tmp_path: Path, change: Any, message: str) -> None:
    bars = {name: [1.0, 2.0] for name in ("open", "high", "low", "close", "volume")}
    tail: dict[str, Any] = {"symbol": "ABC", "ds": ["2024-01-02", "2024-01-03"], "bars": bars}
    tail["due_at"] = DUE.isoformat()
    path = tmp_path / "ABC.tail.json"
    path.write_text(json.dumps(tail))
    assert read_tail(tmp_path, "ABC").bars["close"].tolist() == [1.0, 2.0]
    if isinstance(change, dict) and "close" in change:
        change = {"bars": bars | change}
    path.write_text(change if isinstance(change, str) else json.dumps(tail | change))
    with pytest.raises(FileFormatError, match=f"ABC.tail.json: cannot be read .*{message}"):
        read_tail(tmp_path, "ABC")
