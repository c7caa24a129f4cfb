"""The Open Inference Protocol's handler: a request and a catalog in, an answer out; supports no HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forecaster.domain.errors import RequestError, UnknownModel
from forecaster.domain.instants import now_microseconds
from forecaster.domain.manifest import Manifest
from forecaster.domain.series import MEAN, Floats
from forecaster.inference.answers import (
    Answer,
    describe_forecasts,
    describe_version,
    ledger_entry,
    matching_tolerance,
    scored_steps,
)
from forecaster.inference.forecasting import Forecaster, ForecastInputs
from forecaster.ledger.entries import Entry, forecast_id, new_request_id
from forecaster.ledger.running_sums import VersionKey
from forecaster.registry.cache import CHAMPION
from forecaster.registry.predictor import ArrayPredictor
from service.catalog import Catalog, Model, find_model
from service.forecast_queue import RequestContext
from service.forecasting import forecast_times
from service.protocol import InferenceParameters, InferenceRequest, ModelMetadata, TensorMetadata
from service.settings import Settings
from service.tensors import FP64, read_tensors, write_tensors
from service.timestamps import Clock, read_clock

VALUES, KNOWN = "x", "known"


@dataclass(frozen=True)
class InferenceAnswer:
    """An answer.

    Args:
        header: its JSON.
        binary: the bytes behind it; None where there are none to come.
        entry: what the ledger must have before the client sees it; None where the request does not say of when its
            windows are.
    """

    header: dict[str, Any]
    binary: bytes | None
    entry: Entry | None


def find_version(catalog: Catalog, name: str, version: str | None) -> tuple[Model, int]:
    """Return a served model and one of its versions, the champion when None.

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
    """Return a version's tensors.

    Raises:
        UnknownModel: as `find_version` says.
    """
    model, number = find_version(catalog, name, version)
    manifest = model.predictors[number].manifest
    return ModelMetadata(
        name=name,
        versions=[str(one) for one in sorted(model.predictors)],
        platform="onnxruntime_onnx",
        inputs=[
            TensorMetadata(name=tensor, datatype=FP64, shape=[-1, *shape])
            for tensor, shape in _shapes(manifest, manifest.horizon).items()
        ],
        outputs=[TensorMetadata(name=MEAN, datatype=FP64, shape=[-1, manifest.horizon])],
    )


def points(request: InferenceRequest, catalog: Catalog, name: str, version: str | None, settings: Settings) -> int:
    """Return how many numbers the answer to `request` will have, as its shapes say; nothing has been allocated yet.

    Raises:
        UnknownModel: as `find_version` says.
        RequestError: the horizon is beyond what the model answers, or they are too many.
    """
    model, number = find_version(catalog, name, version)
    horizon = _horizon(request, model.predictors[number])
    batch = max((tensor.shape[0] for tensor in request.inputs if tensor.shape), default=0)
    # a batch that is too large by itself is refused in better words
    if min(batch, settings.max_series) * horizon > settings.max_points:
        raise RequestError(
            f"{VALUES}: {batch} windows of {horizon} steps are more than {settings.max_points} points; "
            "ask in several requests"
        )
    return min(batch, settings.max_series) * horizon


def infer(
    request: InferenceRequest,
    binary: bytes,
    catalog: Catalog,
    name: str,
    version: str | None,
    settings: Settings,
    context: RequestContext,
    allowed: Mapping[VersionKey, Mapping[str, Floats]],
) -> InferenceAnswer:
    """Return the answer to `request`, shaped as `InferenceResponse`.

    Args:
        request: the JSON.
        binary: the bytes behind it.
        catalog: what is served.
        name: of the model.
        version: the champion when None.
        settings: the largest batch, and what is served where a model shows no skill.
        context: who asks.
        allowed: what adaptive intervals have learnt.

    Raises:
        UnknownModel: as `find_version` says.
        RequestError: the tensors are not what the model takes, the horizon is beyond it, or the names and cutoffs are
            not one for each window.
        SeriesError: a value is not above 0 although the model takes logarithms.
        CalendarError: a cutoff, or a step after it, lies outside of the exchange's calendar.
    """
    model, number = find_version(catalog, name, version)
    predictor = model.predictors[number]
    forecaster = Forecaster(predictor, _horizon(request, predictor), without_skill=settings.without_skill)
    shapes = _shapes(predictor.manifest, predictor.steps_ahead(forecaster.horizon))
    arrays = read_tensors(request.inputs, binary, shapes, settings.max_series)
    values = arrays[VALUES]
    clocks = _clocks(request.parameters, len(values))
    request_id = new_request_id(now_microseconds())
    names = request.parameters.unique_ids or [forecast_id(request_id, window) for window in range(len(values))]
    shares = allowed.get((context.owner, name, number), {})
    learnt = [shares.get(one) for one in names]
    forecast = forecaster.predict(ForecastInputs(values, known=arrays.get(KNOWN), learnt=learnt))
    parameters = {"forecast_by": forecast.forecast_by}
    entry: Entry | None = None
    if clocks:
        times = forecast_times(clocks, forecaster)
        alias = CHAMPION if version is None else None
        answer = Answer(
            describe_version(forecaster, name, number, alias, model.index.runs[number]),
            describe_forecasts(forecast, names, times),
            values[:, -1, 0],
            scored_steps(forecast, times),
            matching_tolerance(forecaster),
        )
        entry = ledger_entry(answer, client=context.client, owner=context.owner, request_id=request_id)
        parameters["request_id"] = request_id
    outputs, behind = write_tensors(request, {MEAN: forecast.mean})
    header = {"model_name": name, "model_version": str(number), "parameters": parameters, "outputs": outputs}
    return InferenceAnswer(header if request.id is None else header | {"id": request.id}, behind, entry)


def _clocks(parameters: InferenceParameters, batch: int) -> list[Clock]:
    """Return of when each window's last row is, none where the request does not say.

    Raises:
        RequestError: there is not one cutoff, or not one name, for each window.
    """
    cutoffs, names = parameters.cutoffs, parameters.unique_ids
    if cutoffs is None and names is not None:
        raise RequestError(
            "parameters.unique_ids: without cutoffs a forecast cannot enter the ledger; give the time of each window's "
            "last row as cutoffs, or leave out unique_ids"
        )
    for field, given in (("cutoffs", cutoffs), ("unique_ids", names)):
        if given is not None and len(given) != batch:
            raise RequestError(f"parameters.{field}: {len(given)} for {batch} windows; give one for each")
    return [read_clock([cutoff], f"parameters.cutoffs[{row}]") for row, cutoff in enumerate(cutoffs or [])]


def _horizon(request: InferenceRequest, predictor: ArrayPredictor) -> int:
    asked = request.parameters.horizon
    horizon = predictor.manifest.horizon if asked is None else asked
    predictor.check_horizon(horizon)
    return horizon


def _shapes(manifest: Manifest, steps: int) -> dict[str, tuple[int, int]]:
    """Return each input's rows and features for a forecast that needs `steps` known ahead."""
    shapes = {VALUES: (manifest.input_size, 1 + len(manifest.hist_exog))}
    features = len(manifest.futr_exog) + len(manifest.calendar_features)
    return shapes | {KNOWN: (manifest.input_size + steps, features)} if features else shapes
