"""Check that the preprocessing before a border does not change with the rows after it."""

import hashlib

import numpy as np
import pandas as pd

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import PARTS, Windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.series import Series, Y
from forecaster.training import config as recipe
from forecaster.training import stages
from forecaster.training.config import TrainConfig
from forecaster.training.examples import Examples
from forecaster.training.leakage.perturbation import Rows, perturb, rows_since, series_names, transfer_windows

_BATCH = 256
# of a transformed value, both relative and absolute: rounding differs with the size of a batch
_TOLERANCE = 1e-5


def check_border(
    config: TrainConfig, frame: pd.DataFrame, series: Series, parts: dict[str, Windows], number: int
) -> str:
    """Return a digest of everything that is fitted or transformed before a part begins.

    Args:
        config: the recipe.
        frame: the data.
        series: the prepared series.
        parts: the windows of each part.
        number: the part's position in `PARTS`.

    Raises:
        LeakageError: the digest changes with the values of the later rows, or with their number.
    """
    before = {name: parts[name] for name in PARTS[:number]}
    later = rows_since(config, frame, series, [parts[name] for name in PARTS[number:]])
    changed = perturb(config, frame, later)
    other = recipe.prepare(config, changed, series.static_columns)
    # integers may be drawn again
    _check_prepared_from_frame(series, other, int((changed[Y] != frame[Y]).sum()))
    digest = _digest(config, before)
    whole = recipe.split(config, other)
    if _digest(config, {name: whole[name] for name in before}) != digest:
        raise LeakageError(
            f"changing the rows after the {PARTS[number - 1]} part changes what is fitted or seen before them; a "
            "transform, a window or a column looks ahead"
        )
    shorter = _prepare_until(config, frame, series, ~later, before)
    if (
        _digest(config, {name: transfer_windows(windows, series, shorter) for name, windows in before.items()})
        != digest
    ):
        raise LeakageError(
            f"removing the rows after the {PARTS[number - 1]} part changes what is fitted or seen before them; a "
            "transform or a column looks ahead"
        )
    return digest


def _check_prepared_from_frame(series: Series, other: Series, n_changed: int) -> None:
    """Check that changes of the data reach the prepared series; otherwise no other check would see anything."""
    n_different = int((series.values[:, 0] != other.values[:, 0]).sum())
    if n_different < 0.5 * n_changed:
        raise LeakageError(
            f"{n_changed} rows of the data were changed, but only {n_different} rows of the prepared series: it is not "
            "made from the data, so the audit cannot see what it depends on"
        )


def _prepare_until(
    config: TrainConfig, frame: pd.DataFrame, series: Series, rows: Rows, before: dict[str, Windows]
) -> Series:
    """Prepare the selected rows of the series that occur in the parts."""
    owners = np.unique(np.concatenate([windows.owners for windows in before.values()]))
    kept = rows & np.isin(series_names(frame), np.array(series.unique_ids)[owners])
    # with fewer rows, the frequency may not be inferred
    fixed = config.model_copy(update={"freq": config.freq or series.freq})
    return recipe.prepare(fixed, frame[kept], series.static_columns)


def _digest(config: TrainConfig, parts: dict[str, Windows]) -> str:
    """Return the SHA-256 of the fitted preprocessing and of all arrays that it produces from these parts' windows."""
    preprocessing = stages.fit_preprocessing(config, parts["train"])
    digest = hashlib.sha256(preprocessing.model_dump_json().encode())
    for windows in parts.values():
        examples = Examples(windows, preprocessing, config.model)
        for index in examples.chunks(np.arange(len(examples)), _BATCH):
            inputs, targets = examples.take(index)
            for array in (*inputs, targets):
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_transforms(preprocessing: Preprocessing, windows: Windows) -> None:
    """Raise LeakageError unless each window's transformed values are independent of the other windows in its batch."""
    order = np.random.default_rng(0).permutation(len(windows))
    for begin in range(0, len(windows), _BATCH):
        index = np.sort(order[begin : begin + _BATCH])
        # the same windows in the whole batch and in a part of it
        for subset in (index[: len(index) // 3], index[len(index) // 3 :]):
            whole, part = windows.inputs(index), windows.inputs(subset)
            positions = np.searchsorted(index, subset)
            found, expected = (preprocessing.forward(inputs.feeds)[0] for inputs in (whole, part))
            for name, values in expected.items():
                if not np.allclose(found[name][positions], values, rtol=_TOLERANCE, atol=_TOLERANCE):
                    raise LeakageError(
                        "a window's transformed values change with the other windows of its batch; a transform looks "
                        "across windows"
                    )
