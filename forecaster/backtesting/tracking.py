"""Track a backtest as an MLflow run, with the metric names and tags of a training, so that the two can be compared."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.backtesting.backtest import MODEL, Backtest, BacktestConfig, backtest
from forecaster.backtesting.report import cross_validation_frame, score
from forecaster.domain.missing import mean_of_observed
from forecaster.domain.series import CUTOFF, UNIQUE_ID, Floats, Series
from forecaster.evaluation.metrics import by_series, by_step, mae
from forecaster.evaluation.plots import coverage_figure, errors_figure
from forecaster.evaluation.probabilistic import coverage_by_window
from forecaster.registry.store import Store
from forecaster.training import past_runs, tracking
from forecaster.training.attempts import CHECKPOINTS, WORK, remove_checkpoints, work_key
from forecaster.training.config import TrainConfig, check_chosen, title
from forecaster.training.dataset import load_dataset, log_inputs
from forecaster.training.warm_start import WarmStart

# rows of a logged table
_MOST_ROWS = 2000


@dataclass(frozen=True)
class BacktestRun:
    """A tracked backtest: its run, cell, metrics and results, and the series."""

    run_id: str
    cell: str
    metrics: dict[str, float]
    result: Backtest
    series: Series


def run_backtest(
    config: TrainConfig,
    backtest_config: BacktestConfig,
    tags: dict[str, str] | None = None,
    warm: WarmStart | None = None,
    *,
    replace_existing: bool = False,
) -> BacktestRun:
    """Run a backtest and track it; a killed backtest that is started again resumes its fits from their checkpoints.

    Args:
        config: the recipe.
        backtest_config: the settings of the backtest.
        tags: further tags of the run.
        warm: as `backtest` takes it.
        replace_existing: whether to delete earlier runs of the same backtest, with the same tags and data.

    Raises:
        DataError, TrainingError, WorkspaceError, StoreUnavailable: as their names say.
    """
    check_chosen(config)
    dataset = load_dataset(config)
    series = dataset.series
    inputs = (
        config.model_dump_json(exclude={"tracking"}),
        backtest_config.model_dump_json(),
        dataset.digest,
        warm.tags if warm else "",
    )
    name = f"backtest-{work_key(*inputs)}"
    tags = {"kind": "backtest", WORK: work_key(*inputs, tags), CHECKPOINTS: name, **(tags or {})}
    tags |= warm.tags if warm else {}
    # creates the store's tables before the first query
    Store(config.tracking.uri, create=True)
    with past_runs.locked_checkpoints(config.tracking, name) as checkpoints:
        with tracking.tracked_run(
            config.tracking, f"{title(config)} backtest", tags, replace_existing=replace_existing
        ) as run_id:
            log_inputs(config, dataset, tags)
            tracking.log_setup({"backtest": backtest_config.model_dump(mode="json")}, {}, "backtest.yaml")
            result = backtest(config, backtest_config, series, checkpoints, warm)
            metrics = score(result, backtest_config, series)
            tracking.log_metrics(metrics)
            _log_figures(result, series, title(config))
            _log_refits(result, backtest_config, series)
        remove_checkpoints(checkpoints)
    return BacktestRun(run_id, config.model.cell, metrics, result, series)


def _log_figures(result: Backtest, series: Series, title: str) -> None:
    tracking.log_figure(errors_figure(result.actual, result.forecasts, MODEL, f"{title}: error by step"), "errors.png")
    if result.bands:
        tracking.log_figure(_coverage_figure(result, f"{title}: coverage"), "coverage.png")
    errors = {name: by_step(mae, result.actual, mean) for name, mean in result.forecasts.items()}
    tracking.log_table({"step": list(range(1, result.actual.shape[1] + 1)), **errors}, "errors_by_step.json")
    by_name = {
        name: by_series(mae, result.actual, mean, result.origins.windows.owners, series.unique_ids)
        for name, mean in result.forecasts.items()
    }
    columns = {name: list(errors.values()) for name, errors in by_name.items()}
    tracking.log_table({UNIQUE_ID: list(by_name[MODEL]), **columns}, "errors_by_series.json")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cross_validation.parquet"
        cross_validation_frame(result, series).to_parquet(file, index=False)
        tracking.log_file(file)


def _log_refits(result: Backtest, backtest_config: BacktestConfig, series: Series) -> None:
    """Log each refit as a nested run, with the errors of its origins."""
    if len(result.refits) < 2:
        return
    ends = (*result.refits[1:], len(result.origins.cutoffs))
    for begin, end in zip(result.refits, ends, strict=True):
        rows = (result.origins.numbers >= begin) & (result.origins.numbers < end)
        errors = {name: mae(result.actual[rows], mean[rows]) for name, mean in result.forecasts.items()}
        figures = {"mae": errors[MODEL]} | {f"{name}-mae": value for name, value in errors.items() if name != MODEL}
        cutoff = str(result.origins.cutoffs[begin])
        tags = {"cutoff": cutoff, "n_windows": str(int(rows.sum()))}
        tracking.log_nested(f"refit at {cutoff}", figures, tags, _windows(result, series, np.flatnonzero(rows)))


def _windows(result: Backtest, series: Series, rows: NDArray[np.int64]) -> dict[str, list[Any]]:
    """Return a refit's windows as columns: series, cutoff and errors; at most `_MOST_ROWS`, evenly spaced."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_ROWS)).astype(np.int64)]
    errors = {
        name: mean_of_observed(np.abs(result.actual[chosen] - mean[chosen])).tolist()
        for name, mean in result.forecasts.items()
    }
    return {
        UNIQUE_ID: [series.unique_ids[owner] for owner in result.origins.windows.owners[chosen]],
        CUTOFF: [str(cutoff) for cutoff in result.origins.cutoffs[result.origins.numbers[chosen]]],
        **errors,
    }


def _coverage_figure(result: Backtest, title: str) -> Any:
    def inside(bands: Mapping[int, tuple[Floats, Floats]], level: int) -> Floats:
        return coverage_by_window(result.actual, *bands[level])

    kinds = {"static": result.static, "adaptive": result.adaptive}
    covered = {level: {kind: inside(bands, level) for kind, bands in kinds.items()} for level in result.bands}
    return coverage_figure(result.origins.cutoffs, result.origins.numbers, covered, title)
