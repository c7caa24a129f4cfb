"""Hostile clients: generated requests, random bytes and slow senders."""

import random
import resource
import socket
import time
from contextlib import suppress
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels, listening
from tests.faults.conftest import RunningService, count, running


def test_generated_requests_cause_no_server_error(models: TrainedModels, database_url: str) -> None:
    statuses: dict[str, set[int]] = {}
    with listening(create_app(Settings(cache_dir=models.cache, tracking_uri="", database_url=database_url))) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        result: Any
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(max_examples=count(15, 500), deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
            def send_valid(case: Any) -> None:
                send(case)

            @settings(max_examples=count(15, 500), deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
            def send_invalid(case: Any) -> None:
                send(case)

            def send(case: Any) -> None:
                answer = case.call(base_url=url)
                assert answer.status_code < 500, f"{case.method} {case.path}: {answer.text}"
                statuses.setdefault(f"{case.method} {case.path}", set()).add(answer.status_code)

            send_valid()
            with suppress(Unsatisfiable):
                send_invalid()
    assert {"POST /v1/forecasts", "POST /v1/actuals", "GET /v1/skill", "POST /v2/models/{name}/infer"} <= set(statuses)
    assert 200 in statuses["POST /v1/actuals"]
    assert 422 in statuses["POST /v1/forecasts"]


def test_random_bytes_close_only_their_connection(service: RunningService) -> None:
    chance = random.Random(7)
    heads = [
        b"",
        b"POST /v1/forecasts HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    ]
    for _ in range(count(200, 5000)):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as raw:
            raw.sendall(chance.choice(heads) + chance.randbytes(chance.randrange(300)))
            raw.shutdown(socket.SHUT_WR)
            try:
                answer = raw.recv(1000)
            except ConnectionError:
                continue
            assert not answer.startswith(b"HTTP/1.1 5")
    assert service.forecast()[0] == 200


def test_slow_clients_are_disconnected_while_others_are_served(models: TrainedModels, database_url: str) -> None:
    heads = [
        b"POST /v1/fore",
        b"POST /v1/forecasts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{",
    ]
    # leave room for the other open files of the test and of the service
    max_open = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200
    with running(models.cache, database_url, BODY_TIMEOUT_SECONDS=count(3, 20)) as service:
        slow = []
        for number in range(min(count(300, 10_000), max_open)):
            raw = socket.create_connection(("127.0.0.1", service.port), timeout=30)
            raw.sendall(heads[number % 2])
            slow.append(raw)
        assert service.forecast()[0] == 200
        time.sleep(count(3, 20) + 0.5)
        answers = [raw.recv(1000) for raw in slow]
        # an incomplete head gets no response, an incomplete body gets 408
        assert all(answer == b"" for answer in answers[::2])
        assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers[1::2])
        for raw in slow:
            raw.close()
        assert service.forecast()[0] == 200


def test_slow_second_request_of_a_connection_is_disconnected(models: TrainedModels, database_url: str) -> None:
    with (
        running(models.cache, database_url, BODY_TIMEOUT_SECONDS=1) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw,
    ):
        raw.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += raw.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 200")
        raw.sendall(b"GET /health/li")
        start = time.monotonic()
        assert raw.recv(1000) == b""
        assert time.monotonic() - start < 10
