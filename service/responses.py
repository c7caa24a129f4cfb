"""Schemas of responses, as OpenAPI shows them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

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


class ServedModel(BaseModel):
    """The version that made the forecasts, the alias that selected it, and its MLflow run."""

    name: str
    version: int
    alias: str | None
    run_id: str


class SkillOut(BaseModel):
    """Skill of the version's recipe on its test part. A `relative_mae` below 1 is better than the baseline."""

    baseline: str
    relative_mae: float | None
    n_windows: int
    n_effective: int = Field(0, description="effective number of windows without overlap")
    p_value: float | None = Field(description="p-value of the test that the error is not smaller than the baseline's")
    coverage: dict[str, float] = Field(description="by level, the share of actuals inside the interval")
    first: str | None
    last: str | None
    is_shown: bool | None = Field(
        None, description="whether skill is shown: significantly better, on enough windows; null in older answers"
    )


class ForecastOut(BaseModel):
    """Forecast of a series: `mean`, with `lo-LEVEL` and `hi-LEVEL` for each level or `q-PERCENT` for each quantile.

    With `n_samples`, `samples` holds the sample paths, a list of `horizon` values each.
    """

    model_config = ConfigDict(extra="allow")

    forecast_id: str = Field(description="its id in the ledger")
    unique_id: str
    cutoff: str
    ds: list[str]
    is_adapted: bool = Field(description="whether the actuals of this series have adapted its intervals")
    mean: list[float]


class ForecastResponse(BaseModel):
    """Forecasts, the version that made them, and its measured skill."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_RESPONSE]})

    model: ServedModel
    forecasts: list[ForecastOut]
    forecast_by: str = Field(description="`model`, or the name of the baseline served instead")
    skill: SkillOut
    warnings: list[str]


class StoredForecast(BaseModel):
    """A forecast as it was served, with its actuals."""

    model: ServedModel
    forecast_by: str
    skill: SkillOut
    warnings: list[str]
    answered_at: str
    is_shadow: bool = Field(description="whether a challenger made it in the shadow, without serving it")
    forecast: ForecastOut
    actual: list[float | None] = Field(description="the actual of each step; null if unknown")


class StoredForecasts(BaseModel):
    """The last forecasts of a series, newest first."""

    forecasts: list[StoredForecast]


class ActualsOut(BaseModel):
    """How many actuals were accepted, and how many of them were new or changed."""

    accepted: int
    changed: int


class RealisedOut(BaseModel):
    """Realised skill of a group of forecast steps. A `relative_mae` below 1 is better than the last value's."""

    group: int | str | None = Field(description="version, series, step, or day as a date; null for all steps")
    n_scores: int
    mae: float
    relative_mae: float | None
    bias: float = Field(description="mean of forecast minus actual")
    coverage: dict[str, float]
    n_covered: dict[str, int] = Field(description="by level, the number of steps behind the coverage")


class RealisedSkill(BaseModel):
    """Realised skill of a model, by group."""

    model: str
    by: str | None
    realised: list[RealisedOut]


class DriftOut(BaseModel):
    """Drift of an input variable from the training data."""

    psi: float = Field(description="population stability index: below 0.1 stable, above 0.25 shifted")
    ks: float = Field(description="Kolmogorov–Smirnov distance: the largest difference of cumulative shares")


class VersionDrift(BaseModel):
    """Number of input values of a version, and the drift of the values, their changes and each feature."""

    version: int
    n_values: int
    drift: dict[str, DriftOut]


class DriftsOut(BaseModel):
    """Drift of the inputs of each version of a model, since this process started."""

    model: str
    versions: list[VersionDrift]


class ModelOut(BaseModel):
    """A served model: its aliases, for each version its manifest (without hashes or example) and its `intervals`."""

    name: str
    aliases: dict[str, int]
    versions: dict[int, dict[str, Any]]


class ModelsOut(BaseModel):
    """The served models."""

    models: list[ModelOut]


class ExampleSeries(BaseModel):
    """The rows before the cutoff, as `POST /v1/forecasts` takes them; `futr_exog` reaches to the end of the horizon."""

    unique_id: str
    ds: list[str]
    y: list[float]
    hist_exog: dict[str, list[float]]
    futr_exog: dict[str, list[float]]
    stat_exog: dict[str, float | str]


class ExampleForecast(BaseModel):
    """The forecast of the example: `mean`, with `lo-LEVEL` and `hi-LEVEL` for each level."""

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
    """Names of the stored series."""

    series: list[str]


class StoredBars(BaseModel):
    """The last bars of a stored series, oldest first, adjusted for splits and dividends. `close` is forecast."""

    unique_id: str
    ds: list[str]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]


class DashboardSettings(BaseModel):
    """Settings of the dashboard."""

    mlflow_url: str = Field(description="address of MLflow's web interface; empty if not set")


class Readiness(BaseModel):
    """Whether the service can forecast, the versions it serves by model and alias, and current problems."""

    status: str
    models: dict[str, dict[str, int]]
    last_problem: str | None


class Liveness(BaseModel):
    """The status of a running process."""

    status: str


class FieldError(BaseModel):
    """An invalid field of a request."""

    location: str
    message: str


class Problem(BaseModel):
    """An error as RFC 9457 defines it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []
