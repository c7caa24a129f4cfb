"""Frames with another future: what the audit gives the recipe in place of the data."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecaster.data.windows import Windows
from forecaster.domain.series import DS, UNIQUE_ID, Floats, Series, Y
from forecaster.training.config import TrainConfig

Rows = NDArray[np.bool_]


def wall_clock(frame: pd.DataFrame) -> NDArray[np.datetime64]:
    """Return the rows' times as the series' own clock shows them, `(rows,)`."""
    return np.asarray(frame[DS].dt.tz_localize(None), dtype="M8[ns]")


def names_of(frame: pd.DataFrame) -> NDArray[np.str_]:
    """Return the rows' series, `(rows,)`."""
    return frame[UNIQUE_ID].astype(str).to_numpy().astype(np.str_)


def since(config: TrainConfig, frame: pd.DataFrame, series: Series, parts: Sequence[Windows]) -> Rows:
    """Return which rows lie in some successive parts or after them: in time, or by series, in these parts' series."""
    if config.split.by == "series":
        owners = np.concatenate([windows.owners for windows in parts])
        return np.isin(names_of(frame), np.array(series.unique_ids)[owners])
    return np.asarray(wall_clock(frame) >= series.timestamps[parts[0].first].min())


def changed(
    config: TrainConfig,
    frame: pd.DataFrame,
    rows: Rows,
    ahead: Rows | None = None,
    within: tuple[float, float] = (0, 1),
) -> pd.DataFrame:
    """Return the frame with other values in some rows.

    Args:
        config: the recipe, whose columns change.
        frame: the data.
        rows: in which the target and `hist_exog` change.
        ahead: in which `futr_exog` changes; the same rows when None.
        within: the share of each column's range from which the values are drawn.
    """
    random = np.random.default_rng(len(frame))

    def other(name: str, where: Rows) -> Floats:
        values = frame[name].to_numpy(dtype=np.float64)
        least, most = float(values.min()), float(values.max())
        # of the range that the column has, so that what is above 0 stays so
        if least == most:
            least, most = (0.0, 1.0) if least == 0 else (least / 2, least)
        low, high = (least + share * (most - least) for share in within)
        return np.where(where, random.uniform(low, high, len(values)), values)

    columns = {name: other(name, rows) for name in (Y, *(one.column for one in config.hist_exog))}
    columns |= {name: other(name, rows if ahead is None else ahead) for name in config.futr_exog}
    return frame.assign(**columns)


def with_target(frame: pd.DataFrame, row: int, value: float) -> pd.DataFrame:
    """Return the frame with another target in one row."""
    values = frame[Y].to_numpy(dtype=np.float64, copy=True)
    values[row] = value
    return frame.assign(**{Y: values})


def carried_over(windows: Windows, series: Series, other: Series) -> Windows:
    """Return the same windows of another `Series`, in which series begin alike, and may end earlier or be missing."""
    position = {name: owner for owner, name in enumerate(other.unique_ids)}
    owners = np.array([position[series.unique_ids[owner]] for owner in windows.owners], dtype=np.int64)
    return replace(
        windows,
        values=other.values,
        known=other.known,
        timestamps=other.timestamps,
        first=windows.first - series.bounds[windows.owners] + other.bounds[owners],
        owners=owners,
    )
