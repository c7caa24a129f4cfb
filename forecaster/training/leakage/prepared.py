"""What is prepared: nothing that is fitted or transformed before a border may change with what comes after it."""

import hashlib

import numpy as np
import pandas as pd

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import PARTS, Windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.series import Series
from forecaster.models.topologies import TOPOLOGIES
from forecaster.training import config as recipe
from forecaster.training import stages
from forecaster.training.config import TrainConfig
from forecaster.training.fit import Examples
from forecaster.training.leakage.changes import Rows, carried_over, changed, names_of, since

_BATCH = 256
# of a transformed value, relative to its size or to 1: rounding differs with the size of a batch
_TOLERANCE = 1e-5


def check_border(
    config: TrainConfig, frame: pd.DataFrame, series: Series, parts: dict[str, Windows], number: int
) -> str:
    """Return the digest of all that is fitted or transformed before a part begins, whatever that part holds.

    Args:
        config: the recipe.
        frame: the data.
        series: as prepared.
        parts: as split.
        number: of the part, in `PARTS`.

    Raises:
        LeakageError: it changes with the values from the border on, or with how many rows there are.
    """
    before = {name: parts[name] for name in PARTS[:number]}
    later = since(config, frame, series, [parts[name] for name in PARTS[number:]])
    other = recipe.prepare(config, changed(config, frame, later))
    _check_prepared_anew(series, other, later.sum())
    digest = _digest(config, before)
    whole = recipe.split(config, other)
    if _digest(config, {name: whole[name] for name in before}) != digest:
        raise LeakageError(
            f"what comes after the {PARTS[number - 1]} part changes what is fitted or seen before it; a transform, a "
            "window or a column looks ahead"
        )
    shorter = _prepare_until(config, frame, series, ~later, before)
    if _digest(config, {name: carried_over(windows, series, shorter) for name, windows in before.items()}) != digest:
        raise LeakageError(
            f"how many rows come after the {PARTS[number - 1]} part changes what is fitted or seen before it; a "
            "transform or a column looks ahead"
        )
    return digest


def _check_prepared_anew(series: Series, other: Series, n_changed: int) -> None:
    """Most changed rows must come out changed: else nothing that follows would be seen."""
    n_different = int((series.values[:, 0] != other.values[:, 0]).sum())
    if n_different < 0.5 * n_changed:
        raise LeakageError(
            f"{n_changed} rows of the data were changed and {n_different} of the prepared series: it is not made from "
            "the data that are given, and an audit cannot see what it depends on"
        )


def _prepare_until(
    config: TrainConfig, frame: pd.DataFrame, series: Series, rows: Rows, before: dict[str, Windows]
) -> Series:
    """Prepare some rows of the series that the parts hold."""
    owners = np.unique(np.concatenate([windows.owners for windows in before.values()]))
    kept = rows & np.isin(names_of(frame), np.array(series.unique_ids)[owners])
    # what fewer rows would tell of their frequency is not asked
    return recipe.prepare(config.model_copy(update={"freq": config.freq or series.freq}), frame[kept])


def _digest(config: TrainConfig, parts: dict[str, Windows]) -> str:
    """Return the SHA-256 of the fitted preprocessing and of every array that it makes of these parts' windows."""
    preprocessing = stages.fit_preprocessing(config, parts["train"])
    digest = hashlib.sha256(preprocessing.model_dump_json().encode())
    for windows in parts.values():
        examples = Examples(windows, preprocessing, TOPOLOGIES[config.model.topology])
        for index in examples.chunks(np.arange(len(examples)), _BATCH):
            inputs, targets = examples.take(index)
            for array in (*inputs, targets):
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_transforms(preprocessing: Preprocessing, windows: Windows) -> None:
    """Raise LeakageError unless each window is transformed alike whichever windows it comes with."""
    order = np.random.default_rng(0).permutation(len(windows))
    for begin in range(0, len(windows), _BATCH):
        index = np.sort(order[begin : begin + _BATCH])
        # the same windows among others, and in fewer
        for some in (index[: len(index) // 3], index[len(index) // 3 :]):
            together, apart = windows.inputs(index), windows.inputs(some)
            places = np.searchsorted(index, some)
            all_of_them = preprocessing.forward(together.values, together.known)[0]
            for one, other in zip(all_of_them, preprocessing.forward(apart.values, apart.known)[0], strict=True):
                if not np.allclose(one[places], other, rtol=_TOLERANCE, atol=_TOLERANCE):
                    raise LeakageError(
                        "a window is transformed otherwise among other windows; a transform looks across"
                    )
