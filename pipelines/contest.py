"""Train and compare several cells, and submit the best to the gate: `python -m pipelines.contest JOB.yaml`."""

import sys
from typing import Any

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.promotion.judge import backtest_version
from forecaster.promotion.selection import Candidate, choose
from forecaster.registry.store import Store
from forecaster.training.config import TrainConfig, check_chosen
from forecaster.training.job import train
from forecaster.training.lock import training_lock
from pipelines.command import config_parser, format_table, load_sections, report_waiting, run
from pipelines.promote import PromoteConfig, print_decision, promote_if_passed


def contest(config: TrainConfig, trial: BacktestConfig, promotion: PromoteConfig) -> dict[str, Any]:
    """Train the recipe with each cell, select a version by the one-standard-error rule, and submit it to the gate.

    The gate's p-values are corrected for the number of cells.
    """
    check_chosen(config)
    cells = trial.cells or (config.model.cell,)
    store = Store(config.tracking.uri, create=True)
    with training_lock(config, store, report_waiting):
        versions = {cell: train(config.with_cell(cell), store=store).version for cell in cells}
    tried = {cell: backtest_version(store, config.name, version, trial) for cell, version in versions.items()}
    candidates = choose(config, tried, trial)
    (chosen,) = (candidate.cell for candidate in candidates if candidate.is_chosen)
    _print_candidates(candidates, versions)
    changes = {"name": config.name, "backtest": trial, "tracking": config.tracking}
    promotion = promotion.model_copy(update=changes)
    result, decision = promote_if_passed(store, promotion, versions[chosen], tried[chosen], len(cells))
    print_decision(decision)
    contestants = [vars(candidate) | {"version": versions[candidate.cell]} for candidate in candidates]
    return {"contestants": contestants, **result}


def _print_candidates(candidates: list[Candidate], versions: dict[str, int]) -> None:
    rows = [
        {
            "cell": f"{candidate.cell}, version {versions[candidate.cell]}",
            "MAE": f"{candidate.mae:.4g}",
            "relative_mae": "" if candidate.relative_mae is None else f"{candidate.relative_mae:.4g}",
            "ratio to best": "" if candidate.error is None else f"{candidate.over_best:.4f} ± {candidate.error:.4f}",
            "parameters": str(candidate.n_parameters),
            "": "CHOSEN" if candidate.is_chosen else "",
        }
        for candidate in candidates
    ]
    sys.stdout.write(format_table(rows) + "\n\n")


if __name__ == "__main__":
    parser = config_parser(
        "contest",
        "Train and backtest each cell of the section `backtest`, and promote the best if it passes the gate.\n\n"
        "The best is the cell with the fewest parameters within one standard error of the smallest MAE. The gate's\n"
        "p-values are corrected for the number of cells.",
        "python -m pipelines.contest pipelines/configs/stock.yaml\n"
        "  python -m pipelines.contest pipelines/configs/stock.yaml --set backtest.n_windows=300 train.fit.epochs=10",
    )
    arguments = parser.parse_args()
    sys.exit(
        run(
            lambda: contest(
                *load_sections(arguments, train=TrainConfig, backtest=BacktestConfig, promote=PromoteConfig)
            )
        )
    )
