"""Input drift: what each version is asked with, beside what it was trained on. Of this process, since it started."""

import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.manifest import Reference
from forecaster.domain.series import Floats
from forecaster.evaluation.drift import Drift, count_bins, measure_drift
from forecaster.registry.predictor import Predictor

# as many values are remembered; of older ones half as much counts, again and again
_MOST = 100_000
_MOST_WAITING = 500


@dataclass
class Seen:
    """What a version was asked with: counts in the bins of its training data, by `values` and `changes`."""

    reference: dict[str, Reference]
    is_positive: bool
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def add(self, windows: Floats) -> None:
        """Count windows `(n, at least 2)`."""
        for name, values in latest(windows, self.is_positive).items():
            before = self.counts.get(name, np.int64(0))
            counts = before + count_bins(values, np.array(self.reference[name].edges))
            self.counts[name] = counts // 2 if counts.sum() > _MOST else counts

    def drifts(self) -> dict[str, Drift]:
        """Return how far each is from the training data."""
        return {
            name: measure_drift(counts, np.array(self.reference[name].shares)) for name, counts in self.counts.items()
        }


@dataclass
class DriftWatch:
    """All versions'. Safe to use from any thread."""

    _seen: dict[tuple[str, int], Seen] = field(default_factory=dict)
    _waiting: dict[tuple[str, int], list[Floats]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, model: str, version: int, predictor: Predictor, windows: Floats) -> None:
        """Count the windows `(n, input_size)` of a request; versions without a reference are left out."""
        reference = predictor.manifest.training_data.reference
        if not reference or windows.shape[1] < 2:
            return
        last = np.array(windows[:, -2:])
        with self._lock:
            waiting = self._waiting.setdefault((model, version), [])
            waiting.append(last)
            self._seen.setdefault((model, version), Seen(reference, predictor.manifest.is_positive))
            # counted together, for one by one it takes as long as a forecast
            if len(waiting) >= _MOST_WAITING:
                self._count()

    def _count(self) -> None:
        for key, waiting in self._waiting.items():
            if waiting:
                self._seen[key].add(np.concatenate(waiting))
                waiting.clear()

    def read(self, model: str) -> dict[int, tuple[int, dict[str, Drift]]]:
        """Return by version how many values it was asked with, and how far they are from its training data."""
        with self._lock:
            self._count()
            return {
                version: (int(seen.counts["values"].sum()), seen.drifts())
                for (name, version), seen in self._seen.items()
                if name == model
            }


def latest(windows: Floats, is_positive: bool) -> dict[str, Floats]:
    """Return each window's last value and last change, of logarithms where all are positive.

    Older ones were the latest of a request before, and would count as often as the series is asked for.
    """
    last = windows[:, -2:]
    return {"values": last[:, -1], "changes": np.diff(np.log(last) if is_positive else last, axis=1)[:, -1]}
