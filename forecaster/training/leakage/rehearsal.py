"""The recipe itself, run short: with the future changed after each border nothing before it may change, and that must.

Windows are those next to each border, where what looks ahead looks first.
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
from forecaster.models.topologies import TOPOLOGIES
from forecaster.training import config as recipe
from forecaster.training import devices, networks, stages
from forecaster.training.config import TrainConfig
from forecaster.training.export import Trained
from forecaster.training.fit import Examples, fit
from forecaster.training.leakage.changes import Rows, carried_over, changed, since, with_target
from forecaster.training.leakage.figures import check_metrics
from forecaster.training.leakage.residuals import check_residuals
from forecaster.training.leakage.windows import last_rows
from forecaster.training.stages import Evaluated

# one epoch tells what decides a weight; which epoch was chosen is asked of the training itself, in `figures`
EPOCHS = 1
# at most so many windows of a part, from so many of its stretches
WINDOWS = {"train": 64, "validation": 32, "calibration": 32, "test": 32}
_BATCH_SIZE, _STRETCHES = 16, 4
# of the whole recipe: as it is, and with each change
_RUNS = 5
# how far the target of the last calibration row is put above all others, in units of their range: see `residuals`
_HIGH, _HIGHER = 3.0, 3.5


@dataclass(frozen=True)
class _Run:
    """A run of the recipe: on what, and what came out."""

    parts: dict[str, Windows]
    evaluated: Evaluated

    @property
    def trained(self) -> Trained:
        return self.evaluated.trained


@dataclass(frozen=True)
class _Stage:
    """What every run of the recipe has in common.

    Args:
        config: the recipe, shortened.
        frame: the data.
        series: as prepared from it.
        parts: some windows of each part.
        bar: its progress.
    """

    config: TrainConfig
    frame: pd.DataFrame
    series: Series
    parts: dict[str, Windows]
    bar: "tqdm[NoReturn]"

    @property
    def order(self) -> NDArray[np.int64]:
        """Return where in the frame each row of the series stands."""
        return group_rows(self.frame[UNIQUE_ID]).order

    def since(self, part: str) -> Rows:
        """Return which rows of the frame lie in a part or after it."""
        later = PARTS[PARTS.index(part) :]
        return since(self.config, self.frame, self.series, [self.parts[name] for name in later])

    def peaked(self, frame: pd.DataFrame, height: float) -> pd.DataFrame:
        """Return a frame whose last target in the calibration part lies far above all others, in one series."""
        calibration, values = self.parts["calibration"], self.frame[Y].to_numpy(np.float64)
        row = self.order[last_rows(calibration)[np.argmax(calibration.counts)]]
        return with_target(frame, int(row), values.max() + height * (float(np.ptp(values)) or 1.0))

    def run(self, frame: pd.DataFrame, height: float = _HIGH) -> _Run:
        """Run the recipe on other values of the same rows."""
        return self._run(self.peaked(frame, height), self.parts)

    def run_shorter(self, frame: pd.DataFrame) -> _Run:
        """Run the recipe without the last row of the series that have more than one window in the test part."""
        test = self.parts["test"]
        ends = test.counts > 1
        kept = np.ones(len(frame), dtype=bool)
        kept[self.order[self.series.bounds[test.owners[ends] + 1] - 1]] = False
        fewer = replace(test, counts=test.counts - ends)
        return self._run(self.peaked(frame, _HIGH)[kept], self.parts | {"test": fewer})

    def _run(self, frame: pd.DataFrame, parts: dict[str, Windows]) -> _Run:
        series = recipe.prepare(self.config, frame)
        moved = {name: carried_over(windows, self.series, series) for name, windows in parts.items()}
        with tempfile.TemporaryDirectory() as checkpoints:
            evaluated = stages.evaluate(self.config, moved, Path(checkpoints))
        self.bar.update()
        return _Run(moved, evaluated)

    def fit(self, train: Windows) -> tuple[Trained, list[float]]:
        """Fit the network by itself, on these windows; return it as compiled, to be used once, and its losses."""
        preprocessing = stages.fit_preprocessing(self.config, train)
        examples = Examples(train, preprocessing, TOPOLOGIES[self.config.model.topology])
        devices.prepare(self.config.seed, self.config.fit.mixed_precision)
        with tempfile.TemporaryDirectory() as folder, devices.all_devices():
            model = stages.untrained(self.config, len(train))
            checkpoint = Path(folder) / "recipe.npz"
            history = fit(model, self.config.fit, examples, None, self.config.seed, checkpoint, _ignore, "audit")
        return Trained(model, self.config.model, preprocessing), history.loss


def rehearse(config: TrainConfig, frame: pd.DataFrame, series: Series, parts: dict[str, Windows]) -> dict[str, int]:
    """Run the recipe on the data, and again with each part changed; return on how many windows of each part.

    Raises:
        LeakageError: what a part must not decide changes with it, or what it must decide does not.
    """
    few = {name: _choose(windows, WINDOWS[name]) for name, windows in parts.items()}
    with networks.reused() as kept, tqdm(total=_RUNS, desc="audit", unit="run", dynamic_ncols=True) as bar:
        stage = _Stage(_shorten(config, series), frame, series, few, bar)
        first = stage.run(frame)
        _check_network(stage, first)
        # two test parts as unlike as can be: what chooses by them chooses otherwise
        tested = stage.run_shorter(changed(config, frame, stage.since("test"), within=(0.6, 1)))
        calibrated = stage.run(changed(config, frame, stage.since("calibration"), within=(0, 0.4)))
        validated = stage.run(changed(config, frame, stage.since("validation")))
        higher = stage.run(frame, _HIGHER)
        _check_choices(stage.config, kept)
    check_metrics(first.parts, first.evaluated)
    for other, part in ((tested, "test"), (calibrated, "calibration"), (higher, "calibration")):
        _check_decided(first, other, part)
    _check_calibration(first, calibrated, tested)
    check_residuals(first.evaluated.calibration, higher.evaluated.calibration)
    _check_validation(first, validated)
    if first.evaluated.metrics.get("mae") == tested.evaluated.metrics.get("mae"):
        raise _unmoved("test", "the metrics")
    return {name: len(windows) for name, windows in few.items()}


def _shorten(config: TrainConfig, series: Series) -> TrainConfig:
    fit = {"epochs": EPOCHS, "batch_size": min(config.fit.batch_size, _BATCH_SIZE)}
    # fewer rows need not tell their frequency
    # one fold says of all whether they look ahead: each is cut and fitted by the same code
    known = {"name": "audit", "freq": config.freq or series.freq, "folds": min(config.folds, 1)}
    return config.model_copy(update={**known, "fit": config.fit.model_copy(update=fit)})


def _choose(windows: Windows, most: int) -> Windows:
    """Return the last windows of a few stretches."""
    stretches = np.unique(np.linspace(0, len(windows.first) - 1, _STRETCHES).astype(np.int64))
    chosen = windows.choose(stretches)
    counts = np.minimum(chosen.counts, max(1, most // len(stretches)))
    return replace(chosen, first=chosen.first + (chosen.counts - counts) * chosen.step_size, counts=counts)


def _check_network(stage: _Stage, first: _Run) -> None:
    """The network starts from what its seed alone decides, and is fitted on the train part."""
    untrained = stage.config.build_network()
    if not _have_equal_weights(untrained, type(untrained).from_config(untrained.get_config())):
        raise LeakageError("the network does not start from its initializers' weights; it was fitted before")
    trained, losses = stage.fit(first.parts["train"])
    if losses != first.evaluated.history.loss or not are_equal(trained, first.trained):
        raise LeakageError(
            "the recipe's network is not the one that is fitted on the train part from the configuration's seed; "
            "something else was fitted, or chosen"
        )
    other = recipe.prepare(stage.config, changed(stage.config, stage.frame, ~stage.since("validation")))
    again, _ = stage.fit(carried_over(stage.parts["train"], stage.series, other))
    if _have_equal_weights(again.model, first.trained.model):
        raise _unmoved("train", "the network")


def _ignore(epoch: int, loss: float, validation_loss: float | None) -> None:
    """Ignore an epoch."""


def _check_choices(config: TrainConfig, kept: networks.Reused) -> None:
    """No network but the configuration's was fitted: else one could be chosen by the test part."""
    # a fit that is repeated may last as long as the one before it
    own = (config.seed, config.model, config.fit)
    for decides, how, _ in kept.networks:
        if (decides.seed, decides.model, how.model_copy(update={"epochs": config.fit.epochs})) != own:
            raise LeakageError(
                f"a network of another configuration was fitted (seed {decides.seed}, {decides.model.cell}, learning "
                f"rate {how.learning_rate:g}); what chooses among them is not audited"
            )


