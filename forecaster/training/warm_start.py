"""A warm start: weights that a network is fitted from, in place of random weights."""

from dataclasses import dataclass
from pathlib import Path

from forecaster.training import past_runs


@dataclass(frozen=True)
class WarmStart:
    """The weights that a served network starts from.

    Args:
        model: a bundle's Keras file, which holds the weights.
        version: the version that the bundle belongs to.
        epochs: how many epochs the served network is fitted for.
    """

    model: Path
    version: int
    epochs: int

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of a run that uses this warm start."""
        return {past_runs.WARM_FROM: str(self.version), past_runs.WARM_EPOCHS: str(self.epochs)}
