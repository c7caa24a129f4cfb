"""Running sums of the scores, changed with them in one transaction, so that all scores need not be read again.

They are of the forecasts that the model made and its client saw. Errors are summed exactly (`domain/sums.py`): a score
that is corrected or deleted leaves nothing behind, however large it was.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import Connection, Engine, Table, delete, select, text, tuple_

from forecaster.database.engine import insert_all, insert_or, transaction
from forecaster.database.tables import DAYS, STEPS, TIMES
from forecaster.domain import sums
from forecaster.domain.instants import DAY

# keys in one statement: databases have a limit on its parameters
_CHUNK = 500
# owner, model, version
Of = tuple[str, str, int]
_Key = tuple[Any, ...]
# how many, and how many of these are inside 80 and 95 % intervals
_Counts = list[float]


@dataclass
class Tally:
    """Sums of scores.

    Args:
        n_scores: how many.
        absolute: the errors' absolute values, as `sums.add` returns them.
        naive: those of the last value's errors, likewise.
        signed: the errors, likewise.
        n_80: how many have an 80 % interval.
        inside_80: how many of these are inside.
        n_95: how many have a 95 % interval.
        inside_95: how many of these are inside.
    """

    n_scores: int = 0
    absolute: sums.Parts = field(default_factory=list)
    naive: sums.Parts = field(default_factory=list)
    signed: sums.Parts = field(default_factory=list)
    n_80: int = 0
    inside_80: int = 0
    n_95: int = 0
    inside_95: int = 0

    def count(self, score: dict[str, Any], sign: int) -> None:
        """Add a score, or take it away where `sign` is -1."""
        self.n_scores += sign
        self.absolute = sums.add(self.absolute, [sign * abs(score["error"])])
        self.naive = sums.add(self.naive, [sign * abs(score["naive_error"])])
        self.signed = sums.add(self.signed, [sign * score["error"]])
        if score["is_inside_80"] is not None:
            self.n_80 += sign
            self.inside_80 += sign * score["is_inside_80"]
        if score["is_inside_95"] is not None:
            self.n_95 += sign
            self.inside_95 += sign * score["is_inside_95"]

    def add(self, other: "Tally") -> None:
        """Add another one."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _SUMS:
            setattr(self, name, sums.join(getattr(self, name), getattr(other, name)))


_SUMS = ("absolute", "naive", "signed")
_COUNTS = tuple(one.name for one in fields(Tally) if one.name not in _SUMS)


def lock_scores(connection: Connection) -> None:
    """Begin a transaction that changes scores: another one that does waits until it ends.

    It is the first statement of the transaction, so that what is read afterwards is what the others left.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("LOCK TABLE days IN SHARE ROW EXCLUSIVE MODE"))


def tally(connection: Connection, removed: Iterable[dict[str, Any]], added: Iterable[dict[str, Any]]) -> None:
    """Take scores from the sums and add others, rows of `SCORES`, in a transaction that `lock_scores` began."""
    days: dict[_Key, Tally] = defaultdict(Tally)
    times: dict[_Key, _Counts] = defaultdict(lambda: [0, 0, 0])
    for sign, scores in ((-1, removed), (1, added)):
        for score in scores:
            if score["is_shadow"] or score["forecast_by"] != "model":
                continue
            days[score["owner"], score["model"], score["version"], score["at"] // DAY].count(score, sign)
            if score["is_inside_80"] is not None and score["is_inside_95"] is not None:
                counts = times[_key(TIMES, score)]
                for number, more in enumerate((1, score["is_inside_80"], score["is_inside_95"])):
                    counts[number] += sign * more
    _change_days(connection, days)
    _change_steps(connection, times)


def recent(engine: Engine, since_day: int) -> dict[Of, Tally]:
    """Return the sums over the days from `since_day` on, counted since 1970, by owner, model and version.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    found: dict[Of, Tally] = defaultdict(Tally)
    with transaction(engine) as connection:
        rows = connection.execute(select(DAYS).where(DAYS.c.day >= since_day)).all()
    for row in rows:
        found[row.owner, row.model, row.version].add(_read(row))
    return dict(found)


def _change_days(connection: Connection, deltas: dict[_Key, Tally]) -> None:
    by_version: dict[Of, dict[int, Tally]] = defaultdict(dict)
    for (owner, model, version, day), delta in deltas.items():
        by_version[owner, model, version][day] = delta
    for (owner, model, version), of_days in by_version.items():
        mine = (DAYS.c.owner == owner) & (DAYS.c.model == model) & (DAYS.c.version == version)
        days = sorted(of_days)
        for begin in range(0, len(days), _CHUNK):
            some = DAYS.c.day.in_(days[begin : begin + _CHUNK])
            for row in connection.execute(select(DAYS).where(mine, some)).all():
                of_days[row.day].add(_read(row))
            connection.execute(delete(DAYS).where(mine, some))
        of_version = {"owner": owner, "model": model, "version": version}
        rows = [of_version | {"day": day} | _spell(one) for day, one in of_days.items() if one.n_scores]
        if rows:
            insert_all(connection, DAYS, rows)


def _change_steps(connection: Connection, deltas: dict[_Key, _Counts]) -> None:
    rows = [_row(TIMES, key, delta) for key, delta in deltas.items() if any(delta)]
    steps: dict[_Key, _Counts] = defaultdict(lambda: [0, 0, 0])
    for row in _add(connection, TIMES, rows):
        now = [row[name] for name in _names(TIMES, is_key=False)]
        before = [one - more for one, more in zip(now, deltas[_key(TIMES, row)], strict=True)]
        change = steps[_key(STEPS, row)]
        for number, (one, other) in enumerate(zip(_as_one(now), _as_one(before), strict=True)):
            change[number] += one - other
    _add(connection, STEPS, [_row(STEPS, key, change) for key, change in steps.items() if any(change)])


def _as_one(counts: _Counts) -> _Counts:
    """Return what a time counts: once if it has scores, and inside by the share of them that are."""
    count, *inside = counts
    return [1, *(one / count for one in inside)] if count else [0, 0, 0]


def _names(table: Table, *, is_key: bool) -> list[str]:
    return [column.name for column in table.columns if column.primary_key == is_key]


def _key(table: Table, row: dict[str, Any]) -> _Key:
    return tuple(row[name] for name in _names(table, is_key=True))


def _row(table: Table, key: _Key, values: _Counts) -> dict[str, Any]:
    return dict(zip([*_names(table, is_key=True), *_names(table, is_key=False)], [*key, *values], strict=True))


def _add(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to a table's rows, which are made where there is none and deleted where nothing is left; return them."""
    if not rows:
        return []
    statement, keys = insert_or(connection, table), list(table.primary_key)
    grown = {one.name: one + statement.excluded[one.name] for one in table.columns if not one.primary_key}
    upsert = statement.on_conflict_do_update(index_elements=keys, set_=grown).returning(*table.columns)
    changed = [dict(row) for row in connection.execute(upsert, rows).mappings()]
    count = _names(table, is_key=False)[0]
    gone = [_key(table, row) for row in changed if not row[count]]
    for begin in range(0, len(gone), _CHUNK):
        connection.execute(delete(table).where(tuple_(*keys).in_(gone[begin : begin + _CHUNK])))
    return changed


def _read(row: Any) -> Tally:
    found: dict[str, Any] = {name: getattr(row, name) for name in _COUNTS}
    return Tally(**found | {name: sums.loads(getattr(row, name)) for name in _SUMS})


def _spell(one: Tally) -> dict[str, Any]:
    return vars(one) | {name: sums.dumps(getattr(one, name)) for name in _SUMS}
