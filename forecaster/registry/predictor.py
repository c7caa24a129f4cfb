"""The predictor: forecasts of a bundle, from arrays to arrays."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import onnxruntime

from forecaster.data.calendar_features import calendar_features
from forecaster.domain.errors import BundleError, RequestError
from forecaster.domain.frequency import Step, parse
from forecaster.domain.levels import bound_probabilities
from forecaster.domain.manifest import MODEL
from forecaster.domain.missing import pad_front
from forecaster.domain.series import Floats, Inputs, Times
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.conformal import Calibration
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.paths import Ranks
from forecaster.models.names import ATTENTION
from forecaster.registry.bundle import Bundle
from forecaster.registry.request_checks import RequestChecks

# bounds the memory of a run, whatever the number of series
MAX_BATCH = 1024
# batches are padded to these sizes, because onnxruntime keeps memory for each batch size that it has run
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 384, 512, 768, MAX_BATCH)
# cached residual quantiles: one array for each set of requested probabilities
_MAX_CACHED = 64
MAX_SAMPLES = 1000
# with narrower intervals, the outermost values would be a large share of the sample paths
_MIN_SAMPLED_LEVEL = 80


class ArrayPredictor:
    """Forecasts from a verified bundle. Safe to share between threads."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the forecast graph and replay the golden inputs.

        Raises:
            BundleError: the graph cannot be loaded, or does not reproduce the golden means.
        """
        self.bundle = bundle
        self._residuals = lru_cache(_MAX_CACHED)(self._residual_quantiles)
        self._supported = lru_cache(_MAX_CACHED)(self._supported_levels)
        self.manifest = bundle.manifest
        self.checks = RequestChecks(self.manifest)
        self.static_columns = bundle.manifest.static_columns
        # the attention weights are computed only when they are asked for
        self._names = [name for name in bundle.manifest.outputs if name != ATTENTION]
        options = onnxruntime.SessionOptions()
        # more threads do not speed up small recurrent graphs; more processes do
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.frequency: Step = bundle.manifest.sessions or parse(bundle.manifest.freq)
            # as bytes: onnxruntime then reads no other file, and its errors name no path
            graph = bundle.graph.read_bytes()
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            bundle.golden.check(self.forecast(bundle.golden.inputs))
        except BundleError:
            raise
        # onnxruntime's own exceptions share no base but Exception
        except Exception as error:
            raise BundleError(f"{MODEL}: cannot be run ({error}); register the model again") from error

    def predict_arrays(
        self,
        inputs: Floats,
        horizon: int | None = None,
        known: Floats | None = None,
        static: Floats | None = None,
    ) -> Floats:
        """Return the mean forecasts `(batch, horizon)`; the arguments and errors are those of `predict`."""
        return self.predict(inputs, horizon, known, static).mean

    def predict(
        self,
        inputs: Floats,
        horizon: int | None = None,
        known: Floats | None = None,
        static: Floats | None = None,
    ) -> Forecasts:
        """Return forecasts, whose mean is rolled out beyond the trained horizon; a distribution is not.

        Args:
            inputs: raw values, `(batch, at least input_size)`, or at least `least_rows` if the model has it; finite, or
                NaN for a missing value if the model masks these. The last `input_size` are used. If the model takes
                `hist_exog`, `(batch, rows, 1 + hist_exog)`, the target first.
            horizon: number of steps; the trained horizon when None.
            known: the result of `known_ahead`; None if the model has no known columns.
            static: what describes each series as a whole, `(batch, columns)`, as `static_columns` encodes it; None if
                the model takes nothing of the kind.

        Raises:
            TooShortError: `inputs` are shorter than `input_size`, or than `least_rows` if the model has it.
            RequestError: `horizon` is below 1 or above the manifest's `max_horizon`, or a forecast is not finite.
            SeriesError: a value is not above 0 although the model takes logarithms, or lies outside the support.
        """
        manifest = self.manifest
        horizon = manifest.horizon if horizon is None else horizon
        self.checks.check_horizon(horizon)
        self.checks.check_length(inputs.shape[1], "inputs")
        self.checks.check_shapes(inputs, known, static, horizon)
        window = pad_front(
            np.atleast_3d(inputs)[:, -manifest.input_size :].astype(np.float64, copy=False), manifest.input_size
        )
        self.checks.check_observed(window)
        self.checks.check_values(window)
        return self.roll_out(window, horizon, known, static)

    def roll_out(self, window: Floats, horizon: int, known: Floats | None, static: Floats | None) -> Forecasts:
        """Return the forecasts of `predict` for raw values that are not checked.

        Args:
            window: `(batch, input_size, 1 + hist_exog)`, float64.
            horizon: number of steps, at most the manifest's `max_horizon`.
            known, static: as for `predict`.

        Raises:
            RequestError: a forecast is not finite.
        """
        manifest = self.manifest
        parts: list[Forecasts] = []
        for first in range(0, horizon, manifest.horizon):
            if parts:
                window = np.concatenate([window, parts[-1].mean[:, :, None]], axis=1)[:, -manifest.input_size :]
            ahead = None if known is None else known[:, first : first + manifest.input_size + manifest.horizon]
            parts.append(self.forecast(Inputs(window, ahead, static)))
        mean = parts[0].mean if len(parts) == 1 else np.concatenate([part.mean for part in parts], axis=1)
        mean, offsets = mean[:, :horizon], parts[0].offsets
        if not np.isfinite(mean).all():
            row = int(np.flatnonzero(~np.isfinite(mean).all(axis=1))[0])
            raise RequestError(
                f"series {row}: the forecast is not finite; check the size and unit of the series' values"
            )
        return Forecasts(mean, None if offsets is None else offsets[:, :horizon])

    def known_ahead(
        self, times: Times | None, horizon: int | None = None, futr_exog: Floats | None = None
    ) -> Floats | None:
        """Return the known columns, which hold `futr_exog` and the calendar features; None if the model has none.

        Args:
            times: the last `input_size` timestamps of each series, in its local time, `(batch, input_size)`; ignored if
                the model takes no calendar features.
            horizon: number of steps; the trained horizon when None.
            futr_exog: raw values of the manifest's `futr_exog`, in its order, for the inputs and the forecast steps,
                `(batch, input_size + manifest.steps_ahead(horizon), futr_exog)`.

        Returns:
            `(batch, input_size + manifest.steps_ahead(horizon), futr_exog + calendar_features)`.

        Raises:
            RequestError: the model takes calendar features, and `times` is None.
            CalendarError: the exchange's calendar ends before the last step.
        """
        names = tuple(self.manifest.calendar_features)
        if not names:
            return futr_exog
        if times is None:
            raise RequestError(f"times: missing; the model takes {list(names)}, so give the timestamps of the inputs")
        steps = self.manifest.steps_ahead(self.manifest.horizon if horizon is None else horizon)
        cutoffs, index = np.unique(times[:, -1], return_inverse=True)
        next_times = np.stack([self.frequency.after(cutoff, steps) for cutoff in cutoffs])[index]
        features = calendar_features(names, np.concatenate([times, next_times], axis=1), self.frequency)
        return features if futr_exog is None else np.concatenate([futr_exog, features], axis=2)

    def predict_baseline(self, inputs: Floats, horizon: int | None = None) -> Floats:
        """Return the naive forecast, `(batch, horizon)`: the last value at each step.

        Raises:
            SeriesError: a value is not above 0 although the model, or the unit of its intervals, takes logarithms; or
                it lies outside the support.
        """
        window = np.atleast_3d(inputs)[:, -self.manifest.input_size :].astype(np.float64)
        self.checks.check_observed(window)
        self.checks.check_values(window)
        return np.array(last_value(window[:, :, 0], self.manifest.horizon if horizon is None else horizon))

    def quantiles(
        self,
        inputs: Floats,
        predicted: Forecasts,
        probabilities: tuple[float, ...],
        is_baseline: bool = False,
        adapted: Floats | None = None,
        *,
        is_rounded: bool = True,
    ) -> Floats:
        """Return quantiles `(batch, horizon, probabilities)` of forecasts, NaN for steps that are not calibrated.

        Args:
            inputs: the inputs of the forecasts, as `predict_arrays` takes them.
            predicted: the forecasts.
            probabilities: 0–1.
            is_baseline: whether the baseline made the forecasts. Its own residuals are then used, or NaN if there are
                none.
            adapted: for adaptive intervals, the probabilities to look up instead of `probabilities`,
                `(batch, horizon, probabilities)`.
            is_rounded: whether the quantiles of an integer target are integers, rounded outwards.

        Raises:
            RequestError: a probability lies beyond the calibrated range.
        """
        calibration, mean = self.calibration(is_baseline), predicted.mean
        if calibration is None:
            return np.full((*mean.shape, len(probabilities)), np.nan)
        if not is_rounded:
            calibration = replace(calibration, support=calibration.support.continuous)
        past = np.atleast_3d(inputs)[:, -self.manifest.input_size :, 0]
        units, residuals = calibration.units(past), self._residuals(probabilities, is_baseline)
        steps = min(mean.shape[1], len(residuals))
        if adapted is None and predicted.offsets is None:
            # the quantiles of the residuals are cached, and scaled by each window's unit
            moved = mean[:, :steps, None] + units[:, :, None] * residuals[:steps]
            found = calibration.support.quantiles(moved, np.array(probabilities))
        else:
            shape = (1, steps, len(probabilities))
            at = np.broadcast_to(probabilities, shape) if adapted is None else adapted[:, :steps]
            found = calibration.around(predicted, units, at)
        if steps == mean.shape[1]:
            return found
        result = np.full((*mean.shape, len(probabilities)), np.nan)
        result[:, :steps] = found
        return result

    def bounds(
        self,
        inputs: Floats,
        predicted: Forecasts,
        levels: tuple[int, ...],
        is_baseline: bool = False,
        adapted: Floats | None = None,
    ) -> Floats:
        """Return each level's lower and upper bound, `(batch, horizon, 2 × levels)`, NaN for steps without calibration.

        Args:
            inputs: as for `quantiles`.
            predicted: as for `quantiles`.
            levels: 0–100.
            is_baseline: as for `quantiles`.
            adapted: as for `quantiles`, for each level's lower and upper bound.
        """
        columns, probabilities = self._supported(levels, is_baseline)
        if len(columns) == 2 * len(levels):
            return self.quantiles(inputs, predicted, probabilities, is_baseline, adapted)
        result = np.full((*predicted.mean.shape, 2 * len(levels)), np.nan)
        known = None if adapted is None else adapted[:, :, columns]
        result[:, :, columns] = self.quantiles(inputs, predicted, probabilities, is_baseline, known)
        return result

    def calibration(self, is_baseline: bool = False) -> Calibration | None:
        """Return the calibration of the model, or of the baseline; None if the bundle has none."""
        return self.bundle.baseline if is_baseline else self.bundle.calibration

    def check_probabilities(self, probabilities: tuple[float, ...], is_baseline: bool = False) -> None:
        """Raise RequestError unless each of `probabilities` lies within the calibrated range."""
        self._residuals(probabilities, is_baseline)

    def check_samples(self, n_samples: int, horizon: int, is_baseline: bool = False) -> None:
        """Raise RequestError unless the version can draw `n_samples` sample paths of `horizon` steps."""
        trained = self.manifest.horizon
        if not 1 <= n_samples <= MAX_SAMPLES:
            raise RequestError(f"n_samples: {n_samples} is outside 1 to {MAX_SAMPLES}")
        if horizon > trained:
            raise RequestError(
                f"n_samples: the trained horizon is {trained}, and steps beyond it have no intervals; "
                f"request at most {trained} steps, or leave n_samples out"
            )
        self.templates(is_baseline)

    def templates(self, is_baseline: bool = False) -> tuple[Floats, Ranks]:
        """Return the probabilities of the calibrated quantiles, and the templates of sample paths.

        Raises:
            RequestError: the version has no templates, or too few calibration windows.
        """
        calibration = self.calibration(is_baseline)
        if calibration is None or calibration.templates is None:
            raise RequestError(
                "n_samples: this version was trained by an earlier release, which kept nothing to draw sample paths "
                "from; train it again, or leave n_samples out"
            )
        if not calibration.supports(_MIN_SAMPLED_LEVEL):
            raise RequestError(
                f"n_samples: sample paths need calibrated {_MIN_SAMPLED_LEVEL} % intervals, and the "
                f"{calibration.n_windows} calibration windows do not support them; train on more rows"
            )
        return calibration.probabilities, calibration.templates

    def forecast(self, inputs: Inputs) -> Forecasts:
        """Return the forecasts of the trained horizon; unlike `predict`, do not check that they are finite."""
        outputs = self.run(inputs, self._names)
        return self.bundle.head.forecasts(outputs, self.manifest.is_positive)

    def attention(self, inputs: Inputs) -> Floats:
        """Return how much each step of the trained horizon attends to each step of the window, `(n, horizon, steps)`.

        Raises:
            RequestError: the decoder has no attention.
        """
        if ATTENTION not in self.manifest.outputs:
            raise RequestError(
                "attention: the model's decoder has none; train one with decoder: {kind: seq2seq, attention: additive}"
            )
        return self.run(inputs, [ATTENTION])[ATTENTION]

    def run(self, inputs: Inputs, names: Sequence[str]) -> dict[str, Floats]:
        """Return the named outputs of the graph, each `(n, …)`."""
        parts = []
        for begin in range(0, len(inputs), MAX_BATCH):
            count = min(MAX_BATCH, len(inputs) - begin)
            size = BATCH_SIZES[bisect_left(BATCH_SIZES, count)]
            # pad with the last window
            is_whole = size == len(inputs)
            padded = inputs if is_whole else inputs.take(np.minimum(np.arange(size), count - 1) + begin)
            parts.append([array[:count] for array in self._session.run(names, padded.feeds)])
        joined = (np.concatenate(arrays) if len(parts) > 1 else arrays[0] for arrays in zip(*parts, strict=True))
        return dict(zip(names, joined, strict=True))

    def _supported_levels(self, levels: tuple[int, ...], is_baseline: bool) -> tuple[list[int], tuple[float, ...]]:
        """Return which columns of `bounds` are calibrated, and their probabilities."""
        calibration = self.calibration(is_baseline)
        supported = [
            number for number, level in enumerate(levels) if calibration is not None and calibration.supports(level)
        ]
        columns = [column for number in supported for column in (2 * number, 2 * number + 1)]
        return columns, bound_probabilities([levels[number] for number in supported])

    def _residual_quantiles(self, probabilities: tuple[float, ...], is_baseline: bool) -> Floats:
        calibration = self.calibration(is_baseline)
        return np.empty((0, 0)) if calibration is None else calibration.quantiles(np.array(probabilities))
