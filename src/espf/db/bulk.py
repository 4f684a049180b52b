"""Many rows in one statement.

A driver's ``executemany`` runs the statement once per row, and between any two rows another
thread of the process takes its turn while the transaction stays open and keeps other writers out.
One statement for all rows is over before anybody can come between.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from sqlalchemy import Column, Connection
from sqlalchemy.engine import Dialect

#: Rows of one statement; their values stay well below the number that a database takes.
ROWS = 500


def execute_rows(
    connection: Connection,
    statement: str,
    columns: Sequence[Column[Any]],
    rows: Sequence[Sequence[object]],
) -> None:
    """Run a statement over rows: ``{rows}`` in it stands for a list of VALUES.

    ``columns`` say how the values of a row are stored.
    """
    row_marks = f"({', '.join('?' * len(columns))})"
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        stored = [
            _stored(column, values, connection.dialect)
            for column, values in zip(columns, zip(*some, strict=True), strict=True)
        ]
        connection.exec_driver_sql(
            statement.replace("{rows}", ", ".join([row_marks] * len(some))),
            tuple(chain.from_iterable(zip(*stored, strict=True))),
        )


def _stored(column: Column[Any], values: Sequence[Any], dialect: Dialect) -> Sequence[Any]:
    """The values of one column as the driver takes them; many rows share a moment."""
    convert = column.type.bind_processor(dialect)
    if convert is None:
        return values
    known = {value: convert(value) for value in set(values)}
    return [known[value] for value in values]


def insert_rows(
    connection: Connection, columns: Sequence[Column[Any]], rows: Sequence[Sequence[object]]
) -> None:
    """Insert rows of values into the columns of one table."""
    names = ", ".join(column.name for column in columns)
    statement = f"INSERT INTO {columns[0].table.name} ({names}) VALUES {{rows}}"  # noqa: S608  (our own names)
    execute_rows(connection, statement, columns, rows)
