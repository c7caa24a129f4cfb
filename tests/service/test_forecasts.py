"""POST /v1/forecasts: what a good request gets, and what every bad one is told."""

from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.conftest import TrainedModels
from tests.service.conftest import ask, series


def test_forecast_equals_in_process_output(client: TestClient, models: TrainedModels) -> None:
    answer = client.post("/v1/forecasts", json=ask(level=[80, 95])).json()
    predictor = models.predictor(models.versions[0].version)
    inputs = np.array([series()["y"]])
    mean = predictor.predict_arrays(inputs)
    spread = predictor.quantiles(inputs, mean, (0.1, 0.9))
    forecast = answer["forecasts"][0]
    assert forecast["mean"] == mean[0].tolist()
    assert forecast["lo-80"] == spread[0, :, 0].tolist()
    assert forecast["hi-80"] == spread[0, :, 1].tolist()
    assert answer["model"] == {
        "name": "sine", "version": 1, "alias": "champion", "run_id": models.versions[0].run_id,
    }  # fmt: skip
    assert answer["skill"]["relative_mae"] == models.versions[0].metrics["relative_mae"]
    assert answer["warnings"] == []


def test_timestamps_follow_the_series_zone(client: TestClient) -> None:
    zoned = series()
    zoned["ds"] = [f"{time}+02:00" for time in zoned["ds"]]
    utc = series(unique_id="b")
    utc["ds"] = [f"{time}Z" for time in utc["ds"]]
    forecasts = client.post("/v1/forecasts", json=ask(series=[zoned, utc, series(unique_id="c")])).json()["forecasts"]
    assert [one["ds"][0] for one in forecasts] == [
        "2026-01-02T06:00:00+02:00", "2026-01-02T06:00:00Z", "2026-01-02T06:00:00",
    ]  # fmt: skip


def test_dates_are_taken_as_midnight(client: TestClient) -> None:
    daily = series()
    daily["ds"] = [f"2026-01-{day:02d}" for day in range(1, 31)]
    answer = client.post("/v1/forecasts", json=ask(series=[daily]))
    # understood, and refused for being days where the model's are hours
    assert answer.status_code == 422
    assert "series[0] ('a').ds[1]: 2026-01-02T00:00:00" in answer.json()["detail"]
    assert "is not one step of h" in answer.json()["detail"]


def test_horizon_longer_than_trained_is_rolled_out_and_said_so(client: TestClient) -> None:
    answer = client.post("/v1/forecasts", json=ask(horizon=6)).json()
    forecast = answer["forecasts"][0]
    assert len(forecast["mean"]) == 6
    assert forecast["lo-80"][4:] == [None, None]
    assert None not in forecast["lo-80"][:4]
    assert "rolled out" in answer["warnings"][0]


def _row(number: int, **changes: Any) -> dict[str, Any]:
    one = series()
    for column, value in changes.items():
        one[column][number] = value
    return ask(series=[one])


BAD = {
    "horizon 0": (ask(horizon=0), 422, "horizon"),
    "horizon a million": (ask(horizon=1_000_000), 422, "40"),
    "unknown model": (ask(model="nobody"), 404, "nobody"),
    "unknown alias": (ask(alias="nobody"), 404, "nobody"),
    "empty alias": (ask(alias=""), 404, "no alias ''"),
    "unknown version": (ask(version=99), 404, "99"),
    "alias and version": (ask(alias="champion", version=1), 422, "not both"),
    "level and quantiles": (ask(quantiles=[0.1]), 422, "not both"),
    "level 100": (ask(level=[100]), 422, "below 100"),
    "level beyond calibration": (ask(level=[99.9999]), 422, "calibrated"),
    "too short": (ask(series=[series(), series(20, "b")]), 422, "4 more are missing"),
    "repeated series": (ask(series=[series(), series()]), 422, "series[1].unique_id"),
    "no series": (ask(series=[]), 422, "series"),
    "too many series": (ask(series=[series(24, str(n)) for n in range(51)]), 422, "51"),
    "text in y": (_row(3, y="many"), 422, "series[0].y[3]"),
    "null in y": (_row(3, y=None), 422, "series[0].y[3]"),
    "repeated time": (_row(3, ds="2026-01-01T02:00:00"), 422, "ds[3]"),
    "unsorted time": (_row(3, ds="2025-01-01T02:00:00"), 422, "ds[3]"),
    "irregular time": (_row(29, ds="2026-02-01T02:00:00"), 422, "ds[29]"),
    "no time": (_row(3, ds="soon"), 422, "series[0].ds[3]"),
    "mixed zones": (_row(3, ds="2026-01-01T03:00:00Z"), 422, "zone"),
    "unknown field": (ask(horizn=3), 422, "horizn"),
    "lengths differ": (ask(series=[series() | {"y": [1.0] * 29}]), 422, "29"),
    "exogenous": (ask(series=[series() | {"hist_exog": {"volume": [1.0]}}]), 422, "volume"),
    "huge values": (ask(version=2, series=[series() | {"y": [1e308, -1e308] * 15}]), 422, "size"),
}


