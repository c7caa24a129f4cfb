"""The dataset of a recipe: the data that it declares, loaded, checked, identified by a digest, and logged."""

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forecaster.database.uris import without_password
from forecaster.domain.series import Series, Y
from forecaster.training import devices, tracking
from forecaster.training.config import TrainConfig, prepare

_log = logging.getLogger("forecaster.training")


@dataclass(frozen=True)
class Dataset:
    """The data of a recipe.

    Args:
        frame: the long frame, as loaded.
        series: its series, with calendar features.
        digest: the SHA-256 of the series' names, times and values.
    """

    frame: pd.DataFrame
    series: Series
    digest: str


def load_dataset(config: TrainConfig) -> Dataset:
    """Load a recipe's data and check them against the recipe.

    Raises:
        ConfigError, DataError: as the data source and `prepare` raise them.
    """
    frame = config.load()
    series = prepare(config, frame)
    return Dataset(frame, series, _digest(series))


def prepare_again(config: TrainConfig, dataset: Dataset) -> Dataset:
    """Return a dataset as another recipe on the same data sees it."""
    series = prepare(config, dataset.frame)
    return Dataset(dataset.frame, series, _digest(series))


def log_inputs(config: TrainConfig, dataset: Dataset, tags: dict[str, str]) -> None:
    """Log the recipe and its dataset to the active run, with `tags` in addition to the recipe's own."""
    model = config.model
    own = {"cell": model.cell, "topology": model.topology, "horizon": str(config.horizon)}
    own["dataset_digest"] = dataset.digest
    if missing := count_missing(config, dataset.series):
        counts = ", ".join(f"{name}: {count}" for name, count in missing.items())
        own["missing_values"] = counts
        _log.warning("%s: missing values are masked (%s)", config.data.location, counts)
    recipe = config.model_dump(mode="json")
    recipe["tracking"]["uri"] = without_password(config.tracking.uri)
    tracking.log_setup(recipe, own | devices.describe() | tags)
    tracking.log_dataset(dataset.frame, config.data.source, dataset.digest, config.data.location)


def count_missing(config: TrainConfig, series: Series) -> dict[str, int]:
    """Return the number of missing values of each column that has any."""
    # those before the series began do not count
    counts = (np.isnan(series.values).sum(axis=0) - config.n_padded * len(series)).tolist()
    names = (Y, *(exog.column for exog in config.hist_exog))
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def _digest(series: Series) -> str:
    digest = hashlib.sha256()
    known = () if series.known is None else (series.known,)
    static = () if series.static is None else (repr(series.static_columns).encode(), series.static)
    rows = series.bounds, series.timestamps, series.values
    for part in ("\0".join(series.unique_ids).encode(), *rows, *known, *static):
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
