"""Forecasts on exchange sessions: they skip holidays and end with the calendar."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from forecaster.data.calendars import get_calendar
from forecaster.domain.errors import SeriesError
from forecaster.inference.predictor import Predictor, load_predictor
from forecaster.registry.store import Store
from forecaster.training.job import train
from service.app import create_app
from service.settings import Settings
from tests.conftest import small_config
from tests.data.prices import Company
from tests.service.conftest import wait_until_ready


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("sessions")
    prices = Company(first="2022-01-03", last="2025-12-23").bars().long_frame()
    prices.to_csv(folder / "prices.csv", index=False)
    changes = {
        "name": "abc",
        "data": {"source": "files", "path": str(folder / "prices.csv")},
        "freq": "XNYS",
        "transforms": [{"kind": "log"}, {"kind": "last_value"}, {"kind": "standardize"}],
        "fit": {"epochs": 1},
    }
    registered = train(small_config(folder, **changes))
    uri = f"sqlite:///{folder}/mlflow.db"
    Store(uri).promote("abc", registered.version)
    return load_predictor("abc", tracking_uri=uri, cache=folder / "cache")


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    cache = predictor.bundle.folder.parents[1]
    with TestClient(create_app(Settings(cache_dir=cache, tracking_uri=""))) as client:
        wait_until_ready(client)
        yield client


def history(last: str, length: int = 30) -> pd.DataFrame:
    days = get_calendar("XNYS").sessions(np.datetime64("2022-01-03"), np.datetime64(last))[-length:]
    return pd.DataFrame({"unique_id": "ABC", "ds": days.astype("M8[ns]"), "y": np.linspace(100, 110, length)})


# Christmas; Thanksgiving; Good Friday
@pytest.mark.parametrize(
    ("last", "coming"),
    [
        ("2025-12-23", ["2025-12-24", "2025-12-26", "2025-12-29", "2025-12-30"]),
        ("2025-11-26", ["2025-11-28", "2025-12-01", "2025-12-02", "2025-12-03"]),
        ("2025-04-16", ["2025-04-17", "2025-04-21", "2025-04-22", "2025-04-23"]),
    ],
)
def test_forecasts_fall_on_sessions(predictor: Predictor, client: TestClient, last: str, coming: list[str]) -> None:
    frame = history(last)
    in_process = predictor.predict_frame(frame)
    assert in_process["ds"].dt.strftime("%Y-%m-%d").tolist() == coming
    series = {"unique_id": "ABC", "ds": frame["ds"].dt.strftime("%Y-%m-%d").tolist(), "y": frame["y"].tolist()}
    (answer,) = client.post("/v1/forecasts", json={"model": "abc", "series": [series]}).json()["forecasts"]
    assert answer["ds"] == [f"{day}T00:00:00" for day in coming]
    assert answer["mean"] == in_process["mean"].tolist()


def test_missing_session_is_named(predictor: Predictor, client: TestClient) -> None:
    frame = history("2025-12-23").drop(index=25)
    with pytest.raises(SeriesError, match="is not one step of XNYS"):
        predictor.predict_frame(frame)
    series = {"unique_id": "ABC", "ds": frame["ds"].dt.strftime("%Y-%m-%d").tolist(), "y": frame["y"].tolist()}
    answer = client.post("/v1/forecasts", json={"model": "abc", "series": [series]})
    assert answer.status_code == 422
    assert "ds[25]" in answer.json()["detail"]
    assert "is not one step of XNYS" in answer.json()["detail"]


def test_forecast_beyond_the_calendar_is_refused(client: TestClient) -> None:
    days = [f"2199-01-{day:02d}" for day in range(1, 31)]
    series = {"unique_id": "ABC", "ds": days, "y": [1.0] * 30}
    answer = client.post("/v1/forecasts", json={"model": "abc", "series": [series]})
    assert answer.status_code == 422
    assert "calendar XNYS covers " in answer.json()["detail"]


def test_manifest_has_the_calendar_but_the_model_route_omits_closed_days(
    predictor: Predictor, client: TestClient
) -> None:
    assert predictor.manifest.freq == "XNYS"
    assert predictor.manifest.sessions is not None
    assert "2025-12-25" in predictor.manifest.sessions.closed
    version = client.get("/v1/models/abc").json()["versions"]["1"]
    assert version["sessions"]["name"] == "XNYS"
    assert "closed" not in version["sessions"]


def test_file_with_missing_sessions_is_refused_before_training(tmp_path: Path) -> None:
    prices = Company(last="2025-12-23").bars().long_frame().drop(index=100)
    prices.to_csv(tmp_path / "prices.csv", index=False)
    data = {"source": "files", "path": str(tmp_path / "prices.csv")}
    with pytest.raises(SeriesError, match=r"prices\.csv, series 'ABC', line 102: .* is not one step of XNYS"):
        train(small_config(tmp_path, data=data, freq="XNYS"))
