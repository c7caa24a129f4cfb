"""The client and a busy or unreachable service, or another program: retries, idempotency keys, errors."""

import asyncio
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pandas as pd
import pytest

from forecaster.client import (
    AsyncClient,
    BadAnswer,
    Client,
    ClientError,
    NotAllowed,
    RequestRefused,
    Retries,
    ServiceUnavailable,
    TooManyRequests,
)
from forecaster.client.retries import read_retry_after
from tests.client.conftest import frame

Server = Callable[..., Any]
Answer = tuple[int, dict[str, str], Any]
QUICK = Retries(count=3, first_seconds=0.01, longest_seconds=0.02)
DESCRIPTION = {
    "name": "sine",
    "aliases": {"champion": 3},
    "versions": {
        "3": {"input_size": 24, "horizon": 2, "freq": "h", "sessions": None, "hist_exog": {}, "futr_exog": {}},
        "4": {"input_size": 24, "horizon": 2, "freq": "h", "sessions": None, "hist_exog": {}, "futr_exog": {}},
    },
}
MODEL: Answer = (200, {}, DESCRIPTION)
BUSY: Answer = (503, {}, {"detail": "starting"})


def answer(*names: str, **more: Any) -> Answer:
    forecasts = [
        {"unique_id": name, "cutoff": "…", "ds": ["2026-01-02T06:00:00", "2026-01-02T07:00:00"], "mean": [1.0, 2.0]}
        | {key: f"{value} of {name}" if isinstance(value, str) else value for key, value in more.items()}
        for name in names
    ]
    model = {"name": "sine", "version": 3, "alias": "champion", "run_id": "0" * 32}
    return 200, {}, {
        "model": model, "forecasts": forecasts, "forecast_by": "model", "skill": {"relative_mae": 0.5},
        "warnings": ["odd", f"odd {names}"],
    }  # fmt: skip


def call_blocking(url: str, name: str, *arguments: Any, retries: Retries = QUICK, **options: Any) -> Any:
    with Client(url, retries=retries, **options) as client:
        return getattr(client, name)(*arguments[:1], **(arguments[1] if arguments[1:] else {}))


def call_async(url: str, name: str, *arguments: Any, retries: Retries = QUICK, **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, retries=retries, **options) as client:
            return await getattr(client, name)(*arguments[:1], **(arguments[1] if arguments[1:] else {}))

    return asyncio.run(run())


@pytest.fixture(params=[call_blocking, call_async])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    chosen: Callable[..., Any] = request.param
    return chosen


SINE = {"model": "sine"}


def test_a_busy_service_gets_retries_with_the_same_idempotency_key(fake_server: Server, call: Any) -> None:
    with fake_server(BUSY, MODEL, (429, {}, {}), BUSY, answer("a"), MODEL, answer("a")) as server:
        assert call(server.url, "forecast", frame(), SINE)["mean"].tolist() == [1.0, 2.0]
        lines = [request.line for request in server.requests]
        assert lines == ["GET /v1/models/sine"] * 2 + ["POST /v1/forecasts"] * 3
        first, *others = [request for request in server.requests if request.line.startswith("POST")]
        assert len(first.headers["Idempotency-Key"]) == 36
        for other in others:
            assert other.headers["Idempotency-Key"] == first.headers["Idempotency-Key"]
            assert other.body == first.body
        assert server.requests[0].headers["Idempotency-Key"] is None
        call(server.url, "forecast", frame(), SINE)
        assert server.requests[-1].headers["Idempotency-Key"] != first.headers["Idempotency-Key"]


def _date_in_two_seconds() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


