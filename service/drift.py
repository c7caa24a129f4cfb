"""Input drift: the inputs of each version's requests, compared with its training data, since this process started."""

import threading
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.manifest import CHANGES, VALUES, Reference, feature_names
from forecaster.domain.series import Floats
from forecaster.evaluation.drift import Drift, count_bins, measure_drift
from forecaster.registry.predictor import ArrayPredictor

# when a histogram holds more values than this, its counts are halved, so that older values weigh less
_MAX_COUNT = 100_000
# batches that are collected before they are counted
_MAX_PENDING = 500


@dataclass
class InputCounts:
    """The inputs of one version: for each variable, the counts in the bins of its training data."""

    reference: dict[str, Reference]
    is_positive: bool
    features: tuple[str, ...]
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def add(self, rows: Floats) -> None:
        """Count rows, `(n, 2 + features)`: the last two target values and the features of each window."""
        for name, values in _variables(rows, self.is_positive, self.features).items():
            if name not in self.reference:
                # the version was trained before this variable was recorded
                continue
            before = self.counts.get(name, np.int64(0))
            counts = before + count_bins(values, np.array(self.reference[name].edges))
            self.counts[name] = counts // 2 if counts.sum() > _MAX_COUNT else counts

    def with_counts_of(self, other: "InputCounts") -> "InputCounts":
        """Return the sum of two counts of the same version."""
        # all variables are counted together, so both have the same names
        return replace(self, counts={name: counts + other.counts[name] for name, counts in self.counts.items()})

    def drifts(self) -> dict[str, Drift]:
        """Return the drift of each variable from the training data."""
        return {
            name: measure_drift(counts, np.array(self.reference[name].shares))
            for name, counts in self.counts.items()
            # all of a variable's values may have been missing
            if counts.any()
        }


@dataclass
class DriftMonitor:
    """Counts inputs by owner, model and version. Thread-safe."""

    _counts: dict[tuple[str, str, int], InputCounts] = field(default_factory=dict)
    _pending: dict[tuple[str, str, int], list[Floats]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self, owner: str, model: str, version: int, predictor: ArrayPredictor, windows: Floats, features: Floats
    ) -> None:
        """Count the inputs of requests; versions without a reference distribution are skipped.

        Args:
            owner: the owner of the requests.
            model: the model's name.
            version: the version that forecasts.
            predictor: that version's predictor.
            windows: the target's values, `(n, input_size)`.
            features: the exogenous values in each window's last row, `(n, hist_exog + futr_exog)`.
        """
        manifest = predictor.manifest
        reference = manifest.training_data.reference
        if not reference or windows.shape[1] < 2:
            return
        rows, key = np.hstack([windows[:, -2:], features]), (owner, model, version)
        with self._lock:
            if key not in self._counts:
                names = feature_names(manifest.hist_exog, manifest.futr_exog)
                self._counts[key] = InputCounts(reference, manifest.is_positive, names)
            pending = self._pending.setdefault(key, [])
            pending.append(rows)
            # counting each request's rows separately takes as long as a forecast
            if len(pending) >= _MAX_PENDING:
                self._count()

    def _count(self) -> None:
        for key, pending in self._pending.items():
            if pending:
                self._counts[key].add(np.concatenate(pending))
                pending.clear()

    def read(self, model: str, owner: str | None = None) -> dict[int, tuple[int, dict[str, Drift]]]:
        """Return for each version of a model the number of input values and the drift of each variable.

        Args:
            model: the model's name.
            owner: count only this owner's requests; None counts all owners'.
        """
        with self._lock:
            self._count()
            by_version: dict[int, InputCounts] = {}
            for (counted_owner, name, version), counts in self._counts.items():
                if name == model and owner in (None, counted_owner):
                    before = by_version.get(version)
                    by_version[version] = counts if before is None else before.with_counts_of(counts)
            return {
                version: (int(counts.counts[VALUES].sum()), counts.drifts()) for version, counts in by_version.items()
            }

    def owners(self, model: str) -> set[str]:
        """Return the owners of the requests to a model."""
        with self._lock:
            return {owner for owner, name, _ in self._counts if name == model}


def _variables(rows: Floats, is_positive: bool, features: tuple[str, ...]) -> dict[str, Floats]:
    """Return the last value, the last change (of the logarithm if values are positive) and the features of each window.

    Earlier values of a window are left out: they were last values of earlier requests, and would be counted repeatedly.
    """
    last = rows[:, :2]
    changes = np.diff(np.log(last) if is_positive else last, axis=1)[:, -1]
    return {VALUES: last[:, -1], CHANGES: changes, **dict(zip(features, rows[:, 2:].T, strict=True))}
