"""SQLite: triggers in plain SQL, so that any program that writes the file is captured."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

from espf.db.trigger import (
    LONGEST_VARIABLE,
    Capture,
    Column,
    ColumnType,
    Compiled,
    Condition,
    Constant,
    Lookup,
    Relation,
    Table,
    TableName,
    Tables,
    Trigger,
    TriggerMaker,
    Value,
)
from espf.model import LONGEST_KEY

#: The current time, as ESPF's tables store it.
NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now')"

_RELATIONS = """
SELECT name, type, sql FROM sqlite_master
WHERE type IN ('table', 'view') AND name = :name COLLATE NOCASE ORDER BY name
"""


class SqliteTriggers(TriggerMaker):
    """See TriggerMaker. Everything is in one file, so nothing has a schema.

    ``own_tables`` are ESPF's, which share the file with the billing's.
    """

    def __init__(self, own_tables: Sequence[str] = ()) -> None:
        super().__init__()
        self._own_tables = {name.lower() for name in own_tables}

    def relations(self, connection: Connection, schema: str | None, name: str) -> list[Relation]:
        """See TriggerMaker."""
        if schema not in {None, "main"}:
            return []
        rows = connection.execute(text(_RELATIONS), {"name": name})
        return [Relation(TableName(row.name), self._obstacle(row.name, row.sql)) for row in rows]

    def _obstacle(self, name: str, sql: str) -> str | None:
        if name.lower() in self._own_tables:
            return "is ESPF's own table; a rule there would capture itself"
        kind = sql.split(None, 2)[1].upper()
        return {
            "VIEW": "is a view: capture the tables behind it",
            "VIRTUAL": "is a virtual table, which has no triggers",
        }.get(kind)

    def describe(self, connection: Connection, name: TableName) -> Table:
        """See TriggerMaker: a column holds what was put into it, so its type says nothing."""
        rows = connection.execute(
            text("SELECT name, pk FROM pragma_table_xinfo(:name) WHERE hidden <> 1"),
            {"name": name.name},
        ).all()
        keys = sorted((row.pk, row.name) for row in rows if row.pk)
        return Table(
            name,
            {row.name: ColumnType("any") for row in rows},
            tuple(column for _at, column in keys),
        )

    def render(self, trigger: Trigger, tables: Tables) -> Compiled:  # noqa: ARG002  (no types here)
        """See TriggerMaker."""
        name = self.trigger_name(TableName(trigger.table.name), trigger.operation)
        content = f"AFTER {trigger.operation.upper()} ON {_identifier(trigger.table.name)}\n"
        if trigger.watched:
            content += f"WHEN {_differs(trigger.watched)}\n"
        content += f"BEGIN\n{_enqueue(trigger.captures)}{_NOTIFY}END"
        ddl = f"CREATE TRIGGER {_identifier(name)} {content}"
        return Compiled(name, ddl, (f"DROP TRIGGER IF EXISTS {_identifier(name)}", ddl))

    def installed(self, connection: Connection) -> Mapping[str, str]:
        """See TriggerMaker."""
        rows = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master "
            r"WHERE type = 'trigger' AND name LIKE 'espf\_%' ESCAPE '\' ORDER BY name"
        )
        return {row.name: row.sql for row in rows}

    def drop(self, name: str) -> str:
        """See TriggerMaker."""
        return f"DROP TRIGGER {_identifier(name)}"

    def script(self, compiled: Sequence[Compiled]) -> str:
        """See TriggerMaker."""
        statements = [statement for each in compiled for statement in each.statements]
        return "".join(f"{statement};\n\n" for statement in statements)


#: Notifies the subscribers of what the statement before it has put into Event_Queue: its events
#: have the highest numbers, without gaps, because there is one writer, and ``changes()`` says how
#: many they are. (``last_insert_rowid()`` would not do: it changes while this statement runs.)
_NOTIFY = """\
INSERT INTO Event_Notifications (i_event_handler, position, i_event, shard)
SELECT s.i_event_handler, q.i_event, q.i_event, coalesce(
(7 * unicode(substr(q.ordering_key, -2)) + unicode(substr(q.ordering_key, -1))) % 16, 0)
FROM Event_Queue q JOIN Event_Subscriptions s ON s.i_env = q.i_env AND s.event_type = q.event_type
WHERE q.i_event > (SELECT max(i_event) - changes() FROM Event_Queue) AND s.active = 1;
"""


def _enqueue(captures: tuple[Capture, ...]) -> str:
    """One statement for all events, so that its cost does not grow with the rules that stay silent.

    The arms of a UNION ALL run in the order in which they are written.
    """
    arms = "\nUNION ALL\n".join(map(_event, captures))
    return (
        "INSERT INTO Event_Queue "
        "(i_env, event_type, ordering_key, variables, created_at, notified)\n"
        f"{arms};\n"
    )


def _event(capture: Capture) -> str:
    """The row of one event, if its conditions hold and somebody hears it, tested in this order.

    The subscribers are counted in a FROM clause, which is not reached when a condition fails.
    """
    environment = _plain(capture.environment, capture.lookup)
    event_type = _literal(capture.event_type)
    tests = [_condition(each, capture.lookup) for each in capture.conditions]
    subscribed = f"i_env = {environment} AND event_type = {event_type} AND active = 1"
    subscribers = f"SELECT count(*) AS heard FROM Event_Subscriptions WHERE {subscribed}"  # noqa: S608  (all quoted)
    return (
        f"SELECT {environment}, {event_type}, {_key(capture)},\n"
        f"{_variables(capture)}, {NOW}, heard\n"
        f"FROM ({subscribers})\n"
        f"WHERE {' AND '.join([*tests, 'heard > 0'])}"
    )


def _condition(condition: Condition, lookup: Lookup | None) -> str:
    """One test as an expression that is never an error, whatever the columns hold."""
    if condition.test == "changed":
        return f"({_differs(condition.columns)})"
    old = _row("old", condition.columns[0])
    new = _row("new", condition.columns[0])
    here = _plain(Column(condition.columns[0], condition.of), lookup)
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
    environment = _plain(capture.environment, capture.lookup)
    members = [f"'i_env', CAST({environment} AS INTEGER)"]
    members += [
        f"{_literal(name)}, {_json(value, capture.lookup)}" for name, value in capture.variables
    ]
    members.append("'event_time', datetime('now')")
    return f"json_object({', '.join(members)})"


def _json(value: Value, lookup: Lookup | None) -> str:
    """A value as an argument of json_object, which refuses BLOBs and writes infinities as Inf.

    Numbers stop at 1e308: what lies above may round up to infinity in fifteen digits.
    """
    if isinstance(value, Constant):
        if isinstance(value.value, bool):
            return f"json('{str(value.value).lower()}')"
        return _literal(value.value)
    column = _plain(value, lookup)
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
    column = _plain(capture.key, capture.lookup)
    return (
        f"CASE WHEN typeof({column}) <> 'blob' AND {column} NOT GLOB '*[^ -~]*' "
        f"THEN {_literal(capture.key_prefix + ':')} || substr({column}, 1, {LONGEST_KEY}) END"
    )


def _plain(value: Value, lookup: Lookup | None) -> str:
    if isinstance(value, Constant):
        return _literal(value.value)
    if value.of != "looked_up" or lookup is None:
        return _row(value.of, value.name)
    match = " AND ".join(
        f"l.{_identifier(theirs)} = {_row(lookup.of, ours)}" for theirs, ours in lookup.match
    )
    table = _identifier(lookup.table.name)
    return f"(SELECT l.{_identifier(value.name)} FROM {table} l WHERE {match} LIMIT 1)"  # noqa: S608  (all quoted)


def _row(of: str, column: str) -> str:
    return f"{of.upper()}.{_identifier(column)}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str | float | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(int(value) if isinstance(value, bool) else value)
