"""Train several cells, choose, and let the choice through the gate or not: `python -m pipelines.contest JOB.yaml`."""

import sys
from typing import Any

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.promotion.promote import backtest_version
from forecaster.promotion.selection import Candidate, choose
from forecaster.registry.store import Store
from forecaster.training.config import TrainConfig
from forecaster.training.job import train
from forecaster.training.lock import training_lock
from pipelines.command import config_parser, left_table, load_sections, run, say_that_it_waits
from pipelines.promote import PromoteConfig, promote_if_passed, say


def contest(config: TrainConfig, trial: BacktestConfig, promotion: PromoteConfig) -> dict[str, Any]:
    """Train the recipe with each cell, choose by the one-standard-error rule, and judge the chosen version.

    The gate's p-values are corrected for the number of cells.
    """
    cells = trial.cells or (config.model.cell,)
    store = Store(config.tracking.uri, create=True)
    with training_lock(config, store, say_that_it_waits):
        versions = {cell: train(config.with_cell(cell), store=store).version for cell in cells}
    tried = {cell: backtest_version(store, config.name, version, trial) for cell, version in versions.items()}
    candidates = choose(config, tried, trial)
    (chosen,) = (one.cell for one in candidates if one.is_chosen)
    _say(candidates, versions)
    changes = {"name": config.name, "backtest": trial, "tracking": config.tracking}
    promotion = promotion.model_copy(update=changes)
    answer, decision = promote_if_passed(store, promotion, versions[chosen], tried[chosen], len(cells))
    say(decision)
    contestants = [vars(one) | {"version": versions[one.cell]} for one in candidates]
    return {"contestants": contestants, **answer}


def _say(candidates: list[Candidate], versions: dict[str, int]) -> None:
    rows = [
        {
            "cell": f"{one.cell}, version {versions[one.cell]}",
            "MAE": f"{one.mae:.4g}",
            "relative_mae": "" if one.relative_mae is None else f"{one.relative_mae:.4g}",
            "over the best": f"{one.over_best:.4f} ± {one.error:.4f}" if one.error is not None else "",
            "parameters": str(one.n_parameters),
            "": "CHOSEN" if one.is_chosen else "",
        }
        for one in candidates
    ]
    sys.stdout.write(left_table(rows) + "\n\n")


if __name__ == "__main__":
    parser = config_parser(
        "contest",
        "Train and back-test each cell of the section `backtest`. The one with the fewest parameters within one\n"
        "standard error of the best is judged by the gate of `promote`, its p-values corrected for all tries.",
        "python -m pipelines.contest pipelines/configs/stock.yaml --set backtest.n_windows=300 train.fit.epochs=10",
    )
    arguments = parser.parse_args()
    sys.exit(
        run(
            lambda: contest(
                *load_sections(arguments, train=TrainConfig, backtest=BacktestConfig, promote=PromoteConfig)
            )
        )
    )
