"""The settings of a fit."""

from typing import Literal

from pydantic import Field

from forecaster.domain.config import Config


class FitConfig(Config):
    """How a network is fitted.

    Args:
        epochs: the largest number of epochs.
        patience: epochs without a better validation loss before the fit stops.
        schedule: `constant`, or `cosine`, which lowers the learning rate to 0 over `epochs`.
        clip_norm: the largest norm of the gradient of all weights together.
        mixed_precision: compute in float16 on a GPU that gains from it; the exported weights are always float32.
    """

    epochs: int = Field(30, ge=1, le=100_000)
    batch_size: int = Field(64, ge=1, le=1_000_000)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    patience: int = Field(5, ge=1, le=100_000)
    clip_norm: float = Field(1.0, gt=0)
    mixed_precision: bool = False
