"""Forecasts of long frames as long frames, for callers that use pandas; the service uses only arrays."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd

from forecaster.data.long_frame import check_long_frame, localize, read_futr_frame, read_static
from forecaster.data.padding import pad_series
from forecaster.domain.frequency import Step
from forecaster.domain.series import CUTOFF, DS, MEAN, UNIQUE_ID, Floats, Series, Times, sample_name
from forecaster.inference.answers import ForecastTimes
from forecaster.inference.forecasting import Forecast
from forecaster.registry.predictor import ArrayPredictor


@dataclass(frozen=True)
class FrameInputs:
    """The inputs of the `n` series of a frame, and the times of their forecasts.

    Args:
        unique_ids: the names of the series.
        values: the target and `hist_exog`, `(n, input_size, 1 + hist_exog)`.
        times: the timestamps of the inputs, in each series' local time, `(n, input_size)`.
        futr_exog: the values for the inputs and the forecast steps, as `known_ahead` takes them; None if the model
            takes none.
        static: what describes each series as a whole, `(n, columns)`; None if the model takes nothing of the kind.
        cutoffs: the last time of each series, `(n,)`, in the frame's zone.
        ds: the times of the forecast steps, series by series, `(n × steps,)`.
    """

    unique_ids: tuple[str, ...]
    values: Floats
    times: Times
    futr_exog: Floats | None
    static: Floats | None
    cutoffs: "pd.Series[pd.Timestamp]"
    ds: "pd.Series[pd.Timestamp]"

    def as_frame(self, forecast: Forecast) -> pd.DataFrame:
        """Return the forecasts of these series as `unique_id, cutoff, ds, mean` and the requested columns.

        Sample paths are columns `sample-1`, `sample-2`, …
        """
        steps = forecast.mean.shape[1]
        columns = {
            UNIQUE_ID: np.repeat(self.unique_ids, steps),
            CUTOFF: self.cutoffs.repeat(steps).reset_index(drop=True),
            DS: self.ds,
            MEAN: forecast.mean.ravel(),
        }
        bands = {name: forecast.band_values[:, :, number].ravel() for number, name in enumerate(forecast.columns)}
        samples = () if forecast.samples is None else np.swapaxes(forecast.samples, 0, 1)
        paths = {sample_name(number): path.ravel() for number, path in enumerate(samples, start=1)}
        return pd.DataFrame(columns | bands | paths)

    def digest(self, row: int) -> str:
        """Return the SHA-256 of the inputs of the series at `row`."""
        arrays = (self.values, self.times, self.futr_exog, self.static)
        return sha256(b"".join(array[row].tobytes() for array in arrays if array is not None)).hexdigest()

    def forecast_times(self) -> ForecastTimes:
        """Return the cutoffs and the forecast times, each with its own UTC offset."""
        shape = len(self.unique_ids), -1
        utc = self.ds if self.ds.dt.tz is None else self.ds.dt.tz_convert("UTC").dt.tz_localize(None)
        instants = utc.to_numpy().astype("M8[us]").astype(np.int64).reshape(shape)
        return ForecastTimes(_format(self.cutoffs), np.reshape(_format(self.ds), shape).tolist(), instants)


def read_frame(
    predictor: ArrayPredictor,
    frame: pd.DataFrame,
    steps: int,
    futr_frame: pd.DataFrame | None = None,
    where: str = "frame",
) -> FrameInputs:
    """Return the inputs of a long frame's series, after checking that the model can forecast them.

    Args:
        predictor: the predictor of the version that will forecast.
        frame: columns `unique_id, ds, y` and the model's `hist_exog`, `futr_exog` and `stat_exog`, in the model's
            frequency.
        steps: number of steps to forecast.
        futr_frame: `unique_id, ds` and the model's `futr_exog` for the steps after each series' last row.
        where: the name of the frame in error messages.

    Raises:
        SeriesError, TooShortError, CalendarError: as for `check_long_frame`, `read_futr_frame` and `read_static`.
    """
    manifest, frequency = predictor.manifest, predictor.frequency
    futr_exog = tuple(manifest.futr_exog)
    hist_exog, may_miss = tuple(manifest.hist_exog), manifest.is_masked
    series = check_long_frame(frame, frequency, manifest.n_needed, where, hist_exog, futr_exog, may_miss=may_miss)
    series = pad_series(series, manifest.input_size - manifest.n_needed, frequency)
    # read from the frame: local time, as the arrays hold it, is ambiguous in an hour that a clock change repeats
    cutoffs = frame.groupby(UNIQUE_ID, sort=False, observed=True)[DS].last()
    known = None
    if futr_exog:
        future_times = _next_times(frequency, cutoffs, predictor.manifest.steps_ahead(steps))
        future = read_futr_frame(futr_frame, futr_exog, series, future_times)
        known = np.concatenate([_last_rows(series, series.known, manifest.input_size), future], axis=1)
    columns = predictor.static_columns
    static = columns.encode_all(series.unique_ids, read_static(frame, columns.kinds, where)) if columns.names else None
    return FrameInputs(
        series.unique_ids,
        _last_rows(series, series.values, manifest.input_size),
        _last_rows(series, series.timestamps, manifest.input_size),
        known,
        static,
        cutoffs,
        _next_times(frequency, cutoffs, steps),
    )


def _last_rows(series: Series, array: Any, count: int) -> Any:
    """Return the last `count` rows of each series, `(n_series, count, …)`."""
    return np.stack([array[rows][-count:] for _, rows in series])


def _next_times(frequency: Step, cutoffs: "pd.Series[Any]", steps: int) -> "pd.Series[Any]":
    """Return the next `steps` timestamps after each cutoff: days in local time, hours in elapsed time."""
    zone = cutoffs.dt.tz
    is_elapsed = zone is not None and not frequency.is_wall_clock
    clock = (cutoffs.dt.tz_convert("UTC") if is_elapsed else cutoffs).dt.tz_localize(None).to_numpy()
    times = pd.Series(np.concatenate([frequency.after(cutoff, steps) for cutoff in clock]))
    return localize(times, zone, frequency.is_wall_clock)


def _format(times: "pd.Series[pd.Timestamp]") -> list[str]:
    """Return timestamps in ISO 8601, in the service's format."""
    is_whole = bool((times.dt.microsecond == 0).all())
    texts = (time.isoformat(timespec="seconds" if is_whole else "microseconds") for time in times)
    return [f"{text[:-6]}Z" if text.endswith("+00:00") else text for text in texts]
