"""What a trigger costs a write, measured on the spot.

The measurement touches no billing table: it takes a sample of the rows, puts it into a table of its
own, and writes that table with the trigger and without, one row per statement, in a transaction
that is rolled back. So what a commit costs is not in it, and nobody waits for it, but on SQLite,
where there is one writer. Where a trigger for bulk statements is another one, both are measured,
and with all rows in one statement, too, so that people can choose.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    TableClause,
    and_,
    column,
    delete,
    func,
    insert,
    select,
    table,
    update,
)
from sqlalchemy.exc import DBAPIError

from espf.capture.fitting import Fitting
from espf.db.dialect import Dialect
from espf.db.tables import event_queue
from espf.db.trigger import Table, TableName, Trigger

#: Rows of the sample, and how often each is written with the trigger and without.
ROWS = 200
ROUNDS = 5

_COPY = "espf_measured"


@dataclass(frozen=True)
class Cost:
    """Microseconds per row as the client sees it, without and with a trigger.

    ``rows`` were written by each statement; ``bulk`` says which trigger it was. ``events`` of
    ``writes`` were captured: that depends on who is subscribed, and on the rows. With a ``reason``
    nothing was measured.
    """

    table: str
    operation: str
    bulk: bool = False
    rows: int = 1
    plain_us: float = 0.0
    captured_us: float = 0.0
    writes: int = 0
    events: int = 0
    reason: str | None = None


def measure(connection: Connection, dialect: Dialect, wanted: Sequence[Trigger]) -> list[Cost]:
    """Measure each trigger. The caller rolls the transaction back."""
    fitting = Fitting(connection, dialect.triggers)
    costs = []
    for trigger in _forms(connection, fitting, dialect, wanted):
        subject = fitting.tables[trigger.table]
        try:
            with (
                connection.begin_nested() if dialect.triggers.transactional else nullcontext(),
                dialect.triggers.changing(connection),
                _copied(connection, dialect, subject) as copy,
            ):
                moved = replace(trigger, table=copy)
                tables = {**fitting.tables, copy: replace(subject, name=copy)}
                statements = dialect.triggers.render(moved, tables).statements
                costs += _Course(connection, dialect, subject, copy, trigger).run(statements)
        except DBAPIError as error:
            reason = str(error.orig)
            costs.append(Cost(str(trigger.table), trigger.operation, trigger.bulk, reason=reason))
    return costs


def _forms(
    connection: Connection, fitting: Fitting, dialect: Dialect, wanted: Sequence[Trigger]
) -> Iterator[Trigger]:
    """The triggers that fit; where those for bulk statements are others, both for each."""
    for trigger in fitting.fit([replace(each, bulk=False) for each in wanted]):
        yield trigger
        if dialect.triggers.knows_bulk:
            yield from Fitting(connection, dialect.triggers).fit([replace(trigger, bulk=True)])


@contextmanager
def _copied(connection: Connection, dialect: Dialect, subject: Table) -> Iterator[TableName]:
    """A table with a sample of the rows and no constraints; it is gone at the end."""
    copy = TableName(_COPY, dialect.home)
    quote = connection.dialect.identifier_preparer.format_table
    target, source = quote(_clause(copy, ())), quote(_clause(subject.name, ()))
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {target}")
    connection.exec_driver_sql(f"CREATE TABLE {target} AS SELECT * FROM {source} LIMIT {ROWS}")  # noqa: S608  (quoted)
    try:
        yield copy
    finally:
        # After an error the transaction may be good for nothing but its rollback.
        with suppress(DBAPIError):
            connection.exec_driver_sql(f"DROP TABLE {target}")


class _Course:
    """The writes of one measurement."""

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        subject: Table,
        copy: TableName,
        trigger: Trigger,
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._trigger = trigger
        self._keys = subject.primary_key
        self._copy = _clause(copy, tuple(subject.columns))
        self._rows = [
            dict(row) for row in connection.execute(select(self._copy)).mappings().fetchall()
        ]

    def run(self, statements: Sequence[str]) -> list[Cost]:
        """Write without the trigger, then with it."""
        cost = Cost(str(self._trigger.table), self._trigger.operation, self._trigger.bulk)
        if not self._keys or len(self._rows) < 2:
            lack = "fewer than two rows" if self._keys else "no primary key"
            return [replace(cost, reason=f"the table has {lack}")]
        ways: dict[int, Callable[[int], None]] = {1: self._singly}
        if self._dialect.triggers.knows_bulk:
            ways[len(self._rows)] = self._together
        with self._undone():
            plain = {rows: self._rounds(way) for rows, way in ways.items()}
        for statement in statements:
            self._connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        costs = []
        with self._undone():
            for rows, way in ways.items():
                before = self._events()
                captured = self._rounds(way)
                costs.append(
                    replace(
                        cost,
                        rows=rows,
                        plain_us=plain[rows],
                        captured_us=captured,
                        writes=ROUNDS * len(self._rows),
                        events=self._events() - before,
                    )
                )
        return costs

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Where DDL has ended the caller's transaction, one of our own that is rolled back."""
        if self._dialect.triggers.transactional:
            yield
            return
        self._connection.exec_driver_sql("START TRANSACTION")
        try:
            yield
        finally:
            self._connection.exec_driver_sql("ROLLBACK")

    def _events(self) -> int:
        newest = select(event_queue.c.i_event).order_by(event_queue.c.i_event.desc()).limit(1)
        return int(self._connection.execute(newest).scalar() or 0)

    def _rounds(self, way: Callable[[int], None]) -> float:
        """Microseconds per row, when each row is written once in each round."""
        spent = []
        for number in range(1, ROUNDS + 1):
            started = time.perf_counter()
            way(number)
            spent.append((time.perf_counter() - started) * 1e6 / len(self._rows))
            if self._trigger.operation == "delete":
                self._insert(self._rows)
        return round(median(spent), 1)

    def _singly(self, step: int) -> None:
        """Write each row by a statement of its own."""
        for at, row in enumerate(self._rows):
            match self._trigger.operation:
                case "update":
                    self._update(at, step)
                case "insert":
                    self._insert([row])
                case "delete":
                    self._connection.execute(delete(self._copy).where(self._is(at)))

    def _together(self, _step: int) -> None:
        """Write all rows by one statement."""
        match self._trigger.operation:
            case "update":
                self._update_all()
            case "insert":
                self._insert(self._rows)
            case "delete":
                self._connection.execute(delete(self._copy))

    def _update(self, at: int, step: int) -> None:
        """Give the row what another row of the sample had in the watched columns."""
        other = self._rows[(at + step) % len(self._rows)]
        values = {name: other[name] for name in self._trigger.watched}
        self._connection.execute(update(self._copy).where(self._is(at)).values(values))

    def _update_all(self) -> None:
        """Give each row what the next one had in the watched columns."""
        keys = [self._copy.c[name] for name in self._keys]
        watched = [self._copy.c[name] for name in self._trigger.watched]
        following = (
            func.coalesce(
                func.lead(each).over(order_by=keys), func.first_value(each).over(order_by=keys)
            ).label(f"next_{at}")
            for at, each in enumerate(watched)
        )
        named = (key.label(f"key_{at}") for at, key in enumerate(keys))
        source = select(*named, *following).subquery("source")
        same = (key == source.c[f"key_{at}"] for at, key in enumerate(keys))
        values = {each.name: source.c[f"next_{at}"] for at, each in enumerate(watched)}
        self._connection.execute(update(self._copy).where(*same).values(values))

    def _insert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._connection.execute(insert(self._copy).values([dict(row) for row in rows]))

    def _is(self, at: int) -> ColumnElement[bool]:
        return and_(*(self._copy.c[name] == self._rows[at][name] for name in self._keys))


def _clause(name: TableName, columns: Sequence[str]) -> TableClause:
    return table(name.name, *map(column, columns), schema=name.schema)
