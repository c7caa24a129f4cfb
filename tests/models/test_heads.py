"""Heads: losses against independent definitions, and properties of the distributions for any numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import gammaln
from scipy.stats import t as student_t

from forecaster.models.heads import Head, Point, Quantile, StudentT, _log_gamma_ratio, interpolate_quantiles
from forecaster.models.keras_tape import KerasTape

RANDOM = np.random.default_rng(4)
PROBABILITIES = Quantile().probabilities
# numbers that a network may return in float32
ANY = st.floats(-(2.0**100), 2.0**100, width=32)


def _parameters(head: Head, raw: Any) -> np.ndarray:
    """Return the parameters that the Keras network gets from unrestricted numbers, float32."""
    import keras

    found = head.parameters(KerasTape(seed=0), keras.ops.convert_to_tensor(raw.astype(np.float32)))
    return np.asarray(keras.ops.convert_to_numpy(found))


def _errors(head: Head, actual: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    import keras

    found = head.losses(*(keras.ops.convert_to_tensor(array.astype(np.float32)) for array in (actual, parameters)))
    return np.asarray(keras.ops.convert_to_numpy(found))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mean_squared_error", lambda error: error**2),
        ("mean_absolute_error", abs),
        # Huber (1964), with a threshold of 1
        ("huber", lambda error: 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5),
    ],
)
def test_point_losses_are_their_definitions(loss: Any, expected: Any) -> None:
    actual, mean = RANDOM.normal(0, 2, (2, 50))
    wanted = [expected(error) for error in actual - mean]
    np.testing.assert_allclose(_errors(Point(loss=loss), actual, mean[:, None]), wanted, rtol=1e-5, atol=1e-6)


def test_quantile_loss_is_the_pinball_loss() -> None:
    """Koenker & Bassett (1978): p |y - q| below the actual, (1 - p) |y - q| above it."""
    actual, quantiles = RANDOM.normal(size=40), np.sort(RANDOM.normal(size=(40, len(PROBABILITIES))), axis=1)
    wanted = [
        np.mean([p * (y - q) if y >= q else (1 - p) * (q - y) for p, q in zip(PROBABILITIES, row, strict=True)])
        for y, row in zip(actual, quantiles, strict=True)
    ]
    np.testing.assert_allclose(_errors(Quantile(), actual, quantiles), wanted, rtol=1e-5)


def test_student_t_loss_is_the_negative_log_likelihood() -> None:
    location, scale, df = RANDOM.normal(size=60), RANDOM.uniform(0.05, 5, 60), np.geomspace(2.01, 1e3, 60)
    actual = location + scale * RANDOM.standard_t(3, 60)
    wanted = -student_t.logpdf(actual, df, location, scale)
    found = _errors(StudentT(), actual, np.stack([location, scale, df], axis=1))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_log_gamma_ratio_is_within_1e_6() -> None:
    import keras

    x = np.geomspace(1, 5e3, 2000)
    found = keras.ops.convert_to_numpy(_log_gamma_ratio(keras.ops.convert_to_tensor(x)))
    np.testing.assert_allclose(found, gammaln(x + 0.5) - gammaln(x), rtol=0, atol=1e-6)


def test_no_quantiles_cross_in_a_million() -> None:
    # of every size, from values that float32 cannot tell from their neighbours to those that nearly overflow
    sizes = 10 ** RANDOM.uniform(-30, 30, (1_000_000, 1))
    quantiles = _parameters(Quantile(), RANDOM.normal(size=(1_000_000, len(PROBABILITIES))) * sizes)
    assert int((np.diff(quantiles, axis=1) < 0).sum()) == 0


@given(arrays(np.float32, (3, len(PROBABILITIES)), elements=ANY))
def test_quantiles_of_any_numbers_do_not_cross(raw: np.ndarray) -> None:
    assert (np.diff(_parameters(Quantile(), raw), axis=1) >= 0).all()


@given(arrays(np.float32, (3, 3), elements=ANY))
def test_scale_and_degrees_of_freedom_of_any_numbers_are_positive(raw: np.ndarray) -> None:
    location, scale, df = _parameters(StudentT(), raw).T
    np.testing.assert_array_equal(location, raw[:, 0])
    # with two degrees of freedom, the variance is not finite
    assert (scale > 0).all()
    assert (df >= 2).all()


@st.composite
def _grids(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw probabilities, and quantiles that increase with them."""
    percents = draw(st.lists(st.integers(1, 999), min_size=2, max_size=12, unique=True))
    grid = np.array(sorted(percents)) / 1000
    steps = draw(arrays(np.float64, len(grid), elements=st.floats(0, 1e6)))
    return grid, draw(st.floats(-1e6, 1e6)) + np.cumsum(steps)


@given(_grids())
def test_interpolated_quantiles_are_exact_on_the_grid_and_increase(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    grid, quantiles = drawn
    rounding = 1e-9 * np.abs(quantiles).max()
    np.testing.assert_allclose(interpolate_quantiles(quantiles[None], grid, grid)[0], quantiles, atol=rounding)
    # beyond the grid too
    between = interpolate_quantiles(quantiles[None], grid, np.linspace(0.0005, 0.9995, 200))[0]
    assert (np.diff(between) >= -1e-9 * np.abs(between).max()).all()


def test_quantiles_of_a_student_t_distribution_are_scipys() -> None:
    probabilities = np.array([0.005, 0.1, 0.5, 0.9, 0.995])
    parameters = np.array([[[1.5, 0.5, 2.5], [-2.0, 3.0, 40.0]]])
    location, scale, df = np.moveaxis(parameters, -1, 0)[..., None]
    expected = student_t.ppf(probabilities, df, location, scale)
    outputs = {"mean": parameters[..., 0], "student_t": parameters}
    np.testing.assert_allclose(StudentT().quantiles(outputs, probabilities, is_positive=False), expected, rtol=1e-9)
    np.testing.assert_allclose(
        StudentT().quantiles(outputs, probabilities, is_positive=True), np.exp(expected), rtol=1e-9
    )
