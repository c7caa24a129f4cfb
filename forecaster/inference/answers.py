"""Forecasts as clients receive them and as the ledger stores them, for HTTP and batches alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from forecaster.domain.instants import now_microseconds
from forecaster.domain.series import CUTOFF, DS, MEAN, SAMPLES, UNIQUE_ID, Floats
from forecaster.inference.forecasting import Forecast, Forecaster, describe_skill
from forecaster.ledger.entries import WALL_CLOCK_TOLERANCE, Entry, ServedForecast, forecast_id, new_request_id


@dataclass(frozen=True)
class ForecastTimes:
    """The cutoffs and the forecast times of `n` series.

    Args:
        cutoffs: the last time of each history, ISO 8601, `(n,)`.
        ds: the times of the forecast steps, ISO 8601, `(n, horizon)`.
        instants: the same times in microseconds since 1970, in UTC if they have a zone, `(n, horizon)`.
    """

    cutoffs: Sequence[str]
    ds: Sequence[Sequence[str]]
    instants: NDArray[np.int64]


@dataclass(frozen=True)
class Head:
    """The part of an answer that all its forecasts share.

    Args:
        content: `model`, `forecast_by`, `skill` and `warnings`, as clients receive them.
    """

    content: dict[str, Any]

    @property
    def model(self) -> str:
        """Return the model's name."""
        return str(self.content["model"]["name"])

    @property
    def version(self) -> int:
        """Return the version's number."""
        return int(self.content["model"]["version"])

    @property
    def forecast_by(self) -> str:
        """Return `model`, or the name of the baseline that forecasts instead."""
        return str(self.content["forecast_by"])

    @cached_property
    def json(self) -> str:
        """Return the content as JSON."""
        return to_json(self.content).decode()


@dataclass(frozen=True)
class Answer:
    """The answer to a request for `n` series.

    Args:
        head: the part that all forecasts share.
        forecasts: for each series `unique_id`, `cutoff`, `ds`, `is_adapted`, `mean`, the requested columns, and
            `samples` if sample paths are requested.
        last_values: the last value of each history, `(n,)`.
        steps: the values to score, `(n, horizon, 2 + 2 × levels)`, with the ledger's columns.
        tolerance: an actual within this many microseconds of a step's time belongs to the step.
    """

    head: Head
    forecasts: list[dict[str, Any]]
    last_values: Floats
    steps: Floats
    tolerance: int


def describe_version(
    forecaster: Forecaster, name: str, version: int, alias: str | None, run_id: str, warnings: Sequence[str] = ()
) -> Head:
    """Return the head of an answer.

    Args:
        forecaster: the version, with the request's settings.
        name: the model's name.
        version: the version's number.
        alias: the alias that selected the version; None if its number did.
        run_id: the version's MLflow run.
        warnings: warnings about the request, after those about the version.
    """
    return Head(
        {
            "model": {"name": name, "version": version, "alias": alias, "run_id": run_id},
            "forecast_by": forecaster.forecast_by,
            "skill": describe_skill(forecaster.predictor.manifest.skill),
            "warnings": [*forecaster.warnings, *warnings],
        }
    )


def describe_forecasts(forecast: Forecast, unique_ids: Sequence[str], times: ForecastTimes) -> list[dict[str, Any]]:
    """Return each series' forecast as clients receive it; `as_json` writes a bound that is not calibrated as null."""
    means, bounds = forecast.mean.tolist(), forecast.band_values.transpose(0, 2, 1).tolist()
    return [
        {
            UNIQUE_ID: unique_id,
            CUTOFF: times.cutoffs[row],
            DS: times.ds[row],
            "is_adapted": forecast.is_adapted[row],
            MEAN: means[row],
            **dict(zip(forecast.columns, bounds[row], strict=True)),
            **({} if forecast.samples is None else {SAMPLES: forecast.samples[row].tolist()}),
        }
        for row, unique_id in enumerate(unique_ids)
    ]


def as_json(content: Any) -> bytes:
    """Return content as JSON, with null for NaN.

    It is ASCII, because with any other character Python stores all of a string in two or four bytes each.
    """
    return to_json(content, inf_nan_mode="null", ensure_ascii=True)


def scored_steps(forecast: Forecast, times: ForecastTimes) -> Floats:
    """Return the values to score, `(n, horizon, 2 + 2 × levels)`, with the ledger's columns."""
    return np.concatenate([times.instants[:, :, None], forecast.mean[:, :, None], forecast.bounds], axis=2)


def matching_tolerance(forecaster: Forecaster) -> int:
    """Return how far the time of an actual may be from a step's time to belong to the step, in microseconds."""
    return WALL_CLOCK_TOLERANCE if forecaster.predictor.frequency.is_wall_clock else 0


def ledger_entry(
    answer: Answer,
    *,
    client: str = "",
    owner: str = "",
    idempotency_key: str | None = None,
    body_digest: str | None = None,
    is_shadow: bool = False,
    request_id: str | None = None,
) -> Entry:
    """Return an answer as a ledger entry, in which each forecast has an id.

    Args:
        answer: the answer.
        client: the id of the API key; empty if no key is required.
        owner: the key's owner.
        idempotency_key: the key under which a retry of the request gets the same answer.
        body_digest: the digest of the request's body.
        is_shadow: whether the forecasts are made in the shadow, unseen by the client.
        request_id: the request's id; a new one when None.
    """
    now = now_microseconds()
    request_id = request_id or new_request_id(now)
    forecasts = tuple(
        ServedForecast(
            unique_id=described[UNIQUE_ID],
            last_value=float(last_value),
            steps=steps,
            tolerance=answer.tolerance,
            answer=as_json({"forecast_id": forecast_id(request_id, position), **described}).decode(),
        )
        for position, (described, last_value, steps) in enumerate(
            zip(answer.forecasts, answer.last_values, answer.steps, strict=True)
        )
    )
    return Entry(
        request_id=request_id,
        answered_at=now,
        client=client,
        owner=owner,
        model=answer.head.model,
        version=answer.head.version,
        forecast_by=answer.head.forecast_by,
        head=answer.head.json,
        forecasts=forecasts,
        is_shadow=is_shadow,
        idempotency_key=idempotency_key,
        body_digest=body_digest,
    )
