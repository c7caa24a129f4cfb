"""What a bundle promises: the manifest that travels with every registered version, and the names of its files."""

from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from forecaster.domain.sessions import Sessions

SCHEMA_VERSION: Literal[2] = 2
MODEL = "model.onnx"
MANIFEST = "manifest.json"
CALIBRATION = "calibration.json"
GOLDEN = "golden.json"
KERAS_MODEL = "model.keras"
# what MLflow puts beside them when it saves an ONNX model
MLFLOW_FILES = ("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt")
# every file that a bundle holds and its manifest hashes; a bundle with any other file is refused
HASHED_FILES = (MODEL, CALIBRATION, GOLDEN, KERAS_MODEL, *MLFLOW_FILES)
# added by MLflow to a download, so no hash of it can be known beforehand
DOWNLOAD_EXTRAS = ("registered_model_meta",)
# a longer roll-out, in trained horizons, says nothing and costs a run of the graph for each
MAX_ROLL_OUT = 10


# a difference that chance makes more often than this shows nothing
SIGNIFICANCE = 0.05
# of fewer windows that do not overlap, no test holds its level well enough to speak of skill
LEAST_EFFECTIVE = 30


def _is_a_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _is_an_instant(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("has no time zone")
    return text


# by a series' own clock, which may have no zone
Time = Annotated[str, AfterValidator(_is_a_time)]
Instant = Annotated[str, AfterValidator(_is_an_instant)]
# what JSON's readers take for a whole number
MOST = 2**53
Count = Annotated[int, Field(ge=0, lt=MOST)]
# the name and the fitted numbers of a transform
Fitted = dict[str, str | float | None]


class _Part(BaseModel):
    # what is not finite cannot be answered as JSON
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Reference(_Part):
    """How values are spread: the inner edges of bins, and the share in each, one more than edges."""

    edges: tuple[float, ...]
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...]

    @model_validator(mode="after")
    def _is_a_histogram(self) -> Self:
        if len(self.shares) != len(self.edges) + 1 or any(left >= right for left, right in pairwise(self.edges)):
            raise ValueError("edges must increase, and shares be one more than edges")
        return self


# what drift is told of beside the exogenous columns
VALUES, CHANGES = "values", "changes"


def feature_names(hist_exog: Iterable[str], futr_exog: Iterable[str]) -> tuple[str, ...]:
    """Return what drift calls exogenous columns, those of the past first."""
    return (*(f"hist_exog.{name}" for name in hist_exog), *(f"futr_exog.{name}" for name in futr_exog))


class TrainingData(_Part):
    """What the recipe was given: digest of the values and times, and their range (times as ISO 8601).

    `reference` says how the target's `values`, its `changes` from row to row, and each exogenous column, named as
    `feature_names` does, are spread: to tell drift by.
    """

    digest: str
    n_series: Count
    rows: Count
    first: Time
    last: Time
    reference: dict[str, Reference] = {}

    @model_validator(mode="after")
    def _tells_values(self) -> Self:
        if self.reference and VALUES not in self.reference:
            raise ValueError(f"reference must have '{VALUES}'")
        return self


