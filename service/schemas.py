"""What clients send and get, as OpenAPI shows it. Requests refuse unknown fields; numbers must be finite numbers."""

import math
from datetime import datetime
from typing import Annotated, Any

from pydantic import AllowInfNan, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, JsonValue, Strict
from pydantic_core import PydanticCustomError

Number = Annotated[float, Strict(), AllowInfNan(False)]
Whole = Annotated[int, Strict()]


def _is_spelt_out(time: Any) -> Any:
    """Refuse numbers, which pydantic would take for seconds since 1970."""
    if not isinstance(time, str) or time[4:5] != "-":
        raise PydanticCustomError("time", "Input should be a date or a time in ISO 8601, as 2026-01-31T00:00:00Z")
    return time


def _is_narrow(columns: Any) -> Any:
    """Refuse so many columns that telling what is wrong with each would take minutes."""
    if isinstance(columns, dict) and len(columns) > MOST_COLUMNS:
        raise PydanticCustomError("columns", f"Input should have at most {MOST_COLUMNS} columns")
    return columns


MOST_COLUMNS = 500
Time = Annotated[datetime, BeforeValidator(_is_spelt_out)]
# a database may not take a NUL
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
# of a million wrong values the first one is told
Times = Annotated[list[Time], FailFast()]
Numbers = Annotated[list[Number], FailFast()]
Columns = Annotated[dict[str, Numbers], BeforeValidator(_is_narrow)]

# two days of the demo's hourly sine, which is as much as its model needs
_HOURS = [f"2026-01-0{1 + hour // 24}T{hour % 24:02d}:00:00Z" for hour in range(48)]
EXAMPLE_REQUEST: dict[str, JsonValue] = {
    "model": "sine",
    "series": [
        {"unique_id": "a", "ds": [*_HOURS], "y": [round(math.sin(math.tau * hour / 24), 2) for hour in range(48)]}
    ],
    "horizon": 3,
    "level": [80, 95],
}
EXAMPLE_RESPONSE: dict[str, JsonValue] = {
    "model": {"name": "sine", "version": 3, "alias": "champion", "run_id": "0123456789abcdef0123456789abcdef"},
    "forecasts": [
        {
            "forecast_id": "019f0000000070001122334455667788-0",
            "unique_id": "a",
            "cutoff": "2026-01-02T23:00:00Z",
            "ds": ["2026-01-03T00:00:00Z", "2026-01-03T01:00:00Z", "2026-01-03T02:00:00Z"],
            "is_adapted": False,
            "mean": [0.4, 0.5, 0.6],
            "lo-80": [0.3, 0.4, 0.5],
            "hi-80": [0.5, 0.6, 0.7],
            "lo-95": [0.2, 0.3, 0.4],
            "hi-95": [0.6, 0.7, 0.8],
        }
    ],
    "forecast_by": "model",
    "skill": {
        "baseline": "naive",
        "relative_mae": 0.41,
        "n_windows": 400,
        "n_effective": 133,
        "p_value": 0.0001,
        "coverage": {"80": 0.81, "95": 0.95},
        "first": "2025-12-01T00:00:00.000000000",
        "last": "2025-12-31T23:00:00.000000000",
        "is_shown": True,
    },
    "warnings": [],
}


class SeriesIn(BaseModel):
    """One series' history, oldest first; times with or without a zone, or dates."""

    model_config = ConfigDict(extra="forbid")

    unique_id: Name
    ds: Times
    y: Numbers
    # a factory, as pydantic copies a default dict deeply, which takes as long as all else of a short series
    hist_exog: Columns = Field(default_factory=dict)
    futr_exog: Columns = Field(default_factory=dict)
    stat_exog: Annotated[dict[str, Number], BeforeValidator(_is_narrow)] = Field(default_factory=dict)


class ForecastRequest(BaseModel):
    """Which model, of which history, how far ahead, and which intervals (`level`, 0–100) or `quantiles` (0–1)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_REQUEST]})

    model: str = Field(max_length=250)
    alias: str | None = Field(None, max_length=250, description="`champion` when neither alias nor version is given")
    version: Whole | None = Field(None, description="instead of an alias")
    series: list[SeriesIn] | None = Field(None, fail_fast=True, min_length=1, description="the histories; or")
    unique_ids: list[Name] | None = Field(
        None, fail_fast=True, min_length=1, description="symbols of the bar store, instead of series"
    )
    horizon: Whole | None = Field(None, description="steps; the trained horizon when left out")
    level: list[Number] | None = Field(None, max_length=20)
    quantiles: list[Number] | None = Field(None, max_length=40)


class ServedModel(BaseModel):
    """Which version answered, by which alias, and the MLflow run that made it."""

    name: str
    version: int
    alias: str | None
    run_id: str


class SkillOut(BaseModel):
    """How the version's recipe did on its test part; below 1 is better than the baseline."""

    baseline: str
    relative_mae: float | None
    n_windows: int
    n_effective: int = Field(0, description="as many windows without overlap would say as much")
    p_value: float | None = Field(description="how likely so much smaller an error would be by chance")
    coverage: dict[str, float] = Field(description="by level, the share of values that the interval covered")
    first: str | None
    last: str | None
    is_shown: bool | None = Field(
        None, description="whether that is skill: better, not by chance, on enough windows; null in older answers"
    )


