"""The Open Inference Protocol's handler: a request and a catalog in, an answer out; knows no HTTP."""

from dataclasses import dataclass
from typing import Any

from forecaster.domain.errors import RequestError, UnknownModel
from forecaster.domain.manifest import Manifest
from forecaster.domain.series import MEAN
from forecaster.inference.forecasting import forecast_by, is_replaced
from forecaster.registry.predictor import Predictor
from service.catalog import Catalog, Model, find_model
from service.protocol import InferenceRequest, ModelMetadata, TensorMetadata
from service.settings import Settings
from service.tensors import FP64, read_tensors, write_tensors

VALUES, KNOWN = "x", "known"


@dataclass(frozen=True)
class Answer:
    """An answer: its JSON, and the bytes behind it; None where there are none to come."""

    header: dict[str, Any]
    binary: bytes | None


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
    request: InferenceRequest, binary: bytes, catalog: Catalog, name: str, version: str | None, settings: Settings
) -> Answer:
    """Return the answer to `request`, shaped as `InferenceResponse`.

    Args:
        request: the JSON.
        binary: the bytes behind it.
        catalog: what is served.
        name: of the model.
        version: the champion when None.
        settings: the largest batch, and what is served where a model shows no skill.

    Raises:
        UnknownModel: as `find_version` says.
        RequestError: the tensors are not what the model takes, or the horizon is beyond it.
        SeriesError: a value is not above 0 although the model takes logarithms.
    """
    model, number = find_version(catalog, name, version)
    predictor = model.predictors[number]
    horizon = _horizon(request, predictor)
    shapes = _shapes(predictor.manifest, predictor.steps_ahead(horizon))
    arrays = read_tensors(request.inputs, binary, shapes, settings.max_series)
    is_baseline = is_replaced(predictor, settings.without_skill)
    mean = (
        predictor.predict_baseline(arrays[VALUES], horizon)
        if is_baseline
        else predictor.predict_arrays(arrays[VALUES], horizon, arrays.get(KNOWN))
    )
    outputs, behind = write_tensors(request, {MEAN: mean})
    header = {
        "model_name": name,
        "model_version": str(number),
        "parameters": {"forecast_by": forecast_by(predictor, is_baseline)},
        "outputs": outputs,
    }
    return Answer(header if request.id is None else header | {"id": request.id}, behind)


def _horizon(request: InferenceRequest, predictor: Predictor) -> int:
    asked = request.parameters.horizon
    horizon = predictor.manifest.horizon if asked is None else asked
    predictor.check_horizon(horizon)
    return horizon


def _shapes(manifest: Manifest, steps: int) -> dict[str, tuple[int, int]]:
    """Return each input's rows and features for a forecast that needs `steps` known ahead."""
    shapes = {VALUES: (manifest.input_size, 1 + len(manifest.hist_exog))}
    features = len(manifest.futr_exog) + len(manifest.calendar_features)
    return shapes | {KNOWN: (manifest.input_size + steps, features)} if features else shapes
