"""The predictor: a forecast depends only on its own history, and matches the exported model."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecaster.data.windows import cut_windows
from forecaster.domain.errors import RequestError, SeriesError, TooShortError
from forecaster.domain.series import Floats, Inputs, Series
from forecaster.evaluation.forecasts import Forecasts
from forecaster.inference.predictor import Predictor
from forecaster.registry.bands import bands
from tests.conftest import TrainedModels

INPUT_SIZE, HORIZON = 24, 4
windows = arrays(np.float64, (5, INPUT_SIZE), elements=st.floats(-3, 3))


@pytest.fixture(scope="module", params=[1, 2])
def predictor(models: TrainedModels, request: pytest.FixtureRequest) -> Predictor:
    return models.predictor(request.param)


def frame(
    y: Floats, name: str = "a", tz: str | None = None, freq: str = "h", start: str = "2026-01-01"
) -> pd.DataFrame:
    return pd.DataFrame({"unique_id": name, "ds": pd.date_range(start, periods=len(y), freq=freq, tz=tz), "y": y})


@given(
    values=arrays(np.float64, 60, elements=st.floats(-3, 3)),
    cutoff=st.integers(INPUT_SIZE, 55),
    change=st.floats(1, 9),
)
def test_values_after_the_cutoff_do_not_change_a_forecast(
    predictor: Predictor, values: Floats, cutoff: int, change: float
) -> None:
    def forecasts(y: Floats) -> Floats:
        """Return the forecasts of all windows of a series, as in an evaluation."""
        times = np.arange(len(y)).astype("M8[h]").astype("M8[ns]")
        series = Series(("a",), y[:, None], times, np.array([0, len(y)]), "h")
        return predictor.predict_arrays(cut_windows(series, INPUT_SIZE, HORIZON).inputs().target)

    changed = values.copy()
    changed[cutoff:] += change
    before, after = forecasts(values), forecasts(changed)
    # window i's last input is row i + INPUT_SIZE - 1
    known = cutoff - INPUT_SIZE + 1
    np.testing.assert_array_equal(before[:known], after[:known])
    # rows of a frame before the last `input_size` do not count either
    older = values.copy()
    older[: cutoff - INPUT_SIZE] += change
    one, other = (predictor.predict_frame(frame(y[:cutoff]), level=(80,)) for y in (values, older))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


@given(values=windows)
def test_forecast_does_not_depend_on_the_other_series_of_its_batch(predictor: Predictor, values: Floats) -> None:
    together = predictor.predict_arrays(values, 6)
    separate = np.concatenate([predictor.predict_arrays(window[None], 6) for window in values])
    many = predictor.predict_arrays(np.tile(values, (300, 1)), 6)[-5:]
    reordered = predictor.predict_arrays(values[::-1], 6)[::-1]
    for other in (separate, many, reordered):
        np.testing.assert_array_equal(together, other)


def test_loaded_predictor_reproduces_the_golden_forecasts(predictor: Predictor) -> None:
    golden = predictor.bundle.golden
    np.testing.assert_array_equal(predictor.predict_arrays(golden.inputs.values), golden.forecasts.mean)


def test_saved_keras_model_gives_the_same_forecasts(models: TrainedModels, predictor: Predictor) -> None:
    import keras

    from forecaster.data.preprocessing import Preprocessing
    from forecaster.domain.config import build_config
    from forecaster.models.network import ModelConfig
    from forecaster.models.shape import NetworkShape
    from forecaster.models.trained import TrainedNetwork

    manifest = predictor.manifest
    config = ModelConfig(cell=manifest.cell, encoder=manifest.encoder, decoder=manifest.decoder, head=manifest.head)
    raw = {"steps": manifest.transforms, "is_causal": config.decoder.answers_each_step}
    model = keras.models.load_model(predictor.bundle.folder / "model.keras", safe_mode=True, compile=False)
    trained = TrainedNetwork(
        model, config, NetworkShape(INPUT_SIZE, HORIZON), build_config({"target": raw}, Preprocessing, "manifest")
    )
    values = np.random.default_rng(0).normal(size=(30, INPUT_SIZE))
    by_keras = trained.predict(Inputs(values[:, :, None])).mean
    np.testing.assert_allclose(by_keras, predictor.predict_arrays(values), atol=1e-5)


def test_forecasts_of_frames_match_those_of_arrays(predictor: Predictor) -> None:
    random = np.random.default_rng(1)
    parts = {name: random.normal(size=length) for name, length in (("a", 24), ("b", 40), ("c", 31))}
    answer = predictor.predict_frame(pd.concat([frame(y, name) for name, y in parts.items()]), level=(80, 95))
    assert list(answer) == ["unique_id", "cutoff", "ds", "mean", "lo-80", "hi-80", "lo-95", "hi-95"]
    mean = predictor.predict_arrays(np.stack([y[-INPUT_SIZE:] for y in parts.values()]))
    np.testing.assert_array_equal(answer["mean"], mean.ravel())
    assert answer["unique_id"].tolist() == [name for name in parts for _ in range(HORIZON)]
    assert (answer[["lo-95", "lo-80", "hi-80", "hi-95"]].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    for name, y in parts.items():
        rows = answer[answer["unique_id"] == name]
        cutoff = pd.Timestamp("2026-01-01") + pd.Timedelta(hours=len(y) - 1)
        assert (rows["cutoff"] == cutoff).all()
        assert rows["ds"].tolist() == list(pd.date_range(cutoff, periods=HORIZON + 1, freq="h")[1:])


@pytest.mark.parametrize("tz", [None, "UTC", "Europe/Berlin", "America/New_York"])
def test_forecast_times_are_right_across_a_clock_change(predictor: Predictor, tz: str | None) -> None:
    for start in ("2026-03-27 22:00", "2026-10-23 22:00", "2026-03-06 23:00"):
        times = pd.date_range(start, periods=60, freq="h", tz=tz)
        for length in range(INPUT_SIZE, 34):
            known = pd.DataFrame({"unique_id": "a", "ds": times[:length], "y": np.zeros(length)})
            with pytest.warns(UserWarning, match="horizon 8 exceeds the trained 4: later steps are rolled out"):
                answer = predictor.predict_frame(known, horizon=8)
            assert answer["ds"].tolist() == list(times[length : length + 8])


def test_longer_horizon_is_rolled_out_without_intervals(predictor: Predictor) -> None:
    values = np.random.default_rng(2).normal(size=(3, INPUT_SIZE))
    short, long = predictor.predict_arrays(values), predictor.predict_arrays(values, 11)
    np.testing.assert_array_equal(long[:, :HORIZON], short)
    # the roll-out appends its own forecasts to the inputs
    expected = predictor.predict_arrays(np.concatenate([values, short], axis=1))
    np.testing.assert_array_equal(long[:, HORIZON : 2 * HORIZON], expected)
    spread = predictor.quantiles(values, Forecasts(long), (0.1, 0.9))
    assert np.isfinite(spread[:, :HORIZON]).all()
    assert np.isnan(spread[:, HORIZON:]).all()


BAD: dict[str, tuple[Callable[[Predictor], object], type[Exception], str]] = {
    "too short": (
        lambda p: p.predict_frame(pd.concat([frame(np.zeros(30)), frame(np.zeros(20), "b")])),
        TooShortError,
        "1 of 2 series are too short: 'b' has 20 rows, needs 24",
    ),
    "short arrays": (lambda p: p.predict_arrays(np.zeros((2, 20))), TooShortError, "add 4 earlier values"),
    "horizon 0": (lambda p: p.predict_arrays(np.zeros((1, 24)), 0), RequestError, "outside 1 to 40"),
    "horizon a million": (lambda p: p.predict_arrays(np.zeros((1, 24)), 1_000_000), RequestError, "outside 1 to 40"),
    "another frequency": (lambda p: p.predict_frame(frame(np.zeros(30), freq="D")), SeriesError, "one step of h"),
    "NaN": (lambda p: p.predict_frame(frame(np.full(30, np.nan))), SeriesError, "not a finite number"),
}


@pytest.mark.parametrize(("predict", "error", "message"), BAD.values(), ids=BAD.keys())
def test_error_says_why_a_forecast_is_not_possible(
    predictor: Predictor, predict: Callable[[Predictor], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        predict(predictor)


def test_bands_name_their_columns() -> None:
    assert bands(level=(95, 80)).columns == ("lo-80", "hi-80", "lo-95", "hi-95")
    assert bands(level=(80,)).probabilities == pytest.approx((0.1, 0.9))
    assert bands(quantiles=(0.9, 0.025)).columns == ("q-2.5", "q-90")
    assert bands().columns == ()
    for wrong in (
        {"level": (0,)},
        {"level": (100,)},
        {"quantiles": (0,)},
        {"quantiles": (1,)},
        {"level": (80,), "quantiles": (0.1,)},
    ):
        with pytest.raises(RequestError):
            bands(**wrong)
