"""Backtest a recipe against baselines at many past cutoffs.

Run `python -m pipelines.backtest pipelines/configs/sine.yaml`.
"""

import sys
from typing import Any

import pandas as pd

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.backtesting.tracking import BacktestRun, run_backtest
from forecaster.training.config import TrainConfig
from pipelines.command import config_parser, load_sections, run


def run_backtests(config: TrainConfig, trial: BacktestConfig) -> dict[str, Any]:
    """Backtest the recipe with each cell and print the results as a table."""
    recipes = [config.with_cell(cell) for cell in trial.cells or (config.model.cell,)]
    results = [run_backtest(recipe, trial) for recipe in recipes]
    _print_results(results, trial)
    return {"runs": [{"run_id": result.run_id, "cell": result.cell, "metrics": result.metrics} for result in results]}


def _print_results(results: list[BacktestRun], trial: BacktestConfig) -> None:
    names = ("mae", "relative_mae", "naive-p_value", *(f"coverage-{level}" for level in trial.levels))
    rows = [{"": result.cell} | {name: result.metrics.get(name) for name in names} for result in results]
    first = results[0].metrics
    rows += [
        {"": name, "mae": first[f"{name}-mae"], "relative_mae": first[f"{name}-mae"] / first["naive-mae"]}
        for name in trial.baselines
        if first["naive-mae"] > 0
    ]
    sys.stdout.write(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format, na_rep="") + "\n")
    sys.stdout.write(f"{trial.n_windows} cutoffs, step size {trial.step_size}, refit: {trial.refit}\n")


if __name__ == "__main__":
    parser = config_parser(
        "backtest",
        "Backtest the recipe of the section `train` against baselines at many past cutoffs.",
        "python -m pipelines.backtest pipelines/configs/sine.yaml\n"
        "  python -m pipelines.backtest pipelines/configs/sine.yaml --set n_windows=50 refit=10 'cells=[gru]'",
    )
    arguments = parser.parse_args()
    sys.exit(run(lambda: run_backtests(*load_sections(arguments, train=TrainConfig, backtest=BacktestConfig))))
