"""Synthetic series match their formula and are reproducible by the seed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.data.long_frame import check_long_frame
from forecaster.data.sources import RandomWalkSource, SineSource
from forecaster.data.sources.synthetic import Sine
from forecaster.domain.errors import ConfigError


def test_sine_source_matches_its_formula() -> None:
    source = SineSource(
        sines=(Sine(amplitude=2, period=10, phase=0.25), Sine(amplitude=0.5, period=7)),
        level=3,
        trend=0.1,
        noise=0,
        length=40,
    )
    t = np.arange(40)
    expected = 3 + 0.1 * t + 2 * np.cos(2 * np.pi * t / 10) + 0.5 * np.sin(2 * np.pi * t / 7)
    np.testing.assert_allclose(source.load()["y"], expected, atol=1e-12)


@given(kind=st.sampled_from(["normal", "uniform"]), noise=st.floats(0.01, 5), seed=st.integers(0, 2**31 - 2))
def test_noise_has_the_configured_deviation_and_follows_the_seed(kind: str, noise: float, seed: int) -> None:
    source = SineSource(sines=(), noise=noise, noise_kind=kind, length=4000, seed=seed)
    y = source.load()["y"]
    assert y.std() == pytest.approx(noise, rel=0.1)
    pd.testing.assert_series_equal(y, source.load()["y"])
    assert not y.equals(source.model_copy(update={"seed": seed + 1}).load()["y"])


def test_rows_of_a_series_share_its_name() -> None:
    names = SineSource(n_series=3, length=50).load()["unique_id"]
    assert len({id(name) for name in names}) == 3


def test_ranges_draw_a_value_for_each_series() -> None:
    frame = SineSource(
        sines=(Sine(amplitude=(1, 2), period=(5, 9), phase=(0, 1)),), noise=0, n_series=12, length=50
    ).load()
    peaks = frame.groupby("unique_id")["y"].max()
    assert list(peaks.index) == [f"sine-{number:02d}" for number in range(12)]
    assert peaks.nunique() == 12
    assert peaks.between(0.9, 2).all()


def test_random_walk_has_the_configured_returns() -> None:
    source = RandomWalkSource(first_price=50, drift=0.001, volatility=0.02, length=20_000, n_series=2, seed=5)
    frame = source.load()
    prices = frame["y"].to_numpy().reshape(2, -1)
    returns = np.diff(np.log(prices), axis=1)
    np.testing.assert_array_equal(prices[:, 0], 50)
    assert returns.std() == pytest.approx(0.02, rel=0.02)
    assert returns.mean() == pytest.approx(0.001, abs=3 * 0.02 / np.sqrt(40_000))
    pd.testing.assert_frame_equal(frame, source.load())


def test_timestamps_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.length: 300 steps of 12MS from 20.* end after 2262"):
        SineSource(freq="YS", length=300).load()


@pytest.mark.parametrize("freq", ["h", "B", "MS", "ME", "15min"])
def test_timestamps_have_the_configured_frequency(freq: str) -> None:
    frame = SineSource(freq=freq, length=60, n_series=2, start=pd.Timestamp("2026-08-01 00:00").to_pydatetime()).load()
    assert check_long_frame(frame).freq == freq
