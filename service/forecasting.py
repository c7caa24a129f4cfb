"""The forecast handler: a request and a catalog in, an answer out; knows no HTTP and builds no frame."""

import math
from typing import Any

import numpy as np

from forecaster.domain.errors import RequestError, SeriesError
from forecaster.domain.series import CUTOFF, DS, MEAN, UNIQUE_ID, Floats
from forecaster.registry.cache import CHAMPION
from forecaster.registry.predictor import Predictor, bands
from service.catalog import Catalog, find_model
from service.schemas import ForecastRequest, SeriesIn
from service.timestamps import Clock, read_clock


def forecast(request: ForecastRequest, catalog: Catalog, max_series: int) -> dict[str, Any]:
    """Return the answer to `request`, shaped as `ForecastResponse`.

    Raises:
        UnknownModel: the model, alias or version is not served.
        SeriesError, TooShortError: a series breaks a rule.
        RequestError: the request contradicts itself or goes beyond what the model answers.
    """
    if request.alias is not None and request.version is not None:
        raise RequestError("alias and version: give one of them, not both")
    if len(request.series) > max_series:
        raise RequestError(f"series: {len(request.series)} are more than {max_series}; ask in several requests")
    wanted = bands(
        None if request.level is None else tuple(request.level),
        None if request.quantiles is None else tuple(request.quantiles),
    )
    model = find_model(catalog, request.model)
    version = model.index.version_of(model.name, request.alias, request.version)
    predictor = model.predictors[version]
    horizon = predictor.manifest.horizon if request.horizon is None else request.horizon
    predictor.check_horizon(horizon)
    _refuse_repeated(request.series)
    clocks, inputs = _read_series(request.series, predictor)
    mean = predictor.predict_arrays(inputs, horizon)
    spread = predictor.quantiles(mean, wanted.probabilities)
    if np.isinf(spread).any():
        raise RequestError("series: values so large have no finite interval; check their size and unit")
    return {
        "model": {
            "name": model.name,
            "version": version,
            "alias": None if request.version is not None else CHAMPION if request.alias is None else request.alias,
            "run_id": model.index.runs[version],
        },
        "forecasts": [
            {
                UNIQUE_ID: series.unique_id,
                CUTOFF: clock.cutoff,
                DS: clock.coming(predictor.frequency, horizon),
                MEAN: mean[row].tolist(),
                **{name: _with_nulls(spread[row, :, number]) for number, name in enumerate(wanted.columns)},
            }
            for row, (series, clock) in enumerate(zip(request.series, clocks, strict=True))
        ],
        "skill": predictor.manifest.skill.model_dump(),
        "warnings": _warnings(predictor, horizon, has_bands=bool(wanted.columns)),
    }


def _read_series(series: list[SeriesIn], predictor: Predictor) -> tuple[list[Clock], Floats]:
    """Return each series' clock, and the last `input_size` values of all, `(n_series, input_size)`."""
    input_size = predictor.manifest.input_size
    clocks, inputs = [], np.empty((len(series), input_size))
    for number, one in enumerate(series):
        where = f"series[{number}] ('{one.unique_id}')"
        if len(one.ds) != len(one.y):
            raise SeriesError(f"{where}: ds has {len(one.ds)} entries and y has {len(one.y)}; give one time per value")
        exogenous = [*one.hist_exog, *one.futr_exog, *one.stat_exog]
        if exogenous:
            raise RequestError(f"{where}: the model takes no exogenous columns, got {exogenous}; leave them out")
        predictor.check_length(len(one.y), f"{where}.y")
        clock = read_clock(one.ds, where)
        clock.check(predictor.frequency, where)
        clocks.append(clock)
        inputs[number] = one.y[-input_size:]
    return clocks, inputs


def _refuse_repeated(series: list[SeriesIn]) -> None:
    seen: dict[str, int] = {}
    for number, one in enumerate(series):
        if one.unique_id in seen:
            raise SeriesError(
                f"series[{number}].unique_id: '{one.unique_id}' is also series[{seen[one.unique_id]}]; rename it"
            )
        seen[one.unique_id] = number


def _with_nulls(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _warnings(predictor: Predictor, horizon: int, *, has_bands: bool) -> list[str]:
    warnings = []
    trained = predictor.manifest.horizon
    if horizon > trained:
        text = f"horizon {horizon} exceeds the trained {trained}: later steps are rolled out on the model's own output"
        warnings.append(text + (" and have no intervals" if has_bands else ""))
    skill = predictor.manifest.skill
    if skill.relative_mae is None or skill.relative_mae >= 1:
        warnings.append(
            f"no demonstrated skill: on its test part the model is no better than the {skill.baseline} baseline"
        )
    return warnings
