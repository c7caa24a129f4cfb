"""A registered model in Python: `load_predictor("sine")`."""

from pathlib import Path

from forecaster.domain.errors import BundleError
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import bundle_folder
from forecaster.registry.predictor import Predictor
from forecaster.registry.store import Store
from forecaster.registry.sync import sync_model


def load_predictor(
    name: str,
    alias: str | None = None,
    version: int | None = None,
    tracking_uri: str = "sqlite:///mlruns/mlflow.db",
    cache: Path = Path("mlruns/cache"),
) -> Predictor:
    """Return the predictor of a registered version, fetched into the cache if it is not there yet.

    Args:
        name: the registered model.
        alias: `champion` when neither alias nor version is given.
        version: instead of an alias.
        tracking_uri: where MLflow is.
        cache: the folder that verified bundles are kept in; the service may share it.

    Raises:
        UnknownModel: there is no such model, alias or version, or the version is neither aliased nor among the newest.
        StoreUnavailable: MLflow does not answer.
        BundleError: a bundle cannot be trusted.
    """
    store = Store(tracking_uri)
    problems: list[str] = []
    found = sync_model(store, cache, store.find(name), problems)
    if name not in found:
        raise BundleError("; ".join(problems))
    return Predictor(read_bundle(bundle_folder(cache, name, found[name].version_of(name, alias, version))))
