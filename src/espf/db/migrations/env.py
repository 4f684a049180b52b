"""What alembic runs: the steps that are missing, over the connection of the caller."""

from alembic import context

_given = context.config.attributes

context.configure(
    connection=_given["connection"],
    version_table=_given["version_table"],
    version_table_schema=_given["home"],
)
with context.begin_transaction():
    context.run_migrations()
