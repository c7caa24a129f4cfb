"""The record of a choice: the recipe, why it was chosen, and what else was tried."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forecaster.domain.config import build_config
from forecaster.training.config import TrainConfig


@dataclass(frozen=True)
class Trial:
    """A recipe that was tried.

    Args:
        name: the candidate's name.
        mae: its MAE in the target's unit: of a closed form on the blocks, of a network on the validation part;
            None if it was not measured.
        outcome: how it was measured and compared, or why it was not.
    """

    name: str
    mae: float | None
    outcome: str


@dataclass(frozen=True)
class Choice:
    """A chosen recipe.

    Args:
        config: the recipe, in which nothing is open.
        name: the name of the chosen candidate.
        reason: why it was chosen.
        traits: what the data are like, in words.
        trials: every candidate that was tried.
    """

    config: TrainConfig
    name: str
    reason: str
    traits: str
    trials: tuple[Trial, ...]

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of the training's run."""
        return {"choice": self.name, "choice/reason": self.reason, "choice/data": self.traits}

    @property
    def table(self) -> dict[str, list[Any]]:
        """Return the trials as columns."""
        rows = [asdict(trial) for trial in self.trials]
        return {name: [row[name] for row in rows] for name in ("name", "mae", "outcome")}


def dump_choice(choice: Choice) -> str:
    """Return a choice as JSON."""
    recipe = choice.config.model_dump(mode="json", exclude={"tracking"})
    return json.dumps(vars(choice) | {"config": recipe, "trials": [asdict(trial) for trial in choice.trials]})


def read_choice(config: TrainConfig, file: Path) -> Choice:
    """Return the choice in a file, with the tracking of the open recipe."""
    raw = json.loads(file.read_text(encoding="utf-8"))
    recipe = raw.pop("config") | {"tracking": config.tracking.model_dump(mode="json")}
    trials = tuple(Trial(**trial) for trial in raw.pop("trials"))
    return Choice(config=build_config(recipe, TrainConfig, str(file)), trials=trials, **raw)
