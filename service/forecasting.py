"""The forecast handler, without HTTP: a request becomes a task, and tasks with the same forecaster share a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.missing import last_observed, missing_warnings
from forecaster.domain.series import Floats, Times
from forecaster.inference.answers import (
    Answer,
    ForecastTimes,
    describe_forecasts,
    matching_tolerance,
    scored_steps,
)
from forecaster.inference.forecasting import Forecaster, ForecastInputs
from forecaster.registry.bands import bands
from forecaster.registry.cache import CHAMPION
from forecaster.registry.predictor import ArrayPredictor
from service.catalog import Catalog, find_model
from service.histories import History, read_histories
from service.limits import LARGE_BYTES
from service.requests import ForecastRequest
from service.served_model import Model
from service.settings import Settings
from service.timestamps import Clock, End

# bytes of a number or a time in an answer, with quotes and a comma
POINT_BYTES = 26
# requests for more series are large, because each stored series is read from a file
_MAX_SMALL_SERIES = 100


@dataclass(frozen=True)
class Task:
    """A validated request with its histories.

    Args:
        model: the requested model.
        version: the number of the version that forecasts.
        alias: the alias that selected the version; None if its number did.
        forecaster: the version with the request's settings; tasks with the same forecaster are forecast together.
        histories: the history of each series.
    """

    model: Model
    version: int
    alias: str | None
    forecaster: Forecaster
    histories: list[History]


@dataclass(frozen=True)
class TaskResult:
    """A task's answer, and the inputs that are counted for drift.

    Args:
        answer: the answer for the client and the ledger.
        windows: the target's values in each input window, `(n, input_size)`.
        features: the exogenous values in the last row of each window, `(n, hist_exog + futr_exog)`.
    """

    answer: Answer
    windows: Floats
    features: Floats


@dataclass(frozen=True)
class Plan:
    """A validated request before its histories are read.

    Args:
        model: the requested model.
        version: the number of the version that forecasts.
        alias: the alias that selected the version; None if its number did.
        forecaster: the version with the request's settings.
        n_series: number of series.
    """

    model: Model
    version: int
    alias: str | None
    forecaster: Forecaster
    n_series: int

    @property
    def n_points(self) -> int:
        """Return the number of times and numbers in the answer: `ds`, `mean`, the requested columns and paths."""
        return self.n_series * self.forecaster.horizon * self.n_columns

    @property
    def n_columns(self) -> int:
        """Return the number of times and numbers of each step."""
        return 2 + len(self.forecaster.bands.columns) + (self.forecaster.n_samples or 0)

    @property
    def n_bytes(self) -> int:
        """Return the approximate size of the answer in bytes."""
        return self.n_points * POINT_BYTES

    @property
    def is_large(self) -> bool:
        """Return whether forecasting takes so long that other requests must not wait for it."""
        return self.n_bytes > LARGE_BYTES or self.n_series > _MAX_SMALL_SERIES


def plan(request: ForecastRequest, catalog: Catalog, settings: Settings) -> Plan:
    """Validate a request before any memory is allocated for its answer.

    Args:
        request: the request.
        catalog: the served models.
        settings: the limits, and the choice between model and baseline.

    Raises:
        UnknownModel: the model, alias or version is not served.
        RequestError: the request contradicts itself, the model does not support it, or the answer would be too large.
    """
    if request.alias is not None and request.version is not None:
        raise RequestError("alias and version: give one of them, not both")
    requested_bands = bands(
        None if request.level is None else tuple(request.level),
        None if request.quantiles is None else tuple(request.quantiles),
    )
    model = find_model(catalog, request.model)
    version = model.index.version_of(model.name, request.alias, request.version)
    predictor = model.predictors[version]
    horizon = predictor.manifest.horizon if request.horizon is None else request.horizon
    forecaster = model.forecaster(
        version, horizon, requested_bands, settings.without_skill, request.n_samples, request.seed
    )
    alias = None if request.version is not None else CHAMPION if request.alias is None else request.alias
    planned = Plan(model, version, alias, forecaster, len(request.series or request.unique_ids or ()))
    if planned.n_points > settings.max_points:
        raise RequestError(
            f"horizon: {planned.n_series} series of {horizon} steps in {planned.n_columns} columns are "
            f"more than {settings.max_points} points; split them into several requests"
        )
    return planned


def prepare(request: ForecastRequest, planned: Plan, settings: Settings) -> Task:
    """Read a request's histories.

    Args:
        request: the request.
        planned: the result of `plan`.
        settings: the limits, and the bar store.

    Raises:
        RequestError: there are too many series, or both or neither of `series` and `unique_ids` are given.
        DataError: a series is invalid, not stored, or stale.
    """
    forecaster = planned.forecaster
    histories = read_histories(request, forecaster.predictor, forecaster.horizon, settings)
    return Task(planned.model, planned.version, planned.alias, forecaster, histories)


def forecast(tasks: list[Task], miscoverage_rates: Sequence[Mapping[str, Floats]]) -> list[TaskResult]:
    """Return the results of tasks with the same forecaster, in one run of the model.

    Args:
        tasks: at least one task.
        miscoverage_rates: for each task, the adapted miscoverage rates by series, `(steps, levels)`.

    Raises:
        RequestError, SeriesError: a task's forecast is not finite, or its values are invalid.
    """
    forecaster = tasks[0].forecaster
    histories = [history for task in tasks for history in task.histories]
    names = [history.unique_id for history in histories]
    rates = [
        rates_of_task.get(history.unique_id)
        for task, rates_of_task in zip(tasks, miscoverage_rates, strict=True)
        for history in task.histories
    ]
    inputs = _inputs(histories, forecaster.predictor, rates)
    predicted = forecaster.predict(inputs)
    ends = [history.clock.end for history in histories]
    times = forecast_times(ends, tasks[0].model, tasks[0].version, forecaster.horizon)
    described = describe_forecasts(predicted, names, times)
    windows, features = inputs.values[:, :, 0], _features(inputs)
    last_values = last_observed(windows)[:, 0]
    steps, tolerance = scored_steps(predicted, times), matching_tolerance(forecaster)
    results, end = [], 0
    for task in tasks:
        rows = slice(end, end := end + len(task.histories))
        own = None if inputs.static is None else inputs.static[rows]
        warnings = [*forecaster.static_warnings(names[rows], own), *missing_warnings(inputs.values[rows])]
        head = task.model.head(task.version, task.alias, forecaster, warnings)
        answer = Answer(head, described[rows], last_values[rows], steps[rows], tolerance)
        results.append(TaskResult(answer, windows[rows], features[rows]))
    return results


def forecast_times(ends: Sequence[End], model: Model, version: int, horizon: int) -> ForecastTimes:
    """Return the times of the forecasts of series that end at `ends`."""
    upcoming = [model.upcoming(version, end, horizon) for end in ends]
    return ForecastTimes(
        [times.cutoff for times in upcoming],
        [times.ds for times in upcoming],
        np.array([times.instants for times in upcoming]),
    )


def _inputs(histories: list[History], predictor: ArrayPredictor, rates: list[Floats | None]) -> ForecastInputs:
    manifest = predictor.manifest
    has_calendar = bool(manifest.calendar_features)
    futr_exog = [history.futr_exog for history in histories if history.futr_exog is not None]
    static = [history.static for history in histories if history.static is not None]
    return ForecastInputs(
        np.stack([history.values for history in histories]),
        np.stack([_times(history.clock, predictor) for history in histories]) if has_calendar else None,
        np.stack(futr_exog) if futr_exog else None,
        np.stack(static) if static else None,
        unique_ids=[history.unique_id for history in histories],
        miscoverage_rates=rates,
    )


def _times(clock: Clock, predictor: ArrayPredictor) -> Times:
    """Return the times of the input rows, `(input_size,)`, those before the series began too."""
    wall, input_size = clock.wall, predictor.manifest.input_size
    if len(wall) < input_size:
        return np.concatenate([predictor.frequency.before(wall[0], input_size - len(wall)), wall])
    return wall[-input_size:]


def _features(inputs: ForecastInputs) -> Floats:
    last = inputs.values[:, -1, 1:]
    if inputs.futr_exog is None:
        return last
    return np.hstack([last, inputs.futr_exog[:, inputs.values.shape[1] - 1]])
