"""POST /v1/forecasts: answers to valid requests, and problems for invalid ones."""

from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.conftest import TrainedModels
from tests.service.conftest import forecast_request, series


def test_forecast_equals_in_process_output(client: TestClient, models: TrainedModels) -> None:
    answer = client.post("/v1/forecasts", json=forecast_request(level=[80, 95])).json()
    predictor = models.predictor(models.versions[0].version)
    inputs = np.array([series()["y"]])
    predicted = predictor.predict(inputs)
    mean, spread = predicted.mean, predictor.quantiles(inputs, predicted, (0.1, 0.9))
    forecast = answer["forecasts"][0]
    assert forecast["mean"] == mean[0].tolist()
    assert forecast["lo-80"] == spread[0, :, 0].tolist()
    assert forecast["hi-80"] == spread[0, :, 1].tolist()
    assert answer["model"] == {
        "name": "sine", "version": 1, "alias": "champion", "run_id": models.versions[0].run_id,
    }  # fmt: skip
    assert answer["skill"]["relative_mae"] == models.versions[0].metrics["relative_mae"]
    assert answer["warnings"] == []


def test_forecast_timestamps_keep_the_zone_of_the_series(client: TestClient) -> None:
    zoned = series()
    zoned["ds"] = [f"{time}+02:00" for time in zoned["ds"]]
    utc = series(unique_id="b")
    utc["ds"] = [f"{time}Z" for time in utc["ds"]]
    body = forecast_request(series=[zoned, utc, series(unique_id="c")])
    forecasts = client.post("/v1/forecasts", json=body).json()["forecasts"]
    assert [forecast["ds"][0] for forecast in forecasts] == [
        "2026-01-02T06:00:00+02:00", "2026-01-02T06:00:00Z", "2026-01-02T06:00:00",
    ]  # fmt: skip


def test_dates_are_read_as_midnight(client: TestClient) -> None:
    daily = series()
    daily["ds"] = [f"2026-01-{day:02d}" for day in range(1, 31)]
    answer = client.post("/v1/forecasts", json=forecast_request(series=[daily]))
    # parsed, but refused because the model is hourly
    assert answer.status_code == 422
    assert "series[0] ('a').ds[1]: 2026-01-02T00:00:00" in answer.json()["detail"]
    assert "is not one step of h" in answer.json()["detail"]


def test_longer_horizon_is_rolled_out_with_a_warning(client: TestClient) -> None:
    answer = client.post("/v1/forecasts", json=forecast_request(horizon=6)).json()
    forecast = answer["forecasts"][0]
    assert len(forecast["mean"]) == 6
    assert forecast["lo-80"][4:] == [None, None]
    assert None not in forecast["lo-80"][:4]
    assert "rolled out" in answer["warnings"][0]


def _row(number: int, **changes: Any) -> dict[str, Any]:
    changed = series()
    for column, value in changes.items():
        changed[column][number] = value
    return forecast_request(series=[changed])


BAD = {
    "horizon 0": (forecast_request(horizon=0), 422, "horizon"),
    "horizon a million": (forecast_request(horizon=1_000_000), 422, "40"),
    "unknown model": (forecast_request(model="nobody"), 404, "nobody"),
    "unknown alias": (forecast_request(alias="nobody"), 404, "nobody"),
    "empty alias": (forecast_request(alias=""), 404, "no alias ''"),
    "unknown version": (forecast_request(version=99), 404, "99"),
    "alias and version": (forecast_request(alias="champion", version=1), 422, "not both"),
    "level and quantiles": (forecast_request(quantiles=[0.1]), 422, "not both"),
    "level 100": (forecast_request(level=[100]), 422, "below 100"),
    "level beyond calibration": (forecast_request(level=[99.9999]), 422, "calibrated"),
    "too short": (forecast_request(series=[series(), series(20, "b")]), 422, "add 4 earlier values"),
    "repeated series": (forecast_request(series=[series(), series()]), 422, "series[1].unique_id"),
    "no series": (forecast_request(series=[]), 422, "series"),
    "too many series": (forecast_request(series=[series(24, str(n)) for n in range(51)]), 422, "51"),
    "text in y": (_row(3, y="many"), 422, "series[0].y[3]"),
    "null in y": (_row(3, y=None), 422, "series[0] ('a').y[3]: is null"),
    "repeated time": (_row(3, ds="2026-01-01T02:00:00"), 422, "ds[3]"),
    "unsorted time": (_row(3, ds="2025-01-01T02:00:00"), 422, "ds[3]"),
    "irregular time": (_row(29, ds="2026-02-01T02:00:00"), 422, "ds[29]"),
    "no time": (_row(3, ds="soon"), 422, "series[0].ds[3]"),
    "mixed zones": (_row(3, ds="2026-01-01T03:00:00Z"), 422, "zone"),
    "unknown field": (forecast_request(horizn=3), 422, "horizn"),
    "lengths differ": (forecast_request(series=[series() | {"y": [1.0] * 29}]), 422, "29"),
    "exogenous": (forecast_request(series=[series() | {"hist_exog": {"volume": [1.0]}}]), 422, "volume"),
    "huge values": (forecast_request(version=2, series=[series() | {"y": [1e308, -1e308] * 15}]), 422, "size"),
}


