"""The scheduler as a process: started twice, stopped, killed, without its database; its reports and metrics."""

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

from forecaster.domain.instants import from_microseconds
from forecaster.scheduling.metrics import Metrics
from forecaster.scheduling.reports import Failure, FailureReporter
from tests.conftest import ROOT, run_module
from tests.postgres import postgres_server
from tests.scheduling.conftest import (
    SchedulerSandbox,
    is_alive,
    killed_afterwards,
    make_sandbox,
    overdue,
    wait_for_exit,
)
from tests.stack.postgres import PROGRAMS


def test_a_job_starts_on_time_and_an_idle_scheduler_stops_at_once(sandbox: SchedulerSandbox) -> None:
    # the sessions of the exchange 24/7 open at midnight
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    due = datetime.now(UTC) + timedelta(seconds=6)
    minutes = (due - midnight).total_seconds() / 60
    # polls are too rare to start the job
    sandbox.write_schedule({"when": {"exchange": "24/7", "edge": "open", "minutes": minutes}}, poll_seconds=600)
    scheduler = sandbox.start_scheduler()
    with killed_afterwards(scheduler):
        sandbox.wait_until(lambda: sandbox.journal("end"))
        scheduler.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        status, out, _ = wait_for_exit(scheduler)
    assert time.monotonic() - begin < 5
    assert (status, json.loads(out)) == (0, {"is_finished": True})
    (run,) = sandbox.runs()
    assert abs(from_microseconds(run.due_at) - due) < timedelta(milliseconds=1)
    assert timedelta(0) <= from_microseconds(run.started_at) - due < timedelta(seconds=2)


def test_a_first_signal_lets_running_jobs_finish_and_starts_no_others(sandbox: SchedulerSandbox) -> None:
    sandbox.set_pipeline(seconds=1.5)
    sandbox.write_schedule(overdue(), {"name": "later"} | overdue(), at_once=1)
    for job in ("score", "later"):
        sandbox.add_job(timedelta(hours=1), job)
    scheduler = sandbox.start_scheduler()
    with killed_afterwards(scheduler):
        sandbox.wait_until(lambda: sandbox.journal("begin"))
        # to the whole process group, as Ctrl-C does
        os.killpg(scheduler.pid, signal.SIGINT)
        status, _, err = wait_for_exit(scheduler)
    assert (status, sandbox.states()) == (0, [("succeeded", 1)])
    assert len(sandbox.journal("end")) == 1
    assert "no new runs" in err


def test_a_second_signal_terminates_running_jobs_which_the_next_scheduler_retries(sandbox: SchedulerSandbox) -> None:
    sandbox.set_pipeline(seconds=60)
    sandbox.write_schedule({"name": "retrain-stock", "run": "retrain", "config": "stock.yaml"})
    sandbox.request_retraining("stock")
    scheduler = sandbox.start_scheduler()
    with killed_afterwards(scheduler):
        sandbox.wait_until(lambda: sandbox.journal("begin"))
        scheduler.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        pipeline = sandbox.journal("begin")[0]["pid"]
        assert is_alive(pipeline)
        scheduler.send_signal(signal.SIGTERM)
        status, _, _ = wait_for_exit(scheduler)
    assert (status, sandbox.states()) == (1, [("lost", 1)])
    assert not is_alive(pipeline)
    assert sandbox.requests()[0].ended_at is None
    sandbox.set_pipeline()
    following = sandbox.start_scheduler()
    with killed_afterwards(following):
        sandbox.wait_until(lambda: sandbox.states() == [("lost", 1), ("succeeded", 2)])
    # the second scheduler closes the request
    assert json.loads(sandbox.requests()[0].outcome)["outcome"] == "promoted"


def test_the_run_of_a_killed_scheduler_is_retried_after_its_process_has_ended(sandbox: SchedulerSandbox) -> None:
    sandbox.set_pipeline(seconds=3)
    sandbox.write_schedule(overdue())
    sandbox.add_job(timedelta(hours=1))
    first = sandbox.start_scheduler()
    with killed_afterwards(first):
        sandbox.wait_until(lambda: sandbox.journal("begin"))
        first.kill()
    second = sandbox.start_scheduler()
    with killed_afterwards(second):
        sandbox.wait_until(lambda: len(sandbox.runs()) == 2)
        # the first pipeline went on without its scheduler, and the second waited for its end
        assert [line["event"] for line in sandbox.journal()][:2] == ["begin", "end"]
        sandbox.wait_until(lambda: sandbox.states() == [("lost", 1), ("succeeded", 2)])
        time.sleep(0.5)
    assert [line["event"] for line in sandbox.journal()] == ["begin", "end"] * 2
    assert len({run.due_at for run in sandbox.runs()}) == 1


