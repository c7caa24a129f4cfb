"""`python -m pipelines.fetch`: through a TLS proxy, with failing sources, invalid configurations and price files."""

import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pytest
import yaml

from forecaster.data.bars import Bars
from forecaster.data.calendars import get_calendar
from forecaster.data.store import BarStore
from pipelines.fetch import update_all
from tests.conftest import ROOT, run_module
from tests.data.certificates import write_certificates
from tests.data.fake_yahoo import CUT, Answer, Yahoo, serve_yahoo, unresponsive_server
from tests.data.prices import Company


def _companies(symbols: list[str], first: str = "2010-01-04") -> Yahoo:
    last = str(get_calendar("XNYS").last_completed(datetime.now(UTC)))
    return Yahoo({s: Company(symbol=s, seed=n, first=first, last=last).bars() for n, s in enumerate(symbols)})


def test_stock_configuration_fetches_through_a_tls_proxy(tmp_path: Path) -> None:
    authority, certificate = write_certificates(tmp_path)
    with serve_yahoo(_companies(["SPY", "AAPL"]), certificate) as yahoo:
        environment = {"HTTPS_PROXY": yahoo.url, "REQUESTS_CA_BUNDLE": str(authority), "HOME": str(tmp_path / "home")}
        for new in (len(yahoo.bars["SPY"]), 0):
            done = run_module(
                "pipelines.fetch", ROOT / "pipelines" / "configs" / "stock.yaml", cwd=tmp_path, **environment
            )
            assert done.returncode == 0, done.stderr
            answer = json.loads(done.stdout.splitlines()[-1])
            assert [(row["symbol"], row["new"]) for row in answer["stored"]] == [("SPY", new), ("AAPL", new)]
            assert answer["failed"] == {}
        # requests went to the real host names, of the charts and of the cookie
        assert {"query2.finance.yahoo.com", "fc.yahoo.com"} <= yahoo.hosts
    store = BarStore(tmp_path / "mlruns" / "bars")
    assert store.symbols() == ["AAPL", "SPY"]
    stored = store.read("SPY")
    assert stored is not None
    assert stored.frame["close"].tolist() == yahoo.bars["SPY"].frame["close"].tolist()
    assert not (tmp_path / "home").exists()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[tuple[Yahoo, Path]]:
    symbols = [f"S{number:02d}" for number in range(12)]
    with serve_yahoo(_companies(symbols, "2026-01-02")) as yahoo:
        session = {"origin": yahoo.url, "pause_seconds": 0, "timeout_seconds": 5}
        config = {"symbols": symbols, "start": "2026-01-02", "session": session}
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(config))
        yield yahoo, tmp_path


def test_rate_limit_stops_the_batch_and_the_next_run_resumes(job: tuple[Yahoo, Path]) -> None:
    yahoo, folder = job
    lock, served = threading.Lock(), [0]

    def limit(symbol: str) -> Answer | None:
        with lock:
            served[0] += 1
            return (429, b"Too Many Requests") if served[0] > 5 else None

    yahoo.misbehave = limit
    done = run_module("pipelines.fetch", "job.yaml", cwd=folder)
    assert done.returncode == 3
    answer = json.loads(done.stdout.splitlines()[-1])
    assert [row["symbol"] for row in answer["stored"]] == ["S00", "S01", "S02", "S03", "S04"]
    assert "Yahoo limits the request rate" in answer["failed"]["S05"]
    assert list(answer["failed"].values())[1:] == ["not fetched: rate limit"] * 6
    yahoo.misbehave = None
    again = run_module("pipelines.fetch", "job.yaml", cwd=folder)
    assert again.returncode == 0, again.stderr
    counts = [row["new"] for row in json.loads(again.stdout.splitlines()[-1])["stored"]]
    assert counts == [0] * 5 + [len(yahoo.bars["S05"])] * 7


def test_failed_symbol_does_not_stop_the_others(job: tuple[Yahoo, Path]) -> None:
    _, folder = job
    done = run_module("pipelines.fetch", "job.yaml", "--set", "symbols=[S00, NOBODY, S01]", cwd=folder)
    assert done.returncode == 3
    assert "error: NOBODY: Yahoo does not know this symbol" in done.stderr
    assert "Traceback" not in done.stderr
    assert BarStore(folder / "mlruns" / "bars").symbols() == ["S00", "S01"]


def test_failures_of_every_kind_do_not_stop_the_others(job: tuple[Yahoo, Path]) -> None:
    yahoo, folder = job
    odd: dict[str, Answer] = {
        "S00": (200, b"["), "S01": (0, b"0"), "S02": (403, b""), "S03": (0, b"3"), "S04": (CUT, b"{"),
        "S06": (500, b""),
    }  # fmt: skip
    yahoo.misbehave = odd.get
    symbols = [f"S{number:02d}" for number in range(8)]
    done = run_module(
        "pipelines.fetch", "job.yaml", "--set", f"symbols={symbols}", "session.timeout_seconds=1", cwd=folder
    )
    assert done.returncode == 3
    assert json.loads(done.stdout.splitlines()[-1])["failed"].keys() == odd.keys()
    assert BarStore(folder / "mlruns" / "bars").symbols() == ["S05", "S07"]
    assert "Traceback" not in done.stderr


