"""Forecasts from long frames and as long frames, for callers that have pandas; the service has arrays alone."""

import warnings
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd

from forecaster.data.long_frame import check_long_frame, localize, read_futr_frame
from forecaster.domain.frequency import Step
from forecaster.domain.series import CUTOFF, DS, MEAN, UNIQUE_ID, Floats, Series, Times
from forecaster.inference.answers import ForecastTimes
from forecaster.inference.forecasting import Forecast, Forecaster, ForecastInputs
from forecaster.registry.bands import bands
from forecaster.registry.predictor import ArrayPredictor


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

    def as_frame(self, forecast: Forecast) -> pd.DataFrame:
        """Return these series' forecasts as `unique_id, cutoff, ds, mean`, and the columns beside it."""
        steps = forecast.mean.shape[1]
        found = {
            UNIQUE_ID: np.repeat(self.unique_ids, steps),
            CUTOFF: self.cutoffs.repeat(steps).reset_index(drop=True),
            DS: self.ds,
            MEAN: forecast.mean.ravel(),
        }
        spread = {name: forecast.spread[:, :, number].ravel() for number, name in enumerate(forecast.columns)}
        return pd.DataFrame(found | spread)

    def digest(self, row: int) -> str:
        """Return the SHA-256 of what one series' forecast is made from."""
        arrays = [self.values, self.times] if self.futr_exog is None else [self.values, self.times, self.futr_exog]
        return sha256(b"".join(array[row].tobytes() for array in arrays)).hexdigest()

    def forecast_times(self) -> ForecastTimes:
        """Return when the forecasts are of, each time in its own offset."""
        shape = len(self.unique_ids), -1
        utc = self.ds if self.ds.dt.tz is None else self.ds.dt.tz_convert("UTC").dt.tz_localize(None)
        instants = utc.to_numpy().astype("M8[us]").astype(np.int64).reshape(shape)
        return ForecastTimes(_spell(self.cutoffs), np.reshape(_spell(self.ds), shape).tolist(), instants)


def predict_frame(
    predictor: ArrayPredictor,
    frame: pd.DataFrame,
    horizon: int | None = None,
    level: tuple[float, ...] | None = None,
    quantiles: tuple[float, ...] | None = None,
    futr_frame: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return forecasts of every series of a long frame, as `unique_id, cutoff, ds, mean, lo-80, hi-80, …`.

    Args:
        predictor: as `load_predictor` returns it.
        frame: columns `unique_id, ds, y` and the model's `hist_exog` and `futr_exog`, in the model's frequency.
        horizon: steps; the trained horizon when None.
        level: intervals' coverage, 0–100; or
        quantiles: 0–1, not both.
        futr_frame: `unique_id, ds` and the model's `futr_exog` for the steps after each series' last row, at least
            `steps_ahead(horizon)` of them.

    Raises:
        SeriesError, TooShortError, RequestError: as `check_long_frame` and `Forecaster` say.
    """
    trained = predictor.manifest.horizon
    forecaster = Forecaster(predictor, trained if horizon is None else horizon, bands(level, quantiles))
    read = read_frame(predictor, frame, forecaster.horizon, futr_frame)
    forecast = forecaster.predict(ForecastInputs(read.values, read.times, read.futr_exog))
    if forecaster.horizon > trained:
        warnings.warn(
            f"horizon {forecaster.horizon} exceeds the trained {trained}: later steps are rolled out on the model's "
            "own output and have no intervals",
            stacklevel=2,
        )
    return read.as_frame(forecast)


def read_frame(
    predictor: ArrayPredictor,
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


def _spell(times: "pd.Series[pd.Timestamp]") -> list[str]:
    """Return timestamps in ISO 8601, as the service spells them."""
    is_whole = bool((times.dt.microsecond == 0).all())
    spelt = (time.isoformat(timespec="seconds" if is_whole else "microseconds") for time in times)
    return [f"{text[:-6]}Z" if text.endswith("+00:00") else text for text in spelt]
