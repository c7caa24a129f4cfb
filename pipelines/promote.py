"""Make a version the champion and keep the one before as `previous`: `python -m pipelines.promote CONFIG.yaml`."""

import sys
from typing import Any

from pydantic import Field

from forecaster.domain.config import Config
from forecaster.registry.store import Store
from forecaster.training.tracking import TrackingConfig
from pipelines.command import config_parser, run_config


class PromoteConfig(Config):
    """Which version of which model; the newest when `version` is null."""

    name: str
    version: int | None = Field(None, ge=1)
    tracking: TrackingConfig = TrackingConfig()


def promote(config: PromoteConfig) -> dict[str, Any]:
    """Set the aliases and return them as they are read back."""
    store = Store(config.tracking.uri)
    version = config.version or max(store.find(config.name).runs)
    store.promote(config.name, version)
    return {"model": config.name, "version": version, "aliases": store.find(config.name).aliases}


if __name__ == "__main__":
    parser = config_parser(
        "promote",
        "Make a version the champion of its model; the champion before it becomes `previous`.",
        "python -m pipelines.promote pipelines/configs/sine.yaml --set version=2",
    )
    sys.exit(run_config(parser, PromoteConfig, promote))
