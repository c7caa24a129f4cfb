"""Forecasts of a registered model in Python, from frames: `load_predictor("sine").predict_frame(history)`."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecaster.database.uris import default_tracking_uri
from forecaster.domain.errors import RequestError, SeriesError
from forecaster.domain.missing import missing_warnings
from forecaster.domain.series import Floats, Inputs, Y
from forecaster.evaluation.gradients import gradients
from forecaster.inference.explain import attention_columns, gradient_columns
from forecaster.inference.forecasting import Forecaster, ForecastInputs, describe_skill
from forecaster.inference.frames import FrameInputs, read_frame
from forecaster.registry.bands import bands
from forecaster.registry.load import load_version
from forecaster.registry.predictor import ArrayPredictor

_EXAMPLES = {"level": [80, 95], "quantiles": [0.1, 0.9]}


class Predictor(ArrayPredictor):
    """A version that forecasts the series of a long frame. Safe to share between threads."""

    def __repr__(self) -> str:
        manifest = self.manifest
        return (
            f"{type(self).__name__}({manifest.name!r}, freq={manifest.freq!r}, input_size={manifest.input_size}, "
            f"horizon={manifest.horizon}, relative_mae={manifest.skill.relative_mae})"
        )

    def predict_frame(
        self,
        df: pd.DataFrame,
        *,
        horizon: int | None = None,
        level: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
        futr_df: pd.DataFrame | None = None,
        n_samples: int | None = None,
        seed: int = 0,
        explain: bool = False,
        attention: bool = False,
    ) -> pd.DataFrame:
        """Return forecasts of every series of a long frame, as `unique_id, cutoff, ds, mean, lo-80, hi-80, …`.

        The frame's `attrs` hold `skill`, `forecast_by` and `warnings`, as those of the client's frames do.

            predictor = load_predictor("sine")
            forecast = predictor.predict_frame(history, horizon=12, level=[80, 95])

        Args:
            df: columns `unique_id, ds, y` and the model's `hist_exog`, `futr_exog` and `stat_exog`, in the model's
                frequency; `y` and `hist_exog` may be NaN if the model masks missing values.
            horizon: number of steps; the trained horizon when None.
            level: coverages of intervals, 0–100. Give levels or quantiles, not both.
            quantiles: probabilities, 0–1.
            futr_df: `unique_id, ds` and the model's `futr_exog` for at least `steps_ahead(horizon)` steps after each
                series' last row.
            n_samples: number of sample paths, each a column `sample-1`, `sample-2`, … Over the rows of a series a path
                is a joint draw of all steps, up to the trained horizon.
            seed: the seed of the sample paths; the same seed draws the same paths of the same history.
            explain: whether to add columns `gradient-COLUMN-LAG`: how much the mean changes for a small change of `y`
                or a `hist_exog` column, per unit of that column; lag 1 is the last row of the history. It is NaN for a
                missing value.
            attention: whether to add columns `attention-LAG`: how much a step of the horizon attends to a row of the
                history, or to a segment of rows; lag 1 is the last.

        Raises:
            SeriesError: a column is missing or of the wrong type, a row is invalid, or `futr_df` is given although the
                model takes no `futr_exog`.
            TooShortError: a series has fewer rows than the model needs.
            RequestError: the model does not support the horizon, a level, a quantile, sample paths or attention.
            CalendarError: the exchange's calendar ends before the last step.
        """
        trained = self.manifest.horizon
        steps = _whole("horizon", trained if horizon is None else horizon)
        forecaster = Forecaster(
            self,
            steps,
            bands(_numbers("level", level), _numbers("quantiles", quantiles)),
            n_samples=None if n_samples is None else _whole("n_samples", n_samples),
            seed=_whole("seed", seed),
        )
        if futr_df is not None and not self.manifest.futr_exog:
            raise SeriesError("futr_df: the model takes no futr_exog; remove this argument")
        inputs = read_frame(self, df, steps, futr_df, where="df")
        forecast = forecaster.predict(
            ForecastInputs(inputs.values, inputs.times, inputs.futr_exog, inputs.static, unique_ids=inputs.unique_ids)
        )
        if steps > trained:
            warnings.warn(
                f"horizon {steps} exceeds the trained {trained}: later steps are rolled out on the model's own output "
                "and have no intervals",
                stacklevel=2,
            )
        frame = inputs.as_frame(forecast)
        if explain:
            columns = gradient_columns((Y, *self.manifest.hist_exog), self._gradients(inputs, steps))
            frame = pd.concat([frame, pd.DataFrame(columns)], axis=1)
        if attention:
            frame = pd.concat([frame, pd.DataFrame(attention_columns(self._attention(inputs, steps)))], axis=1)
        frame.attrs = {
            "skill": describe_skill(self.manifest.skill),
            "forecast_by": forecast.forecast_by,
            "warnings": [
                *forecast.warnings,
                *forecaster.static_warnings(inputs.unique_ids, inputs.static),
                *missing_warnings(inputs.values),
            ],
        }
        return frame

    def _attention(self, inputs: FrameInputs, steps: int) -> Floats:
        """Return the attention weights of each series, `(n, steps, window's steps)`."""
        trained = self.manifest.horizon
        if steps > trained:
            raise RequestError(f"attention: horizon {steps} exceeds the trained {trained}; request fewer steps")
        known = self.known_ahead(inputs.times, steps, inputs.futr_exog)
        return self.attention(Inputs(inputs.values, known, inputs.static))[:, :steps]

    def _gradients(self, inputs: FrameInputs, steps: int) -> Floats:
        """Return the gradients of each series, `(n, steps, input_size, 1 + hist_exog)`."""
        known = self.known_ahead(inputs.times, steps, inputs.futr_exog)

        def forecast(row: int, windows: Floats) -> Floats:
            own = Inputs(inputs.values, known, inputs.static).take(np.full(len(windows), row))
            # not `predict`, because a count that is moved a little is not a whole number
            return self.roll_out(windows, steps, own.known, own.static).mean

        above = (self.manifest.target_above, *self.manifest.hist_above.values())
        return np.stack([gradients(partial(forecast, row), own, above=above) for row, own in enumerate(inputs.values)])


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise RequestError(f"{name}: must be a whole number, got {value!r}")
    return int(value)


def _numbers(name: str, values: Any) -> tuple[float, ...] | None:
    """Return levels or quantiles as `bands` takes them."""
    if values is None:
        return None
    # listed first, because an iterator can be read only once
    numbers = [*values] if isinstance(values, Iterable) and not isinstance(values, str | Mapping) else None
    if numbers is None or not all(isinstance(number, Real) and not isinstance(number, bool) for number in numbers):
        raise RequestError(f"{name}: must be a list of numbers, such as {_EXAMPLES[name]}, got {values!r}")
    return tuple(map(float, numbers))


def load_predictor(
    name: str,
    alias: str | None = None,
    version: int | None = None,
    tracking_uri: str | None = None,
    cache: Path | str = Path("mlruns/cache"),
) -> Predictor:
    """Return the predictor of a registered version; download it into the cache if needed.

    Args:
        name: the registered model.
        alias: the version's alias; `champion` when neither alias nor version is given.
        version: the version's number, instead of an alias.
        tracking_uri: MLflow's tracking URI. None takes `FORECASTER_TRACKING_URI`, or the local store if that is unset.
            An empty string uses only the cache.
        cache: the folder for verified bundles, which the service may share.

    Raises:
        RequestError: alias and version are both given.
        UnknownModel: there is no such model, alias or version, or the version is neither aliased nor among the newest.
        StoreUnavailable: MLflow does not answer.
        BundleError: the bundle is refused.
    """
    uri = default_tracking_uri() if tracking_uri is None else tracking_uri
    return load_version(name, alias, version, uri, Path(cache), Predictor).predictor
