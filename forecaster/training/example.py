"""The example that a bundle keeps: the last window of the test part, forecast by the network that had not seen it."""

import numpy as np

from forecaster.data.windows import Windows
from forecaster.domain.levels import LEVELS
from forecaster.domain.manifest import Example
from forecaster.domain.series import MEAN, Floats, Series, Times, lower, upper
from forecaster.training.config import TrainConfig
from forecaster.training.stages import Evaluation


def last_test_window(config: TrainConfig, series: Series, test: Windows, evaluated: Evaluation) -> Example:
    """Return the last window of the test part, and its forecast.

    Args:
        config: the recipe.
        series: what it was trained on.
        test: the windows that the recipe is scored on.
        evaluated: the network that was fitted without them.
    """
    last = np.array([len(test) - 1])
    inputs = test.inputs(last)
    begin = int(test.starts(last)[0])
    past, whole = slice(begin, begin + test.input_size), slice(begin, begin + test.input_size + test.horizon)
    predicted = evaluated.trained.predict(inputs)
    mean = predicted.mean[0]
    forecast = {MEAN: mean}
    for level, (low, high) in evaluated.calibration.bands(inputs.target, LEVELS, predicted.offsets).items():
        forecast |= {lower(level): mean + low[0], upper(level): mean + high[0]}
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
