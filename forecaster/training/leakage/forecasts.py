"""Check that a forecast depends only on its own window: not on later rows, other series, or other windows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecaster.data.windows import Windows, cut_windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.series import Floats, Inputs, Series
from forecaster.models.trained import TrainedNetwork, network_inputs
from forecaster.registry.bundle import GOLDEN_TOLERANCE, window_scale
from forecaster.training import config as recipe
from forecaster.training.config import TrainConfig
from forecaster.training.leakage.perturbation import (
    exchange_static,
    perturb,
    series_names,
    transfer_windows,
    wall_clock,
)

N_CUTOFFS = 20
# windows on which a many-to-many network is checked at each step
_N_STEPWISE = 256
_BATCH, _OTHER_BATCH = 256, 61


def check_forecasts(
    config: TrainConfig, frame: pd.DataFrame, series: Series, served: TrainedNetwork
) -> tuple[str, ...]:
    """Check the served network's forecasts and return the cutoffs at which they do not depend on later rows.

    Raises:
        LeakageError: a forecast changes with rows after its cutoff or with the other windows of its batch, or does not
            change with its inputs.
    """
    windows = cut_windows(series, config.input_size, config.horizon)
    session, mean = served.session, served.forecast(windows).mean
    index = np.linspace(0, len(windows) - 1, min(len(windows), N_CUTOFFS)).astype(np.int64)
    _check_batches(session, windows, index, mean)
    cutoffs = windows.input_times(series.timestamps, index)[:, -1]
    expected = _run(session, windows.inputs(index))
    for inputs in _change_future(config, frame, series, windows, index):
        if not np.array_equal(expected, _run(session, inputs)):
            raise LeakageError(
                "a forecast changes with rows after its cutoff or with other series; a column or a window looks ahead"
            )
    changed = perturb(config, frame, np.ones(len(frame), dtype=bool))
    other = recipe.prepare(config, changed, series.static_columns)
    if np.array_equal(expected, _run(session, transfer_windows(windows, series, other).inputs(index))):
        raise LeakageError("no forecast changes with its inputs; the forecasts are made from something else")
    if config.model.decoder.answers_each_step:
        _check_causality(served, windows)
    return tuple(str(cutoff) for cutoff in cutoffs)


def _change_future(
    config: TrainConfig, frame: pd.DataFrame, series: Series, windows: Windows, index: NDArray[np.int64]
) -> tuple[Inputs, Inputs]:
    """Return the inputs of some windows twice, from data that are changed after each window's cutoff.

    In the first, the later rows are random, and `stat_exog` is exchanged between the other series; columns known ahead
    change only after the window's horizon. In the second, the rows after the horizon and all other series are also left
    out.
    """
    times, names = wall_clock(frame), series_names(frame)
    # with fewer rows, the frequency may not be inferred
    config = config.model_copy(update={"freq": config.freq or series.freq})
    randomized: list[Inputs] = []
    truncated: list[Inputs] = []
    for number in index[:, None]:
        begin, owners = windows.starts(number), windows.owners_of(number)
        window = replace(windows, first=begin, counts=np.ones(1, dtype=np.int64), owners=owners)
        cutoff, end = series.timestamps[begin[0] + windows.input_size + np.array([-1, windows.horizon - 1])]
        unique_id = series.unique_ids[owners[0]]
        changed = perturb(config, exchange_static(config, frame, unique_id), times > cutoff, ahead=times > end)
        own_rows = (names == unique_id) & (times <= end)
        for inputs, data in ((randomized, changed), (truncated, changed[own_rows])):
            prepared = recipe.prepare(config, data, series.static_columns)
            inputs.append(transfer_windows(window, series, prepared).inputs(np.arange(1)))
    return Inputs.join(randomized), Inputs.join(truncated)


def _check_batches(session: Any, windows: Windows, index: NDArray[np.int64], mean: Floats) -> None:
    """Check that a window's forecast is the same in another batch, in another order, and in a batch of its own."""
    order = np.random.default_rng(0).permutation(len(windows))
    single = np.concatenate([_forecast(session, windows, number, 1) for number in index[:, None]])
    for numbers, found in ((order, _forecast(session, windows, order, _OTHER_BATCH)), (index, single)):
        for begin in range(0, len(numbers), _BATCH):
            chunk = numbers[begin : begin + _BATCH]
            unit = window_scale(windows.inputs(chunk).target, mean[chunk])
            # rounding differs with the size of a batch
            if not (np.abs(found[begin : begin + _BATCH] - mean[chunk]) <= GOLDEN_TOLERANCE * unit).all():
                raise LeakageError(
                    "a forecast changes with the other windows of its batch or their order; it looks across windows"
                )


def _forecast(session: Any, windows: Windows, index: NDArray[np.int64], batch_size: int) -> Floats:
    chunks = (index[begin : begin + batch_size] for begin in range(0, len(index), batch_size))
    return np.concatenate([_run(session, windows.inputs(chunk)) for chunk in chunks])


def _run(session: Any, inputs: Inputs) -> Floats:
    return np.asarray(session.run(None, inputs.feeds)[0])


def _check_causality(served: TrainedNetwork, windows: Windows) -> None:
    """Check that a many-to-many network's output at a step ignores the later steps of its window."""
    count = min(len(windows), _N_STEPWISE)
    raw = windows.inputs(np.linspace(0, len(windows) - 1, count).astype(np.int64))
    random = np.random.default_rng(0)
    # in each window, the last step that stays unchanged
    last = random.integers(0, windows.input_size - 1, (count, 1))
    values, known = raw.values.copy(), None if raw.known is None else raw.known.copy()
    is_later = np.arange(windows.input_size) > last
    values[is_later] *= random.uniform(0.5, 2, values[is_later].shape)
    if known is not None:
        known[np.arange(known.shape[1]) > last + windows.horizon] += 1
    before, after = (_outputs(served, inputs) for inputs in (raw, Inputs(values, known, raw.static)))
    if not np.array_equal(before[~is_later], after[~is_later], equal_nan=True):
        raise LeakageError("a step's output changes with later steps of its window; a transform looks ahead")


def _outputs(served: TrainedNetwork, inputs: Inputs) -> Floats:
    """Return the raw outputs at each step, `(n, input_size, horizon, n_parameters)`."""
    prepared, contexts = served.preprocessing.forward(inputs.feeds)
    parameters = np.asarray(served.model.predict_on_batch(network_inputs(prepared))).astype(np.float64)
    by_parameter = [served.preprocessing.target.inverse(array, contexts) for array in np.moveaxis(parameters, -1, 0)]
    return np.stack(by_parameter, axis=-1)
