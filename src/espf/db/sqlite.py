"""SQLite: the embedded default.

WAL, so that readers and the one writer do not wait for each other; ``BEGIN IMMEDIATE`` to write,
so that a transaction never fails half-way for the lock; triggers in plain SQL, so that any
program that writes the file, the ``sqlite3`` shell included, is captured.
"""

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from espf.db.dialect import Capture, Column, Condition, Constant, Dialect, Trigger, Value
from espf.errors import DatabaseUnavailable
from espf.model import LONGEST_KEY

#: How long a writer waits for another one before it gives up.
BUSY_SECONDS = 10

#: The longest and the shortest pause between two looks for a commit.
IDLE_POLL_SECONDS = 0.02
BUSY_POLL_SECONDS = 0.002

#: Characters of a text that a trigger copies into a variable; then it puts an ellipsis.
LONGEST_VARIABLE = 4000

#: What SQLite says when a database cannot be used, as opposed to a statement that is wrong.
_UNUSABLE = (
    "locked",
    "busy",
    "disk",
    "full",
    "unable to open",
    "readonly",
    "not a database",
    "malformed database",
)


class SqliteDialect(Dialect):
    """See Dialect."""

    now = "strftime('%Y-%m-%d %H:%M:%f', 'now')"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watch: sqlite3.Connection | None = None
        self._seen = -1
        self._quiet_since = 0.0

    def tune(self, engine: Engine) -> None:
        """See Dialect."""

        @event.listens_for(engine, "connect")
        def connected(raw: Any, _record: object) -> None:
            # The transaction is ours to begin: the driver would begin it too late.
            raw.isolation_level = None
            raw.text_factory = partial(str, encoding="utf-8", errors="replace")
            for pragma in (
                "journal_mode = WAL",
                "synchronous = FULL",
                "foreign_keys = ON",
                f"busy_timeout = {BUSY_SECONDS * 1000}",
                "cache_size = -65536",
            ):
                raw.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            read_only = connection.get_execution_options().get("read_only")
            connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    def render(self, trigger: Trigger) -> Mapping[str, str]:
        """See Dialect."""
        content = f"AFTER {trigger.operation.upper()} ON {_identifier(trigger.table)}\n"
        if trigger.watched:
            content += f"WHEN {_differs(trigger.watched)}\n"
        content += f"BEGIN\n{_enqueue(trigger.captures, self.now)}{_NOTIFY}END"
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        name = f"espf_{trigger.table}_{trigger.operation}_{digest}"
        return {name: f"CREATE TRIGGER {_identifier(name)} {content}"}

    def installed(self, connection: Connection) -> Mapping[str, str]:
        """See Dialect."""
        rows = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master "
            r"WHERE type = 'trigger' AND name LIKE 'espf\_%' ESCAPE '\' ORDER BY name"
        )
        return {row.name: row.sql for row in rows}

    def drop(self, name: str) -> str:
        """See Dialect."""
        return f"DROP TRIGGER {_identifier(name)}"

    async def wait(self, timeout_seconds: float) -> None:
        """Look at the counter of commits: often while there is traffic, rarely when it is quiet."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            now = time.monotonic()
            try:
                seen = self._commits()
            except sqlite3.Error:
                # The file cannot be read now. Whoever looks for work will say so.
                self.close()
                await asyncio.sleep(timeout_seconds)
                return
            if seen != self._seen:
                self._seen = seen
                self._quiet_since = now
                return
            if now >= deadline:
                return
            busy = now - self._quiet_since < 0.1
            await asyncio.sleep(
                min(BUSY_POLL_SECONDS if busy else IDLE_POLL_SECONDS, deadline - now)
            )

    def _commits(self) -> int:
        """A number that changes with every commit of another connection; costs microseconds."""
        if self._watch is None:
            # It waits for nobody: it is used in the event loop itself.
            self._watch = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        (count,) = self._watch.execute("PRAGMA data_version").fetchone()
        return int(count)

    def next_position(self, connection: Connection) -> int:
        """See Dialect."""
        position = connection.exec_driver_sql(
            "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'Event_Queue' RETURNING seq"
        ).scalar_one()
        return int(position)

    def translate(self, error: Exception) -> DatabaseUnavailable | None:
        """Locked, busy, full and unreadable are about the database; the rest is about the SQL."""
        original = error.orig if isinstance(error, DBAPIError) else error
        # A broken rule of the data is of a class of its own; the plain ones are about the file.
        if type(original) in {sqlite3.OperationalError, sqlite3.DatabaseError} and any(
            word in str(original) for word in _UNUSABLE
        ):
            return DatabaseUnavailable(f"the database {self._path} cannot be used: {original}")
        return None

    def close(self) -> None:
        """See Dialect."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None


