"""Check the windows: each holds successive rows of one series, and each part is complete and ends before the next."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecaster.data.calendar_features import calendar_features
from forecaster.data.long_frame import group_rows
from forecaster.data.windows import PARTS, Windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.frequency import parse
from forecaster.domain.series import UNIQUE_ID, Floats, Series, Y
from forecaster.domain.static import category_name
from forecaster.training import config as recipe
from forecaster.training.config import TrainConfig
from forecaster.training.leakage.perturbation import real_rows, wall_clock

_CHUNK_VALUES = 2**22


def check_parts(config: TrainConfig, series: Series, parts: dict[str, Windows]) -> None:
    """Raise LeakageError unless each part ends before the next begins, and no rows are left out between parts."""
    if config.split.by == "series":
        owners = [set(windows.owners.tolist()) for windows in parts.values()]
        if sum(map(len, owners)) != len(set().union(*owners)):
            raise LeakageError("split: a series is in two parts; report this with the configuration")
        _check_no_duplicates(series, parts)
    else:
        for before, after in itertools.pairwise(PARTS):
            last, first = _times(series, parts[before])[1], _times(series, parts[after])[0]
            if last >= first:
                raise LeakageError(
                    f"split: the {before} part reaches {last}, but the {after} part begins at {first}; report this "
                    "with the configuration"
                )
    for owner in range(len(series)):
        _check_complete(config, series, parts, owner)


def _check_no_duplicates(series: Series, parts: dict[str, Windows]) -> None:
    """Check that no series occurs in another part under another name."""
    found: dict[bytes, tuple[str, str]] = {}
    for part, windows in parts.items():
        for owner in map(int, windows.owners):
            name, values = series.unique_ids[owner], series.values[series.rows(owner), 0]
            # constant series may be equal without being the same series
            observed = values[~np.isnan(values)]
            if not len(observed) or np.ptp(observed) == 0:
                continue
            other, where = found.setdefault(values.tobytes(), (name, part))
            if where != part:
                raise LeakageError(
                    f"split: series '{name}' of the {part} part has the values of '{other}' of the {where} part; "
                    "remove one of them, or split by time"
                )


def _check_complete(config: TrainConfig, series: Series, parts: dict[str, Windows], owner: int) -> None:
    """Check that the parts hold every row of a series: each part begins where the previous part ends."""
    begin, slack = int(series.bounds[owner]), 0
    for name, windows in parts.items():
        stretches = np.flatnonzero(windows.owners == owner)
        for stretch in stretches:
            first = int(windows.first[stretch])
            # windows without an observed value are left out
            if first - begin > slack and not np.isnan(series.values[begin : first + 1, 0]).any():
                raise LeakageError(
                    f"split: series '{series.unique_ids[owner]}' has rows before the {name} part that are in no part; "
                    "report this with the configuration"
                )
            # fewer rows than a step are left over
            begin, slack = int(last_rows(windows)[stretch]) + 1, windows.step_size - 1
        if not len(stretches) and config.split.by == "time":
            # the series has too few rows for a window of this part
            slack += windows.input_size + windows.horizon - 1
    end = int(series.bounds[owner + 1])
    if end - begin > slack and not np.isnan(series.values[begin:end, 0]).any():
        raise LeakageError(
            f"split: the last rows of series '{series.unique_ids[owner]}' are in no part; report this with the "
            "configuration"
        )


def check_series(config: TrainConfig, frame: pd.DataFrame, series: Series) -> None:
    """Check that the series hold the frame's values, and that calendar features depend on their own time alone.

    Raises:
        LeakageError: a value belongs to another row or series, or a calendar feature depends on more than its time.
    """
    groups = group_rows(frame[UNIQUE_ID])
    order, rows = groups.order, real_rows(config, series)
    if (
        groups.unique_ids != series.unique_ids
        or not np.array_equal(groups.bounds, series.bounds - config.n_padded * np.arange(len(series.bounds)))
        or not np.array_equal(wall_clock(frame)[order], series.timestamps[rows])
        or not np.isnan(series.values[~rows]).all()
    ):
        raise LeakageError("the prepared series differ from the data; report this with the configuration")
    hist = [exog.column for exog in config.hist_exog]
    for number, column in enumerate((Y, *hist)):
        if not np.array_equal(frame[column].to_numpy(np.float64)[order], series.values[rows, number], equal_nan=True):
            raise _misaligned("the inputs", column)
    _check_static(config, frame, series)
    if series.known is None:
        return
    for number, column in enumerate(config.futr_exog):
        if not np.array_equal(frame[column].to_numpy(np.float64)[order], series.known[:, number]):
            raise _misaligned("the values known ahead", column)
    step = recipe.get_sessions(config) or parse(series.freq)
    for half in (slice(0, None, 2), slice(1, None, 2)) if config.calendar_features else ():
        # computed from half of the timestamps
        features = calendar_features(config.calendar_features, series.timestamps[half], step)
        if not np.array_equal(features, series.known[half, len(config.futr_exog) :]):
            raise LeakageError(
                "a calendar feature depends on more than its own time; report this with the configuration"
            )


def _check_static(config: TrainConfig, frame: pd.DataFrame, series: Series) -> None:
    """Check that what describes each series is the frame's, and that an embedded series has its own position."""
    if series.static is None:
        return
    rows = frame.assign(**{UNIQUE_ID: frame[UNIQUE_ID].astype(str)}).drop_duplicates(UNIQUE_ID).set_index(UNIQUE_ID)
    for unique_id, row in zip(series.unique_ids, series.static.tolist(), strict=True):
        found = series.static_columns.decode(row)
        if found.pop(UNIQUE_ID, unique_id) != unique_id:
            raise LeakageError(
                f"series '{unique_id}' has the embedding of another series; report this with the configuration"
            )
        for column, value in found.items():
            given: Any = rows.at[unique_id, column]
            if value != (category_name(given) if isinstance(value, str) else float(given)):
                raise LeakageError(
                    f"the stat_exog '{column}' of series '{unique_id}' belongs to another series; report this with the "
                    "configuration"
                )


