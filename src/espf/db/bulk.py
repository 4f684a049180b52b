"""Many rows in one statement.

A driver's ``executemany`` runs the statement once per row, and between any two rows another
thread of the process takes its turn while the transaction stays open and keeps other writers out.
One statement for all rows is over before anybody can come between.
"""

from collections.abc import Callable, Mapping, Sequence
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
    values: Sequence[Sequence[Any]],
) -> None:
    """Run a statement over rows: ``{rows}`` in its FROM clause stands for them, as table ``r``.

    ``values``: for each of the columns, the values of all rows.
    """
    stored = [
        column
        if (convert := kind.bind_processor(connection.dialect)) is None
        else _all(convert, column)
        for kind, column in zip(columns.values(), values, strict=True)
    ]
    for start in range(0, len(values[0]), ROWS):
        some = [column[start : start + ROWS] for column in stored]
        table, parameters = dialect.rows(columns, some)
        connection.exec_driver_sql(statement.replace("{rows}", table), parameters)


def _all(convert: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    """The values as the driver takes them; many rows share one."""
    known = {value: convert(value) for value in set(values)}
    return [known[value] for value in values]
