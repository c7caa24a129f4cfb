"""`Predictor.predict_frame`, as users call it."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.client import Client
from forecaster.domain.errors import RequestError, SeriesError
from forecaster.inference.predictor import Predictor
from tests.client.conftest import frame
from tests.conftest import TrainedModels


@pytest.fixture
def predictor(models: TrainedModels) -> Predictor:
    return models.predictor(1)


def test_levels_may_be_any_sequence_of_numbers(predictor: Predictor) -> None:
    expected = predictor.predict_frame(frame(), level=(80, 95))
    sequences: list[Any] = [[80, 95], np.array([80, 95]), pd.Series([80.0, 95.0]), iter([80, 95])]
    for level in sequences:
        pd.testing.assert_frame_equal(predictor.predict_frame(frame(), level=level), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 80}, r"level: must be a list of numbers, such as \[80, 95\], got 80"),
        ({"level": "80"}, "level: must be a list of numbers"),
        ({"level": ["80"]}, "level: must be a list of numbers"),
        ({"level": [True]}, "level: must be a list of numbers"),
        ({"level": {80: 95}}, "level: must be a list of numbers"),
        ({"quantiles": 0.1}, r"quantiles: must be a list of numbers, such as \[0.1, 0.9\], got 0.1"),
        ({"horizon": 1.5}, "horizon: must be a whole number, got 1.5"),
        ({"horizon": True}, "horizon: must be a whole number, got True"),
        ({"n_samples": 1.5}, "n_samples: must be a whole number, got 1.5"),
        ({"n_samples": 5, "seed": "a"}, "seed: must be a whole number, got 'a'"),
    ],
)
def test_error_names_the_argument_of_the_wrong_type(
    predictor: Predictor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        predictor.predict_frame(frame(), **options)


def test_frame_holds_the_skill_and_the_warnings(predictor: Predictor) -> None:
    attrs = predictor.predict_frame(frame()).attrs
    assert attrs["skill"]["relative_mae"] == predictor.manifest.skill.relative_mae
    assert attrs["forecast_by"] == "model"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rolled_out = predictor.predict_frame(frame(), horizon=8)
    # the warning points to the caller
    assert [warning.filename for warning in caught] == [__file__]
    assert any("horizon 8 exceeds the trained 4" in text for text in rolled_out.attrs["warnings"])


def test_repr_names_the_model_and_no_key(predictor: Predictor) -> None:
    assert repr(predictor).startswith("Predictor('sine', freq='h', input_size=24, horizon=4, relative_mae=0.")
    assert repr(Client("http://127.0.0.1:8000", key="secret")) == "Client('http://127.0.0.1:8000')"
    assert repr(Client("http://me:secret@127.0.0.1:8000")) == "Client('http://127.0.0.1:8000')"


@pytest.mark.parametrize(
    ("df", "options", "message"),
    [
        (frame(), {"futr_df": frame()}, "futr_df: the model takes no futr_exog; remove this argument"),
        (frame().to_dict(), {}, "df: must be a pandas DataFrame, got dict"),
        (pd.concat([frame(), frame()[["y"]]], axis=1), {}, r"df: columns \['y'\] are repeated"),
    ],
)
def test_error_names_the_frame_that_cannot_be_read(
    predictor: Predictor, df: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SeriesError, match=message):
        predictor.predict_frame(df, **options)


def test_time_that_nanoseconds_cannot_hold_is_refused(predictor: Predictor) -> None:
    history = frame()
    ds = np.datetime64("2409-01-01", "s") + np.arange(len(history)) * np.timedelta64(3600, "s")
    with pytest.raises(SeriesError, match=r"row 0: ds is outside 1677-09-23 to 2262-04-10"):
        predictor.predict_frame(history.assign(unique_id="a", ds=ds))
