"""Planted leaks in the data preparation: each changes one stage of a training, as a mistake in its code would."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.data import calendar_features
from forecaster.data.preprocessing import Preprocessing
from forecaster.data.transforms import MeanStd, Standardize
from forecaster.data.windows import Windows
from forecaster.domain.series import Series
from forecaster.training import config as recipe
from forecaster.training import stages
from forecaster.training.config import TrainConfig

Parts = dict[str, Windows]
# plants a leak
Plant = Callable[[pytest.MonkeyPatch], None]


def split_into(change: Callable[[Parts], Parts]) -> Plant:
    """Return a plant that changes the parts of a split."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = recipe.split
        patch.setattr(recipe, "split", lambda *arguments: change(honest(*arguments)))

    return plant


def prepare_as(change: Callable[[Series], Series]) -> Plant:
    """Return a plant that changes the prepared series."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = recipe.prepare
        patch.setattr(recipe, "prepare", lambda *arguments: change(honest(*arguments)))

    return plant


def shuffled(parts: Parts) -> Parts:
    starts = np.concatenate([windows.starts(np.arange(len(windows))) for windows in parts.values()])
    split = np.array_split(np.random.default_rng(0).permutation(starts), len(parts))
    return {
        name: replace(part, first=first, counts=np.ones_like(first), owners=np.zeros_like(first))
        for (name, part), first in zip(parts.items(), split, strict=True)
    }


def overlapping(parts: Parts) -> Parts:
    # the last train window's targets reach into validation
    return parts | {"train": replace(parts["train"], counts=parts["train"].counts + 1)}


def without_last(parts: Parts) -> Parts:
    test = parts["test"]
    return parts | {"test": replace(test, counts=test.counts - 5)}


def targets_at_each_step_are_misaligned(patch: pytest.MonkeyPatch) -> None:
    honest = Windows.targets_each_step
    patch.setattr(Windows, "targets_each_step", lambda windows, index: np.roll(honest(windows, index), 1, axis=2))


def targets_begin_too_early(patch: pytest.MonkeyPatch) -> None:
    def early(windows: Windows, index: np.ndarray | None = None) -> np.ndarray:
        return np.concatenate([windows.inputs(index).values[:, -1:, 0], honest(windows, index)[:, :-1]], axis=1)

    honest = Windows.targets
    patch.setattr(Windows, "targets", early)


def one_window_is_misaligned(patch: pytest.MonkeyPatch) -> None:
    def targets(windows: Windows, index: np.ndarray | None = None) -> np.ndarray:
        found = honest(windows, index).copy()
        found[101:102] = found[101:102, ::-1]
        return found

    honest = Windows.targets
    patch.setattr(Windows, "targets", targets)


def inputs_reach_over_the_cutoff(patch: pytest.MonkeyPatch) -> None:
    honest = Windows.inputs
    patch.setattr(
        Windows,
        "inputs",
        lambda windows, index=None: honest(replace(windows, values=np.roll(windows.values, -1, axis=0)), index),
    )


def covariate_a_row_ahead(series: Series) -> Series:
    values = series.values.copy()
    values[:-1, 1] = values[1:, 1]
    return replace(series, values=values)


def futr_exog_scaled_over_all_rows(series: Series) -> Series:
    assert series.known is not None
    known = series.known.copy()
    known[:, 0] = (known[:, 0] - known[:, 0].mean()) / known[:, 0].std()
    return replace(series, known=known)


def target_is_smoothed_with_the_future(patch: pytest.MonkeyPatch) -> None:
    honest = recipe.prepare
    patch.setattr(
        recipe,
        "prepare",
        lambda config, frame, *columns: honest(
            config, frame.assign(y=frame["y"].rolling(3, center=True, min_periods=1).mean()), *columns
        ),
    )  # fmt: skip


def rows_until_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(
        calendar_features.FEATURES, "hour_of_day", lambda times, step: np.arange(len(times))[::-1] / len(times)
    )


def prepare_is_memoised(patch: pytest.MonkeyPatch) -> None:
    honest, kept = recipe.prepare, []

    def prepare(config: TrainConfig, frame: pd.DataFrame, *columns: Any) -> Series:
        kept.append(honest(config, frame, *columns))
        return kept[0]

    patch.setattr(recipe, "prepare", prepare)


def scaler_sees_all_rows(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_preprocessing
    patch.setattr(stages, "fit_preprocessing", lambda config, windows: honest(config, _all_rows(windows)))


def _all_rows(windows: Windows) -> Windows:
    length = windows.input_size + windows.horizon
    return replace(windows, first=np.zeros(1, int), counts=np.array([len(windows.values) - length + 1]))


def scale_of(part: str) -> Plant:
    """Return a plant that fits the scale of `hist` or `known` columns on all rows."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = stages.fit_preprocessing

        def fit(config: TrainConfig, windows: Windows) -> Preprocessing:
            whole = honest(config, _all_rows(windows))
            return honest(config, windows).model_copy(update={part: getattr(whole, part)})

        patch.setattr(stages, "fit_preprocessing", fit)

    return plant


def window_mean_sees_the_future(patch: pytest.MonkeyPatch) -> None:
    def forward(self: MeanStd, x: Any, is_causal: bool, is_masked: bool = False) -> Any:
        xp = x.__array_namespace__()
        mean = xp.mean(x, axis=1, keepdims=True)
        deviation = xp.sqrt(xp.mean((x - mean) ** 2, axis=1, keepdims=True))
        return (x - mean) / deviation, (mean[..., None] + 0 * x[..., None], deviation[..., None] + 0 * x[..., None])

    patch.setattr(MeanStd, "forward", forward)


def statistics_across_the_batch(patch: pytest.MonkeyPatch) -> None:
    def forward(self: MeanStd, x: Any, is_causal: bool, is_masked: bool = False) -> Any:
        xp = x.__array_namespace__()
        mean = xp.mean(x, keepdims=True)
        deviation = xp.sqrt(xp.mean((x - mean) ** 2, keepdims=True))
        return (x - mean) / deviation, (mean, deviation)

    patch.setattr(MeanStd, "forward", forward)


def order_within_the_batch(patch: pytest.MonkeyPatch) -> None:
    honest = Standardize.forward

    def forward(self: Standardize, x: Any, is_causal: bool, is_masked: bool = False) -> Any:
        z, context = honest(self, x, is_causal)
        xp = x.__array_namespace__()
        # each window sees the next window of its batch
        return z + 0.1 * xp.concat([z[1:, :], z[:1, :]], axis=0), context

    patch.setattr(Standardize, "forward", forward)
