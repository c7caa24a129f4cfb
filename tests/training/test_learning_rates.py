"""Schedules of the learning rate."""

from typing import Any

import numpy as np
import pytest

from forecaster.domain.config import build_config
from forecaster.domain.errors import ConfigError
from forecaster.training.fit_config import FitConfig
from forecaster.training.learning_rates import learning_rate

# batches per epoch
BATCHES = 4


def rates(schedule: Any, epochs: int) -> list[float]:
    """Return the rate of the first batch of each epoch, and of the last batch of all."""
    config = FitConfig(epochs=epochs, schedule=schedule, learning_rate=0.1)
    rate = learning_rate(config.learning_rate, config.schedule, config.epochs, BATCHES)
    steps = [*range(0, epochs * BATCHES, BATCHES), epochs * BATCHES - 1]
    return [float(rate(step)) if callable(rate) else rate for step in steps]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.1] * 5),
        ("cosine", [0.1, 0.0853553, 0.05, 0.0146447, 0.05 * (1 + np.cos(np.pi * 15 / 16))]),
        ({"kind": "step", "hold_epochs": 2, "factor": 0.5}, [0.1, 0.1, 0.05, 0.025, 0.025]),
        ({"kind": "constant", "warmup_epochs": 2}, [0.0125, 0.0625, 0.1, 0.1, 0.1]),
        # two epochs of warm-up, then the cosine of the other two
        ({"kind": "cosine", "warmup_epochs": 2}, [0.0125, 0.0625, 0.1, 0.05, 0.05 * (1 + np.cos(np.pi * 7 / 8))]),
    ],
)
def test_rate_follows_its_schedule(schedule: Any, expected: list[float]) -> None:
    assert rates(schedule, 4) == pytest.approx(expected, rel=1e-5)


def test_warmup_as_long_as_the_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.warmup_epochs: must be less than epochs, 3, got 3; "):
        build_config({"epochs": 3, "schedule": {"kind": "cosine", "warmup_epochs": 3}}, FitConfig, "fit")
    assert FitConfig.model_validate({"epochs": 3, "schedule": {"kind": "cosine", "warmup_epochs": 2.5}}).epochs == 3
