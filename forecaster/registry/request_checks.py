"""Checks of what a request gives a version. Each error names the field, the series and the value."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from forecaster.domain.errors import RequestError, SeriesError, TooShortError
from forecaster.domain.manifest import Fitted, Manifest
from forecaster.domain.series import Floats

# by the kind of a column's first transform, which values lie outside its domain, and the reason. Training refuses the
# same values, although log1p is defined above -1
_DOMAINS: dict[str, tuple[Callable[[Floats], NDArray[np.bool_]], str]] = {
    "log": (lambda values: values <= 0, "is not above 0, but the model takes logarithms"),
    "log1p": (lambda values: values < 0, "is below 0, but the model takes logarithms of 1 + value"),
}


class RequestChecks:
    """What a request must give a version to be forecast."""

    def __init__(self, manifest: Manifest) -> None:
        """Read from the version's manifest what each column takes."""
        self._manifest = manifest
        self._static = manifest.static_columns.names
        self._fields = ("y", *(f"hist_exog.{name}" for name in manifest.hist_exog))
        target = "log" if manifest.is_positive else _first_kind(manifest.transforms)
        kinds = (target, *(_first_kind(steps) for steps in manifest.hist_exog.values()))
        self._domains = [_DOMAINS.get(kind) for kind in kinds]

    def check_horizon(self, horizon: int) -> None:
        """Raise RequestError unless the version can forecast `horizon` steps."""
        manifest = self._manifest
        if not 1 <= horizon <= manifest.max_horizon:
            raise RequestError(
                f"horizon: {horizon} is outside 1 to {manifest.max_horizon} "
                f"(the trained horizon is {manifest.horizon}; longer ones are rolled out); request fewer steps"
            )

    def check_length(self, length: int, where: str) -> None:
        """Raise TooShortError, naming `where`, unless `length` values are enough for a forecast."""
        needed = self._manifest.n_needed
        if length < needed:
            raise TooShortError(
                f"{where}: has {length} values, and the model needs {needed}; add {needed - length} earlier values"
            )

    def check_shapes(self, inputs: Floats, known: Floats | None, static: Floats | None, horizon: int) -> None:
        """Raise RequestError unless the arrays have the shapes that `ArrayPredictor.predict` takes.

        Args:
            inputs: `(n, rows)` or `(n, rows, 1 + hist_exog)`.
            known: `(n, input_size + steps_ahead(horizon), futr_exog + calendar_features)`, or None.
            static: `(n, static columns)`, or None.
            horizon: number of steps.
        """
        manifest = self._manifest
        n_inputs, n_known = len(self._fields), len(manifest.futr_exog | manifest.calendar_features)
        if inputs.ndim + (n_inputs == 1) < 3 or (inputs.ndim == 3 and inputs.shape[2] != n_inputs):
            raise RequestError(
                f"inputs: has the shape {inputs.shape}; the last axis must hold the target and "
                f"{list(manifest.hist_exog)}"
            )
        rows, shape = manifest.input_size + manifest.steps_ahead(horizon), None if known is None else known.shape
        if shape != ((len(inputs), rows, n_known) if n_known else None):
            raise RequestError(
                f"known: has the shape {shape}; the model takes {rows} rows of "
                f"{[*manifest.futr_exog, *manifest.calendar_features]}; create it with known_ahead"
            )
        shape = None if static is None else static.shape
        if shape != ((len(inputs), len(self._static)) if self._static else None):
            raise RequestError(
                f"static: has the shape {shape}; the model takes a row of {list(self._static)} for each series; create "
                "it with static_columns.encode_all"
            )

    def check_observed(self, window: Floats, where: str | None = None) -> None:
        """Raise SeriesError if values that the model needs are missing.

        Args:
            window: the values of some series, `(n, input_size, 1 + hist_exog)`; a missing value is NaN.
            where: the place of the series in a request, if it is a single one.
        """
        is_missing = np.isnan(window)
        if not is_missing.any():
            return
        if not self._manifest.is_masked:
            row, step, column = np.argwhere(is_missing)[0].tolist()
            raise SeriesError(
                f"{where or f'inputs, series {row}'}.{self._fields[column]}: value {step} of the last "
                f"{window.shape[1]} is missing, and the model takes no missing values; send it, or train the model "
                "with missing: mask"
            )
        empty = np.flatnonzero(is_missing[:, :, 0].all(axis=1))
        if len(empty):
            raise SeriesError(
                f"{where or f'inputs, series {empty[0]}'}.y: all of the last {window.shape[1]} values are missing; "
                "send a history with observed values"
            )

    def check_values(self, window: Floats) -> None:
        """Raise SeriesError if a value lies outside its transform's domain or the target's support.

        Args:
            window: `(n, input_size, columns)`; the target, followed by all `hist_exog` or none; NaN where missing.
        """
        for column, domain in enumerate(self._domains[: window.shape[2]]):
            if domain is None:
                continue
            is_outside, reason = domain
            found = np.argwhere(is_outside(window[:, :, column]))
            if len(found):
                self._refuse(window, found[0].tolist(), column, reason)
        outside = self._manifest.support.find_outside(window[:, :, 0])
        if outside:
            self._refuse(window, outside[0], 0, outside[1])

    def _refuse(self, window: Floats, at: Sequence[int], column: int, reason: str) -> None:
        row, step = at
        raise SeriesError(
            f"inputs, series {row}, {self._fields[column]}, value {step} of the last {window.shape[1]}: "
            f"{window[row, step, column]:g} {reason}; correct the value"
        )


def _first_kind(steps: Sequence[Fitted]) -> str:
    return str(steps[0]["kind"]) if steps else ""
