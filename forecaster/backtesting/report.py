"""The metrics of a backtest: errors of the recipe and the baselines, coverage, and significance."""

from typing import Any

import numpy as np
import pandas as pd

from forecaster.backtesting.backtest import MODEL, Backtest, BacktestConfig
from forecaster.domain.missing import carried, mean_of_observed
from forecaster.domain.series import CUTOFF, DS, UNIQUE_ID, Floats, Series, Y, lower, upper
from forecaster.evaluation.baselines import random_walk_bands
from forecaster.evaluation.metrics import METRICS, mase, naive_scale, relative_mae, rmsse, squared_naive_scale
from forecaster.evaluation.probabilistic import (
    CRPS_QUANTILES,
    coverage,
    coverage_by_window,
    pinball,
    scale_loss,
    width,
    winkler,
)
from forecaster.evaluation.significance import MIN_WINDOWS, block_bootstrap_error, diebold_mariano

# windows whose quantiles are in memory at a time
_CHUNK = 4096


def score(result: Backtest, backtest_config: BacktestConfig, series: Series) -> dict[str, float]:
    """Return the metrics of the recipe, with the names that a training uses, and of each baseline.

    `naive-mae` is a baseline's error, `naive-p_value` the p-value of the recipe's error being smaller, and
    `coverage-80-error` the standard error of a coverage, which takes overlapping horizons into account.
    """
    actual, mean = result.actual, result.forecasts[MODEL]
    scale, squared_scale = _scales(result, series, backtest_config.season_length)
    figures = {name: metric(actual, mean) for name, metric in METRICS.items()}
    figures |= {
        "mase": mase(actual, mean, scale),
        "rmsse": rmsse(actual, mean, squared_scale, result.origins.windows.owners),
        "relative_mae": relative_mae(actual, mean, result.forecasts["naive"]),
    }
    for name in backtest_config.baselines:
        figures |= {f"{name}-{kind}": metric(actual, result.forecasts[name]) for kind, metric in METRICS.items()}
        figures[f"{name}-mase"] = mase(actual, result.forecasts[name], scale)
    figures |= _p_values(result, backtest_config) | _intervals(result, backtest_config)
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def losses(result: Backtest, name: str) -> Floats:
    """Return the mean absolute error of a forecast at each cutoff that has windows, over series and steps."""
    errors = mean_of_observed(np.abs(result.actual - result.forecasts[name]))
    return _by_cutoff(result, errors)


def cross_validation_frame(result: Backtest, series: Series) -> pd.DataFrame:
    """Return all forecasts: `unique_id, ds, cutoff, y`, a column per model, and the recipe's intervals."""
    n, horizon = result.actual.shape
    windows = result.origins.windows
    times = windows.target_times(series.timestamps, np.arange(n))
    columns: dict[str, Any] = {
        UNIQUE_ID: np.repeat(np.array(series.unique_ids)[windows.owners], horizon),
        DS: times.ravel(),
        CUTOFF: np.repeat(result.origins.cutoffs[result.origins.numbers], horizon),
        Y: result.actual.ravel(),
    }
    columns |= {name: mean.ravel() for name, mean in result.forecasts.items()}
    for kind, bands in (("", result.bands), ("-static", result.static), ("-adaptive", result.adaptive)):
        for level, (low, high) in bands.items():
            columns |= {
                f"{MODEL}{kind}-{lower(level)}": low.ravel(),
                f"{MODEL}{kind}-{upper(level)}": high.ravel(),
            }
    return pd.DataFrame(columns)


def overlap(horizon: int, step_size: int) -> int:
    """Return the number of successive origins whose horizons overlap."""
    return -(-horizon // step_size)


def _p_values(result: Backtest, backtest_config: BacktestConfig) -> dict[str, float]:
    ours, reach = losses(result, MODEL), overlap(result.actual.shape[1], backtest_config.step_size)
    if len(ours) < max(MIN_WINDOWS, reach + 1):
        # too few windows for the test
        return {}
    return {
        f"{name}-p_value": diebold_mariano(ours, losses(result, name), reach, "less").p_value
        for name in backtest_config.baselines
    }


def _intervals(result: Backtest, backtest_config: BacktestConfig) -> dict[str, float]:
    figures: dict[str, float] = {}
    block = 2 * overlap(result.actual.shape[1], backtest_config.step_size)
    for kind, bands in (("", result.bands), ("-static", result.static), ("-adaptive", result.adaptive)):
        for level, (low, high) in bands.items():
            inside = coverage_by_window(result.actual, low, high)
            figures |= {
                f"coverage-{level}{kind}": coverage(result.actual, low, high),
                f"coverage-{level}{kind}-error": block_bootstrap_error(_by_cutoff(result, inside), block),
                f"width-{level}{kind}": width(low, high),
                f"winkler-{level}{kind}": winkler(result.actual, low, high, level),
            }
    if all(calibration.probabilities[0] <= CRPS_QUANTILES[0] for calibration in result.calibrations):
        figures["scaled_crps"] = scale_loss(2 * _pinball(result), result.actual)
    past, horizon = carried(result.origins.windows.inputs().target), result.actual.shape[1]
    for level in result.bands:
        low, high = random_walk_bands(past, horizon, level)
        figures[f"naive-winkler-{level}"] = winkler(result.actual, low, high, level)
        figures[f"naive-coverage-{level}"] = coverage(result.actual, low, high)
    return figures


def _pinball(result: Backtest) -> float:
    """Return the mean pinball loss of the recipe's static quantiles at `CRPS_QUANTILES`, calibrated at each refit."""
    windows, predicted = result.origins.windows, result.predicted
    at = np.broadcast_to(CRPS_QUANTILES, (1, result.actual.shape[1], len(CRPS_QUANTILES)))
    refits = np.searchsorted(result.refits, result.origins.numbers, "right") - 1
    loss, counts = 0.0, (~np.isnan(result.actual)).sum(axis=1)
    for number, calibration in enumerate(result.calibrations):
        rows = np.flatnonzero(refits == number)
        for begin in range(0, len(rows), _CHUNK):
            chunk = rows[begin : begin + _CHUNK]
            own = predicted.take(chunk)
            quantiles = calibration.around(own, calibration.units(windows.inputs(chunk).target), at)
            loss += counts[chunk].sum() * pinball(result.actual[chunk], quantiles, CRPS_QUANTILES)
    return float(loss / counts.sum())


def _by_cutoff(result: Backtest, values: Floats) -> Floats:
    """Return the mean of the windows' values `(n,)` at each cutoff that has windows."""
    counts = np.bincount(result.origins.numbers)
    sums = np.bincount(result.origins.numbers, values)
    return np.asarray(sums[counts > 0] / counts[counts > 0])


def _scales(result: Backtest, series: Series, season_length: int) -> tuple[Floats, Floats]:
    """Return the MASE and RMSSE scales of each window, `(n, 1)` each, from its series' rows up to the first cutoff.

    The scales are 0 if there are no more of these rows than a season has, which leaves the metrics undefined.
    """
    first = result.origins.cutoffs[0]
    scales = np.zeros((len(series), 2))
    for owner, (_, rows) in enumerate(series):
        history = series.values[rows, 0][series.timestamps[rows] <= first]
        if len(history) > season_length:
            scales[owner] = naive_scale(history, season_length), squared_naive_scale(history, season_length)
    own = scales[result.origins.windows.owners]
    return own[:, :1], own[:, 1:]
