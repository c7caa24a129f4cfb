"""One forecast function for HTTP, batches and Python: the model or its baseline, the intervals, and the warnings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.levels import LEVELS, bound_probabilities
from forecaster.domain.manifest import MIN_EFFECTIVE_WINDOWS, Skill
from forecaster.domain.series import Floats, Times
from forecaster.evaluation.adaptive import adapted_probabilities
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.paths import draw_paths, generator
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
        times: the timestamps of these rows, in each series' local time, `(n, input_size)`; None if the model takes no
            calendar features.
        futr_exog: the values for these rows and the forecast steps, as `known_ahead` takes them; None if the model
            takes none.
        static: what describes each series as a whole, `(n, columns)`; None if the model takes nothing of the kind.
        known: the result of `ArrayPredictor.known_ahead`, instead of `times` and `futr_exog`.
        unique_ids: the names of the series; only sample paths need them.
        miscoverage_rates: each series' adapted rates, as `read_miscoverage_rates` returns them, None for a series
            without scores; empty if no series has scores.
    """

    values: Floats
    times: Times | None = None
    futr_exog: Floats | None = None
    static: Floats | None = None
    known: Floats | None = None
    unique_ids: Sequence[str] = ()
    miscoverage_rates: Sequence[Floats | None] = ()


@dataclass(frozen=True)
class Forecast:
    """Forecasts of `n` series.

    Args:
        mean: `(n, horizon)`.
        columns: the names of the requested columns besides the mean.
        band_values: the values of these columns, `(n, horizon, columns)`, NaN where the step is not calibrated.
        bounds: the bounds of the scored intervals, `(n, horizon, 2 × levels)`, NaN where the step is not calibrated.
        is_adapted: for each series, whether its actuals have adapted its intervals, `(n,)`.
        forecast_by: `model`, or the name of the baseline that forecasts instead.
        warnings: warnings to show with the forecasts.
        samples: sample paths, `(n, n_samples, horizon)`; None if none were requested.
    """

    mean: Floats
    columns: tuple[str, ...]
    band_values: Floats
    bounds: Floats
    is_adapted: tuple[bool, ...]
    forecast_by: str
    warnings: tuple[str, ...]
    samples: Floats | None = None


