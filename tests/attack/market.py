"""Attacks on the bar store: false, slow and huge answers of its source, and a kill between two writes."""

import gzip
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from forecaster.data.calendars import get_calendar
from tests.attack.attack import Attack, Outcome, last_line
from tests.attack.target import RECIPE, CommandResult, Target
from tests.data.fake_yahoo import Answer, Yahoo, serve_yahoo
from tests.data.prices import Company

START, SYMBOL = "2011-01-03", "ABC"
_SESSIONS = get_calendar("XNYS").sessions(np.datetime64(START), get_calendar("XNYS").last_completed(datetime.now(UTC)))
# the last session that is stored before the attack
STORED_UNTIL = str(_SESSIONS[-6])
_STORING = threading.Lock()
# falsifies a chart result in place
Falsify = Callable[[dict[str, Any]], None]


@dataclass
class FalsifiedYahoo(Yahoo):
    """A simulated Yahoo whose bars are falsified."""

    falsify: Falsify = lambda result: None

    def answer(self, path: str, query: dict[str, list[str]]) -> Answer:
        """Return status, body and headers of a request's answer."""
        answer = super().answer(path, query)
        status, body = answer[:2]
        if status != 200 or "/chart/" not in path:
            return answer
        content = json.loads(body)
        if "timestamp" in content["chart"]["result"][0]:
            self.falsify(content["chart"]["result"][0])
        return status, json.dumps(content).encode()


def _company(**changes: Any) -> Company:
    return Company(symbol=SYMBOL, first=START, last=str(_SESSIONS[-1]), **changes)