def test_unresponsive_proxy_stops_the_batch_within_half_a_minute(tmp_path: Path) -> None:
    symbols = [f"S{number:03d}" for number in range(200)]
    config = ROOT / "pipelines" / "configs" / "stock.yaml"
    with unresponsive_server() as url:
        done = run_module("pipelines.fetch", config, "--set", f"symbols={symbols}", cwd=tmp_path, HTTPS_PROXY=url)
    assert done.returncode == 3
    assert "S000: Yahoo cannot be reached" in done.stderr
    not_fetched = [line for line in done.stderr.splitlines() if "not fetched: the source cannot be reached" in line]
    assert not_fetched == [
        "error: 199 symbols (S001, S002, S003, S004, S005, …): not fetched: the source cannot be reached"
    ]
    # times that the pipeline reports, because imports are slow on a busy machine
    seconds = [float(match) for match in re.findall(r"\((?:no response for )(\d+) s\)", done.stderr)]
    assert seconds and max(seconds) < 25


def test_unexpected_error_is_logged_and_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    class Defective:
        name = "test"

        def fetch(self, symbol: str, *arguments: object, **options: object) -> Bars:
            return Company(symbol=symbol).bars() if symbol != "BAD" else 1 / 0  # type: ignore[return-value]

    answer = update_all(
        BarStore(tmp_path), Defective(), ("A", "BAD", "B"), date(2024, 1, 2), date(2024, 12, 31), None, full=False
    )
    assert [row["symbol"] for row in answer["stored"]] == ["A", "B"]
    assert "BAD: unexpected error" in answer["failed"]["BAD"]
    assert "ZeroDivisionError" not in capsys.readouterr().err
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\x00" * 300, b""])
def test_damaged_yfinance_cache_is_recreated(job: tuple[Yahoo, Path], content: bytes) -> None:
    _, folder = job
    cache = folder / "mlruns" / "yfinance"
    cache.mkdir(parents=True)
    for name in ("cookies.db", "tkr-tz.db", "isin-tkr.db"):
        (cache / name).write_bytes(content)
    done = run_module("pipelines.fetch", "job.yaml", "--set", "symbols=[S00, S01]", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_calendar_can_be_set_for_a_symbol(job: tuple[Yahoo, Path]) -> None:
    yahoo, folder = job
    yahoo.exchange = "XYZ"
    done = run_module("pipelines.fetch", "job.yaml", "--set", "symbols=[S00]", cwd=folder)
    assert done.returncode == 3
    assert "S00: exchange 'XYZ' has no known calendar; set calendar: {S00: …}" in done.stderr
    done = run_module("pipelines.fetch", "job.yaml", "--set", "symbols=[S00]", "calendar={S00: XNYS}", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = run_module("pipelines.fetch", "job.yaml", "--set", "symbols=[S00]", "calendar={S00: NOPE}", cwd=folder)
    assert "S00: there is no calendar 'NOPE'; choose from " in done.stderr


def test_unreachable_yahoo_is_reported_within_half_a_minute(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run_module(
        "pipelines.fetch", ROOT / "pipelines" / "configs" / "stock.yaml", cwd=tmp_path, HTTPS_PROXY="http://127.0.0.1:1"
    )
    assert time.monotonic() - started < 30
    assert done.returncode == 3
    assert "SPY: Yahoo cannot be reached" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("symbols=[]", "symbols: "),
        ("symbols=[A, A]", "symbols: a symbol is repeated"),
        ("end=2000-01-01", "end 2000-01-01 is before start 2026-01-02"),
        ("interval=1h", "interval: "),
        ("session.proxi=x", "session.proxi: unknown key"),
        ("source=files", "calendar: files do not name their exchange"),
        ("files={A: a.csv}", "files: is required for source: files, and not allowed"),
        ("symbols=AAA", "symbols: must be a list; write [AAA]"),
        ("symbols=[ON]", "symbols.0: must be text, but YAML reads it as True; put it in quotes"),
        ("symbols=[A, no]", "symbols.1: must be text, but YAML reads it as False"),
        ("symbols=[0700]", "symbols.0: must be text, but YAML reads it as 448"),
        ("symbols=[2024-01-02]", "symbols.0: must be text, but YAML reads it as 2024-01-02"),
        ("symbols=['A?B']", "symbols: ['A?B'] are not valid symbols of yahoo: write letters"),
        ("symbols=[..]", "symbols: ['..'] are not valid symbols of yahoo"),
        ("start=2023-02-29", "day is out of range for month"),
        ("end=2026-02-30", "day is out of range for month"),
        ("start=0001-01-01", "start: Input should be greater than or equal to 1700-01-01"),
        ("end=9999-12-31", "end: Input should be less than or equal to 2200-12-31"),
        ("known_missing={S00: [9999-01-02]}", "known_missing.S00.0: Input should be less than or equal to 2200-12-31"),
        ("known_missing={S00: [2017-02-29]}", "day is out of range for month"),
    ],
)
def test_invalid_configuration_is_refused(job: tuple[Yahoo, Path], change: str, message: str) -> None:
    done = run_module("pipelines.fetch", "job.yaml", "--set", change, cwd=job[1])
    assert done.returncode == 2
    assert message in done.stderr


def test_price_files_and_synthetic_prices_are_stored(tmp_path: Path) -> None:
    Company().bars().frame.reset_index().to_csv(tmp_path / "mine.csv", index=False)
    job = {
        "symbols": ["MINE"],
        "start": "2024-01-01",
        "source": "files",
        "files": {"MINE": "mine.csv"},
        "calendar": "XNYS",
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"fetch": job}))
    done = run_module("pipelines.fetch", "job.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    synthetic = ROOT / "pipelines" / "configs" / "synthetic.yaml"
    for end in ("2024-06-28", "2024-07-05"):
        done = run_module("pipelines.synthesize", synthetic, "--set", f"end={end}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert [row["new"] for row in json.loads(done.stdout.splitlines()[-1])["stored"]] == [4, 4]
    store = BarStore(tmp_path / "mlruns" / "bars")
    assert store.symbols() == ["MINE", "WALK", "WAVE"]
    mine, walk = store.read("MINE"), store.read("WALK")
    assert mine is not None and walk is not None
    pd.testing.assert_frame_equal(mine.frame, Company().bars().frame, check_freq=False, check_index_type=False)
    assert (mine.origin.source, walk.origin.source) == ("files", "synthetic")
    assert str(walk.sessions[-1]) == "2024-07-05"


@pytest.fixture
def price_file_job(tmp_path: Path) -> Iterator[tuple[Path, pd.DataFrame]]:
    """Yield a folder with a job for a price file, which has been fetched once, and the file's table."""
    table = Company().bars().frame.reset_index()
    table.to_csv(tmp_path / "mine.csv", index=False)
    job = {"symbols": ["MINE"], "start": "2024-01-01", "source": "files", "files": {"MINE": "mine.csv"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"fetch": job | {"calendar": "XNYS"}}))
    assert run_module("pipelines.fetch", "job.yaml", cwd=tmp_path).returncode == 0
    yield tmp_path, table


def test_corrected_file_is_read_again(price_file_job: tuple[Path, pd.DataFrame]) -> None:
    folder, table = price_file_job
    table.loc[100, ["open", "high", "low", "close", "adj_close"]] *= 1.01
    table.to_csv(folder / "mine.csv", index=False)
    done = run_module("pipelines.fetch", "job.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["stored"][0]["refetched"] == "the close of 2024-05-24 changed"


def test_shortened_file_is_refused_without_replace(price_file_job: tuple[Path, pd.DataFrame]) -> None:
    folder, table = price_file_job
    table.tail(13).to_csv(folder / "mine.csv", index=False)
    store = BarStore(folder / "mlruns" / "bars")
    done = run_module("pipelines.fetch", "job.yaml", cwd=folder)
    assert done.returncode == 3
    assert "error: MINE: the response lacks 239 stored sessions (2024-01-02, " in done.stderr
    bars = store.read("MINE")
    assert bars is not None and len(bars) == 252
    done = run_module("pipelines.fetch", "job.yaml", "--replace", cwd=folder)
    assert done.returncode == 0, done.stderr
    bars = store.read("MINE")
    assert bars is not None and len(bars) == 13


def test_price_jump_is_held_until_it_is_confirmed(price_file_job: tuple[Path, pd.DataFrame]) -> None:
    folder, table = price_file_job
    table.loc[100:, ["open", "high", "low", "close", "adj_close"]] *= 0.5
    table.to_csv(folder / "mine.csv", index=False)
    done = run_module("pipelines.fetch", "job.yaml", cwd=folder)
    assert done.returncode == 3
    assert "unconfirmed" in done.stdout
    assert "MINE: held back from 2024-05-24 on: the close goes from" in done.stderr
    flag = "--confirm MINE:2024-05-24"
    assert flag in done.stderr
    done = run_module("pipelines.fetch", "job.yaml", *flag.split(), cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("2024-05-24", "is not SYMBOL:DATE"),
        ("S00:2024-02-30", "does not end with a date"),
        ("YOURS:2024-05-24", "['YOURS'] are not in the symbols"),
    ],
)
def test_invalid_confirmation_is_refused(job: tuple[Yahoo, Path], flag: str, message: str) -> None:
    done = run_module("pipelines.fetch", "job.yaml", "--confirm", flag, cwd=job[1])
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
