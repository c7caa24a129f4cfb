"""Recurrent forecasting: from a series to a served forecast. See docs/design.md for the rooms and their order."""

import os

# these report usage to their makers by default; told before they are imported, they keep still and write no identifier
for _variable in ("MLFLOW_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "true")
