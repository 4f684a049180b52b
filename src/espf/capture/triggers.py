"""Triggers: what the rules want against what the database holds.

Triggers are derived state, like a compiled file: they are compared by their text and replaced,
never migrated. Everything here runs over the caller's connection. Where the database can, a change
of triggers is one transaction; where it cannot, each trigger is replaced by one statement, so that
no table is ever without the old and the new one, and running it again completes what was cut off.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from espf.capture.fitting import Fitting
from espf.capture.rules import CaptureRule, chosen_rules
from espf.db.dialect import Dialect
from espf.db.tables import event_notifications, event_queue, event_subscriptions, event_types
from espf.db.trigger import Compiled, Operation, TableName, Trigger
from espf.errors import Conflict, RuleError


@dataclass(frozen=True)
class Plan:
    """What would change.

    ``create`` is what is not there, or not as it is wanted; ``drop`` what nobody wants any more.
    With ``problems`` (rules that do not fit the database) nothing can be applied.
    """

    create: tuple[Compiled, ...]
    drop: tuple[str, ...]
    unchanged: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the database holds just what the rules want."""
        return not (self.create or self.drop or self.problems)


@dataclass(frozen=True)
class Drift:
    """One difference between the rules and the database; ``str`` explains it.

    ``missing``  a wanted trigger is not there: its changes are not captured
    ``altered``  a trigger is not what the rules compile to
    ``unknown``  a trigger of ours that no rule wants
    ``misfit``   a rule does not fit the tables that the database has
    """

    kind: Literal["missing", "altered", "unknown", "misfit"]
    subject: str

    def __str__(self) -> str:
        return {
            "missing": f"{self.subject}: the trigger is missing; its changes are not captured",
            "altered": f"{self.subject}: the trigger is not what the rules compile to (altered, "
            "switched off, or made from older rules)",
            "unknown": f"{self.subject}: no rule wants this trigger (made from older rules?)",
            "misfit": self.subject,
        }[self.kind]


def disabled_types(connection: Connection) -> frozenset[str]:
    """The event types that an administrator switched off. Raises Conflict without our tables."""
    _require_tables(connection)
    rows = connection.execute(select(event_types.c.name).where(event_types.c.enabled == 0))
    return frozenset(rows.scalars())


def compile_rules(
    rules: Iterable[CaptureRule], disabled: Collection[str] = frozenset()
) -> list[Trigger]:
    """One trigger per table and operation, its captures in the order of the rules.

    Rules for the event types in ``disabled`` are left out.
    """
    grouped: dict[tuple[TableName, Operation], list[CaptureRule]] = {}
    for rule in rules:
        if rule.event not in disabled:
            grouped.setdefault((rule.table, rule.on), []).append(rule)
    return [
        Trigger(
            table=table,
            operation=operation,
            watched=tuple(dict.fromkeys(column for rule in group for column in rule.watched)),
            captures=tuple(rule.capture() for rule in group),
            bulk=group[0].bulk,
        )
        for (table, operation), group in grouped.items()
    ]


@dataclass(frozen=True)
class Standing:
    """A wanted trigger as it fits the database, and how it is there.

    ``state`` is installed, missing, or altered: not what the rules compile to.
    """

    trigger: Trigger
    compiled: Compiled
    state: Literal["installed", "missing", "altered"]


@dataclass(frozen=True)
class Survey:
    """All wanted triggers, those that nobody wants any more, and rules that do not fit."""

    wanted: tuple[Standing, ...]
    unwanted: tuple[str, ...]
    problems: tuple[str, ...]


def survey(connection: Connection, dialect: Dialect, wanted: Sequence[Trigger]) -> Survey:
    """How the triggers stand. Raises Conflict without our tables."""
    _require_tables(connection)
    fitting = Fitting(connection, dialect.triggers)
    fitted = fitting.fit(wanted)
    installed = dialect.triggers.installed(connection)
    found = []
    for trigger in fitted:
        compiled = dialect.triggers.render(trigger, fitting.tables)
        there = installed.get(compiled.name)
        state: Literal["installed", "missing", "altered"] = (
            "missing" if there is None else "installed" if there == compiled.text else "altered"
        )
        found.append(Standing(trigger, compiled, state))
    names = {one.compiled.name for one in found}
    unwanted = tuple(name for name in installed if name not in names)
    return Survey(tuple(found), unwanted, tuple(fitting.problems))


