"""The calls of the client: which requests each one makes, and its result. Nothing is sent here."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pandas as pd

from forecaster.client.exchange import Call, Request
from forecaster.client.frames import format_times, read_forecasts, read_histories
from forecaster.data.long_frame import read_long_frame
from forecaster.domain.errors import RequestRefused
from forecaster.domain.series import DS, UNIQUE_ID, Y

ACTUALS_PER_REQUEST = 50_000
# leaves room for other columns below the service's default limit of a million points
SAMPLES_PER_ANSWER = 500_000


def forecast(
    df: pd.DataFrame,
    model: str,
    alias: str | None,
    version: int | None,
    horizon: int | None,
    level: Sequence[float] | None,
    quantiles: Sequence[float] | None,
    futr_df: pd.DataFrame | None,
    n_samples: int | None,
    seed: int,
    max_series: int,
) -> Call[pd.DataFrame]:
    """Request forecasts of a frame: read the model's manifest, send what it needs, and join the answers."""
    description = yield Request("GET", f"/v1/models/{quote(model, safe='')}")
    manifest = _manifest(description, alias, version)
    if n_samples is not None:
        steps = manifest["horizon"] if horizon is None else horizon
        max_series = max(1, min(max_series, SAMPLES_PER_ANSWER // max(1, n_samples * steps)))
    histories = read_histories(df, futr_df, manifest, max_series)
    # futr_df covers the trained horizon: request all its steps, so that their times can be compared with futr_df's
    is_valid = horizon is None or 1 <= horizon <= manifest["horizon"]
    requested_horizon = manifest["horizon"] if histories.futr_times is not None and is_valid else horizon
    body = {
        "model": model,
        "alias": alias,
        "version": version,
        "horizon": requested_horizon,
        "level": None if level is None else [float(value) for value in level],
        "quantiles": None if quantiles is None else [float(value) for value in quantiles],
        # services of earlier releases refuse unknown fields
        **({} if n_samples is None else {"n_samples": n_samples, "seed": seed}),
    }
    answers: list[dict[str, Any]] = []
    for batch in histories.batches:
        # all series are forecast by the same version, even if another version becomes the champion in between
        same_version = {"alias": None, "version": answers[0]["model"]["version"]} if answers else {}
        headers = {"Idempotency-Key": str(uuid4())}
        request = Request("POST", "/v1/forecasts", body=body | same_version | {"series": batch}, headers=headers)
        answers.append((yield request))
    forecasts = [item for answer in answers for item in answer["forecasts"]]
    frame = read_forecasts(forecasts, histories, horizon)
    frame.attrs = {name: answers[0][name] for name in ("model", "skill", "forecast_by")}
    frame.attrs["warnings"] = list(dict.fromkeys(text for answer in answers for text in answer["warnings"]))
    return frame


def _manifest(description: Mapping[str, Any], alias: str | None, version: int | None) -> Mapping[str, Any]:
    """Return the manifest of the requested version."""
    number = description["aliases"].get(alias or "champion") if version is None else version
    manifest: Mapping[str, Any] | None = description["versions"].get(str(number))
    if manifest is None:
        missing = f"alias '{alias or 'champion'}'" if version is None else f"version {version}"
        raise RequestRefused(
            404,
            f"model '{description['name']}' has no {missing}; it has the aliases {sorted(description['aliases'])} and "
            f"the versions {sorted(map(int, description['versions']))}",
        )
    return manifest


def models() -> Call[list[dict[str, Any]]]:
    """Request the list of served models."""
    answer = yield Request("GET", "/v1/models")
    listed: list[dict[str, Any]] = answer["models"]
    return listed


def actuals(df: pd.DataFrame) -> Call[dict[str, int]]:
    """Send actuals, and add up the counts in the answers."""
    read_long_frame(df, "df")
    rows = [
        {UNIQUE_ID: str(unique_id), DS: time, Y: float(y)}
        for unique_id, time, y in zip(df[UNIQUE_ID], format_times(df[DS]), df[Y], strict=True)
    ]
    total = {"accepted": 0, "changed": 0}
    for begin in range(0, len(rows), ACTUALS_PER_REQUEST):
        body = {"actuals": rows[begin : begin + ACTUALS_PER_REQUEST]}
        answer = yield Request("POST", "/v1/actuals", body=body)
        total = {name: count + answer[name] for name, count in total.items()}
    return total


def forecast_by_id(forecast_id: str) -> Call[dict[str, Any]]:
    """Request a served forecast."""
    answer: dict[str, Any] = yield Request("GET", f"/v1/forecasts/{quote(forecast_id, safe='')}")
    return answer


def skill(model: str) -> Call[dict[str, Any]]:
    """Request the realised skill of a model."""
    answer: dict[str, Any] = yield Request("GET", "/v1/skill", {"model": model})
    return answer
