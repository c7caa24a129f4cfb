"""Write synthetic prices to the bar store: `python -m pipelines.synthesize pipelines/configs/synthetic.yaml`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from forecaster.data.sources.synthetic import RandomWalkSource, SineSource
from forecaster.data.sources.synthetic_bars import SyntheticBars
from forecaster.data.store import BarStore
from forecaster.domain.config import Config
from pipelines.command import config_parser, run_config
from pipelines.fetch import Day, status, update_all


class SynthesizeConfig(Config):
    """Synthetic series by symbol, their dates (`end` null: the latest completed session), exchange and store."""

    series: dict[str, Annotated[SineSource | RandomWalkSource, Field(discriminator="source")]] = Field(min_length=1)
    start: Day
    end: Day | None = None
    calendar: str = "24/7"
    store: Path = Path("mlruns/bars")


def synthesize(config: SynthesizeConfig) -> dict[str, Any]:
    """Update every series. A failed series does not stop the others."""
    source = SyntheticBars(config.series, np.datetime64(config.start), config.calendar)
    symbols = tuple(config.series)
    # a changed configuration replaces all stored prices
    return update_all(
        BarStore(config.store), source, symbols, config.start, config.end, config.calendar, full=True, allow_loss=True
    )


if __name__ == "__main__":
    parser = config_parser(
        "synthesize",
        "Write synthetic prices to the bar store: sines and random walks on an exchange's sessions.",
        "python -m pipelines.synthesize pipelines/configs/synthetic.yaml\n"
        "  python -m pipelines.synthesize pipelines/configs/synthetic.yaml --set end=2025-12-31",
    )
    sys.exit(run_config(parser, SynthesizeConfig, synthesize, status))
