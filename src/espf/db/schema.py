"""Which tables a database has: making them, upgrading them, and refusing any others.

The history is under ``migrations``; the database notes the number of its last step beside the
tables. A process works with the tables of its own release only.
"""

from pathlib import Path

from sqlalchemy import Connection, Inspector, column, inspect, select, table

from espf.db import home
from espf.db.dialect import Dialect
from espf.db.migrations import first_release
from espf.db.tables import event_queue, metadata
from espf.errors import SettingsError

#: The last step of the history: what this release works with. They sort as texts.
REVISION = "0001"

_HISTORY = Path(__file__).parent / "migrations"


def is_set_up(connection: Connection, dialect: Dialect) -> bool:
    """Whether this database has ESPF's tables, of whatever release."""
    return inspect(connection).has_table(dialect.name_of(event_queue.name), schema=dialect.home)


def require_current(connection: Connection, dialect: Dialect) -> None:
    """Raise SettingsError unless the database has the tables of this release."""
    if pending(connection, dialect):
        raise SettingsError(
            "ESPF_DATABASE_URL: the database was made by an older ESPF; "
            "stop what is running and upgrade it with 'evctl init'"
            if is_set_up(connection, dialect)
            else "ESPF_DATABASE_URL: the database has not been set up; run 'evctl init' first"
        )


def reserve(connection: Connection, dialect: Dialect) -> None:
    """Wait until nobody else sets this database up; nobody will until the transaction ends."""
    home.reserve(connection, dialect.home)


def pending(connection: Connection, dialect: Dialect) -> list[str]:
    """What ``set_up`` would do, a line per step: number and title.

    Raises SettingsError for a database that a newer release has made.
    """
    found = _revision(connection, dialect)
    if found == REVISION:
        return []
    if found is not None and found > REVISION:
        raise SettingsError(
            f"ESPF_DATABASE_URL: a newer ESPF has made this database (revision {found}); this one "
            f"knows it up to {REVISION}: install the newer one"
        )
    # Slow to import, and rarely of use.
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    steps = ScriptDirectory(_HISTORY).iterate_revisions("head", found or "base")
    return [f"{step.revision}  {step.doc}" for step in reversed(list(steps))]


def set_up(connection: Connection, dialect: Dialect) -> list[str]:
    """Make the tables or upgrade them, where they are not those of this release.

    Returns what was done, as ``pending`` tells it. Who comes second waits for who came first, and
    finds everything done. Where the database can, all is one transaction, the caller's; where it
    cannot, another call completes what was cut off. Raises SettingsError when the account may
    not, or when tables of these names belong to somebody else.
    """
    reserve(connection, dialect)
    todo = pending(connection, dialect)
    if todo:
        with home.explained():
            home.make(connection, dialect.home)
            _require_own(connection, dialect)
            _upgrade(connection, dialect)
    return todo


def _revision(connection: Connection, dialect: Dialect) -> str | None:
    """The last step that was taken here; None: none to its end."""
    name = _version_table(dialect)
    with home.explained():
        if not home.exists(connection, dialect.home) or not inspect(connection).has_table(
            name, schema=dialect.home
        ):
            return None
        number: str | None = connection.execute(
            select(column("version_num")).select_from(table(name, schema=dialect.home))
        ).scalar_one_or_none()
        return number


def _upgrade(connection: Connection, dialect: Dialect) -> None:
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(
        attributes={
            "connection": connection,
            "version_table": _version_table(dialect),
            "home": dialect.home,
        }
    )
    config.set_main_option("script_location", str(_HISTORY).replace("%", "%%"))
    command.upgrade(config, "head")


def _version_table(dialect: Dialect) -> str:
    """Where the number stands. In the billing's own file there may be another alembic's."""
    return "alembic_version" if dialect.home else "espf_alembic_version"


def _require_own(connection: Connection, dialect: Dialect) -> None:
    """Refuse to touch tables that have our names, but were not made by us."""
    inspector = inspect(connection)
    if first_release.is_here(connection) or _was_begun(inspector, dialect):
        return
    there = set(inspector.get_table_names(schema=dialect.home))
    if foreign := sorted({dialect.name_of(name) for name in metadata.tables} & there):
        raise SettingsError(
            f"ESPF_DATABASE_URL: the database has tables of other origin where ESPF's are to be: "
            f"{', '.join(foreign)}"
        )


def _was_begun(inspector: Inspector, dialect: Dialect) -> bool:
    return inspector.has_table(_version_table(dialect), schema=dialect.home)
