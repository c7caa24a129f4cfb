"""Run a shortened recipe with each part changed: earlier results must stay the same, and the part's own must change.

The windows are those next to each border, where a leak shows first.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from forecaster.data.long_frame import group_rows
from forecaster.data.windows import PARTS, Windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.series import UNIQUE_ID, Series, Y
from forecaster.models.trained import TrainedNetwork
from forecaster.training import config as recipe
from forecaster.training import devices, networks, stages
from forecaster.training.config import TrainConfig
from forecaster.training.examples import Examples
from forecaster.training.fit import fit
from forecaster.training.leakage.metrics import check_metrics, forecast_held_out
from forecaster.training.leakage.perturbation import Rows, perturb, real_rows, rows_since, set_target, transfer_windows
from forecaster.training.leakage.residuals import check_residuals
from forecaster.training.leakage.windows import are_last, last_rows
from forecaster.training.stages import Evaluation

# one epoch shows what determines the weights; `metrics` checks which epoch the training itself chose
EPOCHS = 1
# the most windows per part, and from how many of its stretches
WINDOWS = {"train": 64, "validation": 32, "calibration": 32, "test": 32}
_BATCH_SIZE, _STRETCHES = 16, 4
# runs of the recipe: on the data, and with each change
_RUNS = 5
# how far the last target of the calibration part lies above all others, in units of their range; see `residuals`
_HIGH, _HIGHER = 3.0, 3.5


@dataclass(frozen=True)
class _Run:
    """A run of the recipe: its parts and its evaluation."""

    parts: dict[str, Windows]
    evaluated: Evaluation

    @property
    def trained(self) -> TrainedNetwork:
        return self.evaluated.trained


@dataclass(frozen=True)
class _Stage:
    """The common inputs of all runs.

    Args:
        config: the shortened recipe.
        frame: the data.
        series: the prepared series.
        parts: a few windows of each part.
        bar: the progress bar.
    """

    config: TrainConfig
    frame: pd.DataFrame
    series: Series
    parts: dict[str, Windows]
    bar: "tqdm[NoReturn]"

    @property
    def order(self) -> NDArray[np.int64]:
        """Return where in the frame each row of the series stands; -1 for rows before the series began."""
        order = np.full(len(self.series.values), -1)
        order[real_rows(self.config, self.series)] = group_rows(self.frame[UNIQUE_ID]).order
        return order

    def rows_since(self, part: str) -> Rows:
        """Return a mask of the frame's rows in a part or after it."""
        later = PARTS[PARTS.index(part) :]
        return rows_since(self.config, self.frame, self.series, [self.parts[name] for name in later])

    def add_peak(self, frame: pd.DataFrame, height: float) -> pd.DataFrame:
        """Return a frame in which the last target of the calibration part lies far above all others, in one series."""
        calibration, values = self.parts["calibration"], self.frame[Y].to_numpy(np.float64)
        counts = np.where(are_last(calibration), calibration.counts, 0)
        row = self.order[last_rows(calibration)[np.argmax(counts)]]
        most = float(np.nanmax(values))
        peak = most + height * (most - float(np.nanmin(values)) or 1.0)
        return set_target(frame, int(row), np.ceil(peak) if self.config.support.integer else peak)

    def run(self, frame: pd.DataFrame, height: float = _HIGH) -> _Run:
        """Run the recipe on a frame with the same rows."""
        return self._run(self.add_peak(frame, height), self.parts)

    def run_shorter(self, frame: pd.DataFrame) -> _Run:
        """Run the recipe without the last row of each series that has several windows in the test part."""
        test = self.parts["test"]
        ends = (test.counts > 1) & are_last(test)
        kept = np.ones(len(frame), dtype=bool)
        kept[self.order[self.series.bounds[test.owners[ends] + 1] - 1]] = False
        fewer = replace(test, counts=test.counts - ends)
        return self._run(self.add_peak(frame, _HIGH)[kept], self.parts | {"test": fewer})

    def _run(self, frame: pd.DataFrame, parts: dict[str, Windows]) -> _Run:
        series = recipe.prepare(self.config, frame, self.series.static_columns)
        moved = {name: transfer_windows(windows, self.series, series) for name, windows in parts.items()}
        with tempfile.TemporaryDirectory() as checkpoints:
            evaluated = stages.evaluate(self.config, moved, Path(checkpoints))
        self.bar.update()
        return _Run(moved, evaluated)

    def fit(self, train: Windows) -> tuple[TrainedNetwork, list[float]]:
        """Fit the network on these windows, outside of the recipe; return it and its losses.

        The next fit resets the returned network.
        """
        preprocessing = stages.fit_preprocessing(self.config, train)
        examples = Examples(train, preprocessing, self.config.model)
        devices.prepare(self.config.seed, self.config.fit.mixed_precision)
        rows = self.config.fit.shared_rows(len(train))
        with tempfile.TemporaryDirectory() as folder, devices.all_devices(rows):
            model = stages.compile_untrained(self.config, len(train), examples.shape)
            checkpoint = Path(folder) / "recipe.npz"
            history = fit(model, self.config.fit, examples, None, self.config.seed, checkpoint, _ignore_epoch, "audit")
        return TrainedNetwork(model, self.config.model, examples.shape, preprocessing), history.loss


