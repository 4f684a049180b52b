"""The journal in parts, on PostgreSQL: what is old goes as a whole.

A part has the rows of a million numbers of events, whenever they were logged: so what is asked
about an event is in one part, and a walk in the order of numbers goes from part to part. The rest
has what no part is made for, and is a part itself, so that there is always a place for a row.

Other databases have no parts. SQLite knows none; MariaDB would look through all of them for each
event that it finds by another one, and a change of the parts would stop the journal's writers for
as long as anybody reads it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection

#: Numbers of events in a part. One that is full in less than a week is worth dropping as a whole.
WIDTH = 1_000_000

#: So many parts are there for numbers that are not given yet.
AHEAD = 4

#: How long others may be kept waiting for a part to come or go; it is tried again later.
LOCK_MILLISECONDS = 500

_JOURNAL = "provisioning_log"


@dataclass(frozen=True)
class Part:
    """The part for numbers of events from ``first`` on, up to but not with ``end``."""

    number: int

    @property
    def first(self) -> int:
        """The first number of an event in it."""
        return self.number * WIDTH

    @property
    def end(self) -> int:
        """The first number that is not in it."""
        return self.first + WIDTH

    @property
    def table(self) -> str:
        """Its name."""
        return f"{_JOURNAL}_{self.number}"


def may_change(connection: Connection) -> bool:
    """Whether there can be parts, and the account may make and drop them."""
    if connection.dialect.name != "postgresql":
        return False
    owned = (
        "SELECT pg_has_role(relowner, 'USAGE') AND relkind = 'p' FROM pg_class "  # noqa: S608  (our own name)
        f"WHERE oid = to_regclass('{_JOURNAL}')"
    )
    return bool(connection.exec_driver_sql(owned).scalar_one_or_none())


def past(connection: Connection) -> list[Part]:
    """The parts for numbers that are all given, in order."""
    given = _last_number(connection)
    return [part for part in _parts(connection) if part.end <= given]


def make_ahead(connection: Connection) -> list[Part]:
    """Make the parts that are missing for numbers to come; returns them.

    One into whose place rows have come already is not made: they stay in the rest.
    """
    with changing(connection):
        here = _last_number(connection) // WIDTH
        there = set(_parts(connection))
        wanted = [Part(number) for number in range(here, here + AHEAD)]
        missing = [part for part in wanted if part not in there and _is_free(connection, part)]
        for part in missing:
            connection.exec_driver_sql(
                f"CREATE TABLE {part.table} "
                f"(LIKE {_JOURNAL} INCLUDING DEFAULTS, PRIMARY KEY (i_log))"
            )
            # Made apart, and attached: so nobody has to wait who writes into another part.
            connection.exec_driver_sql(
                f"ALTER TABLE {_JOURNAL} ATTACH PARTITION {part.table} "
                f"FOR VALUES FROM ({part.first}) TO ({part.end})"
            )
    return missing


def drop(connection: Connection, part: Part, kept: str, most: int) -> int | None:
    """Drop a part, but for the rows that are ``kept``, a condition: these go into the rest.

    Returns how many rows are gone; None: too many, more than ``most``, are to be kept. For
    whoever is ``changing`` the parts.
    """
    connection.exec_driver_sql(f"LOCK TABLE {part.table} IN EXCLUSIVE MODE")
    count, keep = connection.exec_driver_sql(
        f"SELECT count(*), count(*) FILTER (WHERE {kept}) FROM {part.table}"  # noqa: S608
    ).one()
    if keep > most:
        return None
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM {part.table} WHERE {kept}"  # noqa: S608
    )
    connection.exec_driver_sql(f"DROP TABLE {part.table}")
    connection.exec_driver_sql(f"INSERT INTO {_JOURNAL} SELECT * FROM kept")  # noqa: S608
    return int(count - keep)


@contextmanager
def changing(connection: Connection) -> Iterator[None]:
    """Change the parts while nobody else does, and rather give up than keep others waiting."""
    before = connection.exec_driver_sql("SHOW lock_timeout").scalar_one()
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_MILLISECONDS}ms'")
    connection.exec_driver_sql(
        "SELECT pg_advisory_xact_lock(hashtextextended('espf parts ' || current_schema(), 0))"
    )
    yield
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{before}'")


def _parts(connection: Connection) -> list[Part]:
    names = connection.exec_driver_sql(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "  # noqa: S608
        f"WHERE i.inhparent = to_regclass('{_JOURNAL}')"
    ).scalars()
    numbers = (name.removeprefix(f"{_JOURNAL}_") for name in names)
    return sorted(
        (Part(int(number)) for number in numbers if number.isdecimal()),
        key=lambda part: part.number,
    )


def _is_free(connection: Connection, part: Part) -> bool:
    found = connection.exec_driver_sql(
        f"SELECT 1 FROM {_JOURNAL} WHERE i_event >= {part.first} AND i_event < {part.end} LIMIT 1"  # noqa: S608
    )
    return found.first() is None


def _last_number(connection: Connection) -> int:
    last = connection.exec_driver_sql("SELECT last_value FROM event_queue_i_event_seq")
    return int(last.scalar_one())