@pytest.mark.parametrize(("body", "status", "said"), BAD.values(), ids=BAD.keys())
def test_bad_request_is_told_what_and_where(client: TestClient, body: dict[str, Any], status: int, said: str) -> None:
    answer = client.post("/v1/forecasts", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert said in answer.json()["detail"]


RAW = {
    "empty": b"",
    "not json": b"{",
    "a list": b"[]",
    "infinite": b'{"model": "sine", "series": [{"unique_id": "a", "ds": ["2026-01-01"], "y": [1e999]}]}',
    "nan": b'{"model": "sine", "series": [{"unique_id": "a", "ds": ["2026-01-01"], "y": [NaN]}]}',
    "bad utf-8": b'{"model": "\xff"}',
    "lone surrogate": b'{"model": "\\ud800", "series": []}',
    "deep": b"[" * 100_000,
    "long integer": b'{"horizon": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", RAW.values(), ids=RAW.keys())
def test_malformed_body_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/forecasts", content=body)
    assert answer.status_code == 422
    assert answer.json()["errors"]


def test_large_body_is_refused(client: TestClient) -> None:
    assert client.post("/v1/forecasts", content=b" " * 300_000).status_code == 413


def test_unknown_route_and_method_are_problems(client: TestClient) -> None:
    for answer, status in ((client.get("/nowhere"), 404), (client.get("/v1/actuals"), 405)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


def test_series_of_the_same_instants_are_answered_each_in_its_own_offset(client: TestClient) -> None:
    first, second = series(unique_id="a"), series(unique_id="b", start="2026-01-01T02:00:00")
    first["ds"] = [f"{ds}Z" for ds in first["ds"]]
    second["ds"] = [f"{ds}+02:00" for ds in second["ds"]]
    third = series(unique_id="c", start="2026-01-01T01:00:00")
    third["ds"] = [f"{ds}Z" for ds in third["ds"]]
    answer = client.post("/v1/forecasts", json=ask(series=[first, second, first | {"unique_id": "d"}, third])).json()
    starts = [one["ds"][0] for one in answer["forecasts"]]
    assert starts == [
        "2026-01-02T06:00:00Z",
        "2026-01-02T08:00:00+02:00",
        "2026-01-02T06:00:00Z",
        "2026-01-02T07:00:00Z",
    ]
    cutoffs = [one["cutoff"] for one in answer["forecasts"]]
    assert cutoffs[1] == "2026-01-02T07:00:00+02:00"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/x-ndjson", "application/x-ndjson"),
        ("Application/X-NDJSON; q=0.1, application/json", "application/x-ndjson"),
        ("application/x-ndjson;q=0", "application/json"),
        ("application/json, application/x-ndjson; q=0.000", "application/json"),
        ("application/x-ndjson-seq, ;, ", "application/json"),
        ("*/*", "application/json"),
    ],
)
def test_lines_are_for_those_who_name_them(client: TestClient, accept: str, kind: str) -> None:
    answer = client.post("/v1/forecasts", json=ask(), headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].partition(";")[0] == kind
