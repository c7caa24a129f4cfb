"""Sample paths: their marginals are the quantiles, and their dependence is that of the templates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.domain.series import Floats
from forecaster.evaluation.conformal import PROBABILITIES
from forecaster.evaluation.paths import (
    MAX_TEMPLATES,
    draw_paths,
    generator,
    make_templates,
    max_templates,
    simultaneous_band,
)

GRID = np.array(PROBABILITIES)
HORIZON = 5


def walks(n: int, seed: int = 0) -> Floats:
    """Return errors that accumulate over the horizon."""
    return np.random.default_rng(seed).normal(size=(n, HORIZON)).cumsum(axis=1)


def draw(templates: Floats, n_samples: int, seed: int = 0, steps: int = HORIZON) -> Floats:
    """Return paths whose quantiles are those of 100,000 walks."""
    quantiles = np.quantile(walks(100_000, 9), GRID, axis=0).T
    return draw_paths(quantiles[:steps], GRID, make_templates(templates), n_samples, generator(seed, "a"))


@given(
    seed=st.integers(0, 2**31),
    n_samples=st.integers(1, 1000),
    n_templates=st.integers(1, 700),
    n_values=st.integers(1, 9),
)
def test_values_of_each_step_are_its_quantiles_at_equal_distances(
    seed: int, n_samples: int, n_templates: int, n_values: int
) -> None:
    random = np.random.default_rng(seed)
    # few different errors have many ties
    templates = make_templates(random.integers(0, n_values, (n_templates, HORIZON)).astype(float))
    quantiles = np.sort(random.standard_t(2, (HORIZON, len(GRID))), axis=1)
    paths = np.sort(draw_paths(quantiles, GRID, templates, n_samples, random), axis=0)
    for step in range(HORIZON):
        expected = np.interp((np.arange(n_samples) + 0.5) / n_samples, GRID, quantiles[step])
        np.testing.assert_allclose(paths[:, step], expected)


@pytest.mark.parametrize("n_samples", [500, 1000])
def test_paths_have_the_dependence_of_the_templates(n_samples: int) -> None:
    expected = np.corrcoef(walks(100_000, 9).T)
    dependent = draw(walks(500), n_samples)
    independent = draw(np.random.default_rng(1).normal(size=(500, HORIZON)), n_samples)
    np.testing.assert_allclose(np.corrcoef(dependent.T), expected, atol=0.15)
    assert np.abs(np.corrcoef(independent.T) - np.eye(HORIZON)).max() < 0.2


def test_ties_between_templates_do_not_favour_any_pair_of_steps() -> None:
    constant = draw(np.zeros((300, HORIZON)), 1000)
    assert np.abs(np.corrcoef(constant.T) - np.eye(HORIZON)).max() < 0.15


def test_simultaneous_band_contains_its_share_of_new_paths() -> None:
    low, high = simultaneous_band(np.stack([draw(walks(500, seed), 1000, seed) for seed in range(8)]), 80)
    unseen = walks(20_000, 99)[:, None]
    inside = (unseen >= low) & (unseen <= high)
    assert inside.all(axis=2).mean() == pytest.approx(0.8, abs=0.02)
    # each step alone has a higher coverage
    assert inside.mean() > 0.85


def test_seed_and_name_determine_the_paths() -> None:
    quantiles, templates = np.tile(np.linspace(-1, 1, len(GRID)), (HORIZON, 1)), make_templates(walks(100))

    def drawn(seed: int, name: str) -> str:
        return str(draw_paths(quantiles, GRID, templates, 20, generator(seed, name)).tolist())

    assert drawn(0, "a") == drawn(0, "a")
    assert len({drawn(0, "a"), drawn(1, "a"), drawn(0, "b")}) == 3


def test_paths_of_fewer_steps_are_the_beginnings_of_the_same_paths() -> None:
    # each template is used more than once, so that ties are broken
    np.testing.assert_array_equal(draw(walks(100), 250, steps=2), draw(walks(100), 250)[:, :2])


def test_templates_are_limited_in_number_and_share_ranks_on_ties() -> None:
    assert make_templates(walks(2000)).shape == (MAX_TEMPLATES, HORIZON)
    assert max_templates(5000) * 5000 <= 250_000
    assert make_templates(np.array([[0.5], [-1.0], [0.5], [2.0]])).tolist() == [[1], [0], [1], [2]]
