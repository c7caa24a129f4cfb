"""The forecast handler: a request becomes a task, tasks of one kind are answered together. Knows no HTTP, no frame."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.frequency import Step
from forecaster.domain.series import CUTOFF, DS, MEAN, UNIQUE_ID, Floats
from forecaster.inference.forecasting import answer, forecast_by, is_replaced, tell_skill, warnings_of
from forecaster.ledger.entries import WALL_CLOCK_TOLERANCE
from forecaster.registry.bands import Bands, bands
from forecaster.registry.cache import CHAMPION
from forecaster.registry.predictor import Predictor
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
class Answer:
    """What a request is answered.

    Args:
        model: the model's name.
        version: which version answered.
        head: what the forecasts have in common: `model`, `forecast_by`, `skill`, `warnings`.
        forecasts: each series' `unique_id`, `cutoff`, `ds`, `mean` and bounds.
        windows: the target's values that each started from, `(n, input_size)`.
        features: the exogenous columns' last rows, `(n, hist_exog + futr_exog)`.
        tolerance: how far from a step's time an actual may be and still be of it.
        steps: what each is scored by, `(n, horizon, 6)`, columns as the ledger has them.
    """

    model: str
    version: int
    head: dict[str, Any]
    forecasts: list[dict[str, Any]]
    windows: Floats
    features: Floats
    steps: Floats
    tolerance: int


@dataclass(frozen=True)
class Task:
    """A request that can be answered.

    Args:
        model: the model that is asked.
        version: which of its versions answers.
        alias: by which it was asked for; None where by number.
        horizon: steps.
        wanted: the columns beside the mean.
        histories: what each forecast starts from.
        is_baseline: whether the baseline answers in the model's place.
    """

    model: Model
    version: int
    alias: str | None
    horizon: int
    wanted: Bands
    histories: list[History]
    is_baseline: bool

    @property
    def predictor(self) -> Predictor:
        """Return what answers."""
        return self.model.predictors[self.version]

    @property
    def kind(self) -> Hashable:
        """Return what tasks have in common that can be forecast together."""
        return id(self.predictor), self.horizon, self.wanted, self.is_baseline


class _Coming:
    """The timestamps of a forecast, once for all series that end alike."""

    def __init__(self, clock: Clock, frequency: Step, horizon: int) -> None:
        times = clock.next_times(frequency, horizon)
        self.cutoff, *self.spelt = clock.format(np.concatenate([clock.wall[-1:], times]))
        self.instants = clock.instants(times)


@dataclass(frozen=True)
class Plan:
    """What a request asks for, before its histories are looked at.

    Args:
        model: the model that is asked.
        version: which of its versions answers.
        horizon: steps.
        wanted: the columns beside the mean.
        n_series: how many are forecast.
    """

    model: Model
    version: int
    horizon: int
    wanted: Bands
    n_series: int

    @property
    def n_points(self) -> int:
        """Return how many times and numbers the answer has: `ds`, `mean` and what is wanted beside it."""
        return self.n_series * self.horizon * (2 + len(self.wanted.columns))

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
    predictor.check_horizon(horizon)
    planned = Plan(model, version, horizon, wanted, len(request.series or request.unique_ids or ()))
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
    predictor = planned.model.predictors[planned.version]
    return Task(
        model=planned.model,
        version=planned.version,
        alias=None if request.version is not None else CHAMPION if request.alias is None else request.alias,
        horizon=planned.horizon,
        wanted=planned.wanted,
        histories=read_histories(request, predictor, planned.horizon, settings),
        is_baseline=is_replaced(predictor, settings.without_skill),
    )


def forecast(tasks: list[Task], learnt: Sequence[Mapping[str, Floats]]) -> list[Answer]:
    """Return the answers to tasks of one kind, in one run of the model.

    Args:
        tasks: at least one.
        learnt: for each of them, by series the shares of misses that are allowed now, `(steps, levels)`.

    Raises:
        RequestError, SeriesError: a forecast of one of them is not finite, or cannot be.
    """
    first = tasks[0]
    predictor, horizon, is_baseline = first.predictor, first.horizon, first.is_baseline
    histories = [history for task in tasks for history in task.histories]
    values = np.stack([history.values for history in histories])
    made = answer(
        predictor,
        values,
        None if is_baseline else _known(histories, predictor, horizon),
        horizon,
        first.wanted,
        [
            of_task.get(history.unique_id)
            for task, of_task in zip(tasks, learnt, strict=True)
            for history in task.histories
        ],
        is_baseline,
    )
    clocks = {history.clock.end: history.clock for history in histories}
    comings = {end: _Coming(clock, predictor.frequency, horizon) for end, clock in clocks.items()}
    coming = [comings[history.clock.end] for history in histories]
    forecasts = [
        {
            UNIQUE_ID: history.unique_id,
            CUTOFF: times.cutoff,
            DS: times.spelt,
            "is_adapted": made.is_adapted[row],
            MEAN: made.mean[row].tolist(),
            **{name: _with_nulls(made.spread[row, :, number]) for number, name in enumerate(first.wanted.columns)},
        }
        for row, (history, times) in enumerate(zip(histories, coming, strict=True))
    ]
    windows, features = np.atleast_3d(values)[:, :, 0], _features(histories, values)
    instants = np.stack([one.instants for one in coming])
    steps = np.concatenate([instants[:, :, None], made.mean[:, :, None], made.bounds], axis=2)
    answers, end = [], 0
    for task in tasks:
        rows = slice(end, end := end + len(task.histories))
        answers.append(_answer(task, forecasts[rows], windows[rows], features[rows], steps[rows]))
    return answers


def _features(histories: list[History], values: Floats) -> Floats:
    last = np.atleast_3d(values)[:, -1, 1:]
    sent = [history.futr_exog[values.shape[1] - 1] for history in histories if history.futr_exog is not None]
    return np.hstack([last, np.stack(sent)]) if sent else last


def _answer(task: Task, forecasts: list[dict[str, Any]], windows: Floats, features: Floats, steps: Floats) -> Answer:
    predictor = task.predictor
    name, version = task.model.name, task.version
    return Answer(
        model=name,
        version=version,
        head={
            "model": {"name": name, "version": version, "alias": task.alias, "run_id": task.model.index.runs[version]},
            "forecast_by": forecast_by(predictor, task.is_baseline),
            "skill": tell_skill(predictor.manifest.skill),
            "warnings": warnings_of(predictor, task.horizon, task.is_baseline, has_bands=bool(task.wanted.columns)),
        },
        forecasts=forecasts,
        windows=windows,
        features=features,
        steps=steps,
        tolerance=WALL_CLOCK_TOLERANCE if predictor.frequency.is_wall_clock else 0,
    )


def _known(histories: list[History], predictor: Predictor, horizon: int) -> Floats | None:
    """Return what is known ahead, None where the model takes nothing."""
    manifest = predictor.manifest
    if not manifest.futr_exog and not manifest.calendar_features:
        return None
    times = np.stack([history.clock.wall[-manifest.input_size :] for history in histories])
    sent = [history.futr_exog for history in histories if history.futr_exog is not None]
    return predictor.known_ahead(times, horizon, np.stack(sent) if sent else None)


def _with_nulls(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
