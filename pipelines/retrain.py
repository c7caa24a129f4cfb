"""Fetch, train, backtest and promote in one command: `python -m pipelines.retrain pipelines/configs/stock.yaml`."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.domain.config import Config, section_names
from forecaster.domain.errors import BundleError, ConfigError, DataError, ForecasterError, TrainingError
from forecaster.domain.exits import BAD_CONFIG, FAILED, INVALID_DATA, TRAINING_FAILED
from forecaster.domain.manifest import KERAS_MODEL
from forecaster.promotion.promote import judge_and_promote
from forecaster.registry.cache import CHAMPION
from forecaster.registry.store import Store
from forecaster.training import past_runs
from forecaster.training.config import TrainConfig
from forecaster.training.job import RegisteredVersion, train
from forecaster.training.lock import training_lock
from forecaster.training.warm_start import WarmStart
from pipelines.command import config_parser, format_table, load_sections, report_waiting, run
from pipelines.fetch import FetchConfig, fetch
from pipelines.promote import PromoteConfig, as_row, check_no_ignored_keys


class RetrainConfig(Config):
    """Options of a retraining.

    Args:
        warm_epochs: fit the served network for so many epochs from the champion's weights; null: from random weights.
            The recipe is always evaluated from random weights, because the champion has seen the test part.
        without: the share of symbols that may be left out if they cannot be fetched.
    """

    warm_epochs: int | None = Field(None, ge=1, le=100_000)
    without: float = Field(0, ge=0, lt=1)


class Retraining:
    """A retraining of one model. `step` is its current step: fetch, train or gate."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Load the sections of the job; `fetch` and `retrain` are optional."""
        names = section_names(arguments.config)
        optional: dict[str, type[Config]] = {"fetch": FetchConfig, "retrain": RetrainConfig}
        models = {name: model for name, model in optional.items() if name in names}
        models |= {"backtest": BacktestConfig, "promote": PromoteConfig, "train": TrainConfig}
        if not names:
            raise ConfigError(f"{arguments.config}: has no sections; it needs train, backtest and promote")
        sections = dict(zip(models, load_sections(arguments, **models), strict=True))
        self.fetch: FetchConfig | None = sections.get("fetch")
        self.retrain: RetrainConfig = sections.get("retrain", RetrainConfig())
        self.backtest: BacktestConfig = sections["backtest"]
        self.promote: PromoteConfig = sections["promote"]
        self.train: TrainConfig = sections["train"]
        self.step = "fetch"
        if self.promote.name != self.train.name:
            raise ConfigError(
                f"promote.name: '{self.promote.name}' differs from train.name '{self.train.name}'; use the same name"
            )
        check_no_ignored_keys(self.promote, self.backtest, self.train.tracking)

    def run(self) -> dict[str, Any]:
        """Retrain the model; return the outcome and its reason."""
        uri, name = self.train.tracking.uri, self.train.name
        store = Store(uri, create=True)
        with training_lock(self.train, store, report_waiting) as check:
            config, left_out = self._fetched()
            self.step = "train"
            registered = self._trained(store, config)
            check()
            self.step = "gate"
            settled = judge_and_promote(store, name, registered.version, self.promote.gate, self.backtest)
            past_runs.remove_abandoned_checkpoints(config.tracking, name)
        if settled.criteria:
            sys.stdout.write(format_table([as_row(criterion) for criterion in settled.criteria]) + "\n")
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
        """Update the bar store; return the recipe for the fetched symbols, and the reason for each that is left out."""
        if self.fetch is None:
            return self.train, {}
        failed = fetch(self.fetch)["failed"]
        symbols = getattr(self.train.data, "symbols", ())
        left_out = {symbol: reason for symbol, reason in failed.items() if symbol in symbols}
        if not left_out:
            return self.train, {}
        if len(left_out) > self.retrain.without * len(symbols) or len(left_out) == len(symbols):
            raise DataError(
                f"{len(left_out)} of {len(symbols)} symbols cannot be fetched, more than retrain.without allows "
                f"({self.retrain.without:g}): " + "; ".join(dict.fromkeys(left_out.values()))
            )
        rest = tuple(symbol for symbol in symbols if symbol not in left_out)
        return self.train.model_copy(update={"data": self.train.data.model_copy(update={"symbols": rest})}), left_out

    def _trained(self, store: Store, config: TrainConfig) -> RegisteredVersion:
        with tempfile.TemporaryDirectory() as folder:
            return train(config, self._warm_start(store, config.name, Path(folder)), store=store, force_new=False)

    def _warm_start(self, store: Store, name: str, folder: Path) -> WarmStart | None:
        """Download the champion's network into `folder`; None without `warm_epochs` or a champion."""
        if self.retrain.warm_epochs is None:
            return None
        champion = store.read(name).aliases.get(CHAMPION) if store.has(name) else None
        if champion is None:
            return None
        bundle = store.download(name, champion, folder)
        return WarmStart(bundle / KERAS_MODEL, champion, self.retrain.warm_epochs)


def main(arguments: argparse.Namespace) -> int:
    """Run the retraining; print the outcome and its reason as JSON, and return the exit status."""
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
    DataError: INVALID_DATA,
    TrainingError: TRAINING_FAILED,
    BundleError: TRAINING_FAILED,
}


if __name__ == "__main__":
    parser = config_parser(
        "retrain",
        "Fetch data, train a version, backtest it, and promote it if it passes the gate.\n\n"
        "An interrupted run continues when it is started again. If recipe and data have not changed, it does nothing.\n"
        "The last line is JSON with the outcome and its reason. Exit status: 0 promoted, kept out or in the shadow,\n"
        "1 failed, 2 invalid configuration, 3 invalid data, 4 training failed.",
        "python -m pipelines.retrain pipelines/configs/stock.yaml\n"
        "  python -m pipelines.retrain pipelines/configs/stock.yaml --set train.fit.epochs=10 retrain.warm_epochs=3",
    )
    sys.exit(main(parser.parse_args()))
