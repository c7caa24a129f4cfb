"""Pictures of what a fitted network does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.domain.series import Floats


@dataclass(frozen=True)
class UnitMatch:
    """The hidden unit that follows a feature best.

    Args:
        feature: the feature's name.
        unit: the unit's position.
        correlation: their correlation over all windows and steps.
        values: the feature in the last window, `(steps,)`.
        outputs: the unit's outputs in the last window, `(steps,)`.
    """

    feature: str
    unit: int
    correlation: float
    values: Floats
    outputs: Floats


def learning_figure(losses: Floats, validation: Floats, clipped: Floats, best: int, title: str) -> Any:
    """Plot the losses by epoch, the chosen epoch, and the share of clipped batches.

    Args:
        losses: `(epochs,)`.
        validation: `(epochs,)`.
        clipped: from 0 to 1, `(epochs,)`; empty to leave it out.
        best: the chosen epoch, from 0.
        title: the figure's title.
    """
    figure, panels = _figure(1 + bool(len(clipped)), f"{title}: learning curves")
    epochs = np.arange(1, len(losses) + 1)
    panels[0].plot(epochs, losses, color="black", marker=".", label="train")
    panels[0].plot(epochs, validation, color="tab:blue", marker=".", label="validation")
    panels[0].axvline(best + 1, color="grey", linewidth=0.8, label="chosen epoch")
    panels[0].set_ylabel("loss")
    if min(losses.min(), validation.min()) > 0:
        panels[0].set_yscale("log")
    panels[0].legend(fontsize="small")
    if len(clipped):
        panels[1].bar(epochs, 100 * clipped, color="tab:orange")
        panels[1].set_ylabel("clipped, % of batches")
        panels[1].set_ylim(0, 100)
    panels[-1].set_xlabel("epoch")
    return figure


def gradient_figure(norms: Floats, title: str) -> Any:
    """Plot how much the forecast changes with each row of the window.

    Args:
        norms: the norm of the forecast's gradient, `(n, input_size)`; NaN where a value is missing.
        title: the figure's title.
    """
    figure, (axes,) = _figure(1, f"{title}: gradient of the forecast by lag")
    by_lag = np.where(norms > 0, norms, np.nan)[:, ::-1]
    lags = np.arange(1, norms.shape[1] + 1)
    seen = ~np.isnan(by_lag).all(axis=0)
    low, middle, high = np.nanquantile(by_lag[:, seen], (0.1, 0.5, 0.9), axis=0)
    axes.fill_between(lags[seen], low, high, color="tab:blue", alpha=0.2, linewidth=0, label="80 % of the windows")
    axes.plot(lags[seen], middle, color="tab:blue", label="median window")
    axes.set_yscale("log")
    axes.set_xlabel("rows before the forecast")
    axes.set_ylabel("norm of the gradient over the horizon")
    axes.legend(fontsize="small")
    return figure


def units_figure(values: Floats, outputs: Floats, title: str) -> Any:
    """Plot a window, and below it the outputs of all units at each step.

    Args:
        values: `(rows,)`.
        outputs: `(steps, units)`; a step may be a segment of rows.
        title: the figure's title.
    """
    figure, (above, below) = _figure(2, f"{title}: hidden units in the last validation window")
    rows, units = len(values), outputs.shape[1]
    above.plot(np.arange(1, rows + 1), values, color="black")
    above.set_ylabel("value")
    most = float(np.abs(outputs).max()) or 1.0
    extent = (0.5, rows + 0.5, units - 0.5, -0.5)
    shown = below.imshow(outputs.T, aspect="auto", cmap="RdBu", vmin=-most, vmax=most, extent=extent)
    below.set_ylabel("unit")
    below.set_xlabel("row of the window")
    figure.colorbar(shown, ax=[above, below], label="output")
    return figure


def tracking_figure(matches: Sequence[UnitMatch], title: str) -> Any:
    """Plot each feature in the last window beside the unit that follows it best, both standardized."""
    figure, panels = _figure(len(matches), f"{title}: units that follow a feature best", height=1.7)
    for axes, match in zip(panels, matches, strict=True):
        steps = np.arange(1, len(match.values) + 1)
        sign = "" if match.correlation >= 0 else "minus "
        axes.plot(steps, _scaled(match.values), color="black", label=match.feature)
        axes.plot(
            steps,
            np.copysign(1, match.correlation) * _scaled(match.outputs),
            color="tab:blue",
            linestyle="--",
            label=f"{sign}unit {match.unit}, correlation {match.correlation:.2f}",
        )
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axes.set_yticks([])
    figure.subplots_adjust(left=0.03, right=0.66)
    panels[-1].set_xlabel("step of the last validation window")
    return figure


def _scaled(values: Floats) -> Floats:
    centred = values - values.mean()
    return np.asarray(centred / (np.abs(centred).max() or 1.0))


def _figure(count: int, title: str, height: float = 3.0) -> tuple[Any, Any]:
    """Return a figure and its panels, one below the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, max(4.0, count * height)), dpi=80)
    figure.suptitle(title)
    panels = np.atleast_1d(figure.subplots(count, 1, sharex=True))
    # a layout engine would take longer than all the rest
    figure.subplots_adjust(left=0.13, right=0.97, top=0.92, bottom=0.12, hspace=0.15)
    return figure, panels
