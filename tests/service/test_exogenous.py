"""Exogenous columns: training, forecasts in Python and over HTTP, batch forecasts, validation and drift."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from forecaster.data.calendar_features import calendar_features
from forecaster.domain.config import build_config
from forecaster.domain.errors import ConfigError, RequestError, SeriesError
from forecaster.domain.frequency import parse
from forecaster.inference.batch import BatchConfig, forecast_batch
from forecaster.inference.predictor import Predictor, load_predictor
from forecaster.registry.store import Store
from forecaster.training.job import RegisteredVersion, train
from service.app import create_app
from service.settings import Settings
from tests.conftest import small_config
from tests.service.conftest import wait_until_ready

ROWS, INPUT_SIZE, HORIZON = 900, 24, 4


def table() -> pd.DataFrame:
    """Return sales that depend on yesterday's visits (hist_exog), a promotion (futr_exog) and the weekday."""
    random = np.random.default_rng(5)
    days = pd.date_range("2023-01-02", periods=ROWS, freq="D")
    visits = random.normal(50, 10, ROWS)
    promotion = (random.uniform(size=ROWS) < 0.3).astype(float)
    sales = 3 * np.concatenate([[50], visits[:-1]]) + 100 * promotion + 40 * (days.dayofweek >= 5)
    return pd.DataFrame({"ds": days, "y": sales, "visits": visits, "promotion": promotion})


