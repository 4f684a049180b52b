"""A database of the first release: SQLite, and no note of which tables it has.

Its tables are set aside under other names, and what they hold is brought over into the new ones,
in the transaction of the upgrade. Nothing that waits is lost, no number is given out twice, and
the epochs of the leases go on. The triggers are not touched: they name the new tables from then
on, and have to be compiled anew in the same transaction.
"""

from hashlib import blake2b
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect

_ASIDE = "First_"

# A table before those that it refers to, in which order they can be dropped.
_TABLES = (
    *("Access_Tokens", "Users", "Provisioning_Log_Bodies", "Provisioning_Log", "Handler_Leases"),
    *("Event_Notifications", "Event_Queue", "Event_Subscriptions", "Event_Handlers", "Event_Types"),
)

_BRING_OVER = Path(__file__).with_suffix(".sql")


def is_here(connection: Connection) -> bool:
    """Whether the database is of the first release."""
    if connection.dialect.name != "sqlite":
        return False
    inspector = inspect(connection)
    return inspector.has_table("Event_Queue") and any(
        column["name"] == "scheduled" for column in inspector.get_columns("Event_Queue")
    )


def set_aside(connection: Connection) -> None:
    """Give the tables other names, and drop their indexes."""
    indexes = connection.exec_driver_sql(
        "SELECT name, tbl_name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    ).all()
    for index in indexes:
        if index.tbl_name in _TABLES:
            connection.exec_driver_sql(f'DROP INDEX "{index.name}"')
    # Otherwise the triggers would name the tables that are set aside.
    connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    for table in _TABLES:
        connection.exec_driver_sql(f'ALTER TABLE "{table}" RENAME TO "{_ASIDE}{table}"')
    connection.exec_driver_sql("PRAGMA legacy_alter_table = OFF")


def carry_over(connection: Connection) -> None:
    """Copy what was set aside into the new tables, and drop it."""
    raw: Any = connection.connection.driver_connection
    raw.create_function("espf_text", 1, _text, deterministic=True)
    raw.create_function("espf_number", 1, _number, deterministic=True)
    for statement in _BRING_OVER.read_text(encoding="utf-8").split(";\n"):
        connection.exec_driver_sql(statement)
    for table in _TABLES:
        connection.exec_driver_sql(f'DROP TABLE "{_ASIDE}{table}"')


def _text(body: str) -> str:
    """A request or a response without the characters that have a meaning in a stored text."""
    return body.replace("\x01", "\N{REPLACEMENT CHARACTER}").replace(
        "\x02", "\N{REPLACEMENT CHARACTER}"
    )


def _number(body: str | None) -> int | None:
    """What the journal makes of a text to find it by."""
    if body is None:
        return None
    return int.from_bytes(blake2b(_text(body).encode(), digest_size=8).digest(), "big", signed=True)
