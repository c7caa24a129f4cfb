"""Moments of windows `(batch, time)`, in the array API: the same code runs on numpy and traces into the served graph.

A deviation is above 0 also where a window is constant, so that it can divide.
"""

from typing import Any

import numpy as np

# any array with the array API
Array = Any


def moments(x: Array) -> tuple[Array, Array]:
    """Return the mean and the deviation of each window, `(batch, 1)` each."""
    xp = x.__array_namespace__()
    mean = xp.mean(x, axis=1, keepdims=True)
    variance = xp.mean((x - mean) ** 2, axis=1, keepdims=True)
    return mean, _positive(xp, xp.sqrt(variance), mean)


def running_moments(x: Array) -> tuple[Array, Array]:
    """Return the mean and the deviation of the values up to each step, `(batch, time)` each."""
    xp = x.__array_namespace__()
    # relative to the first value, because far from 0 the difference of squares loses precision
    first = x[:, :1]
    counts = np.arange(1, x.shape[1] + 1, dtype=np.float64)[None, :]
    mean = xp.cumulative_sum(x - first, axis=1) / xp.asarray(counts)
    squares = xp.cumulative_sum((x - first) ** 2, axis=1) / xp.asarray(counts)
    variance = squares - mean**2
    return mean + first, _positive(xp, xp.sqrt(xp.where(variance > 0, variance, xp.zeros_like(variance))), mean + first)


def first_observed(x: Array) -> Array:
    """Return the first observed value of each window, `(batch, 1)`; 0 if it has none."""
    xp = x.__array_namespace__()
    zeros = xp.zeros_like(x)
    seen = xp.cumulative_sum(xp.where(xp.isnan(x), zeros, zeros + 1), axis=1)
    # missing values after the first observed value are as many, but not observed
    is_first = xp.where(xp.isnan(x), zeros, xp.where(seen > 1.5, zeros, zeros + 1))
    return xp.sum(xp.where(is_first > 0.5, x, zeros), axis=1, keepdims=True)


def observed_moments(x: Array) -> tuple[Array, Array]:
    """Return the moments of each window's observed values, not a number if there are none."""
    xp = x.__array_namespace__()
    zeros = xp.zeros_like(x)
    count = _at_least_one(xp.sum(xp.where(xp.isnan(x), zeros, zeros + 1), axis=1, keepdims=True))
    mean = xp.sum(xp.where(xp.isnan(x), zeros, x), axis=1, keepdims=True) / count
    variance = xp.sum(xp.where(xp.isnan(x), zeros, (x - mean) ** 2), axis=1, keepdims=True) / count
    return mean, _positive(xp, xp.sqrt(variance), mean)


def observed_running_moments(x: Array) -> tuple[Array, Array]:
    """Return the moments of the observed values up to each step, not a number before the first."""
    xp, first = x.__array_namespace__(), first_observed(x)
    zeros = xp.zeros_like(x)
    count = _at_least_one(xp.cumulative_sum(xp.where(xp.isnan(x), zeros, zeros + 1), axis=1))
    # relative to the first value, for precision
    centred = xp.where(xp.isnan(x), zeros, x - first)
    mean = xp.cumulative_sum(centred, axis=1) / count
    variance = xp.cumulative_sum(centred**2, axis=1) / count - mean**2
    return mean + first, _positive(xp, xp.sqrt(xp.where(variance > 0, variance, zeros)), mean + first)


def _at_least_one(count: Array) -> Array:
    """Return counts, and not a number in place of 0: nothing can be divided by it."""
    xp = count.__array_namespace__()
    return xp.where(count > 0.5, count, xp.zeros_like(count) + float("nan"))


def _positive(xp: Any, deviation: Array, mean: Array) -> Array:
    """Replace the deviation of a constant window by its level, or by 1, since a tiny divisor would overflow float32."""
    level = xp.abs(mean)
    usable = xp.where(level > 0, level, xp.ones_like(level))
    return xp.where(deviation > level * 1e-9, deviation, usable)
