"""Build the manifest's fields about a training: its data, its recipe's skill, and its preprocessing."""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import Windows
from forecaster.domain.levels import LEVELS
from forecaster.domain.manifest import (
    CHANGES,
    MAX_ROLL_OUT,
    VALUES,
    Category,
    Reference,
    Skill,
    TrainingData,
    describe_inputs,
    feature_names,
)
from forecaster.domain.missing import mean_of_observed
from forecaster.domain.series import Floats, Series, Times
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.drift import reference_bins
from forecaster.evaluation.significance import MIN_WINDOWS, diebold_mariano
from forecaster.models.network import output_shapes
from forecaster.models.trained import TrainedNetwork
from forecaster.training.config import TrainConfig, get_sessions
from forecaster.training.dataset import Dataset, count_missing
from forecaster.training.stages import Evaluation


def build_manifest(
    config: TrainConfig,
    dataset: Dataset,
    evaluated: Evaluation,
    served: TrainedNetwork,
    seen: Windows,
    test: Windows,
) -> dict[str, Any]:
    """Return the manifest's fields about a training, except its certificate.

    Args:
        config: the recipe.
        dataset: its data.
        evaluated: the recipe's evaluation on the held-out parts.
        served: the network to register.
        seen: the windows that `served` was fitted on.
        test: the test part's windows.
    """
    series = dataset.series
    return {
        "name": config.name,
        "topology": config.model.topology,
        "cell": config.model.cell,
        "encoder": config.model.encoder.model_dump(),
        "decoder": config.model.decoder.model_dump(),
        "head": config.model.head.model_dump(),
        "inputs": describe_inputs(
            config.input_size,
            config.horizon,
            [exog.column for exog in config.hist_exog],
            (*config.futr_exog, *config.calendar_features),
            series.static_columns.names,
        ),
        "outputs": output_shapes(config.model, config.shape),
        "input_size": config.input_size,
        "horizon": config.horizon,
        # a roll-out cannot supply exogenous values beyond the trained horizon
        "max_horizon": config.horizon * (1 if config.exogenous else MAX_ROLL_OUT),
        "freq": series.freq,
        "sessions": get_sessions(config),
        "is_positive": evaluated.trained.preprocessing.target.needs_positive,
        "support": config.support,
        "missing": config.missing,
        "least_rows": config.least_rows if config.n_padded else None,
        "training_data": TrainingData(
            digest=dataset.digest,
            n_series=len(series),
            rows=len(series.values) - config.n_padded * len(series),
            first=str(series.timestamps[series.bounds[:-1] + config.n_padded].min()),
            last=str(series.timestamps.max()),
            missing=count_missing(config, series),
            reference=_reference(config, series, evaluated.trained.preprocessing.target.needs_positive),
        ),
        "trained_until": _trained_until(series, seen),
        "recipe_metrics": evaluated.metrics,
        "skill": _skill(config, series, test, evaluated),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **_preprocessing(config, served.preprocessing),
        **_static(series, served.preprocessing),
    }


def _reference(config: TrainConfig, series: Series, is_positive: bool) -> dict[str, Reference]:
    """Return histograms of the target, its changes (of logarithms if it is positive) and each exogenous column."""
    targets = [series.values[within, 0] for _, within in series]
    spread = {
        VALUES: np.concatenate(targets),
        CHANGES: np.concatenate([np.diff(np.log(target) if is_positive else target) for target in targets]),
    }
    columns = series.values[:, 1:] if series.known is None else np.hstack([series.values[:, 1:], series.known])
    names = feature_names([exog.column for exog in config.hist_exog], config.futr_exog)
    spread |= {name: columns[:, number] for number, name in enumerate(names)}
    # no two successive values may be observed, and then no change is known
    bins = {name: reference_bins(values) for name, values in spread.items() if not np.isnan(values).all()}
    return {name: Reference(edges=tuple(edges), shares=tuple(shares)) for name, (edges, shares) in bins.items()}


def _skill(config: TrainConfig, series: Series, test: Windows, evaluated: Evaluation) -> Skill:
    every = np.arange(len(test))
    cutoffs = test.input_times(series.timestamps, every)[:, -1]
    actual, naive = test.targets(), last_value(test.inputs().target, config.horizon)
    ours, theirs = (
        _by_cutoff(cutoffs, mean_of_observed(np.abs(actual - mean))) for mean in (evaluated.test_forecast, naive)
    )
    is_enough = len(ours) >= max(MIN_WINDOWS, config.horizon + 1)
    target_times = test.target_times(series.timestamps, every)
    return Skill(
        baseline="naive",
        relative_mae=evaluated.metrics.get("relative_mae"),
        n_windows=len(test),
        n_effective=len(ours) // config.horizon,
        p_value=diebold_mariano(ours, theirs, config.horizon, "less").p_value if is_enough else None,
        coverage={
            str(level): evaluated.metrics[f"coverage-{level}"]
            for level in LEVELS
            if f"coverage-{level}" in evaluated.metrics
        },
        first=str(target_times.min()),
        last=str(target_times.max()),
    )


def _by_cutoff(cutoffs: Times, losses: Floats) -> Floats:
    """Return the mean loss at each cutoff, in order: windows with the same cutoff are not independent evidence."""
    numbers = np.unique(cutoffs, return_inverse=True)[1]
    return np.asarray(np.bincount(numbers, losses) / np.bincount(numbers))


def _trained_until(series: Series, seen: Windows) -> str:
    last = seen.first + (seen.counts - 1) * seen.step_size + seen.input_size + seen.horizon - 1
    return str(series.timestamps[last].max())


def _preprocessing(config: TrainConfig, fitted: Preprocessing) -> dict[str, Any]:
    """Return the manifest's fields about the preprocessing, with its fitted numbers."""
    hist = zip(config.hist_exog, fitted.hist, strict=True)
    known = [scale.model_dump() for scale in fitted.known]
    n_futr = len(config.futr_exog)
    return {
        "transforms": [step.model_dump() for step in fitted.target.steps],
        "hist_exog": {exog.column: [step.model_dump() for step in chain.steps] for exog, chain in hist},
        "futr_exog": dict(zip(config.futr_exog, known[:n_futr], strict=True)),
        "calendar_features": dict(zip(config.calendar_features, known[n_futr:], strict=True)),
    }


def _static(series: Series, fitted: Preprocessing) -> dict[str, Any]:
    """Return the manifest's fields about the static columns: their scales, and the names that were fitted."""
    columns = series.static_columns.without(fitted.unseen)
    scales = (scale.model_dump() for scale in fitted.numbers)
    categories = {name: Category(values=names) for name, names in columns.categories.items()}
    return {"stat_exog": dict(zip(columns.numbers, scales, strict=True)) | categories, "series": columns.series}
