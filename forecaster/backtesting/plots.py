"""Pictures of a backtest: where the errors are, and whether the intervals keep their promise over time."""

from typing import Any

import numpy as np

from forecaster.backtesting.backtest import MODEL, Backtest
from forecaster.domain.series import Floats, Times
from forecaster.evaluation.metrics import by_step, mae

# cutoffs that a rolling coverage looks back on
_LOOK_BACK = 100


def errors_figure(result: Backtest, title: str) -> Any:
    """Return a figure of the mean absolute error by step of the horizon, the recipe's and the baselines'."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = np.arange(1, result.actual.shape[1] + 1)
    for name, mean in result.forecasts.items():
        is_ours = name == MODEL
        style, size = ("k-", 2.0) if is_ours else ("--", 1.2)
        axes.plot(steps, by_step(mae, result.actual, mean), style, linewidth=size, marker="o", markersize=3, label=name)
    axes.set_xlabel("step of the horizon")
    axes.set_ylabel("mean absolute error")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.legend(fontsize="small")
    return figure


def coverage_figure(result: Backtest, title: str) -> Any:
    """Return a figure of the share covered over the last cutoffs, static and adaptive, beside what was promised."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for color, level in zip(("tab:blue", "tab:green", "tab:purple"), result.bands, strict=False):
        for bands, style, kind in ((result.static, "-", ""), (result.adaptive, ":", ", adaptive")):
            low, high = bands[level]
            times, share = _rolling(result, ((result.actual >= low) & (result.actual <= high)).mean(axis=1))
            axes.plot(times, share, style, color=color, label=f"{level} %{kind}")
        axes.axhline(level / 100, color=color, linewidth=0.6)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel(f"share covered, last {_LOOK_BACK} cutoffs")
    axes.set_title(title)
    axes.legend(fontsize="small", loc="lower left")
    figure.autofmt_xdate()
    return figure


def _rolling(result: Backtest, inside: Floats) -> tuple[Times, Floats]:
    counts = np.bincount(result.origins.numbers, minlength=len(result.origins.cutoffs))
    sums = np.bincount(result.origins.numbers, inside, minlength=len(counts))
    look_back = min(_LOOK_BACK, len(counts))
    kernel = np.ones(look_back)
    share = np.convolve(sums, kernel, "valid") / np.maximum(np.convolve(counts, kernel, "valid"), 1)
    return result.origins.cutoffs[look_back - 1 :], share