def rehearse(config: TrainConfig, frame: pd.DataFrame, series: Series, parts: dict[str, Windows]) -> dict[str, int]:
    """Run the recipe on the data and with each part changed; return the number of windows of each part.

    Raises:
        LeakageError: a result changes with a part that it must not depend on, or does not change with a part that it
            must depend on.
    """
    few = {name: _choose(windows, WINDOWS[name]) for name, windows in parts.items()}
    with networks.reuse_networks() as cache, tqdm(total=_RUNS, desc="audit", unit="run", dynamic_ncols=True) as bar:
        stage = _Stage(_shorten(config, series), frame, series, few, bar)
        first = stage.run(frame)
        _check_network(stage, first)
        # test parts as different as possible: a choice by the test part turns out differently
        tested = stage.run_shorter(perturb(config, frame, stage.rows_since("test"), within=(0.6, 1)))
        calibrated = stage.run(perturb(config, frame, stage.rows_since("calibration"), within=(0, 0.4)))
        validated = stage.run(perturb(config, frame, stage.rows_since("validation")))
        higher = stage.run(frame, _HIGHER)
        _check_single_network(stage.config, cache)
    check_metrics(first.parts, first.evaluated, forecast_held_out(first.parts, first.trained))
    for other, part in ((tested, "test"), (calibrated, "calibration"), (higher, "calibration")):
        _check_network_unchanged(first, other, part)
    _check_calibration(first, calibrated, tested)
    check_residuals(first.evaluated.calibration, higher.evaluated.calibration)
    _check_validation(first, validated)
    if first.evaluated.metrics.get("mae") == tested.evaluated.metrics.get("mae"):
        raise _unchanged("test", "the metrics")
    return {name: len(windows) for name, windows in few.items()}


def _shorten(config: TrainConfig, series: Series) -> TrainConfig:
    fit = {"epochs": EPOCHS, "batch_size": min(config.fit.batch_size, _BATCH_SIZE)}
    # the frequency is fixed, because it may not be inferred from fewer rows; one fold is enough, because the same code
    # cuts and fits all of them
    fixed = {"name": "audit", "freq": config.freq or series.freq, "folds": min(config.folds, 1)}
    return config.model_copy(update={**fixed, "fit": config.fit.model_copy(update=fit)})


