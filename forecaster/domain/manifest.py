"""The bundle's manifest, stored with every registered version, and the names of the bundle's files."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from forecaster.domain.sessions import Sessions
from forecaster.domain.static import Names, StaticColumns
from forecaster.domain.support import EVERYTHING, Support

SCHEMA_VERSION: Literal[3] = 3
MODEL = "model.onnx"
MANIFEST = "manifest.json"
CALIBRATION = "calibration.json"
GOLDEN = "golden.json"
KERAS_MODEL = "model.keras"
# MLflow adds these when it saves an ONNX model
MLFLOW_FILES = ("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt")
# the files whose hashes the manifest holds; a bundle with any other file is refused
HASHED_FILES = (MODEL, CALIBRATION, GOLDEN, KERAS_MODEL, *MLFLOW_FILES)
# MLflow adds these on download, so their hashes are unknown when the manifest is written
DOWNLOAD_EXTRAS = ("registered_model_meta",)
# in trained horizons; a longer roll-out has no skill and runs the graph once per horizon
MAX_ROLL_OUT = 10
# significance level of all tests
SIGNIFICANCE = 0.05
# with fewer windows without overlap, no test holds its level well enough to claim skill
MIN_EFFECTIVE_WINDOWS = 30


def _is_a_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _is_an_instant(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("has no time zone")
    return text


# local time of a series, with or without a time zone
Time = Annotated[str, AfterValidator(_is_a_time)]
Instant = Annotated[str, AfterValidator(_is_an_instant)]
# JSON readers that use floats represent smaller integers exactly
MAX_JSON_INTEGER = 2**53
Count = Annotated[int, Field(ge=0, lt=MAX_JSON_INTEGER)]
# a transform's name and fitted parameters
Fitted = dict[str, str | float | None]
# the kind of a network's part and its settings
Part = dict[str, Any]
# the shape of a tensor, without the batch axis
Shape = tuple[Annotated[int, Field(ge=1, lt=MAX_JSON_INTEGER)], ...]


class _Part(BaseModel):
    # JSON cannot represent values that are not finite
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Reference(_Part):
    """A histogram: the inner edges of bins and the share of values in each, one more than edges."""

    edges: tuple[float, ...]
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...]

    @model_validator(mode="after")
    def _is_a_histogram(self) -> Self:
        if len(self.shares) != len(self.edges) + 1 or any(left >= right for left, right in pairwise(self.edges)):
            raise ValueError("edges must increase, and there must be one more share than edges")
        return self


# the target's histograms, beside those of the exogenous columns
VALUES, CHANGES = "values", "changes"


def feature_names(hist_exog: Iterable[str], futr_exog: Iterable[str]) -> tuple[str, ...]:
    """Return the histogram names of the exogenous columns, `hist_exog` first."""
    return (*(f"hist_exog.{name}" for name in hist_exog), *(f"futr_exog.{name}" for name in futr_exog))


class TrainingData(_Part):
    """The training data: the digest of values and times, and their range (ISO 8601).

    `reference` holds the histograms for drift detection: of the target's `values`, of its `changes` from row to row,
    and of each exogenous column, under the name that `feature_names` returns. `missing` counts the missing values by
    column; columns without any are left out.
    """

    digest: str
    n_series: Count
    rows: Count
    first: Time
    last: Time
    reference: dict[str, Reference] = {}
    missing: dict[str, Count] = {}

    @model_validator(mode="after")
    def _includes_values(self) -> Self:
        if self.reference and VALUES not in self.reference:
            raise ValueError(f"reference must have '{VALUES}'")
        return self


class Skill(_Part):
    """The recipe's results on the test part.

    Args:
        baseline: the name of the baseline.
        relative_mae: MAE divided by the baseline's MAE, better below 1; None if the baseline has no error.
        n_windows: number of windows.
        n_effective: effective number of windows, that is, the number without overlap: cutoffs divided by the horizon.
        p_value: one-sided p-value of the comparison with the baseline; None if there are too few windows.
        coverage: the share of actuals inside the interval, by level.
        first: the first forecast time, ISO 8601.
        last: the last forecast time, ISO 8601.
    """

    baseline: str
    relative_mae: float | None
    n_windows: Count
    n_effective: Count = 0
    p_value: float | None = None
    coverage: dict[str, float] = {}
    first: Time | None = None
    last: Time | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the model is significantly better than the baseline, on enough windows."""
        is_better = self.relative_mae is not None and self.relative_mae < 1
        is_tested = self.p_value is not None and self.p_value < SIGNIFICANCE
        return is_better and is_tested and self.n_effective >= MIN_EFFECTIVE_WINDOWS


