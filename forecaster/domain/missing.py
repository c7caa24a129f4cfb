"""Missing values, which arrays hold as NaN: never imputed in what a network sees, but carried forward for baselines."""

from typing import Any

import numpy as np

from forecaster.domain.series import Floats


def fill_forward(x: Any) -> Any:
    """Return `(batch, time)`, of any array API, with the last observed value in place of each missing value.

    Values before the first observed value stay missing. The number of operations grows with the logarithm of the
    time, and no shape depends on values, so that the served graph can do it.
    """
    xp, distance = x.__array_namespace__(), 1
    while distance < x.shape[1]:
        earlier = xp.concat([x[:, :distance], x[:, :-distance]], axis=1)
        x = xp.where(xp.isnan(x), earlier, x)
        distance *= 2
    return x


def carried(values: Floats) -> Floats:
    """Return `(n, rows)` without missing values: each gap holds the value before it; at the start, the first value."""
    if not np.isnan(values).any():
        return values
    return np.asarray(fill_forward(fill_forward(values)[:, ::-1])[:, ::-1])


def pad_front(values: Floats, rows: int) -> Floats:
    """Return `(n, rows, columns)`: values `(n, at most rows, columns)` after rows in which all are missing."""
    lacking = rows - values.shape[1]
    return np.pad(values, ((0, 0), (lacking, 0), (0, 0)), constant_values=np.nan) if lacking > 0 else values


def last_observed(values: Floats) -> Floats:
    """Return the last observed value of each row of `(n, rows)`, `(n, 1)`."""
    return carried(values)[:, -1:]


def missing_warnings(values: Floats) -> list[str]:
    """Return a sentence if inputs `(n, input_size, columns)` have missing values; an empty list otherwise."""
    is_missing = np.isnan(values)
    if not is_missing.any():
        return []
    text = f"{is_missing.sum()} of {is_missing.size} values are missing"
    affected = int(is_missing.any(axis=(1, 2)).sum())
    return [text if len(values) == 1 else f"{text}, in {affected} of {len(values)} series"]


def observed_only(actual: Floats, *others: Floats) -> tuple[Floats, ...]:
    """Return arrays `(n, horizon, …)` without the places where the actual `(n, horizon)` is missing.

    If any is missing, the arrays are `(observed, 1, …)`.
    """
    is_observed = ~np.isnan(actual)
    if is_observed.all():
        return (actual, *others)
    return tuple(array[is_observed][:, None] for array in (actual, *others))


def mean_of_observed(values: Floats) -> Floats:
    """Return the mean of the observed values of each row of `(n, horizon)`, `(n,)`; missing where none is observed."""
    is_observed = ~np.isnan(values)
    if is_observed.all():
        return np.asarray(values.mean(axis=1))
    counts = is_observed.sum(axis=1)
    sums = np.where(is_observed, values, 0).sum(axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0))
