"""Forecasts of recipes without a network, computed without one: in a fraction of a second instead of seconds."""

from collections.abc import Sequence

import numpy as np

from forecaster.data.windows import Windows
from forecaster.domain.series import MEAN, Floats, X
from forecaster.models.network import raw_outputs
from forecaster.training.config import TrainConfig
from forecaster.training.examples import Examples
from forecaster.training.fit import skip_moments
from forecaster.training.stages import fit_preprocessing

# input values that are forecast at a time
_VALUES = 2**22


def forecast(config: TrainConfig, penalties: Sequence[float], seen: Windows, held_out: Windows) -> list[Floats]:
    """Return the forecasts of a recipe with `fit.epochs: 0` for each `skip_penalty`, `(n, horizon)` each.

    Args:
        config: the recipe.
        penalties: the values in place of its `skip_penalty`.
        seen: the windows to fit on.
        held_out: the windows to forecast.
    """
    preprocessing = fit_preprocessing(config, seen)
    solutions = [(np.zeros((seen.input_size, seen.horizon)), np.zeros(seen.horizon))] * len(penalties)
    if config.model.skip == "ridge":
        moments = skip_moments(Examples(seen, preprocessing, config.model), config.fit.batch_size)
        solutions = [moments.solve(penalty) for penalty in penalties]
    found: list[list[Floats]] = [[] for _ in penalties]
    for index in held_out.chunks(max(1, _VALUES // held_out.input_size)):
        prepared, contexts = preprocessing.forward(held_out.inputs(index).feeds)
        for forecasts, (weights, intercept) in zip(found, solutions, strict=True):
            answer = prepared[X][:, :, 0] @ weights + intercept
            forecasts.append(raw_outputs(config.model, preprocessing, answer[..., None], contexts)[MEAN])
    return [np.concatenate(forecasts) for forecasts in found]
