"""What a database must be able to do for ESPF.

One file per database implements this; nothing outside ``espf.db`` knows which one is in use.
"""

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, DateTime, Engine, String, TypeDecorator
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.engine import Dialect as SqlDialect
from sqlalchemy.types import TypeEngine

from espf.db.trigger import TriggerMaker
from espf.errors import DatabaseUnavailable


class Dialect(ABC):
    """The secret that one database's file keeps."""

    #: The SQL expression of the current time, in the form in which ``Moment`` stores it.
    now: str

    #: How the database's triggers are made.
    triggers: TriggerMaker

    @abstractmethod
    def tune(self, engine: Engine) -> None:
        """Set up each new connection, and how a transaction begins."""

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
    """A point in time: aware and in UTC in Python; in UTC in the database, too.

    Text with milliseconds where there is no type for it.

    The text form (``2026-03-01 00:00:00.000``) sorts as the moments do and reads well in a shell.
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
        if value is None:
            return None
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def to_text(moment: datetime) -> str:
    """Write a UTC moment as ``2026-03-01 00:00:00.000``."""
    return moment.isoformat(" ", "milliseconds")[:23]
