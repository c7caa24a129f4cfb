"""Classical models as baselines, fitted by statsforecast to each window's history.

To add a model, add an entry to `STATISTICAL`.

Source: Garza, Mergenthaler Canseco, Challú & Olivares (2022), StatsForecast.
"""

import multiprocessing
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from forecaster.domain.cores import usable_cores
from forecaster.domain.errors import DataError
from forecaster.domain.series import Floats

# class names in statsforecast. AutoETS and AutoARIMA: Hyndman & Khandakar (2008), doi:10.18637/jss.v027.i03;
# AutoTheta: Fiorucci et al. (2016), doi:10.1016/j.ijforecast.2016.02.005
STATISTICAL = {"auto_ets": "AutoETS", "theta": "AutoTheta", "auto_arima": "AutoARIMA"}
# older rows hardly change the forecast and slow down the fit
MAX_ROWS = 1000
# fewer fits finish before other processes have started
_MIN_PARALLEL = 200


def forecast_histories(
    name: str, histories: Sequence[Floats], horizon: int, season_length: int, n_processes: int | None = None
) -> Floats:
    """Fit a model to each history and return the forecasts, `(n, horizon)`.

    Args:
        name: a key of `STATISTICAL`.
        histories: the target's history of each window, `(rows,)`; only the last `MAX_ROWS` rows are used.
        horizon: number of steps.
        season_length: rows per season.
        n_processes: number of processes; None for one per core.

    Raises:
        DataError: the model cannot be fitted to a history.
    """
    tasks = [(name, history[-MAX_ROWS:], horizon, season_length) for history in histories]
    n_processes = n_processes or usable_cores()
    if len(tasks) < _MIN_PARALLEL or n_processes == 1:
        results = [_forecast(task) for task in tasks]
    else:
        # a fork could copy a lock that another thread holds, such as one of TensorFlow
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(n_processes, mp_context=context) as pool:
            results = list(pool.map(_forecast, tasks, chunksize=-(-len(tasks) // (8 * n_processes))))
    for number, result in enumerate(results):
        if isinstance(result, str):
            raise DataError(
                f"baseline {name}: window {number} cannot be fitted ({result}); remove {name} from baselines"
            )
    return np.array(results)


def _forecast(task: tuple[str, Floats, int, int]) -> Floats | str:
    """Return a forecast or an error message; an exception of statsforecast may fail to unpickle in the parent."""
    from statsforecast import models

    name, history, horizon, season_length = task
    model = getattr(models, STATISTICAL[name])(season_length=season_length)
    try:
        with warnings.catch_warnings():
            # a candidate model may divide by 0; the forecast is checked to be finite below
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"statsforecast\.|statsmodels\.")
            mean = np.asarray(model.forecast(y=np.ascontiguousarray(history), h=horizon)["mean"], dtype=np.float64)
    # the caller adds the window to the message
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return mean if np.isfinite(mean).all() else "its forecast is not finite"
