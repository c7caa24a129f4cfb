"""Model selection between recipes that were backtested at the same cutoffs: the one-standard-error rule."""

from collections.abc import Mapping
from dataclasses import dataclass

from forecaster.backtesting.backtest import MODEL, BacktestConfig
from forecaster.backtesting.report import losses, overlap
from forecaster.backtesting.tracking import BacktestRun
from forecaster.evaluation.significance import compare_losses
from forecaster.training.config import TrainConfig


@dataclass(frozen=True)
class Candidate:
    """A cell that was backtested.

    Args:
        cell: the cell's name.
        mae: the MAE of its backtest.
        relative_mae: its MAE over the last-value baseline's; None if the baseline's is 0.
        n_parameters: the number of parameters of its network.
        over_best: its MAE over the best candidate's.
        error: the standard error of that ratio; None if there are too few windows for it.
        is_chosen: whether it is the selected candidate.
    """

    cell: str
    mae: float
    relative_mae: float | None
    n_parameters: int
    over_best: float
    error: float | None
    is_chosen: bool


def choose(config: TrainConfig, runs: Mapping[str, BacktestRun], backtest_config: BacktestConfig) -> list[Candidate]:
    """Return all candidates, with the smallest network within one standard error of the best chosen.

    The standard error is that of the paired difference, because a window that is hard for one cell is hard for all.
    With too few windows for a standard error, the best candidate is chosen.

    Args:
        config: the recipe, with any cell.
        runs: the backtest of each cell.
        backtest_config: the settings of all the backtests.

    Source: Breiman, Friedman, Olshen & Stone (1984), Classification and Regression Trees, section 3.4.3.
    """
    best = min(runs, key=lambda cell: runs[cell].metrics["mae"])
    n_overlap = overlap(config.horizon, backtest_config.step_size)
    sizes = {cell: int(config.with_cell(cell).build_network().count_params()) for cell in runs}
    best_losses = losses(runs[best].result, MODEL)
    ratios = {cell: compare_losses(losses(run.result, MODEL), best_losses, n_overlap) for cell, run in runs.items()}
    near = [cell for cell, ratio in ratios.items() if cell == best or (ratio and ratio.value - ratio.error <= 1)]
    chosen = min(near, key=lambda cell: (sizes[cell], runs[cell].metrics["mae"]))
    least = runs[best].metrics["mae"]
    return [
        Candidate(
            cell,
            run.metrics["mae"],
            run.metrics.get("relative_mae"),
            sizes[cell],
            run.metrics["mae"] / least if least else 1.0,
            None if (ratio := ratios[cell]) is None else ratio.error,
            cell == chosen,
        )
        for cell, run in runs.items()
    ]