class Skill(_Part):
    """How the recipe did on the test part.

    Args:
        baseline: what it is compared with.
        relative_mae: its MAE over the baseline's, below 1 is better; None where the baseline has no error.
        n_windows: how many windows that is measured on.
        n_effective: how many windows would say as much if none overlapped: cutoffs over the horizon.
        p_value: how likely so much smaller an error would be by chance; None where there are too few windows to tell.
        coverage: the share of values that each level's interval covered.
        first: the first time that was forecast, ISO 8601.
        last: the last one.
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
        """Say whether the model is better than the baseline, on enough windows, and not likely by chance."""
        is_better = self.relative_mae is not None and self.relative_mae < 1
        is_tested = self.p_value is not None and self.p_value < SIGNIFICANCE
        return is_better and is_tested and self.n_effective >= LEAST_EFFECTIVE


class Certificate(_Part):
    """That a training was audited for leakage: the future was changed, and nothing before it was.

    Args:
        digests: by part, of every array that is fitted on or transformed before it begins, SHA-256.
        cutoffs: at which forecasts stayed the same bit by bit.
        windows: how many were asked in other batches and in another order; 0 before this was audited.
        rehearsed: by part, on how many windows the recipe was run again with each part changed; empty before.
        rehearsed_epochs: for how many epochs.
        warm_started_from: the version whose weights the served network started from; it has a certificate of its own.
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
        forecast: `mean`, and `lo-LEVEL` and `hi-LEVEL` of each level, `(horizon,)`.
    """

    unique_id: str
    ds: tuple[Time, ...]
    y: tuple[float, ...]
    hist_exog: dict[str, tuple[float, ...]] = {}
    futr_exog: dict[str, tuple[float, ...]] = {}
    forecast: dict[str, tuple[float, ...]]

    @property
    def lengths(self) -> dict[str, int]:
        """Return how many values each column has."""
        groups = {"hist_exog": self.hist_exog, "futr_exog": self.futr_exog, "forecast": self.forecast}
        columns = {f"{group}.{name}": len(values) for group, found in groups.items() for name, values in found.items()}
        return {"ds": len(self.ds), "y": len(self.y)} | columns


class Manifest(_Part):
    """A registered version's promises.

    Args:
        graphs: each graph's file; `forecast` maps `x (batch, input_size, 1 + hist_exog)`, and where anything is known
            ahead `known (batch, input_size + horizon, futr_exog + calendar_features)`, to `mean (batch, horizon)`; raw,
            float64.
        input_size: rows of input that a forecast needs.
        horizon: steps that the network was trained for; more are rolled out.
        max_horizon: the longest roll-out that is answered.
        freq: the step between timestamps; an exchange's code where they are its sessions.
        sessions: those sessions, past and coming.
        is_positive: whether the target must be above 0.
        hist_exog: the transforms of each column that is known up to the forecast's start, in the graph's order.
        futr_exog: the scale of each column that whoever asks must know ahead.
        calendar_features: the scale of each feature that is computed from the timestamps.
        trained_until: the latest time that the served weights have seen.
        certificate: that the training was audited for leakage; without it there is no promotion.
        example: a stretch of held-out data to show the model with; None in bundles of earlier releases.
        recipe_metrics: what the same recipe, trained on the train part alone, measured on the test part.
        sha256: hash of each file but the manifest itself.
    """

    # 1 had no exogenous columns, and golden inputs of the target alone
    schema_version: Literal[1, 2] = SCHEMA_VERSION
    # names from outside never become paths
    graphs: dict[Literal["forecast"], Literal["model.onnx"]] = Field(min_length=1)
    name: str
    topology: str
    cell: str
    input_size: int = Field(ge=1, lt=MOST)
    horizon: int = Field(ge=1, lt=MOST)
    max_horizon: int = Field(ge=1, lt=MOST)
    freq: str
    sessions: Sessions | None = None
    transforms: list[Fitted]
    is_positive: bool
    hist_exog: dict[str, list[Fitted]] = {}
    futr_exog: dict[str, Fitted] = {}
    calendar_features: dict[str, Fitted] = {}
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
        """Estimate what versions of earlier releases did not write, from what they did."""
        if "n_effective" in self.skill.model_fields_set:
            return self
        n_effective = self.skill.n_windows // (max(1, self.training_data.n_series) * self.horizon)
        return self.model_copy(update={"skill": self.skill.model_copy(update={"n_effective": n_effective})})

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if not self.horizon <= self.max_horizon <= MAX_ROLL_OUT * self.horizon:
            raise ValueError(f"max_horizon must be between horizon and {MAX_ROLL_OUT} times as long")
        if self.futr_exog.keys() & self.calendar_features.keys():
            raise ValueError("futr_exog and calendar_features must have different names")
        return self

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of the graph's inputs, behind the batch."""
        x: dict[str, tuple[int, ...]] = {"x": (self.input_size, 1 + len(self.hist_exog))}
        n_known = len(self.futr_exog) + len(self.calendar_features)
        return x | {"known": (self.input_size + self.horizon, n_known)} if n_known else x
