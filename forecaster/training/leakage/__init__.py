"""The leakage audit: run the recipe again with a changed future, and require that nothing before it changes.

The audit runs the same functions as a training, from the data frame on. It cannot see leakage into a column that
happened before; docs/evaluation.md lists what else it cannot see.
"""

import pandas as pd

from forecaster.data.windows import PARTS, cut_windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.manifest import Certificate
from forecaster.models.trained import TrainedNetwork
from forecaster.training import config as recipe
from forecaster.training.config import TrainConfig
from forecaster.training.leakage.forecasts import N_CUTOFFS, check_forecasts
from forecaster.training.leakage.metrics import check_metrics, check_stopping, forecast_held_out
from forecaster.training.leakage.preprocessing import check_border, check_transforms
from forecaster.training.leakage.rehearsal import EPOCHS, are_equal, rehearse
from forecaster.training.leakage.windows import check_parts, check_series, check_windows
from forecaster.training.stages import Evaluation

__all__ = ["N_CUTOFFS", "certify"]


def certify(
    config: TrainConfig,
    frame: pd.DataFrame,
    evaluated: Evaluation,
    served: TrainedNetwork,
    warm_started_from: int | None = None,
) -> Certificate:
    """Audit a training and return its certificate.

    Args:
        config: its recipe.
        frame: its data.
        evaluated: the recipe's evaluation on the held-out parts.
        served: the network to register.
        warm_started_from: the version whose weights the served network started from.

    Raises:
        LeakageError: a result changes with data that come after its border or cutoff, or does not change with data
            that it must depend on.
    """
    series = recipe.prepare(config, frame)
    parts = recipe.split(config, series)
    check_parts(config, series, parts)
    check_series(config, frame, series)
    for name, windows in parts.items():
        check_windows(config, series, windows, name)
    digests = {PARTS[number]: check_border(config, frame, series, parts, number) for number in range(1, len(PARTS))}
    every = cut_windows(series, config.input_size, config.horizon)
    check_transforms(served.preprocessing, every)
    forecasts = forecast_held_out(parts, evaluated.trained)
    check_metrics(parts, evaluated, forecasts)
    check_stopping(config, parts["validation"], evaluated)
    if not config.refit and not are_equal(served, evaluated.trained):
        raise LeakageError("the served network is not the one that was evaluated; report this with the configuration")
    cutoffs = check_forecasts(config, frame, series, served)
    return Certificate(
        digests=digests,
        cutoffs=cutoffs,
        windows=len(every),
        rehearsed=rehearse(config, frame, series, parts),
        rehearsed_epochs=EPOCHS,
        warm_started_from=warm_started_from,
    )
