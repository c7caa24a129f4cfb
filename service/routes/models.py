"""The served models, their versions, and the example of each version."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter

from forecaster.inference.forecasting import describe_skill, forecast_warnings
from service.catalog import find_model
from service.dependencies import ModelStoreDep
from service.exceptions import NoExample
from service.problems import responses
from service.responses import ExampleForecast, ExampleOut, ExampleSeries, ModelOut, ModelsOut, SkillOut
from service.served_model import Model

router = APIRouter(prefix="/v1/models", tags=["models"])
# fields of a manifest that the list of models leaves out, to keep it short
_NOT_SHOWN: dict[str, Any] = {"sha256": True, "graphs": True, "example": True, "sessions": {"closed"}}


@router.get("", responses=responses())
async def list_models(model_store: ModelStoreDep) -> ModelsOut:
    """List the served models."""
    return ModelsOut(models=[_describe(model) for model in model_store.catalog.values()])


@router.get("/{name}", responses=responses(404))
async def read_model(name: str, model_store: ModelStoreDep) -> ModelOut:
    """Return a model's aliases and versions."""
    return _describe(find_model(model_store.catalog, name))


@router.get("/{name}/versions/{version}/example", responses=responses(404, 422))
async def read_example(name: str, version: int, model_store: ModelStoreDep) -> ExampleOut:
    """Return the last window of a version's test part, its actuals, and the forecast made without having seen them."""
    model = find_model(model_store.catalog, name)
    number = model.index.version_of(name, None, version)
    predictor = model.predictors[number]
    manifest = predictor.manifest
    example, past = manifest.example, manifest.input_size
    if example is None:
        raise NoExample(f"model '{name}' version {number} has no example: an earlier release trained it")
    return ExampleOut(
        model=name,
        version=number,
        series=ExampleSeries(
            unique_id=example.unique_id,
            ds=list(example.ds[:past]),
            y=list(example.y[:past]),
            hist_exog={column: list(values) for column, values in example.hist_exog.items()},
            futr_exog={column: list(values) for column, values in example.futr_exog.items()},
            stat_exog=example.stat_exog,
        ),
        forecast=ExampleForecast.model_validate(
            {"cutoff": example.ds[past - 1], "ds": list(example.ds[past:]), **example.forecast}
        ),
        actual=list(example.y[past:]),
        is_fitted_on=_wall_clock(manifest.trained_until) >= _wall_clock(example.ds[-1]),
        skill=SkillOut.model_validate(describe_skill(manifest.skill)),
        warnings=forecast_warnings(predictor, manifest.horizon, is_baseline=False, has_bands=True),
    )


def _wall_clock(time: str) -> datetime:
    return datetime.fromisoformat(time).replace(tzinfo=None)


def _describe(model: Model) -> ModelOut:
    versions = {
        version: {
            "run_id": model.index.runs[version],
            **predictor.manifest.model_dump(exclude=_NOT_SHOWN),
            "has_example": predictor.manifest.example is not None,
            "skill": describe_skill(predictor.manifest.skill),
            "intervals": predictor.bundle.calibration.summary(),
        }
        for version, predictor in model.predictors.items()
    }
    return ModelOut(name=model.name, aliases=dict(model.index.aliases), versions=versions)