def test_two_schedulers_on_one_database_run_a_job_once(sandbox_on_either_database: SchedulerSandbox) -> None:
    sandbox = sandbox_on_either_database
    sandbox.set_pipeline(seconds=0.5)
    sandbox.write_schedule(overdue())
    sandbox.add_job(timedelta(hours=1))
    # different folders, as on two machines
    both = sandbox.start_scheduler(), sandbox.start_scheduler("--set", "folder=elsewhere")
    with killed_afterwards(*both):
        sandbox.wait_until(lambda: sandbox.journal("end"))
        time.sleep(1.5)
        for scheduler in both:
            scheduler.send_signal(signal.SIGTERM)
        assert [wait_for_exit(scheduler)[0] for scheduler in both] == [0, 0]
    assert sandbox.states() == [("succeeded", 1)]
    assert len(sandbox.journal("begin")) == 1


@pytest.mark.skipif(PROGRAMS is None, reason="Postgres is not installed here (apt install postgresql)")
def test_the_scheduler_survives_a_database_outage_while_a_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with postgres_server() as server:
        sandbox = make_sandbox(tmp_path, server.uri)
        sandbox.set_pipeline(seconds=1)
        sandbox.write_schedule(
            overdue(), {"name": "retrain-stock", "run": "retrain", "config": "stock.yaml", "when": None}
        )
        sandbox.add_job(timedelta(hours=1))
        scheduler = sandbox.start_scheduler(FORECASTER_LOG_FORMAT="json")
        with killed_afterwards(scheduler):
            sandbox.wait_until(lambda: sandbox.journal("begin"))
            server.stop()
            sandbox.wait_until(lambda: sandbox.journal("end"))
            time.sleep(0.5)
            sandbox.engine.dispose()
            server.start()
            sandbox.wait_until(lambda: sandbox.states() == [("succeeded", 1)])
            # retraining requests are served again, too
            sandbox.request_retraining("stock")
            sandbox.wait_until(lambda: sandbox.requests()[0].ended_at)
            scheduler.send_signal(signal.SIGTERM)
            status, _, err = wait_for_exit(scheduler)
        sandbox.engine.dispose()
    assert (status, len(sandbox.journal("begin"))) == (0, 2)
    assert "does not answer" in err and "the database answers again" in err
    assert "p%40ss" not in err and "p@ss" not in err


class Webhook(http.server.BaseHTTPRequestHandler):
    """A webhook that fails the first time, and stores the bodies."""

    bodies: ClassVar[list[dict[str, object]]] = []

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(500 if len(self.bodies) == 1 else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *line: object) -> None:
        """Log nothing."""


def test_a_failure_is_logged_counted_and_sent_to_the_webhook_without_showing_its_address(
    sandbox: SchedulerSandbox,
) -> None:
    webhook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=webhook.serve_forever, args=(0.01,), daemon=True).start()
    sandbox.set_pipeline(exit_codes=(2,))
    sandbox.write_schedule(overdue(), metrics={"port": 0})
    sandbox.add_job(timedelta(hours=1))
    address = f"http://127.0.0.1:{webhook.server_port}/hooks/T0K3N"
    scheduler = sandbox.start_scheduler(FORECASTER_LOG_FORMAT="json", FORECASTER_WEBHOOK_URL=address)
    with killed_afterwards(scheduler):
        sandbox.wait_until(lambda: len(Webhook.bodies) == 2)
        assert scheduler.stderr is not None
        url = json.loads(scheduler.stderr.readline())["message"].split()[-1]
        text = urllib.request.urlopen(url).read().decode()
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "evil.example"}))
        scheduler.send_signal(signal.SIGTERM)
        # not communicate, which fails after a line was read
        err = scheduler.stderr.read()
        assert scheduler.wait(timeout=60) == 0
    webhook.shutdown()
    webhook.server_close()
    sent = Webhook.bodies[-1]
    assert (sent["job"], sent["exit_code"], sent["outcome"]) == ("score", 2, "error: it went wrong")
    assert 'forecaster_schedule_given_up_total{job="score"} 1.0' in text
    assert 'forecaster_schedule_runs_total{job="score",outcome="failed"} 1.0' in text
    upcoming = [line for line in text.splitlines() if line.startswith("forecaster_schedule_next_run")]
    assert time.time() < float(upcoming[0].split()[-1]) < time.time() + 86400
    (line,) = [line for line in map(json.loads, err.splitlines()) if line["level"] == "error"]
    assert (line["job"], line["exit_code"], line["logger"]) == ("score", 2, "forecaster.schedule")
    assert "T0K3N" not in err
    # the pipelines do not get the address either
    assert sandbox.journal("begin")[0]["secret"] is None


