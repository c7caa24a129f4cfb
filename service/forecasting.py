"""The forecast handler: a request and a catalog in, an answer out; knows no HTTP and builds no frame."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.frequency import Step
from forecaster.domain.series import CUTOFF, DS, MEAN, UNIQUE_ID, Floats
from forecaster.ledger.entries import WALL_CLOCK_TOLERANCE
from forecaster.lifecycle.answering import answer, forecast_by, is_replaced, warnings_of
from forecaster.registry.bands import bands
from forecaster.registry.cache import CHAMPION
from forecaster.registry.predictor import Predictor
from service.catalog import Catalog, find_model
from service.histories import History, read_histories
from service.schemas import ForecastRequest
from service.settings import Settings
from service.timestamps import Clock


@dataclass(frozen=True)
class Answer:
    """What a request is answered.

    Args:
        model: the model's name.
        version: which version answered.
        head: what the forecasts have in common: `model`, `forecast_by`, `skill`, `warnings`.
        forecasts: each series' `unique_id`, `cutoff`, `ds`, `mean` and bounds.
        windows: the target's values that each started from, `(n, input_size)`.
        tolerance: how far from a step's time an actual may be and still be of it.
        steps: what each is scored by, `(n, horizon, 6)`, columns as the ledger has them.
    """

    model: str
    version: int
    head: dict[str, Any]
    forecasts: list[dict[str, Any]]
    windows: Floats
    steps: Floats
    tolerance: int


class _Coming:
    """The timestamps of a forecast, once for all series that share a clock."""

    def __init__(self, clock: Clock, frequency: Step, horizon: int) -> None:
        times = clock.coming(frequency, horizon)
        self.cutoff, self.spelt, self.instants = clock.cutoff, clock.spell(times), clock.instants(times)


# by model and version, then by series: the shares of misses that are allowed now, `(steps, levels)`
Allowed = Mapping[tuple[str, int], Mapping[str, Floats]]


def forecast(request: ForecastRequest, catalog: Catalog, settings: Settings, allowed: Allowed) -> Answer:
    """Return the answer to `request`.

    Args:
        request: what is asked.
        catalog: the models.
        settings: the limits, among others.
        allowed: what adaptive intervals have learnt of each series.

    Raises:
        UnknownModel: the model, alias or version is not served.
        DataError: a series breaks a rule, is not stored, or is stale.
        RequestError: the request contradicts itself or goes beyond what the model answers.
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
    n_series = len(request.series or request.unique_ids or ())
    if n_series * horizon > settings.max_points:
        raise RequestError(
            f"horizon: {n_series} series of {horizon} steps are more than {settings.max_points} points; "
            "ask in several requests"
        )
    histories = read_histories(request, predictor, horizon, settings)
    values = np.stack([history.values for history in histories])
    is_baseline = is_replaced(predictor, settings.without_skill)
    made = answer(
        predictor,
        [history.unique_id for history in histories],
        values,
        None if is_baseline else _known(histories, predictor, horizon),
        horizon,
        wanted,
        allowed.get((model.name, version), {}),
        is_baseline,
    )
    distinct = {id(history.clock): history.clock for history in histories}
    clocks = {key: _Coming(clock, predictor.frequency, horizon) for key, clock in distinct.items()}
    coming = [clocks[id(history.clock)] for history in histories]
    instants = np.stack([one.instants for one in coming])
    alias = None if request.version is not None else CHAMPION if request.alias is None else request.alias
    return Answer(
        model=model.name,
        version=version,
        head={
            "model": {"name": model.name, "version": version, "alias": alias, "run_id": model.index.runs[version]},
            "forecast_by": forecast_by(predictor, is_baseline),
            "skill": predictor.manifest.skill.model_dump(),
            "warnings": warnings_of(predictor, horizon, is_baseline, has_bands=bool(wanted.columns)),
        },
        forecasts=[
            {
                UNIQUE_ID: history.unique_id,
                CUTOFF: times.cutoff,
                DS: times.spelt,
                "is_adapted": made.is_adapted[row],
                MEAN: made.mean[row].tolist(),
                **{name: _with_nulls(made.spread[row, :, number]) for number, name in enumerate(wanted.columns)},
            }
            for row, (history, times) in enumerate(zip(histories, coming, strict=True))
        ],
        windows=np.atleast_3d(values)[:, :, 0],
        steps=np.concatenate([instants[:, :, None], made.mean[:, :, None], made.bounds], axis=2),
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
