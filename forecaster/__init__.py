"""Recurrent forecasting: from a time series to a served forecast.

The public names are imported when they are first used, so that the client needs none of the training libraries.
"""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forecaster.client import AsyncClient, Client
    from forecaster.domain import errors
    from forecaster.inference.predictor import Predictor, load_predictor

__version__ = "0.1.0"

# these libraries report usage to their makers, unless told not to before they are imported
for _variable in ("MLFLOW_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "true")

# where each public name is defined; None: the name is a module
_PUBLIC = {
    "AsyncClient": "forecaster.client",
    "Client": "forecaster.client",
    "Predictor": "forecaster.inference.predictor",
    "errors": None,
    "load_predictor": "forecaster.inference.predictor",
}
__all__ = ["AsyncClient", "Client", "Predictor", "__version__", "errors", "load_predictor"]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _PUBLIC[name]
    if module is None:
        return importlib.import_module(f"forecaster.domain.{name}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return __all__
