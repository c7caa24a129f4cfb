"""The leakage audit: everything is prepared again with the future changed, and nothing before it may differ by a bit.

It runs the very functions that a training runs, from the frame on. What leaks into a column before there is a frame is
out of its sight.
"""

import hashlib
import itertools

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecaster.data.windows import PARTS, Windows, cut_windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.frequency import parse
from forecaster.domain.manifest import Certificate
from forecaster.domain.series import DS, UNIQUE_ID, Inputs, Series, Y
from forecaster.training import recipe, stages
from forecaster.training.export import Trained
from forecaster.training.fit import Examples
from forecaster.training.recipe import TrainConfig

N_CUTOFFS = 20
# more windows than this of a part are looked at evenly spread
MOST_WINDOWS = 20_000
_CHUNK = 2048


def certify(config: TrainConfig, frame: pd.DataFrame, served: Trained) -> Certificate:
    """Return the certificate of a training.

    Args:
        config: its configuration.
        frame: what it was given.
        served: what it gave.

    Raises:
        LeakageError: something before a border or a cutoff changes with what comes after it.
    """
    series = recipe.prepare(config, frame)
    parts = recipe.split(config, series)
    _check_borders(config, series, parts)
    for name, windows in parts.items():
        _check_alignment(config, frame, series, windows, name)
    digests = {PARTS[number]: _check_border(config, frame, series, parts, number) for number in range(1, len(PARTS))}
    if config.model.how.answers_each_step:
        _check_causality(served, parts["validation"])
    return Certificate(digests=digests, cutoffs=_check_cutoffs(config, frame, series, served))


def _check_borders(config: TrainConfig, series: Series, parts: dict[str, Windows]) -> None:
    """Each part's windows end before the next one's begin: in time, or where series are shared out, in series."""
    if config.split.by == "series":
        owners = [set(windows.owners.tolist()) for windows in parts.values()]
        if sum(map(len, owners)) != len(set().union(*owners)):
            raise LeakageError("split: a series is in two parts; report it with the configuration")
        return
    for before, after in itertools.pairwise(PARTS):
        last, first = _times(series, parts[before])[1], _times(series, parts[after])[0]
        if last >= first:
            raise LeakageError(
                f"split: the {before} part reaches {last}, the {after} part begins at {first}; report it"
            )


def _check_alignment(config: TrainConfig, frame: pd.DataFrame, series: Series, windows: Windows, part: str) -> None:
    """Each value that a window gives stands in the frame at the time that the window is said to be of."""
    index = _sample(len(windows), 50)
    names = np.array(series.unique_ids)[windows.owners_of(index)]
    times = windows.input_times(series.timestamps, index)
    hist = [one.column for one in config.hist_exog]
    wall = frame.assign(**{DS: frame[DS].dt.tz_localize(None), UNIQUE_ID: frame[UNIQUE_ID].astype(str)})
    # of an hour that the clock repeats, either value may stand there
    rows = wall.groupby([UNIQUE_ID, DS], sort=False)[[Y, *hist]]
    low, high = rows.min(), rows.max()

    def stands(values: NDArray[np.float64], at: NDArray[np.datetime64], column: str, what: str) -> None:
        keys = pd.MultiIndex.from_arrays([np.repeat(names, at[0].size), at.reshape(-1)])
        least, most = low[column].reindex(keys).to_numpy(), high[column].reindex(keys).to_numpy()
        flat = values.reshape(-1)
        if not ((flat >= least) & (flat <= most)).all():
            raise LeakageError(f"{part} part: {what} of a window are not those of its times; report it with the config")

    inputs = windows.inputs(index)
    for number, column in enumerate((Y, *hist)):
        stands(inputs.values[:, :, number], times, column, f"the inputs '{column}'")
    step = recipe.sessions_of(config) or parse(series.freq)
    coming = windows.target_times(series.timestamps, index)
    # a frequency that knows no holidays cannot say when the next rows come, but never before the step after the last
    first = np.array([step.after(last, 1)[0] for last in times[:, -1]])
    if (coming[:, 0] < first).any():
        raise LeakageError(f"{part} part: targets do not come after their inputs; report it with the config")
    targets = config.model.how.targets(windows, index)
    if not config.model.how.answers_each_step:
        stands(targets, coming, Y, "the targets")
        return
    whole = np.concatenate([times, coming], axis=1)
    each = np.stack([whole[:, step + 1 : step + 1 + windows.horizon] for step in range(windows.input_size)], axis=1)
    stands(targets, each, Y, "the targets")


