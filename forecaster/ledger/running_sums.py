"""Running sums of the scores, updated in the transactions that change scores, so that nobody has to read all scores.

They exclude shadow forecasts and forecasts by a baseline. Errors are summed exactly (`domain/sums.py`), so a score that
is corrected or deleted leaves no rounding error behind, however large it was.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Engine, Table, and_, delete, select, text, tuple_

from forecaster.database.engine import dialect_insert, insert_rows, transaction
from forecaster.database.tables import DAY_LEVELS, DAYS, STEPS, TIMES
from forecaster.domain import sums
from forecaster.domain.instants import DAY
from forecaster.ledger.outcomes import Outcomes, load_outcomes

# keys per statement: databases limit its parameters
_KEYS_PER_STATEMENT = 500
# owner, model, version
VersionKey = tuple[str, str, int]
_Key = tuple[Any, ...]
# scores or times with an interval of a level, and how many of them are inside it
_Counts = list[float]


@dataclass
class ScoreSums:
    """Sums of scores.

    Args:
        n_scores: how many scores.
        absolute: exact sum of the errors' absolute values, as `sums.add` returns it.
        naive: exact sum of the absolute errors of the last value.
        signed: exact sum of the errors.
        n_covered: by level, how many scores have an interval.
        inside: by level, how many of these are inside it.
    """

    n_scores: int = 0
    absolute: sums.Parts = field(default_factory=list)
    naive: sums.Parts = field(default_factory=list)
    signed: sums.Parts = field(default_factory=list)
    n_covered: Counter[float] = field(default_factory=Counter)
    inside: Counter[float] = field(default_factory=Counter)

    def count(self, score: dict[str, Any], outcomes: Outcomes, sign: int) -> None:
        """Add a score and its outcomes if `sign` is 1; subtract them if `sign` is -1."""
        self.n_scores += sign
        self.absolute = sums.add(self.absolute, [sign * abs(score["error"])])
        self.naive = sums.add(self.naive, [sign * abs(score["naive_error"])])
        self.signed = sums.add(self.signed, [sign * score["error"]])
        for level, is_inside in outcomes:
            if is_inside is not None:
                self.n_covered[level] += sign
                self.inside[level] += sign * is_inside

    def add(self, other: "ScoreSums") -> None:
        """Add other sums to these."""
        self.n_scores += other.n_scores
        for name in _SUMS:
            setattr(self, name, sums.join(getattr(self, name), getattr(other, name)))
        self.n_covered.update(other.n_covered)
        self.inside.update(other.inside)


_SUMS = ("absolute", "naive", "signed")


def lock_scores(connection: Connection) -> None:
    """Lock the scores until the end of the transaction, so that transactions that change them run one after another.

    This must be the first statement of the transaction: reads before it could miss what others have committed.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("LOCK TABLE days IN SHARE ROW EXCLUSIVE MODE"))


def update_sums(connection: Connection, removed: Iterable[dict[str, Any]], added: Iterable[dict[str, Any]]) -> None:
    """Subtract removed scores from the running sums and add new ones.

    Args:
        connection: a connection with a transaction in which `lock_scores` was called.
        removed: rows of `SCORES`.
        added: rows of `SCORES`.
    """
    days: dict[_Key, ScoreSums] = defaultdict(ScoreSums)
    times: dict[_Key, _Counts] = defaultdict(lambda: [0, 0])
    for sign, scores in ((-1, removed), (1, added)):
        for score in scores:
            if score["is_shadow"] or score["forecast_by"] != "model":
                continue
            outcomes = load_outcomes(score["is_inside"])
            day = score["owner"], score["model"], score["version"], score["at"] // DAY
            days[day].count(score, outcomes, sign)
            for key, is_inside in _time_outcomes(score, outcomes):
                times[key][0] += sign
                times[key][1] += sign * is_inside
    _add(connection, DAY_LEVELS, _day_level_rows(days))
    _change_days(connection, days)
    _change_steps(connection, times)


def _time_outcomes(score: dict[str, Any], outcomes: Outcomes) -> Iterator[tuple[_Key, int]]:
    """Yield the keys in `TIMES` of a score's levels, with their outcomes; none if any of its levels has no interval."""
    are_inside = [(level, is_inside) for level, is_inside in outcomes if is_inside is not None]
    # the rates of all levels adapt together, because those between two levels are interpolated
    if len(are_inside) == len(outcomes):
        for level, is_inside in are_inside:
            yield _key(TIMES, score | {"level": level}), is_inside


