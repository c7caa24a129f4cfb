"""Bring a model up to date, from the source to the gate: `python -m pipelines.retrain pipelines/configs/stock.yaml`."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.domain.config import Config, section_names
from forecaster.domain.errors import BundleError, ConfigError, DataError, ForecasterError, TrainingError
from forecaster.domain.exits import BAD_CONFIG, DATA_NOT_FIT, FAILED, TRAINING_FAILED
from forecaster.domain.manifest import KERAS_MODEL
from forecaster.promotion.promote import judge_and_promote
from forecaster.registry.cache import CHAMPION
from forecaster.registry.store import Store
from forecaster.training import past_runs
from forecaster.training.config import TrainConfig
from forecaster.training.job import RegisteredVersion, WarmStart, train
from forecaster.training.lock import training_lock
from pipelines.command import config_parser, left_table, load_sections, run, say_that_it_waits
from pipelines.fetch import FetchConfig, fetch
from pipelines.promote import PromoteConfig, as_row, check_heeded


class RetrainConfig(Config):
    """How a model is brought up to date.

    Args:
        warm_epochs: the served network starts from the champion's weights and is fitted so long; null starts anew. The
            recipe is always evaluated from random weights, for the champion has seen what it is tested on.
        without: the share of the symbols that may be left out because they cannot be fetched.
    """

    warm_epochs: int | None = Field(None, ge=1, le=100_000)
    without: float = Field(0, ge=0, lt=1)


class Retraining:
    """One model's way from its source to the gate; `step` says where it is."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Read the sections of a job's file; `fetch` and `retrain` may be missing."""
        names = section_names(arguments.config)
        optional: dict[str, type[Config]] = {"fetch": FetchConfig, "retrain": RetrainConfig}
        whole = {name: model for name, model in optional.items() if name in names}
        whole |= {"backtest": BacktestConfig, "promote": PromoteConfig, "train": TrainConfig}
        if not names:
            raise ConfigError(f"{arguments.config}: has no sections; it needs train, backtest and promote")
        read = dict(zip(whole, load_sections(arguments, **whole), strict=True))
        self.fetch: FetchConfig | None = read.get("fetch")
        self.retrain: RetrainConfig = read.get("retrain", RetrainConfig())
        self.backtest: BacktestConfig = read["backtest"]
        self.promote: PromoteConfig = read["promote"]
        self.train: TrainConfig = read["train"]
        self.step = "fetch"
        if self.promote.name != self.train.name:
            raise ConfigError(f"promote.name: '{self.promote.name}' is not train.name, '{self.train.name}'")
        check_heeded(self.promote, self.backtest, self.train.tracking)

    def run(self) -> dict[str, Any]:
        """Bring the model up to date; the answer says what became of it and why."""
        uri, name = self.train.tracking.uri, self.train.name
        store = Store(uri, create=True)
        with training_lock(self.train, store, say_that_it_waits) as check:
            config, left_out = self._fetched()
            self.step = "train"
            registered = self._trained(store, config)
            check()
            self.step = "gate"
            settled = judge_and_promote(store, name, registered.version, self.promote.gate, self.backtest)
            past_runs.remove_abandoned_checkpoints(config.tracking, name)
        if settled.criteria:
            sys.stdout.write(left_table([as_row(one) for one in settled.criteria]) + "\n")
        return {
            "outcome": settled.outcome,
            "reason": settled.reason,
            "model": name,
            "version": registered.version,
            "run_id": registered.run_id,
            "aliases": settled.aliases,
            "left_out": left_out,
        }

    def _fetched(self) -> tuple[TrainConfig, dict[str, str]]:
        """Update the store, and return the recipe for the symbols that are up to date, and why others are not."""
        if self.fetch is None:
            return self.train, {}
        failed = fetch(self.fetch)["failed"]
        wanted = getattr(self.train.data, "symbols", ())
        lost = {symbol: reason for symbol, reason in failed.items() if symbol in wanted}
        if not lost:
            return self.train, {}
        if len(lost) > self.retrain.without * len(wanted) or len(lost) == len(wanted):
            raise DataError(
                f"{len(lost)} of {len(wanted)} symbols cannot be fetched, more than retrain.without allows "
                f"({self.retrain.without:g}): " + "; ".join(dict.fromkeys(lost.values()))
            )
        rest = tuple(symbol for symbol in wanted if symbol not in lost)
        return self.train.model_copy(update={"data": self.train.data.model_copy(update={"symbols": rest})}), lost

    def _trained(self, store: Store, config: TrainConfig) -> RegisteredVersion:
        with tempfile.TemporaryDirectory() as folder:
            return train(config, self._warm_start(store, config.name, Path(folder)), store=store, force_new=False)

    def _warm_start(self, store: Store, name: str, folder: Path) -> WarmStart | None:
        """Return the champion's network, downloaded into `folder`; None where none is wanted, or there is none."""
        if self.retrain.warm_epochs is None:
            return None
        champion = store.read(name).aliases.get(CHAMPION) if store.has(name) else None
        if champion is None:
            return None
        bundle = store.download(name, champion, folder)
        return WarmStart(bundle / KERAS_MODEL, champion, self.retrain.warm_epochs)


def main(arguments: argparse.Namespace) -> int:
    """Run it; whatever comes of it, the last line says which and why."""
    code = FAILED

    def job() -> dict[str, Any]:
        nonlocal code
        retraining = Retraining(arguments)
        try:
            return retraining.run()
        except ForecasterError as error:
            code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), FAILED)
            sys.stderr.write(f"error: {error}\n")
            return {"outcome": "failed", "step": retraining.step, "reason": str(error), "model": retraining.train.name}

    return run(job, lambda answer: code if answer["outcome"] == "failed" else 0)


_CODES = {
    ConfigError: BAD_CONFIG,
    DataError: DATA_NOT_FIT,
    TrainingError: TRAINING_FAILED,
    BundleError: TRAINING_FAILED,
}


if __name__ == "__main__":
    parser = config_parser(
        "retrain",
        "Fetch, check, train, back-test, certify, and promote what the gate lets through. Asked again, it goes on\n"
        "where it was, or finds that nothing has changed. Exit status: 0 promoted or kept, 1 failed, 2 bad\n"
        "configuration, 3 data not fit, 4 training failed; the last line is JSON and says which and why.",
        "python -m pipelines.retrain pipelines/configs/stock.yaml --set train.fit.epochs=10 retrain.warm_epochs=3",
    )
    sys.exit(main(parser.parse_args()))