#: Notifies the subscribers of what the statement before it has put into Event_Queue: its events
#: have the highest numbers, without gaps, because there is one writer, and ``changes()`` says how
#: many they are. (``last_insert_rowid()`` would not do: it changes while this statement runs.)
_NOTIFY = """\
INSERT INTO Event_Notifications (i_event_handler, position, i_event, ordering_key)
SELECT s.i_event_handler, q.i_event, q.i_event, q.ordering_key
FROM Event_Queue q JOIN Event_Subscriptions s ON s.i_env = q.i_env AND s.event_type = q.event_type
WHERE q.i_event > (SELECT max(i_event) - changes() FROM Event_Queue) AND s.active = 1;
"""


def _enqueue(captures: tuple[Capture, ...], now: str) -> str:
    """One statement for all events, so that its cost does not grow with the rules that stay silent.

    The arms of a UNION ALL run in the order in which they are written.
    """
    arms = "\nUNION ALL\n".join(_event(capture, now) for capture in captures)
    return (
        "INSERT INTO Event_Queue (i_env, event_type, ordering_key, variables, created_at)\n"
        f"{arms};\n"
    )


def _event(capture: Capture, now: str) -> str:
    """The row of one event, if its conditions hold and somebody hears it, tested in this order."""
    environment = _plain(capture.environment)
    event_type = _literal(capture.event_type)
    subscribed = f"i_env = {environment} AND event_type = {event_type} AND active = 1"
    subscriber = f"EXISTS (SELECT 1 FROM Event_Subscriptions WHERE {subscribed})"  # noqa: S608  (all quoted)
    tests = [*map(_condition, capture.conditions), subscriber]
    return (
        f"SELECT {environment}, {event_type}, {_key(capture)},\n{_variables(capture)}, {now}\n"
        f"WHERE {' AND '.join(tests)}"
    )


def _condition(condition: Condition) -> str:
    """One test as an expression that is never an error, whatever the columns hold."""
    if condition.test == "changed":
        return f"({_differs(condition.columns)})"
    old = _row("old", condition.columns[0])
    new = _row("new", condition.columns[0])
    here = _row(condition.of, condition.columns[0])
    value = _literal(condition.value)
    was = f"IS NOT {value}" if condition.origin is None else f"IS {_literal(condition.origin)}"
    return {
        "becomes": f"{new} IS {value} AND {old} {was}",
        "falls_to": f"{old} > {value} AND {new} <= {value}",
        "rises_above": f"{old} <= {value} AND {new} > {value}",
        "is_in": f"{here} IN ({', '.join(map(_literal, condition.values))})",
        "above": f"{here} > {value}",
        "not_null": f"{here} IS NOT NULL",
    }[condition.test]


def _differs(columns: tuple[str, ...]) -> str:
    """Whether any of the columns changed; a change of case is one, whatever the collation says."""
    return " OR ".join(
        f"{_row('new', name)} IS NOT {_row('old', name)} COLLATE BINARY" for name in columns
    )


def _variables(capture: Capture) -> str:
    """The JSON object of the variables. The subscription has shown that i_env is a number."""
    members = [f"'i_env', CAST({_plain(capture.environment)} AS INTEGER)"]
    members += [f"{_literal(name)}, {_json(value)}" for name, value in capture.variables]
    members.append("'event_time', datetime('now')")
    return f"json_object({', '.join(members)})"


def _json(value: Value) -> str:
    """A value as an argument of json_object, which refuses BLOBs and writes infinities as Inf.

    Numbers stop at 1e308: what lies above may round up to infinity in fifteen digits.
    """
    if isinstance(value, Constant):
        if isinstance(value.value, bool):
            return f"json('{str(value.value).lower()}')"
        return _literal(value.value)
    column = _plain(value)
    if value.money:
        return _money(column)
    return (
        f"CASE WHEN typeof({column}) = 'text' THEN substr({column}, 1, {LONGEST_VARIABLE}) "
        f"|| substr('…', 1, length({column}) > {LONGEST_VARIABLE}) "
        f"WHEN {column} BETWEEN -1e308 AND 1e308 THEN {column} END"
    )


def _money(column: str) -> str:
    """An integer of 1/100,000 as a JSON number, digit by digit: never through a float.

    Quotient and remainder are made positive one by one, for -2**63 has no positive twin.
    """
    digits = (
        f"printf('%s%d.%05d', substr('-', 1, {column} < 0), "
        f"abs({column} / 100000), abs({column} % 100000))"
    )
    return f"CASE typeof({column}) WHEN 'integer' THEN json(rtrim(rtrim({digits}, '0'), '.')) END"


def _key(capture: Capture) -> str:
    """The ordering key; empty for an id that is empty or is no plain text."""
    if isinstance(capture.key, Constant):
        if capture.key.value is None:
            return "NULL"
        return _literal(f"{capture.key_prefix}:{capture.key.value}")
    column = _plain(capture.key)
    return (
        f"CASE WHEN typeof({column}) <> 'blob' AND {column} NOT GLOB '*[^ -~]*' "
        f"THEN {_literal(capture.key_prefix + ':')} || substr({column}, 1, {LONGEST_KEY}) END"
    )


def _plain(value: Value) -> str:
    return _row(value.of, value.name) if isinstance(value, Column) else _literal(value.value)


def _row(of: str, column: str) -> str:
    return f"{of.upper()}.{_identifier(column)}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str | float | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)
