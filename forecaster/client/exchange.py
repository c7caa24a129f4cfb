"""One request until it is answered: what to send or to wait for next, without sending; and what an answer means."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from forecaster.client.errors import BadAnswer, NotAllowed, RequestRefused, ServiceUnavailable, TooManyRequests
from forecaster.client.retries import STATUSES, Retries, read_retry_after

# the request may not have been received, or its answer got lost; a slow answer would only be slower the second time
LOST = (httpx2.NetworkError, httpx2.ConnectTimeout, httpx2.RemoteProtocolError)


@dataclass(frozen=True)
class Request:
    """What is to be sent; the answer, or an `httpx2.TransportError`, is given back."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pause:
    """That time is to pass; nothing is given back."""

    seconds: float


Result = TypeVar("Result")
# a call's requests one after the other; each is answered with its answer's JSON
Call = Generator[Request, Any, Result]
# the same, for whoever sends: repetitions, and the pauses before them, included
Steps = Generator[Request | Pause, httpx2.Response, Result]


def steps_of(call: Call[Result], retries: Retries) -> Steps[Result]:
    """Return what is to be sent or waited for, step by step, until the call returns its result."""
    try:
        request = next(call)
        while True:
            request = call.send((yield from exchange(request, retries)))
    except StopIteration as done:
        result: Result = done.value
        return result


def exchange(request: Request, retries: Retries) -> Steps[Any]:
    """Return the answer's JSON, having asked again where that may help.

    Raises:
        RequestRefused, NotAllowed, TooManyRequests, ServiceUnavailable, BadAnswer: as their docstrings say.
    """
    number = 0
    while True:
        asked = None
        try:
            response = yield request
        except LOST as error:
            failure: Exception = ServiceUnavailable(
                f"{request.method} {request.path}: no connection ({error}); is the service running at this address?"
            )
        except httpx2.TimeoutException:
            raise ServiceUnavailable(
                f"{request.method} {request.path}: no answer in time; send fewer series per request, or raise "
                "timeout_seconds"
            ) from None
        except httpx2.TransportError as error:
            raise ServiceUnavailable(f"{request.method} {request.path}: cannot be sent ({error})") from error
        else:
            if response.is_success:
                return _read(response)
            asked = read_retry_after(response.headers.get("Retry-After"))
            failure = _failure(response, asked)
            if response.status_code not in STATUSES:
                raise failure
        seconds = retries.pause(number, asked)
        if seconds is None:
            raise failure
        yield Pause(seconds)
        number += 1


def _read(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise BadAnswer("the answer is not JSON; check that the address is the service's") from None


def _failure(response: httpx2.Response, retry_after_seconds: float | None) -> Exception:
    status, (detail, mistakes) = response.status_code, _problem(response)
    if status == 429:
        when = "" if retry_after_seconds is None else f"; ask again in {retry_after_seconds:g} s"
        return TooManyRequests(f"{detail}{when}", retry_after_seconds)
    if status in (401, 403):
        return NotAllowed(status, f"{detail}; check the client's key")
    if response.is_client_error:
        return RequestRefused(status, detail, mistakes)
    if response.is_server_error:
        return ServiceUnavailable(f"the service cannot answer now ({status}): {detail}")
    return BadAnswer(f"the answer has status {status}; check that the address is the service's")


def _problem(response: httpx2.Response) -> tuple[str, list[dict[str, str]]]:
    """Return the words and the mistakes of a problem, whoever sent it. Source: RFC 9457."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return response.reason_phrase, []
    mistakes = body.get("errors")
    found = [one for one in mistakes if isinstance(one, dict)] if isinstance(mistakes, list) else []
    return str(body.get("detail") or response.reason_phrase), found