@dataclass(frozen=True)
class Forecaster:
    """A version with the settings that all series of a request share. Safe to share between threads.

    Args:
        predictor: the version.
        horizon: number of steps.
        bands: the requested columns besides the mean.
        without_skill: `model` or `baseline`: what forecasts if the model shows no skill.
        n_samples: the number of sample paths; None for no paths.
        seed: the seed of the paths, at least 0.

    Raises:
        RequestError: the version does not support the horizon, the probability of a column, or sample paths.
    """

    predictor: ArrayPredictor
    horizon: int
    bands: Bands = _NONE
    without_skill: str = MODEL
    n_samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the horizon, the columns and the sample paths."""
        self.predictor.checks.check_horizon(self.horizon)
        self.predictor.check_probabilities(self.bands.probabilities, self.is_baseline)
        if self.n_samples is not None:
            if self.seed < 0:
                raise RequestError(f"seed: must be at least 0, got {self.seed}")
            self.predictor.check_samples(self.n_samples, self.horizon, self.is_baseline)

    @cached_property
    def is_baseline(self) -> bool:
        """Return whether the baseline forecasts instead of the model."""
        return self.without_skill == BASELINE and not self.predictor.manifest.skill.is_shown

    @property
    def forecast_by(self) -> str:
        """Return `model`, or the baseline's name."""
        return self.predictor.manifest.skill.baseline if self.is_baseline else MODEL

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Return the warnings to show with the forecasts."""
        return tuple(forecast_warnings(self.predictor, self.horizon, self.is_baseline, self.has_distribution))

    @property
    def has_distribution(self) -> bool:
        """Return whether intervals, quantiles or sample paths are requested."""
        return bool(self.bands.columns) or self.n_samples is not None

    def static_warnings(self, unique_ids: Sequence[str], static: Floats | None) -> list[str]:
        """Return a warning for each static column in which one of these series is unknown to the model."""
        return [] if self.is_baseline else list(self.predictor.static_columns.warnings(unique_ids, static))

    def predict(self, inputs: ForecastInputs) -> Forecast:
        """Return the forecasts; a series' forecast does not depend on the other series or on their number.

        Raises:
            RequestError, SeriesError, TooShortError: as for `predict_arrays`, or an interval is not finite.
            CalendarError: the exchange's calendar ends before the last step.
        """
        predictor, values, probabilities = self.predictor, inputs.values, self.bands.probabilities
        predicted = self._forecasts(inputs)
        bounds = predictor.bounds(values, predicted, LEVELS, self.is_baseline)
        # most requests are for the scored intervals
        is_scored = probabilities == _SCORED
        is_adaptive = predictor.bundle.calibration.is_adaptive and not self.is_baseline
        is_adapted = tuple(
            rates is not None and is_adaptive for rates in inputs.miscoverage_rates or [None] * len(values)
        )
        rows = np.flatnonzero(is_adapted)
        rates = _fill_rates([inputs.miscoverage_rates[row] for row in rows.tolist()], self.horizon)
        if len(rows):
            adapted = adapted_probabilities(_SCORED, LEVELS, rates)
            bounds[rows] = predictor.bounds(values[rows], predicted.take(rows), LEVELS, adapted=adapted)

        def quantiles(probabilities: tuple[float, ...], *, is_rounded: bool = True) -> Floats:
            find = partial(predictor.quantiles, is_rounded=is_rounded)
            found = find(values, predicted, probabilities, self.is_baseline)
            if len(rows):
                adapted = adapted_probabilities(probabilities, LEVELS, rates)
                found[rows] = find(values[rows], predicted.take(rows), probabilities, adapted=adapted)
            return found

        band_values = bounds if is_scored else quantiles(probabilities)
        # quantiles that are rounded outwards would bias the paths of small counts upwards
        unrounded = partial(quantiles, is_rounded=False)
        samples = None if self.n_samples is None else self._paths(unrounded, inputs.unique_ids, self.n_samples)
        served = (bounds, None if is_scored else band_values, samples)
        if any(np.isinf(found).any() for found in served if found is not None):
            raise RequestError("series: the values are too large for finite intervals; check their size and unit")
        return Forecast(
            predicted.mean,
            self.bands.columns,
            band_values,
            bounds,
            is_adapted,
            self.forecast_by,
            self.warnings,
            samples,
        )

    def _paths(
        self, quantiles: Callable[[tuple[float, ...]], Floats], unique_ids: Sequence[str], n_samples: int
    ) -> Floats:
        """Return the sample paths of the series, `(n, n_samples, horizon)`, given their quantiles by probability."""
        grid, templates = self.predictor.templates(self.is_baseline)
        named = zip(quantiles(tuple(grid.tolist())), unique_ids, strict=True)
        paths = [draw_paths(own, grid, templates, n_samples, generator(self.seed, name)) for own, name in named]
        return self.predictor.manifest.support.nearest(np.stack(paths))

    def _forecasts(self, inputs: ForecastInputs) -> Forecasts:
        if self.is_baseline:
            # the baseline needs no calendar
            return Forecasts(self.predictor.predict_baseline(inputs.values, self.horizon))
        known = inputs.known
        if known is None:
            known = self.predictor.known_ahead(inputs.times, self.horizon, inputs.futr_exog)
        return self.predictor.predict(inputs.values, self.horizon, known, inputs.static)


def describe_skill(skill: Skill) -> dict[str, Any]:
    """Return a version's skill as clients receive it: the manifest's metrics, and whether they show skill."""
    return skill.model_dump() | {"is_shown": skill.is_shown}


def forecast_warnings(predictor: ArrayPredictor, horizon: int, is_baseline: bool, has_bands: bool) -> list[str]:
    """Return the warnings to show with a version's forecasts, one sentence each."""
    warnings = []
    trained = predictor.manifest.horizon
    if horizon > trained:
        source = "are the baseline's" if is_baseline else "are rolled out on the model's own output"
        text = f"horizon {horizon} exceeds the trained {trained}: later steps {source}"
        warnings.append(text + (" and have no intervals" if has_bands else ""))
    skill = predictor.manifest.skill
    if not skill.is_shown:
        text = f"no demonstrated skill: {_why_no_skill(skill)}"
        warnings.append(text + (f"; this is the forecast of the {skill.baseline} baseline" if is_baseline else ""))
    calibration = predictor.calibration(is_baseline)
    if has_bands and calibration is not None and calibration.n_effective < MIN_EFFECTIVE_WINDOWS:
        n = calibration.n_effective
        text = f"intervals are calibrated on {calibration.n_windows} windows, effectively {n:.0f} independent ones"
        warnings.append(f"{text}: an 80 % interval's coverage is known to ± {200 * (0.8 * 0.2 / n) ** 0.5:.0f} points")
    return warnings


def _why_no_skill(skill: Skill) -> str:
    if skill.relative_mae is None or skill.relative_mae >= 1:
        return f"on its test part the model is no better than the {skill.baseline} baseline"
    better = f"on its test part the model is better than the {skill.baseline} baseline"
    if skill.p_value is None or skill.n_effective < MIN_EFFECTIVE_WINDOWS:
        return (
            f"{better}, but {skill.n_effective} windows without overlap are too few to show skill (at least "
            f"{MIN_EFFECTIVE_WINDOWS})"
        )
    return f"{better}, but maybe by chance (p {skill.p_value:.2g})"


def _fill_rates(miscoverage_rates: Sequence[Floats | None], horizon: int) -> Floats:
    """Return each series' miscoverage rates, `(n, horizon, levels)`, nominal for steps without scores."""
    filled = np.empty((len(miscoverage_rates), horizon, len(LEVELS)))
    filled[:] = NOMINAL_MISCOVERAGE_RATES
    for row, rates in enumerate(miscoverage_rates):
        if rates is not None:
            steps = min(horizon, len(rates))
            filled[row, :steps] = rates[:steps]
    return filled
