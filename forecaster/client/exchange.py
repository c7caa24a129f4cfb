"""Retries and answers, as generators that send nothing: they yield requests and pauses, and receive responses."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from forecaster.client.retries import RETRIED_STATUSES, Retries, read_retry_after
from forecaster.domain.errors import BadAnswer, NotAllowed, RequestRefused, ServiceUnavailable, TooManyRequests

# errors that are retried: the request or its answer was lost; a timeout is not, because the answer would be slow again
RETRIED_ERRORS = (httpx2.NetworkError, httpx2.ConnectTimeout, httpx2.RemoteProtocolError)


@dataclass(frozen=True)
class Request:
    """A request to send; the sender answers with the response, or throws an `httpx2.TransportError`."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pause:
    """A delay before the next request; the sender answers with None."""

    seconds: float


Result = TypeVar("Result")
# the requests of a call, one after another; the generator receives the JSON of each answer
Call = Generator[Request, Any, Result]
# the same for the sender, with retries and the pauses before them
Steps = Generator[Request | Pause, httpx2.Response, Result]


def with_retries(call: Call[Result], retries: Retries) -> Steps[Result]:
    """Yield the requests and pauses of a call, including retries; return the call's result."""
    try:
        request = next(call)
        while True:
            request = call.send((yield from exchange(request, retries)))
    except StopIteration as done:
        result: Result = done.value
        return result


def exchange(request: Request, retries: Retries) -> Steps[Any]:
    """Yield a request, and its retries if a retry may help; return the JSON of the answer.

    Raises:
        RequestRefused, NotAllowed, TooManyRequests, ServiceUnavailable, BadAnswer: see `forecaster.domain.errors`.
    """
    n_retries = 0
    while True:
        retry_after = None
        try:
            response = yield request
        except RETRIED_ERRORS as error:
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
            retry_after = read_retry_after(response.headers.get("Retry-After"))
            failure = _failure(response, retry_after)
            if response.status_code not in RETRIED_STATUSES:
                raise failure
        seconds = retries.pause(n_retries, retry_after)
        if seconds is None:
            raise failure
        yield Pause(seconds)
        n_retries += 1


def _read(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise BadAnswer("the answer is not JSON; check that the address is the service's") from None


def _failure(response: httpx2.Response, retry_after_seconds: float | None) -> Exception:
    status, (detail, mistakes) = response.status_code, _problem(response)
    if status == 429:
        when = "" if retry_after_seconds is None else f"; retry in {retry_after_seconds:g} s"
        return TooManyRequests(f"{detail}{when}", retry_after_seconds)
    if status in (401, 403):
        return NotAllowed(status, f"{detail}; check the client's key")
    if response.is_client_error:
        return RequestRefused(status, detail, mistakes)
    if response.is_server_error:
        return ServiceUnavailable(f"the service cannot answer now ({status}): {detail}")
    return BadAnswer(f"the answer has status {status}; check that the address is the service's")


def _problem(response: httpx2.Response) -> tuple[str, list[dict[str, str]]]:
    """Return the explanation and the mistakes of a problem document (RFC 9457), which may also come from a proxy."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return response.reason_phrase, []
    mistakes = body.get("errors")
    found = [mistake for mistake in mistakes if isinstance(mistake, dict)] if isinstance(mistakes, list) else []
    return str(body.get("detail") or response.reason_phrase), found
