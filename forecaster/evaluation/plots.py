"""Plots of forecasts and of backtests."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats, Times
from forecaster.evaluation.metrics import by_step, mae

# number of cutoffs in the rolling mean of coverage
_ROLLING_CUTOFFS = 100


def forecast_figure(
    times: Times, actual: Floats, mean: Floats, bands: dict[int, tuple[Floats, Floats]], title: str
) -> Any:
    """Plot the history, the actuals, the forecast with its intervals, and the last value.

    Args:
        times: `(history + horizon,)`.
        actual: the history and the actuals after it, `(history + horizon,)`.
        mean: the forecast, `(horizon,)`.
        bands: by level, the lower and upper bounds, `(horizon,)` each.
        title: the figure's title.
    """
    figure, axes = _figure(9, title)
    history = len(times) - len(mean)
    shown = slice(max(0, history - 4 * len(mean)), None)
    ahead = times[history:]
    for shade, level in zip((0.14, 0.28), sorted(bands, reverse=True), strict=False):
        lower, upper = bands[level]
        axes.fill_between(ahead, lower, upper, color="tab:blue", alpha=shade, linewidth=0, label=f"{level} % interval")
    axes.plot(times[shown], actual[shown], color="black", linewidth=1.2, label="actual")
    axes.plot(ahead, mean, color="tab:blue", marker="o", markersize=3, label="forecast")
    axes.hlines(actual[history - 1], ahead[0], ahead[-1], color="tab:orange", linestyle="--", label="last value")
    axes.axvline(times[history - 1], color="grey", linewidth=0.8)
    axes.legend(loc="upper left", fontsize="small")
    figure.autofmt_xdate()
    return figure


def errors_figure(actual: Floats, forecasts: Mapping[str, Floats], ours: str, title: str) -> Any:
    """Plot the mean absolute error of each step.

    Args:
        actual: actuals, `(n, horizon)`.
        forecasts: by name, `(n, horizon)` each.
        ours: the name drawn as a solid line; the others are dashed.
        title: the figure's title.
    """
    figure, axes = _figure(8, title)
    steps = np.arange(1, actual.shape[1] + 1)
    for name, mean in forecasts.items():
        style, width = ("k-", 2.0) if name == ours else ("--", 1.2)
        axes.plot(steps, by_step(mae, actual, mean), style, linewidth=width, marker="o", markersize=3, label=name)
    axes.set_xlabel("step of the horizon")
    axes.set_ylabel("mean absolute error")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    return figure


def attention_figure(weights: Floats, title: str) -> Any:
    """Plot how much each step of the horizon attends to each step of the window.

    Args:
        weights: `(horizon, steps)`, each row with the sum 1; a step is a row of the window, or a segment of rows.
        title: the figure's title.
    """
    figure, axes = _figure(9, title)
    horizon, steps = weights.shape
    # lag 1 is the last step of the window
    shown = axes.imshow(
        weights,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        extent=(steps + 0.5, 0.5, horizon + 0.5, 0.5),
        interpolation="none",
    )
    axes.set_xlabel("steps before the forecast")
    axes.set_ylabel("step of the horizon")
    figure.colorbar(shown, ax=axes, label="attention")
    return figure


def coverage_figure(
    cutoffs: Times, numbers: NDArray[np.int64], covered: Mapping[int, Mapping[str, Floats]], title: str
) -> Any:
    """Plot rolling coverage and the nominal levels.

    Args:
        cutoffs: `(n_cutoffs,)`, in order.
        numbers: the cutoff of each forecast, `(n,)`.
        covered: by level and kind of interval (static, adaptive), the share of covered steps of each forecast, `(n,)`.
        title: the figure's title.
    """
    figure, axes = _figure(9, title)
    for color, (level, kinds) in zip(("tab:blue", "tab:green", "tab:purple"), covered.items(), strict=False):
        for style, (kind, inside) in zip(("-", ":"), kinds.items(), strict=False):
            times, share = _rolling(cutoffs, numbers, inside)
            axes.plot(times, share, style, color=color, label=f"{level} %, {kind}")
        axes.axhline(level / 100, color=color, linewidth=0.6)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel(f"coverage of the last {_ROLLING_CUTOFFS} cutoffs")
    axes.legend(fontsize="small", loc="lower left")
    figure.autofmt_xdate()
    return figure


def _figure(width: float, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes


def _rolling(cutoffs: Times, numbers: NDArray[np.int64], inside: Floats) -> tuple[Times, Floats]:
    counts = np.bincount(numbers, minlength=len(cutoffs))
    sums = np.bincount(numbers, inside, minlength=len(counts))
    window = min(_ROLLING_CUTOFFS, len(counts))
    kernel = np.ones(window)
    share = np.convolve(sums, kernel, "valid") / np.maximum(np.convolve(counts, kernel, "valid"), 1)
    return cutoffs[window - 1 :], share
