"""Try a recipe at many past cutoffs, beside baselines: `python -m pipelines.backtest pipelines/configs/sine.yaml`."""

import sys
from typing import Any

import pandas as pd

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.backtesting.tracking import BacktestRun, run_backtest
from forecaster.training.config import TrainConfig
from pipelines.command import config_parser, load_sections, run


def run_backtests(config: TrainConfig, backtest_config: BacktestConfig) -> dict[str, Any]:
    """Try the recipe with each cell and print them side by side."""
    recipes = [config.with_cell(cell) for cell in backtest_config.cells or (config.model.cell,)]
    tried = [run_backtest(recipe, backtest_config) for recipe in recipes]
    _say(tried, backtest_config)
    return {"runs": [{"run_id": one.run_id, "cell": one.cell, "metrics": one.metrics} for one in tried]}


def _say(tried: list[BacktestRun], backtest_config: BacktestConfig) -> None:
    names = ("mae", "relative_mae", "naive-p_value", *(f"coverage-{level}" for level in backtest_config.levels))
    rows = [{"": one.cell} | {name: one.metrics.get(name) for name in names} for one in tried]
    first = tried[0].metrics
    rows += [
        {"": name, "mae": first[f"{name}-mae"], "relative_mae": first[f"{name}-mae"] / first["naive-mae"]}
        for name in backtest_config.baselines
        if first["naive-mae"] > 0
    ]
    sys.stdout.write(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format, na_rep="") + "\n")
    sys.stdout.write(
        f"{backtest_config.n_windows} origins, {backtest_config.step_size} apart, refit: {backtest_config.refit}\n"
    )


if __name__ == "__main__":
    parser = config_parser(
        "backtest",
        "Try the recipe of the section `train` at many past cutoffs, beside the baselines.",
        "python -m pipelines.backtest pipelines/configs/sine.yaml --set n_windows=50 refit=10 train.model.cell=gru",
    )
    arguments = parser.parse_args()
    sys.exit(run(lambda: run_backtests(*load_sections(arguments, train=TrainConfig, backtest=BacktestConfig))))
