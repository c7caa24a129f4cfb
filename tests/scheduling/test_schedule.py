"""The scheduler as a process: killed, stopped, doubled, without its database; what it says and where."""

import contextlib
import http.server
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from forecaster.domain.instants import as_moment
from forecaster.scheduling.metrics import Metrics
from forecaster.scheduling.reports import Failure, Reports
from tests.conftest import ROOT, run_module
from tests.postgres import postgres_server
from tests.scheduling.conftest import SchedulerSandbox, earlier, end, ended, is_alive, make_sandbox
from tests.stack.postgres import PROGRAMS


def test_it_fires_at_the_moment_and_stops_at_once_when_nothing_runs(sandbox: SchedulerSandbox) -> None:
    # the exchange that never closes opens at midnight
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    due = datetime.now(UTC) + timedelta(seconds=6)
    minutes = (due - midnight).total_seconds() / 60
    # only the moment itself wakes it
    sandbox.write({"when": {"exchange": "24/7", "edge": "open", "minutes": minutes}}, poll_seconds=600)
    scheduler = sandbox.start()
    with ended(scheduler):
        sandbox.wait(lambda: sandbox.journal("end"))
        scheduler.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        status, out, _ = end(scheduler)
    assert time.monotonic() - begin < 5
    assert (status, json.loads(out)) == (0, {"is_finished": True})
    (run,) = sandbox.runs()
    assert abs(as_moment(run.due_at) - due) < timedelta(milliseconds=1)
    assert timedelta(0) <= as_moment(run.started_at) - due < timedelta(seconds=2)


def test_sigterm_lets_what_runs_finish_and_begins_nothing_new(sandbox: SchedulerSandbox) -> None:
    sandbox.order(seconds=1.5)
    sandbox.write(earlier(), {"name": "later"} | earlier(), at_once=1)
    for job in ("score", "later"):
        sandbox.seen(timedelta(hours=1), job)
    scheduler = sandbox.start()
    with ended(scheduler):
        sandbox.wait(lambda: sandbox.journal("begin"))
        # as Ctrl-C does: to all in the terminal's group
        os.killpg(scheduler.pid, signal.SIGINT)
        status, _, err = end(scheduler)
    assert (status, sandbox.states()) == (0, [("succeeded", 1)])
    assert len(sandbox.journal("end")) == 1
    assert "no new runs" in err


def test_a_second_sigterm_ends_what_runs_and_the_next_scheduler_runs_it_again(sandbox: SchedulerSandbox) -> None:
    sandbox.order(seconds=60)
    sandbox.write({"name": "retrain-stock", "run": "retrain", "config": "stock.yaml"})
    sandbox.ask("stock")
    scheduler = sandbox.start()
    with ended(scheduler):
        sandbox.wait(lambda: sandbox.journal("begin"))
        scheduler.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        child = sandbox.journal("begin")[0]["pid"]
        assert is_alive(child)
        scheduler.send_signal(signal.SIGTERM)
        status, _, _ = end(scheduler)
    assert (status, sandbox.states()) == (1, [("lost", 1)])
    assert not is_alive(child)
    assert sandbox.asked()[0].ended_at is None
    sandbox.order()
    again = sandbox.start()
    with ended(again):
        sandbox.wait(lambda: sandbox.states() == [("lost", 1), ("succeeded", 2)])
    # whoever asked is told, by the one that took it over
    assert json.loads(sandbox.asked()[0].outcome)["outcome"] == "promoted"


def test_a_killed_schedulers_run_is_lost_and_run_again_once_its_process_has_ended(sandbox: SchedulerSandbox) -> None:
    sandbox.order(seconds=3)
    sandbox.write(earlier())
    sandbox.seen(timedelta(hours=1))
    first = sandbox.start()
    with ended(first):
        sandbox.wait(lambda: sandbox.journal("begin"))
        first.kill()
    second = sandbox.start()
    with ended(second):
        sandbox.wait(lambda: len(sandbox.runs()) == 2)
        # the first goes on without its scheduler, and the second has not begun beside it
        assert [line["event"] for line in sandbox.journal()][:2] == ["begin", "end"]
        sandbox.wait(lambda: sandbox.states() == [("lost", 1), ("succeeded", 2)])
        time.sleep(0.5)
    assert [line["event"] for line in sandbox.journal()] == ["begin", "end"] * 2
    assert len({run.due_at for run in sandbox.runs()}) == 1


