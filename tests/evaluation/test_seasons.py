"""Seasons: those of the calendar, and the one that is found in train rows."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from forecaster.domain.frequency import parse
from forecaster.domain.series import Floats
from forecaster.evaluation.seasons import autocorrelation, find_season, natural_seasons

RANDOM = np.random.default_rng(0)
INPUT_SIZE, HORIZON = 40, 8


@pytest.mark.parametrize(
    ("freq", "expected"),
    [
        ("h", (24, 168)),
        ("15min", (4, 96, 672)),
        ("D", (7, 365)),
        ("B", (5,)),
        ("W", (52,)),
        ("MS", (12,)),
        ("QE", (4,)),
        ("YS", ()),
        ("7h", (24,)),
        ("5h", ()),
    ],
)
def test_natural_seasons_are_those_of_the_calendar(freq: str, expected: tuple[int, ...]) -> None:
    assert natural_seasons(parse(freq)) == expected


def found(rows: Floats, natural: tuple[int, ...] = ()) -> int | None:
    view = sliding_window_view(rows, INPUT_SIZE + HORIZON)
    return find_season(view[:, :INPUT_SIZE], view[:, INPUT_SIZE:], [rows], natural)


def test_season_is_found_beside_a_trend_and_noise() -> None:
    time = np.arange(400)
    pattern = RANDOM.normal(size=11)[time % 11]
    assert found(pattern * 5 + 0.1 * time + RANDOM.normal(size=400)) == 11
    missing = np.where(RANDOM.random(400) < 0.2, np.nan, pattern)
    assert found(missing) in (11, 22, 33)
    # the calendar's is preferred where it forecasts better, and ignored where it does not fit into a window
    assert found(pattern, (7, 11, 400)) == 11


def test_what_does_not_repeat_has_no_season() -> None:
    assert found(np.arange(200.0)) is None
    assert found(np.full(200, 3.0)) is None


def test_autocorrelation_is_its_definition() -> None:
    rows = RANDOM.normal(size=50) + 0.3 * np.arange(50)
    rest = rows - np.polyval(np.polyfit(np.arange(50), rows, 1), np.arange(50))
    expected = [rest[: 50 - lag] @ rest[lag:] / (rest @ rest) for lag in range(6)]
    np.testing.assert_allclose(autocorrelation(rows, 5), expected, atol=1e-12)