def _check_decided(first: _Run, other: _Run, part: str) -> None:
    """The network, its losses and its figures on validation are decided before a part."""
    one, another, name = first.evaluated, other.evaluated, "validation-mae"
    is_same = one.history == another.history and one.metrics.get(name) == another.metrics.get(name)
    if not is_same or not are_equal(first.trained, other.trained):
        raise LeakageError(f"the {part} part changes the network, its losses or its figures on validation")


def _check_calibration(first: _Run, calibrated: _Run, tested: _Run) -> None:
    """The calibration part decides the calibration, the test part does not."""
    one, other = (vars(run.evaluated.calibration) for run in (first, tested))
    if one.keys() != other.keys() or not all(np.array_equal(one[name], other[name]) for name in one):
        raise LeakageError("the test part changes the calibration of the intervals")
    if np.array_equal(one["residuals"], calibrated.evaluated.calibration.residuals):
        raise _unmoved("calibration", "the calibration of the intervals")


def _check_validation(first: _Run, validated: _Run) -> None:
    """The validation part decides its own loss, and no weight within an epoch."""
    one, other = first.evaluated.history, validated.evaluated.history
    if one.loss != other.loss or not are_equal(first.trained, validated.trained):
        raise LeakageError("the validation part changes what is fitted on train")
    if one.validation_loss == other.validation_loss:
        raise _unmoved("validation", "its loss")


def _unmoved(part: str, what: str) -> LeakageError:
    return LeakageError(
        f"the {part} part was changed and {what} stayed the same: it is made from other data, and an audit cannot see "
        "which"
    )


def are_equal(one: Trained, other: Trained) -> bool:
    """Say whether two networks have the same weights bit by bit, and the same fitted transforms."""
    return one.preprocessing == other.preprocessing and _have_equal_weights(one.model, other.model)


def _have_equal_weights(one: Any, other: Any) -> bool:
    weights, others = one.get_weights(), other.get_weights()
    return len(weights) == len(others) and all(map(np.array_equal, weights, others))
