"""Many rows in one statement.

A driver's ``executemany`` runs the statement once per row, and between any two rows another
thread of the process takes its turn while the transaction stays open and keeps other writers out.
One statement for all rows is over before anybody can come between.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.types import TypeEngine

from espf.db.dialect import Dialect

#: Rows of one statement; their values stay well below the number that a database takes.
ROWS = 1000


def execute_rows(
    connection: Connection,
    dialect: Dialect,
    statement: str,
    columns: Mapping[str, TypeEngine[Any]],
    rows: Sequence[Sequence[object]],
) -> None:
    """Run a statement over rows: ``{rows}`` in its FROM clause stands for them, as table ``r``."""
    converters = [kind.bind_processor(connection.dialect) for kind in columns.values()]
    for start in range(0, len(rows), ROWS):
        some: Sequence[Sequence[object]] = rows[start : start + ROWS]
        if any(converters):
            some = [
                [value if c is None else c(value) for c, value in zip(converters, row, strict=True)]
                for row in some
            ]
        table, values = dialect.rows(columns, some)
        connection.exec_driver_sql(statement.replace("{rows}", table), values)


def numbers(values: Sequence[int]) -> str:
    """A list of numbers as SQL: ``(1, 2, 3)``."""
    return f"({', '.join(map(str, values))})"
