"""Heads that forecast distributions: trained, served, and the same in Python, over HTTP and from Keras."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from forecaster.inference.predictor import Predictor
from service.app import create_app
from service.settings import Settings
from tests.conftest import small_config, trained_predictor
from tests.service.conftest import wait_until_ready

ROWS, INPUT_SIZE = 700, 24
# a calm half of the day and a wild one, so that the width of an interval must depend on the window
HALF = 12


def table() -> pd.DataFrame:
    """Return an hourly series above 0 whose noise is wide in one half of the day."""
    random, hours = np.random.default_rng(5), np.arange(ROWS)
    size = np.where(hours % 24 < HALF, 0.01, 0.1)
    y = 50 * np.exp(0.1 * np.sin(2 * np.pi * hours / 24) + size * random.normal(size=ROWS))
    return pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2026-01-01", periods=ROWS, freq="h"), "y": y})


@pytest.fixture(scope="module", params=["quantile", "student_t"])
def predictor(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Predictor:
    folder = tmp_path_factory.mktemp(request.param)
    table().to_csv(folder / "y.csv", index=False)
    changes: dict[str, Any] = {
        "name": "wide",
        "data": {"source": "files", "path": str(folder / "y.csv")},
        "calendar_features": ["hour_of_day"],
        "transforms": [{"kind": "log"}, {"kind": "standardize"}],
        "model": {"cell": "gru", "encoder": {"widths": [12]}, "decoder": "repeat", "head": request.param},
        "fit": {"epochs": 12, "batch_size": 32, "learning_rate": 0.02, "patience": 12},
    }
    return trained_predictor(small_config(folder, **changes), folder / "cache")


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    cache = predictor.bundle.folder.parents[1]
    with TestClient(create_app(Settings(cache_dir=cache, tracking_uri=""))) as client:
        wait_until_ready(client)
        yield client


def history(end: int) -> pd.DataFrame:
    return table().iloc[end - INPUT_SIZE : end]


def test_http_and_python_give_the_same_quantiles(predictor: Predictor, client: TestClient) -> None:
    past, quantiles = history(648), [0.05, 0.25, 0.5, 0.75, 0.95]
    expected = predictor.predict_frame(past, quantiles=quantiles)
    ds = past["ds"].dt.strftime("%Y-%m-%dT%H:%M:%S").tolist()
    series = {"unique_id": "a", "ds": ds, "y": past["y"].tolist()}
    answer = client.post("/v1/forecasts", json={"model": "wide", "series": [series], "quantiles": quantiles})
    (forecast,) = answer.json()["forecasts"]
    for column in ("mean", "q-5", "q-25", "q-50", "q-75", "q-95"):
        assert forecast[column] == expected[column].tolist()
    assert (expected[["q-5", "q-25", "q-50", "q-75", "q-95"]].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)


def test_width_of_an_interval_depends_on_the_window(predictor: Predictor) -> None:
    # forecasts from midnight, of calm hours, and from noon, of wild ones
    calm, wild = (predictor.predict_frame(history(end), level=[80]) for end in (648, 660))
    width = [float((frame["hi-80"] - frame["lo-80"]).mean()) for frame in (calm, wild)]
    assert width[1] > 3 * width[0]
    assert 0.6 < predictor.manifest.recipe_metrics["coverage-80"] < 0.95


def test_bundle_names_the_head_and_its_output(predictor: Predictor) -> None:
    manifest = predictor.manifest
    kind = manifest.head["kind"]
    output = {"quantile": "quantiles", "student_t": "student_t"}[kind]
    assert manifest.outputs == {"mean": (4,), output: (4, 7 if kind == "quantile" else 3)}
    assert manifest.topology == "one_to_many"
