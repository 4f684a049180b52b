"""What a trigger costs a write, measured on the spot.

The measurement touches no billing table: it takes a sample of the rows, puts it into a table of its
own, and writes that table with the trigger and without, one row per statement, in a transaction
that is rolled back. So what a commit costs is not in it, and nobody waits for it, but on SQLite,
where there is one writer.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from statistics import median

from sqlalchemy import (
    ColumnElement,
    Connection,
    TableClause,
    and_,
    column,
    delete,
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
    """Microseconds of one write as the client sees it, without and with a trigger.

    ``events`` of ``writes`` were captured: that depends on who is subscribed, and on the rows.
    With a ``reason`` nothing was measured.
    """

    table: str
    operation: str
    plain_us: float = 0.0
    captured_us: float = 0.0
    writes: int = 0
    events: int = 0
    reason: str | None = None


def measure(connection: Connection, dialect: Dialect, wanted: Sequence[Trigger]) -> list[Cost]:
    """Measure each trigger. The caller rolls the transaction back."""
    fitting = Fitting(connection, dialect.triggers)
    costs = []
    for trigger in fitting.fit(wanted):
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
                costs.append(_Course(connection, dialect, subject, copy, trigger).run(statements))
        except DBAPIError as error:
            costs.append(Cost(str(trigger.table), trigger.operation, reason=str(error.orig)))
    return costs


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

    def run(self, statements: Sequence[str]) -> Cost:
        """Write without the trigger, then with it."""
        place = str(self._trigger.table)
        if not self._keys or len(self._rows) < 2:
            lack = "fewer than two rows" if self._keys else "no primary key"
            return Cost(place, self._trigger.operation, reason=f"the table has {lack}")
        with self._undone():
            plain = [self._round(number) for number in range(ROUNDS)]
        for statement in statements:
            self._connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        with self._undone():
            before = self._events()
            captured = [self._round(number) for number in range(ROUNDS)]
            events = self._events() - before
        return Cost(
            place,
            self._trigger.operation,
            round(median(plain), 1),
            round(median(captured), 1),
            ROUNDS * len(self._rows),
            events,
        )

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

    def _round(self, number: int) -> float:
        """Microseconds per write, when each row is written once."""
        write: Callable[[int], None] = {
            "update": lambda at: self._update(at, number + 1),
            "insert": self._insert,
            "delete": self._delete,
        }[self._trigger.operation]
        started = time.perf_counter()
        for at in range(len(self._rows)):
            write(at)
        spent = (time.perf_counter() - started) * 1e6 / len(self._rows)
        if self._trigger.operation == "delete":
            for at in range(len(self._rows)):
                self._insert(at)
        return spent

    def _update(self, at: int, step: int) -> None:
        """Give the row what another row of the sample had in the watched columns."""
        other = self._rows[(at + step) % len(self._rows)]
        values = {name: other[name] for name in self._trigger.watched}
        self._connection.execute(update(self._copy).where(self._is(at)).values(values))

    def _insert(self, at: int) -> None:
        self._connection.execute(insert(self._copy).values(self._rows[at]))

    def _delete(self, at: int) -> None:
        self._connection.execute(delete(self._copy).where(self._is(at)))

    def _is(self, at: int) -> ColumnElement[bool]:
        return and_(*(self._copy.c[name] == self._rows[at][name] for name in self._keys))


def _clause(name: TableName, columns: Sequence[str]) -> TableClause:
    return table(name.name, *map(column, columns), schema=name.schema)