def _misaligned(what: str, column: str) -> LeakageError:
    return LeakageError(f"{what} '{column}' of a window belong to other times; report this with the configuration")


def check_windows(config: TrainConfig, series: Series, windows: Windows, part: str) -> None:
    """Raise LeakageError unless every window holds the rows of its own times, all from one series."""
    numbers = np.arange(len(series.values)).astype("M8[ns]")
    each_step = config.model.decoder.answers_each_step
    length = windows.input_size * (windows.horizon if each_step else 1) + windows.horizon
    for index in windows.chunks(max(1, _CHUNK_VALUES // (length * series.values.shape[1]))):
        rows, coming = (at(numbers, index).astype(np.int64) for at in (windows.input_times, windows.target_times))
        whole = np.concatenate([rows, coming], axis=1)
        owners = windows.owners_of(index)
        is_within = (whole[:, 0] >= series.bounds[owners]) & (whole[:, -1] < series.bounds[owners + 1])
        if not is_within.all() or (np.diff(whole, axis=1) != 1).any():
            raise LeakageError(
                f"{part} part: the rows of a window are not successive rows of one series; report this with the "
                "configuration"
            )
        inputs = windows.inputs(index)
        for number, column in enumerate((Y, *(exog.column for exog in config.hist_exog))):
            _check_equal(inputs.values[:, :, number], series.values[rows, number], part, f"the inputs '{column}'")
        if inputs.known is not None and series.known is not None:
            _check_equal(inputs.known, series.known[whole], part, "the values known ahead")
        if inputs.static is not None and series.static is not None:
            # the owner of the rows, whatever the windows take it to be
            own = np.searchsorted(series.bounds, rows[:, 0], side="right") - 1
            if not np.array_equal(inputs.static, series.static[own]):
                raise LeakageError(
                    f"{part} part: the stat_exog of a window belong to another series; report this with the "
                    "configuration"
                )
        ahead = whole[:, windows.input_size :]
        if each_step:
            steps = range(windows.input_size)
            ahead = np.stack([whole[:, step + 1 : step + 1 + windows.horizon] for step in steps], axis=1)
        targets = config.model.decoder.targets(windows, index)
        _check_equal(targets, series.values[ahead, 0], part, "the targets")


def _check_equal(found: Floats, expected: Floats, part: str, what: str) -> None:
    if not np.array_equal(found, expected, equal_nan=True):
        raise LeakageError(f"{part} part: {what} of a window belong to other times; report this with the configuration")


def _times(series: Series, windows: Windows) -> tuple[np.datetime64, np.datetime64]:
    """Return the first and the last time that occurs in the windows."""
    return series.timestamps[windows.first].min(), series.timestamps[last_rows(windows)].max()


def last_rows(windows: Windows) -> NDArray[np.int64]:
    """Return the last row of each stretch, `(n_stretches,)`."""
    return windows.first + (windows.counts - 1) * windows.step_size + windows.input_size + windows.horizon - 1


def are_last(windows: Windows) -> NDArray[np.bool_]:
    """Return whether each stretch is the last of its series in the windows, `(n_stretches,)`."""
    last = {owner: stretch for stretch, owner in enumerate(windows.owners.tolist())}
    return np.isin(np.arange(len(windows.owners)), list(last.values()))
