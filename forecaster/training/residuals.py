"""Calibrate intervals on out-of-sample residuals: those of the calibration part and of forward folds before it.

The folds are a short backtest within the training, so that the residuals come from more rows than the calibration part
has. Xu & Xie (2021), PMLR 139, and Barber et al. (2021), doi:10.1214/20-AOS1965, likewise use networks that are each
fitted without some of the rows.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from forecaster.data.windows import Windows
from forecaster.domain.levels import LEVELS
from forecaster.domain.series import Times
from forecaster.evaluation.adaptive import Bands, adapt
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.choice import Residuals, choose
from forecaster.evaluation.conformal import Calibration
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.units import candidates
from forecaster.training.config import TrainConfig, build_preprocessing
from forecaster.training.folds import forward_folds

Folds = Sequence[tuple[Windows, Windows]]


def folds_of(config: TrainConfig, parts: dict[str, Windows]) -> Folds:
    """Return the windows to fit on and the windows to forecast, for each fold before the calibration part.

    A split by series has no folds: the calibration part's series are already unseen.
    """
    if config.split.by == "series":
        return []
    return list(forward_folds(parts["train"], parts["validation"], config.folds))


def calibrate_on(config: TrainConfig, forecasts: Sequence[tuple[Windows, Forecasts]]) -> Calibration:
    """Return the calibration from out-of-sample forecasts: pairs of windows and their forecasts."""
    parts = [windows for windows, _ in forecasts]
    residuals = Residuals(
        np.concatenate([windows.targets() for windows in parts]),
        Forecasts.join([predicted for _, predicted in forecasts]),
        np.concatenate([windows.inputs().target for windows in parts]),
        np.concatenate([_cutoffs(windows) for windows in parts]),
        np.concatenate([windows.owners_of(np.arange(len(windows))) for windows in parts]),
        config.support,
    )
    in_time = residuals.take(np.argsort(residuals.cutoffs, kind="stable"))
    chosen = choose(in_time, candidates(config.intervals, build_preprocessing(config).target.needs_positive))
    return replace(chosen, templates=in_time.templates(chosen))


def calibrate_naive(config: TrainConfig, parts: dict[str, Windows]) -> Calibration:
    """Return the calibration of the last-value baseline, on the same windows as the recipe's calibration."""
    held_out = [*(windows for _, windows in folds_of(config, parts)), parts["calibration"]]
    return calibrate_on(
        config, [(windows, Forecasts(last_value(windows.inputs().target, config.horizon))) for windows in held_out]
    )


def served_bands(calibration: Calibration, windows: Windows, predicted: Forecasts) -> Bands:
    """Return the bounds that a version would serve for successive windows, `(n, horizon)` each, by calibrated level."""
    past, levels = windows.inputs().target, [level for level in LEVELS if calibration.supports(level)]
    if not calibration.is_adaptive:
        return calibration.bands(past, levels, predicted)
    cutoffs, numbers = np.unique(_cutoffs(windows), return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    actual, units, owners = windows.targets(), calibration.units(past), windows.owners_of(np.arange(len(windows)))
    bands = adapt(
        [calibration] * len(cutoffs),
        actual[order],
        predicted.take(order),
        units[order],
        levels,
        numbers[order],
        owners[order],
    ).bands
    back = np.argsort(order)
    return {level: (low[back], high[back]) for level, (low, high) in bands.items()}


def _cutoffs(windows: Windows) -> Times:
    return windows.input_times(windows.timestamps, np.arange(len(windows)))[:, -1]
