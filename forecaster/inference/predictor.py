"""Forecasts of a registered model in Python, from frames: `load_predictor("sine").predict_frame(history)`."""

from pathlib import Path

import pandas as pd

from forecaster.database.uris import default_tracking_uri
from forecaster.inference.frames import predict_frame
from forecaster.registry.load import load_version
from forecaster.registry.predictor import ArrayPredictor


class Predictor(ArrayPredictor):
    """A version that forecasts the series of a long frame."""

    def predict_frame(
        self,
        frame: pd.DataFrame,
        horizon: int | None = None,
        level: tuple[float, ...] | None = None,
        quantiles: tuple[float, ...] | None = None,
        futr_frame: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Return forecasts of every series of a long frame; see `frames.predict_frame` for arguments and errors."""
        return predict_frame(self, frame, horizon, level, quantiles, futr_frame)


def load_predictor(
    name: str,
    alias: str | None = None,
    version: int | None = None,
    tracking_uri: str | None = None,
    cache: Path = Path("mlruns/cache"),
) -> Predictor:
    """Return the predictor of a registered version; download it into the cache if needed.

    Args:
        name: the registered model.
        alias: the version's alias; `champion` when neither alias nor version is given.
        version: the version's number, instead of an alias.
        tracking_uri: MLflow's tracking URI. None takes `FORECASTER_TRACKING_URI`, or the local store if that is unset.
            An empty string uses only the cache.
        cache: the folder for verified bundles, which the service may share.

    Raises:
        RequestError: alias and version are both given.
        UnknownModel: there is no such model, alias or version, or the version is neither aliased nor among the newest.
        StoreUnavailable: MLflow does not answer.
        BundleError: the bundle is refused.
    """
    uri = default_tracking_uri() if tracking_uri is None else tracking_uri
    return load_version(name, alias, version, uri, cache, Predictor).predictor
