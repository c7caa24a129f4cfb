"""A warm start: weights that a network is fitted from, in place of random weights."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecaster.domain.errors import TrainingError
from forecaster.domain.manifest import MANIFEST, Manifest
from forecaster.domain.static import StaticColumns
from forecaster.models.names import SKIP
from forecaster.models.network import ModelConfig
from forecaster.training import past_runs

# settings that may differ from those of the saved network
_WITHOUT_WEIGHTS = {"dropout", "recurrent_dropout", "loss"}


@dataclass(frozen=True)
class WarmStart:
    """The weights that a served network starts from.

    Args:
        model: a bundle's Keras file, which holds the weights.
        version: the version that the bundle belongs to.
        epochs: how many epochs the served network is fitted for.
    """

    model: Path
    version: int
    epochs: int

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of a run that uses this warm start."""
        return {past_runs.WARM_FROM: str(self.version), past_runs.WARM_EPOCHS: str(self.epochs)}


def load_weights(model: Any, config: ModelConfig, columns: StaticColumns, file: Path) -> None:
    """Load a bundle's weights into a network.

    Weights of the same shapes can belong to another network: three quantiles have as many as a Student-t distribution.

    Args:
        model: the Keras network.
        config: its configuration.
        columns: the static columns of the data.
        file: the bundle's Keras file.

    Raises:
        TrainingError: the bundle's network is another one, or its embeddings have other names.
    """
    saved = Manifest.model_validate_json((file.parent / MANIFEST).read_bytes())
    others, known = _differences(config, saved, file), saved.static_columns
    if columns.sizes and not _have_same_names(known, columns):
        others.append("series or categories")
    if others:
        raise _refusal(file, f"whose {' and '.join(others)} differ from the recipe's or the data's")
    try:
        model.load_weights(file)
    except (OSError, ValueError) as error:
        raise _refusal(file, f"which have another shape ({str(error).splitlines()[0]})") from error


def _have_same_names(saved: StaticColumns, columns: StaticColumns) -> bool:
    """Return whether embeddings have the same names; the saved ones lack those that the network has not seen."""
    pairs = [(saved.series, columns.series)]
    pairs += [(saved.categories.get(name, ()), names) for name, names in columns.categories.items()]
    return saved.categories.keys() == columns.categories.keys() and all(
        len(known) == len(names) and all(a in (None, b) for a, b in zip(known, names, strict=True))
        for known, names in pairs
    )


def _refusal(file: Path, reason: str) -> TrainingError:
    return TrainingError(f"{file}: a fit cannot start from these weights, {reason}; set retrain.warm_epochs to null")


def _differences(config: ModelConfig, saved: Manifest, file: Path) -> list[str]:
    """Return the parts in which a saved network differs from a configuration."""
    found = [] if saved.cell == config.cell else ["cell"]
    # bundles of earlier releases name no more than the topology
    if saved.encoder is None or saved.decoder is None:
        return found if saved.topology == config.topology else [*found, "decoder"]
    for name, recorded in (("encoder", saved.encoder), ("decoder", saved.decoder), ("head", saved.head)):
        own = getattr(config, name).model_dump(mode="json")
        if any(own[key] != recorded.get(key) for key in own.keys() - _WITHOUT_WEIGHTS):
            found.append(name)
    with zipfile.ZipFile(file) as archive:
        layers = json.loads(archive.read("config.json"))["config"]["layers"]
    if (config.skip == "ridge") != any(layer["config"]["name"] == SKIP for layer in layers):
        found.append("skip")
    return found
