"""Forecasts as clients receive them and as the ledger stores them, for HTTP and batches alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
class Answer:
    """The answer to a request for `n` series.

    Args:
        head: the fields that all forecasts share: `model`, `forecast_by`, `skill`, `warnings`.
        forecasts: for each series `unique_id`, `cutoff`, `ds`, `is_adapted`, `mean`, the requested columns, and
            `samples` if sample paths are requested.
        last_values: the last value of each history, `(n,)`.
        steps: the values to score, `(n, horizon, 2 + 2 × levels)`, with the ledger's columns.
        tolerance: an actual within this many microseconds of a step's time belongs to the step.
    """

    head: dict[str, Any]
    forecasts: list[dict[str, Any]]
    last_values: Floats
    steps: Floats
    tolerance: int


def describe_version(forecaster: Forecaster, name: str, version: int, alias: str | None, run_id: str) -> dict[str, Any]:
    """Return the head of an answer: the fields that all forecasts of a request share.

    Args:
        forecaster: the version, with the request's settings.
        name: the model's name.
        version: the version's number.
        alias: the alias that selected the version; None if its number did.
        run_id: the version's MLflow run.
    """
    return {
        "model": {"name": name, "version": version, "alias": alias, "run_id": run_id},
        "forecast_by": forecaster.forecast_by,
        "skill": describe_skill(forecaster.predictor.manifest.skill),
        "warnings": list(forecaster.warnings),
    }


def describe_forecasts(forecast: Forecast, unique_ids: Sequence[str], times: ForecastTimes) -> list[dict[str, Any]]:
    """Return each series' forecast as clients receive it, with null for a bound that is not calibrated."""
    return [
        {
            UNIQUE_ID: unique_id,
            CUTOFF: times.cutoffs[row],
            DS: times.ds[row],
            "is_adapted": forecast.is_adapted[row],
            MEAN: forecast.mean[row].tolist(),
            **{name: _with_nulls(forecast.band_values[row, :, number]) for number, name in enumerate(forecast.columns)},
            **({} if forecast.samples is None else {SAMPLES: forecast.samples[row].tolist()}),
        }
        for row, unique_id in enumerate(unique_ids)
    ]


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
            # ASCII only: with any other character, Python stores all of the string in two or four bytes each
            answer=to_json({"forecast_id": forecast_id(request_id, position), **described}, ensure_ascii=True).decode(),
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
        model=answer.head["model"]["name"],
        version=answer.head["model"]["version"],
        forecast_by=answer.head["forecast_by"],
        head=to_json(answer.head).decode(),
        forecasts=forecasts,
        is_shadow=is_shadow,
        idempotency_key=idempotency_key,
        body_digest=body_digest,
    )


def _with_nulls(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
