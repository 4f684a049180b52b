"""Many rows in one statement.

A driver's ``executemany`` runs the statement once per row, and between any two rows another
thread of the process takes its turn while the transaction stays open and keeps other writers out.
One statement for all rows is over before anybody can come between.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Connection

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
    dialect = connection.dialect
    converters = [column.type.bind_processor(dialect) for column in columns]
    row_marks = f"({', '.join('?' * len(columns))})"
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        connection.exec_driver_sql(
            statement.replace("{rows}", ", ".join([row_marks] * len(some))),
            tuple(
                value if convert is None else convert(value)
                for row in some
                for convert, value in zip(converters, row, strict=True)
            ),
        )


def insert_rows(
    connection: Connection, columns: Sequence[Column[Any]], rows: Sequence[Sequence[object]]
) -> None:
    """Insert rows of values into the columns of one table."""
    names = ", ".join(column.name for column in columns)
    statement = f"INSERT INTO {columns[0].table.name} ({names}) VALUES {{rows}}"  # noqa: S608  (our own names)
    execute_rows(connection, statement, columns, rows)