def plan(connection: Connection, dialect: Dialect, wanted: Sequence[Trigger]) -> Plan:
    """Compare the wanted triggers with the installed ones. Raises Conflict without our tables."""
    found = survey(connection, dialect, wanted)
    return Plan(
        create=tuple(one.compiled for one in found.wanted if one.state != "installed"),
        drop=found.unwanted,
        unchanged=tuple(one.compiled.name for one in found.wanted if one.state == "installed"),
        problems=found.problems,
    )


def apply(connection: Connection, dialect: Dialect, wanted: Sequence[Trigger]) -> Plan:
    """Make the installed triggers the wanted ones.

    On an error none is changed; only a database that cannot undo its DDL keeps those that were
    done before. Returns what was done. Raises RuleError when a rule does not fit the database.
    """
    todo = plan(connection, dialect, wanted)
    if todo.problems:
        raise RuleError("\n".join(todo.problems))
    # Ours alone, whatever else the caller's transaction does.
    nested = connection.begin_nested() if dialect.triggers.transactional else nullcontext()
    with nested, _changing(connection, dialect, needed=bool(todo.create or todo.drop)):
        for each in todo.create:
            for statement in each.statements:
                _execute(connection, dialect, each.name, statement)
        for name in todo.drop:
            _execute(connection, dialect, name, dialect.triggers.drop(name))
    return todo


def reapply(connection: Connection, dialect: Dialect, rules: Path | None) -> None:
    """Compile anew, after a type was switched or an upgrade, if anything is installed at all.

    ``rules`` is the setting; see ``chosen_rules``.
    """
    if dialect.triggers.installed(connection):
        apply(connection, dialect, compile_rules(chosen_rules(rules), disabled_types(connection)))


def verify(connection: Connection, dialect: Dialect, wanted: Sequence[Trigger]) -> list[Drift]:
    """Where the database differs from the rules; nothing: it is installed as compiled."""
    todo = survey(connection, dialect, wanted)
    found = [Drift("misfit", problem) for problem in todo.problems]
    found += [
        Drift(one.state, one.compiled.name) for one in todo.wanted if one.state != "installed"
    ]
    # A rule that does not fit would make its triggers look unwanted.
    found += [Drift("unknown", name) for name in todo.unwanted if not todo.problems]
    return found


def ddl(connection: Connection, dialect: Dialect, wanted: Sequence[Trigger]) -> str:
    """The script that makes the wanted triggers the installed ones, for the database's own shell.

    It is complete, whatever is installed. Raises RuleError when a rule does not fit the database.
    """
    fitting = Fitting(connection, dialect.triggers)
    fitted = fitting.fit(wanted)
    if fitting.problems:
        raise RuleError("\n".join(fitting.problems))
    compiled = [dialect.triggers.render(each, fitting.tables) for each in fitted]
    names = {each.name for each in compiled}
    unwanted = [name for name in dialect.triggers.installed(connection) if name not in names]
    return dialect.triggers.script(connection, compiled, unwanted)


def remove(connection: Connection, dialect: Dialect) -> tuple[str, ...]:
    """Drop every trigger of ours; nothing is captured from then on. Returns their names."""
    names = tuple(dialect.triggers.installed(connection))
    with _changing(connection, dialect, needed=bool(names)):
        for name in names:
            _execute(connection, dialect, name, dialect.triggers.drop(name))
    return names


def _require_tables(connection: Connection) -> None:
    """A trigger that writes to a table that is not there fails every billing write."""
    for table in (event_types, event_queue, event_notifications, event_subscriptions):
        try:
            connection.execute(select(table).limit(0))
        except (ProgrammingError, OperationalError) as error:
            raise Conflict(
                f"the database has no usable table {table.name}; "
                f"run 'evctl init' before the capture ({error.orig})"
            ) from error


def _changing(
    connection: Connection, dialect: Dialect, *, needed: bool
) -> AbstractContextManager[None]:
    return dialect.triggers.changing(connection) if needed else nullcontext()


def _execute(connection: Connection, dialect: Dialect, name: str, statement: str) -> None:
    try:
        # A percent sign in it is one.
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    except DBAPIError as error:
        if dialect.translate(error) is not None:
            raise
        raise RuleError(f"{name}: the database refuses the trigger: {error.orig}") from error