class Certificate(_Part):
    """The result of a leakage audit: changing the future changed nothing before it.

    Args:
        digests: by part, the SHA-256 of every array fitted or transformed before that part begins.
        cutoffs: the cutoffs at which the forecasts stayed identical bit by bit.
        windows: number of windows forecast in other batches and in another order; 0 if not audited.
        rehearsed: by changed part, the number of windows on which the recipe was run again; empty if not audited.
        rehearsed_epochs: number of epochs of those runs.
        warm_started_from: the version whose weights the served network started from; it has its own certificate.
    """

    digests: dict[str, str]
    cutoffs: tuple[str, ...]
    windows: Count = 0
    rehearsed: dict[str, Count] = {}
    rehearsed_epochs: Count = 0
    warm_started_from: Count | None = None


class Example(_Part):
    """The last window of the test part, and the forecast of it by the evaluated network, which had not seen it.

    Args:
        unique_id: the series.
        ds: the times of the inputs and of the horizon, `(input_size + horizon,)`, ISO 8601.
        y: the values at these times; the last `horizon` are the actuals.
        hist_exog: by column, `(input_size,)`.
        futr_exog: by column, `(input_size + horizon,)`.
        stat_exog: the series' value by column.
        forecast: `mean`, and `lo-LEVEL` and `hi-LEVEL` of each level, `(horizon,)`.
    """

    unique_id: str
    ds: tuple[Time, ...]
    y: tuple[float, ...]
    hist_exog: dict[str, tuple[float, ...]] = {}
    futr_exog: dict[str, tuple[float, ...]] = {}
    stat_exog: dict[str, float | str] = {}
    forecast: dict[str, tuple[float, ...]]

    @property
    def lengths(self) -> dict[str, int]:
        """Return how many values each column has."""
        groups = {"hist_exog": self.hist_exog, "futr_exog": self.futr_exog, "forecast": self.forecast}
        columns = {f"{group}.{name}": len(values) for group, found in groups.items() for name, values in found.items()}
        return {"ds": len(self.ds), "y": len(self.y)} | columns


class Category(_Part):
    """The values of a static category, by position in its embedding from 1 on; None for one that was not fitted."""

    values: Names


class Tensor(_Part):
    """A tensor that a graph takes, raw values in float64.

    Args:
        shape: without the batch axis.
        columns: the names along the last axis.
    """

    shape: Shape
    columns: tuple[str, ...]

    @model_validator(mode="after")
    def _names_each_column(self) -> Self:
        if not self.shape or self.shape[-1] != len(self.columns):
            raise ValueError("the last axis of shape must have as many entries as columns")
        return self


