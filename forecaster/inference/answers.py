"""Forecasts as clients get them and as the ledger has them, over HTTP and in batches alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from forecaster.domain.instants import now_at
from forecaster.domain.series import CUTOFF, DS, MEAN, UNIQUE_ID, Floats
from forecaster.inference.forecasting import Forecast, Forecaster, tell_skill
from forecaster.ledger.entries import WALL_CLOCK_TOLERANCE, Entry, ServedForecast, forecast_id, new_request_id


@dataclass(frozen=True)
class ForecastTimes:
    """When forecasts are of.

    Args:
        cutoffs: each series' last time, ISO 8601, `(n,)`.
        ds: the times of the steps, likewise, `(n, horizon)`.
        instants: the same in microseconds since 1970, of UTC where there are zones, `(n, horizon)`.
    """

    cutoffs: Sequence[str]
    ds: Sequence[Sequence[str]]
    instants: NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """What a request is answered.

    Args:
        head: what its forecasts have in common: `model`, `forecast_by`, `skill`, `warnings`.
        forecasts: each series' `unique_id`, `cutoff`, `ds`, `is_adapted`, `mean` and what is beside it.
        last_values: the value that each forecast started from, `(n,)`.
        steps: what each is scored by, `(n, horizon, 6)`, columns as the ledger has them.
        tolerance: how far from a step's time an actual may be and still be of it, microseconds.
    """

    head: dict[str, Any]
    forecasts: list[dict[str, Any]]
    last_values: Floats
    steps: Floats
    tolerance: int


def describe_version(forecaster: Forecaster, name: str, version: int, alias: str | None, run_id: str) -> dict[str, Any]:
    """Return what the forecasts of a registered version have in common.

    Args:
        forecaster: the version, and what is asked of it.
        name: the model's.
        version: its number.
        alias: by which it was asked for; None where by number.
        run_id: of the MLflow run that made it.
    """
    return {
        "model": {"name": name, "version": version, "alias": alias, "run_id": run_id},
        "forecast_by": forecaster.forecast_by,
        "skill": tell_skill(forecaster.predictor.manifest.skill),
        "warnings": list(forecaster.warnings),
    }


def describe_series(forecast: Forecast, unique_ids: Sequence[str], times: ForecastTimes) -> list[dict[str, Any]]:
    """Return each series' forecast as clients get it, null where a bound is not calibrated."""
    return [
        {
            UNIQUE_ID: unique_id,
            CUTOFF: times.cutoffs[row],
            DS: times.ds[row],
            "is_adapted": forecast.is_adapted[row],
            MEAN: forecast.mean[row].tolist(),
            **{name: _with_nulls(forecast.spread[row, :, number]) for number, name in enumerate(forecast.columns)},
        }
        for row, unique_id in enumerate(unique_ids)
    ]


def scored_steps(forecast: Forecast, times: ForecastTimes) -> Floats:
    """Return what forecasts are scored by, `(n, horizon, 6)`, columns as the ledger has them."""
    return np.concatenate([times.instants[:, :, None], forecast.mean[:, :, None], forecast.bounds], axis=2)


def tolerance_of(forecaster: Forecaster) -> int:
    """Return how far from a step's time an actual may be and still be of it, microseconds."""
    return WALL_CLOCK_TOLERANCE if forecaster.predictor.frequency.is_wall_clock else 0


def as_entry(
    answer: Answer,
    *,
    client: str = "",
    owner: str = "",
    idempotency_key: str | None = None,
    body_digest: str | None = None,
    is_shadow: bool = False,
    request_id: str | None = None,
) -> Entry:
    """Return an answer as the ledger takes it, each forecast with its id.

    Args:
        answer: what is answered.
        client: the key that asked; empty where none is needed.
        owner: whose that key is.
        idempotency_key: under which the same is answered again.
        body_digest: of the request.
        is_shadow: whether no client sees it.
        request_id: a new one when None.
    """
    now = now_at()
    request_id = request_id or new_request_id(now)
    forecasts = tuple(
        ServedForecast(
            unique_id=one[UNIQUE_ID],
            last_value=float(last),
            steps=steps,
            tolerance=answer.tolerance,
            # in ASCII: one letter beyond it would make each character of the answer take four bytes
            answer=to_json({"forecast_id": forecast_id(request_id, position), **one}, ensure_ascii=True).decode(),
        )
        for position, (one, last, steps) in enumerate(
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
