"""Train, evaluate and register one version: `python -m pipelines.train pipelines/configs/sine.yaml`."""

import sys
from dataclasses import asdict
from typing import Any

from forecaster.training.config import TrainConfig
from forecaster.training.job import train
from forecaster.training.lock import training_lock
from pipelines.command import config_parser, report_waiting, run_config


def _train(config: TrainConfig) -> dict[str, Any]:
    with training_lock(config, report_waiting):
        return asdict(train(config))


if __name__ == "__main__":
    parser = config_parser(
        "train",
        "Train, evaluate and register one version of a model.",
        "python -m pipelines.train pipelines/configs/sine.yaml\n"
        "  python -m pipelines.train pipelines/configs/sine.yaml --set model.cell=gru fit.epochs=10",
    )
    sys.exit(run_config(parser, TrainConfig, _train))
