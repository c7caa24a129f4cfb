"""Load a registered model in Python: `load_predictor("sine")`."""

from dataclasses import dataclass
from pathlib import Path

from forecaster.database.uris import default_tracking_uri
from forecaster.domain.errors import BundleError, RequestError, UnknownModel
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import CHAMPION, ModelIndex, bundle_folder, read_indexes
from forecaster.registry.predictor import Predictor
from forecaster.registry.sandbox import limits_from_environment
from forecaster.registry.store import Store
from forecaster.registry.sync import sync_model


@dataclass(frozen=True)
class Version:
    """A loaded version: its number, the alias that it was found by (None if by number), and its MLflow run."""

    predictor: Predictor
    number: int
    alias: str | None
    run_id: str


def load_predictor(
    name: str,
    alias: str | None = None,
    version: int | None = None,
    tracking_uri: str | None = None,
    cache: Path = Path("mlruns/cache"),
) -> Predictor:
    """Return the predictor of a registered version; download it into the cache if needed.

    Args:
        name: the registered model.
        alias: the version's alias; `champion` when neither alias nor version is given.
        version: the version's number, instead of an alias.
        tracking_uri: MLflow's tracking URI. None takes `FORECASTER_TRACKING_URI`, or the local store if that is unset.
            An empty string uses only the cache.
        cache: the folder for verified bundles, which the service may share.

    Raises:
        RequestError: alias and version are both given.
        UnknownModel: there is no such model, alias or version, or the version is neither aliased nor among the newest.
        StoreUnavailable: MLflow does not answer.
        BundleError: the bundle is refused.
    """
    uri = default_tracking_uri() if tracking_uri is None else tracking_uri
    return load_version(name, alias, version, uri, cache).predictor


def load_version(name: str, alias: str | None, version: int | None, tracking_uri: str, cache: Path) -> Version:
    """Return a registered version; takes the arguments of `load_predictor` and raises its errors."""
    if alias is not None and version is not None:
        raise RequestError("alias and version: give one of them, not both")
    index = _synced(name, tracking_uri, cache) if tracking_uri else _cached(name, cache)
    number = index.version_of(name, alias, version)
    found_by = alias or CHAMPION if version is None else None
    try:
        predictor = Predictor(read_bundle(bundle_folder(cache, name, number)))
    except BundleError as error:
        raise BundleError(f"model '{name}' version {number}: {error}") from error
    return Version(predictor, number, found_by, index.runs[number])


def _synced(name: str, tracking_uri: str, cache: Path) -> ModelIndex:
    """Sync the model and return its index; raise BundleError if an alias would point to its previous version."""
    store = Store(tracking_uri)
    model = store.find(name)
    index, problems = sync_model(store, cache, model, limits_from_environment())
    aliases = {alias: version for alias, version in model.aliases.items() if version in model.runs}
    if any(index.aliases.get(alias) != version for alias, version in aliases.items()):
        raise BundleError("; ".join(problems))
    return index


def _cached(name: str, cache: Path) -> ModelIndex:
    indexes = read_indexes(cache)
    if name not in indexes:
        raise UnknownModel(f"there is no model '{name}' in {cache}; it has {sorted(indexes)}")
    return indexes[name]