def describe_inputs(
    input_size: int, horizon: int, hist_exog: Sequence[str], known: Sequence[str], static: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Return the tensors that a graph takes.

    Args:
        input_size: number of input rows.
        horizon: number of steps that the network forecasts at once.
        hist_exog: the columns known up to the cutoff, besides the target.
        known: the columns known ahead.
        static: the columns that describe a series as a whole.
    """
    columns = {"x": ("y", *hist_exog), "known": tuple(known), "static": tuple(static)}
    rows = {"x": (input_size,), "known": (input_size + horizon,), "static": ()}
    return {name: Tensor(shape=(*rows[name], len(names)), columns=names) for name, names in columns.items() if names}


# what values must lie above, by the kind of the first transform
_ABOVE = {"log": 0.0, "log1p": -1.0}


def least_above(kinds: Sequence[str]) -> float | None:
    """Return what values must lie above for transforms of these kinds; None if they may lie anywhere."""
    return _ABOVE.get(kinds[0]) if kinds else None


def _above(steps: Sequence[Fitted]) -> float | None:
    return least_above([str(step["kind"]) for step in steps])


class Manifest(_Part):
    """The description of a registered version.

    Args:
        graphs: the file of each graph. `forecast` maps `inputs` to `outputs`.
        inputs: the tensors that a graph takes, by name: `x (input_size, 1 + hist_exog)`; `known (input_size + horizon,
            futr_exog + calendar_features)` if there are any; `static` if the network sees the series as a whole.
        outputs: the shapes of the tensors that a graph returns, by name: `mean (horizon,)`, and what the head adds.
        topology: the way from inputs to outputs, which the decoder decides.
        encoder: the encoder's settings; None in bundles of earlier releases.
        decoder: the decoder's kind and settings; None in bundles of earlier releases.
        head: the head's kind and settings.
        input_size: number of input rows.
        horizon: number of steps that the network forecasts at once; longer horizons are rolled out.
        max_horizon: the longest horizon that the service accepts.
        freq: the step between timestamps; an exchange's code if the steps are its sessions.
        sessions: the exchange's past and future sessions.
        is_positive: whether the target must be above 0.
        support: the values that the target can take, which requests and forecasts respect.
        missing: `mask` if `y` and `hist_exog` may have missing values (NaN in arrays, null in JSON), else `refuse`.
        least_rows: the rows that a history needs, if fewer than `input_size`; the rows before them are missing values.
        hist_exog: by column known up to the cutoff, its transforms, in the order of the graph's inputs.
        futr_exog: by column known ahead, which a request must supply, its scale.
        calendar_features: by feature computed from timestamps, its scale.
        stat_exog: by column that is constant within a series, which a request must supply, its scale or its values.
        series: the names of the embedded series, as the values of a category; empty if series are not embedded.
        trained_until: the latest time in the training data of the served weights.
        certificate: the leakage audit; a version without it cannot be promoted.
        example: a stretch of held-out data to show the model with; None in bundles of earlier releases, and if every
            window of the test part has missing values.
        recipe_metrics: metrics on the test part of the same recipe fitted on the train part alone.
        sha256: the hash of each file except the manifest.
    """

    # version 1 had no exogenous columns, and its golden inputs held the target alone; version 2 had point heads only,
    # and neither named its inputs and outputs
    schema_version: Literal[1, 2, 3] = SCHEMA_VERSION
    # a literal, so that a manifest cannot name another path
    graphs: dict[Literal["forecast"], Literal["model.onnx"]] = Field(min_length=1)
    inputs: dict[Literal["x", "known", "static"], Tensor] = Field(min_length=1)
    outputs: dict[str, Shape] = Field(min_length=1)
    name: str
    topology: str
    cell: str
    encoder: Part | None = None
    decoder: Part | None = None
    head: Part = {"kind": "point"}
    input_size: int = Field(ge=1, lt=MAX_JSON_INTEGER)
    horizon: int = Field(ge=1, lt=MAX_JSON_INTEGER)
    max_horizon: int = Field(ge=1, lt=MAX_JSON_INTEGER)
    freq: str
    sessions: Sessions | None = None
    transforms: list[Fitted]
    is_positive: bool
    support: Support = EVERYTHING
    missing: Literal["refuse", "mask"] = "refuse"
    least_rows: int | None = Field(None, ge=1, lt=MAX_JSON_INTEGER)
    hist_exog: dict[str, list[Fitted]] = {}
    futr_exog: dict[str, Fitted] = {}
    calendar_features: dict[str, Fitted] = {}
    stat_exog: dict[str, Fitted | Category] = {}
    series: Names = ()
    training_data: TrainingData
    trained_until: Time
    recipe_metrics: dict[str, float]
    skill: Skill
    certificate: Certificate | None = None
    example: Example | None = None
    libraries: dict[str, str]
    created_at: Instant
    sha256: dict[str, str]

    @model_validator(mode="after")
    def _counts_effective_windows(self) -> Self:
        """Estimate `n_effective` for manifests of earlier releases, which lack it."""
        if "n_effective" in self.skill.model_fields_set:
            return self
        n_effective = self.skill.n_windows // (max(1, self.training_data.n_series) * self.horizon)
        return self.model_copy(update={"skill": self.skill.model_copy(update={"n_effective": n_effective})})

    @model_validator(mode="before")
    @classmethod
    def _name_tensors(cls, raw: Any) -> Any:
        """Name the inputs and outputs of bundles of earlier releases."""
        if not isinstance(raw, dict) or raw.get("schema_version") not in (1, 2) or raw.keys() & {"inputs", "outputs"}:
            return raw
        try:
            known = [*raw.get("futr_exog", ()), *raw.get("calendar_features", ())]
            inputs = describe_inputs(raw["input_size"], raw["horizon"], [*raw.get("hist_exog", ())], known)
        except (LookupError, TypeError, ValidationError):
            # pydantic names the field that is missing or wrong
            return raw
        return raw | {"inputs": inputs, "outputs": {"mean": (raw["horizon"],)}}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        columns = [*self.futr_exog, *self.calendar_features]
        static = self.static_columns.names
        if self.inputs != describe_inputs(self.input_size, self.horizon, [*self.hist_exog], columns, static):
            raise ValueError(
                "inputs do not match input_size, horizon, hist_exog, futr_exog, calendar_features, stat_exog and series"
            )
        if self.outputs.get("mean") != (self.horizon,):
            raise ValueError(f"outputs must have mean with the shape ({self.horizon},)")
        if not self.horizon <= self.max_horizon <= MAX_ROLL_OUT * self.horizon:
            raise ValueError(f"max_horizon must be between horizon and {MAX_ROLL_OUT} times the horizon")
        if self.least_rows is not None and (not self.is_masked or self.futr_exog or self.least_rows > self.input_size):
            raise ValueError("least_rows needs missing: mask and no futr_exog, and must be at most input_size")
        if self.futr_exog.keys() & self.calendar_features.keys():
            raise ValueError("futr_exog and calendar_features must have different names")
        return self

    @property
    def target_above(self) -> float | None:
        """Return what values of the target must lie above for its transforms; None if they may lie anywhere."""
        return 0.0 if self.is_positive else _above(self.transforms)

    @property
    def hist_above(self) -> dict[str, float | None]:
        """Return the same for each `hist_exog` column."""
        return {name: _above(steps) for name, steps in self.hist_exog.items()}

    @property
    def is_masked(self) -> bool:
        """Return whether `y` and `hist_exog` may have missing values."""
        return self.missing == "mask"

    @property
    def n_needed(self) -> int:
        """Return the number of rows that a history needs."""
        return self.input_size if self.least_rows is None else self.least_rows

    def steps_ahead(self, horizon: int) -> int:
        """Return the number of steps that known columns must cover for `horizon` steps: whole trained horizons."""
        return -(-horizon // self.horizon) * self.horizon

    @property
    def static_columns(self) -> StaticColumns:
        """Return the columns of the input `static`."""
        categories = {name: found.values for name, found in self.stat_exog.items() if isinstance(found, Category)}
        numbers = tuple(name for name in self.stat_exog if name not in categories)
        return StaticColumns(numbers, self.series, categories)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each graph input, without the batch axis."""
        return {name: tensor.shape for name, tensor in self.inputs.items()}
