"""`Client` and `AsyncClient`: the same calls, blocking and asynchronous."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx2
import pandas as pd

from forecaster.client import calls
from forecaster.client.exchange import Call, Pause, Request, Result, with_retries
from forecaster.client.retries import Retries
from forecaster.domain.errors import ClientError

SERIES_PER_REQUEST = 1000


@dataclass(frozen=True)
class _Connection:
    """The service's address, and the API key."""

    url: str
    key: str | None
    timeout_seconds: float

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of httpx's clients.

        Raises:
            ClientError: the address or the key is invalid.
        """
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise ClientError(
                f"url: '{self.url}' is not an HTTP address ({error}); write it as http://127.0.0.1:8000"
            ) from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ClientError(f"url: '{self.url}' is not an HTTP address; write it as http://127.0.0.1:8000")
        key = self.key
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
            raise ClientError(
                "key: it is empty or has characters that a key cannot have, such as a line break; strip it"
            )
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return {"base_url": url, "timeout": self.timeout_seconds, "headers": headers}


def _arguments(request: Request) -> dict[str, Any]:
    """Return the arguments of httpx's `request`."""
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.params),
        "json": request.body,
        "headers": dict(request.headers),
    }


def _shown(url: httpx2.URL) -> str:
    """Return an address without the account and password that it may contain."""
    return str(url.copy_with(userinfo=b""))


class Client:
    """A client of the service. A context manager; threads may share it."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_seconds: float = 30,
        retries: Retries | None = None,
        series_per_request: int = SERIES_PER_REQUEST,
    ) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            url: the service's address, `http://` or `https://`, including a path that a proxy adds before `/v1`.
            key: the API key, sent as `Authorization: Bearer KEY`.
            timeout_seconds: the longest that connecting, or waiting for the next part of an answer, may take.
            retries: how often to retry a request, and after which delays.
            series_per_request: more series are split into several requests.

        Raises:
            ClientError: the address or the key is invalid.
        """
        self._http = httpx2.Client(**_Connection(url, key, timeout_seconds).options)
        self._retries = retries or Retries()
        self._series_per_request = series_per_request

    def __repr__(self) -> str:
        return f"Client({_shown(self._http.base_url)!r})"

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
        n_samples: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Return forecasts of every series of a long frame, as `unique_id, cutoff, ds, mean, lo-80, hi-80, …`.

        Further fields of the service's answer, such as `forecast_id`, become columns. The frame's `attrs` hold `model`
        (with the version that answered), `skill`, `forecast_by` and `warnings`.

        Args:
            df: columns `unique_id, ds, y` and the model's `hist_exog`, `futr_exog` and `stat_exog`, in the model's
                frequency.
            model: the registered model's name.
            alias: the version's alias, `champion` when None. Give an alias or a version, not both.
            version: the version's number.
            horizon: steps; the trained horizon when None.
            level: coverages of intervals, 0–100. Give levels or quantiles, not both.
            quantiles: probabilities, 0–1.
            futr_df: `unique_id, ds` and the model's `futr_exog` for the trained horizon's steps after each series' last
                row.
            n_samples: number of sample paths, each a column `sample-1`, `sample-2`, … Over the rows of a series a path
                is a joint draw of all steps, up to the trained horizon.
            seed: the seed of the sample paths.

        Raises:
            SeriesError: the frame is invalid; nothing was sent.
            ClientError: see `forecaster.domain.errors`.
        """
        return self._run(
            calls.forecast(
                df, model, alias, version, horizon, level, quantiles, futr_df, n_samples, seed, self._series_per_request
            )
        )

    def models(self) -> list[dict[str, Any]]:
        """Return the served models: each with `name`, `aliases` and `versions`, which holds each version's manifest.

        Raises:
            ClientError: see `forecaster.domain.errors`.
        """
        return self._run(calls.models())

    def actuals(self, df: pd.DataFrame) -> dict[str, int]:
        """Send actuals; return how many rows were `accepted`, and how many of them `changed` a stored value.

        Args:
            df: columns `unique_id, ds, y`, each series in the order of its times.

        Raises:
            SeriesError: the frame is invalid; nothing was sent.
            ClientError: see `forecaster.domain.errors`.
        """
        return self._run(calls.actuals(df))

    def forecast_by_id(self, forecast_id: str) -> dict[str, Any]:
        """Return a served forecast with its actuals.

        Raises:
            ClientError: see `forecaster.domain.errors`.
        """
        return self._run(calls.forecast_by_id(forecast_id))

    def skill(self, model: str) -> dict[str, Any]:
        """Return the realised skill of a model's served forecasts.

        Raises:
            ClientError: see `forecaster.domain.errors`.
        """
        return self._run(calls.skill(model))

    def _run(self, call: Call[Result]) -> Result:
        steps = with_retries(call, self._retries)
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
    """An asynchronous client of the service, with the methods of `Client`."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_seconds: float = 30,
        retries: Retries | None = None,
        series_per_request: int = SERIES_PER_REQUEST,
    ) -> None:
        """Prepare the client, with the arguments of `Client`; nothing is sent yet."""
        self._http = httpx2.AsyncClient(**_Connection(url, key, timeout_seconds).options)
        self._retries = retries or Retries()
        self._series_per_request = series_per_request

    def __repr__(self) -> str:
        return f"AsyncClient({_shown(self._http.base_url)!r})"

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
        n_samples: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Return forecasts of every series of a long frame, as `Client.forecast` does."""
        return await self._run(
            calls.forecast(
                df, model, alias, version, horizon, level, quantiles, futr_df, n_samples, seed, self._series_per_request
            )
        )

    async def models(self) -> list[dict[str, Any]]:
        """Return the served models, as `Client.models` does."""
        return await self._run(calls.models())

    async def actuals(self, df: pd.DataFrame) -> dict[str, int]:
        """Send actuals, as `Client.actuals` does."""
        return await self._run(calls.actuals(df))

    async def forecast_by_id(self, forecast_id: str) -> dict[str, Any]:
        """Return a served forecast, as `Client.forecast_by_id` does."""
        return await self._run(calls.forecast_by_id(forecast_id))

    async def skill(self, model: str) -> dict[str, Any]:
        """Return the realised skill of a model, as `Client.skill` does."""
        return await self._run(calls.skill(model))

    async def _run(self, call: Call[Result]) -> Result:
        steps = with_retries(call, self._retries)
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
