"""SQLite: triggers in plain SQL, so that any program that writes the file is captured."""

import hashlib
from collections.abc import Mapping

from espf.db.trigger import Capture, Column, Condition, Constant, Trigger, Value
from espf.model import LONGEST_KEY

#: Characters of a text that a trigger copies into a variable; then it puts an ellipsis.
LONGEST_VARIABLE = 4000


def render(trigger: Trigger, now: str) -> Mapping[str, str]:
    """Compile a trigger: the name that carries the content's hash -> the DDL to create it.

    ``now`` is the SQL expression of the current time, as ESPF's tables store it.
    """
    content = f"AFTER {trigger.operation.upper()} ON {_identifier(trigger.table)}\n"
    if trigger.watched:
        content += f"WHEN {_differs(trigger.watched)}\n"
    content += f"BEGIN\n{_enqueue(trigger.captures, now)}{_NOTIFY}END"
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    name = f"espf_{trigger.table}_{trigger.operation}_{digest}"
    return {name: f"CREATE TRIGGER {_identifier(name)} {content}"}


def drop(name: str) -> str:
    """The statement that removes a trigger."""
    return f"DROP TRIGGER {_identifier(name)}"


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
