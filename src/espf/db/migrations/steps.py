"""Steps that can be taken again.

MariaDB and MySQL commit each statement that defines something, so an upgrade that was cut off
finds there what it has made already. Elsewhere it is one transaction, and finds nothing.
"""

from alembic import op
from sqlalchemy import MetaData, inspect
from sqlalchemy.schema import CreateTable


def create_tables(tables: MetaData) -> None:
    """Make tables and their indexes, in the schema that unqualified names mean."""
    connection = op.get_bind()
    resumable = connection.dialect.name in {"mysql", "mariadb"}
    for table in tables.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=resumable))
        made = {i["name"] for i in inspect(connection).get_indexes(table.name)} if resumable else ()
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name not in made:
                # Unlike the bare statement, it asks whether the index is for this database.
                index.create(connection)