@pytest.mark.parametrize("retry_after", [lambda: "1", _date_in_two_seconds], ids=["seconds", "date"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_waits_as_long_as_the_service_asks_for(
    fake_server: Server, call: Any, status: int, retry_after: Callable[[], str]
) -> None:
    begin = time.monotonic()
    with fake_server((status, {"Retry-After": retry_after()}, {}), (200, {}, {"models": []})) as server:
        assert call(server.url, "models") == []
        assert len(server.requests) == 2
    # a date is precise to the second
    assert 0.95 < time.monotonic() - begin < 3


def test_a_retry_after_beyond_patience_seconds_is_an_error_at_once(fake_server: Server, call: Any) -> None:
    with fake_server((429, {"Retry-After": "3600"}, {"detail": "enough for today"})) as server:
        with pytest.raises(TooManyRequests, match="enough for today; retry in 3600 s") as raised:
            call(server.url, "models")
        assert (raised.value.retry_after_seconds, raised.value.status) == (3600, 429)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (429, TooManyRequests, r"refused \(429\): because"),
        (503, ServiceUnavailable, r"cannot answer now \(503\): because"),
        (502, ServiceUnavailable, r"cannot answer now \(502\): because"),
    ],
)
def test_the_last_failure_is_raised_after_all_retries(
    fake_server: Server, call: Any, status: int, error: type[Exception], message: str
) -> None:
    with fake_server((status, {}, {"detail": "because"})) as server:
        with pytest.raises(error, match=message):
            call(server.url, "models")
        assert len(server.requests) == 1 + QUICK.count


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((401, {}, {"detail": "no key"}), NotAllowed, r"refused \(401\): no key; check the client's key"),
        ((403, {}, {"detail": "not yours"}), NotAllowed, "not yours; check the client's key"),
        ((422, {}, {"detail": "y", "errors": [{"location": "y", "message": "no"}]}), RequestRefused, "y"),
        ((404, {}, b"<html>"), RequestRefused, r"refused \(404\): Not Found"),
        ((404, {}, ["?"]), RequestRefused, r"refused \(404\): Not Found"),
        ((500, {}, {"detail": "it is in the log"}), ServiceUnavailable, "it is in the log"),
        ((200, {}, b"<html>"), BadAnswer, "not JSON; check that the address is the service's"),
        ((301, {"Location": "https://elsewhere.invalid"}, b""), BadAnswer, "status 301; check that the address"),
    ],
)
def test_permanent_errors_are_not_retried(
    fake_server: Server, call: Any, answer: Any, error: type[Exception], message: str
) -> None:
    with fake_server(answer) as server:
        with pytest.raises(error, match=message) as raised:
            call(server.url, "models")
        assert len(server.requests) == 1
    if answer[0] == 422:
        assert raised.value.errors == [{"location": "y", "message": "no"}]  # type: ignore[attr-defined]


def test_a_lost_connection_is_retried(fake_server: Server, call: Any) -> None:
    with fake_server(None, None, MODEL, None, answer("a")) as server:
        assert len(call(server.url, "forecast", frame(), SINE)) == 2
        posts = [request for request in server.requests if request.line.startswith("POST")]
        assert len(server.requests) == 5
        assert posts[0].headers["Idempotency-Key"] == posts[1].headers["Idempotency-Key"]
    with pytest.raises(ServiceUnavailable, match=r"GET /v1/models: no connection .* is the service running"):
        call(server.url, "models")


def test_a_timeout_is_not_retried(call: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="no answer in time; send fewer series"):
            call(url, "models", timeout_seconds=0.2)
        assert time.monotonic() - begin < 2


def test_each_request_carries_the_key(fake_server: Server, call: Any) -> None:
    with fake_server(MODEL, answer("a")) as server:
        call(server.url, "forecast", frame(), SINE, key="secret")
        assert [request.headers["Authorization"] for request in server.requests] == ["Bearer secret"] * 2
        call(server.url, "skill", "sine")
        assert server.requests[-1].headers["Authorization"] is None


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("127.0.0.1:8000", None, "url: '127.0.0.1:8000' is not an HTTP address; write it as http"),
        ("ftp://a", None, "url: "),
        ("http://", None, "url: "),
        ("http://a:b", None, "url: "),
        ("http://a", "secret\n", "key: it is empty or has characters"),
        ("http://a", "", "key: it is empty"),
        ("http://a", "schlüssel", "key: "),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_invalid_address_or_key_is_refused(kind: Any, url: str, key: str | None, message: str) -> None:
    with pytest.raises(ClientError, match=message) as raised:
        kind(url, key)
    assert "secret" not in str(raised.value)


def test_further_fields_of_a_forecast_become_columns(fake_server: Server, call: Any) -> None:
    df = pd.concat([frame(unique_id="a"), frame(unique_id="b")])
    more = {"lo-80": [None, 3.0], "forecast_id": "id", "nested": {"by": 1}, "count": 3}
    with fake_server(MODEL, answer("a", "b", **more)) as server:
        found = call(server.url, "forecast", df, SINE)
    assert list(found) == ["unique_id", "cutoff", "ds", "mean", "lo-80", "forecast_id"]
    assert found["forecast_id"].tolist() == ["id of a"] * 2 + ["id of b"] * 2
    assert found["lo-80"].isna().tolist() == [True, False] * 2


