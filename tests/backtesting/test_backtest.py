"""The backtest: it uses only rows known at each cutoff, its metrics are right, and its verdicts fit known series."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from forecaster.backtesting.backtest import MODEL, BacktestConfig, backtest, fit_for_serving
from forecaster.backtesting.origins import known_at
from forecaster.backtesting.report import cross_validation_frame, losses, overlap, score
from forecaster.backtesting.tracking import BacktestRun, run_backtest
from forecaster.data.transforms import Standardize
from forecaster.domain.config import build_config, load_config
from forecaster.domain.errors import ConfigError
from forecaster.domain.series import Series
from forecaster.evaluation.adaptive import adapt
from forecaster.evaluation.conformal import calibrate
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.significance import diebold_mariano
from forecaster.evaluation.statistical import forecast_histories
from forecaster.training.config import TrainConfig, prepare
from tests.conftest import REAL_DATA, ROOT, needs_real_data, small_config

BACKTEST = BacktestConfig(n_windows=60, season_length=12)


def _prepared(folder: Path, **changes: Any) -> tuple[TrainConfig, Series]:
    config = small_config(folder, **changes)
    return config, prepare(config, config.data.load())


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[BacktestRun, Path]:
    """A tracked backtest, and the folder of its store."""
    folder = tmp_path_factory.mktemp("tracked")
    return run_backtest(
        small_config(folder, fit={"epochs": 2}), BacktestConfig(n_windows=30, step_size=2, refit=15)
    ), folder


def test_rows_after_a_cutoff_do_not_change_its_forecasts(tmp_path: Path) -> None:
    config, series = _prepared(tmp_path, fit={"epochs": 1})
    backtest_config = BacktestConfig(n_windows=9, refit=3)
    results = []
    for name, change in (("original", 0.0), ("changed", 50.0)):
        values = series.values.copy()
        # the last 7 rows: cutoffs 0 to 4 of 9 lie before them, in the blocks of the first two refits
        values[-7 - config.horizon + 4 :] += change
        changed = Series(series.unique_ids, values, series.timestamps, series.bounds, series.freq)
        results.append(backtest(config, backtest_config, changed, tmp_path / name))
    before, after = results
    assert before.refits == (0, 3, 6)
    for name in before.forecasts:
        np.testing.assert_array_equal(before.forecasts[name][:4], after.forecasts[name][:4])
    assert (before.forecasts[MODEL][-1] != after.forecasts[MODEL][-1]).all()
    assert set(before.adaptive) == {80, 95}
    for level in before.adaptive:
        np.testing.assert_array_equal(before.adaptive[level][0][:4], after.adaptive[level][0][:4])


def test_backtest_without_refits_forecasts_like_one_training(tmp_path: Path) -> None:
    config, series = _prepared(tmp_path, fit={"epochs": 2})
    result = backtest(config, BACKTEST, series, tmp_path / "a")
    known = known_at(series, result.origins.cutoffs[0], 28)
    trained, calibration = fit_for_serving(config, known, tmp_path / "b")
    inputs = result.origins.windows.inputs()
    np.testing.assert_allclose(result.forecasts[MODEL], trained.predict(inputs).mean, atol=1e-5)
    low, high = calibration.bands(inputs.target, [80], result.predicted)[80]
    np.testing.assert_allclose(result.static[80][0], low)
    np.testing.assert_allclose(result.static[80][1], high)


def test_network_is_fitted_on_all_rows_only_if_the_recipe_has_a_refit(tmp_path: Path) -> None:
    config, series = _prepared(tmp_path, fit={"epochs": 1})
    known = known_at(series, series.timestamps[500], 28)
    # of the 501 rows, 0.6 / 0.8 are the train part, because there is no test part
    for refits, fitted_on in ((True, 501), (False, 375)):
        recipe = config.model_copy(update={"refit": refits})
        trained, _ = fit_for_serving(recipe, known, tmp_path / str(refits))
        (scale,) = trained.preprocessing.target.steps
        windows = np.lib.stride_tricks.sliding_window_view(series.values[: fitted_on - config.horizon, 0], 24)
        assert isinstance(scale, Standardize)
        assert scale.offset == pytest.approx(windows.mean(), rel=1e-9)


def test_p_values_account_for_overlapping_horizons(tmp_path: Path) -> None:
    assert [overlap(10, step) for step in (1, 3, 10, 20)] == [10, 4, 1, 1]
    config, series = _prepared(tmp_path, fit={"epochs": 1})
    backtest_config = BacktestConfig(n_windows=40, step_size=3)
    result = backtest(config, backtest_config, series, tmp_path / "a")
    expected = diebold_mariano(losses(result, MODEL), losses(result, "drift"), 2, "less").p_value
    assert score(result, backtest_config, series)["drift-p_value"] == expected


def test_recipe_beats_the_naive_baselines_on_a_sine(tmp_path: Path) -> None:
    config, series = _prepared(tmp_path, split={"train": 0.6, "validation": 0.1, "calibration": 0.2, "test": 0.1})
    result = backtest(config, BACKTEST, series, tmp_path / "a")
    figures = score(result, BACKTEST, series)
    assert figures["relative_mae"] < 0.4
    for name in ("naive", "drift", "window_mean"):
        assert figures[f"{name}-p_value"] < 0.01
    assert abs(figures["coverage-80"] - 0.8) < max(0.05, 3 * figures["coverage-80-error"])
    assert figures["width-80"] < figures["width-95"]


def test_recipe_shows_no_skill_on_a_random_walk(tmp_path: Path) -> None:
    config, series = _prepared(
        tmp_path,
        data={"source": "random_walk", "length": 800, "seed": 5},
        transforms=[{"kind": "log"}, {"kind": "last_value"}, {"kind": "standardize"}],
        intervals="ewma",
    )
    figures = score(backtest(config, BACKTEST, series, tmp_path / "a"), BACKTEST, series)
    assert 0.95 < figures["relative_mae"] < 1.3
    assert figures["naive-p_value"] > 0.05


def test_metrics_match_the_logged_forecasts(tracked: tuple[BacktestRun, Path], tmp_path: Path) -> None:
    backtested, folder = tracked
    uri = f"file://{folder}/artifacts/{backtested.run_id}/artifacts/cross_validation.parquet"
    frame = pd.read_parquet(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    assert len(frame) == 30 * 4
    assert backtested.metrics["mae"] == pytest.approx((frame["y"] - frame["model"]).abs().mean())
    assert backtested.metrics["naive-mae"] == pytest.approx((frame["y"] - frame["naive"]).abs().mean())
    y = small_config(folder).data.load()
    steps = y.loc[y["ds"] <= frame["cutoff"].min(), "y"].diff().dropna()
    assert backtested.metrics["mase"] == pytest.approx(backtested.metrics["mae"] / steps.abs().mean())
    assert backtested.metrics["rmsse"] == pytest.approx(backtested.metrics["rmse"] / np.sqrt((steps**2).mean()))
    inside = frame["y"].between(frame["model-lo-80"], frame["model-hi-80"])
    assert backtested.metrics["coverage-80"] == pytest.approx(inside.mean())
    # each row has the actual and the naive forecast of its time and cutoff
    series = small_config(folder).data.load().set_index("ds")["y"]
    np.testing.assert_array_equal(frame["y"], series.loc[frame["ds"]])
    np.testing.assert_array_equal(frame["naive"], series.loc[frame["cutoff"]])
    ahead = (frame["ds"] - frame["cutoff"]).dt.total_seconds() / 3600
    assert ahead.tolist() == [1, 2, 3, 4] * 30


def test_scaled_crps_uses_nineteen_quantiles_of_each_refit(tmp_path: Path) -> None:
    config, series = _prepared(tmp_path, fit={"epochs": 1}, intervals="ewma")
    result = backtest(config, BacktestConfig(n_windows=8, refit=4), series, tmp_path / "a")
    inputs, losses_of = result.origins.windows.inputs().target, []
    for probability in np.arange(0.05, 0.96, 0.05):
        for rows, calibration in zip((slice(4), slice(4, 8)), result.calibrations, strict=True):
            step = np.searchsorted(calibration.probabilities, probability - 1e-9)
            assert calibration.probabilities[step] == pytest.approx(probability)
            quantile = result.forecasts[MODEL][rows] + calibration.units(inputs[rows]) * calibration.residuals[:, step]
            error = result.actual[rows] - quantile
            losses_of.append(np.maximum(probability * error, (probability - 1) * error))
    expected = 2 * np.mean(losses_of) / np.abs(result.actual).mean()
    figures = score(result, BacktestConfig(n_windows=8), series)
    assert figures["scaled_crps"] == pytest.approx(expected)
    # also for some of the windows
    part = score(result.choose(np.arange(2)), BacktestConfig(n_windows=8), series)
    of_part = np.mean([losses[:2] for losses in losses_of[::2]]) / np.abs(result.actual[:2]).mean()
    assert part["scaled_crps"] == pytest.approx(2 * of_part)


def test_scaled_crps_needs_enough_calibration_windows(tmp_path: Path) -> None:
    config, series = _prepared(tmp_path, fit={"epochs": 1})
    result = backtest(config, BacktestConfig(n_windows=5, levels=(80,)), series, tmp_path / "a")
    few = calibrate(np.random.default_rng(0).normal(size=(15, 4)), Forecasts(np.zeros((15, 4))))
    figures = score(replace(result, calibrations=(few,)), BacktestConfig(levels=(80,)), series)
    assert "scaled_crps" not in figures
    assert "winkler-80" in figures


def test_mase_and_rmsse_are_scaled_by_seasonal_errors_of_each_series(tmp_path: Path) -> None:
    config, series = _prepared(
        tmp_path, data={"source": "sine", "length": 300, "n_series": 2, "noise": 0.3}, fit={"epochs": 1}, input_size=12
    )
    # the second series is pure noise
    values = series.values.copy()
    values[300:] = np.random.default_rng(0).normal(size=(300, 1))
    series = replace(series, values=values)
    backtest_config = BacktestConfig(n_windows=6, season_length=7)
    result = backtest(config, backtest_config, series, tmp_path / "a")
    figures = score(result, backtest_config, series)
    mean_scaled, root_scaled = [], []
    for owner, (_, rows) in enumerate(series):
        known = series.values[rows, 0][series.timestamps[rows] <= result.origins.cutoffs[0]]
        seasonal = known[7:] - known[:-7]
        own = result.origins.windows.owners == owner
        error = result.actual[own] - result.forecasts[MODEL][own]
        mean_scaled.append(np.abs(error).mean() / np.abs(seasonal).mean())
        root_scaled.append(np.sqrt((error**2).mean() / (seasonal**2).mean()))
    # both series have the same number of windows
    assert figures["mase"] == pytest.approx(np.mean(mean_scaled))
    assert figures["rmsse"] == pytest.approx(np.mean(root_scaled))
    assert score(result, BacktestConfig(n_windows=6), series)["mase"] != pytest.approx(figures["mase"])


def test_scaled_errors_are_left_out_if_the_season_is_longer_than_the_data(tmp_path: Path) -> None:
    config, series = _prepared(tmp_path, fit={"epochs": 1})
    backtest_config = BacktestConfig(n_windows=5, season_length=800, baselines=("naive",))
    figures = score(backtest(config, backtest_config, series, tmp_path / "a"), backtest_config, series)
    assert not {"mase", "rmsse", "naive-mase"} & set(figures)
    assert "mae" in figures


def test_run_has_the_names_of_a_training_and_a_nested_run_per_refit(tracked: tuple[BacktestRun, Path]) -> None:
    backtested, folder = tracked
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = client.get_run(backtested.run_id)
    assert run.info.run_name == "sine gru many_to_one backtest"
    assert {"cell", "topology", "horizon", "dataset_digest", "git_revision"} <= set(run.data.tags)
    assert run.data.tags["kind"] == "backtest"
    assert {"test/mae", "test/relative_mae", "test/coverage-80", "test/naive-mae", "test/naive-p_value"} <= set(
        run.data.metrics
    )
    nested = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{backtested.run_id}'")
    assert sorted(refit.data.tags["n_windows"] for refit in nested) == ["15", "15"]
    weighted = np.mean([refit.data.metrics["test/mae"] for refit in nested])
    assert weighted == pytest.approx(backtested.metrics["mae"])
    for refit in nested:
        text = (folder / "artifacts" / refit.info.run_id / "artifacts" / "windows.json").read_text()
        table = json.loads(text)
        errors = [row[table["columns"].index("model")] for row in table["data"]]
        assert len(errors) == 15
        assert np.mean(errors) == pytest.approx(refit.data.metrics["test/mae"])
    names = {artifact.path for artifact in client.list_artifacts(backtested.run_id)}
    assert {
        "errors.png",
        "coverage.png",
        "errors_by_step.json",
        "errors_by_series.json",
        "backtest.yaml",
        "config.yaml",
    } <= names
    assert not list((folder / "checkpoints").glob("backtest-*"))


def test_adaptive_intervals_recover_after_the_noise_doubles() -> None:
    random = np.random.default_rng(0)
    calibration = calibrate(random.normal(size=(500, 1)), Forecasts(np.zeros((500, 1))))
    n = 6000
    actual, mean = 2 * random.normal(size=(n, 1)), Forecasts(np.zeros((n, 1)))
    numbers = np.arange(n)
    low, high = adapt([calibration] * n, actual, mean, np.ones((n, 1)), [80, 95], numbers, numbers * 0).bands[80]
    static = calibration.quantiles(np.array([0.1, 0.9]))[0]
    assert ((actual >= static[0]) & (actual <= static[1])).mean() < 0.55
    late = slice(2000, None)
    assert ((actual >= low) & (actual <= high))[late].mean() == pytest.approx(0.8, abs=0.03)


def test_intervals_adapt_to_an_actual_only_once_it_is_known() -> None:
    calibration = calibrate(np.random.default_rng(0).normal(size=(500, 3)), Forecasts(np.zeros((500, 3))))
    actual, numbers = np.zeros((20, 3)), np.arange(20)
    changed = actual.copy()
    changed[10] = 99
    before, after = (
        adapt([calibration] * 20, y, Forecasts(np.zeros((20, 3))), np.ones((20, 1)), [80], numbers, numbers * 0).bands[
            80
        ][1]
        for y in (actual, changed)
    )
    for step in range(3):
        # the target of step k at cutoff 10 is known at cutoff 10 + k
        assert np.flatnonzero(before[:, step] != after[:, step])[0] == 10 + step + 1


def test_statistical_baseline_is_fitted_on_the_rows_known_at_each_cutoff(tmp_path: Path) -> None:
    config, series = _prepared(
        tmp_path, data={"source": "sine", "length": 200, "n_series": 2}, fit={"epochs": 1}, input_size=12
    )
    backtest_config = BacktestConfig(n_windows=5, baselines=("naive", "theta"))
    result = backtest(config, backtest_config, series, tmp_path / "a")
    frame = cross_validation_frame(result, series)
    for (name, cutoff), rows in frame.groupby(["unique_id", "cutoff"]):
        within = series.rows(series.unique_ids.index(str(name)))
        known = series.timestamps[within] <= np.datetime64(pd.Timestamp(str(cutoff)))
        expected = forecast_histories("theta", [series.values[within, 0][known]], 4, 1)[0]
        np.testing.assert_array_equal(rows["theta"], expected)
    assert "theta-p_value" not in score(result, backtest_config, series)


def test_losses_are_averaged_by_cutoff(tmp_path: Path) -> None:
    config, series = _prepared(
        tmp_path, data={"source": "sine", "length": 200, "n_series": 3}, fit={"epochs": 1}, input_size=12
    )
    result = backtest(config, BacktestConfig(n_windows=10), series, tmp_path / "a")
    frame = cross_validation_frame(result, series)
    expected = (frame["y"] - frame["naive"]).abs().groupby(frame["cutoff"]).mean()
    np.testing.assert_allclose(losses(result, "naive"), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baselines": ["ridge"]}, "must contain naive"),
        ({"refit": 0}, "from 1"),
        ({"refit": "often"}, "refit"),
        ({"cells": ["cnn"]}, "choose from simple_rnn, lstm, gru"),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(change, BacktestConfig, "test")


@needs_real_data
def test_intervals_cover_their_level_on_real_prices(tmp_path: Path) -> None:
    path = REAL_DATA / "stock" / "yahoofinance-SPY-20080101-20180101.csv"
    config, series = _prepared(
        tmp_path,
        data={"source": "files", "path": str(path)},
        freq="B",
        input_size=30,
        horizon=1,
        transforms=[{"kind": "log"}, {"kind": "last_value"}, {"kind": "standardize"}],
        fit={"epochs": 5},
        intervals="ewma",
    )
    backtest_config = BacktestConfig(n_windows=839)
    figures = score(backtest(config, backtest_config, series, tmp_path / "a"), backtest_config, series)
    for level in (80, 95):
        for kind in ("", "-adaptive"):
            allowed = max(0.02, 2 * figures[f"coverage-{level}{kind}-error"])
            assert abs(figures[f"coverage-{level}{kind}"] - level / 100) <= allowed
    assert figures["naive-p_value"] > 0.01


@needs_real_data
@pytest.mark.parametrize("file", ["SPY-20080101-20180101", "AAPL-20040819-20180120"])
def test_shipped_stock_recipe_passes_the_shipped_gate_on_real_prices(tmp_path: Path, file: str) -> None:
    data = {"source": "files", "path": str(REAL_DATA / f"stock/yahoofinance-{file}.csv")}
    shipped = ROOT / "pipelines/configs/stock.yaml"
    config = load_config(shipped, TrainConfig, [f"data={json.dumps(data)}"], "train")
    backtest_config = load_config(shipped, BacktestConfig, [], "backtest")
    series = prepare(config, config.data.load())
    figures = score(backtest(config, backtest_config, series, tmp_path), backtest_config, series)
    for level in (80, 95):
        allowed = max(0.02, 2 * figures[f"coverage-{level}-error"])
        assert abs(figures[f"coverage-{level}"] - level / 100) <= allowed
    assert figures["relative_mae"] <= 1.01
