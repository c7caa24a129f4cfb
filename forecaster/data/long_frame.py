"""Validate a long frame `unique_id, ds, y` and convert it to arrays; errors name the row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecaster.domain.errors import SeriesError, TooShortError
from forecaster.domain.frequency import Step, infer, parse
from forecaster.domain.series import DS, FIRST_TIME, LAST_TIME, UNIQUE_ID, Floats, Series, Times, Y
from forecaster.domain.static import CATEGORY, StaticKind, StaticValue, category_name

MAX_ABS_VALUE = 1e150
# a day inside the range of datetime64[ns], so that a change of zone stays in it
_EARLIEST = pd.Timestamp(FIRST_TIME).ceil("D") + pd.Timedelta(days=1)
_LATEST = pd.Timestamp(LAST_TIME).floor("D") - pd.Timedelta(days=1)


def check_long_frame(
    frame: pd.DataFrame,
    freq: str | Step | None = None,
    min_length: int = 1,
    where: str = "frame",
    hist_exog: Sequence[str] = (),
    futr_exog: Sequence[str] = (),
    *,
    may_miss: bool = False,
) -> Series:
    """Validate a long frame and return it as arrays; the frame is not modified.

    Args:
        frame: columns `unique_id`, `ds` (datetime, with or without a time zone), `y` (number); series may be
            interleaved. Errors name rows by the frame's index and the index's name.
        freq: the frequency or the sessions of every series; None to infer one frequency for all.
        min_length: the minimum number of rows of each series.
        where: the name of the frame for error messages, such as its file.
        hist_exog: the columns known up to each row, in the requested order.
        futr_exog: the columns known ahead, in the requested order.
        may_miss: whether `y` and `hist_exog` may have missing values, which stay NaN.

    Raises:
        SeriesError: a column is missing or has the wrong type, a value is missing or not finite, timestamps are
            duplicated, unsorted or irregular, or two series differ in frequency.
        TooShortError: a series has fewer than `min_length` rows.
    """
    series, order, elapsed = _arrange(frame, where, hist_exog, futr_exog, may_miss)
    _check_length(series, min_length, where)
    frequency = _check_frequency(series, elapsed, freq, frame, order, where)
    return replace(series, freq=frequency)


def read_long_frame(
    frame: pd.DataFrame,
    where: str = "frame",
    hist_exog: Sequence[str] = (),
    futr_exog: Sequence[str] = (),
    *,
    may_miss: bool = False,
) -> Series:
    """Return a long frame as arrays without checking lengths and frequency; the result's `freq` is empty.

    Args:
        frame, where, hist_exog, futr_exog, may_miss: as in `check_long_frame`.

    Raises:
        SeriesError: as in `check_long_frame`, except for irregular timestamps.
    """
    return _arrange(frame, where, hist_exog, futr_exog, may_miss)[0]


@dataclass(frozen=True)
class Groups:
    """The rows of a frame by series.

    Args:
        unique_ids: the series in the order of their first rows, `(n_series,)`.
        order: the positions of the rows in the frame, series by series, `(rows,)`.
        bounds: the start of each series in `order`, and the end of the last, `(n_series + 1,)`.
    """

    unique_ids: tuple[str, ...]
    order: NDArray[np.int64]
    bounds: NDArray[np.int64]


def group_rows(unique_ids: "pd.Series[Any]") -> Groups:
    """Group rows by series, without changing their order within a series."""
    codes, names = pd.factorize(unique_ids)
    bounds = np.concatenate(([0], np.cumsum(np.bincount(codes)))).astype(np.int64)
    return Groups(tuple(str(name) for name in names), np.argsort(codes, kind="stable"), bounds)


def check_columns(frame: object, needed: Sequence[str], where: str) -> None:
    """Raise SeriesError unless `frame` is a DataFrame that has each needed column once."""
    if not isinstance(frame, pd.DataFrame):
        raise SeriesError(f"{where}: must be a pandas DataFrame, got {type(frame).__name__}")
    columns = list(frame.columns)
    repeated = [name for name in needed if columns.count(name) > 1]
    if repeated:
        raise SeriesError(f"{where}: columns {repeated} are repeated; keep one of each")
    missing = [name for name in needed if name not in columns]
    if missing:
        raise SeriesError(f"{where}: missing columns {missing}; found {columns}; rename or map them")


def _arrange(
    frame: pd.DataFrame, where: str, hist_exog: Sequence[str], futr_exog: Sequence[str], may_miss: bool
) -> tuple[Series, np.ndarray, Times]:
    """Return the series, the positions of their rows in the frame, and the times of these rows in UTC."""
    check_columns(frame, (UNIQUE_ID, DS, Y, *hist_exog, *futr_exog), where)
    if frame.empty:
        raise SeriesError(f"{where}: no rows; give at least one series")
    values = np.stack([numbers(frame, name, where, may_miss=may_miss) for name in (Y, *hist_exog)], axis=1)
    known = np.stack([numbers(frame, name, where) for name in futr_exog], axis=1) if futr_exog else None
    ds = times(frame, where)
    ids = frame[UNIQUE_ID]
    _refuse(ids.isna().to_numpy(), frame, where, UNIQUE_ID, "is missing; name the series")
    groups = group_rows(ids)
    order = groups.order
    wall = _wall_clock(ds)[order]
    elapsed = wall if ds.dt.tz is None else _elapsed(ds)[order]
    _check_order(frame, order, groups.bounds, elapsed, where)
    series = Series(
        unique_ids=groups.unique_ids,
        values=values[order],
        timestamps=wall,
        bounds=groups.bounds,
        freq="",
        known=None if known is None else known[order],
    )
    return series, order, elapsed


def read_futr_frame(
    frame: pd.DataFrame | None, futr_exog: Sequence[str], series: Series, coming: "pd.Series[pd.Timestamp]"
) -> Floats:
    """Return the known columns for the steps after each series' end.

    Args:
        frame: columns `unique_id`, `ds` and `futr_exog`; rows in any order, extra rows are ignored.
        futr_exog: the requested columns.
        series: the histories.
        coming: the timestamps to forecast, series by series, the same number for each.

    Returns:
        `(n_series, steps, len(futr_exog))`.

    Raises:
        SeriesError: a column or a row is missing, or a value is not a number.
    """
    if frame is None:
        raise SeriesError(f"futr_df: the model needs {list(futr_exog)}; give their values for the steps to forecast")
    check_columns(frame, (UNIQUE_ID, DS, *futr_exog), "futr_df")
    if (times(frame, "futr_df").dt.tz is None) != (coming.dt.tz is None):
        raise SeriesError("futr_df: its timestamps and the history's must both have a time zone, or neither")
    steps = len(coming) // len(series)
    wanted = pd.DataFrame({UNIQUE_ID: np.repeat(series.unique_ids, steps), DS: coming.reset_index(drop=True)})
    found = wanted.merge(frame.assign(**{UNIQUE_ID: frame[UNIQUE_ID].astype(str)}), "left", [UNIQUE_ID, DS])
    if len(found) > len(wanted):
        raise SeriesError("futr_df: some rows have the same unique_id and ds; remove the duplicates")
    known = np.stack([numbers(found, name, "futr_df") for name in futr_exog], axis=1)
    return known.reshape(len(series), steps, len(futr_exog))


def read_static(
    frame: pd.DataFrame, kinds: Mapping[str, StaticKind | None], where: str = "frame"
) -> dict[str, list[StaticValue]]:
    """Return the values of columns that are constant within each series, in the order of `Groups.unique_ids`.

    Args:
        frame: `unique_id`, and these columns; a column of text may hold numbers.
        kinds: by column, whether it is read as a number or as the name of a category; None for a number if all its
            values are numbers.
        where: the name of the frame for error messages.

    Raises:
        SeriesError: a column or a value is missing, a number is not finite, a value differs from those before it in its
            series, or a column whose kind is None mixes numbers and text.
    """
    check_columns(frame, (UNIQUE_ID, *kinds), where)
    groups = group_rows(frame[UNIQUE_ID])
    read: dict[str, list[StaticValue]] = {}
    for name, kind in kinds.items():
        column = frame[name]
        is_missing = (column.isna() | (column.astype(object) == "")).to_numpy(dtype=bool)
        _refuse(is_missing, frame, where, name, "is missing; give the series' value in each of its rows")
        codes = pd.factorize(column)[0]
        first, lengths = groups.order[groups.bounds[:-1]], np.diff(groups.bounds)
        differs = np.zeros(len(frame), dtype=bool)
        differs[groups.order] = codes[groups.order] != np.repeat(codes[first], lengths)
        _refuse(differs, frame, where, name, "differs within its series; a column of stat_exog has a value per series")
        converted = _as_numbers(column)
        is_category = kind == CATEGORY or (kind is None and bool(converted.isna().all()))
        if is_category:
            read[name] = [category_name(value) for value in column.iloc[first].tolist()]
            continue
        what = "is not a number; correct it" + ("" if kind else f", or set kind: category for {name}")
        _refuse(converted.isna().to_numpy(), frame, where, name, what)
        read[name] = numbers(frame.assign(**{name: converted}), name, where)[first].tolist()
    return read


def _as_numbers(column: "pd.Series[Any]") -> "pd.Series[float]":
    """Return a column as float64, NaN for what is not a number; truth values are names."""
    if pd.api.types.is_bool_dtype(column) or isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(str)
    return pd.to_numeric(column, errors="coerce").astype(np.float64)


def localize(coming: "pd.Series[pd.Timestamp]", zone: tzinfo | None, is_wall_clock: bool) -> "pd.Series[pd.Timestamp]":
    """Add a time zone to naive timestamps.

    Args:
        coming: local times, or times in UTC if steps are measured in elapsed time.
        zone: the time zone; None returns the timestamps unchanged.
        is_wall_clock: `is_wall_clock` of the frequency.
    """
    if zone is None:
        return coming
    if not is_wall_clock:
        return coming.dt.tz_localize("UTC").dt.tz_convert(zone)
    # a nonexistent time is shifted forward; an ambiguous time is the later instant
    is_summer = np.zeros(len(coming), dtype=bool)
    return coming.dt.tz_localize(zone, nonexistent="shift_forward", ambiguous=is_summer)


def numbers(frame: pd.DataFrame, name: str, where: str, *, may_miss: bool = False) -> Floats:
    """Return a column as float64; if values may be missing, they are NaN.

    Raises:
        SeriesError: the column is not numeric, or a value is missing, not finite or beyond `MAX_ABS_VALUE`.
    """
    column = frame[name]
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        raise SeriesError(f"{where}: column {name} holds {column.dtype}, not numbers; convert it to a number type")
    y = column.to_numpy(dtype=np.float64, na_value=np.nan)
    is_bad = np.isinf(y) if may_miss else ~np.isfinite(y)
    _refuse(is_bad, frame, where, name, "is not a finite number; correct or remove the row, nothing is imputed")
    _refuse(
        np.abs(y) > MAX_ABS_VALUE,
        frame,
        where,
        name,
        f"is beyond {MAX_ABS_VALUE:g}, whose square overflows; use a larger unit",
    )
    return y


def times(frame: pd.DataFrame, where: str) -> "pd.Series[pd.Timestamp]":
    """Return the column `ds`.

    Raises:
        SeriesError: the column does not hold timestamps, or a timestamp is missing or beyond the range of nanoseconds.
    """
    ds = frame[DS]
    if not pd.api.types.is_datetime64_any_dtype(ds):
        raise SeriesError(f"{where}: column ds holds {ds.dtype}, not timestamps; convert it with pandas.to_datetime")
    _refuse(ds.isna().to_numpy(), frame, where, DS, "is missing; correct or remove the row")
    # numpy would wrap such a time around
    is_outside = ((ds < _EARLIEST.tz_localize(ds.dt.tz)) | (ds > _LATEST.tz_localize(ds.dt.tz))).to_numpy()
    _refuse(
        is_outside,
        frame,
        where,
        DS,
        f"is outside {_EARLIEST.date()} to {_LATEST.date()}, which nanoseconds can hold",
    )
    return ds


def _wall_clock(ds: "pd.Series[pd.Timestamp]") -> Times:
    return np.asarray(ds.dt.tz_localize(None), dtype="M8[ns]")


def _elapsed(ds: "pd.Series[pd.Timestamp]") -> Times:
    return np.asarray(ds.dt.tz_convert("UTC").dt.tz_localize(None), dtype="M8[ns]")


def _refuse(wrong: np.ndarray, frame: pd.DataFrame, where: str, column: str, what: str) -> None:
    if wrong.any():
        position = int(np.flatnonzero(wrong)[0])
        value = frame[column].iloc[position]
        raise SeriesError(
            f"{where}, {_row(frame, position)}: {column} {what} (found {value!r}; {wrong.sum()} such rows)"
        )


def _row(frame: pd.DataFrame, position: int) -> str:
    return f"{frame.index.name or 'row'} {frame.index[position]}"


def _check_order(frame: pd.DataFrame, order: np.ndarray, bounds: np.ndarray, elapsed: Times, where: str) -> None:
    within = np.ones(len(elapsed) - 1, dtype=bool)
    within[bounds[1:-1] - 1] = False
    # not by differences, which take as much memory as the times
    wrong = np.flatnonzero((elapsed[1:] <= elapsed[:-1]) & within)
    if len(wrong) == 0:
        return
    before = int(wrong[0])
    row = int(order[before + 1])
    what = (
        "repeats the previous timestamp"
        if elapsed[before + 1] == elapsed[before]
        else "is earlier than the previous row"
    )
    raise SeriesError(
        f"{where}, {_row(frame, row)}: ds {frame[DS].iloc[row]} of series '{frame[UNIQUE_ID].iloc[row]}' {what} "
        f"({len(wrong)} such rows); sort by {DS} and remove duplicates"
    )


def _check_length(series: Series, min_length: int, where: str) -> None:
    short = np.flatnonzero(series.lengths < min_length)
    if len(short):
        first = int(short[0])
        raise TooShortError(
            f"{where}: {len(short)} of {len(series)} series are too short: '{series.unique_ids[first]}' has "
            f"{series.lengths[first]} rows, needs {min_length}; add rows or remove the series"
        )


def _check_frequency(
    series: Series, elapsed: Times, freq: str | Step | None, frame: pd.DataFrame, order: np.ndarray, where: str
) -> str:
    frequency = parse(freq) if isinstance(freq, str) else freq
    inferred_from = None
    for unique_id, rows in series:
        name = f"{where}, series '{unique_id}'"
        if frequency is None:
            frequency, inferred_from = infer(series.timestamps[rows], name, elapsed[rows]), unique_id
        # days and longer are regular in local time, hours in elapsed time
        clock = series.timestamps if frequency.is_wall_clock else elapsed
        breaks = frequency.breaks(clock[rows])
        if len(breaks):
            row = rows.start + int(breaks[0])
            raise SeriesError(
                f"{name}, {_row(frame, int(order[row]))}: {series.timestamps[row]} is not one step of {frequency} "
                f"({'as set' if inferred_from is None else f'as in series {inferred_from!r}'}) after "
                f"{series.timestamps[row - 1]} ({len(breaks)} such rows); mixed frequencies are not allowed: add the "
                "missing rows or set freq"
            )
    return str(frequency)
