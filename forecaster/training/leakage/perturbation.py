"""Change the future in a data frame: the audit's input to the recipe in place of the data."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecaster.data.windows import Windows
from forecaster.domain.series import DS, UNIQUE_ID, Floats, Series, Y
from forecaster.training.config import TrainConfig

Rows = NDArray[np.bool_]


def wall_clock(frame: pd.DataFrame) -> NDArray[np.datetime64]:
    """Return the local time of each row, `(rows,)`."""
    return np.asarray(frame[DS].dt.tz_localize(None), dtype="M8[ns]")


def series_names(frame: pd.DataFrame) -> NDArray[np.str_]:
    """Return the name of each row's series, `(rows,)`."""
    return frame[UNIQUE_ID].astype(str).to_numpy().astype(np.str_)


def rows_since(config: TrainConfig, frame: pd.DataFrame, series: Series, parts: Sequence[Windows]) -> Rows:
    """Return a mask of the rows in these successive parts or later; in a split by series, of the parts' series."""
    if config.split.by == "series":
        owners = np.concatenate([windows.owners for windows in parts])
        return np.isin(series_names(frame), np.array(series.unique_ids)[owners])
    return np.asarray(wall_clock(frame) >= series.timestamps[parts[0].first].min())


def perturb(
    config: TrainConfig,
    frame: pd.DataFrame,
    rows: Rows,
    ahead: Rows | None = None,
    within: tuple[float, float] = (0, 1),
) -> pd.DataFrame:
    """Return the frame with random values in some rows, none of which is then missing.

    Args:
        config: the recipe, whose columns change.
        frame: the data.
        rows: mask of the rows in which the target and `hist_exog` change.
        ahead: mask of the rows in which `futr_exog` changes; `rows` when None.
        within: the part of each column's range from which the values are drawn, as two shares.
    """
    random = np.random.default_rng(len(frame))

    def randomized(name: str, mask: Rows) -> Floats:
        values = frame[name].to_numpy(dtype=np.float64)
        least, most = float(np.nanmin(values)), float(np.nanmax(values))
        # within the column's own range, so that a positive column stays positive
        if least == most:
            least, most = (0.0, 1.0) if least == 0 else (least / 2, least)
        low, high = (least + share * (most - least) for share in within)
        drawn = random.uniform(low, high, len(values))
        return np.where(mask, config.support.nearest(drawn) if name == Y else drawn, values)

    columns = {name: randomized(name, rows) for name in (Y, *(exog.column for exog in config.hist_exog))}
    columns |= {name: randomized(name, rows if ahead is None else ahead) for name in config.futr_exog}
    return frame.assign(**columns)


def real_rows(config: TrainConfig, series: Series) -> Rows:
    """Return a mask of the prepared rows that the data hold; the others stand before the series began."""
    mask = np.ones(len(series.values), dtype=bool)
    mask[series.bounds[:-1, None] + np.arange(config.n_padded)] = False
    return mask


def exchange_static(config: TrainConfig, frame: pd.DataFrame, unique_id: str) -> pd.DataFrame:
    """Return the frame with `stat_exog` exchanged between the series, except that `unique_id` keeps its own."""
    names = series_names(frame)
    first = frame[list(config.static)].set_axis(names).loc[lambda rows: ~rows.index.duplicated()]
    others = first.set_axis(np.roll(first.index, 1))
    others.loc[unique_id] = first.loc[unique_id]
    return frame.assign(**{name: others[name].reindex(names).to_numpy() for name in config.static})


def set_target(frame: pd.DataFrame, row: int, value: float) -> pd.DataFrame:
    """Return the frame with the target of one row set to `value`."""
    values = frame[Y].to_numpy(dtype=np.float64, copy=True)
    values[row] = value
    return frame.assign(**{Y: values})


def transfer_windows(windows: Windows, series: Series, other: Series) -> Windows:
    """Return the same windows over another `Series`, whose series start with the same rows and may be shorter."""
    position = {name: owner for owner, name in enumerate(other.unique_ids)}
    owners = np.array([position[series.unique_ids[owner]] for owner in windows.owners], dtype=np.int64)
    return Windows.over(
        other,
        windows.first - series.bounds[windows.owners] + other.bounds[owners],
        windows.counts,
        owners,
        input_size=windows.input_size,
        horizon=windows.horizon,
        step_size=windows.step_size,
    )
