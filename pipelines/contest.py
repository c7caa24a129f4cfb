"""Train several cells, let each through the gate or not: `python -m pipelines.contest pipelines/configs/sine.yaml`."""

import sys
from typing import Any

from forecaster.lifecycle.backtest import BacktestConfig
from forecaster.training.job import train
from forecaster.training.recipe import TrainConfig
from forecaster.training.turn import training_turn
from pipelines.command import config_parser, left_table, load_sections, run, say_that_it_waits
from pipelines.promote import PromoteConfig, as_row, promote


def contest(config: TrainConfig, trial: BacktestConfig, promotion: PromoteConfig) -> dict[str, Any]:
    """Train the recipe with each cell and judge one version after the other; each meets the champion of its time."""
    cells = trial.cells or (config.model.cell,)
    with training_turn(config, say_that_it_waits):
        versions = {cell: train(config.with_cell(cell)).version for cell in cells}
    judged = {}
    for cell, version in versions.items():
        changes = {"name": config.name, "version": version, "backtest": trial, "tracking": config.tracking}
        judged[cell] = promote(promotion.model_copy(update=changes), tries=len(cells), is_quiet=True)
    _say(judged)
    contestants = [{"cell": cell, **answer} for cell, answer in judged.items()]
    return {"model": config.name, "contestants": contestants, "aliases": contestants[-1]["aliases"]}


def _say(judged: dict[str, dict[str, Any]]) -> None:
    rows = []
    for cell, answer in judged.items():
        name, decision = f"{cell}, version {answer['version']}", "PROMOTED" if answer["promoted"] else "KEPT OUT"
        rows.append({"cell": name, "criterion": decision, "": "", "reason": ""})
        rows += [{"cell": "", **as_row(criterion)} for criterion in answer["criteria"]]
    sys.stdout.write(left_table(rows) + "\n")


if __name__ == "__main__":
    parser = config_parser(
        "contest",
        "Train each cell of the section `backtest`, back-test it and let it through the gate of `promote`, or not.",
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
