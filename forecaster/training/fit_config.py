"""The settings of a fit."""

from pydantic import Field, model_validator

from forecaster.domain.config import Config
from forecaster.training.learning_rates import AnySchedule, Constant


class Truncation(Config):
    """How the rows of a series are read in order, with a state that is carried on.

    Args:
        chunk: rows per step of the optimizer.
        backprop_steps: rows over which gradients flow; it must divide `chunk`.
    """

    chunk: int = Field(ge=1, le=100_000)
    backprop_steps: int = Field(ge=1, le=100_000)

    @model_validator(mode="after")
    def _divides(self) -> "Truncation":
        if self.chunk % self.backprop_steps:
            raise ValueError(f"chunk: must be a multiple of backprop_steps, {self.backprop_steps}")
        return self


class FitConfig(Config):
    """How a network is fitted.

    Args:
        epochs: the largest number of epochs; with 0, the network is left out, and the forecast is that of `skip` or of
            the transforms alone.
        patience: epochs without a better validation loss before the fit stops.
        schedule: the course of the learning rate.
        clip_norm: the largest norm of the gradient of all weights together.
        ema_decay: the share that the moving average of the weights keeps in each step. The average is validated and
            served in place of the last weights; null for no average. Polyak & Juditsky (1992), doi:10.1137/0330046.
        stateful: read the train rows of each series in order, carry the state from chunk to chunk, and truncate the
            gradients; null: read windows in random order, each from a state of zeros. `batch_size` is then the number
            of series that are read side by side.
        mixed_precision: compute in float16 on a GPU that gains from it; the exported weights are always float32.
        minutes: with `model: auto`, the time in which recipes are tried; None for five minutes.
    """

    epochs: int = Field(30, ge=0, le=100_000)
    batch_size: int = Field(64, ge=1, le=1_000_000)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: AnySchedule = Constant()
    patience: int = Field(5, ge=1, le=100_000)
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float | None = Field(None, gt=0, lt=1)
    mixed_precision: bool = False
    stateful: Truncation | None = None
    minutes: float | None = Field(None, gt=0, le=1e6)

    @model_validator(mode="after")
    def _warmup_ends(self) -> "FitConfig":
        warmup = self.schedule.warmup_epochs
        if warmup and warmup >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs: must be less than epochs, {self.epochs}, got {warmup:g}; the schedule would "
                "never begin"
            )
        return self

    def shared_rows(self, n_windows: int) -> int:
        """Return how many rows of each batch devices may share; 1 if a state is carried, which stays on its device."""
        return 1 if self.stateful else min(self.batch_size, n_windows)
