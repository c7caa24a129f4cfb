"""Recurrent forecasting: from a time series to a served forecast.

The public names are imported when they are first used, so that the client needs none of the training libraries.
"""

import importlib
import os
from typing import TYPE_CHECKING

from forecaster import errors

if TYPE_CHECKING:
    from forecaster.client import AsyncClient, Client, Retries
    from forecaster.domain.config import load_config
    from forecaster.inference.predictor import Predictor, load_predictor
    from forecaster.training.config import TrainConfig
    from forecaster.training.job import train

__version__ = "0.1.0"

# these libraries report usage to their makers, unless told not to before they are imported
for _variable in ("MLFLOW_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "true")

# where each public name is defined, apart from `errors`, which needs no other library
_PUBLIC = {
    "AsyncClient": "forecaster.client",
    "Client": "forecaster.client",
    "Predictor": "forecaster.inference.predictor",
    "Retries": "forecaster.client",
    "TrainConfig": "forecaster.training.config",
    "load_config": "forecaster.domain.config",
    "load_predictor": "forecaster.inference.predictor",
    "train": "forecaster.training.job",
}
__all__ = [
    "AsyncClient",
    "Client",
    "Predictor",
    "Retries",
    "TrainConfig",
    "__version__",
    "errors",
    "load_config",
    "load_predictor",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
