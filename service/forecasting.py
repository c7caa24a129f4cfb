"""The forecast handler: a request becomes a task, tasks of one forecaster are answered together; supports no HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.series import Floats
from forecaster.inference.answers import (
    Answer,
    ForecastTimes,
    describe_forecasts,
    describe_version,
    matching_tolerance,
    scored_steps,
)
from forecaster.inference.forecasting import Forecaster, ForecastInputs
from forecaster.registry.bands import bands
from forecaster.registry.cache import CHAMPION
from forecaster.registry.predictor import ArrayPredictor
from service.catalog import Catalog, Model, find_model
from service.histories import History, read_histories
from service.limits import LARGE_BYTES
from service.schemas import ForecastRequest
from service.settings import Settings
from service.timestamps import Clock

# of a number or a time in an answer, with quotes and a comma
POINT_BYTES = 26
# each is a file to read where it is stored
_FEW_SERIES = 100


@dataclass(frozen=True)
class Task:
    """A request that can be answered.

    Args:
        model: the model that is asked.
        version: which of its versions answers.
        alias: by which it was asked for; None where by number.
        forecaster: that version, and what is asked of it; tasks of one forecaster are forecast together.
        histories: what each forecast starts from.
    """

    model: Model
    version: int
    alias: str | None
    forecaster: Forecaster
    histories: list[History]


@dataclass(frozen=True)
class TaskResult:
    """A task's answer, and what input drift is measured by.

    Args:
        answer: what the client gets and the ledger has.
        windows: the target's values that each forecast started from, `(n, input_size)`.
        features: the exogenous columns' last rows, `(n, hist_exog + futr_exog)`.
    """

    answer: Answer
    windows: Floats
    features: Floats


@dataclass(frozen=True)
class Plan:
    """What a request asks for, before its histories are looked at.

    Args:
        model: the model that is asked.
        version: which of its versions answers.
        forecaster: that version, and what is asked of it.
        n_series: how many are forecast.
    """

    model: Model
    version: int
    forecaster: Forecaster
    n_series: int

    @property
    def n_points(self) -> int:
        """Return how many times and numbers the answer has: `ds`, `mean` and what is wanted beside it."""
        return self.n_series * self.forecaster.horizon * (2 + len(self.forecaster.wanted.columns))

    @property
    def n_bytes(self) -> int:
        """Return about how long the answer is."""
        return self.n_points * POINT_BYTES

    @property
    def is_large(self) -> bool:
        """Say whether the answer takes so long to make that others should not wait for it."""
        return self.n_bytes > LARGE_BYTES or self.n_series > _FEW_SERIES


def plan(request: ForecastRequest, catalog: Catalog, settings: Settings) -> Plan:
    """Return what a request asks for, checked; nothing of its answer's size has been allocated yet.

    Args:
        request: what is asked.
        catalog: the models.
        settings: the limits, among others.

    Raises:
        UnknownModel: the model, alias or version is not served.
        RequestError: the request contradicts itself, goes beyond what the model answers, or has too large an answer.
    """
    if request.alias is not None and request.version is not None:
        raise RequestError("alias and version: give one of them, not both")
    wanted = bands(
        None if request.level is None else tuple(request.level),
        None if request.quantiles is None else tuple(request.quantiles),
    )
    model = find_model(catalog, request.model)
    version = model.index.version_of(model.name, request.alias, request.version)
    predictor = model.predictors[version]
    horizon = predictor.manifest.horizon if request.horizon is None else request.horizon
    forecaster = Forecaster(predictor, horizon, wanted, settings.without_skill)
    planned = Plan(model, version, forecaster, len(request.series or request.unique_ids or ()))
    if planned.n_points > settings.max_points:
        raise RequestError(
            f"horizon: {planned.n_series} series of {horizon} steps are more than {settings.max_points} points, "
            f"in {2 + len(wanted.columns)} columns; ask in several requests"
        )
    return planned


def prepare(request: ForecastRequest, catalog: Catalog, settings: Settings) -> Task:
    """Return a request as a task, checked.

    Args:
        request: what is asked.
        catalog: the models.
        settings: the limits, among others.

    Raises:
        UnknownModel, RequestError: as `plan` says.
        DataError: a series breaks a rule, is not stored, or is stale.
    """
    planned = plan(request, catalog, settings)
    forecaster = planned.forecaster
    return Task(
        model=planned.model,
        version=planned.version,
        alias=None if request.version is not None else CHAMPION if request.alias is None else request.alias,
        forecaster=forecaster,
        histories=read_histories(request, forecaster.predictor, forecaster.horizon, settings),
    )


def forecast(tasks: list[Task], learnt: Sequence[Mapping[str, Floats]]) -> list[TaskResult]:
    """Return the answers to tasks of one forecaster, in one run of the model.

    Args:
        tasks: at least one.
        learnt: for each of them, by series the shares of misses that are allowed now, `(steps, levels)`.

    Raises:
        RequestError, SeriesError: a forecast of one of them is not finite, or cannot be.
    """
    forecaster = tasks[0].forecaster
    histories = [history for task in tasks for history in task.histories]
    shares = [
        of_task.get(history.unique_id)
        for task, of_task in zip(tasks, learnt, strict=True)
        for history in task.histories
    ]
    inputs = _inputs(histories, forecaster.predictor, shares)
    made = forecaster.predict(inputs)
    times = forecast_times([history.clock for history in histories], forecaster)
    described = describe_forecasts(made, [history.unique_id for history in histories], times)
    windows, features = inputs.values[:, :, 0], _features(inputs)
    steps, tolerance = scored_steps(made, times), matching_tolerance(forecaster)
    answers, end = [], 0
    for task in tasks:
        rows = slice(end, end := end + len(task.histories))
        run_id = task.model.index.runs[task.version]
        head = describe_version(forecaster, task.model.name, task.version, task.alias, run_id)
        answer = Answer(head, described[rows], windows[rows, -1], steps[rows], tolerance)
        answers.append(TaskResult(answer, windows[rows], features[rows]))
    return answers


def forecast_times(clocks: Sequence[Clock], forecaster: Forecaster) -> ForecastTimes:
    """Return when forecasts that follow these clocks are of, made once for all clocks that end alike."""
    frequency, horizon = forecaster.predictor.frequency, forecaster.horizon
    coming = {clock.end: (clock, clock.next_times(frequency, horizon)) for clock in clocks}
    spelt = {end: clock.format(np.concatenate([clock.wall[-1:], times])) for end, (clock, times) in coming.items()}
    instants = {end: clock.instants(times) for end, (clock, times) in coming.items()}
    ends = [clock.end for clock in clocks]
    return ForecastTimes(
        [spelt[end][0] for end in ends],
        [spelt[end][1:] for end in ends],
        np.stack([instants[end] for end in ends]),
    )


def _inputs(histories: list[History], predictor: ArrayPredictor, learnt: list[Floats | None]) -> ForecastInputs:
    manifest = predictor.manifest
    has_calendar = bool(manifest.calendar_features)
    sent = [history.futr_exog for history in histories if history.futr_exog is not None]
    return ForecastInputs(
        np.stack([history.values for history in histories]),
        np.stack([one.clock.wall[-manifest.input_size :] for one in histories]) if has_calendar else None,
        np.stack(sent) if sent else None,
        learnt=learnt,
    )


def _features(inputs: ForecastInputs) -> Floats:
    last = inputs.values[:, -1, 1:]
    if inputs.futr_exog is None:
        return last
    return np.hstack([last, inputs.futr_exog[:, inputs.values.shape[1] - 1]])