def test_a_webhook_that_never_finishes_its_answer_is_given_up_after_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    def send_slowly(listener: socket.socket) -> None:
        connections = []
        while not is_over.wait(0.05):
            with contextlib.suppress(BlockingIOError):
                connections.append(listener.accept()[0])
                connections[-1].sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(b".")
        for connection in connections:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        thread = threading.Thread(target=send_slowly, args=(listener,))
        thread.start()
        monkeypatch.setenv("FORECASTER_WEBHOOK_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/T0K3N")
        metrics, begin = Metrics([]), time.monotonic()
        # end the test if the reporter waits too long
        limit = threading.Timer(6, is_over.set)
        limit.start()
        FailureReporter(metrics, seconds=0.5).report(Failure("score", "score", 0, 1, 1, "error"))
        taken = time.monotonic() - begin
        limit.cancel()
        is_over.set()
        thread.join()
    assert taken < 3
    assert metrics.registry.get_sample_value("forecaster_schedule_webhook_failures_total") == 1


def test_metrics_beyond_loopback_require_a_token(sandbox: SchedulerSandbox, tmp_path: Path) -> None:
    sandbox.write_schedule(overdue(), metrics={"host": "0.0.0.0", "port": 0})
    status, _, err = wait_for_exit(sandbox.start_scheduler())
    assert (status, "a token is required beyond loopback" in err) == (2, True)
    token = tmp_path / "token"
    token.write_text("short\n")
    status, _, err = wait_for_exit(sandbox.start_scheduler(FORECASTER_METRICS_TOKEN_FILE=str(token)))
    assert (status, "use at least 16" in err, "short" in err) == (2, True, False)
    # a container's entrypoint sets the variable from the file
    scheduler = sandbox.start_scheduler(FORECASTER_METRICS_TOKEN="a-long-enough-token")
    with killed_afterwards(scheduler):
        assert scheduler.stderr is not None
        url = scheduler.stderr.readline().split()[-1].replace("0.0.0.0", "127.0.0.1")
        for headers in ({}, {"Authorization": "Bearer another"}):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(urllib.request.Request(url, headers=headers))
        # the health check needs no token
        assert urllib.request.urlopen(url.replace("/metrics", "/health/live")).status == 200
        request = urllib.request.Request(url, headers={"Authorization": "Bearer a-long-enough-token"})
        assert b"forecaster_schedule_running" in urllib.request.urlopen(request).read()


def test_list_shows_the_next_runs_and_once_runs_a_job_now(sandbox: SchedulerSandbox) -> None:
    sandbox.write_schedule(
        {"name": "close", "when": {"exchange": "XNYS", "edge": "close", "minutes": 5}},
        {"name": "nightly", "when": {"cron": "30 1 * * *", "zone": "Asia/Kolkata"}},
        {"name": "on-request"},
        # the real pipeline, with the schedule's database
        {"name": "forget", "run": "forget", "arguments": ["--older-than-days", 365]},
    )
    status, out, _ = wait_for_exit(sandbox.start_scheduler("--list"))
    *table, last = out.splitlines()
    assert (status, len(json.loads(last)["next"])) == (0, 6)
    assert sum("20:00:00Z" in line and "01:30 Asia/Kolkata" in line for line in table) == 3
    assert "only on request" in out and sandbox.runs() == []
    status, out, _ = wait_for_exit(sandbox.start_scheduler("--once", "forget"))
    assert (status, json.loads(out)) == (0, {"job": "forget", "exit_code": 0, "outcome": '{"forgotten": 0}'})
    sandbox.set_pipeline(exit_codes=(3,))
    assert wait_for_exit(sandbox.start_scheduler("--once", "nightly"))[0] == 3
    assert [(run.job, run.cause, run.exit_code) for run in sandbox.runs()] == [
        ("forget", "once", 0),
        ("nightly", "once", 3),
    ]
    other = f"sqlite:///{sandbox.folder}/other.db"
    assert wait_for_exit(sandbox.start_scheduler("--once", "nightly", "--database", other))[0] == 3
    assert [line["database"] for line in sandbox.journal("begin")] == [sandbox.url, other]
    status, _, err = wait_for_exit(sandbox.start_scheduler("--once", "other"))
    assert status == 2 and "the jobs are close, nightly, on-request, forget" in err
    done = run_module("pipelines.schedule", "--help", cwd=sandbox.folder)
    assert done.returncode == 0 and "--once score" in done.stdout
