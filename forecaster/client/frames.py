"""Long frames as the service wants them, and its answers as frames."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from forecaster.data.long_frame import group_rows, localize, numbers, read_long_frame, times
from forecaster.domain.errors import SeriesError
from forecaster.domain.frequency import parse
from forecaster.domain.series import CUTOFF, DS, MEAN, UNIQUE_ID, Y

# keeps a request well below the service's default limit of 16 MB, at some 25 bytes for a number or a time
MOST_VALUES = 300_000
_SUFFIX = r"(?:Z|[+-]\d\d:\d\d)$"


@dataclass(frozen=True)
class Histories:
    """What is sent of a long frame, and what its answer is joined to.

    Args:
        series: one request body's entry for each series.
        cutoffs: the last time of each, by its name, in the frame's own resolution and zone.
        ahead: the times of what was given for the steps to come, series by series; None where nothing was.
        is_wall_clock: whether times continue by the zone's own clock, and not in elapsed time.
        batch: how many series fit into one request.
    """

    series: list[dict[str, Any]]
    cutoffs: "pd.Series[pd.Timestamp]"
    ahead: "pd.Series[pd.Timestamp] | None"
    is_wall_clock: bool
    batch: int

    @property
    def batches(self) -> Iterator[list[dict[str, Any]]]:
        """Yield as many series at a time as fit into one request."""
        for begin in range(0, len(self.series), self.batch):
            yield self.series[begin : begin + self.batch]


def read_histories(
    frame: pd.DataFrame, futr_frame: pd.DataFrame | None, manifest: Mapping[str, Any], most_series: int
) -> Histories:
    """Return the rows and columns of `frame` that a model takes, as its manifest says.

    Args:
        frame: `unique_id, ds, y` and the model's `hist_exog` and `futr_exog`; others are left out.
        futr_frame: `unique_id, ds` and the model's `futr_exog` for the trained horizon's steps after each series' last
            row; in any order, and may be more.
        manifest: as the service describes a version.
        most_series: in one request.

    Raises:
        SeriesError: a column is missing or of the wrong type, a value is missing or not finite, timestamps are not
            ascending, or too little is known ahead.
    """
    hist_exog, futr_exog, input_size = list(manifest["hist_exog"]), list(manifest["futr_exog"]), manifest["input_size"]
    series = read_long_frame(frame, "df", hist_exog, futr_exog)
    ds = frame[DS].iloc[group_rows(frame[UNIQUE_ID]).order]
    cutoffs = pd.Series(ds.iloc[series.bounds[1:] - 1].array, index=pd.Index(series.unique_ids))
    ahead = _rows_ahead(futr_frame, futr_exog, cutoffs, manifest["horizon"]) if futr_exog else None
    bodies = []
    for number, (unique_id, rows) in enumerate(series):
        last = slice(max(rows.start, rows.stop - input_size), rows.stop)
        body = {UNIQUE_ID: unique_id, DS: spell(ds.iloc[last]), Y: series.values[last, 0].tolist()}
        if hist_exog:
            body["hist_exog"] = dict(zip(hist_exog, series.values[last, 1:].T.tolist(), strict=True))
        if ahead is not None and series.known is not None:
            told = ahead[futr_exog].to_numpy()[number * manifest["horizon"] :][: manifest["horizon"]]
            known = np.concatenate([series.known[last], told])
            body["futr_exog"] = dict(zip(futr_exog, known.T.tolist(), strict=True))
        bodies.append(body)
    values = input_size * (2 + len(hist_exog) + len(futr_exog))
    return Histories(
        series=bodies,
        cutoffs=cutoffs,
        ahead=None if ahead is None else ahead[DS],
        is_wall_clock=manifest["sessions"] is not None or parse(manifest["freq"]).is_wall_clock,
        batch=max(1, min(most_series, MOST_VALUES // values)),
    )


def spell(ds: "pd.Series[pd.Timestamp]") -> list[str]:
    """Return timestamps in ISO 8601, with the zone's distance from UTC where they have one."""
    return [time.isoformat() for time in ds]


