"""SQLite: triggers in plain SQL, so that any program that writes the file is captured."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, text

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


#: Generated columns are hidden: 2 or 3.
_COLUMNS = """
SELECT c.name, c.pk, c.hidden, m.sql
FROM sqlite_master m JOIN pragma_table_xinfo(m.name) c
WHERE m.type = 'table' AND m.name = :name AND c.hidden <> 1 ORDER BY c.cid
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
        rows = connection.execute(text(_COLUMNS), {"name": name.name}).all()
        keys = sorted((row.pk, row.name) for row in rows if row.pk)
        return Table(
            name,
            {row.name: ColumnType("any") for row in rows},
            tuple(column for _at, column in keys),
            {row.name: _named_twice(row.sql, rows) for row in rows if row.hidden},
        )

    def render(self, trigger: Trigger, tables: Tables) -> Compiled:
        """See TriggerMaker."""
        name = self.trigger_name(TableName(trigger.table.name), trigger.operation)
        content = f"AFTER {trigger.operation.upper()}{_of(trigger.watched, tables[trigger.table])} "
        content += f"ON {_identifier(trigger.table.name)}\n"
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

    def script(
        self,
        connection: Connection,  # noqa: ARG002  (a file has no accounts)
        compiled: Sequence[Compiled],
        unwanted: Sequence[str],
    ) -> str:
        """See TriggerMaker."""
        statements = [*map(self.drop, unwanted)]
        statements += [statement for each in compiled for statement in each.statements]
        return "".join(f"{statement};\n\n" for statement in statements)


def _named_twice(sql: str, rows: Sequence[Row[Any]]) -> tuple[str, ...]:
    """The columns that an expression in the definition of a table may be about, and some more."""
    words = sql.lower()
    return tuple(
        row.name
        for row in rows
        # Whatever has to be quoted can be written in several ways.
        if not row.name.isidentifier() or words.count(row.name.lower()) > 1
    )


def _of(watched: Sequence[str], table: Table) -> str:
    """The columns of which a statement has to set one; others are not slowed down at all."""
    if not watched:
        return ""
    names = {name: None for each in watched for name in (each, *table.made_from.get(each, ()))}
    if names.keys() & set(table.primary_key):
        # It may be set under one of these names, too.
        names |= dict.fromkeys(("rowid", "oid", "_rowid_"))
    return f" OF {', '.join(map(_identifier, names))}"


#: SQLite makes one of so many SELECTs at most, unless it was built otherwise: 500.
MOST_ARMS = 400

#: Notifies the subscribers of what the statement before it has put into Event_Queue: its events
#: have the highest numbers, without gaps, because there is one writer, and ``changes()`` says how
#: many they are. A table without rowids leaves ``last_insert_rowid()`` as it is.
_NOTIFY = """\
INSERT INTO Event_Notifications (i_event_handler, position, i_event, shard)
SELECT s.i_event_handler, q.i_event, q.i_event, coalesce(
(7 * unicode(substr(q.ordering_key, -2)) + unicode(substr(q.ordering_key, -1))) % 16, 0)
FROM Event_Queue q JOIN Event_Subscriptions s ON s.i_env = q.i_env AND s.event_type = q.event_type
WHERE changes() > 0 AND q.i_event > last_insert_rowid() - changes() AND s.active = 1;
"""


def _enqueue(captures: Sequence[Capture]) -> str:
    """One statement for all events, so that its cost does not grow with the rules that stay silent.

    A rule is a SELECT without a table: its tests, and what it does not share with the others of its
    form. What is made of that is written once for all of them. SQLite compiles a trigger into every
    statement that may fire it, and a program that prepares each statement anew pays for every word;
    and whenever a trigger fires, SQLite sets up a register for nearly every word.

    The LIMIT limits nothing. It keeps the subscribers from being counted more than once.
    """
    heard = (
        "SELECT count(*) FROM Event_Subscriptions s "
        "WHERE s.i_env = a.i_env AND s.event_type = a.event_type AND s.active = 1"
    )
    forms = _forms(captures)
    width = max(len(form.own) for form in forms)
    found = [
        next(at for at, form in enumerate(forms) if each in form.captures) for each in captures
    ]
    arms = [_arm(each, at, forms[at].own, width) for each, at in zip(captures, found, strict=True)]
    return f"""\
INSERT INTO Event_Queue (i_env, event_type, ordering_key, variables, created_at, notified)
SELECT e.i_env, e.event_type, {_by_form(_key(form.captures[0]) for form in forms)},
{_by_form(form.variables() for form in forms)}, e.at, e.heard
FROM (SELECT a.*, {NOW} AS at, ({heard}) AS heard
FROM (
{_union(arms)}
) a LIMIT -1) e WHERE e.heard > 0;
"""  # noqa: S608  (all quoted)


@dataclass(frozen=True)
class _Form:
    """Captures whose keys and variables are made by the same expressions.

    ``own`` are the places of the variables that are not the same in all of them.
    """

    captures: tuple[Capture, ...]
    own: tuple[int, ...]

    def variables(self) -> str:
        """The JSON object of the variables. The subscription has shown that i_env is a number."""
        capture = self.captures[0]
        members = ["'i_env', CAST(e.i_env AS INTEGER)"]
        for place, (name, value) in enumerate(capture.variables):
            if place in self.own:
                at = self.own.index(place)
                members.append(f"e.n{at}, {_made(f'e.v{at}', _kind(value))}")
            else:
                members.append(f"{_literal(name)}, {_json(value, capture.lookup)}")
        members.append("'event_time', substr(e.at, 1, 19)")
        return f"json_object({', '.join(members)})"


