"""Pictures of forecasts."""

from typing import Any

from forecaster.domain.series import Floats, Times


def forecast_figure(
    times: Times, actual: Floats, mean: Floats, bands: dict[int, tuple[Floats, Floats]], title: str
) -> Any:
    """Return a figure of history, what came, the forecast with its intervals, and the last value carried on.

    Args:
        times: `(history + horizon,)`.
        actual: `(history + horizon,)`, the history and what came after it.
        mean: `(horizon,)`.
        bands: by level, lower and upper bounds `(horizon,)` each.
        title: the figure's title.
    """
    from matplotlib.figure import Figure

    history = len(times) - len(mean)
    shown = slice(max(0, history - 4 * len(mean)), None)
    ahead = times[history:]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for shade, level in zip((0.14, 0.28), sorted(bands, reverse=True), strict=False):
        lower, upper = bands[level]
        axes.fill_between(ahead, lower, upper, color="tab:blue", alpha=shade, linewidth=0, label=f"{level} % interval")
    axes.plot(times[shown], actual[shown], color="black", linewidth=1.2, label="actual")
    axes.plot(ahead, mean, color="tab:blue", marker="o", markersize=3, label="forecast")
    axes.hlines(actual[history - 1], ahead[0], ahead[-1], color="tab:orange", linestyle="--", label="last value")
    axes.axvline(times[history - 1], color="grey", linewidth=0.8)
    axes.set_title(title)
    axes.legend(loc="upper left", fontsize="small")
    figure.autofmt_xdate()
    return figure
