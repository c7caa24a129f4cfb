"""Missing values by mask: trained with, reported, and forecast alike in Python, over HTTP and in batches."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from starlette.testclient import TestClient

from forecaster.backtesting.backtest import BacktestConfig, backtest
from forecaster.data.windows import cut_windows
from forecaster.domain.errors import ConfigError, SeriesError
from forecaster.evaluation.choice import Residuals
from forecaster.evaluation.conformal import Calibration
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.units import Unit
from forecaster.inference.batch import BatchConfig, forecast_batch
from forecaster.inference.predictor import Predictor
from forecaster.models.heads import Point
from forecaster.training.config import prepare, split
from forecaster.training.divergence import loss_of_zeros
from forecaster.training.networks import loss_of
from forecaster.training.stages import fit_preprocessing
from service.app import create_app
from service.settings import Settings
from tests.conftest import small_config, trained_predictor
from tests.service.conftest import wait_until_ready

ROWS, INPUT_SIZE = 700, 24


def sales() -> pd.DataFrame:
    """Return sales and visits with missing values: single ones, a week of both, and a gap longer than a window."""
    random = np.random.default_rng(2)
    days = pd.date_range("2023-01-02", periods=ROWS, freq="D")
    visits = random.normal(50, 10, ROWS)
    y = 100 + 30 * (days.dayofweek >= 5) + 0.5 * visits + random.normal(0, 2, ROWS)
    frame = pd.DataFrame({"unique_id": "shop", "ds": days, "y": y, "visits": visits})
    frame.loc[random.uniform(size=ROWS) < 0.05, "y"] = np.nan
    frame.loc[random.uniform(size=ROWS) < 0.05, "visits"] = np.nan
    frame.loc[200:230, "y"] = np.nan
    frame.loc[690:696, ["y", "visits"]] = np.nan
    frame.loc[ROWS - 1, "y"] = np.nan
    return frame


def recipe(folder: Path, **changes: Any) -> Any:
    sales().to_csv(folder / "sales.csv", index=False)
    given: dict[str, Any] = {
        "name": "sales",
        "data": {"source": "files", "path": str(folder / "sales.csv")},
        "missing": "mask",
    }
    given |= {"transforms": [{"kind": "last_value"}, {"kind": "mean_std"}], "folds": 1}
    given |= {"hist_exog": [{"column": "visits", "transforms": [{"kind": "log"}, {"kind": "standardize"}]}]}
    return small_config(folder, **(given | {"fit": {"epochs": 2}, "split": {"test": 0.1}} | changes))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("missing")
    return trained_predictor(recipe(folder), folder / "cache")


def series(past: pd.DataFrame, **changes: Any) -> dict[str, Any]:
    """Return a history as a request holds it, with null for missing values."""
    columns = {name: [None if math.isnan(value) else value for value in past[name]] for name in ("y", "visits")}
    body = {"unique_id": "shop", "ds": past["ds"].dt.strftime("%Y-%m-%d").tolist(), "y": columns["y"]}
    return body | {"hist_exog": {"visits": columns["visits"]}} | changes


def test_forecasts_with_missing_values_are_the_same_everywhere(predictor: Predictor, tmp_path: Path) -> None:
    past, cache = sales().tail(30), predictor.bundle.folder.parents[1]
    n_missing = int(past[["y", "visits"]].tail(INPUT_SIZE).isna().to_numpy().sum())
    warning = f"{n_missing} of {2 * INPUT_SIZE} values are missing"
    expected = predictor.predict_frame(past, level=[80])
    assert np.isfinite(expected[["mean", "lo-80", "hi-80"]].to_numpy()).all()
    assert warning in expected.attrs["warnings"]
    # MLflow serves the graph itself
    session = onnxruntime.InferenceSession(predictor.bundle.graph)
    (mean,) = session.run(["mean"], {"x": past[["y", "visits"]].to_numpy()[None, -INPUT_SIZE:]})
    assert mean[0].tolist() == expected["mean"].tolist()
    empty = series(past, y=[None] * len(past))
    with TestClient(create_app(Settings(cache_dir=cache, tracking_uri=""))) as client:
        wait_until_ready(client)
        request = {"model": "sales", "series": [series(past)], "level": [80]}
        answer = client.post("/v1/forecasts", json=request).json()
        refused = client.post("/v1/forecasts", json=request | {"series": [empty]})
        sent = series(past.tail(INPUT_SIZE))
        window = list(zip(sent["y"], sent["hist_exog"]["visits"], strict=True))
        tensor = {"name": "x", "shape": [1, INPUT_SIZE, 2], "datatype": "FP64", "data": [window]}
        inferred = client.post("/v2/models/sales/infer", json={"inputs": [tensor]}).json()
    (forecast,) = answer["forecasts"]
    columns = ["mean", "lo-80", "hi-80"]
    assert {name: forecast[name] for name in columns} == expected[columns].to_dict("list")
    assert warning in answer["warnings"]
    assert inferred["outputs"][0]["data"] == expected["mean"].tolist()
    assert warning in json.loads(inferred["parameters"]["warnings"])
    assert refused.status_code == 422
    assert f"series[0] ('shop').y: all of the last {INPUT_SIZE} values are missing" in refused.json()["detail"]
    past.to_csv(tmp_path / "past.csv", index=False)
    batch = BatchConfig.model_validate(
        {
            "name": "sales",
            "data": {"source": "files", "path": tmp_path / "past.csv"},
            "level": [80],
            "out": tmp_path / "out.parquet",
            "cache": cache,
            "tracking": {"uri": ""},
        }
    )
    done = forecast_batch(batch, f"sqlite:///{tmp_path}/ledger.db", lambda done, count: None)
    assert warning in done.head["warnings"] and done.entered == 1
    written = pd.read_parquet(tmp_path / "out.parquet")
    # the sums of a batch may be added in another order
    np.testing.assert_allclose(written[columns], expected[columns], rtol=1e-12)


def test_manifest_counts_what_is_missing_and_the_audit_certifies(predictor: Predictor) -> None:
    manifest, frame = predictor.manifest, sales()
    assert manifest.training_data.missing == frame[["y", "visits"]].isna().sum().to_dict()
    assert manifest.certificate is not None and manifest.certificate.rehearsed
    assert manifest.example is not None
    golden = predictor.bundle.golden.inputs.values
    assert np.isnan(golden).any()


def test_exogenous_value_without_a_logarithm_is_refused(predictor: Predictor) -> None:
    past = sales().head(100)
    past.loc[90, "visits"] = 0
    with pytest.raises(SeriesError, match=r"series 0, hist_exog\.visits, value 14 of the last 24: 0 is not above 0"):
        predictor.predict_frame(past)


def test_unit_of_a_window_without_known_changes_is_that_of_the_others() -> None:
    random = np.random.default_rng(0)
    windows = random.normal(0, 3, (200, 24)).cumsum(axis=1)
    windows[::10, ::2] = np.nan
    for unit in (Unit("ewma"), Unit("ewma", pull=0.1)):
        fitted = unit.fit(windows)
        np.testing.assert_allclose(fitted.of(windows)[::10], np.sqrt(fitted.long_run), rtol=1e-12)
        assert 2.5 < np.sqrt(fitted.long_run) < 3.5


def test_baseline_repeats_the_last_observed_value(predictor: Predictor) -> None:
    past = sales().tail(INPUT_SIZE)[["y", "visits"]].to_numpy()
    assert math.isnan(past[-1, 0]) and not math.isnan(past[-2, 0])
    assert predictor.predict_baseline(past[None]).tolist() == [[past[-2, 0]] * 4]


def test_windows_without_an_observed_value_are_left_out(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    prepared = prepare(config, config.load())
    windows = cut_windows(prepared, INPUT_SIZE, 4)
    past, targets = windows.inputs().target, windows.targets()
    assert not np.isnan(past).all(axis=1).any() and not np.isnan(targets).all(axis=1).any()
    kept = windows.starts(np.arange(len(windows)))
    every = np.lib.stride_tricks.sliding_window_view(prepared.values[:, 0], INPUT_SIZE + 4)
    seen = ~np.isnan(every)
    assert kept.tolist() == np.flatnonzero(seen[:, :INPUT_SIZE].any(axis=1) & seen[:, INPUT_SIZE:].any(axis=1)).tolist()
    np.testing.assert_array_equal(past, every[kept, :INPUT_SIZE])


def test_cutoffs_without_observed_windows_are_left_out_of_a_backtest(tmp_path: Path) -> None:
    config = recipe(tmp_path, refit=False, hist_exog=[])
    frame = config.load()
    # longer than a window and its horizon, so that whole refits have no window
    frame.loc[640:675, "y"] = np.nan
    series = prepare(config, frame)
    trial = BacktestConfig(n_windows=60, refit=3, baselines=("naive", "ridge"), season_length=7)
    result = backtest(config, trial, series, tmp_path)
    origins = result.origins
    assert len(origins.cutoffs) < 60 and np.unique(origins.numbers).tolist() == list(range(len(origins.cutoffs)))
    assert all(np.isfinite(mean).all() for mean in result.forecasts.values())


def test_column_that_is_never_observed_in_training_is_named(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    frame = config.load()
    # a counter that was installed late
    frame.loc[: ROWS - 60, "visits"] = np.nan
    with pytest.raises(
        SeriesError, match=r"^hist_exog\.0: no value is observed in the rows that a network is fitted on"
    ):
        fit_preprocessing(config, split(config, prepare(config, frame))["train"])


def test_missing_targets_have_no_loss() -> None:
    random = np.random.default_rng(0)
    actual, parameters = random.normal(size=(2, 4)).astype(np.float32), random.normal(size=(2, 4, 1)).astype(np.float32)
    expected = np.array(Point().losses(actual, parameters))
    masked = actual.copy()
    masked[0, 1] = masked[1] = np.nan
    found = np.array(loss_of(Point(), is_masked=True).call(masked, parameters))
    np.testing.assert_allclose(found, [expected[0, [0, 2, 3]].mean(), 0], rtol=1e-6)


def test_missing_targets_do_not_hide_a_fit_that_diverges() -> None:
    targets = np.array([[1.0, np.nan], [np.nan, 3.0]], dtype=np.float32)
    assert loss_of_zeros(Point(), targets) == loss_of_zeros(Point(), targets[[0, 1], [0, 1]][:, None]) > 0


def test_missing_errors_have_the_rank_of_the_error_before_them(predictor: Predictor) -> None:
    actual, times = np.array([[1.0, 1.0], [2.0, np.nan], [3.0, 0.0]]), np.arange(3).astype("M8[D]")
    residuals = Residuals(actual, Forecasts(np.zeros((3, 2))), np.ones((3, 1)), times, np.zeros(3, dtype=np.int64))
    calibration = Calibration(np.array([0.5]), np.zeros((2, 1)), n_windows=3, n_effective=3.0)
    assert residuals.templates(calibration).tolist() == [[0, 1], [1, 2], [2, 0]]
    paths = predictor.predict_frame(sales().tail(30), n_samples=20).filter(regex="^sample-").to_numpy()
    assert np.isfinite(paths).all() and (np.ptp(paths, axis=1) > 0).all()


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    for changes, message in (
        ({"transforms": [{"kind": "difference"}]}, "missing: mask and transforms: difference"),
        ({"hist_exog": [{"column": "visits", "transforms": [{"kind": "difference"}]}]}, "transforms: difference"),
        ({"model": {"skip": "ridge"}}, "missing: mask and skip: ridge"),
        ({"model": {"inputs": {"channels": "shared"}}}, "missing: mask and inputs.channels: shared"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipe(tmp_path, **changes)
    config = recipe(tmp_path)
    frame = config.load()
    frame.loc[9, "y"] = np.inf
    with pytest.raises(SeriesError, match="line 9: y is not a finite number"):
        prepare(config, frame)
