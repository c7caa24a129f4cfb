"""What each call asks of the service, request by request, and what it makes of the answers; sends nothing itself."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pandas as pd

from forecaster.client.errors import RequestRefused
from forecaster.client.exchange import Call, Request
from forecaster.client.frames import read_forecasts, read_histories, spell
from forecaster.data.long_frame import read_long_frame
from forecaster.domain.series import DS, UNIQUE_ID, Y

ACTUALS_PER_REQUEST = 50_000


def forecast(
    df: pd.DataFrame,
    model: str,
    alias: str | None,
    version: int | None,
    horizon: int | None,
    level: Sequence[float] | None,
    quantiles: Sequence[float] | None,
    futr_df: pd.DataFrame | None,
    most_series: int,
) -> Call[pd.DataFrame]:
    """Ask what the model takes, send that of the frame, and join the answers."""
    described = yield Request("GET", f"/v1/models/{quote(model, safe='')}")
    manifest = _version(described, alias, version)
    histories = read_histories(df, futr_df, manifest, most_series)
    # with columns that are known ahead, every step that they were given for comes back, so that its time is compared
    is_within = horizon is None or 1 <= horizon <= manifest["horizon"]
    asked = manifest["horizon"] if histories.ahead is not None and is_within else horizon
    body = {
        "model": model,
        "alias": alias,
        "version": version,
        "horizon": asked,
        "level": None if level is None else [float(one) for one in level],
        "quantiles": None if quantiles is None else [float(one) for one in quantiles],
    }
    answers: list[dict[str, Any]] = []
    for batch in histories.batches:
        # one frame is of one version, even if another becomes champion meanwhile
        of_version = {"alias": None, "version": answers[0]["model"]["version"]} if answers else {}
        headers = {"Idempotency-Key": str(uuid4())}
        request = Request("POST", "/v1/forecasts", body=body | of_version | {"series": batch}, headers=headers)
        answers.append((yield request))
    forecasts = [one for answer in answers for one in answer["forecasts"]]
    frame = read_forecasts(forecasts, histories, horizon)
    frame.attrs = {name: answers[0][name] for name in ("model", "skill", "forecast_by")}
    frame.attrs["warnings"] = list(dict.fromkeys(text for answer in answers for text in answer["warnings"]))
    return frame


def _version(described: Mapping[str, Any], alias: str | None, version: int | None) -> Mapping[str, Any]:
    """Return the manifest of the version that is meant."""
    found = described["aliases"].get(alias or "champion") if version is None else version
    manifest: Mapping[str, Any] | None = described["versions"].get(str(found))
    if manifest is None:
        asked = f"alias '{alias or 'champion'}'" if version is None else f"version {version}"
        raise RequestRefused(
            404,
            f"model '{described['name']}' has no {asked}; it has the aliases {sorted(described['aliases'])} and the "
            f"versions {sorted(map(int, described['versions']))}",
        )
    return manifest


def models() -> Call[list[dict[str, Any]]]:
    """Ask which models are served."""
    answer = yield Request("GET", "/v1/models")
    found: list[dict[str, Any]] = answer["models"]
    return found


def actuals(df: pd.DataFrame) -> Call[dict[str, int]]:
    """Send what has come of forecasts, and add up what became of it."""
    read_long_frame(df, "df")
    rows = [
        {UNIQUE_ID: str(unique_id), DS: time, Y: float(y)}
        for unique_id, time, y in zip(df[UNIQUE_ID], spell(df[DS]), df[Y], strict=True)
    ]
    total = {"accepted": 0, "changed": 0}
    for begin in range(0, len(rows), ACTUALS_PER_REQUEST):
        body = {"actuals": rows[begin : begin + ACTUALS_PER_REQUEST]}
        answer = yield Request("POST", "/v1/actuals", body=body)
        total = {name: count + answer[name] for name, count in total.items()}
    return total


def forecast_by_id(forecast_id: str) -> Call[dict[str, Any]]:
    """Ask for a forecast that was served."""
    answer: dict[str, Any] = yield Request("GET", f"/v1/forecasts/{quote(forecast_id, safe='')}")
    return answer


def skill(model: str) -> Call[dict[str, Any]]:
    """Ask how the served forecasts of a model did."""
    answer: dict[str, Any] = yield Request("GET", "/v1/skill", {"model": model})
    return answer
