"""Histories: the series that a forecast starts from, sent with the request or read from the bar store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.data.tails import read_tail
from forecaster.domain.errors import ConfigError, RequestError, SeriesError
from forecaster.domain.missing import pad_front
from forecaster.domain.series import Floats
from forecaster.domain.static import StaticColumns, StaticValue
from forecaster.registry.predictor import ArrayPredictor
from service.requests import ForecastRequest, SeriesIn
from service.settings import Settings
from service.timestamps import Clock


@dataclass(frozen=True)
class History:
    """One series, reduced to the rows that the model takes.

    Args:
        unique_id: the series' name.
        clock: all its timestamps.
        values: the target and `hist_exog` of the last rows, `(input_size, 1 + hist_exog)`.
        futr_exog: `futr_exog` of these rows and the forecast steps, `(input_size + steps, futr_exog)`; None if the
            model takes none.
        static: what describes the series as a whole, `(columns,)`; None if the model takes nothing of the kind.
    """

    unique_id: str
    clock: Clock
    values: Floats
    futr_exog: Floats | None = None
    static: Floats | None = None


def read_histories(
    request: ForecastRequest, predictor: ArrayPredictor, steps: int, settings: Settings
) -> list[History]:
    """Return the request's histories, checked against what the model needs to forecast `steps` steps.

    Raises:
        RequestError: there are too many series, or both or neither of `series` and `unique_ids` are given.
        SeriesError, TooShortError: a series sent with the request is invalid.
        UnknownSymbol, StaleData, Unconfirmed: a stored series is missing, out of date, or held for confirmation.
    """
    if (request.series is None) == (request.unique_ids is None):
        raise RequestError("series and unique_ids: give exactly one of them")
    names = request.unique_ids or [series.unique_id for series in request.series or []]
    where = "unique_ids" if request.unique_ids else "series"
    if len(names) > settings.max_series:
        raise RequestError(
            f"{where}: {len(names)} series, at most {settings.max_series} are allowed; split them into several requests"
        )
    _check_unique(names, where)
    locations = [f"{where}[{number}] ('{name}')" for number, name in enumerate(names)]
    if request.series is not None:
        sent = zip(request.series, locations, strict=True)
        return [_sent(series, location, predictor, steps) for series, location in sent]
    now = datetime.now(UTC)
    return [_stored(name, location, predictor, settings, now) for name, location in zip(names, locations, strict=True)]


def _check_unique(names: list[str], where: str) -> None:
    seen: dict[str, int] = {}
    field = ".unique_id" if where == "series" else ""
    for number, name in enumerate(names):
        if name in seen:
            raise SeriesError(f"{where}[{number}]{field}: '{name}' is also {where}[{seen[name]}]; rename it")
        seen[name] = number


def _sent(series: SeriesIn, where: str, predictor: ArrayPredictor, steps: int) -> History:
    manifest, length = predictor.manifest, len(series.y)
    if len(series.ds) != length:
        raise SeriesError(f"{where}: ds has {len(series.ds)} entries and y has {length}; give one time per value")
    predictor.checks.check_length(length, f"{where}.y")
    ahead = predictor.manifest.steps_ahead(steps)
    hist = _columns(series.hist_exog, tuple(manifest.hist_exog), length, f"{where}.hist_exog")
    static = _static(series.unique_id, series.stat_exog, predictor.static_columns, f"{where}.stat_exog")
    futr = _columns(series.futr_exog, tuple(manifest.futr_exog), length + ahead, f"{where}.futr_exog")
    if not manifest.is_masked:
        _check_no_nulls(series, where)
    series.ds.check(predictor.frequency, where)
    # slice before converting: a slice of an array would keep the whole array in memory
    values = np.array([column[-manifest.input_size :] for column in (series.y, *hist)], dtype=np.float64).T
    predictor.checks.check_observed(values[None], where)
    values = pad_front(values[None], manifest.input_size)[0]
    futr_exog = np.array([column[-manifest.input_size - ahead :] for column in futr]).T if futr else None
    return History(series.unique_id, series.ds, values, futr_exog, static)


def _check_no_nulls(series: SeriesIn, where: str) -> None:
    columns = {f"hist_exog.{name}": column for name, column in series.hist_exog.items()}
    for name, column in ({"y": series.y} | columns).items():
        if None in column:
            raise SeriesError(
                f"{where}.{name}[{column.index(None)}]: is null, but the model takes no missing values; send a number, "
                "or train the model with missing: mask"
            )


def _static(unique_id: str, given: Mapping[str, StaticValue], columns: StaticColumns, where: str) -> Floats | None:
    """Return what describes a series as a whole, `(columns,)`."""
    _check_names(given, columns.stat_exog, where)
    for name in columns.numbers:
        if isinstance(given[name], str):
            raise RequestError(f"{where}.{name}: is the text {given[name]!r}; the model takes a number")
    return np.array(columns.encode(unique_id, given)) if columns.names else None


def _check_names(given: Mapping[str, object], wanted: tuple[str, ...], where: str) -> None:
    if not given and not wanted:
        return
    missing, unknown = [name for name in wanted if name not in given], sorted(given.keys() - set(wanted))
    if missing or unknown:
        raise RequestError(
            f"{where}: the model takes the columns {list(wanted) or 'none'}; missing: {missing}, unknown: {unknown}"
        )


def _columns(
    given: Mapping[str, Sequence[float | None]], wanted: tuple[str, ...], length: int, where: str
) -> list[Sequence[float | None]]:
    """Return the columns that the model takes, in its order."""
    _check_names(given, wanted, where)
    for name in wanted:
        if len(given[name]) != length:
            need = "one value per time" if where.endswith("hist_exog") else "one value per time and per forecast step"
            raise RequestError(f"{where}.{name}: has {len(given[name])} values and needs {length}: {need}")
    return [given[name] for name in wanted]


def _stored(name: str, where: str, predictor: ArrayPredictor, settings: Settings, now: datetime) -> History:
    manifest, columns = predictor.manifest, predictor.static_columns
    if manifest.futr_exog:
        raise RequestError(f"{where}: the bar store has no future values of {list(manifest.futr_exog)}; send series")
    if columns.stat_exog:
        raise RequestError(f"{where}: the bar store has no stat_exog {list(columns.stat_exog)}; send series")
    tail = read_tail(settings.bars_dir, name)
    tail.check_usable(now, timedelta(hours=settings.stale_after_hours))
    predictor.checks.check_length(len(tail.days), where)
    days = tail.days[-manifest.input_size :].astype("M8[us]")
    clock = Clock(days, days, None)
    clock.check(predictor.frequency, where)
    try:
        # copy, because a slice would keep the whole tail in memory
        values = tail.values(tuple(manifest.hist_exog))[-manifest.input_size :].copy()
    except ConfigError as error:
        raise RequestError(
            f"{where}: the bar store lacks a column that the model takes ({error}); send series"
        ) from error
    padded = pad_front(values[None], manifest.input_size)[0]
    return History(name, clock, padded, static=_static(name, {}, columns, where))
