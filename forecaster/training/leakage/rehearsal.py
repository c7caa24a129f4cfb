"""The recipe itself, run short: with the future changed after each border nothing before it may change, and that must.

Windows are those next to each border, where what looks ahead looks first.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecaster.data.windows import PARTS, Windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.series import UNIQUE_ID, Series, Y
from forecaster.training import devices, networks, recipe, stages
from forecaster.training.export import Trained
from forecaster.training.fit import Examples, fit
from forecaster.training.leakage.changes import carried_over, changed, since, with_target
from forecaster.training.leakage.figures import check_metrics, check_stopping
from forecaster.training.leakage.residuals import check_residuals
from forecaster.training.leakage.windows import last_rows
from forecaster.training.recipe import TrainConfig
from forecaster.training.stages import Evaluated

EPOCHS = 2
# at most so many windows of a part, from so many of its stretches
WINDOWS = {"train": 64, "validation": 32, "calibration": 32, "test": 32}
_BATCH_SIZE, _STRETCHES = 16, 4
# how far the target of the last calibration row is put above all others, in units of their range: see `residuals`
_HIGH, _HIGHER = 3, 30


@dataclass(frozen=True)
class _Rehearsal:
    """A run of the recipe: on what, and what came out."""

    parts: dict[str, Windows]
    evaluated: Evaluated

    @property
    def trained(self) -> Trained:
        return self.evaluated.trained


def rehearse(config: TrainConfig, frame: pd.DataFrame, series: Series, parts: dict[str, Windows]) -> dict[str, int]:
    """Run the recipe on the data, and again with each part changed; return on how many windows of each part.

    Raises:
        LeakageError: what a part must not decide changes with it, or what it must decide does not.
    """
    short, few = _shorten(config), {name: _choose(windows, WINDOWS[name]) for name, windows in parts.items()}
    row = _last_calibration_row(frame, series, few["calibration"])
    high, higher = (frame[Y].max() + units * (float(np.ptp(frame[Y])) or 1.0) for units in (_HIGH, _HIGHER))
    since_part = {name: since(config, frame, series, [parts[later] for later in PARTS[number:]])
                  for number, name in enumerate(PARTS)}  # fmt: skip

    def run(changed_frame: pd.DataFrame, last: float = high, ends_earlier: bool = False) -> _Rehearsal:
        data = with_target(changed_frame, row, last)
        chosen = few
        if ends_earlier:
            data, chosen = _end_earlier(frame, data, series, few)
        other = recipe.prepare(config.model_copy(update={"freq": config.freq or series.freq}), data)
        return _run(short, {name: carried_over(windows, series, other) for name, windows in chosen.items()})

    with networks.reused() as kept:
        first = run(frame)
        _check_start(short, first)
        tests = changed(config, frame, since_part["test"], within=(0.6, 1))
        tested = run(tests, ends_earlier=True)
        calibrated = run(changed(config, frame, since_part["calibration"], within=(0, 0.4)))
        peaked = run(frame, last=higher)
        validated = run(changed(config, frame, since_part["validation"]))
        trained = run(changed(config, frame, ~since_part["validation"]))
        _check_choices(short, kept)
    check_metrics(first.parts, first.evaluated)
    check_stopping(short, first.parts["validation"], first.evaluated)
    _check_network(first, tested, "test")
    _check_network(first, calibrated, "calibration")
    _check_network(first, peaked, "calibration")
    _check_same_calibration(first, tested)
    check_residuals(first.evaluated.calibration, peaked.evaluated.calibration)
    _check_before_validation(first, validated)
    _check_controls(first, trained, validated, calibrated, tested)
    return {name: len(windows) for name, windows in few.items()}


def _shorten(config: TrainConfig) -> TrainConfig:
    fit = {"epochs": EPOCHS, "patience": EPOCHS, "batch_size": min(config.fit.batch_size, _BATCH_SIZE)}
    return config.model_copy(update={"name": "audit", "fit": config.fit.model_copy(update=fit)})


def _choose(windows: Windows, most: int) -> Windows:
    """Return the last windows of a few stretches."""
    stretches = np.unique(np.linspace(0, len(windows.first) - 1, _STRETCHES).astype(np.int64))
    chosen = windows.choose(stretches)
    counts = np.minimum(chosen.counts, max(1, most // len(stretches)))
    return replace(chosen, first=chosen.first + (chosen.counts - counts) * chosen.step_size, counts=counts)


def _last_calibration_row(frame: pd.DataFrame, series: Series, calibration: Windows) -> int:
    """Return where in the frame the last target of the calibration part stands, of the series with the most windows."""
    order = np.argsort(pd.factorize(frame[UNIQUE_ID])[0], kind="stable")
    return int(order[last_rows(calibration)[np.argmax(calibration.counts)]])


def _end_earlier(
    frame: pd.DataFrame, data: pd.DataFrame, series: Series, few: dict[str, Windows]
) -> tuple[pd.DataFrame, dict[str, Windows]]:
    """Return the data without the last row of the series that have more than one window in the test part."""
    test = few["test"]
    shorter = np.flatnonzero(test.counts > 1)
    order = np.argsort(pd.factorize(frame[UNIQUE_ID])[0], kind="stable")
    kept = np.ones(len(data), dtype=bool)
    kept[order[series.bounds[test.owners[shorter] + 1] - 1]] = False
    counts = test.counts.copy()
    counts[shorter] -= 1
    return data[kept], few | {"test": replace(test, counts=counts)}


def _run(config: TrainConfig, parts: dict[str, Windows]) -> _Rehearsal:
    with tempfile.TemporaryDirectory() as checkpoints:
        return _Rehearsal(parts, stages.evaluate(config, parts, Path(checkpoints)))


def _check_start(config: TrainConfig, first: _Rehearsal) -> None:
    """The network starts from what its seed alone decides, and is fitted on the train part."""
    untrained = config.build_network()
    anew = type(untrained).from_config(untrained.get_config())
    if not _have_equal_weights(untrained, anew):
        raise LeakageError("the network does not start from its initializers' weights; it was fitted before")
    devices.prepare(config.seed, config.fit.mixed_precision)
    preprocessing = stages.fit_preprocessing(config, first.parts["train"])
    train, validation = (Examples(first.parts[name], preprocessing, config.model.how) for name in PARTS[:2])
    with tempfile.TemporaryDirectory() as folder, devices.all_devices():
        model = stages.untrained(config, len(train))
        checkpoint = Path(folder) / "recipe.npz"
        history = fit(model, config.fit, train, validation, config.seed, checkpoint, _say_nothing, "audit")
        again = Trained(model, config.model, preprocessing)
        is_same = history == first.evaluated.history and are_equal(again, first.trained)
    devices.prepare(config.seed, mixed_precision=False)
    if not is_same:
        raise LeakageError(
            "the recipe's network is not the one that is fitted on the train part from the configuration's seed; "
            "something else was fitted, or chosen"
        )


def _say_nothing(epoch: int, loss: float, validation_loss: float | None) -> None:
    """Ignore an epoch."""


def _check_choices(config: TrainConfig, kept: networks.Reused) -> None:
    """No network but the configuration's was fitted: else one could have been chosen by the test part."""
    others = [one for one, *_ in kept.networks if (one.seed, one.model) != (config.seed, config.model)]
    if others:
        raise LeakageError(
            f"networks of other seeds or shapes were fitted (such as seed {others[0].seed}, {others[0].model.cell}); "
            "what chooses among them is not audited"
        )


