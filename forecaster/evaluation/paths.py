"""Sample paths: joint draws of all steps of a forecast, each step distributed as its quantiles say.

The quantiles fix how likely a value is at a step. Templates fix which values come together: the ranks, step by step, of
past errors over the horizon. A path takes its ranks from a template and its values from the quantiles.

Sources: Clark et al. (2004), doi:10.1175/1525-7541(2004)005<0243:TSSAMF>2.0.CO;2, for ranks from the past (the Schaake
shuffle); Schefzik, Thorarinsdottir & Gneiting (2013), arXiv 1302.7149, for ranks as an empirical copula, with
equidistant quantiles; Bröcker (2012), doi:10.1002/qj.1891, for the middles of strata.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.series import Floats

Ranks = NDArray[np.int64]
MAX_TEMPLATES = 500
# bounds the size of a bundle with a long horizon
MAX_RANKS = 250_000


def max_templates(horizon: int) -> int:
    """Return the largest number of templates that are kept for a horizon."""
    return max(1, min(MAX_TEMPLATES, MAX_RANKS // horizon))


def make_templates(errors: Floats) -> Ranks:
    """Return the ranks of past errors among those of the same step, `(n_templates, horizon)`; ties share a rank.

    Args:
        errors: out-of-sample errors, comparable between windows, `(n, horizon)`.
    """
    n, horizon = errors.shape
    # drawn at random, because every k-th window may belong to the same series
    rows = np.sort(np.random.default_rng(0).permutation(n)[: max_templates(horizon)])
    return np.column_stack([np.unique(column, return_inverse=True)[1] for column in errors[rows].T])


def draw_paths(
    quantiles: Floats, probabilities: Floats, templates: Ranks, n_samples: int, random: np.random.Generator
) -> Floats:
    """Return sample paths of one forecast, `(n_samples, steps)`.

    At each step the values are the quantiles in the middle of `n_samples` strata of equal probability. A probability
    beyond the outermost quantiles gets the outermost value, as nothing is known about the tails.

    Args:
        quantiles: of each step, `(steps, n_probabilities)`, increasing with the probabilities.
        probabilities: 0–1, increasing, `(n_probabilities,)`.
        templates: of at least as many steps, `(n_templates, at least steps)`.
        n_samples: number of paths. If there are fewer templates, they are used several times.
        random: the source of all random numbers.
    """
    n_templates, steps = len(templates), len(quantiles)
    rounds = -(-n_samples // n_templates)
    rows = np.concatenate([random.permutation(n_templates) for _ in range(rounds)])[:n_samples]
    # drawn for the whole horizon, so that the paths of fewer steps are the beginnings of the same paths
    ties = random.random((n_samples, templates.shape[1]))[:, :steps]
    order = np.lexsort((ties, templates[rows, :steps]), axis=0)
    strata = (np.argsort(order, axis=0) + 0.5) / n_samples
    values = [np.interp(at, probabilities, row) for at, row in zip(strata.T, quantiles, strict=True)]
    return np.column_stack(values)


def generator(seed: int, unique_id: str) -> np.random.Generator:
    """Return the random numbers of a series' paths, which do not depend on the other series of a request."""
    digest = hashlib.sha256(unique_id.encode(errors="surrogatepass")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest)])


def simultaneous_band(paths: Floats, level: float) -> tuple[Floats, Floats]:
    """Return the lower and upper bounds `(n, steps)` that contain a share of the paths as a whole.

    The bounds are at the same rank from either end at each step. Source: Besag et al. (1995),
    doi:10.1214/ss/1177010123, section 6.3.

    Args:
        paths: sample paths of `n` forecasts, `(n, n_samples, steps)`.
        level: the share of the paths, 0–100.
    """
    ordered, n_samples = np.sort(paths, axis=1), paths.shape[1]
    ranks = np.argsort(np.argsort(paths, axis=1), axis=1)
    # how far from the outermost ranks a path stays
    depths = np.minimum(ranks, n_samples - 1 - ranks).min(axis=2)
    outside = int((1 - level / 100) * n_samples)
    depth = np.sort(depths, axis=1)[:, outside][:, None, None]
    low, high = (np.take_along_axis(ordered, at, axis=1)[:, 0] for at in (depth, n_samples - 1 - depth))
    return low, high
