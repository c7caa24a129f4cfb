"""Notice a fit that diverges: a number is not finite, or the loss is far above that of a forecast of 0."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.errors import TrainingError
from forecaster.models.heads import Head
from forecaster.models.keras_tape import KerasTape
from forecaster.models.trained import Float32

# how many times larger the loss of a diverging fit is than that of a forecast of 0
_FACTOR = 1000.0


def loss_of_zeros(head: Head, targets: Float32) -> float:
    """Return the loss of a network that answers 0, the mean over the observed targets; 0 if there are none.

    Args:
        head: the network's head.
        targets: transformed targets, `(n, horizon)` or `(n, input_size, horizon)`; NaN where they are missing.
    """
    import keras

    observed = targets[~np.isnan(targets)][:, None]
    if not len(observed):
        return 0.0
    zeros = keras.ops.zeros((*observed.shape, head.n_parameters))
    errors = head.losses(keras.ops.convert_to_tensor(observed), head.parameters(KerasTape(0), zeros))
    return float(keras.ops.mean(errors))


def check_not_diverging(
    head: Head, epoch: int, loss: float, held_out: float | None, weights: Sequence[NDArray[Any]], of_zeros: float
) -> None:
    """Check an epoch's results.

    Args:
        head: the network's head.
        epoch: the epoch's number.
        loss: its loss.
        held_out: its validation loss, which need only be finite: the validation part may be of another kind.
        weights: the network's weights after it.
        of_zeros: the loss of a network that answers 0.

    Raises:
        TrainingError: the fit diverges.
    """
    if not np.isfinite([loss, 0.0 if held_out is None else held_out]).all():
        what = f"the loss is not finite (train {loss}, validation {held_out})"
    elif not all(np.isfinite(weight).all() for weight in weights):
        what = "a weight is not finite"
    elif head.times_worse(loss, of_zeros) > _FACTOR:
        what = f"the loss is {loss:.3g}, and that of a forecast of 0 is {of_zeros:.3g}"
    else:
        return
    raise TrainingError(
        f"epoch {epoch}: the fit diverges: {what}; lower fit.learning_rate or fit.clip_norm, or add a transform such "
        "as standardize"
    )