@pytest.fixture(scope="module", params=["many_to_one", "many_to_many"])
def trained(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[RegisteredVersion, Predictor]:
    folder = tmp_path_factory.mktemp("sales")
    table().to_csv(folder / "sales.csv", index=False)
    changes: dict[str, Any] = {
        "name": "sales",
        "data": {"source": "files", "path": str(folder / "sales.csv")},
        "hist_exog": ["visits"],
        "futr_exog": ["promotion"],
        "calendar_features": ["day_of_week", "month"],
        "model": {"cell": "gru", "widths": [16], "topology": request.param},
        "fit": {"epochs": 25, "batch_size": 32, "learning_rate": 0.02, "patience": 25},
    }
    registered = train(small_config(folder, **changes))
    uri = f"sqlite:///{folder}/mlflow.db"
    Store(uri).promote("sales", registered.version)
    return registered, load_predictor("sales", tracking_uri=uri, cache=folder / "cache")


@pytest.fixture(scope="module")
def client(trained: tuple[RegisteredVersion, Predictor]) -> Iterator[TestClient]:
    cache = trained[1].bundle.folder.parents[1]
    with TestClient(create_app(Settings(cache_dir=cache, tracking_uri=""))) as client:
        wait_until_ready(client)
        yield client


def history(end: int = 800) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the 40 rows before row `end`, and the future values after it."""
    frame = table().assign(unique_id="shop")
    return frame.iloc[end - 40 : end], frame.iloc[end : end + HORIZON][["unique_id", "ds", "promotion"]]


def series(**changes: Any) -> dict[str, Any]:
    past, ahead = history()
    body = {
        "unique_id": "shop",
        "ds": past["ds"].dt.strftime("%Y-%m-%d").tolist(),
        "y": past["y"].tolist(),
        "hist_exog": {"visits": past["visits"].tolist()},
        "futr_exog": {"promotion": [*past["promotion"], *ahead["promotion"]]},
    }
    return body | changes


def test_model_learns_from_exogenous_columns(trained: tuple[RegisteredVersion, Predictor]) -> None:
    registered, predictor = trained
    # without the promotion column, promotions would cause most of the error
    assert registered.metrics["relative_mae"] < 0.45
    assert list(predictor.manifest.hist_exog) == ["visits"]
    assert list(predictor.manifest.futr_exog) == ["promotion"]
    assert list(predictor.manifest.calendar_features) == ["day_of_week", "month"]
    assert predictor.manifest.max_horizon == HORIZON


def test_http_forecast_equals_python_forecast(trained: tuple[RegisteredVersion, Predictor], client: TestClient) -> None:
    past, ahead = history()
    expected = trained[1].predict_frame(past, level=(80,), futr_df=ahead)
    answer = client.post("/v1/forecasts", json={"model": "sales", "series": [series()], "level": [80]})
    (forecast,) = answer.json()["forecasts"]
    assert forecast["mean"] == expected["mean"].tolist()
    assert forecast["hi-80"] == expected["hi-80"].tolist()
    # futr_frame may have additional rows, in any order
    more = pd.concat([ahead, ahead.assign(unique_id="other"), history(804)[1]]).iloc[::-1]
    pd.testing.assert_frame_equal(trained[1].predict_frame(past, level=(80,), futr_df=more), expected)


def test_batch_reads_future_values_from_a_file(
    trained: tuple[RegisteredVersion, Predictor], client: TestClient, tmp_path: Path
) -> None:
    past, ahead = history()
    # the future values of the series `other` lack a row
    pd.concat([past, past.assign(unique_id="other")]).to_csv(tmp_path / "past.csv", index=False)
    pd.concat([ahead, ahead.iloc[1:].assign(unique_id="other")]).iloc[::-1].to_csv(tmp_path / "a.csv", index=False)
    raw = {
        "name": "sales",
        "data": {"source": "files", "path": tmp_path / "past.csv"},
        "futr": {"source": "files", "path": tmp_path / "a.csv"},
        "level": [80],
        "out": tmp_path / "out.parquet",
        "cache": trained[1].bundle.folder.parents[1],
        "tracking": {"uri": ""},
    }
    batch = forecast_batch(
        build_config(raw, BatchConfig, "test"), f"sqlite:///{tmp_path}/l.db", lambda done, count: None
    )
    answer = client.post("/v1/forecasts", json={"model": "sales", "series": [series()], "level": [80]})
    (expected,) = answer.json()["forecasts"]
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert frame["unique_id"].tolist() == ["shop"] * HORIZON
    for column in ("mean", "lo-80", "hi-80"):
        assert frame[column].tolist() == expected[column]
    assert "promotion is not a finite number" in batch.failed["other"]
    with pytest.raises(RequestError, match=r"futr: missing; set a file with \['promotion'\]"):
        forecast_batch(
            build_config(raw | {"futr": None}, BatchConfig, "test"),
            f"sqlite:///{tmp_path}/l.db",
            lambda done, count: None,
        )


def test_calendar_features_cover_history_and_forecast_days(
    trained: tuple[RegisteredVersion, Predictor],
) -> None:
    days = np.array(
        [np.arange("2025-11-01", "2025-11-25", dtype="M8[D]"), np.arange("2025-12-01", "2025-12-25", dtype="M8[D]")]
    )
    futr = np.zeros((2, INPUT_SIZE + HORIZON, 1))
    known = trained[1].known_ahead(days, None, futr)
    assert known is not None
    ahead = np.concatenate([days, days[:, -1:] + np.arange(1, HORIZON + 1)], axis=1)
    expected = calendar_features(["day_of_week", "month"], ahead, parse("D"))
    np.testing.assert_array_equal(known, np.concatenate([futr, expected], axis=2))


def test_forecast_depends_on_each_column_within_the_input_window(
    trained: tuple[RegisteredVersion, Predictor],
) -> None:
    predictor = trained[1]
    past, ahead = history()
    before = predictor.predict_frame(past, futr_df=ahead)["mean"].to_numpy()
    for changed_past, changed_ahead in (
        (past.assign(visits=past["visits"] + 5), ahead),
        (past.assign(promotion=1 - past["promotion"]), ahead),
        (past, ahead.assign(promotion=1 - ahead["promotion"])),
    ):
        assert (predictor.predict_frame(changed_past, futr_df=changed_ahead)["mean"].to_numpy() != before).all()
    old = past.index < past.index[-INPUT_SIZE]
    changed = past.assign(visits=past["visits"].where(~old, 0.0), promotion=past["promotion"].where(~old, 9.0))
    np.testing.assert_array_equal(predictor.predict_frame(changed, futr_df=ahead)["mean"], before)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"hist_exog": {}}, "hist_exog: the model takes the columns ['visits']; missing: ['visits'], unknown: []"),
        ({"futr_exog": {}}, "futr_exog: the model takes the columns ['promotion']; missing: ['promotion']"),
        ({"hist_exog": {"visits": [1.0] * 40, "rain": [1.0]}}, "missing: [], unknown: ['rain']"),
        ({"hist_exog": {"visits": [1.0] * 39}}, "hist_exog.visits: has 39 values and needs 40: one value per time"),
        (
            {"futr_exog": {"promotion": [1.0] * 40}},
            "has 40 values and needs 44: one value per time and per forecast step",
        ),
        ({"stat_exog": {"size": 1.0}}, "stat_exog: the model takes the columns none; missing: [], unknown: ['size']"),
    ],
)
def test_invalid_columns_are_named(client: TestClient, changes: dict[str, Any], detail: str) -> None:
    answer = client.post("/v1/forecasts", json={"model": "sales", "series": [series(**changes)]})
    assert answer.status_code == 422
    assert detail in answer.json()["detail"]


def test_roll_out_with_exogenous_columns_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/forecasts", json={"model": "sales", "series": [series()], "horizon": HORIZON + 1})
    assert answer.status_code == 422
    assert "horizon: 5 is outside 1 to 4" in answer.json()["detail"]


def test_incomplete_frames_are_refused(trained: tuple[RegisteredVersion, Predictor]) -> None:
    past, ahead = history()
    for frame, futr_frame, message in (
        (past.drop(columns="visits"), ahead, r"missing columns \['visits'\]"),
        (past, None, r"futr_df: the model needs \['promotion'\]"),
        (past, ahead.drop(columns="promotion"), r"futr_df: missing columns \['promotion'\]"),
        (past, ahead.iloc[1:], "futr_df, row 0: promotion is not a finite number"),
        (past, pd.concat([ahead, ahead]), "same unique_id and ds"),
        (past, ahead.assign(ds=ahead["ds"].dt.tz_localize("UTC")), "both have a time zone, or neither"),
        (past, ahead.assign(ds=ahead["ds"].astype(str)), "column ds holds object, not timestamps"),
    ):
        with pytest.raises(SeriesError, match=message):
            trained[1].predict_frame(frame, futr_df=futr_frame)
    with pytest.raises(RequestError, match="known: has the shape None; the model takes"):
        trained[1].predict_arrays(np.zeros((1, INPUT_SIZE, 2)))
    with pytest.raises(
        RequestError, match=r"inputs: has the shape \(1, 24\); the last axis must hold the target and \['visits'\]"
    ):
        trained[1].predict_arrays(np.zeros((1, INPUT_SIZE)))


def test_configuration_with_missing_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source sine has no columns \['rain'\]"):
        train(small_config(tmp_path, hist_exog=["rain"]))
    with pytest.raises(ConfigError, match="are listed twice, or are one of unique_id, ds, y"):
        small_config(tmp_path, hist_exog=["y"])
    with pytest.raises(ConfigError, match="need an exchange's sessions"):
        train(small_config(tmp_path, calendar_features=["sessions_until_holiday"]))


def test_feature_in_another_unit_is_reported_as_drift(client: TestClient) -> None:
    def drift() -> dict[str, float]:
        (version,) = client.get("/v1/drift", params={"model": "sales"}).json()["versions"]
        return {name: drift["psi"] for name, drift in version["drift"].items()}

    def send(unit: float) -> None:
        for end in range(200, 500):
            past, ahead = history(end)
            window = {
                "unique_id": "shop",
                "ds": past["ds"].dt.strftime("%Y-%m-%d").tolist(),
                "y": past["y"].tolist(),
                "hist_exog": {"visits": (past["visits"] * unit).tolist()},
                "futr_exog": {"promotion": [*past["promotion"], *ahead["promotion"]]},
            }
            assert client.post("/v1/forecasts", json={"model": "sales", "series": [window]}).status_code == 200

    send(1)
    assert set(drift()) == {"values", "changes", "hist_exog.visits", "futr_exog.promotion"}
    assert max(drift().values()) < 0.1
    send(100)
    assert drift()["hist_exog.visits"] > 1
    assert drift()["futr_exog.promotion"] < 0.1
