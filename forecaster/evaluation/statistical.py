"""Classical models as baselines, fitted anew to each window's history by statsforecast. A new one is an entry here.

Source: Garza, Mergenthaler Canseco, Challú & Olivares (2022), StatsForecast.
"""

import multiprocessing
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from forecaster.domain.errors import DataError
from forecaster.domain.series import Floats

# by the names of their classes: Hyndman & Khandakar (2008), doi:10.18637/jss.v027.i03, for the first and the last;
# Fiorucci et al. (2016), doi:10.1016/j.ijforecast.2016.02.005
STATISTICAL = {"auto_ets": "AutoETS", "theta": "AutoTheta", "auto_arima": "AutoARIMA"}
# older rows say little to them, and cost
MAX_ROWS = 1000
# fewer are done before other processes have started
_FEW = 200


def forecast_histories(
    name: str, histories: Sequence[Floats], horizon: int, season_length: int, n_processes: int | None = None
) -> Floats:
    """Return forecasts `(n, horizon)`, each by a model fitted to one history, on all cores.

    Args:
        name: of `STATISTICAL`.
        histories: the target's past of each window, `(rows,)`; at most the last `MAX_ROWS` are looked at.
        horizon: steps.
        season_length: rows of a season.
        n_processes: how many at once; one for each core when None.

    Raises:
        DataError: the model cannot be fitted to a history.
    """
    tasks = [(name, history[-MAX_ROWS:], horizon, season_length) for history in histories]
    n_processes = n_processes or len(os.sched_getaffinity(0))
    if len(tasks) < _FEW or n_processes == 1:
        found = [_forecast(task) for task in tasks]
    else:
        # a fork would copy the threads' locks of whatever trains here
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(n_processes, mp_context=context) as pool:
            found = list(pool.map(_forecast, tasks, chunksize=-(-len(tasks) // (8 * n_processes))))
    for number, mean in enumerate(found):
        if isinstance(mean, str):
            raise DataError(f"baseline {name}: window {number} cannot be fitted ({mean}); leave it out of baselines")
    return np.array(found)


def _forecast(task: tuple[str, Floats, int, int]) -> Floats | str:
    """Return one forecast, or in words why there is none: an exception of theirs might not survive the way back."""
    from statsforecast import models

    name, history, horizon, season_length = task
    model = getattr(models, STATISTICAL[name])(season_length=season_length)
    try:
        with warnings.catch_warnings():
            # a division by 0 in one of the candidates that they try; that the answer is finite is looked at below
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"statsforecast\.|statsmodels\.")
            mean = np.asarray(model.forecast(y=np.ascontiguousarray(history), h=horizon)["mean"], dtype=np.float64)
    # whatever it is, the caller says for which window
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return mean if np.isfinite(mean).all() else "its forecast is not finite"
