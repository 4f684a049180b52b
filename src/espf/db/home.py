"""Where ESPF's tables live, as whoever installs it sees it: the place is made, and reserved.

A dialect is what every process needs of a database; this is what an installation needs once. An
account that may not do something is told what a database administrator has to run.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from espf.errors import DatabaseUnavailable, SettingsError

#: How long an upgrade waits for another one to be over.
WAIT_SECONDS = 600

#: What MariaDB and PostgreSQL say to an account that may not.
_DENIED = frozenset({1044, 1142, 1143, 1227, 1370, 1419, "42501"})


def reserve(connection: Connection, home: str | None) -> None:
    """Wait until nobody else makes or changes ESPF's tables; nobody will until the end.

    That is the end of the transaction, and on MariaDB of the connection, which ends with it.
    SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        before = connection.exec_driver_sql("SHOW lock_timeout").scalar_one()
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'")
        lock = "SELECT pg_advisory_xact_lock(hashtextextended('espf ' || %s, 0))"
        connection.exec_driver_sql(lock, (home,))
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{before}'")
    elif connection.dialect.name == "mysql":
        connection.detach()
        lock = "SELECT GET_LOCK(concat('espf ', %s), %s)"
        if connection.exec_driver_sql(lock, (home, WAIT_SECONDS)).scalar_one() != 1:
            raise DatabaseUnavailable("another 'evctl init' has been at work for too long")
        # It may have been made while this one waited.
        with suppress(DBAPIError):
            connection.exec_driver_sql(f"USE `{home}`")


def make(connection: Connection, home: str | None) -> None:
    """Make the schema, unless it is there. Raises SettingsError where we may not write in it."""
    if connection.dialect.name == "postgresql":
        _make_schema(connection, str(home))
    elif connection.dialect.name == "mysql":
        _make_database(connection, str(home))


def exists(connection: Connection, home: str | None) -> bool:
    """Whether the schema is there, as far as the account may see."""
    return home is None or home in inspect(connection).get_schema_names()


@contextmanager
def explained() -> Iterator[None]:
    """Turn a refusal of the account into SettingsError."""
    try:
        yield
    except DBAPIError as error:
        if not _is_denied(error):
            raise
        raise SettingsError(
            "ESPF_DATABASE_URL: the account may not do this with ESPF's tables "
            f"({error.orig}); the account that installed them may"
        ) from error


def _is_denied(error: DBAPIError) -> bool:
    original = error.orig
    assert original is not None
    return not _DENIED.isdisjoint({getattr(original, "sqlstate", None), *original.args[:1]})


def _make_schema(connection: Connection, home: str) -> None:
    account = connection.exec_driver_sql("SELECT quote_ident(current_user)").scalar_one()
    schema = connection.exec_driver_sql(
        "SELECT has_schema_privilege(oid, 'CREATE') AS writable, nspowner::regrole::text AS owner "
        "FROM pg_namespace WHERE nspname = %s",
        (home,),
    ).one_or_none()
    if schema is None:
        may = "SELECT has_database_privilege(current_database(), 'CREATE')"
        if not connection.exec_driver_sql(may).scalar_one():
            raise _refusal(account, home, f"CREATE SCHEMA {home} AUTHORIZATION {account}")
        connection.exec_driver_sql(f"CREATE SCHEMA {home}")
    elif not schema.writable:
        raise SettingsError(
            f"ESPF_DATABASE_URL: {account} may not make tables in the schema {home}, which belongs "
            f"to {schema.owner}; run 'evctl init' as that account, or, while the schema is empty, "
            f"have a database administrator run: ALTER SCHEMA {home} OWNER TO {account}"
        )


def _make_database(connection: Connection, home: str) -> None:
    try:
        if not exists(connection, home):
            connection.exec_driver_sql(f"CREATE DATABASE `{home}`")
        connection.exec_driver_sql(f"USE `{home}`")
    except DBAPIError as error:
        if not _is_denied(error):
            raise
        account = _mysql_account(connection)
        statements = f"CREATE DATABASE IF NOT EXISTS `{home}`; GRANT ALL ON `{home}`.* TO {account}"
        raise _refusal(account, home, statements) from None


def _refusal(account: str, home: str, statements: str) -> SettingsError:
    return SettingsError(
        f"ESPF_DATABASE_URL: {account} may not make tables in the schema {home}; "
        f"have a database administrator run: {statements}"
    )


def _mysql_account(connection: Connection) -> str:
    user, _, host = str(
        connection.exec_driver_sql("SELECT CURRENT_USER()").scalar_one()
    ).rpartition("@")
    return f"`{user}`@`{host}`"