def _check_border(
    config: TrainConfig, frame: pd.DataFrame, series: Series, parts: dict[str, Windows], number: int
) -> str:
    """Return the digest of all that is fitted or transformed before a part begins, whatever that part holds."""
    before = PARTS[:number]
    if config.split.by == "series":
        owners = np.concatenate([parts[part].owners for part in PARTS[number:]])
        later = frame[UNIQUE_ID].astype(str).isin([series.unique_ids[owner] for owner in owners]).to_numpy()
    else:
        later = _wall(frame) >= _times(series, parts[PARTS[number]])[0]
    changed = recipe.split(config, recipe.prepare(config, _changed(config, frame, later)))
    digest = _digest(config, parts, before)
    if _digest(config, changed, before) != digest:
        raise LeakageError(
            f"what comes after the {before[-1]} part changes what is fitted or seen before it; a transform, a window "
            "or a column looks ahead"
        )
    return digest


def _digest(config: TrainConfig, parts: dict[str, Windows], before: tuple[str, ...]) -> str:
    """Return the SHA-256 of the fitted preprocessing and of every array that it makes of these parts' windows."""
    preprocessing = stages.fit_preprocessing(config, parts["train"])
    digest = hashlib.sha256(preprocessing.model_dump_json().encode())
    for part in before:
        examples = Examples(parts[part], preprocessing, config.model.how)
        index = _sample(len(examples), MOST_WINDOWS)
        for begin in range(0, len(index), _CHUNK):
            inputs, targets = examples.take(index[begin : begin + _CHUNK])
            for array in (*inputs, targets):
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _check_causality(served: Trained, windows: Windows) -> None:
    """A many-to-many network's answer at a step ignores all that its window holds after it."""
    raw = windows.inputs(_sample(len(windows), 8))
    random = np.random.default_rng(0)
    middle = windows.input_size // 2
    values = raw.values.copy()
    values[:, middle + 1 :] *= random.uniform(0.5, 2, values[:, middle + 1 :].shape)
    known = None if raw.known is None else raw.known.copy()
    if known is not None:
        known[:, middle + 1 + windows.horizon :] += 1
    before, after = (_each_step(served, one) for one in (raw, Inputs(values, known)))
    if not np.array_equal(before[:, : middle + 1], after[:, : middle + 1]):
        raise LeakageError("a step's answer changes with what its window holds after it; a transform looks ahead")


def _each_step(served: Trained, inputs: Inputs) -> NDArray[np.float64]:
    prepared, contexts = served.preprocessing.forward(inputs.values, inputs.known)
    outputs = np.asarray(served.model.predict_on_batch([one.astype(np.float32) for one in prepared]))
    return np.asarray(served.preprocessing.target.inverse(outputs.astype(np.float64), contexts))


def _check_cutoffs(config: TrainConfig, frame: pd.DataFrame, series: Series, served: Trained) -> tuple[str, ...]:
    """Return the cutoffs at which forecasts are the same bit by bit, whatever comes after them."""
    windows = cut_windows(series, config.input_size, config.horizon)
    index = _sample(len(windows), N_CUTOFFS)
    cutoffs = windows.input_times(series.timestamps, index)[:, -1]
    wall = _wall(frame)

    def inputs_with_another_future(number: int) -> Inputs:
        changed = recipe.prepare(config, _changed(config, frame, wall > cutoffs[number]))
        return cut_windows(changed, config.input_size, config.horizon).inputs(index[[number]])

    others = [inputs_with_another_future(number) for number in range(len(index))]
    known = [one.known for one in others if one.known is not None]
    other = Inputs(np.concatenate([one.values for one in others]), np.concatenate(known) if known else None)
    if not np.array_equal(served.predict(windows.inputs(index)), served.predict(other)):
        raise LeakageError("a forecast changes with what comes after its cutoff; a column or a window looks ahead")
    return tuple(str(cutoff) for cutoff in cutoffs)


def _changed(config: TrainConfig, frame: pd.DataFrame, rows: NDArray[np.bool_]) -> pd.DataFrame:
    """Return the frame with other values in `rows` of the target and of what is known only afterwards."""
    random = np.random.default_rng(len(frame))

    def other(column: "pd.Series[float]") -> NDArray[np.float64]:
        values = column.to_numpy(dtype=np.float64)
        least, most = float(values.min()), float(values.max())
        # of the range that the column has, so that what is above 0 stays so
        if least == most:
            least, most = (0.0, 1.0) if least == 0 else (least, least / 2)
        return np.where(rows, random.uniform(least, most, len(values)), values)

    names = [Y, *(one.column for one in config.hist_exog)]
    return frame.assign(**{name: other(frame[name]) for name in names})


def _wall(frame: pd.DataFrame) -> NDArray[np.datetime64]:
    return np.asarray(frame[DS].dt.tz_localize(None), dtype="M8[ns]")


def _times(series: Series, windows: Windows) -> tuple[np.datetime64, np.datetime64]:
    """Return the first and the last time of which the windows hold a value."""
    last = windows.first + (windows.counts - 1) * windows.step_size + windows.input_size + windows.horizon - 1
    return series.timestamps[windows.first].min(), series.timestamps[last].max()


def _sample(count: int, most: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)
