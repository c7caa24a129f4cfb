"""Input drift: what each version is asked with, beside what it was trained on. Of this process, since it started."""

import threading
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.manifest import CHANGES, VALUES, Reference, feature_names
from forecaster.domain.series import Floats
from forecaster.evaluation.drift import Drift, count_bins, measure_drift
from forecaster.registry.predictor import Predictor

# as many values are remembered; of older ones half as much counts, again and again
_MOST = 100_000
_MOST_WAITING = 500


@dataclass
class Seen:
    """What a version was asked with: counts in the bins of its training data, by what is told apart."""

    reference: dict[str, Reference]
    is_positive: bool
    features: tuple[str, ...]
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def add(self, rows: Floats) -> None:
        """Count the latest rows, as `DriftWatch.add` keeps them."""
        for name, values in _told_apart(rows, self.is_positive, self.features).items():
            if name not in self.reference:
                # the version is older than the measure
                continue
            before = self.counts.get(name, np.int64(0))
            counts = before + count_bins(values, np.array(self.reference[name].edges))
            self.counts[name] = counts // 2 if counts.sum() > _MOST else counts

    def with_counts_of(self, other: "Seen") -> "Seen":
        """Return both together, of one version."""
        # all are counted at once, so both have the same names
        return replace(self, counts={name: counts + other.counts[name] for name, counts in self.counts.items()})

    def drifts(self) -> dict[str, Drift]:
        """Return how far each is from the training data."""
        return {
            name: measure_drift(counts, np.array(self.reference[name].shares)) for name, counts in self.counts.items()
        }


@dataclass
class DriftWatch:
    """All versions' and owners'. Safe to use from any thread."""

    # by owner, model and version
    _seen: dict[tuple[str, str, int], Seen] = field(default_factory=dict)
    _waiting: dict[tuple[str, str, int], list[Floats]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self, owner: str, model: str, version: int, predictor: Predictor, windows: Floats, features: Floats
    ) -> None:
        """Count what requests start from; versions without a reference are left out.

        Args:
            owner: whose requests they are.
            model: the model's name.
            version: its version.
            predictor: what answers.
            windows: the target's, `(n, input_size)`.
            features: of each window's last row, `(n, hist_exog + futr_exog)`.
        """
        manifest = predictor.manifest
        reference = manifest.training_data.reference
        if not reference or windows.shape[1] < 2:
            return
        rows = np.hstack([windows[:, -2:], features])
        with self._lock:
            waiting = self._waiting.setdefault((owner, model, version), [])
            waiting.append(rows)
            names = feature_names(manifest.hist_exog, manifest.futr_exog)
            self._seen.setdefault((owner, model, version), Seen(reference, manifest.is_positive, names))
            # counted together, for one by one it takes as long as a forecast
            if len(waiting) >= _MOST_WAITING:
                self._count()

    def _count(self) -> None:
        for key, waiting in self._waiting.items():
            if waiting:
                self._seen[key].add(np.concatenate(waiting))
                waiting.clear()

    def read(self, model: str, owner: str | None = None) -> dict[int, tuple[int, dict[str, Drift]]]:
        """Return by version how many values it was asked with, and how far they are from its training data.

        Args:
            model: the model's name.
            owner: by whom; by all together when None.
        """
        with self._lock:
            self._count()
            together: dict[int, Seen] = {}
            for (one, name, version), seen in self._seen.items():
                if name == model and owner in (None, one):
                    before = together.get(version)
                    together[version] = seen if before is None else before.with_counts_of(seen)
            return {version: (int(seen.counts[VALUES].sum()), seen.drifts()) for version, seen in together.items()}

    def owners(self, model: str) -> set[str]:
        """Return who has asked a model."""
        with self._lock:
            return {owner for owner, name, _ in self._seen if name == model}


def _told_apart(rows: Floats, is_positive: bool, features: tuple[str, ...]) -> dict[str, Floats]:
    """Return last values, last changes, of logarithms where all are positive, and features.

    Older ones were the latest of a request before, and would count as often as the series is asked for.
    """
    last = rows[:, :2]
    changes = np.diff(np.log(last) if is_positive else last, axis=1)[:, -1]
    return {VALUES: last[:, -1], CHANGES: changes, **dict(zip(features, rows[:, 2:].T, strict=True))}
