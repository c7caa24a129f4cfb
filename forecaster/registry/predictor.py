"""The predictor: a bundle answering, arrays in and out."""

from bisect import bisect_left
from functools import lru_cache

import numpy as np
import onnxruntime

from forecaster.data.calendar_features import calendar_features
from forecaster.domain.errors import BundleError, RequestError, SeriesError, TooShortError
from forecaster.domain.frequency import Step, parse
from forecaster.domain.levels import bound_probabilities
from forecaster.domain.manifest import MODEL
from forecaster.domain.series import Floats, Inputs, Times
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.conformal import Calibration
from forecaster.registry.bundle import Bundle

# bounds the memory of one run, however many series are asked for
MAX_BATCH = 1024
# onnxruntime keeps memory for each size of batch that it has seen, so there are few
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 384, 512, 768, MAX_BATCH)
# kinds of intervals whose residuals' quantiles are kept
_MOST_KEPT = 64


class ArrayPredictor:
    """Answers forecasts from a verified bundle. Safe to share between threads."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the forecast graph and replay the golden inputs.

        Raises:
            BundleError: the graph cannot be loaded or does not answer its golden inputs.
        """
        self.bundle = bundle
        self._residuals = lru_cache(_MOST_KEPT)(self._residual_quantiles)
        self.manifest = bundle.manifest
        options = onnxruntime.SessionOptions()
        # two threads gain nothing on small recurrent graphs: processes scale it
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.frequency: Step = bundle.manifest.sessions or parse(bundle.manifest.freq)
            # as bytes, so that nothing is looked for beside it, and no error names a path
            graph = bundle.graph.read_bytes()
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            bundle.golden.check(self.run(bundle.golden.inputs))
        except BundleError:
            raise
        # onnxruntime's own exceptions share no base but Exception
        except Exception as error:
            raise BundleError(f"{MODEL}: cannot be run ({error}); register the model again") from error

    def predict_arrays(self, inputs: Floats, horizon: int | None = None, known: Floats | None = None) -> Floats:
        """Return the mean forecast, rolled out beyond the trained horizon.

        Args:
            inputs: raw values, `(batch, at least input_size)`, finite; the last `input_size` are used. Where the model
                takes `hist_exog`, `(batch, at least input_size, 1 + hist_exog)`, the target first.
            horizon: steps; the trained horizon when None.
            known: as `known_ahead` returns it, where the model takes anything known ahead.

        Returns:
            `(batch, horizon)`, raw values.

        Raises:
            TooShortError: `inputs` are shorter than `input_size`.
            RequestError: `horizon` is below 1 or above the manifest's `max_horizon`, or a forecast is not finite.
            SeriesError: a value is not above 0 although the model takes logarithms.
        """
        manifest = self.manifest
        horizon = manifest.horizon if horizon is None else horizon
        self.check_horizon(horizon)
        self.check_length(inputs.shape[1], "inputs")
        self._check_features(inputs, known, horizon)
        window = np.atleast_3d(inputs)[:, -manifest.input_size :].astype(np.float64)
        self._check_positive(window[:, :, 0])
        means: list[Floats] = []
        for first in range(0, horizon, manifest.horizon):
            if means:
                window = np.concatenate([window, means[-1][:, :, None]], axis=1)[:, -manifest.input_size :]
            ahead = None if known is None else known[:, first : first + manifest.input_size + manifest.horizon]
            means.append(self.run(Inputs(window, ahead)))
        mean = np.concatenate(means, axis=1)[:, :horizon]
        if not np.isfinite(mean).all():
            row = int(np.flatnonzero(~np.isfinite(mean).all(axis=1))[0])
            raise RequestError(
                f"series {row}: its values lead to a forecast that is not finite; check their size and unit"
            )
        return mean

    def known_ahead(
        self, times: Times | None, horizon: int | None = None, futr_exog: Floats | None = None
    ) -> Floats | None:
        """Return what the graph is told of the inputs' times and of those to come, None where it takes nothing.

        Args:
            times: the last `input_size` timestamps of each series, by its own clock, `(batch, input_size)`; not looked
                at where the model takes no calendar features.
            horizon: steps; the trained horizon when None.
            futr_exog: raw values of the manifest's `futr_exog`, in its order, over the inputs and the steps to come,
                `(batch, input_size + steps_ahead(horizon), futr_exog)`.

        Returns:
            `(batch, input_size + steps_ahead(horizon), futr_exog + calendar_features)`.

        Raises:
            RequestError: the model takes calendar features, and there are no times.
            CalendarError: the exchange's calendar ends before that.
        """
        names = tuple(self.manifest.calendar_features)
        if not names:
            return futr_exog
        if times is None:
            raise RequestError(f"times: the model takes {list(names)}; give the inputs' timestamps")
        steps = self.steps_ahead(self.manifest.horizon if horizon is None else horizon)
        lasts, number = np.unique(times[:, -1], return_inverse=True)
        coming = np.stack([self.frequency.after(last, steps) for last in lasts])[number]
        told = calendar_features(names, np.concatenate([times, coming], axis=1), self.frequency)
        return told if futr_exog is None else np.concatenate([futr_exog, told], axis=2)

    def steps_ahead(self, horizon: int) -> int:
        """Return how many steps must be known ahead for a forecast of `horizon`: whole trained horizons."""
        return -(-horizon // self.manifest.horizon) * self.manifest.horizon

    def predict_baseline(self, inputs: Floats, horizon: int | None = None) -> Floats:
        """Return the last value carried on, `(batch, horizon)`: what is served where a model shows no skill.

        Raises:
            SeriesError: a value is not above 0 although the model takes logarithms, as its intervals' unit may.
        """
        past = np.atleast_3d(inputs)[:, -self.manifest.input_size :, 0].astype(np.float64)
        self._check_positive(past)
        return np.array(last_value(past, self.manifest.horizon if horizon is None else horizon))

    def quantiles(
        self,
        inputs: Floats,
        mean: Floats,
        probabilities: tuple[float, ...],
        is_baseline: bool = False,
        adapted: Floats | None = None,
    ) -> Floats:
        """Return quantiles `(batch, horizon, probabilities)` around `mean` `(batch, horizon)`, NaN beyond calibration.

        Args:
            inputs: what `mean` was forecast from, as `predict_arrays` takes it.
            mean: as `predict_arrays` returned it.
            probabilities: 0–1.
            is_baseline: whether `mean` is the baseline's; then its own residuals are taken, NaN where there are none.
            adapted: the probabilities to look up in place of `probabilities`, `(batch, horizon, probabilities)`, of
                adaptive intervals.

        Raises:
            RequestError: a probability lies beyond the calibrated range.
        """
        calibration = self._calibration(is_baseline)
        result = np.full((*mean.shape, len(probabilities)), np.nan)
        if calibration is None:
            return result
        # units × residuals, whose quantiles many requests share
        past = np.atleast_3d(inputs)[:, -self.manifest.input_size :, 0]
        residuals = self._residuals(probabilities, is_baseline)
        steps = min(mean.shape[1], len(residuals))
        if adapted is not None:
            residuals = calibration.residuals_at(adapted[:, :steps])
        result[:, :steps] = mean[:, :steps, None] + calibration.units(past)[:, :, None] * residuals[..., :steps, :]
        return result

    def bounds(
        self,
        inputs: Floats,
        mean: Floats,
        levels: tuple[int, ...],
        is_baseline: bool = False,
        adapted: Floats | None = None,
    ) -> Floats:
        """Return each level's lower and upper bound, `(batch, horizon, 2 × levels)`, NaN where it is not calibrated.

        Args:
            inputs: as `quantiles` takes them.
            mean: as `quantiles` takes it.
            levels: 0–100.
            is_baseline: as `quantiles` takes it.
            adapted: as `quantiles` takes them, for each level's lower and upper bound.
        """
        calibration = self._calibration(is_baseline)
        result = np.full((*mean.shape, 2 * len(levels)), np.nan)
        known = [
            number for number, level in enumerate(levels) if calibration is not None and calibration.supports(level)
        ]
        columns = [column for number in known for column in (2 * number, 2 * number + 1)]
        result[:, :, columns] = self.quantiles(
            inputs,
            mean,
            bound_probabilities([levels[number] for number in known]),
            is_baseline,
            None if adapted is None else adapted[:, :, columns],
        )
        return result

    def check_horizon(self, horizon: int) -> None:
        """Raise RequestError unless `horizon` can be answered."""
        if not 1 <= horizon <= self.manifest.max_horizon:
            raise RequestError(
                f"horizon: {horizon} is outside 1 to {self.manifest.max_horizon} "
                f"(trained for {self.manifest.horizon}, longer is rolled out); ask for fewer steps"
            )

    def check_probabilities(self, probabilities: tuple[float, ...], is_baseline: bool = False) -> None:
        """Raise RequestError unless each of `probabilities` lies within the calibrated range."""
        self._residuals(probabilities, is_baseline)

    def check_length(self, length: int, where: str) -> None:
        """Raise TooShortError unless `length` values are enough for a forecast."""
        if length < self.manifest.input_size:
            raise TooShortError(
                f"{where}: {length} values, the model needs {self.manifest.input_size}: "
                f"{self.manifest.input_size - length} more are missing before the first"
            )

    def run(self, inputs: Inputs) -> Floats:
        """Return what the graph answers, `(n, horizon)`, finite or not; `predict_arrays` checks and rolls out."""
        parts = []
        for begin in range(0, len(inputs), MAX_BATCH):
            count = min(MAX_BATCH, len(inputs) - begin)
            # the last window is repeated
            padded = np.minimum(np.arange(BATCH_SIZES[bisect_left(BATCH_SIZES, count)]), count - 1) + begin
            parts.append(self._session.run(None, inputs.take(padded).feeds)[0][:count])
        return np.concatenate(parts) if len(parts) > 1 else np.asarray(parts[0])

    def _calibration(self, is_baseline: bool) -> Calibration | None:
        return self.bundle.baseline if is_baseline else self.bundle.calibration

    def _residual_quantiles(self, probabilities: tuple[float, ...], is_baseline: bool) -> Floats:
        calibration = self._calibration(is_baseline)
        return np.empty((0, 0)) if calibration is None else calibration.quantiles(np.array(probabilities))

    def _check_features(self, inputs: Floats, known: Floats | None, horizon: int) -> None:
        manifest = self.manifest
        wanted = {"inputs": 1 + len(manifest.hist_exog), "known": len(manifest.futr_exog | manifest.calendar_features)}
        rows = manifest.input_size + self.steps_ahead(horizon)
        if inputs.ndim + (wanted["inputs"] == 1) < 3 or (inputs.ndim == 3 and inputs.shape[2] != wanted["inputs"]):
            raise RequestError(
                f"inputs: shape {inputs.shape}; the model takes the target and {list(manifest.hist_exog)} along the "
                "last axis"
            )
        shape = None if known is None else known.shape
        if shape != ((len(inputs), rows, wanted["known"]) if wanted["known"] else None):
            raise RequestError(
                f"known: shape {shape}; the model takes {[*manifest.futr_exog, *manifest.calendar_features]} of {rows} "
                "rows; make it with known_ahead"
            )

    def _check_positive(self, window: Floats) -> None:
        if self.manifest.is_positive and not (window > 0).all():
            row, column = np.argwhere(~(window > 0))[0]
            raise SeriesError(
                f"inputs, series {row}, value {column} of the last {self.manifest.input_size}: {window[row, column]:g} "
                "is not above 0, and the model takes logarithms; correct it"
            )
