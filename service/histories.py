"""The histories that a forecast starts from: sent with the request, or read from the bar store's tails."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.data.tails import read_tail
from forecaster.domain.errors import ConfigError, RequestError, SeriesError
from forecaster.domain.series import Floats
from forecaster.registry.predictor import Predictor
from service.schemas import ForecastRequest, SeriesIn
from service.settings import Settings
from service.timestamps import Clock, has_same_times, read_clock


@dataclass(frozen=True)
class History:
    """One series: its name, its timestamps, and of its last `input_size` rows the values and the exogenous ones.

    Args:
        unique_id: its name.
        clock: all of its timestamps.
        values: the target and `hist_exog`, `(input_size, 1 + hist_exog)`.
        futr_exog: over these rows and the steps to come, `(input_size + steps, futr_exog)`; None where none is taken.
    """

    unique_id: str
    clock: Clock
    values: Floats
    futr_exog: Floats | None = None


def read_histories(request: ForecastRequest, predictor: Predictor, steps: int, settings: Settings) -> list[History]:
    """Return the request's histories, checked against what the model needs to forecast `steps` steps.

    Raises:
        RequestError: there are too many, or both or neither of `series` and `unique_ids`.
        SeriesError, TooShortError: a series breaks a rule.
        UnknownSymbol, StaleData, Unconfirmed: a stored one is not there, lacks ended sessions, or is held back.
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
        histories: list[History] = []
        for number, (one, place) in enumerate(zip(request.series, places, strict=True)):
            # series that are asked together mostly have the same timestamps
            is_same = number > 0 and has_same_times(one.ds, request.series[number - 1].ds)
            histories.append(_sent(one, place, predictor, steps, histories[-1].clock if is_same else None))
        return histories
    now = datetime.now(UTC)
    return [_stored(name, place, predictor, settings, now) for name, place in zip(names, places, strict=True)]


def _refuse_repeated(names: list[str], where: str) -> None:
    seen: dict[str, int] = {}
    field = ".unique_id" if where == "series" else ""
    for number, name in enumerate(names):
        if name in seen:
            raise SeriesError(f"{where}[{number}]{field}: '{name}' is also {where}[{seen[name]}]; rename it")
        seen[name] = number


def _sent(one: SeriesIn, where: str, predictor: Predictor, steps: int, known_clock: Clock | None) -> History:
    manifest, length = predictor.manifest, len(one.y)
    if len(one.ds) != length:
        raise SeriesError(f"{where}: ds has {len(one.ds)} entries and y has {length}; give one time per value")
    if one.stat_exog:
        raise RequestError(f"{where}.stat_exog: the model takes none, got {list(one.stat_exog)}; leave them out")
    predictor.check_length(length, f"{where}.y")
    ahead = predictor.steps_ahead(steps)
    hist = _columns(one.hist_exog, tuple(manifest.hist_exog), length, f"{where}.hist_exog")
    futr = _columns(one.futr_exog, tuple(manifest.futr_exog), length + ahead, f"{where}.futr_exog")
    clock = known_clock
    if clock is None:
        clock = read_clock(one.ds, where)
        clock.check(predictor.frequency, where)
    # only the rows that are needed become an array, as a part of a longer one would keep all of it in memory
    values = np.array([column[-manifest.input_size :] for column in (one.y, *hist)]).T
    futr_exog = np.array([column[-manifest.input_size - ahead :] for column in futr]).T if futr else None
    return History(one.unique_id, clock, values, futr_exog)


def _columns(given: dict[str, list[float]], wanted: tuple[str, ...], length: int, where: str) -> list[list[float]]:
    """Return the columns that the model takes, in its order."""
    missing, unknown = [name for name in wanted if name not in given], sorted(given.keys() - set(wanted))
    if missing or unknown:
        raise RequestError(
            f"{where}: the model takes {list(wanted) or 'none'}; missing are {missing}, not taken are {unknown}"
        )
    for name in wanted:
        if len(given[name]) != length:
            what = "one value per time" if where.endswith("hist_exog") else "one value per time and per step to come"
            raise RequestError(f"{where}.{name}: {len(given[name])} values, {length} are needed: {what}")
    return [given[name] for name in wanted]


def _stored(name: str, where: str, predictor: Predictor, settings: Settings, now: datetime) -> History:
    tail = read_tail(settings.bars_dir, name)
    tail.check_usable(now, timedelta(hours=settings.stale_after_hours))
    manifest = predictor.manifest
    if manifest.futr_exog:
        raise RequestError(f"{where}: the store does not know {list(manifest.futr_exog)} ahead; send series")
    predictor.check_length(len(tail.days), where)
    days = tail.days[-manifest.input_size :].astype("M8[us]")
    clock = Clock(days, days, None)
    clock.check(predictor.frequency, where)
    try:
        # a copy, as a part would keep all of the tail in memory
        return History(name, clock, tail.values(tuple(manifest.hist_exog))[-manifest.input_size :].copy())
    except ConfigError as error:
        raise RequestError(f"{where}: the model takes what the store does not have ({error}); send series") from error