def _choose(windows: Windows, most: int) -> Windows:
    """Return the last windows of a few stretches."""
    stretches = np.unique(np.linspace(0, len(windows.first) - 1, _STRETCHES).astype(np.int64))
    chosen = windows.choose(stretches)
    counts = np.minimum(chosen.counts, max(1, most // len(stretches)))
    return replace(chosen, first=chosen.first + (chosen.counts - counts) * chosen.step_size, counts=counts)


def _check_network(stage: _Stage, first: _Run) -> None:
    """Check that the network starts from its seed's weights and is fitted on the train part."""
    untrained = stage.config.build_network(stage.config.shape_with(stage.series.static_columns))
    if not _have_equal_weights(untrained, type(untrained).from_config(untrained.get_config())):
        raise LeakageError("the network does not start from its initializers' weights; it was already fitted")
    trained, losses = stage.fit(first.parts["train"])
    if losses != first.evaluated.history.loss or not are_equal(trained, first.trained):
        raise LeakageError(
            "the recipe's network differs from a fit on the train part from the configuration's seed; something else "
            "was fitted, or chosen"
        )
    changed = perturb(stage.config, stage.frame, ~stage.rows_since("validation"))
    other = recipe.prepare(stage.config, changed, stage.series.static_columns)
    again, _ = stage.fit(transfer_windows(stage.parts["train"], stage.series, other))
    if _have_equal_weights(again.model, first.trained.model):
        raise _unchanged("train", "the network")


def _ignore_epoch(epoch: int, loss: float, validation_loss: float | None) -> None:
    """Do nothing."""


def _check_single_network(config: TrainConfig, cache: networks.NetworkCache) -> None:
    """Check that only the configuration's network was fitted; among several, the test part could choose."""
    own = (config.seed, config.model, config.fit)
    for key, fit_config, *_ in cache.networks:
        # the number of epochs may differ: a fit may be repeated for as many epochs as an earlier one
        if (key.seed, key.model, fit_config.model_copy(update={"epochs": config.fit.epochs})) != own:
            raise LeakageError(
                f"a network of another configuration was fitted (seed {key.seed}, {key.model.cell}, learning "
                f"rate {fit_config.learning_rate:g}); the audit cannot see what chooses between them"
            )


def _check_network_unchanged(first: _Run, other: _Run, part: str) -> None:
    """Check that a part changes neither the network, nor its losses, nor its validation metrics."""
    before, after, name = first.evaluated, other.evaluated, "validation-mae"
    is_same = before.history == after.history and before.metrics.get(name) == after.metrics.get(name)
    if not is_same or not are_equal(first.trained, other.trained):
        raise LeakageError(f"the {part} part changes the network, its losses or its validation metrics")


def _check_calibration(first: _Run, calibrated: _Run, tested: _Run) -> None:
    """Check that the calibration changes with the calibration part, and not with the test part."""
    before, after = (vars(run.evaluated.calibration) for run in (first, tested))
    if before.keys() != after.keys() or not all(np.array_equal(before[name], after[name]) for name in before):
        raise LeakageError("the test part changes the calibration of the intervals")
    if np.array_equal(before["residuals"], calibrated.evaluated.calibration.residuals):
        raise _unchanged("calibration", "the calibration of the intervals")


def _check_validation(first: _Run, validated: _Run) -> None:
    """Check that the validation loss changes with the validation part, and the weights of an epoch do not."""
    before, after = first.evaluated.history, validated.evaluated.history
    if before.loss != after.loss or not are_equal(first.trained, validated.trained):
        raise LeakageError("the validation part changes what is fitted on train")
    if before.validation_loss == after.validation_loss:
        raise _unchanged("validation", "its loss")


def _unchanged(part: str, result: str) -> LeakageError:
    return LeakageError(
        f"the {part} part was changed but {result} stayed the same: it comes from other data, which the audit cannot "
        "see"
    )


def are_equal(first: TrainedNetwork, second: TrainedNetwork) -> bool:
    """Return whether two networks have the same weights, bit by bit, and the same fitted transforms."""
    return first.preprocessing == second.preprocessing and _have_equal_weights(first.model, second.model)


def _have_equal_weights(first: Any, second: Any) -> bool:
    weights, others = first.get_weights(), second.get_weights()
    return len(weights) == len(others) and all(map(np.array_equal, weights, others))
