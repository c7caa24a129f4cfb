"""The histories that a forecast starts from: sent with the request, or read from the bar store's tails."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.data.tails import Tail, read_tail
from forecaster.domain.errors import RequestError, SeriesError, StaleData
from forecaster.domain.series import Floats
from forecaster.registry.predictor import Predictor
from service.schemas import ForecastRequest, SeriesIn
from service.settings import Settings
from service.timestamps import Clock, read_clock


@dataclass(frozen=True)
class History:
    """One series: its name, its timestamps, its last `input_size` values."""

    unique_id: str
    clock: Clock
    values: Floats


def read_histories(request: ForecastRequest, predictor: Predictor, settings: Settings) -> list[History]:
    """Return the request's histories, checked against what the model needs.

    Raises:
        RequestError: there are too many, or both or neither of `series` and `unique_ids`.
        SeriesError, TooShortError: a series breaks a rule.
        UnknownSymbol, StaleData: a stored one is not there, or lacks sessions that have ended.
    """
    if (request.series is None) == (request.unique_ids is None):
        raise RequestError("series and unique_ids: give one of them")
    names = request.unique_ids or [one.unique_id for one in request.series or []]
    where = "unique_ids" if request.unique_ids else "series"
    if len(names) > settings.max_series:
        raise RequestError(f"{where}: {len(names)} are more than {settings.max_series}; ask in several requests")
    _refuse_repeated(names, where)
    places = [f"{where}[{number}] ('{name}')" for number, name in enumerate(names)]
    if request.series is not None:
        return [_sent(one, place, predictor) for one, place in zip(request.series, places, strict=True)]
    now = datetime.now(UTC)
    return [_stored(name, place, predictor, settings, now) for name, place in zip(names, places, strict=True)]


def _refuse_repeated(names: list[str], where: str) -> None:
    seen: dict[str, int] = {}
    field = ".unique_id" if where == "series" else ""
    for number, name in enumerate(names):
        if name in seen:
            raise SeriesError(f"{where}[{number}]{field}: '{name}' is also {where}[{seen[name]}]; rename it")
        seen[name] = number


def _sent(one: SeriesIn, where: str, predictor: Predictor) -> History:
    if len(one.ds) != len(one.y):
        raise SeriesError(f"{where}: ds has {len(one.ds)} entries and y has {len(one.y)}; give one time per value")
    exogenous = [*one.hist_exog, *one.futr_exog, *one.stat_exog]
    if exogenous:
        raise RequestError(f"{where}: the model takes no exogenous columns, got {exogenous}; leave them out")
    predictor.check_length(len(one.y), f"{where}.y")
    clock = read_clock(one.ds, where)
    clock.check(predictor.frequency, where)
    return History(one.unique_id, clock, np.array(one.y[-predictor.manifest.input_size :]))


def _stored(name: str, where: str, predictor: Predictor, settings: Settings, now: datetime) -> History:
    tail = read_tail(settings.bars_dir, name)
    _refuse_stale(tail, now, timedelta(hours=settings.stale_after_hours))
    predictor.check_length(len(tail.closes), where)
    days = tail.days[-predictor.manifest.input_size :].astype("M8[us]")
    clock = Clock(days, days, None)
    clock.check(predictor.frequency, where)
    return History(name, clock, tail.closes[-predictor.manifest.input_size :])


def _refuse_stale(tail: Tail, now: datetime, patience: timedelta) -> None:
    if now > tail.due_at + patience:
        raise StaleData(
            tail.symbol,
            f"the store ends with session {tail.days[-1]}, and the next was complete at {tail.due_at.isoformat()}; "
            "update it with pipelines.fetch, or send its history as series",
        )
