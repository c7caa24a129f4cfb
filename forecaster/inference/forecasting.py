"""One forecast function for HTTP, batches and Python: the model or its baseline, the intervals, and the warnings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.levels import LEVELS, bound_probabilities
from forecaster.domain.manifest import MIN_EFFECTIVE_WINDOWS, Skill
from forecaster.domain.series import Floats, Times
from forecaster.evaluation.adaptive import adapted_probabilities
from forecaster.ledger.adaptation import NOMINAL_MISCOVERAGE_RATES
from forecaster.registry.bands import Bands, bands
from forecaster.registry.predictor import ArrayPredictor

MODEL, BASELINE = "model", "baseline"
_NONE = bands()
# the probabilities of the scored intervals' bounds
_SCORED = bound_probabilities(LEVELS)


@dataclass(frozen=True)
class ForecastInputs:
    """The inputs of `n` series.

    Args:
        values: the target and `hist_exog`, `(n, input_size, 1 + hist_exog)`.
        times: the rows' timestamps, by each series' own clock, `(n, input_size)`; None where no calendar feature is
            taken.
        futr_exog: over these rows and the steps to come, as `known_ahead` takes it; None where none is taken.
        known: what `ArrayPredictor.known_ahead` returns, in place of `times` and `futr_exog`.
        learnt: each series' adapted miscoverage rates, as `read_miscoverage_rates` returns them; None for a series
            without scores; empty where no series has any.
    """

    values: Floats
    times: Times | None = None
    futr_exog: Floats | None = None
    known: Floats | None = None
    learnt: Sequence[Floats | None] = ()


@dataclass(frozen=True)
class Forecast:
    """Forecasts of `n` series.

    Args:
        mean: `(n, horizon)`.
        columns: the names of the requested columns beside the mean.
        spread: their values, `(n, horizon, columns)`, NaN where nothing is calibrated.
        bounds: of the scored intervals, `(n, horizon, 2 × levels)`, likewise.
        is_adapted: of each series, whether its actuals have moved its intervals, `(n,)`.
        forecast_by: `model`, or the baseline that forecasts in its place.
        warnings: what a reader should know, in words.
    """

    mean: Floats
    columns: tuple[str, ...]
    spread: Floats
    bounds: Floats
    is_adapted: tuple[bool, ...]
    forecast_by: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Forecaster:
    """A version with the settings that all series of a request share. Safe to share between threads.

    Args:
        predictor: the version.
        horizon: steps.
        wanted: the columns beside the mean.
        without_skill: what forecasts where the model shows no skill, `model` or `baseline`.

    Raises:
        RequestError: the horizon, or a column's probability, is beyond what the version answers.
    """

    predictor: ArrayPredictor
    horizon: int
    wanted: Bands = _NONE
    without_skill: str = MODEL

    def __post_init__(self) -> None:
        """Check the horizon and the columns."""
        self.predictor.check_horizon(self.horizon)
        self.predictor.check_probabilities(self.wanted.probabilities, self.is_baseline)

    @cached_property
    def is_baseline(self) -> bool:
        """Say whether the baseline forecasts in the model's place."""
        return self.without_skill == BASELINE and not self.predictor.manifest.skill.is_shown

    @property
    def forecast_by(self) -> str:
        """Return `model`, or the baseline's name."""
        return self.predictor.manifest.skill.baseline if self.is_baseline else MODEL

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Return what a reader of these forecasts should know, in words."""
        return tuple(forecast_warnings(self.predictor, self.horizon, self.is_baseline, bool(self.wanted.columns)))

    def predict(self, inputs: ForecastInputs) -> Forecast:
        """Return the forecasts; none depends on the other series, nor on how many there are.

        Raises:
            RequestError, SeriesError, TooShortError: as `predict_arrays` says, or an interval is not finite.
            CalendarError: the exchange's calendar ends before the last step.
        """
        predictor, values, wanted = self.predictor, inputs.values, self.wanted.probabilities
        mean = self._mean(inputs)
        bounds = predictor.bounds(values, mean, LEVELS, self.is_baseline)
        # most requests ask for the scored intervals
        spread = bounds if wanted == _SCORED else predictor.quantiles(values, mean, wanted, self.is_baseline)
        follows = predictor.bundle.calibration.is_adaptive and not self.is_baseline
        is_adapted = tuple(one is not None and follows for one in inputs.learnt or [None] * len(values))
        rows = np.flatnonzero(is_adapted)
        if len(rows):
            shares = _shares([inputs.learnt[row] for row in rows.tolist()], self.horizon)
            past, around = values[rows], mean[rows]
            if spread is not bounds:
                adapted = adapted_probabilities(wanted, LEVELS, shares)
                spread[rows] = predictor.quantiles(past, around, wanted, adapted=adapted)
            adapted = adapted_probabilities(_SCORED, LEVELS, shares)
            bounds[rows] = predictor.bounds(past, around, LEVELS, adapted=adapted)
        if np.isinf(spread).any() or np.isinf(bounds).any():
            raise RequestError("series: values so large have no finite interval; check their size and unit")
        return Forecast(mean, self.wanted.columns, spread, bounds, is_adapted, self.forecast_by, self.warnings)

    def _mean(self, inputs: ForecastInputs) -> Floats:
        if self.is_baseline:
            # the baseline needs no calendar
            return self.predictor.predict_baseline(inputs.values, self.horizon)
        known = inputs.known
        if known is None:
            known = self.predictor.known_ahead(inputs.times, self.horizon, inputs.futr_exog)
        return self.predictor.predict_arrays(inputs.values, self.horizon, known)


def tell_skill(skill: Skill) -> dict[str, Any]:
    """Return a version's skill as clients see it: the manifest's figures, and whether they show skill."""
    return skill.model_dump() | {"is_shown": skill.is_shown}


def forecast_warnings(predictor: ArrayPredictor, horizon: int, is_baseline: bool, has_bands: bool) -> list[str]:
    """Return what a reader of these forecasts should know, one sentence each."""
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
    """Return each series' miscoverage rates, `(n, horizon, levels)`; the nominal ones where a series has no scores."""
    shares = np.tile(NOMINAL_MISCOVERAGE_RATES, (len(learnt), horizon, 1))
    for row, known in enumerate(learnt):
        if known is not None:
            steps = min(horizon, len(known))
            shares[row, :steps] = known[:steps]
    return shares
