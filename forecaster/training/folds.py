"""Folds of the train and validation rows.

Forward folds fit on the rows before a border and forecast the windows between it and the next border, as in use. Blocks
fit on all rows but those between two borders: each fit has as many rows as the recipe's own.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from forecaster.data.windows import Windows, drop_unobserved, spans_of

# share of the rows before the first border: a network fitted on fewer rows says little about the served one
_FIRST = 0.4


def forward_folds(train: Windows, validation: Windows, count: int) -> Iterator[tuple[Windows, Windows]]:
    """Yield the windows to fit on and the windows to forecast of each fold.

    A border is a time, the same for all series. Windows to fit on end before it, and forecast targets come after it. A
    fold that lacks windows on either side is skipped.

    Args:
        train: the train windows, one stretch of rows per series.
        validation: the windows of the rows that follow.
        count: the number of folds after the first border.
    """
    owners, begins, ends = spans_of(train, validation)
    longest = int(np.argmax(ends - begins))
    shares = _FIRST + (1 - _FIRST) * np.arange(count) / count
    times = train.timestamps[begins[longest] + ((ends - begins)[longest] * shares).astype(np.int64)]
    inner = [
        begin + np.searchsorted(train.timestamps[begin:end], times) for begin, end in zip(begins, ends, strict=True)
    ]
    borders = np.column_stack([np.array(inner), ends])
    for border, after in itertools.pairwise(borders.T):
        fitted = _windows(train, owners, begins, border, train.step_size)
        forecast = _windows(train, owners, np.maximum(begins, border - train.input_size), after, 1)
        if len(fitted.first) and len(forecast.first):
            yield fitted, forecast


def blocks(train: Windows, validation: Windows) -> Iterator[tuple[Windows, Windows]]:
    """Yield the windows to fit on and the windows to forecast of each block, a stretch of rows of all series.

    A block is about as long as the validation part, which is the last. Targets to fit on lie before or after the block.
    For autoregressions, blocks estimate the error as well as forecasts of the future do, from more windows: Bergmeir,
    Hyndman & Koo (2018), doi:10.1016/j.csda.2017.11.003.

    Args:
        train: the train windows, one stretch of rows per series.
        validation: the windows of the rows that follow.
    """
    owners, begins, ends = spans_of(train, validation)
    _, first, last = spans_of(validation)
    longest = int(np.argmax(ends - begins))
    count = max(2, round(float((ends - begins)[longest] / (last - first).max())))
    times = train.timestamps[begins[longest] + (ends - begins)[longest] * np.arange(1, count) // count]
    inner = [
        begin + np.searchsorted(train.timestamps[begin:end], times) for begin, end in zip(begins, ends, strict=True)
    ]
    borders = np.column_stack([begins, np.array(inner).reshape(len(owners), -1), ends])
    for border, after in itertools.pairwise(borders.T):
        earlier = _windows(train, owners, begins, border, train.step_size)
        later = _windows(train, owners, np.maximum(begins, after - train.input_size), ends, train.step_size)
        held_out = _windows(train, owners, np.maximum(begins, border - train.input_size), after, 1)
        fitted = replace(
            earlier,
            first=np.concatenate([earlier.first, later.first]),
            counts=np.concatenate([earlier.counts, later.counts]),
            owners=np.concatenate([earlier.owners, later.owners]),
        )
        if len(fitted.first) and len(held_out.first):
            yield fitted, held_out


def _windows(
    like: Windows,
    owners: NDArray[np.int64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    step_size: int,
) -> Windows:
    counts = (ends - begins - like.input_size - like.horizon) // step_size + 1
    has = counts > 0
    every = replace(like, first=begins[has], counts=counts[has], owners=owners[has], step_size=step_size)
    return drop_unobserved(every)