def sums_since(engine: Engine, since_day: int) -> dict[VersionKey, ScoreSums]:
    """Return the sums over recent days, by owner, model and version.

    Args:
        engine: the engine of the database that holds the ledger.
        since_day: the first day, in days since 1970.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    totals: dict[VersionKey, ScoreSums] = defaultdict(ScoreSums)
    # in one statement, so that a day and its levels are of the same scores
    same_day = and_(*(DAY_LEVELS.c[column.name] == column for column in DAYS.primary_key))
    query = select(DAYS, DAY_LEVELS.c.level, DAY_LEVELS.c.n_scores.label("n_covered"), DAY_LEVELS.c.inside)
    query = query.outerjoin(DAY_LEVELS, same_day).where(DAYS.c.day >= since_day).order_by(*DAYS.primary_key)
    with transaction(engine) as connection:
        rows = connection.execute(query).all()
    for (owner, model, version, _), of_day in groupby(rows, lambda row: row[:4]):
        levels, total = list(of_day), totals[owner, model, version]
        total.add(_read(levels[0]))
        for row in levels:
            if row.level is not None:
                total.n_covered[row.level] += row.n_covered
                total.inside[row.level] += row.inside
    return dict(totals)


def _change_days(connection: Connection, deltas: dict[_Key, ScoreSums]) -> None:
    by_version: dict[VersionKey, dict[int, ScoreSums]] = defaultdict(dict)
    for (owner, model, version, day), delta in deltas.items():
        by_version[owner, model, version][day] = delta
    for (owner, model, version), by_day in by_version.items():
        of_version = (DAYS.c.owner == owner) & (DAYS.c.model == model) & (DAYS.c.version == version)
        days = sorted(by_day)
        for begin in range(0, len(days), _KEYS_PER_STATEMENT):
            in_batch = DAYS.c.day.in_(days[begin : begin + _KEYS_PER_STATEMENT])
            for row in connection.execute(select(DAYS).where(of_version, in_batch)).all():
                by_day[row.day].add(_read(row))
            connection.execute(delete(DAYS).where(of_version, in_batch))
        key = {"owner": owner, "model": model, "version": version}
        rows = [key | {"day": day} | _columns(totals) for day, totals in by_day.items() if totals.n_scores]
        if rows:
            insert_rows(connection, DAYS, rows)


def _day_level_rows(deltas: dict[_Key, ScoreSums]) -> list[dict[str, Any]]:
    return [
        _row(DAY_LEVELS, (*day, level), [n_scores, delta.inside[level]])
        for day, delta in deltas.items()
        for level, n_scores in delta.n_covered.items()
        if n_scores or delta.inside[level]
    ]


def _change_steps(connection: Connection, deltas: dict[_Key, _Counts]) -> None:
    rows = [_row(TIMES, key, delta) for key, delta in deltas.items() if any(delta)]
    steps: dict[_Key, _Counts] = defaultdict(lambda: [0, 0])
    for row in _add(connection, TIMES, rows):
        after = [row[name] for name in _names(TIMES, is_key=False)]
        before = [count - delta for count, delta in zip(after, deltas[_key(TIMES, row)], strict=True)]
        change = steps[_key(STEPS, row)]
        for index, (new, old) in enumerate(zip(_per_time(after), _per_time(before), strict=True)):
            change[index] += new - old
    _add(connection, STEPS, [_row(STEPS, key, change) for key, change in steps.items() if any(change)])


def _per_time(counts: _Counts) -> _Counts:
    """Return a time's contribution to its step: 1 if it has scores, and the share of them that are inside."""
    n_scores, inside = counts
    return [1, inside / n_scores] if n_scores else [0, 0]


# cached, because it is called for each row
@cache
def _names(table: Table, *, is_key: bool) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if column.primary_key == is_key)


def _key(table: Table, row: dict[str, Any]) -> _Key:
    return tuple([row[name] for name in _names(table, is_key=True)])


def _row(table: Table, key: _Key, values: _Counts) -> dict[str, Any]:
    return dict(zip([*_names(table, is_key=True), *_names(table, is_key=False)], [*key, *values], strict=True))


def _add(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add counts to a table's rows; insert missing rows, delete rows whose count becomes 0; return the changed rows."""
    if not rows:
        return []
    statement, keys = dialect_insert(connection, table), list(table.primary_key)
    added = {
        column.name: column + statement.excluded[column.name] for column in table.columns if not column.primary_key
    }
    upsert = statement.on_conflict_do_update(index_elements=keys, set_=added).returning(*table.columns)
    changed = [dict(row) for row in connection.execute(upsert, rows).mappings()]
    count = _names(table, is_key=False)[0]
    empty = [_key(table, row) for row in changed if not row[count]]
    for begin in range(0, len(empty), _KEYS_PER_STATEMENT):
        connection.execute(delete(table).where(tuple_(*keys).in_(empty[begin : begin + _KEYS_PER_STATEMENT])))
    return changed


def _read(row: Any) -> ScoreSums:
    absolute, naive, signed = (sums.loads(getattr(row, name)) for name in _SUMS)
    return ScoreSums(row.n_scores, absolute, naive, signed)


def _columns(totals: ScoreSums) -> dict[str, Any]:
    return {"n_scores": totals.n_scores} | {name: sums.dumps(getattr(totals, name)) for name in _SUMS}
