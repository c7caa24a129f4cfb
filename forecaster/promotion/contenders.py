"""The versions that a promotion compares: each with its recipe and its verified bundle."""

from dataclasses import dataclass
from pathlib import Path

from forecaster.domain.config import build_config
from forecaster.domain.errors import BundleError, RegistryError, StoreUnavailable, UnknownModel
from forecaster.domain.yaml_text import parse_yaml
from forecaster.registry.bundle import Bundle, read_bundle
from forecaster.registry.sandbox import check_bundles, limits_from_environment
from forecaster.registry.store import RegisteredModel, Store
from forecaster.training import past_runs
from forecaster.training.config import TrainConfig


@dataclass(frozen=True)
class Contender:
    """A version that is compared: the challenger or the champion.

    Args:
        version: its number.
        config: its recipe.
        bundle: its verified bundle.
        warm: the version whose weights it started from, and the number of epochs; None for random weights.
    """

    version: int
    config: TrainConfig
    bundle: Bundle
    warm: tuple[int, int] | None = None


def find_version(store: Store, name: str, version: int) -> RegisteredModel:
    """Return a model that has a version.

    Raises:
        UnknownModel: there is no such version.
    """
    model = store.find(name)
    if version not in model.runs:
        raise UnknownModel(f"model '{name}' has no version {version}; it has {sorted(model.runs)}")
    return model


def load_champion(store: Store, model: RegisteredModel, version: int, draft: Path) -> Contender:
    """Return the champion.

    Raises:
        RegistryError: it cannot be loaded.
    """
    try:
        return load_contender(store, model, version, draft)
    except (BundleError, StoreUnavailable) as error:
        raise RegistryError(
            f"model '{model.name}': the champion, version {version}, cannot be loaded for a comparison: {error}; if it "
            "is lost, promote a version with --without-gate"
        ) from error


def load_contender(store: Store, model: RegisteredModel, version: int, draft: Path) -> Contender:
    """Return a version with its recipe and its bundle, downloaded into a folder in `draft`."""
    folder = draft / str(version)
    folder.mkdir()
    run_id = model.runs[version]
    tags = past_runs.read_tags(store.uri, run_id)
    warm = None
    if past_runs.WARM_EPOCHS in tags:
        warm = int(tags[past_runs.WARM_FROM]), int(tags[past_runs.WARM_EPOCHS])
    return Contender(version, read_recipe(store, run_id), download_bundle(store, model.name, version, folder), warm)


def download_bundle(store: Store, name: str, version: int, draft: Path) -> Bundle:
    """Download a version's bundle into a folder, and return it if it passes the same trial as in a sync.

    Raises:
        BundleError: it does not pass.
    """
    folder = store.download(name, version, draft)
    (reason,) = check_bundles([folder], limits_from_environment())
    if reason:
        raise BundleError(f"model '{name}' version {version}: {reason}")
    return read_bundle(folder)


def read_recipe(store: Store, run_id: str) -> TrainConfig:
    """Return the recipe that a run has logged, tracked in this store."""
    text = store.read_artifact(run_id, "config.yaml")
    where = f"run {run_id}, config.yaml"
    config = build_config(parse_yaml(text, where), TrainConfig, where)
    # the store may have moved, and the logged URI has no password
    tracking = config.tracking.model_copy(update={"uri": store.uri})
    return config.model_copy(update={"tracking": tracking})
