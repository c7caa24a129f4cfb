"""What the served graph and its network answer: nothing that comes later changes it, nor what else is asked."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecaster.data.windows import Windows, cut_windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.series import Floats, Inputs, Series
from forecaster.models.topologies import TOPOLOGIES
from forecaster.registry.bundle import GOLDEN_TOLERANCE, window_scale
from forecaster.training import config as recipe
from forecaster.training.config import TrainConfig
from forecaster.training.export import Trained
from forecaster.training.leakage.changes import carried_over, changed, names_of, wall_clock

N_CUTOFFS = 20
# many-to-many networks are asked step by step for so many windows
_N_STEPWISE = 256
_BATCH, _OTHER_BATCH = 256, 61


def check_forecasts(config: TrainConfig, frame: pd.DataFrame, series: Series, served: Trained) -> tuple[str, ...]:
    """Return the cutoffs at which forecasts are the same bit by bit, whatever comes after them.

    Raises:
        LeakageError: a forecast changes with what comes after it, with what else is asked or in which order, or does
            not change with what comes before.
    """
    windows = cut_windows(series, config.input_size, config.horizon)
    session, mean = served.session, served.forecast(windows)
    index = np.linspace(0, len(windows) - 1, min(len(windows), N_CUTOFFS)).astype(np.int64)
    _check_alone(session, windows, index, mean)
    cutoffs = windows.input_times(series.timestamps, index)[:, -1]
    before = _answer(session, windows.inputs(index))
    for inputs in _with_another_future(config, frame, series, windows, index):
        if not np.array_equal(before, _answer(session, inputs)):
            raise LeakageError("a forecast changes with what comes after its cutoff; a column or a window looks ahead")
    another = recipe.prepare(config, changed(config, frame, np.ones(len(frame), dtype=bool)))
    if np.array_equal(before, _answer(session, carried_over(windows, series, another).inputs(index))):
        raise LeakageError("no forecast changes with its inputs; it is made from something else")
    if TOPOLOGIES[config.model.topology].answers_each_step:
        _check_causality(served, windows)
    return tuple(str(cutoff) for cutoff in cutoffs)


def _with_another_future(
    config: TrainConfig, frame: pd.DataFrame, series: Series, windows: Windows, index: NDArray[np.int64]
) -> tuple[Inputs, Inputs]:
    """Return the inputs of some windows: with other values after each one's cutoff; with none, and no other series.

    What is known ahead changes only after the window's horizon.
    """
    times, names = wall_clock(frame), names_of(frame)
    told = config.model_copy(update={"freq": config.freq or series.freq})
    other: list[Inputs] = []
    alone: list[Inputs] = []
    for number in index[:, None]:
        begin, owners = windows.starts(number), windows.owners_of(number)
        window = replace(windows, first=begin, counts=np.ones(1, dtype=np.int64), owners=owners)
        cutoff, end = series.timestamps[begin[0] + windows.input_size + np.array([-1, windows.horizon - 1])]
        frames = changed(config, frame, times > cutoff, ahead=times > end)
        its_own = (names == series.unique_ids[owners[0]]) & (times <= end)
        for inputs, data in ((other, frames), (alone, frames[its_own])):
            inputs.append(carried_over(window, series, recipe.prepare(told, data)).inputs(np.arange(1)))
    return _joined(other), _joined(alone)


def _joined(inputs: list[Inputs]) -> Inputs:
    known = [one.known for one in inputs if one.known is not None]
    return Inputs(np.concatenate([one.values for one in inputs]), np.concatenate(known) if known else None)


def _check_alone(session: Any, windows: Windows, index: NDArray[np.int64], mean: Floats) -> None:
    """A window's forecast is the same in other batches and in another order, and the only one of its batch."""
    order = np.random.default_rng(0).permutation(len(windows))
    alone = np.concatenate([_ask(session, windows, number, 1) for number in index[:, None]])
    for numbers, answers in ((order, _ask(session, windows, order, _OTHER_BATCH)), (index, alone)):
        for begin in range(0, len(numbers), _BATCH):
            some = numbers[begin : begin + _BATCH]
            unit = window_scale(windows.inputs(some).target, mean[some])
            # rounding differs with the size of a batch
            if not (np.abs(answers[begin : begin + _BATCH] - mean[some]) <= GOLDEN_TOLERANCE * unit).all():
                raise LeakageError("a forecast changes with what else is asked, or in which order; it looks across")


def _ask(session: Any, windows: Windows, index: NDArray[np.int64], size: int) -> Floats:
    chunks = (index[begin : begin + size] for begin in range(0, len(index), size))
    return np.concatenate([_answer(session, windows.inputs(chunk)) for chunk in chunks])


def _answer(session: Any, inputs: Inputs) -> Floats:
    return np.asarray(session.run(None, inputs.feeds)[0])


def _check_causality(served: Trained, windows: Windows) -> None:
    """A many-to-many network's answer at a step ignores all that its window holds after it."""
    count = min(len(windows), _N_STEPWISE)
    raw = windows.inputs(np.linspace(0, len(windows) - 1, count).astype(np.int64))
    random = np.random.default_rng(0)
    # the last step that stays as it is, another one in each window
    last = random.integers(0, windows.input_size - 1, (count, 1))
    values, known = raw.values.copy(), None if raw.known is None else raw.known.copy()
    is_later = np.arange(windows.input_size) > last
    values[is_later] *= random.uniform(0.5, 2, values[is_later].shape)
    if known is not None:
        known[np.arange(known.shape[1]) > last + windows.horizon] += 1
    before, after = (_each_step(served, one) for one in (raw, Inputs(values, known)))
    if not np.array_equal(before[~is_later], after[~is_later]):
        raise LeakageError("a step's answer changes with what its window holds after it; a transform looks ahead")


def _each_step(served: Trained, inputs: Inputs) -> Floats:
    prepared, contexts = served.preprocessing.forward(inputs.values, inputs.known)
    outputs = np.asarray(served.model.predict_on_batch([one.astype(np.float32) for one in prepared]))
    return np.asarray(served.preprocessing.target.inverse(outputs.astype(np.float64), contexts))
