"""The response of Yahoo's chart endpoint: the fields that daily bars need."""

import json
from itertools import pairwise
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, model_validator

from forecaster.data.sources.responses import Amount, Column, ResponseModel, Seconds, parse_response

_Text = Annotated[str, Field(max_length=200)]
_Prices = Column[Annotated[float, Field(ge=-1e15, le=1e15)] | None]

# minimum seconds between the opens of two sessions, with a margin for clock changes
_MIN_DAY_SECONDS = 12 * 60 * 60
_MAX_EXTRA_EVENTS = 10


def _known(zone: str) -> str:
    try:
        return ZoneInfo(zone).key
    except (KeyError, ValueError, OSError):
        raise ValueError("is not a time zone") from None


class Meta(ResponseModel):
    """Yahoo's description of a symbol; a response without bars may lack most fields."""

    symbol: _Text | None = None
    currency: _Text | None = None
    exchangeName: _Text | None = None  # noqa: N815
    exchangeTimezoneName: Annotated[_Text, AfterValidator(_known)] | None = None  # noqa: N815
    instrumentType: _Text | None = None  # noqa: N815
    dataGranularity: _Text | None = None  # noqa: N815
    firstTradeDate: Seconds | None = None  # noqa: N815


class _Quote(ResponseModel):
    open: _Prices = ()
    high: _Prices = ()
    low: _Prices = ()
    close: _Prices = ()
    volume: Column[Amount | None] = ()


class _AdjustedClose(ResponseModel):
    adjclose: _Prices = ()


class _Indicators(ResponseModel):
    quote: Annotated[tuple[_Quote], Field(min_length=1)]
    adjclose: tuple[_AdjustedClose] | None = None


class _Payment(ResponseModel):
    date: Seconds
    amount: Amount


class _Split(ResponseModel):
    date: Seconds
    numerator: Annotated[float, Field(gt=0, le=1e6)]
    denominator: Annotated[float, Field(gt=0, le=1e6)]


def _listed(events: object) -> object:
    # Yahoo's keys are the events' times, which the events contain too
    return tuple(events.values()) if isinstance(events, dict) else events


class _Events(ResponseModel):
    dividends: Annotated[Column[_Payment], BeforeValidator(_listed)] = ()
    capitalGains: Annotated[Column[_Payment], BeforeValidator(_listed)] = ()  # noqa: N815
    splits: Annotated[Column[_Split], BeforeValidator(_listed)] = ()


class Chart(ResponseModel):
    """A symbol's bars."""

    meta: Meta
    timestamp: Column[Seconds] = ()
    indicators: _Indicators
    events: _Events = _Events()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.timestamp:
            return self
        missing = [name for name, value in self.meta if value is None and name != "firstTradeDate"]
        if missing:
            raise ValueError(f"meta lacks {missing}")
        columns = dict(self.indicators.quote[0])
        if self.indicators.adjclose:
            columns["adjclose"] = self.indicators.adjclose[0].adjclose
        for name, column in columns.items():
            if len(column) != len(self.timestamp):
                raise ValueError(f"{name} has {len(column)} values for {len(self.timestamp)} timestamps")
        for name, events in self.events:
            # a few events fall on days without a session; many would slow yfinance, which searches a session for each
            if len(events) > len(self.timestamp) + _MAX_EXTRA_EVENTS:
                raise ValueError(f"there are {len(events)} {name} for {len(self.timestamp)} timestamps")
        if self.meta.dataGranularity == "1d":
            self._check_days()
        return self

    def _check_days(self) -> None:
        """Reject a repeated session, of which yfinance would silently take the first."""
        # the latest session may appear twice, once as its latest trade, and yfinance merges the two
        opens = sorted(self.timestamp)[:-1]
        for before, after in pairwise(opens):
            if after - before < _MIN_DAY_SECONDS:
                raise ValueError(f"daily bars are only {after - before} s apart at timestamp {after}")

    def to_json(self) -> bytes:
        """Return the validated fields as a response for yfinance."""
        result = self.model_dump(exclude_none=True)
        if not self.timestamp:
            result = {"meta": result["meta"], "indicators": {"quote": [{}]}}
        else:
            result["events"] = {
                kind: {str(number): event for number, event in enumerate(events)}
                for kind, events in result["events"].items()
            }
        return json.dumps({"chart": {"result": [result], "error": None}}).encode()


class _Failure(ResponseModel):
    description: str | None = None


class _Outer(ResponseModel):
    result: tuple[Chart, ...] | None = None
    error: _Failure | None = None


class _Body(ResponseModel):
    chart: _Outer | None = None


_BODY: TypeAdapter[_Body | None] = TypeAdapter(_Body | None)


def read_chart(content: bytes) -> Chart | None:
    """Return the chart of a response; None if it has none.

    Raises:
        InvalidResponse: a field is missing or invalid.
    """
    body = parse_response(_BODY, content, "a chart")
    result = body.chart.result if body and body.chart else None
    return result[0] if result else None


def reason_of(content: bytes) -> str:
    """Return the reason in a response without a chart; empty if it has none."""
    try:
        body = parse_response(_BODY, content, "a chart")
    except ValueError:
        return ""
    return (body.chart.error.description or "") if body and body.chart and body.chart.error else ""
