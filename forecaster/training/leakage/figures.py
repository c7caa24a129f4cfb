"""What a recipe says of itself, computed once more from its forecasts: its figures, and the epoch it chose."""

import numpy as np

from forecaster.data.windows import Windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.series import Floats
from forecaster.registry.bundle import window_scale
from forecaster.training.config import TrainConfig
from forecaster.training.residuals import served_bands
from forecaster.training.stages import Evaluated

# of a window's scale, as between the network and its graph; of a share, a few values on an interval's very bound
_OF_A_SCALE, _OF_A_SHARE = 1e-4, 2e-3


def check_metrics(parts: dict[str, Windows], evaluated: Evaluated) -> None:
    """Raise LeakageError unless the metrics are those of the test part, and of validation where they say so."""
    test = parts["test"]
    actual, past, mean = test.targets(), test.inputs().target, evaluated.trained.forecast(test)
    error, naive = np.abs(actual - mean).mean(), np.abs(actual - past[:, -1:]).mean()
    unit = float(window_scale(past, mean).mean())
    validation = parts["validation"]
    held_out = np.abs(validation.targets() - evaluated.trained.forecast(validation)).mean()
    found = {
        "mae": (error, unit * _OF_A_SCALE),
        "rmse": (np.sqrt(np.mean((actual - mean) ** 2)), unit * _OF_A_SCALE),
        "naive-mae": (naive, unit * _OF_A_SCALE),
        "validation-mae": (held_out, unit * _OF_A_SCALE),
        "relative_mae": (error / naive if naive else np.nan, unit * _OF_A_SCALE * 2 / naive if naive else 0.0),
    }
    for level, (low, high) in served_bands(evaluated.calibration, test, mean).items():
        found[f"coverage-{level}"] = (((low <= actual) & (actual <= high)).mean(), _OF_A_SHARE)
    for name, (value, tolerance) in found.items():
        said = evaluated.metrics.get(name)
        if said is not None and not abs(said - value) <= tolerance + 1e-6 * abs(value):
            raise LeakageError(
                f"the metric {name} is {said:.6g}, but {value:.6g} when computed from the forecasts; it is of other "
                "windows or of another network"
            )


def check_stopping(config: TrainConfig, validation: Windows, evaluated: Evaluated) -> None:
    """Raise LeakageError unless the network is that of the epoch with the least loss on the validation part."""
    losses, best = np.array(evaluated.history.validation_loss), evaluated.history.best_epoch
    if not len(losses) or losses[best] > losses.min():
        raise LeakageError("the chosen epoch is not the one of the least validation loss; something else chose it")
    epochs, patience = len(losses), config.fit.patience
    if epochs != config.fit.epochs and epochs - 1 - best < patience:
        raise LeakageError(
            f"the fit ended after {epochs} epochs, neither {config.fit.epochs} nor {patience} without a better "
            "validation loss; something else stopped it"
        )
    loss = _loss(config, validation, evaluated)
    # float16 rounds to three digits
    tolerance = 0.05 if config.fit.mixed_precision else 1e-3
    if not np.isclose(loss, losses[best], rtol=tolerance, atol=1e-6):
        raise LeakageError(
            f"the network's loss on the validation part is {loss:.6g}, and the chosen epoch's is said to be "
            f"{losses[best]:.6g}; it was stopped or chosen on other windows"
        )


def _loss(config: TrainConfig, windows: Windows, evaluated: Evaluated) -> float:
    """Return the loss of the forecasts of windows, in the transformed space."""
    import keras

    target, inputs = evaluated.trained.preprocessing.target, windows.inputs()
    contexts = target.last_contexts(target.forward(np.ascontiguousarray(inputs.target))[1])
    actual, forecast = (
        target.targets(values, contexts) for values in (windows.targets(), evaluated.trained.forecast(windows))
    )
    errors = keras.losses.get(config.fit.loss)(_single(actual), _single(forecast))
    return float(np.mean(keras.ops.convert_to_numpy(errors)))


def _single(values: Floats) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.asarray(values, dtype=np.float32)
