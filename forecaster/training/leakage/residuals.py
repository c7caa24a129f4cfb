"""Check that the intervals are sized by out-of-sample errors: by networks that were not fitted on those windows."""

import numpy as np

from forecaster.domain.errors import LeakageError
from forecaster.evaluation.conformal import Calibration


def check_residuals(first: Calibration, second: Calibration) -> None:
    """Raise LeakageError unless two calibrations differ only in the last error of one window.

    The two runs differ in the target of the last row before the test part, which lies far above all other targets in
    both. This target is the last target of one window and an input of none. If no network that forecast a window was
    fitted on it, then the window's last error is the largest in both runs, and nothing else changes: no error at an
    earlier step, and no median. A network that was fitted on it forecasts all windows differently. This holds for the
    residuals of one held-out part, and for those of networks that are refitted as time goes on.
    """
    same_size = first.n_windows == second.n_windows and np.array_equal(first.probabilities, second.probabilities)
    # with one or two errors, the largest determines the median
    earlier_steps, median = np.s_[:-1], np.s_[:, (first.probabilities == 0.5) & (first.n_windows > 2)]
    if not same_size or not all(
        np.array_equal(first.residuals[part], second.residuals[part]) for part in (earlier_steps, median)
    ):
        raise LeakageError(
            "calibration: the errors on all windows change with the target of the last window; the residuals come from "
            "windows that the network was fitted on"
        )
