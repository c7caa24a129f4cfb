"""The predictor: a bundle answering. Arrays in and out at its core; `predict_frame` wraps it for people."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from forecaster.domain.errors import BundleError, RequestError, SeriesError, TooShortError
from forecaster.domain.frequency import Step, parse
from forecaster.domain.manifest import MODEL
from forecaster.domain.series import CUTOFF, DS, MEAN, UNIQUE_ID, Floats, lower, quantile_name, upper
from forecaster.registry.bundle import Bundle

if TYPE_CHECKING:
    import pandas as pd

# bounds the memory of one run, however many series are asked for
MAX_BATCH = 1024


@dataclass(frozen=True)
class Bands:
    """The columns that were asked for beside the mean, and the probability of each."""

    columns: tuple[str, ...]
    probabilities: tuple[float, ...]


def bands(level: tuple[float, ...] | None = None, quantiles: tuple[float, ...] | None = None) -> Bands:
    """Return the columns for `level` (0–100, exclusive) or `quantiles` (0–1, exclusive).

    Raises:
        RequestError: both are given, or a number is out of range.
    """
    if level is not None and quantiles is not None:
        raise RequestError("level and quantiles: give one of them, not both")
    if quantiles is not None:
        if not all(0 < q < 1 for q in quantiles):
            raise RequestError(f"quantiles: each must be above 0 and below 1, got {list(quantiles)}")
        wanted = sorted(set(quantiles))
        return Bands(tuple(quantile_name(q) for q in wanted), tuple(wanted))
    levels = sorted(set(level or ()))
    if not all(0 < one < 100 for one in levels):
        raise RequestError(f"level: each must be above 0 and below 100, got {levels}")
    columns = tuple(name for one in levels for name in (lower(one), upper(one)))
    edges = tuple(p for one in levels for p in ((100 - one) / 200, (100 + one) / 200))
    return Bands(columns, edges)


class Predictor:
    """Answers forecasts from a verified bundle. Safe to share between threads."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the forecast graph and replay the golden inputs.

        Raises:
            BundleError: the graph cannot be loaded or does not answer its golden inputs.
        """
        self.bundle = bundle
        self.manifest = bundle.manifest
        options = onnxruntime.SessionOptions()
        # two threads gain nothing on small recurrent graphs: processes scale it
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.frequency: Step = bundle.manifest.sessions or parse(bundle.manifest.freq)
            self._session = onnxruntime.InferenceSession(
                bundle.graph("forecast"), options, providers=["CPUExecutionProvider"]
            )
            bundle.golden.check(self._run(bundle.golden.inputs), str(bundle.folder))
        except BundleError:
            raise
        # onnxruntime's own exceptions share no base but Exception
        except Exception as error:
            raise BundleError(f"{bundle.folder / MODEL}: cannot be run ({error}); register the model again") from error

    def predict_arrays(self, inputs: Floats, horizon: int | None = None) -> Floats:
        """Return the mean forecast, rolled out beyond the trained horizon.

        Args:
            inputs: raw values, `(batch, at least input_size)`, finite; the last `input_size` are used.
            horizon: steps; the trained horizon when None.

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
        window = inputs[:, -manifest.input_size :].astype(np.float64)
        if manifest.is_positive and not (window > 0).all():
            row, column = np.argwhere(~(window > 0))[0]
            raise SeriesError(
                f"inputs, series {row}, value {column} of the last {manifest.input_size}: {window[row, column]:g} is "
                "not above 0, and the model takes logarithms; correct it"
            )
        means = [self._run(window)]
        while sum(mean.shape[1] for mean in means) < horizon:
            window = np.concatenate([window, means[-1]], axis=1)[:, -manifest.input_size :]
            means.append(self._run(window))
        mean = np.concatenate(means, axis=1)[:, :horizon]
        if not np.isfinite(mean).all():
            row = int(np.flatnonzero(~np.isfinite(mean).all(axis=1))[0])
            raise RequestError(
                f"series {row}: its values lead to a forecast that is not finite; check their size and unit"
            )
        return mean

    def quantiles(self, mean: Floats, probabilities: tuple[float, ...]) -> Floats:
        """Return quantiles `(batch, horizon, probabilities)` around `mean` `(batch, horizon)`, NaN beyond calibration.

        Raises:
            RequestError: a probability lies beyond the calibrated range.
        """
        residuals = self.bundle.calibration.quantiles(np.array(probabilities))
        steps = min(mean.shape[1], len(residuals))
        result = np.full((*mean.shape, len(probabilities)), np.nan)
        result[:, :steps] = mean[:, :steps, None] + residuals[None, :steps]
        return result

    def predict_frame(
        self,
        frame: "pd.DataFrame",
        horizon: int | None = None,
        level: tuple[float, ...] | None = None,
        quantiles: tuple[float, ...] | None = None,
    ) -> "pd.DataFrame":
        """Return forecasts of every series of a long frame, as `unique_id, cutoff, ds, mean, lo-80, hi-80, …`.

        Args:
            frame: columns `unique_id, ds, y`, in the model's frequency.
            horizon: steps; the trained horizon when None.
            level: intervals' coverage, 0–100; or
            quantiles: 0–1, not both.

        Raises:
            SeriesError, TooShortError, RequestError: as `check_long_frame` and `predict_arrays` say.
        """
        import pandas as pd

        from forecaster.data.long_frame import check_long_frame

        wanted = bands(level, quantiles)
        series = check_long_frame(frame, self.frequency, self.manifest.input_size)
        inputs = np.stack([series.values[rows, 0][-self.manifest.input_size :] for _, rows in series])
        mean = self.predict_arrays(inputs, horizon)
        steps = mean.shape[1]
        # from the frame itself, for the array's wall clock cannot tell the two hours of a repeated one apart
        last = frame.groupby(UNIQUE_ID, sort=False, observed=True)[DS].last()
        columns = {
            UNIQUE_ID: np.repeat(series.unique_ids, steps),
            CUTOFF: last.repeat(steps).reset_index(drop=True),
            DS: _coming(self.frequency, last, steps),
            MEAN: mean.ravel(),
        }
        spread = self.quantiles(mean, wanted.probabilities)
        columns |= {name: spread[:, :, number].ravel() for number, name in enumerate(wanted.columns)}
        return pd.DataFrame(columns)

    def check_horizon(self, horizon: int) -> None:
        """Raise RequestError unless `horizon` can be answered."""
        if not 1 <= horizon <= self.manifest.max_horizon:
            raise RequestError(
                f"horizon: {horizon} is outside 1 to {self.manifest.max_horizon} "
                f"(trained for {self.manifest.horizon}, longer is rolled out); ask for fewer steps"
            )

    def check_length(self, length: int, where: str) -> None:
        """Raise TooShortError unless `length` values are enough for a forecast."""
        if length < self.manifest.input_size:
            raise TooShortError(
                f"{where}: {length} values, the model needs {self.manifest.input_size}: "
                f"{self.manifest.input_size - length} more are missing before the first"
            )

    def _run(self, window: Floats) -> Floats:
        parts = [
            self._session.run(None, {"x": window[begin : begin + MAX_BATCH, :, None]})[0]
            for begin in range(0, len(window), MAX_BATCH)
        ]
        return np.concatenate(parts) if len(parts) > 1 else np.asarray(parts[0])


def _coming(frequency: Step, last: "pd.Series[Any]", steps: int) -> "pd.Series[Any]":
    """Return the timestamps after each one of `last`: days by the zone's own clock, hours by elapsed time."""
    import pandas as pd

    zone = last.dt.tz
    is_elapsed = zone is not None and not frequency.is_wall_clock
    clock = (last.dt.tz_convert("UTC") if is_elapsed else last).dt.tz_localize(None).to_numpy()
    coming: pd.Series[Any] = pd.Series(np.concatenate([frequency.after(one, steps) for one in clock]))
    if zone is None:
        return coming
    # a time that the clock skips moves on, one that it repeats is the later
    is_summer = np.zeros(len(coming), dtype=bool)
    located: pd.Series[Any] = (
        coming.dt.tz_localize("UTC").dt.tz_convert(zone)
        if is_elapsed
        else coming.dt.tz_localize(zone, nonexistent="shift_forward", ambiguous=is_summer)
    )
    return located
