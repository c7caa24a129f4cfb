"""Targets with a support: counts are forecast as counts, alike in Python, over HTTP and in batches."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from starlette.testclient import TestClient

from forecaster.domain.errors import ConfigError, SeriesError
from forecaster.domain.support import Support
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.probabilistic import coverage
from forecaster.inference.batch import BatchConfig, forecast_batch
from forecaster.inference.predictor import Predictor
from forecaster.training.config import prepare, split
from forecaster.training.residuals import served_bands
from service.app import create_app
from service.settings import Settings
from tests.conftest import small_config, trained_predictor
from tests.service.conftest import wait_until_ready

COUNTS = {"at_least": 0, "integer": True}
QUANTILES = [0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95]


def sales(rows: int = 800) -> pd.DataFrame:
    """Return few pieces a day, more on weekends."""
    days = pd.date_range("2023-01-02", periods=rows, freq="D")
    rate = 0.2 + 1.5 * (days.dayofweek >= 5)
    return pd.DataFrame({"unique_id": "shop", "ds": days, "y": np.random.default_rng(1).poisson(rate).astype(float)})


def recipe(folder: Path, frame: pd.DataFrame, **changes: Any) -> Any:
    frame.to_csv(folder / "sales.csv", index=False)
    given: dict[str, Any] = {
        "name": "sales",
        "data": {"source": "files", "path": str(folder / "sales.csv")},
        "support": COUNTS,
    }
    given |= {"transforms": [{"kind": "log1p"}, {"kind": "standardize"}], "fit": {"epochs": 3}, "refit": False}
    return small_config(folder, **(given | changes))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("counts")
    config = recipe(folder, sales(), model={"cell": "gru", "widths": [8], "head": "quantile"})
    return trained_predictor(config, folder / "cache")


def test_forecasts_are_counts_and_the_same_everywhere(predictor: Predictor, tmp_path: Path) -> None:
    past, cache = sales().tail(30), predictor.bundle.folder.parents[1]
    expected = predictor.predict_frame(past, quantiles=QUANTILES)
    columns = [f"q-{100 * quantile:g}" for quantile in QUANTILES]
    found = expected[columns].to_numpy()
    assert (found >= 0).all() and (found % 1 == 0).all() and (np.diff(found) >= 0).all()
    assert (expected["mean"] >= 0).all() and (expected["mean"] % 1 > 0).any()
    # MLflow serves the graph itself
    session = onnxruntime.InferenceSession(predictor.bundle.graph)
    (mean, *others) = session.run(None, {"x": past["y"].to_numpy()[None, -24:, None]})
    assert mean[0].tolist() == expected["mean"].tolist()
    assert all((other >= 0).all() for other in others)
    series = {"unique_id": "shop", "ds": past["ds"].dt.strftime("%Y-%m-%d").tolist(), "y": past["y"].tolist()}
    with TestClient(create_app(Settings(cache_dir=cache, tracking_uri=""))) as client:
        wait_until_ready(client)
        request = {"model": "sales", "series": [series], "quantiles": QUANTILES}
        (forecast,) = client.post("/v1/forecasts", json=request).json()["forecasts"]
        assert {name: forecast[name] for name in ["mean", *columns]} == expected[["mean", *columns]].to_dict("list")
        series["y"][-2] = -1.0
        refused = client.post("/v1/forecasts", json=request)
    assert refused.status_code == 422
    assert "series 0, y, value 22 of the last 24: -1 is below 0" in refused.json()["detail"]
    past.to_csv(tmp_path / "past.csv", index=False)
    batch = BatchConfig.model_validate(
        {
            "name": "sales",
            "data": {"source": "files", "path": tmp_path / "past.csv"},
            "quantiles": QUANTILES,
            "ledger": False,
            "adapt_intervals": False,
            "out": tmp_path / "out.parquet",
            "cache": cache,
            "tracking": {"uri": ""},
        }
    )
    forecast_batch(batch, f"sqlite:///{tmp_path}/ledger.db", lambda done, count: None)
    written = pd.read_parquet(tmp_path / "out.parquet")
    assert written[["mean", *columns]].to_dict("list") == expected[["mean", *columns]].to_dict("list")


def test_sample_paths_are_counts_and_counts_have_gradients(predictor: Predictor) -> None:
    found = predictor.predict_frame(sales().tail(30), n_samples=100, explain=True)
    samples = found.filter(regex="^sample-").to_numpy()
    assert samples.shape == (4, 100)
    assert (samples >= 0).all() and (samples % 1 == 0).all() and (np.ptp(samples, axis=1) > 0).any()
    # a step's values are the quantiles at the midpoints of equal shares of probability, rounded to the nearest count
    at = tuple(((np.arange(100) + 0.5) / 100).clip(*predictor.bundle.calibration.probabilities[[0, -1]]).tolist())
    window = sales().tail(24)["y"].to_numpy()[None]
    unrounded = predictor.quantiles(window, predictor.predict(window), at, is_rounded=False)[0]
    assert np.sort(samples, axis=1).tolist() == np.rint(unrounded).tolist()
    gradients = found.filter(regex="^gradient-").to_numpy()
    assert np.isfinite(gradients).all() and (gradients != 0).any()


def test_coverage_in_the_manifest_is_that_of_the_served_bounds(predictor: Predictor, tmp_path: Path) -> None:
    config = recipe(tmp_path, sales())
    series = prepare(config, config.data.load(config.exogenous))
    test, example = split(config, series)["test"], predictor.manifest.example
    assert example is not None
    bounds = np.array([values for name, values in example.forecast.items() if name != "mean"])
    assert (bounds >= 0).all() and (bounds % 1 == 0).all()
    assert predictor.manifest.certificate is not None and predictor.manifest.certificate.rehearsed
    past = test.inputs().target
    baseline = predictor.bounds(past, Forecasts(predictor.predict_baseline(past)), (80,), is_baseline=True)
    assert (baseline >= 0).all() and (baseline % 1 == 0).all()
    predicted = predictor.predict(past)
    for level, (low, high) in served_bands(predictor.bundle.calibration, test, predicted).items():
        assert (low >= 0).all() and (low % 1 == 0).all() and (high % 1 == 0).all()
        assert coverage(test.targets(), low, high) == predictor.manifest.skill.coverage[str(level)]


def test_rows_outside_the_support_are_named(tmp_path: Path) -> None:
    frame = sales()
    for value, message in ((-2.0, "row 7: -2 is below 0"), (1.5, r"row 7: 1\.5 is not a whole number")):
        config = recipe(tmp_path, frame.assign(y=frame["y"].where(frame.index != 7, value)), transforms=[])
        with pytest.raises(SeriesError, match=rf"sales\.csv, series 'shop', column y, {message}"):
            prepare(config, config.data.load(config.exogenous))
    with pytest.raises(ConfigError, match=r"support: .*at_least must be a whole number if integer is true, got 0\.5"):
        recipe(tmp_path, frame, support={"at_least": 0.5, "integer": True})
    with pytest.raises(ConfigError, match="head: student_t and transforms: log1p"):
        recipe(tmp_path, frame, model={"head": "student_t"})


@given(values=arrays(np.float64, 7, elements=st.floats(-50, 50)), integer=st.booleans())
def test_quantiles_keep_their_order_and_contain_the_interval(values: np.ndarray, integer: bool) -> None:
    values = np.sort(values)
    found = Support(at_least=-3, integer=integer).quantiles(values, np.array(QUANTILES))
    assert (np.diff(found) >= 0).all() and (found >= -3).all()
    assert not integer or (found % 1 == 0).all()
    assert found[0] <= max(values[0], -3) + 1e-6 and found[-1] >= values[-1] - 1e-6
