"""Model selection among recipes tried at the same cutoffs: the simplest within one standard error of the best."""

from collections.abc import Mapping
from dataclasses import dataclass

from forecaster.backtesting.backtest import MODEL, BacktestConfig
from forecaster.backtesting.report import losses, overlap
from forecaster.backtesting.tracking import Tried
from forecaster.evaluation.significance import compare_losses
from forecaster.training.config import TrainConfig


@dataclass(frozen=True)
class Candidate:
    """A cell that was tried.

    Args:
        cell: its name.
        mae: of its backtest.
        relative_mae: over the last value's; None where that has no error.
        n_parameters: of its network.
        over_best: its MAE over the best candidate's.
        error: the standard error of that ratio; None where there are too few windows to tell.
        is_chosen: whether it is the choice.
    """

    cell: str
    mae: float
    relative_mae: float | None
    n_parameters: int
    over_best: float
    error: float | None
    is_chosen: bool


def choose(config: TrainConfig, tried: Mapping[str, Tried], trial: BacktestConfig) -> list[Candidate]:
    """Return all candidates, one of them chosen: the fewest parameters within one standard error of the best.

    The error is that of the paired difference, since a window that is hard for one is hard for all. Where there are too
    few windows for an error, the best is chosen.

    Args:
        config: the recipe, whatever its cell.
        tried: each cell's backtest, all at the cutoffs of `trial`.
        trial: at which cutoffs.

    Source: Breiman, Friedman, Olshen & Stone (1984), Classification and Regression Trees, section 3.4.3.
    """
    best = min(tried, key=lambda cell: tried[cell].metrics["mae"])
    reach = overlap(config.horizon, trial.step_size)
    sizes = {cell: int(config.with_cell(cell).build_network().count_params()) for cell in tried}
    ratios = {
        cell: compare_losses(losses(one.result, MODEL), losses(tried[best].result, MODEL), reach)
        for cell, one in tried.items()
    }
    near = [cell for cell, ratio in ratios.items() if cell == best or (ratio and ratio.value - ratio.error <= 1)]
    chosen = min(near, key=lambda cell: (sizes[cell], tried[cell].metrics["mae"]))
    least = tried[best].metrics["mae"]
    return [
        Candidate(
            cell,
            one.metrics["mae"],
            one.metrics.get("relative_mae"),
            sizes[cell],
            one.metrics["mae"] / least if least else 1.0,
            None if (ratio := ratios[cell]) is None else ratio.error,
            cell == chosen,
        )
        for cell, one in tried.items()
    ]
