"""Residuals of windows that a network has not seen: the recipe's on calibration, its forward folds' on what is before.

A short backtest inside the training, in place of one small part: Xu & Xie (2021), PMLR 139, and Barber et al. (2021),
doi:10.1214/20-AOS1965, use a sample's rows likewise, by networks that have each left some out.
"""

from collections.abc import Sequence

import numpy as np

from forecaster.data.windows import Windows
from forecaster.domain.series import Floats, Times
from forecaster.evaluation.adaptive import Bands, adaptive_bands
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.choice import LEVELS, Residuals, choose
from forecaster.evaluation.conformal import Calibration
from forecaster.evaluation.units import candidates
from forecaster.training.config import TrainConfig, unfitted
from forecaster.training.folds import forward_folds

Folds = Sequence[tuple[Windows, Windows]]


def folds_of(config: TrainConfig, parts: dict[str, Windows]) -> Folds:
    """Return the windows to fit on and to forecast of each fold before the calibration part.

    Where whole series are split there are none: the calibration part's series are unseen already.
    """
    if config.split.by == "series":
        return []
    return list(forward_folds(parts["train"], parts["validation"], config.folds))


def calibrate_on(config: TrainConfig, forecasts: Sequence[tuple[Windows, Floats]]) -> Calibration:
    """Return the calibration that out-of-sample forecasts `(n, horizon)` of windows give."""
    windows = [one for one, _ in forecasts]
    residuals = Residuals(
        np.concatenate([one.targets() for one in windows]),
        np.concatenate([predicted for _, predicted in forecasts]),
        np.concatenate([one.inputs().target for one in windows]),
        np.concatenate([_cutoffs(one) for one in windows]),
        np.concatenate([one.owners_of(np.arange(len(one))) for one in windows]),
    )
    in_time = residuals.take(np.argsort(residuals.cutoffs, kind="stable"))
    return choose(in_time, candidates(config.intervals, unfitted(config).target.needs_positive))


def calibrate_naive(config: TrainConfig, parts: dict[str, Windows]) -> Calibration:
    """Return the last value's calibration, on the windows that the recipe's has."""
    windows = [*(held_out for _, held_out in folds_of(config, parts)), parts["calibration"]]
    return calibrate_on(config, [(one, last_value(one.inputs().target, config.horizon)) for one in windows])


def served_bands(calibration: Calibration, windows: Windows, mean: Floats) -> Bands:
    """Return each known level's bounds of successive windows, `(n, horizon)` each, as a version would serve them."""
    past, levels = windows.inputs().target, [level for level in LEVELS if calibration.supports(level)]
    if not calibration.is_adaptive:
        return {level: (mean + low, mean + high) for level, (low, high) in calibration.bands(past, levels).items()}
    cutoffs, numbers = np.unique(_cutoffs(windows), return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    actual, units, owners = windows.targets(), calibration.units(past), windows.owners_of(np.arange(len(windows)))
    bands = adaptive_bands(
        [calibration] * len(cutoffs), actual[order], mean[order], units[order], levels, numbers[order], owners[order]
    )
    back = np.argsort(order)
    return {level: (low[back], high[back]) for level, (low, high) in bands.items()}


def _cutoffs(windows: Windows) -> Times:
    return windows.input_times(windows.timestamps, np.arange(len(windows)))[:, -1]
