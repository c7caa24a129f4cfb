"""`Client` and `AsyncClient`: the same calls, one sends and waits, the other awaits."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx2
import pandas as pd

from forecaster.client import calls
from forecaster.client.errors import ClientError
from forecaster.client.exchange import Call, Pause, Request, Result, steps_of
from forecaster.client.retries import Retries

SERIES_PER_REQUEST = 1000


@dataclass(frozen=True)
class _Address:
    """Where requests go to, and with which key."""

    url: str
    key: str | None
    timeout_seconds: float

    @property
    def options(self) -> dict[str, Any]:
        """Return it as the HTTP library takes it.

        Raises:
            ClientError: the address or the key cannot be one.
        """
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise ClientError(f"url: '{self.url}' is no address ({error}); write it as http://127.0.0.1:8000") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ClientError(f"url: '{self.url}' is no address; write it as http://127.0.0.1:8000")
        key = self.key
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
            raise ClientError("key: it is empty or has characters that no key has, such as a line's end; strip it")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return {"base_url": url, "timeout": self.timeout_seconds, "headers": headers}


def _arguments(request: Request) -> dict[str, Any]:
    """Return a request as the HTTP library takes it."""
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.params),
        "json": request.body,
        "headers": dict(request.headers),
    }


class Client:
    """The service, asked from Python. A context manager; safe to share between threads."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_seconds: float = 30,
        retries: Retries | None = None,
        series_per_request: int = SERIES_PER_REQUEST,
    ) -> None:
        """Keep what every request needs; nothing is sent yet.

        Args:
            url: the service's address, `http://` or `https://`, with the path before `/v1` where a proxy adds one.
            key: sent as `Authorization: Bearer KEY`.
            timeout_seconds: how long each request may take to connect, and between two parts of its answer.
            retries: how often and how patiently requests are repeated.
            series_per_request: more than these are sent in several requests.

        Raises:
            ClientError: the address or the key cannot be one.
        """
        self._http = httpx2.Client(**_Address(url, key, timeout_seconds).options)
        self._retries = retries or Retries()
        self._series_per_request = series_per_request

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def forecast(
        self,
        df: pd.DataFrame,
        *,
        model: str,
        alias: str | None = None,
        version: int | None = None,
        horizon: int | None = None,
        level: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
        futr_df: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Return forecasts of every series of a long frame, as `unique_id, cutoff, ds, mean, lo-80, hi-80, …`.

        Beside them are columns of what else the service says of each series. The frame's `attrs` hold `model` (which
        version answered), `skill`, `forecast_by` and `warnings`.

        Args:
            df: columns `unique_id, ds, y` and the model's `hist_exog` and `futr_exog`, in the model's frequency.
            model: the registered model's name.
            alias: which version, the champion when None; or
            version: its number, not both.
            horizon: steps; the trained horizon when None.
            level: intervals' coverage, 0–100; or
            quantiles: 0–1, not both.
            futr_df: `unique_id, ds` and the model's `futr_exog` for the trained horizon's steps after each series' last
                row.

        Raises:
            SeriesError: the frame breaks a rule that is judged before it is sent.
            ClientError: as `forecaster.client.errors` draws them.
        """
        return self._run(
            calls.forecast(df, model, alias, version, horizon, level, quantiles, futr_df, self._series_per_request)
        )

    def models(self) -> list[dict[str, Any]]:
        """Return every model that is served: `name`, `aliases` and `versions`, each with its manifest.

        Raises:
            ClientError: as `forecaster.client.errors` draws them.
        """
        return self._run(calls.models())

    def actuals(self, df: pd.DataFrame) -> dict[str, int]:
        """Report what has come of forecasts; return how many rows were `accepted` and how many `changed` anything.

        Args:
            df: columns `unique_id, ds, y`, each series in the order of its times.

        Raises:
            SeriesError: the frame breaks a rule that is judged before it is sent.
            ClientError: as `forecaster.client.errors` draws them.
        """
        return self._run(calls.actuals(df))

    def forecast_by_id(self, forecast_id: str) -> dict[str, Any]:
        """Return a forecast that was served, as the service keeps it.

        Raises:
            ClientError: as `forecaster.client.errors` draws them.
        """
        return self._run(calls.forecast_by_id(forecast_id))

    def skill(self, model: str) -> dict[str, Any]:
        """Return how the forecasts that were served of a model did.

        Raises:
            ClientError: as `forecaster.client.errors` draws them.
        """
        return self._run(calls.skill(model))

    def _run(self, call: Call[Result]) -> Result:
        steps = steps_of(call, self._retries)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    response = self._http.request(**_arguments(step))
                except httpx2.TransportError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as done:
            result: Result = done.value
            return result


class AsyncClient:
    """The service, asked from Python that awaits: the calls of `Client`, with their arguments, answers and errors."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_seconds: float = 30,
        retries: Retries | None = None,
        series_per_request: int = SERIES_PER_REQUEST,
    ) -> None:
        """Keep what every request needs, as `Client` takes it; nothing is sent yet."""
        self._http = httpx2.AsyncClient(**_Address(url, key, timeout_seconds).options)
        self._retries = retries or Retries()
        self._series_per_request = series_per_request

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def forecast(
        self,
        df: pd.DataFrame,
        *,
        model: str,
        alias: str | None = None,
        version: int | None = None,
        horizon: int | None = None,
        level: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
        futr_df: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Return forecasts of every series of a long frame, as `Client.forecast` does."""
        return await self._run(
            calls.forecast(df, model, alias, version, horizon, level, quantiles, futr_df, self._series_per_request)
        )

    async def models(self) -> list[dict[str, Any]]:
        """Return every model that is served, as `Client.models` does."""
        return await self._run(calls.models())

    async def actuals(self, df: pd.DataFrame) -> dict[str, int]:
        """Report what has come of forecasts, as `Client.actuals` does."""
        return await self._run(calls.actuals(df))

    async def forecast_by_id(self, forecast_id: str) -> dict[str, Any]:
        """Return a forecast that was served, as `Client.forecast_by_id` does."""
        return await self._run(calls.forecast_by_id(forecast_id))

    async def skill(self, model: str) -> dict[str, Any]:
        """Return how the forecasts that were served of a model did, as `Client.skill` does."""
        return await self._run(calls.skill(model))

    async def _run(self, call: Call[Result]) -> Result:
        steps = steps_of(call, self._retries)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    response = await self._http.request(**_arguments(step))
                except httpx2.TransportError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as done:
            result: Result = done.value
            return result
