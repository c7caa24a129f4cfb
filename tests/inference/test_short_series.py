"""Series shorter than the window, in a global model: trained with, forecast alike in Python and HTTP, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from forecaster.data.padding import pad_series
from forecaster.data.windows import cut_windows
from forecaster.domain.errors import ConfigError, SeriesError, TooShortError
from forecaster.domain.frequency import parse
from forecaster.domain.series import Series
from forecaster.inference.predictor import Predictor
from forecaster.training.config import prepare
from service.app import create_app
from service.settings import Settings
from tests.conftest import small_config, trained_predictor
from tests.service.conftest import wait_until_ready

INPUT_SIZE, LEAST, HORIZON = 24, 8, 4
LENGTHS = {"old": 500, "young": 160, "new": LEAST + HORIZON}
REGIONS = {"old": "north", "young": "south", "new": "north"}


def shops() -> pd.DataFrame:
    """Return series that end on the same day; the newest is shorter than a window."""
    random = np.random.default_rng(4)
    days = pd.date_range("2023-01-02", periods=max(LENGTHS.values()), freq="D")
    parts = []
    for name, length in LENGTHS.items():
        own = days[-length:]
        y = 100 + 30 * (own.dayofweek >= 5) + random.normal(0, 2, length)
        parts.append(pd.DataFrame({"unique_id": name, "ds": own, "y": y, "region": REGIONS[name]}))
    return pd.concat(parts, ignore_index=True)


def recipe(folder: Path, **changes: Any) -> Any:
    shops().to_csv(folder / "shops.csv", index=False)
    given: dict[str, Any] = {"name": "shops", "data": {"source": "files", "path": str(folder / "shops.csv")}}
    given |= {"missing": "mask", "least_rows": LEAST, "transforms": [{"kind": "mean_std"}]}
    given |= {"calendar_features": ["day_of_week"], "fit": {"epochs": 2}, "split": {"test": 0.1}}
    given |= {"stat_exog": ["region"], "model": {"cell": "gru", "widths": [8], "inputs": {"series_embedding": 2}}}
    return small_config(folder, **(given | changes))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("shops")
    return trained_predictor(recipe(folder), folder / "cache")


def test_short_histories_are_forecast_alike_and_shorter_ones_refused(predictor: Predictor) -> None:
    past = shops().groupby("unique_id", sort=False).tail(LEAST + 2)
    mixed = pd.concat([past, shops().query("unique_id == 'old'").assign(unique_id="long")])
    expected = predictor.predict_frame(mixed, level=[80])
    assert np.isfinite(expected[["mean", "lo-80", "hi-80"]].to_numpy()).all()
    n_missing = 3 * (INPUT_SIZE - LEAST - 2)
    warning = f"{n_missing} of {4 * INPUT_SIZE} values are missing, in 3 of 4 series"
    assert warning in expected.attrs["warnings"]
    # a long history is forecast as it would be by itself
    alone = predictor.predict_frame(mixed.query("unique_id == 'long'"))["mean"]
    np.testing.assert_allclose(expected.query("unique_id == 'long'")["mean"], alone, rtol=1e-6)
    series = [
        {
            "unique_id": name,
            "ds": rows["ds"].dt.strftime("%Y-%m-%d").tolist(),
            "y": rows["y"].tolist(),
            "stat_exog": {"region": rows["region"].iloc[0]},
        }
        for name, rows in mixed.groupby("unique_id", sort=False)
    ]
    with TestClient(create_app(Settings(cache_dir=predictor.bundle.folder.parents[1], tracking_uri=""))) as client:
        wait_until_ready(client)
        request = {"model": "shops", "level": [80]}
        answer = client.post("/v1/forecasts", json=request | {"series": series}).json()
        short = series[0] | {name: series[0][name][-LEAST + 1 :] for name in ("ds", "y")}
        refused = client.post("/v1/forecasts", json=request | {"series": [short]})
    assert warning in answer["warnings"]
    for name in ("mean", "lo-80", "hi-80"):
        assert [value for one in answer["forecasts"] for value in one[name]] == expected[name].tolist()
    assert refused.status_code == 422
    assert f"has {LEAST - 1} values, and the model needs {LEAST}" in refused.json()["detail"]
    with pytest.raises(TooShortError, match=f"has {LEAST - 1} rows, needs {LEAST}"):
        predictor.predict_frame(past.groupby("unique_id", sort=False).tail(LEAST - 1))


def test_values_before_a_series_began_have_no_gradient(predictor: Predictor) -> None:
    past = shops().groupby("unique_id", sort=False).tail(LEAST)
    found = predictor.predict_frame(past, explain=True)
    by_lag = found[[f"gradient-y-{lag}" for lag in range(1, INPUT_SIZE + 1)]].to_numpy()
    assert np.isfinite(by_lag[:, :LEAST]).all() and (by_lag[:, :LEAST] != 0).any(axis=0).all()
    assert np.isnan(by_lag[:, LEAST:]).all()


def test_manifest_counts_the_rows_of_the_data_alone(predictor: Predictor) -> None:
    data, manifest = predictor.manifest.training_data, predictor.manifest
    assert (data.rows, data.n_series, data.missing) == (sum(LENGTHS.values()), 3, {})
    assert data.first.startswith("2023-01-02")
    assert (manifest.least_rows, manifest.input_size) == (LEAST, INPUT_SIZE)
    assert manifest.certificate is not None and manifest.certificate.rehearsed


def test_a_series_shorter_than_a_window_is_trained_on(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    series = prepare(config, config.load())
    windows = cut_windows(series, INPUT_SIZE, HORIZON)
    counts = np.bincount(windows.owners_of(np.arange(len(windows))))
    assert counts.tolist() == [length - LEAST - HORIZON + 1 for length in LENGTHS.values()]
    with pytest.raises(TooShortError, match=r"'new' has 12 rows, needs 28"):
        prepare(recipe(tmp_path, least_rows=None), config.load())


@pytest.mark.parametrize("freq", ["15min", "h", "D", "7D", "B", "MS", "3ME"])
def test_padded_times_continue_backwards(freq: str) -> None:
    step = parse(freq)
    times = step.after(np.datetime64("2024-02-29T00:00:00", "ns"), 40)
    part = Series(("a",), np.arange(10.0)[:, None], times[30:], np.array([0, 10]), freq)
    padded = pad_series(part, 30, step)
    np.testing.assert_array_equal(padded.timestamps, times)
    assert np.isnan(padded.values[:30]).all() and padded.bounds.tolist() == [0, 40]
    np.testing.assert_array_equal(padded.values[30:], part.values)


def test_padding_before_the_first_time_is_refused() -> None:
    part = Series(("a",), np.ones((1, 1)), np.array(["2020-01-01"], "M8[ns]"), np.array([0, 1]), "YS")
    with pytest.raises(SeriesError, match=r"series 'a': 400 rows before 2020-01-01.* begin before 16"):
        pad_series(part, 400, parse("YS"))


def test_settings_that_conflict_are_named(tmp_path: Path) -> None:
    for changes, message in (
        ({"missing": "refuse"}, "least_rows and missing"),
        ({"least_rows": 25}, "least_rows and input_size: least_rows must be at most 24"),
        ({"futr_exog": ["price"]}, "least_rows and futr_exog"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipe(tmp_path, **changes)