def _check_network(first: _Rehearsal, other: _Rehearsal, part: str) -> None:
    """The network, its losses and its epoch are decided before a part, as are the figures of validation."""
    name, before = "validation-mae", first.evaluated
    is_same = (
        before.history == other.evaluated.history
        and are_equal(first.trained, other.trained)
        and before.metrics.get(name) == other.evaluated.metrics.get(name)
    )
    if not is_same:
        raise LeakageError(f"the {part} part changes the network, its chosen epoch or its figures on validation")


def _check_same_calibration(first: _Rehearsal, tested: _Rehearsal) -> None:
    one, other = first.evaluated.calibration, tested.evaluated.calibration
    if vars(one).keys() != vars(other).keys() or not all(
        np.array_equal(vars(one)[name], vars(other)[name]) for name in vars(one)
    ):
        raise LeakageError("the test part changes the calibration of the intervals")


def _check_before_validation(first: _Rehearsal, validated: _Rehearsal) -> None:
    """Validation chooses the epoch, and nothing within one."""
    one, other = first.evaluated.history, validated.evaluated.history
    if one.loss != other.loss or first.trained.preprocessing != validated.trained.preprocessing:
        raise LeakageError("the validation part changes what is fitted on train")
    if one.best_epoch == other.best_epoch and not are_equal(first.trained, validated.trained):
        raise LeakageError("the validation part changes the weights of an epoch")


def _check_controls(
    first: _Rehearsal, trained: _Rehearsal, validated: _Rehearsal, calibrated: _Rehearsal, tested: _Rehearsal
) -> None:
    """What a part must decide does change with it: else the audit has seen nothing."""
    one = first.evaluated
    changes = {
        "train part changes no weight": not _have_equal_weights(first.trained.model, trained.trained.model),
        "validation part does not change its loss": one.history.validation_loss
        != validated.evaluated.history.validation_loss,
        "calibration part does not change the calibration": not np.array_equal(
            one.calibration.residuals, calibrated.evaluated.calibration.residuals
        ),
        "test part does not change the metrics": one.metrics.get("mae") != tested.evaluated.metrics.get("mae"),
    }
    for what, is_changed in changes.items():
        if not is_changed:
            raise LeakageError(f"the {what}; it is made from other data, and an audit cannot see which")


def are_equal(one: Trained, other: Trained) -> bool:
    """Say whether two networks have the same weights bit by bit, and the same fitted transforms."""
    return one.preprocessing == other.preprocessing and _have_equal_weights(one.model, other.model)


def _have_equal_weights(one: Any, other: Any) -> bool:
    weights, others = one.get_weights(), other.get_weights()
    return len(weights) == len(others) and all(map(np.array_equal, weights, others))
