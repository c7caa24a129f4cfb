"""Attacks on the service: floods, large requests, other owners' keys, forged hosts, and a deleted database."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.attack.attack import Attack, Outcome
from tests.attack.target import MIB, Service, Target, forecast_request

_CLIENTS = 64


# a separate process, so that the threads of the attack do not delay it
_HEALTH_CHECKS = """
import http.client, select, sys, time
slowest = 0.0
while not select.select([sys.stdin], [], [], 0.05)[0]:
    start = time.monotonic()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
        connection.request("GET", "/health/live")
        connection.getresponse().read()
        connection.close()
    except (OSError, http.client.HTTPException):
        pass
    slowest = max(slowest, time.monotonic() - start)
print(slowest)
"""


class HealthChecks:
    """Requests `/health/live` repeatedly. After `stop`, `slowest` is the longest response time in seconds."""

    def __init__(self, service: Service) -> None:
        self.slowest = 0.0
        command = [sys.executable, "-c", _HEALTH_CHECKS, str(service.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def stop(self) -> None:
        """Stop the requests and set `slowest`."""
        stdout, _ = self._process.communicate("stop\n", timeout=60)
        self.slowest = float(stdout)


def _flood(name: str, size: int, chunk: bytes, head: bytes = b"") -> Callable[[Target], Outcome]:
    """Send many bytes without a key and read no answer: the service must disconnect before its memory grows."""

    def run(target: Target) -> Outcome:
        with target.service(target.workspace(name)) as service:
            idle, sent = service.peak_mib, 0
            with service.connect() as raw, suppress(OSError):
                raw.sendall(head)
                while sent < size:
                    raw.sendall(chunk)
                    sent += len(chunk)
            time.sleep(2)
            seen = f"{sent / MIB:.0f} of {size // MIB} MiB accepted"
            if not service.is_alive:
                return Outcome(False, f"{seen}, and the service died with {service.process.returncode}")
            growth, is_answering = service.peak_mib - idle, service.is_answering()
        text = f"{seen}, {growth} MiB more memory, {'answers' if is_answering else 'does not answer'} afterwards"
        return Outcome(is_answering and growth < 100, text)

    return run


def _deleted_database(target: Target) -> Outcome:
    """Delete the database file under load: forecasts that are answered afterwards must be in the new file."""
    workspace = target.workspace("deleted database")
    answered: list[str] = []
    refused: list[int] = []
    is_stopped = threading.Event()

    def load(service: Service) -> None:
        while not is_stopped.is_set():
            with suppress(OSError):
                status, answer = service.forecast(timeout=10)
                if status == 200:
                    answered.append(answer["forecasts"][0]["forecast_id"])
                else:
                    refused.append(status)
                    time.sleep(0.05)

    with target.service(workspace) as service:
        threads = [threading.Thread(target=load, args=(service,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(2)
        n_before = len(answered)
        for file in workspace.glob("service.db*"):
            file.unlink()
        time.sleep(4)
        is_stopped.set()
        for thread in threads:
            thread.join()
        is_ready = service.request("GET", "/health/ready")[0] == 200
    # earlier forecasts were deleted with the file, maybe also those in flight
    after = answered[n_before + len(threads) :]
    with target.service(workspace) as service:
        # a sample, since reading all would take minutes
        sample = after[:: max(1, len(after) // 50)]
        lost = sum(service.request("GET", f"/v1/forecasts/{forecast_id}")[0] != 200 for forecast_id in sample)
    share = f"{len(after)} answers afterwards, {lost} of a sample of {len(sample)} are lost"
    text = f"{share}, {len(refused)} refused, ready {200 if is_ready else 503}"
    return Outcome(lost == 0 and (bool(refused) or bool(after)), text)


def _large_request() -> bytes:
    """Return a valid request close to the limits: up to 5,000 series with nine levels, in up to 15 MiB."""
    body = forecast_request(horizon=1, level=[10, 20, 30, 40, 50, 60, 70, 80, 90])
    series = body["series"][0]
    length = len(json.dumps(series)) + 4
    body["series"] = [series | {"unique_id": f"{number}"} for number in range(min(5000, 15 * MIB // length))]
    return json.dumps(body).encode()


def _large_tensor() -> bytes:
    """Return a valid request of `/v2` close to the limit of the body."""
    batch = 15 * MIB // (24 * 2)
    tensor = {"name": "x", "shape": [batch, 24, 1], "datatype": "FP64"}
    text = json.dumps({"inputs": [tensor]})
    return text.replace('"FP64"', f'"FP64", "data": [{",".join("1" for _ in range(batch * 24))}]').encode()


def _greedy(name: str, path: str, body: Callable[[], bytes]) -> Callable[[Target], Outcome]:
    """Send the largest request from 64 clients, half of which do not read their answer."""

    def run(target: Target) -> Outcome:
        content = body()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        codes: list[str] = []

        def send(service: Service, reads: bool) -> None:
            with suppress(OSError), service.connect(timeout=20) as raw:
                raw.sendall(head + content)
                if not reads:
                    time.sleep(10)
                    return
                codes.append(raw.recv(4096)[9:12].decode(errors="replace"))
                while raw.recv(MIB):
                    pass

        with target.service(target.workspace(name)) as service:
            checks = HealthChecks(service)
            threads = [threading.Thread(target=send, args=(service, number % 2 == 0)) for number in range(_CLIENTS)]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + 40
            peak = 0
            for thread in threads:
                while thread.is_alive() and time.monotonic() < deadline:
                    peak = max(peak, service.peak_mib)
                    thread.join(0.2)
            peak = max(peak, service.peak_mib)
            checks.stop()
            exit_code = None if service.is_alive else service.process.returncode
            counts = ", ".join(f"{codes.count(code)} x {code or 'closed'}" for code in sorted(set(codes)))
            if exit_code is not None:
                return Outcome(False, f"the service died with {exit_code} at {peak} MiB; answers {counts or 'none'}")
        text = f"peak {peak} MiB, slowest /health/live {checks.slowest:.1f} s, answers {counts or 'none'}"
        has_no_error = all(code[:1] != "5" or code == "503" for code in codes)
        # the requirement is half a second, but the clients run on the same machine
        return Outcome(has_no_error and peak < 512 and checks.slowest < 1, text)

    return run


def _key(target: Target, workspace: Any, name: str) -> str:
    database = f"sqlite:///{workspace}/service.db"
    common = ("create", "--name", name, "--database", database, "--scope", "forecast", "actuals")
    done = target.run("pipelines.keys", *common, "--owner", name, cwd=workspace)
    if done.code == 2:
        # a revision without owners
        done = target.run("pipelines.keys", *common, cwd=workspace)
    key: str = json.loads(done.out.splitlines()[-1])["key"]
    return key


def _another_key(target: Target) -> Outcome:
    workspace = target.workspace("another key")
    keys = [{"Authorization": f"Bearer {_key(target, workspace, name)}"} for name in ("mine", "yours")]
    with target.service(workspace) as service:
        status, answer = service.forecast(headers=keys[0])
        if status != 200:
            return Outcome(False, f"not carried out: a forecast was answered {status}")
        forecast = answer["forecasts"][0]
        path = f"/v1/forecasts/{forecast['forecast_id']}"
        by_id = service.request("GET", path, headers=keys[1])
        listed = service.request("GET", "/v1/forecasts?model=sine&unique_id=a", headers=keys[1])
        actuals = [{"unique_id": "a", "ds": ds, "y": 1e6} for ds in forecast["ds"]]
        service.request("POST", "/v1/actuals", {"actuals": actuals}, headers=keys[1])
        mine = service.request("GET", path, headers=keys[0])[1]
    n_listed = len(listed[1].get("forecasts", []))
    n_changed = sum(value is not None for value in mine["actual"])
    text = f"by id {by_id[0]}, {n_listed} of another's forecasts listed, {n_changed} of its actuals set"
    return Outcome(by_id[0] == 404 and not n_listed and not n_changed, text)


def _hosts(target: Target) -> Outcome:
    heads = {
        "two Host headers": b"Host: evil.com\r\nHost: 127.0.0.1\r\n",
        "127.0.0.1:80@evil.com": b"Host: 127.0.0.1:80@evil.com\r\n",
    }
    seen = {}
    with target.service(target.workspace("hosts")) as service:
        for name, head in heads.items():
            with service.connect() as raw:
                raw.sendall(b"GET /v1/models HTTP/1.1\r\n" + head + b"Connection: close\r\n\r\n")
                seen[name] = raw.recv(4096)[9:12].decode(errors="replace")
    return Outcome(set(seen.values()) == {"400"}, ", ".join(f"{name}: {code}" for name, code in seen.items()))


_PIPELINED = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
ATTACKS = (
    Attack(
        "50 MiB of headers without a key", "B1",
        _flood("headers", 50 * MIB, b"a:b\r\n" * 2000, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"),
    ),
    Attack("18 MiB of pipelined GETs without a key", "B1", _flood("pipelined", 18 * MIB, _PIPELINED * 1000)),
    Attack("a SQLite file deleted under load", "B5", _deleted_database),
    Attack("64 clients with the largest forecasts", "B6", _greedy("forecasts", "/v1/forecasts", _large_request)),
    Attack("64 clients with the largest tensors", "B6", _greedy("tensors", "/v2/models/sine/infer", _large_tensor)),
    Attack("another owner's key reads and moves forecasts", "B7", _another_key),
    Attack("two Host headers, and a host behind @", "B8", _hosts),
)  # fmt: skip