def _rows_ahead(
    frame: pd.DataFrame | None, futr_exog: Sequence[str], cutoffs: "pd.Series[pd.Timestamp]", steps: int
) -> pd.DataFrame:
    """Return the first `steps` rows after each cutoff, series by series, `ds` and `futr_exog`."""
    if frame is None:
        raise SeriesError(f"futr_df: the model knows {list(futr_exog)} ahead; give them for the {steps} steps to come")
    missing = [name for name in (UNIQUE_ID, DS, *futr_exog) if name not in frame.columns]
    if missing:
        raise SeriesError(f"futr_df: missing columns {missing}; found {list(frame.columns)}")
    zone: Any = cutoffs.dt.tz
    if (times(frame, "futr_df").dt.tz is None) != (zone is None):
        raise SeriesError("futr_df: its times and the history's must both have a zone, or neither")
    names = frame[UNIQUE_ID].astype(str)
    later = frame.assign(**{UNIQUE_ID: names})[(frame[DS] > names.map(cutoffs)).to_numpy()]
    later = later.assign(_series=cutoffs.index.get_indexer(pd.Index(later[UNIQUE_ID]))).sort_values(["_series", DS])
    if later.duplicated([UNIQUE_ID, DS]).any():
        raise SeriesError("futr_df: some rows have the same unique_id and ds; remove duplicates")
    found = later.groupby("_series").head(steps)
    counts = np.bincount(found["_series"], minlength=len(cutoffs))
    if (counts < steps).any():
        short = int(np.argmax(counts < steps))
        raise SeriesError(
            f"futr_df: series '{cutoffs.index[short]}' has {counts[short]} rows after {cutoffs.iloc[short]}, the model "
            f"needs {steps}; add them"
        )
    ds = found[DS] if zone is None else found[DS].dt.tz_convert(zone)
    columns = {name: numbers(found, name, "futr_df") for name in futr_exog}
    return pd.DataFrame({DS: ds.array, **columns})


def read_forecasts(forecasts: Sequence[Mapping[str, Any]], histories: Histories, horizon: int | None) -> pd.DataFrame:
    """Return the service's forecasts as `unique_id, cutoff, ds, mean, lo-80, hi-80, …`, as `predict_frame` does.

    Args:
        forecasts: one of each series of `histories`, in their order.
        histories: what they were asked from.
        horizon: how many steps of each are wanted; all when None.

    Raises:
        SeriesError: what was given as known ahead is of other times than the forecasts'.
    """
    steps = len(forecasts[0][MEAN])
    ds = _read_times([time for one in forecasts for time in one[DS]], histories)
    if histories.ahead is not None:
        _check_ahead(histories, ds, steps)
    columns: dict[str, Any] = {
        UNIQUE_ID: np.repeat([one[UNIQUE_ID] for one in forecasts], steps),
        CUTOFF: histories.cutoffs.repeat(steps).reset_index(drop=True),
        DS: ds,
    }
    # its numbers beside the mean, and what else is said of a series, whatever a newer service may say
    for name in (name for name in forecasts[0] if name not in columns):
        values = [one[name] for one in forecasts]
        if all(isinstance(value, list) for value in values):
            columns[name] = np.array(values, dtype=np.float64).ravel()
        elif all(isinstance(value, str) for value in values):
            columns[name] = np.repeat(np.array(values, dtype=object), steps)
    frame = pd.DataFrame(columns)
    if horizon is None or horizon >= steps:
        return frame
    return frame[np.arange(len(frame)) % steps < horizon].reset_index(drop=True)


def _read_times(texts: list[str], histories: Histories) -> "pd.Series[pd.Timestamp]":
    written = pd.Series(texts, dtype=object)
    zone: Any = histories.cutoffs.dt.tz
    if zone is None or histories.is_wall_clock:
        read = pd.to_datetime(written.str.replace(_SUFFIX, "", regex=True), format="ISO8601")
    else:
        read = pd.to_datetime(written, format="ISO8601", utc=True).dt.tz_localize(None)
    return localize(read.dt.as_unit(histories.cutoffs.dt.unit), zone, histories.is_wall_clock)


def _check_ahead(histories: Histories, ds: "pd.Series[pd.Timestamp]", steps: int) -> None:
    """Refuse a forecast from columns of other times: only the service knows an exchange's coming sessions."""
    given = histories.ahead
    if given is None:
        return
    wrong = np.flatnonzero((given != ds).to_numpy())
    if len(wrong):
        row = int(wrong[0])
        raise SeriesError(
            f"futr_df: series '{histories.cutoffs.index[row // steps]}' has {given.iloc[row]} where the model's step "
            f"is {ds.iloc[row]}; give each step to come, and no other time"
        )
