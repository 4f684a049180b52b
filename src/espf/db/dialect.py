"""What a database must be able to do for ESPF.

One file per database implements this; nothing outside ``espf.db`` knows which one is in use.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, DateTime, Engine, String, TypeDecorator
from sqlalchemy.engine import Dialect as SqlDialect
from sqlalchemy.types import TypeEngine

from espf.errors import DatabaseUnavailable

Operation = Literal["insert", "update", "delete"]


@dataclass(frozen=True)
class Column:
    """A column of the row that fired the trigger, before (``old``) or after (``new``) the change.

    ``money`` columns hold an amount of money and are rendered as a JSON number.
    """

    name: str
    of: Literal["old", "new"] = "new"
    money: bool = False


@dataclass(frozen=True)
class Constant:
    """A value that does not depend on the row."""

    value: str | int | float | bool | None


Value = Column | Constant


@dataclass(frozen=True)
class Condition:
    """One test on the changed row; a capture happens when all tests of its rule hold.

    ``changed``      any of ``columns`` differs (NULL-safe)
    ``becomes``      the first column changed to ``value`` (from ``origin``, if given)
    ``falls_to``     the column was above ``value`` and no longer is
    ``rises_above``  the column was at or below ``value`` and no longer is
    ``is_in``        the column (``of`` old or new) holds one of ``values``
    ``above``        the column (``of`` old or new) holds more than ``value``
    ``not_null``     the column (``of`` old or new) holds something

    A comparison with an empty column never holds.
    """

    test: Literal["changed", "becomes", "falls_to", "rises_above", "is_in", "above", "not_null"]
    columns: tuple[str, ...]
    value: str | int | float | None = None
    origin: str | int | float | None = None
    values: tuple[str | int, ...] = ()
    of: Literal["old", "new"] = "new"


@dataclass(frozen=True)
class Capture:
    """One event that a trigger emits: when, of what type, for whom, with which variables.

    The ordering key is ``key_prefix:key``, and empty where ``key`` is. The trigger adds ``i_env``
    before the variables and ``event_time`` after them.
    """

    event_type: str
    conditions: tuple[Condition, ...]
    environment: Value
    key_prefix: str
    key: Value
    variables: tuple[tuple[str, Value], ...]

    @property
    def columns(self) -> frozenset[str]:
        """Every column of the table that the capture reads."""
        values = (self.environment, self.key, *(value for _name, value in self.variables))
        return frozenset(
            [name for condition in self.conditions for name in condition.columns]
            + [value.name for value in values if isinstance(value, Column)]
        )


@dataclass(frozen=True)
class Trigger:
    """All captures of one table and operation, in the order in which their events are emitted.

    ``watched`` columns let the trigger be left at once when none of them changed; empty means
    that the operation itself is the change (insert, delete).
    """

    table: str
    operation: Operation
    watched: tuple[str, ...]
    captures: tuple[Capture, ...]


class Dialect(ABC):
    """The secret that one database's file keeps."""

    #: The SQL expression of the current time, in the form in which ``Moment`` stores it.
    now: str

    @abstractmethod
    def tune(self, engine: Engine) -> None:
        """Set up each new connection, and how a transaction begins."""

    @abstractmethod
    def render(self, trigger: Trigger) -> Mapping[str, str]:
        """Compile a trigger: the name that carries the content's hash -> the DDL to create it."""

    @abstractmethod
    def installed(self, connection: Connection) -> Mapping[str, str]:
        """The triggers of ESPF in the database: name -> the DDL as the database holds it."""

    @abstractmethod
    def drop(self, name: str) -> str:
        """The statement that removes an installed trigger."""

    @abstractmethod
    async def wait(self, timeout_seconds: float) -> None:
        """Return when another connection has committed something, or at the time-out."""

    @abstractmethod
    def next_position(self, connection: Connection) -> int:
        """Take the next number of the event sequence without making an event."""

    @abstractmethod
    def translate(self, error: Exception) -> DatabaseUnavailable | None:
        """Tell a database that is away or busy from a statement that is wrong."""

    @abstractmethod
    def close(self) -> None:
        """Give back what ``wait`` holds."""


class Moment(TypeDecorator[datetime]):
    """A point in time: aware and in UTC in Python; text with milliseconds where there is no type.

    The text form (``2026-03-01 00:00:00.000``) sorts as the moments do and reads well in a shell.
    """

    impl = String(23)
    cache_ok = True

    def load_dialect_impl(self, dialect: SqlDialect) -> TypeEngine[Any]:
        """Use the database's own type where it has one."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(23))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: SqlDialect) -> Any:
        """Python to database."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return to_text(value) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: SqlDialect) -> datetime | None:  # noqa: ARG002  (the signature is SQLAlchemy's)
        """Database to Python."""
        if value is None or isinstance(value, datetime):
            return value
        return datetime.fromisoformat(value).replace(tzinfo=UTC)


def to_text(moment: datetime) -> str:
    """Write a UTC moment as ``2026-03-01 00:00:00.000``."""
    return moment.isoformat(" ", "milliseconds")[:23]
