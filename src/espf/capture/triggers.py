"""Triggers: what the rules want against what the database holds.

Triggers are derived state, like a compiled file: they are compared by name, which carries a hash of
the content, and by text, and they are replaced, never migrated. Everything here runs over the
caller's connection, so that a change of triggers is one transaction.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Inspector, inspect, select
from sqlalchemy.exc import DBAPIError

from espf.capture.rules import CaptureRule
from espf.db.dialect import Dialect
from espf.db.tables import event_notifications, event_queue, event_subscriptions, event_types
from espf.db.trigger import Operation, Trigger
from espf.errors import Conflict, RuleError


@dataclass(frozen=True)
class Plan:
    """What would change. ``create`` is name -> DDL; a trigger altered by hand is dropped as well.

    With ``problems`` (rules that do not fit the database) nothing can be applied.
    """

    create: Mapping[str, str]
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
    ``altered``  a trigger has the wanted name, but not the wanted text
    ``unknown``  a trigger of ours that no rule wants
    ``misfit``   a rule names a table or a column that the database does not have
    """

    kind: Literal["missing", "altered", "unknown", "misfit"]
    subject: str

    def __str__(self) -> str:
        return {
            "missing": f"{self.subject}: the trigger is missing; its changes are not captured",
            "altered": f"{self.subject}: the trigger was altered by hand",
            "unknown": f"{self.subject}: no rule wants this trigger (made from older rules?)",
            "misfit": self.subject,
        }[self.kind]


def disabled_types(connection: Connection) -> frozenset[str]:
    """The event types that an administrator switched off. Raises Conflict without our tables."""
    _require_tables(inspect(connection))
    rows = connection.execute(select(event_types.c.name).where(event_types.c.enabled == 0))
    return frozenset(rows.scalars())


def compile_rules(
    rules: Iterable[CaptureRule], disabled: Collection[str] = frozenset()
) -> list[Trigger]:
    """One trigger per table and operation, its captures in the order of the rules.

    Rules for the event types in ``disabled`` are left out.
    """
    grouped: dict[tuple[str, Operation], list[CaptureRule]] = {}
    for rule in rules:
        if rule.event not in disabled:
            grouped.setdefault((rule.table, rule.on), []).append(rule)
    return [
        Trigger(
            table=table,
            operation=operation,
            watched=tuple(dict.fromkeys(column for rule in group for column in rule.watched)),
            captures=tuple(rule.capture() for rule in group),
        )
        for (table, operation), group in grouped.items()
    ]


def plan(connection: Connection, dialect: Dialect, wanted: Sequence[Trigger]) -> Plan:
    """Compare the wanted triggers with the installed ones. Raises Conflict without our tables."""
    inspector = inspect(connection)
    _require_tables(inspector)
    rendered = _render(dialect, wanted)
    installed = dialect.installed(connection)
    unchanged = tuple(name for name, ddl in rendered.items() if installed.get(name) == ddl)
    return Plan(
        create={name: ddl for name, ddl in rendered.items() if name not in unchanged},
        drop=tuple(name for name in installed if name not in unchanged),
        unchanged=unchanged,
        problems=_misfits(inspector, wanted),
    )


def apply(connection: Connection, dialect: Dialect, wanted: Sequence[Trigger]) -> Plan:
    """Make the installed triggers the wanted ones: all of them, or on an error none.

    Returns what was done. Raises RuleError when a rule does not fit the database.
    """
    todo = plan(connection, dialect, wanted)
    if todo.problems:
        raise RuleError("\n".join(todo.problems))
    # Ours alone, whatever else the caller's transaction does.
    with connection.begin_nested():
        for name in todo.drop:
            connection.exec_driver_sql(dialect.drop(name))
        for name, ddl in todo.create.items():
            _create(connection, dialect, name, ddl)
    return todo


def verify(connection: Connection, dialect: Dialect, wanted: Sequence[Trigger]) -> list[Drift]:
    """Where the database differs from the rules; nothing: it is installed as compiled."""
    rendered = _render(dialect, wanted)
    installed = dialect.installed(connection)
    found = [Drift("misfit", problem) for problem in plan(connection, dialect, wanted).problems]
    for name, ddl in rendered.items():
        if name not in installed:
            found.append(Drift("missing", name))
        elif installed[name] != ddl:
            found.append(Drift("altered", name))
    found += [Drift("unknown", name) for name in installed if name not in rendered]
    return found


def ddl(dialect: Dialect, wanted: Sequence[Trigger]) -> str:
    """The statements that create the wanted triggers, for a database's own shell."""
    return "".join(f"{statement};\n\n" for statement in _render(dialect, wanted).values())


def remove(connection: Connection, dialect: Dialect) -> tuple[str, ...]:
    """Drop every trigger of ours; nothing is captured from then on. Returns their names."""
    names = tuple(dialect.installed(connection))
    for name in names:
        connection.exec_driver_sql(dialect.drop(name))
    return names


def _render(dialect: Dialect, wanted: Sequence[Trigger]) -> dict[str, str]:
    return {
        name: statement for trigger in wanted for name, statement in dialect.render(trigger).items()
    }


def _create(connection: Connection, dialect: Dialect, name: str, statement: str) -> None:
    try:
        connection.exec_driver_sql(statement)
    except DBAPIError as error:
        if dialect.translate(error) is not None:
            raise
        raise RuleError(f"{name}: the database refuses the trigger: {error.orig}") from error


def _require_tables(inspector: Inspector) -> None:
    """A trigger that writes to a table that is not there fails every billing write."""
    present = set(inspector.get_table_names())
    ours = (event_types, event_queue, event_notifications, event_subscriptions)
    absent = [table.name for table in ours if table.name not in present]
    if absent:
        raise Conflict(
            f"the database has no table {', '.join(absent)}; run 'evctl init' before the capture"
        )


def _misfits(inspector: Inspector, wanted: Sequence[Trigger]) -> tuple[str, ...]:
    """The tables and columns that rules name and the database does not have, spelt exactly.

    They must be found here: a database accepts a trigger with a wrong column and then refuses
    every write to the table.
    """
    tables = set(inspector.get_table_names())
    problems = []
    for trigger in wanted:
        if trigger.table not in tables:
            events = ", ".join(dict.fromkeys(capture.event_type for capture in trigger.captures))
            problems.append(
                f"there is no table {trigger.table!r}: "
                f"the rules on its {trigger.operation} do not apply ({events})"
            )
            continue
        columns = [column["name"] for column in inspector.get_columns(trigger.table)]
        for capture in trigger.captures:
            absent = sorted(capture.columns - set(columns))
            if absent:
                problems.append(
                    f"{capture.event_type} on {trigger.operation} of {trigger.table}: there is no "
                    f"column {', '.join(map(repr, absent))}; there are {', '.join(columns)}"
                )
    return tuple(problems)
