"""The handler of the Open Inference Protocol, without HTTP: from a request and a catalog to an answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forecaster.domain.errors import RequestError, UnknownModel
from forecaster.domain.instants import now_microseconds
from forecaster.domain.manifest import Manifest
from forecaster.domain.missing import last_observed, missing_warnings
from forecaster.domain.series import KNOWN, MEAN, STATIC, Floats, X
from forecaster.inference.answers import (
    Answer,
    describe_forecasts,
    ledger_entry,
    matching_tolerance,
    scored_steps,
)
from forecaster.inference.forecasting import Forecaster, ForecastInputs
from forecaster.ledger.entries import Entry, forecast_id, new_request_id
from forecaster.ledger.running_sums import VersionKey
from forecaster.registry.cache import CHAMPION
from forecaster.registry.predictor import ArrayPredictor
from service.catalog import Catalog, find_model
from service.forecast_queue import RequestContext
from service.forecasting import forecast_times
from service.protocol import InferenceParameters, InferenceRequest, ModelMetadata, TensorMetadata
from service.served_model import Model
from service.settings import Settings
from service.tensors import FP64, read_tensors, write_tensors
from service.timestamps import End, clock_of


@dataclass(frozen=True)
class InferenceAnswer:
    """The answer to an inference request.

    Args:
        header: the JSON part.
        binary: the bytes after the JSON; None if all outputs are in the JSON.
        entry: the entry to commit to the ledger before the client receives the answer; None without `cutoffs`.
    """

    header: dict[str, Any]
    binary: bytes | None
    entry: Entry | None


def find_version(catalog: Catalog, name: str, version: str | None) -> tuple[Model, int]:
    """Return a served model and the number of a version; the champion's when `version` is None.

    Raises:
        UnknownModel: the model or the version is not served, or there is no champion.
    """
    model = find_model(catalog, name)
    if version is None:
        return model, model.index.version_of(name, None, None)
    versions = {str(number): number for number in model.predictors}
    if version not in versions:
        raise UnknownModel(f"model '{name}' has no version '{version}'; it has the versions {sorted(model.predictors)}")
    return model, versions[version]


def describe(catalog: Catalog, name: str, version: str | None) -> ModelMetadata:
    """Return the metadata of a version's tensors.

    Raises:
        UnknownModel: as for `find_version`.
    """
    model, number = find_version(catalog, name, version)
    manifest = model.predictors[number].manifest
    return ModelMetadata(
        name=name,
        versions=[str(known) for known in sorted(model.predictors)],
        platform="onnxruntime_onnx",
        inputs=[
            TensorMetadata(name=tensor, datatype=FP64, shape=[-1, *shape])
            for tensor, shape in _shapes(manifest, manifest.horizon).items()
        ],
        outputs=[TensorMetadata(name=MEAN, datatype=FP64, shape=[-1, manifest.horizon])],
    )


def count_points(
    request: InferenceRequest, catalog: Catalog, name: str, version: str | None, settings: Settings
) -> int:
    """Return the number of values in the answer to a request, before any memory is allocated for them.

    Raises:
        UnknownModel: as for `find_version`.
        RequestError: the model does not support the horizon, or the answer would be too large.
    """
    model, number = find_version(catalog, name, version)
    horizon = _horizon(request, model.predictors[number])
    batch = max((tensor.shape[0] for tensor in request.inputs if tensor.shape), default=0)
    # `read_tensors` refuses a batch above max_series, with a clearer message
    n_points = min(batch, settings.max_series) * horizon
    if n_points > settings.max_points:
        raise RequestError(
            f"{X}: {batch} windows of {horizon} steps are more than {settings.max_points} points; "
            "split them into several requests"
        )
    return n_points


def infer(
    request: InferenceRequest,
    binary: bytes,
    catalog: Catalog,
    name: str,
    version: str | None,
    settings: Settings,
    context: RequestContext,
    miscoverage_rates: Mapping[VersionKey, Mapping[str, Floats]],
) -> InferenceAnswer:
    """Return the answer to a request; its header has the fields of `InferenceResponse`.

    Args:
        request: the JSON part of the request.
        binary: the bytes after the JSON.
        catalog: the served models.
        name: the model's name.
        version: the version's number; the champion when None.
        settings: the largest batch, and the choice between model and baseline.
        context: the sender of the request.
        miscoverage_rates: the adapted miscoverage rates, by version and series.

    Raises:
        UnknownModel: as for `find_version`.
        RequestError: the tensors are invalid, the model does not support the horizon, or there is not one cutoff and
            one name for each window.
        SeriesError: a value is not above 0 although the model takes logarithms.
        CalendarError: a cutoff, or a step after it, lies outside the exchange's calendar.
    """
    model, number = find_version(catalog, name, version)
    predictor = model.predictors[number]
    forecaster = Forecaster(predictor, _horizon(request, predictor), without_skill=settings.without_skill)
    shapes = _shapes(predictor.manifest, predictor.manifest.steps_ahead(forecaster.horizon))
    may_miss = {X} if predictor.manifest.is_masked else ()
    arrays = read_tensors(request.inputs, binary, shapes, settings.max_series, may_miss)
    values = arrays[X]
    ends = _cutoffs(request.parameters, len(values))
    request_id = new_request_id(now_microseconds())
    names = request.parameters.unique_ids or [forecast_id(request_id, window) for window in range(len(values))]
    rates_by_series = miscoverage_rates.get((context.owner, name, number), {})
    rates = [rates_by_series.get(unique_id) for unique_id in names]
    forecast = forecaster.predict(
        ForecastInputs(values, known=arrays.get(KNOWN), static=arrays.get(STATIC), miscoverage_rates=rates)
    )
    unknown = forecaster.static_warnings(names, arrays.get(STATIC))
    warnings = [*forecast.warnings, *unknown, *missing_warnings(values)]
    # the protocol allows no lists as parameters
    parameters = {"forecast_by": forecast.forecast_by} | ({"warnings": json.dumps(warnings)} if warnings else {})
    entry: Entry | None = None
    if ends:
        times = forecast_times(ends, model, number, forecaster.horizon)
        alias = CHAMPION if version is None else None
        answer = Answer(
            model.head(number, alias, forecaster),
            describe_forecasts(forecast, names, times),
            last_observed(values[:, :, 0])[:, 0],
            scored_steps(forecast, times),
            matching_tolerance(forecaster),
        )
        entry = ledger_entry(answer, client=context.client, owner=context.owner, request_id=request_id)
        parameters["request_id"] = request_id
    outputs, output_bytes = write_tensors(request, {MEAN: forecast.mean})
    header = {"model_name": name, "model_version": str(number), "parameters": parameters, "outputs": outputs}
    return InferenceAnswer(header if request.id is None else header | {"id": request.id}, output_bytes, entry)


def _cutoffs(parameters: InferenceParameters, batch: int) -> list[End]:
    """Return the last timestamp of each window; empty if the request has no cutoffs.

    Raises:
        RequestError: there is not one cutoff and one name for each window, or there are names without cutoffs.
    """
    cutoffs, names = parameters.cutoffs, parameters.unique_ids
    if cutoffs is None and names is not None:
        raise RequestError(
            "parameters.unique_ids: needs cutoffs too, without which no forecast enters the ledger; send the time of "
            "each window's last row as cutoffs, or leave out unique_ids"
        )
    for field, given in (("cutoffs", cutoffs), ("unique_ids", names)):
        if given is not None and len(given) != batch:
            raise RequestError(f"parameters.{field}: needs {batch} entries, one for each window, but has {len(given)}")
    return [clock_of([cutoff]).end for cutoff in cutoffs or []]


def _horizon(request: InferenceRequest, predictor: ArrayPredictor) -> int:
    requested = request.parameters.horizon
    horizon = predictor.manifest.horizon if requested is None else requested
    predictor.checks.check_horizon(horizon)
    return horizon


def _shapes(manifest: Manifest, steps: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input without the batch axis, if known columns must cover `steps` forecast steps."""
    shapes = manifest.shapes
    return shapes | ({KNOWN: (manifest.input_size + steps, shapes[KNOWN][1])} if KNOWN in shapes else {})
