"""Convert long frames to request bodies, and answers to frames."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from forecaster.data.long_frame import check_columns, group_rows, localize, numbers, read_long_frame, read_static, times
from forecaster.domain.errors import SeriesError
from forecaster.domain.frequency import parse
from forecaster.domain.series import CUTOFF, DS, MEAN, SAMPLES, UNIQUE_ID, Floats, Y, sample_name
from forecaster.domain.static import CATEGORY, NUMBER

# at about 25 bytes a value, this keeps requests well below the service's default limit of 16 MB
MAX_VALUES_PER_REQUEST = 300_000
_UTC_OFFSET = r"(?:Z|[+-]\d\d:\d\d)$"


@dataclass(frozen=True)
class Histories:
    """The histories to send, and what is needed to read the answers.

    Args:
        series: the entries of request bodies, one for each series.
        cutoffs: the last time of each series, by its name, in the frame's resolution and zone.
        futr_times: the times of the `futr_exog` rows, series by series; None if the model takes no `futr_exog`.
        is_wall_clock: whether the model's steps are regular in local time, and not in elapsed time.
        batch_size: how many series fit into a request.
    """

    series: list[dict[str, Any]]
    cutoffs: "pd.Series[pd.Timestamp]"
    futr_times: "pd.Series[pd.Timestamp] | None"
    is_wall_clock: bool
    batch_size: int

    @property
    def batches(self) -> Iterator[list[dict[str, Any]]]:
        """The series in batches that fit into a request."""
        for begin in range(0, len(self.series), self.batch_size):
            yield self.series[begin : begin + self.batch_size]


def read_histories(
    frame: pd.DataFrame, futr_frame: pd.DataFrame | None, manifest: Mapping[str, Any], max_series: int
) -> Histories:
    """Select the rows and columns of a frame that a model takes.

    Args:
        frame: `unique_id, ds, y` and the model's `hist_exog`, `futr_exog` and `stat_exog`; other columns are ignored.
        futr_frame: `unique_id, ds` and the model's `futr_exog` for the trained horizon's steps after each series' last
            row; in any order; further rows are ignored.
        manifest: the version's manifest, from the service.
        max_series: the largest number of series in a request.

    Raises:
        SeriesError: a column is missing or of the wrong type, a value is missing or not finite, timestamps are not
            ascending, or `futr_frame` has too few rows or is given although the model takes no `futr_exog`.
    """
    hist_exog, futr_exog, input_size = list(manifest["hist_exog"]), list(manifest["futr_exog"]), manifest["input_size"]
    if futr_frame is not None and not futr_exog:
        raise SeriesError("futr_df: the model takes no futr_exog; remove this argument")
    series = read_long_frame(frame, "df", hist_exog, futr_exog, may_miss=manifest.get("missing") == "mask")
    # a service of an earlier release has no stat_exog
    stat_exog = manifest.get("stat_exog", {})
    kinds = {name: CATEGORY if "values" in found else NUMBER for name, found in stat_exog.items()}
    static = read_static(frame, kinds, "df")
    ds = frame[DS].iloc[group_rows(frame[UNIQUE_ID]).order]
    cutoffs = pd.Series(ds.iloc[series.bounds[1:] - 1].array, index=pd.Index(series.unique_ids))
    futr = _futr_rows(futr_frame, futr_exog, cutoffs, manifest["horizon"]) if futr_exog else None
    bodies = []
    for index, (unique_id, rows) in enumerate(series):
        last = slice(max(rows.start, rows.stop - input_size), rows.stop)
        body: dict[str, Any] = {
            UNIQUE_ID: unique_id,
            DS: format_times(ds.iloc[last]),
            Y: _with_nulls(series.values[last, 0]),
        }
        if hist_exog:
            body["hist_exog"] = dict(zip(hist_exog, map(_with_nulls, series.values[last, 1:].T), strict=True))
        if futr is not None and series.known is not None:
            future = futr[futr_exog].to_numpy()[index * manifest["horizon"] :][: manifest["horizon"]]
            values = np.concatenate([series.known[last], future])
            body["futr_exog"] = dict(zip(futr_exog, values.T.tolist(), strict=True))
        if static:
            body["stat_exog"] = {name: values[index] for name, values in static.items()}
        bodies.append(body)
    n_values = input_size * (2 + len(hist_exog) + len(futr_exog))
    return Histories(
        series=bodies,
        cutoffs=cutoffs,
        futr_times=None if futr is None else futr[DS],
        is_wall_clock=manifest["sessions"] is not None or parse(manifest["freq"]).is_wall_clock,
        batch_size=max(1, min(max_series, MAX_VALUES_PER_REQUEST // n_values)),
    )


def _with_nulls(values: Floats) -> list[float | None]:
    """Return values, with None for missing values."""
    return [None if math.isnan(value) else value for value in values.tolist()]


def format_times(ds: "pd.Series[pd.Timestamp]") -> list[str]:
    """Return timestamps in ISO 8601, with a UTC offset if they have a zone."""
    return [time.isoformat() for time in ds]


def _futr_rows(
    frame: pd.DataFrame | None, futr_exog: Sequence[str], cutoffs: "pd.Series[pd.Timestamp]", steps: int
) -> pd.DataFrame:
    """Return the first `steps` rows after each cutoff, series by series, with the columns `ds` and `futr_exog`."""
    if frame is None:
        raise SeriesError(f"futr_df: missing; the model needs {list(futr_exog)} for the next {steps} steps")
    check_columns(frame, (UNIQUE_ID, DS, *futr_exog), "futr_df")
    zone: Any = cutoffs.dt.tz
    if (times(frame, "futr_df").dt.tz is None) != (zone is None):
        raise SeriesError("futr_df: its times and the history's must both have a zone, or neither")
    names = frame[UNIQUE_ID].astype(str)
    later = frame.assign(**{UNIQUE_ID: names})[(frame[DS] > names.map(cutoffs)).to_numpy()]
    later = later.assign(_series=cutoffs.index.get_indexer(pd.Index(later[UNIQUE_ID]))).sort_values(["_series", DS])
    if later.duplicated([UNIQUE_ID, DS]).any():
        raise SeriesError("futr_df: several rows have the same unique_id and ds; remove duplicates")
    rows = later.groupby("_series").head(steps)
    counts = np.bincount(rows["_series"], minlength=len(cutoffs))
    if (counts < steps).any():
        short = int(np.argmax(counts < steps))
        raise SeriesError(
            f"futr_df: series '{cutoffs.index[short]}' has {counts[short]} rows after {cutoffs.iloc[short]}, the model "
            f"needs {steps}; add the missing rows"
        )
    ds = rows[DS] if zone is None else rows[DS].dt.tz_convert(zone)
    columns = {name: numbers(rows, name, "futr_df") for name in futr_exog}
    return pd.DataFrame({DS: ds.array, **columns})


def read_forecasts(forecasts: Sequence[Mapping[str, Any]], histories: Histories, horizon: int | None) -> pd.DataFrame:
    """Return the service's forecasts as `predict_frame` does: `unique_id, cutoff, ds, mean, lo-80, hi-80, …`.

    Args:
        forecasts: one for each series of `histories`, in the same order.
        histories: the histories that were sent.
        horizon: how many steps of each forecast to return; all when None.

    Raises:
        SeriesError: the times of the `futr_exog` rows are not those of the forecasts.
    """
    steps = len(forecasts[0][MEAN])
    ds = _read_times([time for forecast in forecasts for time in forecast[DS]], histories)
    if histories.futr_times is not None:
        _check_futr_times(histories, ds, steps)
    columns: dict[str, Any] = {
        UNIQUE_ID: np.repeat([forecast[UNIQUE_ID] for forecast in forecasts], steps),
        CUTOFF: histories.cutoffs.repeat(steps).reset_index(drop=True),
        DS: ds,
    }
    # all other fields, including those that a newer service adds: a number or paths for each step, or a text for each
    # series
    for name in (name for name in forecasts[0] if name not in columns):
        values = [forecast[name] for forecast in forecasts]
        if name == SAMPLES:
            paths = np.swapaxes(np.array(values, dtype=np.float64), 0, 1)
            columns |= {sample_name(number): path.ravel() for number, path in enumerate(paths, start=1)}
        elif all(isinstance(value, list) for value in values):
            columns[name] = np.array(values, dtype=np.float64).ravel()
        elif all(isinstance(value, str) for value in values):
            columns[name] = np.repeat(np.array(values, dtype=object), steps)
    frame = pd.DataFrame(columns)
    if horizon is None or horizon >= steps:
        return frame
    return frame[np.arange(len(frame)) % steps < horizon].reset_index(drop=True)


def _read_times(texts: list[str], histories: Histories) -> "pd.Series[pd.Timestamp]":
    text = pd.Series(texts, dtype=object)
    zone: Any = histories.cutoffs.dt.tz
    if zone is None or histories.is_wall_clock:
        read = pd.to_datetime(text.str.replace(_UTC_OFFSET, "", regex=True), format="ISO8601")
    else:
        read = pd.to_datetime(text, format="ISO8601", utc=True).dt.tz_localize(None)
    return localize(read.dt.as_unit(histories.cutoffs.dt.unit), zone, histories.is_wall_clock)


def _check_futr_times(histories: Histories, ds: "pd.Series[pd.Timestamp]", steps: int) -> None:
    """Check after the forecast that futr_df has its times: only the service knows an exchange's next sessions."""
    given = histories.futr_times
    if given is None:
        return
    wrong = np.flatnonzero((given != ds).to_numpy())
    if len(wrong):
        row = int(wrong[0])
        raise SeriesError(
            f"futr_df: series '{histories.cutoffs.index[row // steps]}' has {given.iloc[row]} where the model's step "
            f"is {ds.iloc[row]}; give a row for each of the next steps, and none between them"
        )
