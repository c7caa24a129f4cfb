"""The bar store: what is written is read, names never collide, a crash leaves the old file or the new one, whole."""

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
from tests.data.test_update import SourceOnDay, run

DUE = datetime(2025, 1, 2, 21, 30, tzinfo=UTC)
SYMBOLS = ["BRK-B", "^GSPC", "EURUSD=X", "005930.KS", "brk-b", "../evil", "a/b", "Ä", "."]


def test_what_is_written_is_read(tmp_path: Path) -> None:
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
def test_file_names_are_safe_and_never_collide(one: str, other: str) -> None:
    names = []
    for symbol in (one, other):
        try:
            symbol.encode()
        except UnicodeEncodeError:
            return
        names.append(file_name(symbol))
    assert (names[0].lower() == names[1].lower()) == (one == other)
    assert all(character.isascii() and (character.isalnum() or character in "-_.%") for character in names[0])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "ABC.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(FileFormatError, match=r"ABC\.parquet: cannot be read"):
        BarStore(tmp_path).read("ABC")


def test_a_symbol_that_another_process_updates_is_waited_for(tmp_path: Path) -> None:
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
    # its lock ends with it, however it ends
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


def test_killed_in_mid_write_many_times_the_file_is_always_whole(tmp_path: Path) -> None:
    store = BarStore(tmp_path)
    whole = {seed: Company(seed=seed, dividends={"2024-03-14": 1.0}).bars().frame["close"].iloc[0] for seed in (1, 2)}
    for attempt in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        kill_at = time.monotonic() + 0.1 + attempt * 0.0037
        while time.monotonic() < kill_at:
            # a reader that holds no lock sees whole files too
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
from tests.data.test_update import SourceOnDay, run
write = store._replace
def replace(path, content):
    if path.name.endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
store._replace = replace
run(store.BarStore(Path(sys.argv[1])), SourceOnDay("2024-06-14"))
"""


@pytest.mark.parametrize("at", ["tail.json", "quality.json"])
def test_a_tail_that_a_killed_update_left_behind_is_mended_by_the_next_whatever_it_brings(
    tmp_path: Path, at: str
) -> None:
    store = BarStore(tmp_path)
    run(store, SourceOnDay("2024-05-31"))
    left = subprocess.run([sys.executable, "-c", KILLED, tmp_path, at], cwd=ROOT, check=False)
    assert left.returncode == -signal.SIGKILL
    bars = store.read("ABC")
    assert bars is not None and str(bars.sessions[-1]) == "2024-06-14"
    assert str(read_tail(tmp_path, "ABC").days[-1]) == "2024-05-31"
    # nothing is new, or the source is away
    source = SourceOnDay("2024-06-14") if at == "tail.json" else SourceOnDay("2024-06-14", answers=False)
    with contextlib.suppress(SourceUnavailable):
        run(store, source)
    tail = read_tail(tmp_path, "ABC")
    assert tail.bars["close"].tolist() == bars.adjusted()["close"].tail(TAIL_ROWS).tolist()
    assert store.is_whole("ABC")
    assert json.loads((tmp_path / "ABC.quality.json").read_text())["symbol"] == "ABC"


@pytest.mark.parametrize("lost", [Path.unlink, lambda path: path.write_text("{")])
def test_a_tail_that_is_gone_or_spoilt_is_written_anew(tmp_path: Path, lost: Callable[[Path], object]) -> None:
    store = BarStore(tmp_path)
    run(store, SourceOnDay("2024-05-31"))
    before = (tmp_path / "ABC.tail.json").read_bytes()
    lost(tmp_path / "ABC.tail.json")
    run(store, SourceOnDay("2024-05-31"))
    assert (tmp_path / "ABC.tail.json").read_bytes() == before


def test_only_a_symbols_own_drafts_are_cleaned_up(tmp_path: Path) -> None:
    others = [".SAP.DE.parquet.draft", ".SAP.DE.tail.json.draft", ".SAP-X.parquet.draft", ".A.SAP.parquet.draft"]
    own = [".SAP.parquet.draft", ".SAP.parquet.previous.draft", ".SAP.tail.json.draft", ".SAP.quality.json.draft"]
    for name in others + own:
        (tmp_path / name).touch()
    with BarStore(tmp_path).lock("SAP"):
        assert {path.name for path in tmp_path.glob(".*.draft")} == set(others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"due_at": "2025-01-02T21:30:00"}, "due_at has no zone"),
        ({"ds": ["2024-01-03", "2024-01-02"]}, "its days are not in order"),
        ({"ds": ["2024-01-02", "NaT"]}, "its days are not in order"),
        ({"bars": [1.0]}, "must be integers"),
        ({"bars": {}}, "'open'"),
        ({"close": [1.0]}, "close has not one number for each day"),
        ({"close": [1.0, float("nan")]}, "close has not one number for each day"),
        ("[" * 100_000, "maximum recursion depth"),
    ],
)
def test_a_damaged_tail_is_said_and_not_served(tmp_path: Path, change: Any, message: str) -> None:
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
