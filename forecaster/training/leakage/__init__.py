"""The leakage audit: the recipe is run again with the future changed, and nothing before it may differ by a bit.

It runs the very functions that a training runs, from the frame on. What leaks into a column before there is a frame is
out of its sight; docs/evaluation.md lists what else is.
"""

import pandas as pd

from forecaster.data.windows import PARTS, cut_windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.manifest import Certificate
from forecaster.training import config as recipe
from forecaster.training.config import TrainConfig
from forecaster.training.export import Trained
from forecaster.training.leakage.figures import check_metrics, check_stopping
from forecaster.training.leakage.forecasts import N_CUTOFFS, check_forecasts
from forecaster.training.leakage.prepared import check_border, check_transforms
from forecaster.training.leakage.rehearsal import EPOCHS, are_equal, rehearse
from forecaster.training.leakage.windows import check_parts, check_series, check_windows
from forecaster.training.stages import Evaluated

__all__ = ["N_CUTOFFS", "certify"]


def certify(
    config: TrainConfig,
    frame: pd.DataFrame,
    evaluated: Evaluated,
    served: Trained,
    warm_started_from: int | None = None,
) -> Certificate:
    """Return the certificate of a training.

    Args:
        config: its recipe.
        frame: what it was given.
        evaluated: what the held-out parts said of the recipe.
        served: the network that is to be registered.
        warm_started_from: the version whose weights the served network started from.

    Raises:
        LeakageError: something before a border or a cutoff changes with what comes after it, or what must change does
            not.
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
    check_metrics(parts, evaluated)
    check_stopping(config, parts["validation"], evaluated)
    if not config.refit and not are_equal(served, evaluated.trained):
        raise LeakageError("the served network is not the one that was evaluated; report it with the configuration")
    cutoffs = check_forecasts(config, frame, series, served)
    return Certificate(
        digests=digests,
        cutoffs=cutoffs,
        windows=len(every),
        rehearsed=rehearse(config, frame, series, parts),
        rehearsed_epochs=EPOCHS,
        warm_started_from=warm_started_from,
    )
