"""Schemas of requests, as OpenAPI shows them. Requests must not have unknown fields or non-finite numbers."""

import math
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any

from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    Strict,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError, core_schema

from forecaster.domain.manifest import MAX_JSON_INTEGER
from forecaster.registry.predictor import MAX_SAMPLES
from service.timestamps import Clock, clock_of, parse_uniform

Number = Annotated[float, Strict(), AllowInfNan(False)]
Whole = Annotated[int, Strict()]


def _check_iso_8601(time: Any) -> Any:
    """Refuse numbers, which pydantic would read as seconds since 1970."""
    if not isinstance(time, str) or time[4:5] != "-":
        raise PydanticCustomError("time", "Input should be an ISO 8601 date or time, such as 2026-01-31T00:00:00Z")
    return time


def _check_width(columns: Any) -> Any:
    """Refuse so many columns that validating each would take minutes."""
    if isinstance(columns, dict) and len(columns) > MAX_COLUMNS:
        raise PydanticCustomError("columns", f"Input should have at most {MAX_COLUMNS} columns")
    return columns


MAX_COLUMNS = 500
Time = Annotated[datetime, BeforeValidator(_check_iso_8601)]
# PostgreSQL cannot store NUL in text
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class _AsClock:
    """Reads timestamps as a clock. Those that are all written alike are parsed together, others one by one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        # report only the first invalid value of a long list
        each = handler.generate_schema(Annotated[list[Time], FailFast()])
        return core_schema.no_info_wrap_validator_function(_read_clock, each)


def _read_clock(written: Any, read_each: core_schema.ValidatorFunctionWrapHandler) -> Clock:
    if isinstance(written, list):
        # the series of a request, and requests for the same time, usually share their timestamps
        try:
            is_short = len(written) <= _MAX_CACHED_TIMES and max(map(len, written), default=0) <= _MAX_CACHED_CHARS
            clock = (_parse_cached if is_short else parse_uniform)(tuple(written))
        except TypeError:
            # a value that is no text
            clock = None
        if clock is not None:
            return clock
    times = read_each(written)
    has_zone = [time.tzinfo is not None for time in times]
    if len(set(has_zone)) > 1:
        row = has_zone.index(not has_zone[0])
        message = "some timestamps have a zone and some have none; write all the same way"
        detail = InitErrorDetails(type=PydanticCustomError("zone", message), loc=(row,), input=written[row])
        raise ValidationError.from_exception_data("ds", [detail])
    return clock_of(times)


# bound the memory of the cache
_MAX_CACHED_TIMES, _MAX_CACHED_CHARS = 1000, 32


@lru_cache(64)
def _parse_cached(written: Sequence[Any]) -> Clock | None:
    return parse_uniform(written)


Timestamps = Annotated[Clock, _AsClock()]
# report only the first invalid value of a long list
Numbers = Annotated[list[Number], FailFast()]
# null is a missing value, which only some models take
Observed = Annotated[list[Number | None], FailFast()]
# a number, or the name of a category
StaticValue = Number | Annotated[str, Strict(), Field(max_length=200)]
Columns = Annotated[dict[str, Numbers], BeforeValidator(_check_width)]
ObservedColumns = Annotated[dict[str, Observed], BeforeValidator(_check_width)]

# two days of the demo's hourly sine, the input size of its model
_HOURS = [f"2026-01-0{1 + hour // 24}T{hour % 24:02d}:00:00Z" for hour in range(48)]
EXAMPLE_REQUEST: dict[str, JsonValue] = {
    "model": "sine",
    "series": [
        {"unique_id": "a", "ds": [*_HOURS], "y": [round(math.sin(math.tau * hour / 24), 2) for hour in range(48)]}
    ],
    "horizon": 3,
    "level": [80, 95],
}


class SeriesIn(BaseModel):
    """The history of a series, oldest first. Times may be dates, or times with or without a zone.

    `y` and `hist_exog` may hold null for a missing value if the model's manifest has `missing: mask`.
    """

    model_config = ConfigDict(extra="forbid")

    unique_id: Name
    ds: Timestamps
    y: Observed
    # default_factory, because pydantic's deep copy of a default dict is as slow as parsing a short series
    hist_exog: ObservedColumns = Field(default_factory=dict)
    futr_exog: Columns = Field(default_factory=dict)
    stat_exog: Annotated[dict[str, StaticValue], BeforeValidator(_check_width)] = Field(default_factory=dict)


class ForecastRequest(BaseModel):
    """A model, the series to forecast, a horizon, and intervals (`level`, 0–100) or `quantiles` (0–1)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_REQUEST]})

    model: str = Field(max_length=250)
    alias: str | None = Field(None, max_length=250, description="default: `champion`, if no version is given")
    version: Whole | None = Field(None, description="version to use instead of an alias")
    series: list[SeriesIn] | None = Field(None, fail_fast=True, min_length=1, description="histories of the series")
    unique_ids: list[Name] | None = Field(
        None, fail_fast=True, min_length=1, description="symbols of the bar store, instead of `series`"
    )
    horizon: Whole | None = Field(None, description="number of steps; default: the trained horizon")
    level: list[Number] | None = Field(None, max_length=20)
    quantiles: list[Number] | None = Field(None, max_length=40)
    n_samples: Whole | None = Field(
        None, ge=1, le=MAX_SAMPLES, description="number of sample paths, up to the trained horizon"
    )
    seed: Whole = Field(0, ge=0, lt=MAX_JSON_INTEGER, description="seed of the sample paths")


class ActualIn(BaseModel):
    """An actual: the observed value of a series at a time."""

    model_config = ConfigDict(extra="forbid")

    unique_id: Name
    ds: Time
    # the mean of larger values could overflow
    y: Annotated[Number, Field(ge=-1e150, le=1e150)]


class ActualsRequest(BaseModel):
    """Actuals. Sending an actual again changes nothing; a corrected value replaces the earlier one."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"actuals": [{"unique_id": "a", "ds": "2026-01-03T00:00:00Z", "y": 0.43}]}]},
    )

    actuals: Annotated[list[ActualIn], FailFast()] = Field(min_length=1)