def _columns(result: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    quote, adjusted = result["indicators"]["quote"][0], result["indicators"]["adjclose"][0]
    yield from ((quote, name) for name in quote)
    yield adjusted, "adjclose"


def _keep(result: dict[str, Any], rows: list[int]) -> None:
    result["timestamp"] = [result["timestamp"][row] for row in rows]
    for holder, name in _columns(result):
        holder[name] = [holder[name][row] for row in rows]


def _last_rows(result: dict[str, Any]) -> None:
    _keep(result, list(range(len(result["timestamp"])))[-13:])


def _gap(result: dict[str, Any]) -> None:
    """Leave out five sessions within the overlap, in every requested range."""
    n = len(result["timestamp"])
    _keep(result, [row for row in range(n) if not n - 13 <= row < n - 8])


def _weekly(result: dict[str, Any]) -> None:
    _keep(result, list(range(0, len(result["timestamp"]), 5)))


def _scale(result: dict[str, Any], rows: slice, factor: float) -> None:
    for holder, name in _columns(result):
        if name != "volume":
            column = np.array(holder[name])
            column[rows] *= factor
            holder[name] = column.tolist()


def _row_times_100(result: dict[str, Any]) -> None:
    _scale(result, slice(-2, -1), 100)


def _pence_to_pounds(result: dict[str, Any]) -> None:
    _scale(result, slice(-4, None), 0.01)


def _dividend_times_100(result: dict[str, Any]) -> None:
    for event in result.get("events", {}).get("dividends", {}).values():
        event["amount"] *= 100


def _other_symbol(result: dict[str, Any]) -> None:
    result["meta"]["symbol"] = "XYZ"


def _quarterly(result: dict[str, Any]) -> None:
    result["meta"]["dataGranularity"] = "3mo"
    _keep(result, list(range(0, len(result["timestamp"]), 63)))


def _write_job(workspace: Path, yahoo: Yahoo, **changes: Any) -> None:
    session = {"origin": yahoo.url, "pause_seconds": 0, "timeout_seconds": 5}
    job = {"symbols": [SYMBOL], "start": START, "session": session} | changes
    (workspace / "job.yaml").write_text(yaml.safe_dump(job))


def _stored(target: Target) -> Path:
    """Return a folder with a valid store that ends at STORED_UNTIL; it is created once."""
    with _STORING:
        folder = target.folder / "stored"
        if not (folder / "mlruns").exists():
            workspace = target.workspace("stored")
            with serve_yahoo(Yahoo({SYMBOL: _company().bars()})) as yahoo:
                _write_job(workspace, yahoo, end=STORED_UNTIL)
                done = target.run("pipelines.fetch", "job.yaml", cwd=workspace)
            if done.code != 0:
                raise RuntimeError(f"pipelines.fetch cannot prepare the attacks: {done.err[-2000:]}")
        return folder


def _closes(workspace: Path) -> dict[np.datetime64, float]:
    """Return the stored closes by session."""
    file = workspace / "mlruns" / "bars" / f"{SYMBOL}.parquet"
    if not file.exists():
        return {}
    table = pq.read_table(file, columns=["session", "close"]).to_pandas()
    days = table["session"].to_numpy().astype("M8[D]")
    return dict(zip(days, table["close"].tolist(), strict=True))


def _exit_summary(done: CommandResult) -> str:
    return f"exit {done.code}: {'traceback, ' if done.is_traceback else ''}{last_line(done.err)}"


def _updated_by(name: str, falsify: Falsify) -> Callable[[Target], Outcome]:
    """Update a valid store from a false source: no stored session may be lost."""

    def run(target: Target) -> Outcome:
        workspace = target.workspace(name)
        shutil.copytree(_stored(target) / "mlruns", workspace / "mlruns")
        before = _closes(workspace)
        with serve_yahoo(FalsifiedYahoo({SYMBOL: _company().bars()}, falsify=falsify)) as yahoo:
            _write_job(workspace, yahoo)
            done = target.run("pipelines.fetch", "job.yaml", cwd=workspace)
        after = _closes(workspace)
        lost = len(before.keys() - after.keys())
        if lost:
            return Outcome(
                False, f"{len(before)} stored bars, {lost} of them lost, {len(after)} left, exit {done.code}"
            )
        held = done.code != 0 and not done.is_traceback
        return Outcome(held, f"all {len(before)} stored bars kept; {_exit_summary(done)}")

    return run


def _shortened_file(target: Target) -> Outcome:
    workspace = target.workspace("shortened file")
    whole = _company().bars().frame.reset_index()
    job = {"symbols": [SYMBOL], "start": START, "source": "files", "files": {SYMBOL: "a.csv"}, "calendar": "XNYS"}
    (workspace / "job.yaml").write_text(yaml.safe_dump(job))
    whole.to_csv(workspace / "a.csv", index=False)
    target.run("pipelines.fetch", "job.yaml", cwd=workspace)
    before = _closes(workspace)
    # the short file lacks a session of the overlap, so that all sessions are read again
    whole.tail(60).drop(index=whole.index[-5]).to_csv(workspace / "a.csv", index=False)
    done = target.run("pipelines.fetch", "job.yaml", cwd=workspace)
    after = _closes(workspace)
    lost = len(before.keys() - after.keys())
    held = not lost and bool(before) and not done.is_traceback
    return Outcome(held, f"{len(before)} stored bars, {lost} lost; {_exit_summary(done)}")


def _trained_on(name: str, falsify: Falsify, **company: Any) -> Callable[[Target], Outcome]:
    """Fetch a new symbol from a false source and train on it: the fetch or the training must fail."""

    def run(target: Target) -> Outcome:
        workspace = target.workspace(name)
        with serve_yahoo(FalsifiedYahoo({SYMBOL: _company(**company).bars()}, falsify=falsify)) as yahoo:
            _write_job(workspace, yahoo, start="2023-01-03")
            done = target.run("pipelines.fetch", "job.yaml", cwd=workspace)
        after = _closes(workspace)
        if not after:
            return Outcome(not done.is_traceback and done.code != 0, f"nothing stored; {_exit_summary(done)}")
        data = {"source": "store", "symbols": [SYMBOL]}
        chain = [{"kind": kind} for kind in ("log", "last_value", "standardize")]
        recipe = RECIPE | {"data": data, "freq": "XNYS", "transforms": chain, "fit": {"epochs": 1}}
        (workspace / "train.yaml").write_text(yaml.safe_dump(recipe))
        trained = target.run("pipelines.train", "train.yaml", cwd=workspace, timeout=90, limit=None)
        if trained.code == 0:
            closes = json.loads((workspace / "mlruns" / "bars" / f"{SYMBOL}.tail.json").read_text())["bars"]["close"]
            spread = f"closes from {min(closes):.4g} to {max(closes):.4g}"
            return Outcome(False, f"{len(after)} bars stored (exit {done.code}), trained and registered: {spread}")
        return Outcome(not trained.is_traceback, f"the training is refused: {last_line(trained.err)}")

    return run


def _refused_as_new(name: str, falsify: Falsify) -> Callable[[Target], Outcome]:
    """Fetch a new symbol from a false source: the fetch must fail and store nothing."""

    def run(target: Target) -> Outcome:
        workspace = target.workspace(name)
        with serve_yahoo(FalsifiedYahoo({SYMBOL: _company().bars()}, falsify=falsify)) as yahoo:
            _write_job(workspace, yahoo)
            done = target.run("pipelines.fetch", "job.yaml", cwd=workspace)
        after = _closes(workspace)
        if after:
            return Outcome(False, f"{len(after)} bars stored as {SYMBOL}, exit {done.code}")
        return Outcome(done.code != 0 and not done.is_traceback, f"nothing stored; {_exit_summary(done)}")

    return run


def _lost_tail(target: Target) -> Outcome:
    """Remove or truncate the tail file, as a kill -9 or a damaged disk does; the next fetch must repair it."""
    results = []
    for damage in ("missing", "cut"):
        workspace = target.workspace(f"tail {damage}")
        shutil.copytree(_stored(target) / "mlruns", workspace / "mlruns")
        tail = workspace / "mlruns" / "bars" / f"{SYMBOL}.tail.json"
        good = tail.read_bytes()
        tail.unlink() if damage == "missing" else tail.write_bytes(good[:1000])
        with serve_yahoo(Yahoo({SYMBOL: _company().bars()})) as yahoo:
            _write_job(workspace, yahoo, end=STORED_UNTIL)
            done = target.run("pipelines.fetch", "job.yaml", cwd=workspace)
        is_repaired = tail.exists() and tail.read_bytes() == good
        text = f"{damage} tail {'repaired' if is_repaired else 'not repaired'} by the next fetch, exit {done.code}"
        results.append((is_repaired, text))
    return Outcome(all(is_repaired for is_repaired, _ in results), "; ".join(text for _, text in results))


@contextmanager
def _black_hole() -> Iterator[str]:
    """Run a server that accepts connections and never answers; yield its URL."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connections.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()


def _unresponsive_proxy(target: Target) -> Outcome:
    workspace, timeout = target.workspace("black hole"), 60
    symbols = [f"S{number}" for number in range(8)]
    (workspace / "job.yaml").write_text(yaml.safe_dump({"symbols": symbols, "start": START}))
    with _black_hole() as proxy:
        done = target.run(
            "pipelines.fetch", "job.yaml", cwd=workspace, timeout=timeout, HTTPS_PROXY=proxy, HTTP_PROXY=proxy
        )
    if done.code == -9:
        return Outcome(False, f"8 symbols: still waiting after {timeout} s")
    # including startup
    held = done.seconds < 40 and not done.is_traceback and done.code != 0
    return Outcome(held, f"8 symbols: finished after {done.seconds:.0f} s; {_exit_summary(done)}")


def _inflating_answer(target: Target) -> Outcome:
    """Answer with 600 KB of gzip that decompress to 600 MB of JSON."""
    workspace = target.workspace("gzip answer")
    body = gzip.compress(b'{"chart": {"result": [' + b" " * (600 * 10**6) + b"]}}", compresslevel=1)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_chart = "/chart/" in self.path
            content = body if is_chart else b"crumb"
            self.send_response(200)
            if is_chart:
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yahoo = Yahoo(url=f"http://127.0.0.1:{server.server_address[1]}")
        _write_job(workspace, yahoo)
        done = target.run("pipelines.fetch", "job.yaml", cwd=workspace, timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    held = done.mib < 500 and not done.is_traceback and done.code > 0
    return Outcome(held, f"peak {done.mib} MiB, {_exit_summary(done)}")


ATTACKS = (
    Attack("a proxy that swallows everything", "A8", _unresponsive_proxy),
    Attack("an answer of 13 bars for 15 years", "A1", _updated_by("short answer", _last_rows)),
    Attack("a gap of 5 sessions in the overlap", "A1", _updated_by("gap", _gap)),
    Attack("weekly bars for daily ones", "A1", _updated_by("weekly", _weekly)),
    Attack("a shortened price file", "A1", _shortened_file),
    Attack("a dividend x 100", "A2", _trained_on("dividend", _dividend_times_100, dividends={"2026-03-12": 1.2})),
    Attack("a tail lost by kill -9, or cut", "A4", _lost_tail),
    Attack("a row x 100", "A5", _trained_on("row", _row_times_100)),
    Attack("GBp that become GBP", "A5", _trained_on("pence", _pence_to_pounds)),
    Attack("another symbol's data", "A6", _refused_as_new("another", _other_symbol)),
    Attack("three-month bars", "A6", _refused_as_new("quarterly", _quarterly)),
    Attack("600 MB of JSON in 600 KB of gzip", "A8", _inflating_answer),
)