def test_two_schedulers_on_one_database_run_it_once(sandbox_on_either_database: SchedulerSandbox) -> None:
    sandbox = sandbox_on_either_database
    sandbox.order(seconds=0.5)
    sandbox.write(earlier())
    sandbox.seen(timedelta(hours=1))
    # in one folder, and as on two machines
    both = sandbox.start(), sandbox.start("--set", "folder=elsewhere")
    with ended(*both):
        sandbox.wait(lambda: sandbox.journal("end"))
        time.sleep(1.5)
        for one in both:
            one.send_signal(signal.SIGTERM)
        assert [end(one)[0] for one in both] == [0, 0]
    assert sandbox.states() == [("succeeded", 1)]
    assert len(sandbox.journal("begin")) == 1


@pytest.mark.skipif(PROGRAMS is None, reason="Postgres is not installed here (apt install postgresql)")
def test_it_goes_on_when_its_database_was_away_while_a_job_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with postgres_server() as server:
        sandbox = make_sandbox(tmp_path, server.uri)
        sandbox.order(seconds=1)
        sandbox.write(earlier(), {"name": "retrain-stock", "run": "retrain", "config": "stock.yaml", "when": None})
        sandbox.seen(timedelta(hours=1))
        scheduler = sandbox.start(FORECASTER_LOG_FORMAT="json")
        with ended(scheduler):
            sandbox.wait(lambda: sandbox.journal("begin"))
            server.stop()
            sandbox.wait(lambda: sandbox.journal("end"))
            time.sleep(0.5)
            sandbox.engine.dispose()
            server.start()
            sandbox.wait(lambda: sandbox.states() == [("succeeded", 1)])
            # and the table of asked retrainings is looked at again
            sandbox.ask("stock")
            sandbox.wait(lambda: sandbox.asked()[0].ended_at)
            scheduler.send_signal(signal.SIGTERM)
            status, _, err = end(scheduler)
        sandbox.engine.dispose()
    assert (status, len(sandbox.journal("begin"))) == (0, 2)
    assert "does not answer" in err and "the database answers again" in err
    assert "p%40ss" not in err and "p@ss" not in err


class Hook(http.server.BaseHTTPRequestHandler):
    """A webhook that fails the first time."""

    bodies: ClassVar[list[dict[str, object]]] = []

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(500 if len(self.bodies) == 1 else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *line: object) -> None:
        """Write nothing."""


def test_a_failure_is_logged_counted_and_sent_to_a_webhook_whose_address_stays_secret(
    sandbox: SchedulerSandbox,
) -> None:
    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    sandbox.order(exits=(2,))
    sandbox.write(earlier(), metrics={"port": 0})
    sandbox.seen(timedelta(hours=1))
    address = f"http://127.0.0.1:{hook.server_port}/hooks/T0K3N"
    scheduler = sandbox.start(FORECASTER_LOG_FORMAT="json", FORECASTER_WEBHOOK_URL=address)
    with ended(scheduler):
        sandbox.wait(lambda: len(Hook.bodies) == 2)
        assert scheduler.stderr is not None
        place = json.loads(scheduler.stderr.readline())["message"].split()[-1]
        text = urllib.request.urlopen(place).read().decode()
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(urllib.request.Request(place, headers={"Host": "evil.example"}))
        scheduler.send_signal(signal.SIGTERM)
        # not by communicate, which does not know of the line that is read
        err = scheduler.stderr.read()
        assert scheduler.wait(timeout=60) == 0
    hook.shutdown()
    hook.server_close()
    sent = Hook.bodies[-1]
    assert (sent["job"], sent["exit_code"], sent["outcome"]) == ("score", 2, "error: it went wrong")
    assert 'forecaster_schedule_given_up_total{job="score"} 1.0' in text
    assert 'forecaster_schedule_runs_total{job="score",outcome="failed"} 1.0' in text
    upcoming = [line for line in text.splitlines() if line.startswith("forecaster_schedule_next_run")]
    assert time.time() < float(upcoming[0].split()[-1]) < time.time() + 86400
    (line,) = [line for line in map(json.loads, err.splitlines()) if line["level"] == "error"]
    assert (line["job"], line["exit_code"], line["logger"]) == ("score", 2, "forecaster.schedule")
    assert "T0K3N" not in err
    # nor is it the pipelines'
    assert sandbox.journal("begin")[0]["secret"] is None


