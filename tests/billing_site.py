"""Somebody's billing database with ESPF attached: write as a stranger, see what is captured."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

import psycopg
import pymysql
from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.engine import make_url

from espf.capture import triggers
from espf.capture.rules import CaptureRule, parse_rules
from espf.db import schema
from espf.db.database import Database
from espf.db.tables import event_notifications, event_queue, event_subscriptions


class Site:
    """One database. ``kind`` is sqlite, postgresql or mariadb; ``pick`` chooses by it.

    With ``bulk`` every table is said to be written by statements that change many rows.
    """

    def __init__(self, kind: str, url: str, *, set_up: bool = True, bulk: bool = False) -> None:
        self.kind = kind
        self.bulk = bulk
        self.url = url
        self.database = Database.open(url)
        self.dialect = self.database.dialect
        if set_up:
            with self.database.begin() as connection:
                schema.set_up(connection, self.dialect)

    def close(self) -> None:
        self.database.close()

    def pick(self, **choices: Any) -> Any:
        """The choice for this database, else the one for ``others``."""
        return choices.get(self.kind, choices.get("others"))

    def quote(self, statement: str) -> str:
        """A statement with names in double quotes, in the database's own."""
        return statement.replace('"', "`") if self.kind == "mariadb" else statement

    def connect(self, user: str | None = None) -> Any:
        """A connection with the driver's own settings, not ours; every statement is committed."""
        url = make_url(self.url)
        if self.kind == "sqlite":
            return sqlite3.connect(url.database, isolation_level=None)
        if self.kind == "postgresql":
            return psycopg.connect(
                host=url.query.get("host") or url.host,
                dbname=url.database,
                user=user or url.username,
                autocommit=True,
                # The server's account is called as our schema is.
                options="-c search_path=public",
            )
        return pymysql.connect(
            unix_socket=url.query["unix_socket"],
            database=url.database,
            user=user or url.username,
            autocommit=True,
            charset="utf8mb4",
            local_infile=True,
            ssl_disabled=True,
        )

    @contextmanager
    def cursor(self, *settings: str, user: str | None = None) -> Iterator[Any]:
        with closing(self.connect(user)) as connection, closing(connection.cursor()) as cursor:
            for setting in settings:
                cursor.execute(setting)
            yield cursor

    def sql(
        self, *statements: str, settings: tuple[str, ...] = (), user: str | None = None
    ) -> None:
        """Run statements, each committed; names stand in double quotes."""
        with self.cursor(*settings, user=user) as cursor:
            for statement in statements:
                cursor.execute(self.quote(statement))

    def wanted(self, rules: "str | tuple[CaptureRule, ...]") -> list[Any]:
        parsed = parse_rules(rules, "test.toml") if isinstance(rules, str) else rules
        if self.bulk:
            parsed = tuple(rule.model_copy(update={"bulk": True}) for rule in parsed)
        return triggers.compile_rules(parsed)

    def apply(self, rules: "str | tuple[CaptureRule, ...]") -> triggers.Plan:
        """Make the triggers, and subscribe handler 1 of environment 3 to all that they emit."""
        wanted = self.wanted(rules)
        with self.database.begin() as connection:
            done = triggers.apply(connection, self.dialect, wanted)
        self.subscribe({each.event_type for trigger in wanted for each in trigger.captures})
        return done

    def drifts(self, rules: "str | tuple[CaptureRule, ...]") -> list[str]:
        with self.database.read() as connection:
            return [
                each.kind for each in triggers.verify(connection, self.dialect, self.wanted(rules))
            ]

    def installed(self) -> set[str]:
        with self.database.read() as connection:
            return set(self.dialect.triggers.installed(connection))

    def subscribe(self, types: set[str], i_event_handler: int = 1, i_env: int = 3) -> None:
        with self.database.begin() as connection:
            for name in types:
                row = {"i_env": i_env, "event_type": name, "i_event_handler": i_event_handler}
                there = select(event_subscriptions).filter_by(**row)
                if connection.execute(there).first() is None:
                    connection.execute(insert(event_subscriptions).values(**row, active=1))

    def events(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        """(type, ordering key, variables but i_env and event_time) of each; empties the queue."""
        with self.database.begin() as connection:
            rows = connection.execute(select(event_queue).order_by(event_queue.c.i_event)).all()
            sent = connection.execute(
                select(event_notifications).order_by(event_notifications.c.position)
            ).all()
            connection.execute(delete(event_queue))
            connection.execute(delete(event_notifications))
            now = self.database.now(connection)
        for row in rows:
            mine = [each for each in sent if each.i_event == row.i_event]
            assert row.notified == len(mine) > 0
            for each in mine:
                assert (each.position, each.shard) == (row.i_event, shard(row.ordering_key))
                assert (each.status, each.attempts, each.ordering_key) == ("queued", 0, None)
            assert abs((now - row.created_at).total_seconds()) < 60
        assert len(sent) == sum(row.notified for row in rows)
        return [(row.event_type, row.ordering_key, self._variables(row)) for row in rows]

    @staticmethod
    def _variables(row: Any) -> dict[str, Any]:
        variables = strict(row.variables)
        assert (next(iter(variables)), list(variables)[-1]) == ("i_env", "event_time")
        assert variables.pop("i_env") == row.i_env
        moment = variables.pop("event_time")
        assert abs((row.created_at.replace(tzinfo=None) - parse(moment)).total_seconds()) < 2
        return variables

    @property
    def engine(self) -> Engine:
        return self.database._engine


def parse(moment: str) -> datetime:
    return datetime.strptime(moment, "%Y-%m-%d %H:%M:%S")


def shard(key: str | None) -> int:
    """Which worker delivers a lane, worked out as the schema says."""
    return 0 if key is None else (7 * ord(key[-2]) + ord(key[-1])) % 16


def strict(text: str) -> dict[str, Any]:
    """Read JSON as a strict receiver does: no NaN, nothing twice, no white space between."""

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(members)) == len(members)
        return dict(members)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(text, parse_constant=refuse, object_pairs_hook=pairs)
    assert isinstance(found, dict)
    return found