def test_a_frame_is_forecast_by_one_version_from_the_last_input_size_rows(fake_server: Server, call: Any) -> None:
    df = pd.concat([frame(unique_id=name) for name in "abc"])
    with fake_server(MODEL, answer("a", "b"), answer("c")) as server:
        found = call(server.url, "forecast", df, SINE, series_per_request=2)
    first, second = [request.body for request in server.requests[1:]]
    assert (first["alias"], first["version"], second["alias"], second["version"]) == (None, None, None, 3)
    assert [series["unique_id"] for series in first["series"] + second["series"]] == ["a", "b", "c"]
    assert [len(series["y"]) for series in first["series"]] == [24, 24]
    assert first["series"][0]["ds"][0] == "2026-01-01T06:00:00"
    assert server.requests[1].headers["Idempotency-Key"] != server.requests[2].headers["Idempotency-Key"]
    assert found["unique_id"].tolist() == ["a", "a", "b", "b", "c", "c"]
    assert found.attrs["warnings"] == ["odd", "odd ('a', 'b')", "odd ('c',)"]


def test_long_histories_are_split_into_smaller_requests(fake_server: Server, call: Any) -> None:
    description = {**DESCRIPTION, "versions": {"3": DESCRIPTION["versions"]["3"] | {"input_size": 100_000}}}  # type: ignore[index]
    df = pd.concat([frame(unique_id="a"), frame(unique_id="b")])
    with fake_server((200, {}, description), answer("a"), answer("b")) as server:
        call(server.url, "forecast", df, SINE)
        assert [len(request.body["series"]) for request in server.requests[1:]] == [1, 1]


def test_actuals_are_split_into_requests_and_counted(fake_server: Server, call: Any) -> None:
    df = frame(50_001, 7, "Europe/Berlin")
    with fake_server((200, {}, {"accepted": 50_000, "changed": 2}), (200, {}, {"accepted": 1, "changed": 1})) as server:
        assert call(server.url, "actuals", df) == {"accepted": 50_001, "changed": 3}
        bodies = [request.body["actuals"] for request in server.requests]
    assert [request.line for request in server.requests] == ["POST /v1/actuals"] * 2
    assert bodies[0][0] == {"unique_id": "7", "ds": "2026-01-01T00:00:00+01:00", "y": -1.0}
    assert [len(body) for body in bodies] == [50_000, 1]


def test_names_in_paths_and_parameters_are_escaped(fake_server: Server, call: Any) -> None:
    with fake_server((200, {}, {"some": "thing"})) as server:
        assert call(server.url, "forecast_by_id", "a/b?c") == {"some": "thing"}
        assert call(server.url, "skill", "a&b") == {"some": "thing"}
        assert call(f"{server.url}/behind/a/proxy/", "skill", "a") == {"some": "thing"}
    assert [request.line for request in server.requests] == [
        "GET /v1/forecasts/a%2Fb%3Fc", "GET /v1/skill?model=a%26b", "GET /behind/a/proxy/v1/skill?model=a",
    ]  # fmt: skip


def test_pauses_grow_up_to_the_limit_and_are_random() -> None:
    retries = Retries(count=6, first_seconds=1, longest_seconds=4, patience_seconds=10)
    for n_retries, longest in enumerate([1, 2, 4, 4, 4, 4]):
        pauses = {retries.pause(n_retries, None) for _ in range(20)}
        assert len(pauses) == 20
        assert all(seconds is not None and longest / 2 <= seconds <= longest for seconds in pauses)
    assert retries.pause(6, None) is None
    assert retries.pause(0, 10) == 10
    assert retries.pause(0, 11) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("7", 7),
        ("soon", None),
        ("-1", None),
        ("²", None),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30),
        ("Thu, 01 Jan 2026 00:00:30 -0000", 30),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0),
    ],
)
def test_retry_after_is_parsed(text: str | None, seconds: float | None) -> None:
    assert read_retry_after(text, datetime(2026, 1, 1, tzinfo=UTC)) == seconds