def _forms(captures: Sequence[Capture]) -> list[_Form]:
    """All captures by their forms."""
    alike: dict[Hashable, list[Capture]] = {}
    for each in captures:
        kinds = tuple(_kind(value) for _name, value in each.variables)
        alike.setdefault((_key(each), kinds, each.lookup), []).append(each)
    return [
        _Form(
            tuple(group),
            tuple(
                place
                for place, members in enumerate(
                    zip(*(each.variables for each in group), strict=True)
                )
                if len(set(members)) > 1
            ),
        )
        for group in alike.values()
    ]


def _arm(capture: Capture, form: int, own: Sequence[int], width: int) -> str:
    """What a rule says if its tests hold, in this order."""
    said = [
        f"{form} AS form",
        f"{_literal(capture.event_type)} AS event_type",
        f"{_plain(capture.environment, capture.lookup)} AS i_env",
    ]
    for at in range(width):
        name, value = capture.variables[own[at]] if at < len(own) else (None, Constant(None))
        said += [f"{_literal(name)} AS n{at}", f"{_raw(value, capture.lookup)} AS v{at}"]
    tests = " AND ".join(_condition(each, capture.lookup) for each in capture.conditions)
    return f"SELECT {', '.join(said)}" + (f" WHERE {tests}" if tests else "")


def _union(arms: Sequence[str]) -> str:
    """All of them, one after the other, however many there are."""
    if len(arms) <= MOST_ARMS:
        return "\nUNION ALL ".join(arms)
    parts = (arms[at : at + MOST_ARMS] for at in range(0, len(arms), MOST_ARMS))
    return "\nUNION ALL ".join(f"SELECT * FROM (\n{_union(each)}\n)" for each in parts)  # noqa: S608


def _by_form(expressions: Iterable[str]) -> str:
    """What the form of the rule that speaks has at its place in the list."""
    forms: dict[str, list[str]] = {}
    for number, expression in enumerate(expressions):
        forms.setdefault(expression, []).append(str(number))
    *some, (rest, _numbers) = sorted(forms.items(), key=lambda item: len(item[1]))
    if not some:
        return rest
    cases = (f"WHEN e.form IN ({', '.join(numbers)}) THEN {text}" for text, numbers in some)
    return f"CASE {' '.join(cases)} ELSE {rest} END"


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
        "null": f"{here} IS NULL",
        "not_null": f"{here} IS NOT NULL",
    }[condition.test]


def _differs(columns: tuple[str, ...]) -> str:
    """Whether any of the columns changed; a change of case is one, whatever the collation says."""
    return " OR ".join(
        f"{_row('new', name)} IS NOT {_row('old', name)} COLLATE BINARY" for name in columns
    )


#: What a value needs to become the right JSON.
_Kind = Literal["scalar", "money", "json"]


def _kind(value: Value) -> _Kind:
    if isinstance(value, Column):
        return "money" if value.money else "scalar"
    return "json" if isinstance(value.value, bool) else "scalar"


def _raw(value: Value, lookup: Lookup | None) -> str:
    """A value before it is made an argument of json_object."""
    if isinstance(value, Constant) and isinstance(value.value, bool):
        return _literal(str(value.value).lower())
    return _plain(value, lookup)


def _json(value: Value, lookup: Lookup | None) -> str:
    """A value as an argument of json_object."""
    if isinstance(value, Column) and value.of == "looked_up" and not value.money:
        assert lookup is not None
        return _looked_up(lookup, _scalar(f"l.{_identifier(value.name)}"))
    if isinstance(value, Constant) and not isinstance(value.value, bool):
        return _literal(value.value)
    # Not within the look-up: what comes out of a SELECT is no longer known to be JSON.
    return _made(_raw(value, lookup), _kind(value))


def _made(value: str, kind: _Kind) -> str:
    """A value as an argument of json_object, which refuses BLOBs and writes infinities as Inf.

    Numbers stop at 1e308: what lies above may round up to infinity in fifteen digits.
    """
    match kind:
        case "json":
            return f"json({value})"
        case "money":
            return _money(value)
    return _scalar(value)


def _scalar(column: str) -> str:
    return (
        f"CASE WHEN typeof({column}) = 'text' THEN substr({column}, 1, {LONGEST_VARIABLE}) "
        f"|| CASE WHEN length({column}) > {LONGEST_VARIABLE} THEN '…' ELSE '' END "
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
    prefix = _literal(capture.key_prefix + ":")
    return (
        f"CASE WHEN typeof({column}) = 'integer' THEN {prefix} || {column} "
        f"WHEN typeof({column}) <> 'blob' AND {column} NOT GLOB '*[^ -~]*' "
        f"THEN {prefix} || substr({column}, 1, {LONGEST_KEY}) END"
    )


def _plain(value: Value, lookup: Lookup | None) -> str:
    if isinstance(value, Constant):
        return _literal(value.value)
    if value.of != "looked_up" or lookup is None:
        return _row(value.of, value.name)
    return _looked_up(lookup, f"l.{_identifier(value.name)}")


def _looked_up(lookup: Lookup, expression: str) -> str:
    """What is made of the row ``l`` that a look-up finds; NULL where it finds none."""
    match = " AND ".join(
        f"l.{_identifier(theirs)} = {_row(lookup.of, ours)}" for theirs, ours in lookup.match
    )
    table = _identifier(lookup.table.name)
    return f"(SELECT {expression} FROM {table} l WHERE {match} LIMIT 1)"  # noqa: S608  (all quoted)


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
