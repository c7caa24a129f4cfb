"""What is answered from windows of input, over HTTP and in batches alike: by whom, and the intervals around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.manifest import MIN_EFFECTIVE_WINDOWS, Skill
from forecaster.domain.series import Floats
from forecaster.evaluation.adaptive import adapted_probabilities
from forecaster.ledger.adaptation import NOMINAL_MISCOVERAGE_RATES
from forecaster.ledger.entries import LEVELS
from forecaster.registry.bands import Bands
from forecaster.registry.predictor import Predictor

MODEL = "model"
# the probabilities of the scored intervals' bounds
_EDGES = tuple(edge for level in LEVELS for edge in ((100 - level) / 200, (100 + level) / 200))


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of several series.

    Args:
        mean: `(n, horizon)`.
        spread: the columns that were asked for beside it, `(n, horizon, columns)`, NaN where nothing is calibrated.
        bounds: of the scored intervals, `(n, horizon, 2 × levels)`, likewise.
        is_adapted: of each series, whether what came has moved its intervals.
    """

    mean: Floats
    spread: Floats
    bounds: Floats
    is_adapted: list[bool]


def is_replaced(predictor: Predictor, without_skill: str) -> bool:
    """Say whether the baseline answers in the model's place: `without_skill` says so, and no skill is shown."""
    return without_skill == "baseline" and not predictor.manifest.skill.is_shown


def forecast_by(predictor: Predictor, is_baseline: bool) -> str:
    """Return by whose name a forecast goes."""
    return predictor.manifest.skill.baseline if is_baseline else MODEL


def answer(
    predictor: Predictor,
    values: Floats,
    known: Floats | None,
    horizon: int,
    wanted: Bands,
    learnt: Sequence[Floats | None],
    is_baseline: bool,
) -> Forecasts:
    """Return the forecasts of windows.

    Args:
        predictor: the version that answers.
        values: `(n, input_size, 1 + hist_exog)`.
        known: as `known_ahead` returns it; not looked at where the baseline answers.
        horizon: steps.
        wanted: the columns beside the mean.
        learnt: of each window's series, its miscoverage rates, as `read_miscoverage_rates` returns them; not looked at
            where the version's intervals are static.
        is_baseline: as `is_replaced` says.

    Raises:
        RequestError, SeriesError: as `predict_arrays` and `quantiles` say, or an interval is not finite.
    """
    mean = (
        predictor.predict_baseline(values, horizon) if is_baseline else predictor.predict_arrays(values, horizon, known)
    )
    follows = predictor.bundle.calibration.is_adaptive and not is_baseline
    is_adapted = [one is not None and follows for one in learnt]
    shares = _shares(learnt, horizon) if any(is_adapted) else None
    tails = None if shares is None else adapted_probabilities(_EDGES, LEVELS, shares)
    bounds = predictor.bounds(values, mean, LEVELS, is_baseline, tails)
    if wanted.probabilities == _EDGES and not np.isnan(bounds[:, 0]).any():
        # what most ask for is what is scored
        spread = bounds
    else:
        tails = None if shares is None else adapted_probabilities(wanted.probabilities, LEVELS, shares)
        spread = predictor.quantiles(values, mean, wanted.probabilities, is_baseline, tails)
    if np.isinf(spread).any() or np.isinf(bounds).any():
        raise RequestError("series: values so large have no finite interval; check their size and unit")
    return Forecasts(mean, spread, bounds, is_adapted)


def tell_skill(skill: Skill) -> dict[str, Any]:
    """Return what clients are told of a version's skill: the manifest's figures, and whether they show any."""
    return skill.model_dump() | {"is_shown": skill.is_shown}


def warnings_of(predictor: Predictor, horizon: int, is_baseline: bool, *, has_bands: bool) -> list[str]:
    """Return in words what whoever reads such forecasts should know."""
    warnings = []
    trained = predictor.manifest.horizon
    if horizon > trained:
        how = "are the baseline's" if is_baseline else "are rolled out on the model's own output"
        text = f"horizon {horizon} exceeds the trained {trained}: later steps {how}"
        warnings.append(text + (" and have no intervals" if has_bands else ""))
    skill = predictor.manifest.skill
    if not skill.is_shown:
        text = f"no demonstrated skill: {_why_no_skill(skill)}"
        warnings.append(text + (f"; this is the forecast of the {skill.baseline} baseline" if is_baseline else ""))
    calibration = predictor.bundle.baseline if is_baseline else predictor.bundle.calibration
    if has_bands and calibration is not None and calibration.n_effective < MIN_EFFECTIVE_WINDOWS:
        n = calibration.n_effective
        text = f"intervals rest on {calibration.n_windows} windows that are worth {n:.0f} independent ones"
        warnings.append(f"{text}: an 80 % interval's coverage is known to ± {200 * (0.8 * 0.2 / n) ** 0.5:.0f} points")
    return warnings


def _why_no_skill(skill: Skill) -> str:
    if skill.relative_mae is None or skill.relative_mae >= 1:
        return f"on its test part the model is no better than the {skill.baseline} baseline"
    better = f"on its test part the model is better than the {skill.baseline} baseline"
    if skill.p_value is None or skill.n_effective < MIN_EFFECTIVE_WINDOWS:
        return (
            f"{better}, but {skill.n_effective} windows without overlap are too few to tell ({MIN_EFFECTIVE_WINDOWS})"
        )
    return f"{better}, but maybe by chance (p {skill.p_value:.2g})"


def _shares(learnt: Sequence[Floats | None], horizon: int) -> Floats:
    """Return each series' allowed shares of misses, `(n, horizon, levels)`; the levels' own where nothing is learnt."""
    shares = np.tile(NOMINAL_MISCOVERAGE_RATES, (len(learnt), horizon, 1))
    for row, known in enumerate(learnt):
        if known is not None:
            steps = min(horizon, len(known))
            shares[row, :steps] = known[:steps]
    return shares
