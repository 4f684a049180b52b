"""Where ESPF's tables live, as whoever installs it sees it: the place is made, and reserved.

A dialect is what every process needs of a database; this is what an installation needs once. An
account that may not do something is told what a database administrator has to run.
"""

from contextlib import suppress

from sqlalchemy import Connection
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


def lacking(connection: Connection) -> str | None:
    """What the account may not do, but must to deliver events, and what a DBA has to run."""
    if connection.dialect.name != "mysql":
        return None
    try:
        connection.exec_driver_sql("SELECT 1 FROM information_schema.INNODB_TRX LIMIT 1")
    except DBAPIError as error:
        if not is_denied(error):
            raise
        account = _mysql_account(connection)
        return (
            f"{account} may not see which transactions are running, without which events that "
            "are committed late would be overlooked; have a database administrator run: "
            f"GRANT PROCESS ON *.* TO {account}"
        )
    return None


def is_denied(error: DBAPIError) -> bool:
    """Whether the account may not do what it tried."""
    original = error.orig
    code = getattr(original, "sqlstate", None) or (original.args or (None,))[0]  # type: ignore[union-attr]
    return code in _DENIED


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
        there = "SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s"
        if connection.exec_driver_sql(there, (home,)).scalar_one_or_none() is None:
            connection.exec_driver_sql(f"CREATE DATABASE `{home}`")
        connection.exec_driver_sql(f"USE `{home}`")
    except DBAPIError as error:
        if not is_denied(error):
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
