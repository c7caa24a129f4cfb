"""Long frames as the predictor takes them, and forecasts as frames; pandas is for whoever is no serving process."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from forecaster.data.long_frame import check_long_frame, localize, read_futr_frame
from forecaster.domain.frequency import Step
from forecaster.domain.series import CUTOFF, DS, MEAN, UNIQUE_ID, Floats, Series, Times
from forecaster.registry.predictor import Predictor


@dataclass(frozen=True)
class FrameInputs:
    """What `n` series of a frame are forecast from, and when.

    Args:
        unique_ids: their names.
        values: the target and `hist_exog`, `(n, input_size, 1 + hist_exog)`.
        times: the inputs' timestamps, by each series' own clock, `(n, input_size)`.
        futr_exog: over the inputs and the steps to come, as `known_ahead` takes it; None where the model takes none.
        cutoffs: each series' last time, `(n,)`, with the frame's zone.
        ds: the times to come, series by series, `(n × steps,)`.
    """

    unique_ids: tuple[str, ...]
    values: Floats
    times: Times
    futr_exog: Floats | None
    cutoffs: "pd.Series[pd.Timestamp]"
    ds: "pd.Series[pd.Timestamp]"

    def as_frame(self, mean: Floats, columns: tuple[str, ...], spread: Floats) -> pd.DataFrame:
        """Return forecasts as `unique_id, cutoff, ds, mean`, and the columns beside it.

        Args:
            mean: `(n, steps)`.
            columns: the others' names.
            spread: their values, `(n, steps, columns)`.
        """
        steps = mean.shape[1]
        found = {
            UNIQUE_ID: np.repeat(self.unique_ids, steps),
            CUTOFF: self.cutoffs.repeat(steps).reset_index(drop=True),
            DS: self.ds,
            MEAN: mean.ravel(),
        }
        return pd.DataFrame(found | {name: spread[:, :, number].ravel() for number, name in enumerate(columns)})


def read_frame(
    predictor: Predictor,
    frame: pd.DataFrame,
    steps: int,
    futr_frame: pd.DataFrame | None = None,
    where: str = "frame",
) -> FrameInputs:
    """Return a long frame's series, checked against what the model needs to forecast `steps` steps.

    Args:
        predictor: whose inputs they become.
        frame: columns `unique_id, ds, y` and the model's `hist_exog` and `futr_exog`, in the model's frequency.
        steps: of the forecast.
        futr_frame: `unique_id, ds` and the model's `futr_exog` for the steps after each series' last row.
        where: what to call the frame in an error.

    Raises:
        SeriesError, TooShortError, CalendarError: as `check_long_frame` and `read_futr_frame` say.
    """
    manifest, frequency = predictor.manifest, predictor.frequency
    futr_exog = tuple(manifest.futr_exog)
    series = check_long_frame(frame, frequency, manifest.input_size, where, tuple(manifest.hist_exog), futr_exog)
    # from the frame itself, for the array's wall clock cannot tell the two hours of a repeated one apart
    last = frame.groupby(UNIQUE_ID, sort=False, observed=True)[DS].last()
    told = None
    if futr_exog:
        ahead = read_futr_frame(futr_frame, futr_exog, series, _coming(frequency, last, predictor.steps_ahead(steps)))
        told = np.concatenate([_lasts(series, series.known, manifest.input_size), ahead], axis=1)
    return FrameInputs(
        series.unique_ids,
        _lasts(series, series.values, manifest.input_size),
        _lasts(series, series.timestamps, manifest.input_size),
        told,
        last,
        _coming(frequency, last, steps),
    )


def _lasts(series: Series, rows: Any, count: int) -> Any:
    """Return the last `count` rows of each series, `(n_series, count, …)`."""
    return np.stack([rows[within][-count:] for _, within in series])


def _coming(frequency: Step, last: "pd.Series[Any]", steps: int) -> "pd.Series[Any]":
    """Return the timestamps after each one of `last`: days by the zone's own clock, hours by elapsed time."""
    zone = last.dt.tz
    is_elapsed = zone is not None and not frequency.is_wall_clock
    clock = (last.dt.tz_convert("UTC") if is_elapsed else last).dt.tz_localize(None).to_numpy()
    coming = pd.Series(np.concatenate([frequency.after(one, steps) for one in clock]))
    return localize(coming, zone, frequency.is_wall_clock)
