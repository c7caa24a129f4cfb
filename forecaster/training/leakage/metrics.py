"""Recompute the reported metrics and the chosen epoch's loss from the recipe's forecasts, and compare."""

import numpy as np

from forecaster.data.windows import Windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.missing import last_observed
from forecaster.evaluation.forecasts import Forecasts
from forecaster.models.network import forecast_parameters
from forecaster.models.trained import TrainedNetwork, network_inputs, predict_batches
from forecaster.registry.bundle import window_scale
from forecaster.training.config import TrainConfig
from forecaster.training.residuals import served_bands
from forecaster.training.stages import Evaluation

# tolerances: of a window's scale, as between network and graph; and of a coverage, as for values on an interval's bound
_SCALE_TOLERANCE, _COVERAGE_TOLERANCE = 1e-4, 2e-3


def forecast_held_out(parts: dict[str, Windows], trained: TrainedNetwork) -> dict[str, Forecasts]:
    """Return the network's forecasts of the validation and test parts."""
    return {name: trained.forecast(parts[name]) for name in ("validation", "test")}


def check_metrics(parts: dict[str, Windows], evaluated: Evaluation, forecasts: dict[str, Forecasts]) -> None:
    """Raise LeakageError unless the reported metrics are those of the test and validation parts."""
    test = parts["test"]
    actual, past, mean = test.targets(), test.inputs().target, forecasts["test"].mean
    error, naive = np.nanmean(np.abs(actual - mean)), np.nanmean(np.abs(actual - last_observed(past)))
    unit = float(window_scale(past, mean).mean())
    validation = parts["validation"]
    validation_error = np.nanmean(np.abs(validation.targets() - forecasts["validation"].mean))
    computed = {
        "mae": (error, unit * _SCALE_TOLERANCE),
        "rmse": (np.sqrt(np.nanmean((actual - mean) ** 2)), unit * _SCALE_TOLERANCE),
        "naive-mae": (naive, unit * _SCALE_TOLERANCE),
        "validation-mae": (validation_error, unit * _SCALE_TOLERANCE),
        # if only the naive error is 0, the ratio is infinite and not reported
        "relative_mae": (error / naive if naive else 1.0, unit * _SCALE_TOLERANCE * 2 / naive if naive else 0.0),
    }
    for level, (low, high) in served_bands(evaluated.calibration, test, forecasts["test"]).items():
        is_inside = ((low <= actual) & (actual <= high))[~np.isnan(actual)]
        computed[f"coverage-{level}"] = (is_inside.mean(), _COVERAGE_TOLERANCE)
    for name, (value, tolerance) in computed.items():
        reported = evaluated.metrics.get(name)
        if reported is not None and not abs(reported - value) <= tolerance + 1e-6 * abs(value):
            raise LeakageError(
                f"the metric {name} is reported as {reported:.6g}, but is {value:.6g} computed from the forecasts; "
                "it was measured on other windows or with another network"
            )


def check_stopping(config: TrainConfig, validation: Windows, evaluated: Evaluation) -> None:
    """Raise LeakageError unless the network comes from the epoch with the lowest validation loss.

    Args:
        config: the recipe.
        validation: the validation part.
        evaluated: the recipe's evaluation.
    """
    if config.fit.epochs == 0 and evaluated.history.epochs == 0:
        # the network is left out, so no epoch was chosen
        return
    losses, best = np.array(evaluated.history.validation_loss), evaluated.history.best_epoch
    if not len(losses) or losses[best] > losses.min():
        raise LeakageError("the chosen epoch does not have the lowest validation loss; something else chose it")
    epochs, patience = len(losses), config.fit.patience
    if epochs != config.fit.epochs and epochs - 1 - best < patience:
        raise LeakageError(
            f"the fit ended after {epochs} epochs: not after all {config.fit.epochs}, nor after {patience} without a "
            "better validation loss; something else stopped it"
        )
    loss = _loss(validation, evaluated.trained)
    # float16 rounds to three digits
    tolerance = 0.05 if config.fit.mixed_precision else 1e-3
    if not np.isclose(loss, losses[best], rtol=tolerance, atol=1e-6):
        raise LeakageError(
            f"the network's loss on the validation part is {loss:.6g}, but the chosen epoch reported "
            f"{losses[best]:.6g}; the epoch was stopped or chosen on other windows"
        )


def _loss(windows: Windows, trained: TrainedNetwork) -> float:
    """Return the head's loss of the network's forecasts of windows, in the transformed space."""
    import keras

    prepared, contexts = trained.preprocessing.forward(windows.inputs().feeds)
    parameters = forecast_parameters(trained.config, predict_batches(trained.model, network_inputs(prepared)))
    target = trained.preprocessing.target
    actual = target.targets(windows.targets(), target.last_contexts(contexts)).astype(np.float32)
    is_missing = np.isnan(actual)
    errors = keras.ops.convert_to_numpy(trained.config.head.losses(np.where(is_missing, 0, actual), parameters))
    observed = np.where(is_missing, 0, errors).sum(axis=1) / np.maximum((~is_missing).sum(axis=1), 1)
    return float(np.mean(observed))