class ForecastOut(BaseModel):
    """One series' forecast; beside `mean` a list `lo-LEVEL` and `hi-LEVEL`, or `q-PERCENT`, for each one asked."""

    model_config = ConfigDict(extra="allow")

    forecast_id: str = Field(description="by which the ledger has it")
    unique_id: str
    cutoff: str
    ds: list[str]
    is_adapted: bool = Field(description="whether what came has moved the intervals of this series")
    mean: list[float]


class ForecastResponse(BaseModel):
    """Forecasts, which version made them, and the evidence for it."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_RESPONSE]})

    model: ServedModel
    forecasts: list[ForecastOut]
    forecast_by: str = Field(description="`model`, or the baseline that is served in its place")
    skill: SkillOut
    warnings: list[str]


class StoredForecast(BaseModel):
    """A forecast as it was served, and what came."""

    model: ServedModel
    forecast_by: str
    skill: SkillOut
    warnings: list[str]
    answered_at: str
    is_shadow: bool = Field(description="whether it was a challenger's, which nobody saw")
    forecast: ForecastOut
    actual: list[float | None] = Field(description="for each step what came, null as long as nothing has")


class StoredForecasts(BaseModel):
    """A series' last forecasts, newest first."""

    forecasts: list[StoredForecast]


class ActualIn(BaseModel):
    """What came: the value of a series at a time that was, or may have been, forecast."""

    model_config = ConfigDict(extra="forbid")

    unique_id: Name
    ds: Time
    # a mean of larger ones would not be finite
    y: Annotated[Number, Field(ge=-1e150, le=1e150)]


class ActualsRequest(BaseModel):
    """Values that came; sent again they change nothing, corrected ones replace those before."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"actuals": [{"unique_id": "a", "ds": "2026-01-03T00:00:00Z", "y": 0.43}]}]},
    )

    actuals: Annotated[list[ActualIn], FailFast()] = Field(min_length=1)


class ActualsOut(BaseModel):
    """How many values were taken, and how many of them were new or other than known."""

    accepted: int
    changed: int


class RealisedOut(BaseModel):
    """What came of a group of forecasts' steps; below 1, `relative_mae` is better than the last value."""

    group: int | str | None = Field(description="the version, series, step, or day as a date; null for all together")
    n_scores: int
    mae: float
    relative_mae: float | None
    bias: float = Field(description="mean of forecast less actual")
    coverage: dict[str, float]
    n_covered: dict[str, int] = Field(description="how many steps each coverage is of")


class RealisedSkill(BaseModel):
    """A model's realised skill."""

    model: str
    by: str | None
    realised: list[RealisedOut]


class DriftOut(BaseModel):
    """How far inputs are from the training data."""

    psi: float = Field(description="population stability index: below .1 stable, above .25 shifted")
    ks: float = Field(description="greatest difference of the cumulated shares")


class VersionDrift(BaseModel):
    """A version's inputs: how many values, how far they, their changes and each feature have drifted."""

    version: int
    n_values: int
    drift: dict[str, DriftOut]


class DriftsOut(BaseModel):
    """What each version of a model was asked with in this process, beside what it was trained on."""

    model: str
    versions: list[VersionDrift]


class ModelOut(BaseModel):
    """A model that is served: its aliases; each version's manifest without hashes and example, and its `intervals`."""

    name: str
    aliases: dict[str, int]
    versions: dict[int, dict[str, Any]]


class ModelsOut(BaseModel):
    """Every model that is served."""

    models: list[ModelOut]


class ExampleSeries(BaseModel):
    """The rows before the cutoff, as `POST /v1/forecasts` takes them; `futr_exog` reaches to the end of the horizon."""

    unique_id: str
    ds: list[str]
    y: list[float]
    hist_exog: dict[str, list[float]]
    futr_exog: dict[str, list[float]]


class ExampleForecast(BaseModel):
    """The forecast of the example; beside `mean` a list `lo-LEVEL` and `hi-LEVEL` for each level."""

    model_config = ConfigDict(extra="allow")

    cutoff: str
    ds: list[str]
    mean: list[float]


class ExampleOut(BaseModel):
    """The last window of a version's test part, and its forecast by the evaluated network, which had not seen it."""

    model: str
    version: int
    series: ExampleSeries
    forecast: ExampleForecast
    actual: list[float] = Field(description="the value at each step of the forecast")
    is_fitted_on: bool = Field(description="whether the weights that are served were fitted on these rows afterwards")
    skill: SkillOut
    warnings: list[str]


class StoredSeries(BaseModel):
    """The names of the series that are stored."""

    series: list[str]


class StoredBars(BaseModel):
    """A stored series' last bars, oldest first, adjusted; `close` is what is forecast."""

    unique_id: str
    ds: list[str]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]


class DashboardSettings(BaseModel):
    """What the page must know of this installation."""

    mlflow_url: str = Field(description="where people see MLflow's runs; empty where that is not set")


class Readiness(BaseModel):
    """Whether forecasts are answered, of which versions, and what went wrong last."""

    status: str
    models: dict[str, dict[str, int]]
    last_problem: str | None


class Liveness(BaseModel):
    """That the process answers."""

    status: str


class Mistake(BaseModel):
    """One mistake in a request: where, and what."""

    location: str
    message: str


class Problem(BaseModel):
    """An error. Source: RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[Mistake] = []
