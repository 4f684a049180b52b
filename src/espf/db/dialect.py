"""What a database must be able to do for ESPF.

One file per database implements this; nothing outside ``espf.db`` knows which one is in use.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, ClassVar

from sqlalchemy import Connection, DateTime, Engine, String, TypeDecorator
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.engine import Dialect as SqlDialect
from sqlalchemy.types import TypeEngine

from espf.db.trigger import TriggerMaker
from espf.errors import EspfError

#: Readers in threads at the same time.
READERS = 4

#: Stands for running transactions that are too many to name; no transaction has this number.
MANY = 0


class Noticed(IntEnum):
    """What somebody else may have committed: EVENTS are new ones, and nothing else is known of."""

    NOTHING = 0
    EVENTS = 1
    ANYTHING = 2


@dataclass(frozen=True)
class ReadOn:
    """A SELECT of what comes after ``{after}``, to be run once per item: see ``for_each``.

    ``suspects``, for each item: of transactions that ran once, where to read from when they do not
    any more. ``{after}`` is lowered to the least of these.
    """

    select: str
    names: Mapping[str, str]
    items: Sequence[Sequence[int]]
    suspects: Sequence[Mapping[int, int]]


class Dialect(ABC):
    """The secret that one database's file keeps."""

    #: The SQL expression of the current time, in the form in which ``Moment`` stores it.
    now: ClassVar[str]

    #: The SQL expression of a moment as a number: seconds since 1970. ``{}`` stands for the moment.
    seconds: ClassVar[str]

    #: What its driver raises.
    driver_error: ClassVar[type[Exception]]

    #: How its driver marks a value by name; it holds ``\\1`` for the name.
    named_value: ClassVar[str] = r":\1"

    #: Makes a SELECT keep its rows from being changed until the end of the transaction.
    share_lock: ClassVar[str] = "FOR SHARE"

    #: Writers in threads at the same time.
    writers: ClassVar[int] = 3

    #: Results that are stored in one transaction, at most.
    batch: ClassVar[int] = 500

    #: How long an event loop stands still, at most, for a write transaction to be over.
    standstill_seconds: ClassVar[float] = 0.0

    #: For how long the last that was read may hide what comes before it, unknown to ``read_on`` and
    #: to ``unseen``; None: not at all.
    running_lag_seconds: ClassVar[float | None] = None

    #: The schema of ESPF's tables, as the database spells it; None: there are no schemas.
    home: str | None = None

    #: The schema where a billing table is that is named without one.
    billing_schema: str | None = None

    #: How the database's triggers are made.
    triggers: TriggerMaker

    @abstractmethod
    def engine(self) -> Engine:
        """Make the engine; nothing is connected yet."""

    def name_of(self, table: str) -> str:
        """The name of one of our tables as the database's catalogue has it."""
        return table

    @abstractmethod
    async def wait(self, timeout_seconds: float) -> Noticed:
        """Return when another connection has committed something, or at the time-out."""

    def announce(self, connection: Connection) -> None:  # noqa: B027  (most have nothing to do)
        """Have ``wait`` return ANYTHING in every process, when the transaction is committed.

        Where ``wait`` looks for itself, there is nothing to do.
        """

    def begin_numbering(self, connection: Connection) -> None:  # noqa: B027  (most need not)
        """Have ``read_on`` know of this transaction before it takes a number for an event.

        A trigger need not: whoever changed a billing table is known already.
        """

    @abstractmethod
    def next_position(self, connection: Connection) -> int:
        """Take the next number of the event sequence without making an event."""

    def make_no_events(self, connection: Connection) -> None:  # noqa: B027  (most need not)
        """Say that this transaction makes no events: ``read_on`` need not name it."""

    def unseen(
        self,
        connection: Connection,  # noqa: ARG002  (for those that can tell)
        i_event_handler: int,  # noqa: ARG002
        after: int,  # noqa: ARG002
        upto: int,  # noqa: ARG002
        expected: Sequence[int],  # noqa: ARG002
    ) -> frozenset[int]:
        """Positions of a handler's work that is written, but cannot be seen in this transaction.

        Those after one position and up to another, and those among the ``expected``. Empty where
        ``read_on`` knows, or where there is nothing to know.
        """
        return frozenset()

    def for_each(
        self,
        connection: Connection,
        select: str,
        names: Mapping[str, str],
        items: Sequence[Sequence[int | str | datetime]],
    ) -> list[Sequence[Any]]:
        """The rows of a SELECT, run once per item, in as few round trips as the database can.

        ``{name}`` in the statement stands for a value of the item; ``names`` are those names, each
        with its SQL type. The rows of an item keep their order.
        """
        statement = re.sub(rf"\{{({'|'.join(names)})\}}", self.named_value, select)
        cursor = connection.connection.cursor()
        found: list[Sequence[Any]] = []
        for item in items:
            values = (to_text(v) if isinstance(v, datetime) else v for v in item)
            cursor.execute(statement, dict(zip(names, values, strict=True)))
            found.append(cursor.fetchall())
        return found

    def read_on(
        self, connection: Connection, asked: ReadOn
    ) -> tuple[list[Sequence[Any]], frozenset[int]]:
        """The rows for each item, and who is running, in one picture.

        Running are the transactions whose events, numbered already, are not to be seen yet, and
        perhaps some others; ``MANY`` stands for too many to name. None are named where commits come
        in the order of numbers.
        """
        return self.for_each(connection, asked.select, asked.names, asked.items), frozenset()

    async def ask_on(
        self,
        asked: ReadOn,  # noqa: ARG002  (for those that can)
    ) -> tuple[list[Sequence[Any]], frozenset[int]] | None:
        """What ``read_on`` gives, in one round trip and without a thread; None: not here."""
        return None

    def delete_at(
        self, table: str, column: str, numbers: Sequence[int], condition: str
    ) -> tuple[str, tuple[Any, ...]]:
        """A DELETE of rows by a number in a column, each found by itself; what is to be bound.

        ``{t}`` in the condition stands for the table.
        """
        among, values = self.among(numbers)
        where = condition.replace("{t}", table)
        return f"DELETE FROM {table} WHERE {column} {among} AND {where}", values  # noqa: S608

    def update_at(
        self,
        table: str,
        column: str,
        numbers: Sequence[int],
        values: Mapping[str, str],
        condition: str,
    ) -> tuple[str, tuple[Any, ...]]:
        """An UPDATE of rows found as those of ``delete_at``; ``values`` are SQL expressions."""
        among, bound = self.among(numbers)
        changes = ", ".join(f"{name} = {value}" for name, value in values.items())
        where = condition.replace("{t}", table)
        return f"UPDATE {table} SET {changes} WHERE {column} {among} AND {where}", bound  # noqa: S608

    def lock_events(self, numbers: Sequence[int]) -> tuple[str, tuple[Any, ...]]:
        """A SELECT that locks events in the order of ``numbers``; what is to be bound."""
        among, values = self.among(numbers)
        statement = f"SELECT 1 FROM Event_Queue WHERE i_event {among} ORDER BY i_event FOR UPDATE"  # noqa: S608
        return statement, values

    def using(self, index: str) -> str:  # noqa: ARG002  (for those that take orders)
        """What follows a table's name to have it read through an index.

        For planners that go by what they believe to know of a table.
        """
        return ""

    @abstractmethod
    def rows(
        self, columns: Mapping[str, TypeEngine[Any]], values: Sequence[Sequence[Any]]
    ) -> tuple[str, tuple[Any, ...]]:
        """Many rows as a table ``r`` of a FROM clause, and what is to be bound.

        ``values``: for each of the columns, the values of all rows.
        """

    def among(self, numbers: Sequence[int]) -> tuple[str, tuple[Any, ...]]:
        """A test that follows a column: whether it is one of these numbers; what is to be bound."""
        return f"IN ({', '.join(map(str, numbers))})", ()

    @abstractmethod
    def on_conflict(self, key: str, column: str) -> str:
        """End an INSERT: where a row with the key is there already, set one column of it."""

    def on_conflict_add(
        self, table: str, key: str, sums: Sequence[str], most: Sequence[str]
    ) -> str:
        """End an INSERT: where a row with the key is there already, add to it.

        ``sums`` are the columns that are summed up, in ``most`` the larger value stays.
        """
        changes = [f"{name} = {table}.{name} + excluded.{name}" for name in sums]
        changes += [
            f"{name} = CASE WHEN excluded.{name} > {table}.{name} "
            f"THEN excluded.{name} ELSE {table}.{name} END"
            for name in most
        ]
        return f" ON CONFLICT ({key}) DO UPDATE SET {', '.join(changes)}"

    @abstractmethod
    def translate(self, error: Exception) -> EspfError | None:
        """Tell a database that is away, busy or closed to us from a statement that is wrong."""

    @abstractmethod
    def close(self) -> None:
        """Give back what ``wait`` holds."""


class Moment(TypeDecorator[datetime]):
    """A point in time: aware and in UTC in Python; in UTC in the database, to the millisecond.

    Where there is no type for it, text (``2026-03-01 00:00:00.000``) that sorts as moments do.
    """

    impl = String(23)
    cache_ok = True

    def load_dialect_impl(self, dialect: SqlDialect) -> TypeEngine[Any]:
        """Use the database's own type where it has one."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(23))
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(DATETIME(fsp=3))

    def process_bind_param(self, value: datetime | None, dialect: SqlDialect) -> Any:
        """Python to database."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        if dialect.name == "sqlite":
            return to_text(value)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: SqlDialect) -> datetime | None:  # noqa: ARG002  (the signature is SQLAlchemy's)
        """Database to Python."""
        return to_moment(value)


def to_text(moment: datetime) -> str:
    """Write a UTC moment as ``2026-03-01 00:00:00.000``."""
    return moment.isoformat(" ", "milliseconds")[:23]


def to_moment(value: str | datetime | None) -> datetime | None:
    """A moment as a driver gives it, aware and in UTC."""
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
