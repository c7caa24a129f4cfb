"""The example that a bundle keeps: the last window of the test part, forecast by the network that had not seen it."""

import numpy as np
from numpy.typing import NDArray

from forecaster.data.windows import Windows
from forecaster.domain.levels import LEVELS
from forecaster.domain.manifest import Example
from forecaster.domain.series import MEAN, Floats, Series, Times, lower, upper
from forecaster.training.config import TrainConfig
from forecaster.training.stages import Evaluation

# windows that are checked at a time
_CHUNK = 4096


def last_test_window(config: TrainConfig, series: Series, test: Windows, evaluated: Evaluation) -> Example | None:
    """Return the last window of the test part without missing values, and its forecast; None if there is none.

    Args:
        config: the recipe.
        series: what it was trained on.
        test: the windows that the recipe is scored on.
        evaluated: the network that was fitted without them.
    """
    whole_windows = np.flatnonzero(np.concatenate([_are_whole(test, index) for index in test.chunks(_CHUNK)]))
    if not len(whole_windows):
        return None
    last = whole_windows[-1:]
    inputs = test.inputs(last)
    begin = int(test.starts(last)[0])
    past, whole = slice(begin, begin + test.input_size), slice(begin, begin + test.input_size + test.horizon)
    predicted = evaluated.trained.predict(inputs)
    forecast = {MEAN: predicted.mean[0]}
    for level, (low, high) in evaluated.calibration.bands(inputs.target, LEVELS, predicted).items():
        forecast |= {lower(level): low[0], upper(level): high[0]}
    hist, known = series.values[past, 1:], series.known
    return Example(
        unique_id=series.unique_ids[int(test.owners_of(last)[0])],
        ds=_spelt(series.timestamps[whole]),
        y=_plain(series.values[whole, 0]),
        hist_exog={one.column: _plain(hist[:, number]) for number, one in enumerate(config.hist_exog)},
        # what is computed from the timestamps stands behind what must be sent
        futr_exog={}
        if known is None
        else {name: _plain(known[whole, number]) for number, name in enumerate(config.futr_exog)},
        stat_exog=_static(series, int(test.owners_of(last)[0])),
        forecast={name: _plain(values) for name, values in forecast.items()},
    )


def _are_whole(test: Windows, index: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each window in `index` has no missing value, `(n,)`."""
    is_missing = np.isnan(test.inputs(index).values).any(axis=(1, 2)) | np.isnan(test.targets(index)).any(axis=1)
    return np.asarray(~is_missing)


def _static(series: Series, owner: int) -> dict[str, float | str]:
    if series.static is None:
        return {}
    values, names = series.static_columns.decode(series.static[owner].tolist()), series.static_columns.stat_exog
    return {name: value for name, value in values.items() if name in names and value is not None}


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())


def _spelt(times: Times) -> tuple[str, ...]:
    times = times.astype("M8[us]")
    is_whole = not (times.astype(np.int64) % 1_000_000).any()
    return tuple(np.datetime_as_string(times, unit="s" if is_whole else "us").tolist())