@pytest.mark.parametrize(("body", "status", "detail"), BAD.values(), ids=BAD.keys())
def test_invalid_request_gets_a_problem_that_names_the_field(
    client: TestClient, body: dict[str, Any], status: int, detail: str
) -> None:
    answer = client.post("/v1/forecasts", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert detail in answer.json()["detail"]


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


def test_unknown_route_and_method_get_a_problem(client: TestClient) -> None:
    for answer, status in ((client.get("/nowhere"), 404), (client.get("/v1/actuals"), 405)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


def test_series_with_equal_instants_keep_their_own_offsets(client: TestClient) -> None:
    first, second = series(unique_id="a"), series(unique_id="b", start="2026-01-01T02:00:00")
    first["ds"] = [f"{ds}Z" for ds in first["ds"]]
    second["ds"] = [f"{ds}+02:00" for ds in second["ds"]]
    third = series(unique_id="c", start="2026-01-01T01:00:00")
    third["ds"] = [f"{ds}Z" for ds in third["ds"]]
    body = forecast_request(series=[first, second, first | {"unique_id": "d"}, third])
    answer = client.post("/v1/forecasts", json=body).json()
    starts = [forecast["ds"][0] for forecast in answer["forecasts"]]
    assert starts == [
        "2026-01-02T06:00:00Z",
        "2026-01-02T08:00:00+02:00",
        "2026-01-02T06:00:00Z",
        "2026-01-02T07:00:00Z",
    ]
    cutoffs = [forecast["cutoff"] for forecast in answer["forecasts"]]
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
def test_accept_header_selects_ndjson(client: TestClient, accept: str, kind: str) -> None:
    answer = client.post("/v1/forecasts", json=forecast_request(), headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].partition(";")[0] == kind


def test_sample_paths_are_answered_and_kept_in_the_ledger(client: TestClient, models: TrainedModels) -> None:
    body = forecast_request(horizon=3, n_samples=5, seed=9)
    (forecast,) = client.post("/v1/forecasts", json=body).json()["forecasts"]
    assert np.shape(forecast["samples"]) == (5, 3)
    assert client.get(f"/v1/forecasts/{forecast['forecast_id']}").json()["forecast"] == forecast
    again, other = (client.post("/v1/forecasts", json=body | {"seed": seed}).json()["forecasts"][0] for seed in (9, 8))
    assert again["samples"] == forecast["samples"] != other["samples"]
    assert "samples" not in client.post("/v1/forecasts", json=forecast_request()).json()["forecasts"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"n_samples": 1001}, "n_samples"),
        ({"n_samples": 5, "seed": -1}, "seed"),
        ({"n_samples": 5, "horizon": 5}, "n_samples: the trained horizon is 4"),
    ],
)
def test_sample_paths_beyond_the_limits_are_refused(client: TestClient, changes: dict[str, Any], message: str) -> None:
    answer = client.post("/v1/forecasts", json=forecast_request(**changes))
    assert answer.status_code == 422
    assert message in answer.text
