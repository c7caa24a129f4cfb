"""Whether intervals are sized by errors on windows that the network which made them had not been fitted on."""

import numpy as np

from forecaster.domain.errors import LeakageError
from forecaster.evaluation.conformal import Calibration


def check_residuals(one: Calibration, other: Calibration) -> None:
    """Raise LeakageError unless two calibrations differ in the error of one window alone.

    Between them the target of the last row before the test part differs: it lies far above all others in both. It is
    the last target of one window and an input of none. Where no network that forecast a window was fitted on this one,
    its last error is the largest in both, and nothing else changes: no error at an earlier step, and no median. A
    network that is fitted on it forecasts all windows otherwise. This holds for the residuals of one held-out part, and
    for those of networks that are fitted again as time goes on.
    """
    is_alike = one.n_windows == other.n_windows and np.array_equal(one.probabilities, other.probabilities)
    # of one or two errors, the largest decides the median
    earlier, median = np.s_[:-1], np.s_[:, (one.probabilities == 0.5) & (one.n_windows > 2)]
    if not is_alike or not all(np.array_equal(one.residuals[at], other.residuals[at]) for at in (earlier, median)):
        raise LeakageError(
            "calibration: the errors on other windows change with the target of the last one; the residuals are of "
            "windows that the network was fitted on"
        )
