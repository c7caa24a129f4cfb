"""Schedules of the learning rate over the epochs of a fit. Add one to `AnySchedule`."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from forecaster.domain.config import Config, short_for


class _Schedule(Config):
    """A course of the learning rate.

    Args:
        warmup_epochs: epochs, or a fraction of one, in which the rate rises linearly before the schedule begins; less
            than the fit has.
    """

    warmup_epochs: float = Field(0, ge=0, le=100_000)


class Constant(_Schedule):
    """The same rate in all epochs."""

    kind: Literal["constant"] = "constant"

    def share(self, epoch: Any, epochs: float) -> Any:
        """Return the share of the learning rate at a time, a tensor of any shape.

        Args:
            epoch: the time since the warm-up, in epochs, with a fraction.
            epochs: the length of the schedule, in epochs.
        """
        del epoch, epochs
        return 1.0


class Cosine(_Schedule):
    """Half a cosine, from the rate to 0; Loshchilov & Hutter (2017), arXiv 1608.03983, equation 5, without restarts."""

    kind: Literal["cosine"] = "cosine"

    def share(self, epoch: Any, epochs: float) -> Any:
        """As in `Constant`."""
        import keras

        return 0.5 + 0.5 * keras.ops.cos(math.pi * keras.ops.minimum(epoch / epochs, 1.0))


class Step(_Schedule):
    """The same rate for `hold_epochs` epochs, then multiplied by `factor` before each epoch.

    Args:
        hold_epochs: the epochs at the full rate.
        factor: the rate of an epoch divided by that of the epoch before.
    """

    kind: Literal["step"] = "step"
    hold_epochs: int = Field(1, ge=1, le=100_000)
    factor: float = Field(0.8, gt=0, le=1)

    def share(self, epoch: Any, epochs: float) -> Any:
        """As in `Constant`."""
        import keras

        del epochs
        return self.factor ** keras.ops.maximum(keras.ops.floor(epoch) - self.hold_epochs + 1, 0.0)


# `cosine` is short for `{kind: cosine}`
AnySchedule = Annotated[Annotated[Constant | Cosine | Step, Field(discriminator="kind")], short_for("kind")]


def learning_rate(rate: float, schedule: AnySchedule, epochs: int, batches: int) -> Any:
    """Return a learning rate as Keras takes it: a number, or a schedule of the number of batches so far.

    Args:
        rate: the highest learning rate.
        schedule: its course.
        epochs: the epochs of the fit.
        batches: the batches of an epoch; Keras looks the rate up by their number, even if the optimizer takes a step
            after several.
    """
    import keras

    if schedule == Constant():
        return rate

    class Scheduled(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            epoch, warmup = keras.ops.cast(step, "float32") / batches, schedule.warmup_epochs
            share = schedule.share(keras.ops.maximum(epoch - warmup, 0.0), max(epochs - warmup, 1.0))
            return rate * share * (keras.ops.minimum((epoch + 1 / batches) / warmup, 1.0) if warmup else 1.0)

    return Scheduled()