def test_a_webhook_that_never_ends_costs_seconds_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    def drip(listener: socket.socket) -> None:
        open_ones = []
        while not is_over.wait(0.05):
            with contextlib.suppress(BlockingIOError):
                open_ones.append(listener.accept()[0])
                open_ones[-1].sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for one in open_ones:
                with contextlib.suppress(OSError):
                    one.sendall(b".")
        for one in open_ones:
            one.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        monkeypatch.setenv("FORECASTER_WEBHOOK_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/T0K3N")
        metrics, begin = Metrics([]), time.monotonic()
        # never is long enough for a test
        limit = threading.Timer(6, is_over.set)
        limit.start()
        Reports(metrics, seconds=0.5).give_up(Failure("score", "score", 0, 1, 1, "error"))
        taken = time.monotonic() - begin
        limit.cancel()
        is_over.set()
        thread.join()
    assert taken < 3
    assert metrics.registry.get_sample_value("forecaster_schedule_webhook_failures_total") == 1


def test_metrics_beyond_loopback_need_a_token(sandbox: SchedulerSandbox, tmp_path: Path) -> None:
    sandbox.write(earlier(), metrics={"host": "0.0.0.0", "port": 0})
    status, _, err = end(sandbox.start())
    assert (status, "beyond loopback a token is needed" in err) == (2, True)
    token = tmp_path / "token"
    token.write_text("short\n")
    status, _, err = end(sandbox.start(FORECASTER_METRICS_TOKEN_FILE=str(token)))
    assert (status, "write at least 16" in err, "short" in err) == (2, True, False)
    # as a container's entrypoint scheduler on what the file holds
    scheduler = sandbox.start(FORECASTER_METRICS_TOKEN="a-long-enough-token")
    with ended(scheduler):
        assert scheduler.stderr is not None
        place = scheduler.stderr.readline().split()[-1].replace("0.0.0.0", "127.0.0.1")
        for header in ({}, {"Authorization": "Bearer another"}):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(urllib.request.Request(place, headers=header))
        # for who has no token
        assert urllib.request.urlopen(place.replace("/metrics", "/health/live")).status == 200
        asked = urllib.request.Request(place, headers={"Authorization": "Bearer a-long-enough-token"})
        assert b"forecaster_schedule_running" in urllib.request.urlopen(asked).read()


def test_list_and_once(sandbox: SchedulerSandbox) -> None:
    sandbox.write(
        {"name": "close", "when": {"exchange": "XNYS", "edge": "close", "minutes": 5}},
        {"name": "nightly", "when": {"cron": "30 1 * * *", "zone": "Asia/Kolkata"}},
        {"name": "asked"},
        # the real pipeline, on the schedule's database
        {"name": "forget", "run": "forget", "arguments": ["--older-than-days", 365]},
    )
    status, out, _ = end(sandbox.start("--list"))
    *table, last = out.splitlines()
    assert (status, len(json.loads(last)["next"])) == (0, 6)
    assert sum("20:00:00Z" in line and "01:30 Asia/Kolkata" in line for line in table) == 3
    assert "only on request" in out and sandbox.runs() == []
    status, out, _ = end(sandbox.start("--once", "forget"))
    assert (status, json.loads(out)) == (0, {"job": "forget", "exit_code": 0, "outcome": '{"forgotten": 0}'})
    sandbox.order(exits=(3,))
    assert end(sandbox.start("--once", "nightly"))[0] == 3
    assert [(run.job, run.cause, run.exit_code) for run in sandbox.runs()] == [
        ("forget", "once", 0),
        ("nightly", "once", 3),
    ]
    other = f"sqlite:///{sandbox.folder}/other.db"
    assert end(sandbox.start("--once", "nightly", "--database", other))[0] == 3
    assert [line["database"] for line in sandbox.journal("begin")] == [sandbox.url, other]
    status, _, err = end(sandbox.start("--once", "other"))
    assert status == 2 and "there are close, nightly, asked, forget" in err
    shown = run_module("pipelines.schedule", "--help", cwd=sandbox.folder)
    assert shown.returncode == 0 and "--once score" in shown.stdout
