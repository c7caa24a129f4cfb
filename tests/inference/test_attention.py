"""Attention weights of a served model: columns of a forecast, and a picture in the training's run."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from forecaster.domain.errors import RequestError
from forecaster.domain.series import Inputs
from forecaster.inference.predictor import Predictor, load_predictor
from forecaster.registry.store import Store
from forecaster.training.job import train
from tests.conftest import TrainedModels, small_config

INPUT_SIZE, HORIZON = 12, 3


@pytest.fixture(scope="module")
def attending(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("attention")
    model = {"cell": "gru", "encoder": {"widths": [6]}, "decoder": {"kind": "seq2seq", "attention": "additive"}}
    config = small_config(
        folder, name="attending", input_size=INPUT_SIZE, horizon=HORIZON, model=model, fit={"epochs": 1}, folds=0
    )
    registered = train(config)
    Store(config.tracking.uri).promote("attending", registered.version)
    files = mlflow.MlflowClient(config.tracking.uri).list_artifacts(registered.run_id)
    assert "attention.png" in {Path(file.path).name for file in files}
    return load_predictor("attending", tracking_uri=config.tracking.uri, cache=folder / "cache")


def history() -> pd.DataFrame:
    y = np.random.default_rng(1).normal(size=(2, INPUT_SIZE))
    times = pd.date_range("2026-01-01", periods=INPUT_SIZE, freq="h")
    return pd.concat(pd.DataFrame({"unique_id": name, "ds": times, "y": y[row]}) for row, name in enumerate("ab"))


def test_attention_weights_are_columns_that_add_up_to_one(attending: Predictor) -> None:
    plain = attending.predict_frame(history(), level=[80])
    frame = attending.predict_frame(history(), level=[80], attention=True)
    pd.testing.assert_frame_equal(frame[plain.columns], plain)
    columns = [f"attention-{lag}" for lag in range(1, INPUT_SIZE + 1)]
    assert list(frame.columns) == [*plain.columns, *columns]
    np.testing.assert_allclose(frame[columns].sum(axis=1), 1, atol=1e-6)
    assert (frame[columns] > 0).all(axis=None)
    # lag 1 is the last row of the window
    windows = history()["y"].to_numpy().reshape(2, INPUT_SIZE, 1)
    weights = attending.attention(Inputs(windows, None, None)).reshape(-1, INPUT_SIZE)
    np.testing.assert_allclose(frame[columns], weights[:, ::-1], atol=1e-6)
    pd.testing.assert_frame_equal(
        attending.predict_frame(history(), horizon=2, attention=True)[columns],
        frame.groupby("unique_id")[columns].head(2).reset_index(drop=True),
    )


def test_attention_is_refused_beyond_the_trained_horizon(attending: Predictor) -> None:
    with pytest.warns(UserWarning, match="exceeds"), pytest.raises(RequestError, match="attention: horizon 4 exceeds"):
        attending.predict_frame(history(), horizon=4, attention=True)


def test_model_without_attention_says_how_to_train_one(models: TrainedModels) -> None:
    frame = pd.DataFrame(
        {"unique_id": "a", "ds": pd.date_range("2026-01-01", periods=24, freq="h"), "y": np.arange(24.0)}
    )
    with pytest.raises(RequestError, match="decoder has none; train one with decoder"):
        models.predictor(1).predict_frame(frame, attention=True)
