"""What a fitted network does, as pictures in its run: how it learned, how far back it sees, and what its units follow.

All of it is computed from validation windows. Gradients are those of the served graph, so they need no training
library.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from forecaster.data.windows import Windows
from forecaster.domain.manifest import least_above
from forecaster.domain.missing import carried
from forecaster.domain.series import Floats, Inputs
from forecaster.evaluation.diagnostic_plots import (
    UnitMatch,
    gradient_figure,
    learning_figure,
    tracking_figure,
    units_figure,
)
from forecaster.evaluation.gradients import gradients
from forecaster.models.network import build_encoder
from forecaster.models.trained import TrainedNetwork, network_inputs, predict_batches
from forecaster.training import tracking
from forecaster.training.fit import History

# windows in which units are compared with features, and values whose gradients are measured
_WINDOWS, _VALUES = 64, 1024
# the share of the gradients that counts as all the network sees
_SEEN = 0.9


def log_diagnostics(trained: TrainedNetwork, history: History, validation: Windows, title: str) -> None:
    """Log the pictures, and the rows that the network sees as `validation/rows_seen`."""
    losses = np.array(history.loss), np.array(history.validation_loss), np.array(history.clipped)
    if history.epochs:
        tracking.log_figure(learning_figure(*losses, history.best_epoch, title), "learning-curves.png")
    norms = gradient_norms(trained, sample(validation, max(1, _VALUES // validation.input_size)))
    tracking.log_validation({"rows_seen": rows_seen(norms)})
    tracking.log_figure(gradient_figure(norms, title), "gradient-by-lag.png")
    inputs = sample(validation, _WINDOWS)
    outputs, values = hidden_units(trained, inputs), carried(inputs.target)
    tracking.log_figure(units_figure(values[-1], outputs[-1], title), "hidden-units.png")
    matches = match_units(features(values, outputs.shape[1]), outputs)
    tracking.log_figure(tracking_figure(matches, title), "units-by-feature.png")


def sample(windows: Windows, count: int) -> Inputs:
    """Return the inputs of a few windows from all of a part, the last among them."""
    return windows.inputs(np.unique(np.linspace(0, len(windows) - 1, min(count, len(windows))).astype(np.int64)))


def gradient_norms(trained: TrainedNetwork, inputs: Inputs) -> Floats:
    """Return the norm over the horizon of the forecast's gradient with respect to each row of `y`, `(n, input_size)`.

    A missing value has none: it is NaN.
    """
    chains = (trained.preprocessing.target, *trained.preprocessing.hist)
    above = [least_above([step.kind for step in chain.steps]) for chain in chains]

    def forecast(row: int, windows: Floats) -> Floats:
        others = inputs.take(np.full(len(windows), row))
        return trained.run(Inputs(windows, others.known, others.static).feeds).mean

    found = [gradients(partial(forecast, row), own, above=above) for row, own in enumerate(inputs.values)]
    return np.asarray(np.linalg.norm(np.stack(found)[..., 0], axis=1))


def rows_seen(norms: Floats) -> int:
    """Return the number of latest rows that have 90 % of the gradients, given norms `(n, input_size)`."""
    by_lag = np.nansum(norms, axis=0)[::-1]
    return int(np.searchsorted(np.cumsum(by_lag), _SEEN * by_lag.sum())) + 1


def hidden_units(trained: TrainedNetwork, inputs: Inputs) -> Floats:
    """Return the outputs of the encoder's last layer at each step or segment, `(n, steps, units)`; of one member."""
    encoder = build_encoder(trained.config, trained.shape)
    for layer in encoder.layers:
        if layer.weights:
            layer.set_weights(trained.model.get_layer(layer.name).get_weights())
    prepared, _ = trained.preprocessing.forward(inputs.feeds)
    return np.asarray(predict_batches(encoder, network_inputs(prepared)), dtype=np.float64)


def features(values: Floats, steps: int) -> dict[str, Floats]:
    """Return features of windows at each step, `(n, steps)` each.

    Args:
        values: raw values `(n, rows)`; of a segment, the features are means over its rows.
        steps: the number of steps or segments.
    """
    changes = np.diff(values, axis=1, prepend=values[:, :1])
    counts = np.arange(1, values.shape[1] + 1)
    level = np.cumsum(values, axis=1) / counts
    found = {
        "value": values,
        "change": changes,
        "value minus mean so far": values - level,
        "mean change so far": np.cumsum(np.abs(changes), axis=1) / counts,
        "row of the window": np.broadcast_to(counts.astype(np.float64), values.shape),
    }
    return {name: each.reshape(len(values), steps, -1).mean(axis=2) for name, each in found.items()}


def match_units(of_windows: dict[str, Floats], outputs: Floats) -> list[UnitMatch]:
    """Return the unit that follows each feature best; outputs are `(n, steps, units)`."""
    units = _standardized(outputs.reshape(-1, outputs.shape[2]))
    matches = []
    for name, values in of_windows.items():
        correlations = _standardized(values.reshape(-1, 1))[:, 0] @ units / len(units)
        unit = int(np.argmax(np.abs(correlations)))
        matches.append(UnitMatch(name, unit, float(correlations[unit]), values[-1], outputs[-1, :, unit]))
    return matches


def _standardized(columns: Floats) -> Floats:
    """Return columns with mean 0 and deviation 1; a constant column is 0."""
    centred = columns - columns.mean(axis=0)
    deviation = centred.std(axis=0)
    is_constant: NDArray[np.bool_] = deviation <= 1e-9 * np.abs(columns).max(axis=0, initial=0)
    return np.asarray(np.where(is_constant, 0.0, centred / np.where(is_constant, 1.0, deviation)))
