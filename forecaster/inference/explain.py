"""What explains a forecast, as columns: gradients of the served graph, and attention weights."""

from forecaster.domain.series import Floats


def gradient_columns(names: tuple[str, ...], found: Floats) -> dict[str, Floats]:
    """Return gradients as columns `gradient-NAME-LAG` with a row for each step, series by series.

    Lag 1 is the last row of the window.

    Args:
        names: the names of the window's columns.
        found: `(n_series, horizon, input_size, len(names))`.
    """
    input_size, rows = found.shape[2], found.reshape(-1, *found.shape[2:])
    lags = range(1, input_size + 1)
    return {
        f"gradient-{name}-{lag}": rows[:, input_size - lag, number] for number, name in enumerate(names) for lag in lags
    }


def attention_columns(weights: Floats) -> dict[str, Floats]:
    """Return attention weights `(n_series, horizon, steps)` as columns `attention-LAG`, as `gradient_columns` does."""
    rows, steps = weights.reshape(-1, weights.shape[2]), weights.shape[2]
    return {f"attention-{lag}": rows[:, steps - lag] for lag in range(1, steps + 1)}
