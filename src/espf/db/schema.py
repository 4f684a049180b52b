"""Whether ESPF's tables are there, and making them."""

from sqlalchemy import Connection, inspect

from espf.db.dialect import Dialect
from espf.db.tables import event_queue, metadata


def is_set_up(connection: Connection, dialect: Dialect) -> bool:
    """Whether this database has ESPF's tables."""
    return inspect(connection).has_table(dialect.name_of(event_queue.name), schema=dialect.home)


def set_up(connection: Connection, dialect: Dialect) -> None:
    """Make the tables, unless they are there."""
    if not is_set_up(connection, dialect):
        dialect.create_home(connection)
        metadata.create_all(connection, checkfirst=False)
