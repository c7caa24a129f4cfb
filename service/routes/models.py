"""The served models and their versions."""

from fastapi import APIRouter

from forecaster.inference.forecasting import tell_skill
from service.catalog import Model, find_model
from service.dependencies import ModelStoreDep
from service.problems import responses
from service.schemas import ModelOut, ModelsOut

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=responses())
async def list_models(model_store: ModelStoreDep) -> ModelsOut:
    """List the served models."""
    return ModelsOut(models=[_describe(model) for model in model_store.catalog.values()])


@router.get("/{name}", responses=responses(404))
async def read_model(name: str, model_store: ModelStoreDep) -> ModelOut:
    """Return a model's aliases and versions."""
    return _describe(find_model(model_store.catalog, name))


def _describe(model: Model) -> ModelOut:
    versions = {
        version: {
            "run_id": model.index.runs[version],
            **predictor.manifest.model_dump(exclude={"sha256": True, "graphs": True, "sessions": {"closed"}}),
            "skill": tell_skill(predictor.manifest.skill),
            "intervals": predictor.bundle.calibration.summary(),
        }
        for version, predictor in model.predictors.items()
    }
    return ModelOut(name=model.name, aliases=dict(model.index.aliases), versions=versions)
