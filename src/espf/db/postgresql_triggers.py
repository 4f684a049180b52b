"""PostgreSQL: one trigger and one function per table and operation.

The function runs with the rights of ESPF's account and with settings of its own, so that the
writer's rights and settings do not matter. What it costs is mostly the setting up of expressions
and statements, which PostgreSQL does anew in each transaction, and of statements in each call.
Hence six choices, each measured:

- No WHEN clause: its expression is read and set up anew for each statement, which costs more than
  a function that sees by itself that nothing happened.
- One test leaves many rules that wait for other columns, but no test before all of them asks
  whether any watched column changed: it would cost every event more than it spares a write that
  is none.
- No setting that is not needed: the function sets each anew whenever it is called.
- Two statements, not three: that nobody is subscribed shows in that nobody was notified. Such an
  event leaves a number unused, as one that is rolled back does.
- As few expressions as can be, for each is set up anew: all variables are put together by one
  call, and what a statement can compute by itself, it does.
- A row-level trigger, unless the table is said to be written in bulk. A statement-level one gets
  the changed rows as tables and makes all events by one statement: cheaper for many rows, dearer
  for one, and PostgreSQL cannot choose by the number of rows.

The rows before and after a bulk update are matched by the primary key. A row whose key changes has
no match, so a row-level trigger, which fires for such rows only, captures it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from sqlalchemy import Connection, text

from espf.db.trigger import (
    LONGEST_VARIABLE,
    Capture,
    Column,
    ColumnType,
    Compiled,
    Condition,
    Constant,
    Kind,
    Lookup,
    Operation,
    Relation,
    Scalar,
    Side,
    Table,
    TableName,
    Tables,
    Trigger,
    TriggerMaker,
    Value,
)
from espf.db.trigger_body import Group, TypedBody
from espf.model import LONGEST_KEY, compact

#: How long a change of triggers waits for the transactions that write the table; meanwhile new
#: ones wait behind it.
LOCK_SECONDS = 5

_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("int2", "int4", "int8"), "integer"),
    "numeric": "decimal",
    **dict.fromkeys(("float4", "float8"), "float"),
    "bool": "boolean",
    **dict.fromkeys(("date", "time", "timetz", "timestamp", "timestamptz", "interval"), "time"),
    "bytea": "binary",
}

#: Texts whose form does not depend on any setting; other types get the settings below.
_PLAIN_TEXTS = frozenset({"text", "varchar", "bpchar", "name", "uuid", "enum", "json", "jsonb"})

#: The settings under which everything is written in one way, whatever the writer has set.
_FORMATS = (
    "DateStyle = 'ISO, YMD'",
    "IntervalStyle = 'postgres'",
    "TimeZone = 'UTC'",
    "extra_float_digits = '1'",
    "bytea_output = 'hex'",
    "lc_monetary = 'C'",
)

#: So many groups of rules are left by one test if none of their columns changed.
_BLOCK = 4

_RELATIONS = """
SELECT n.nspname, c.relname, c.relkind, c.relispartition
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND lower(c.relname) = lower(:name)
AND lower(n.nspname) = lower(:schema) AND n.nspname <> :home
ORDER BY n.nspname, c.relname
"""

_OBSTACLES = {
    "p": "is partitioned: capture a table that holds rows itself",
    "v": "is a view: capture the tables behind it",
    "m": "is a materialized view: capture the tables behind it",
    "f": "is a foreign table: capture it where it is written",
}

#: A domain is what it is made of; of an enumeration only that it is one matters.
_COLUMNS = """
WITH RECURSIVE base AS (
  SELECT a.attnum, a.attname, t.oid, t.typname, t.typtype, t.typbasetype
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = CAST(:table AS regclass) AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT b.attnum, b.attname, t.oid, t.typname, t.typtype, t.typbasetype
  FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd'
)
SELECT attname, CASE typtype WHEN 'e' THEN 'enum' ELSE typname END AS type
FROM base WHERE typtype <> 'd' ORDER BY attnum
"""

_PRIMARY_KEY = """
SELECT a.attname FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = CAST(:table AS regclass) AND i.indisprimary
ORDER BY array_position(i.indkey, a.attnum)
"""

#: A statement on a parent changes rows of its children, too, and is none on them.
_KIN = """
SELECT count(*) FROM pg_catalog.pg_inherits
WHERE CAST(:table AS regclass) IN (inhrelid, inhparent)
"""

#: The bits of pg_trigger.tgtype.
_ROW_LEVEL = 1
_EVENTS = {"insert": 4, "delete": 8, "update": 16}

#: The rows before and after a statement, as tables.
_BEFORE, _AFTER = "espf_before", "espf_after"

#: The name of the trigger for rows whose key changes; a table has one at most.
_MOVED = "espf_moved"

_INSTALLED = """
SELECT p.proname, p.prosrc, p.prosecdef, p.proconfig,
  t.tgtype, t.tgenabled, t.tgnargs = 0 AND t.tgattr = '' AS plain, t.tgoldtable, t.tgnewtable,
  CASE WHEN t.tgqual IS NOT NULL THEN pg_catalog.pg_get_triggerdef(t.oid) END AS definition,
  r.relname, s.nspname
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN pg_catalog.pg_trigger t ON t.tgfoid = p.oid AND NOT t.tgisinternal
LEFT JOIN pg_catalog.pg_class r ON r.oid = t.tgrelid
LEFT JOIN pg_catalog.pg_namespace s ON s.oid = r.relnamespace
WHERE n.nspname = :home AND p.proname LIKE 'espf\\_%'
AND p.prorettype = CAST('trigger' AS regtype)
ORDER BY p.proname, t.tgtype DESC, t.tgname
"""


@dataclass(frozen=True)
class _Firing:
    """When a trigger calls its function: for which rows, with which tables of changed rows."""

    name: str
    table: TableName
    operation: Operation
    row_level: bool = True
    tables: tuple[tuple[str, str], ...] = ()
    condition: str = ""

    def statements(self, function: str) -> tuple[str, str]:
        """What makes the trigger; they are replaced only from PostgreSQL 14 on."""
        name, table = _identifier(self.name), _table(self.table)
        referencing = "".join(f" {side} TABLE AS {name}" for side, name in self.tables)
        return (
            f"DROP TRIGGER IF EXISTS {name} ON {table}",
            f"CREATE TRIGGER {name} AFTER {self.operation.upper()}\nON {table}"
            + (f" REFERENCING{referencing}" if referencing else "")
            + f" FOR EACH {'ROW' if self.row_level else 'STATEMENT'}"
            + (f"\nWHEN ({self.condition})" if self.condition else "")
            + f" EXECUTE FUNCTION {function}()",
        )

    def kept(self) -> str:
        """What ``installed`` finds of it."""
        names = dict(self.tables)
        fires = _EVENTS[self.operation] + self.row_level * _ROW_LEVEL
        return _fires(self.table, fires, names.get("OLD"), names.get("NEW"), self.condition)


class PostgresqlTriggers(TriggerMaker):
    """See TriggerMaker."""

    knows_bulk = True

    def relations(self, connection: Connection, schema: str | None, name: str) -> list[Relation]:
        """See TriggerMaker."""
        rows = connection.execute(
            text(_RELATIONS), {"schema": schema or self.billing, "name": name, "home": self.home}
        )
        return [
            Relation(
                TableName(row.relname, row.nspname),
                "is a partition of another table"
                if row.relispartition
                else _OBSTACLES.get(row.relkind),
            )
            for row in rows
        ]

    def describe(self, connection: Connection, name: TableName) -> Table:
        """See TriggerMaker."""
        place = {"table": _table(name)}
        columns = connection.execute(text(_COLUMNS), place)
        return Table(
            name,
            {row.attname: ColumnType(_KINDS.get(row.type, "text"), row.type) for row in columns},
            tuple(connection.execute(text(_PRIMARY_KEY), place).scalars()),
            one_by_one="inherits or is inherited, so its rows change in statements on other tables"
            if connection.execute(text(_KIN), place).scalar_one()
            else None,
        )

    def render(self, trigger: Trigger, tables: Tables) -> Compiled:
        """See TriggerMaker."""
        name = self.trigger_name(trigger.table, trigger.operation)
        body = _Body(self.home, trigger, tables)
        function = f"{_identifier(self.home)}.{_identifier(name)}"
        settings = ("search_path = pg_catalog, pg_temp", *body.formats())
        source = body.source()
        firings = _firings(name, trigger, tables[trigger.table])
        clauses = "\n".join(f"SET {setting}" for setting in settings)
        made = (
            f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger\n"
            f"LANGUAGE plpgsql SECURITY DEFINER\n{clauses}\nAS {_dollars(source)}"
        )
        statements = [made]
        if trigger.operation == "update":
            statements.append(f"DROP TRIGGER IF EXISTS {_MOVED} ON {_table(trigger.table)}")
        for each in firings:
            statements += each.statements(function)
        kept = _kept([each.kept() for each in firings], settings, source)
        return Compiled(name, kept, tuple(dict.fromkeys(statements)))

    def installed(self, connection: Connection) -> Mapping[str, str]:
        """See TriggerMaker: empty for what is switched off or fires in another way."""
        found: dict[str, str] = {}
        everything = connection.execute(text(_INSTALLED), {"home": self.home})
        for name, rows in groupby(everything, lambda row: row.proname):
            triggers = list(rows)
            sound = all(row.prosecdef and row.plain and row.tgenabled == "O" for row in triggers)
            fires = [
                _fires(
                    TableName(row.relname or "", row.nspname),
                    row.tgtype,
                    row.tgoldtable,
                    row.tgnewtable,
                    _condition_of(row.definition),
                )
                for row in triggers
            ]
            kept = _kept(fires, triggers[0].proconfig or [], triggers[0].prosrc)
            found[name] = kept if sound else ""
        return found

    def drop(self, name: str) -> str:
        """See TriggerMaker: the trigger goes with its function."""
        return f"DROP FUNCTION {_identifier(self.home)}.{_identifier(name)}() CASCADE"

    @contextmanager
    def changing(self, connection: Connection) -> Iterator[None]:
        """See TriggerMaker."""
        before = connection.exec_driver_sql("SHOW lock_timeout").scalar_one()
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        yield
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{before}'")

    def script(
        self, connection: Connection, compiled: Sequence[Compiled], unwanted: Sequence[str]
    ) -> str:
        """See TriggerMaker."""
        owner = _identifier(connection.exec_driver_sql("SELECT current_user").scalar_one())
        statements = [*map(self.drop, unwanted)]
        for each in compiled:
            function = f"{_identifier(self.home)}.{_identifier(each.name)}()"
            statements += [*each.statements, f"ALTER FUNCTION {function} OWNER TO {owner}"]
        return "BEGIN;\n\n" + "".join(f"{each};\n\n" for each in statements) + "COMMIT;\n"


class _Body(TypedBody):
    """The source of one trigger's function."""

    def __init__(self, home: str, trigger: Trigger, tables: Tables) -> None:
        self._home = _identifier(home)
        self._channel = home
        super().__init__(trigger, tables)

    def source(self) -> str:
        """The whole source."""
        events = self._events()
        head = alone = ""
        if self._trigger.bulk:
            # Columns called as a variable are columns.
            head = "\n#variable_conflict use_column"
            alone = "  espf_alone boolean := true;\n"
            events = f"{self._statement()}  IF espf_alone THEN\n{events}  END IF;\n"
        return (
            f"{head}\nDECLARE\n  espf_env integer; espf_number bigint; espf_lane text;\n"
            f"  espf_variables text; espf_heard integer;\n{alone}"
            f"BEGIN\n{events}  RETURN NULL;\nEND"
        )

    def _call(self) -> str:
        """Wakes a worker that sleeps.

        Asked as a function: a query would be planned by the settings of whoever writes.
        """
        sleeps = f"pg_sequence_last_value({self._relation('worker_sleeps')}) = 2"
        return f"IF {sleeps} THEN PERFORM pg_notify({_literal(self._channel)}, ''); END IF;"

    def formats(self) -> Sequence[str]:
        """The settings that the function needs besides the search path."""
        return _FORMATS if any(map(self._varies, self._read())) else ()

    def _read(self) -> Iterator[ColumnType]:
        """The types of what is written as text, or compared as text, but for dates in JSON."""
        for capture in self._trigger.captures:
            for value in (capture.environment, capture.key):
                if isinstance(value, Column):
                    yield self._type(capture, value.of, value.name)
            for _name, value in capture.variables:
                if isinstance(value, Column):
                    column = self._type(capture, value.of, value.name)
                    if column.native != "date":
                        yield column
            for condition in capture.conditions:
                types = [self._type(capture, condition.of, name) for name in condition.columns]
                if condition.test == "changed":
                    types = [each for each in types if not _exact(each)]
                yield from types

    @staticmethod
    def _varies(column: ColumnType) -> bool:
        return column.kind in {"float", "time", "text"} and column.native not in _PLAIN_TEXTS

    def _events(self) -> str:
        """All events; rules whose columns did not change are left in blocks."""
        groups = list(self._groups())
        blocks = [groups[at : at + _BLOCK] for at in range(0, len(groups), _BLOCK)]
        return "".join(self._block(block, alone=len(blocks) == 1) for block in blocks)

    def _block(self, groups: Sequence[Group], *, alone: bool) -> str:
        events = "".join(map(self._group, groups))
        if alone or len(groups) == 1 or not all(group.awaited for group in groups):
            return events
        columns = dict.fromkeys(name for group in groups for name in group.awaited)
        return f"  IF {' OR '.join(map(self._differs, columns))} THEN\n{events}  END IF;\n"

    def _group(self, group: Group) -> str:
        """The events of rules that wait for the same columns.

        They are tested once for all, and before a look-up, for that is a statement.
        """
        looks = any(test.of == "looked_up" for each in group.captures for test in each.conditions)
        if not group.awaited or not (looks or len(group.captures) > 1):
            return "".join(self._event(each, each.conditions) for each in group.captures)
        events = "".join(self._event(each, group.rest(each)) for each in group.captures)
        return f"  IF {' OR '.join(map(self._differs, group.awaited))} THEN\n{events}  END IF;\n"

    def _event(self, capture: Capture, conditions: Sequence[Condition]) -> str:
        """One event: whether it is one, then the subscribers, who may be none, then itself."""
        tests = " AND ".join(map(partial(self._condition, capture), conditions))
        event_type = _literal(capture.event_type)
        home = self._home
        env, set_env = "espf_env", f"    espf_env := {self._environment(capture)};\n"
        if self._is_environment(capture):
            env, set_env = self._value(capture, capture.environment), ""
        event = f"""\
{set_env}    espf_number := nextval({self._relation("event_queue_i_event_seq")});
    espf_lane := {self._key(capture)};
    INSERT INTO {home}.event_notifications (i_event_handler, position, i_event, shard)
      SELECT s.i_event_handler, espf_number, espf_number, {_shard("espf_lane")}
      FROM {home}.event_subscriptions s
      WHERE s.i_env = {env} AND s.event_type = {event_type} AND s.active = 1;
    IF FOUND THEN
      GET DIAGNOSTICS espf_heard = ROW_COUNT;
      espf_variables := {self._variables(capture, env)};
      INSERT INTO {home}.event_queue
        (i_event, i_env, event_type, ordering_key, variables, created_at, notified)
      VALUES (espf_number, {env}, {event_type}, espf_lane, espf_variables,
        clock_timestamp(), espf_heard);
      {self._call()}
    END IF;
"""  # noqa: S608  (all quoted)
        return f"  IF {tests} THEN\n{event}  END IF;\n" if tests else event

    def _statement(self) -> str:
        """What a statement-level trigger does first: a row that changed alone is captured as usual.

        For one row, the statement that captures many costs three times as much.
        """
        side, table = self._lead()
        more = f"{side}.{self._extra('espf_more')}"
        before, same = "", ""
        if self._trigger.operation == "update":
            before = f"    SELECT * INTO OLD FROM {_BEFORE};\n"  # noqa: S608
            key = self._tables[self._trigger.table].primary_key
            same = "".join(f" AND {_same(each)}" for each in key)
        return f"""\
  IF TG_LEVEL = 'STATEMENT' THEN
    SELECT t.*, EXISTS (SELECT FROM {table} OFFSET 1) AS {self._extra("espf_more")}
      INTO {side} FROM {table} t LIMIT 1;
{before}    espf_alone := NOT {more}{same};
    IF {more} THEN
{self._all()}    END IF;
  END IF;
"""  # noqa: S608  (all quoted)

    def _all(self) -> str:
        """All events of a statement, numbered row by row in the order of the rules."""
        arms = "\n        UNION ALL\n".join(
            f"        SELECT {number} AS rule, {self._arm(each)}"
            for number, each in enumerate(self._trigger.captures)
        )
        home = self._home
        lead, _table = self._lead()
        return f"""\
    WITH espf_events AS (
      SELECT nextval({self._relation("event_queue_i_event_seq")}) AS number, e.*
      FROM (SELECT r.*, s.handlers
      FROM {self._changed_rows()}
      CROSS JOIN LATERAL (
{arms}
      ) r CROSS JOIN LATERAL (
        SELECT array_agg(s.i_event_handler) AS handlers FROM {home}.event_subscriptions s
        WHERE s.i_env = r.i_env AND s.event_type = r.event_type AND s.active = 1
      ) s WHERE s.handlers IS NOT NULL
      ORDER BY {lead}.{self._extra("espf_place")}, r.rule) e
    ), espf_queued AS (
      INSERT INTO {home}.event_queue
        (i_event, i_env, event_type, ordering_key, variables, created_at, notified)
      SELECT number, i_env, event_type, lane, variables, clock_timestamp(), cardinality(handlers)
      FROM espf_events
    )
    INSERT INTO {home}.event_notifications (i_event_handler, position, i_event, shard)
      SELECT unnest(handlers), number, number, {_shard("lane")} FROM espf_events;
    IF FOUND THEN
      {self._call()}
    END IF;
"""  # noqa: S608  (all quoted)

    def _arm(self, capture: Capture) -> str:
        """One event of a changed row, if it is one."""
        tests = list(map(partial(self._condition, capture), capture.conditions))
        if self._trigger.operation == "update":
            first = _identifier(self._tables[self._trigger.table].primary_key[0])
            tests = [f"NEW.{first} IS NOT NULL AND OLD.{first} IS NOT NULL", *tests]
        env = f"CAST({self._environment(capture)} AS integer)"
        return (
            f"{env} AS i_env, CAST({_literal(capture.event_type)} AS text) AS event_type,\n"
            f"          CAST({self._key(capture)} AS text) AS lane,\n"
            f"          {self._variables(capture, env)} AS variables\n"
            f"        WHERE {' AND '.join(tests) or 'true'}"
        )

    def _changed_rows(self) -> str:
        """The rows of the statement, each with its place.

        A full join is never done by nested loops: a plan is kept, also one that was made for an
        update of a few rows, and would take its time for many.
        """
        name, table = self._lead()
        place = self._extra("espf_place")
        rows = f"(SELECT row_number() OVER () AS {place}, t.* FROM {table} t) {name}"  # noqa: S608
        if self._trigger.operation != "update":
            return rows
        key = self._tables[self._trigger.table].primary_key
        return f"{rows}\n      FULL JOIN {_BEFORE} OLD ON {' AND '.join(map(_same, key))}"

    def _lead(self) -> tuple[str, str]:
        """The rows that every change of this kind has, and the table of those of a statement."""
        return ("OLD", _BEFORE) if self._trigger.operation == "delete" else ("NEW", _AFTER)

    def _extra(self, name: str) -> str:
        """A name for a column beside those of the table."""
        while name in self._columns:
            name += "_"
        return name

    def _relation(self, name: str) -> str:
        """A sequence of ours as an argument of a function."""
        return _literal(f"{self._home}.{name}") + "::regclass"

    def _quoted(self, name: str) -> str:
        return _identifier(name)

    def _literal(self, value: Scalar | None) -> str:
        return _literal(value)

    def _constant(self, value: Scalar | None, kind: Kind) -> str:
        return _constant(value, kind)

    def _is_not(self, compared: str, constant: str) -> str:
        return f"{compared} IS DISTINCT FROM {constant}"

    def _compared(self, capture: Capture, of: Side, name: str) -> str:
        """A column in the form in which it is compared with a constant."""
        reference = self._reference(capture, of, name)
        if self._type(capture, of, name).kind in {"integer", "decimal", "float", "boolean"}:
            return reference
        return f'{reference}::text COLLATE "C"'

    def _differs(self, name: str) -> str:
        """Whether a column changed; a change of case is one, whatever the type says."""
        cast = "" if _exact(self._columns[name]) else '::text COLLATE "C"'
        quoted = _identifier(name)
        return f"NEW.{quoted}{cast} IS DISTINCT FROM OLD.{quoted}{cast}"

    def _is_environment(self, capture: Capture) -> bool:
        """Whether whatever the environment holds can be asked for as it is."""
        value = capture.environment
        if isinstance(value, Constant) or value.of == "looked_up":
            return False
        return self._type(capture, value.of, value.name).native in {"int2", "int4"}

    def _environment(self, capture: Capture) -> str:
        """An environment that fits its column, or nothing: then nobody can be subscribed."""
        value = self._value(capture, capture.environment)
        return f"CASE WHEN {value} BETWEEN 1 AND 2147483647 THEN {value} END"

    def _variables(self, capture: Capture, env: str = "espf_env") -> str:
        """The JSON object of the variables as an expression of type text."""
        pieces = ["'{\"i_env\":'", f"{env}::text"]
        for name, value in capture.variables:
            pieces += [_literal(f",{compact(name)}:"), self._json(capture, value)]
        pieces += [
            '\',"event_time":"\'',
            "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')",
            "'\"}'",
        ]
        # One call for all: the database sets each call up anew in each transaction.
        return f"array_to_string(ARRAY[{', '.join(pieces)}], '')"

    def _json(self, capture: Capture, value: Value) -> str:
        """A value as JSON text."""
        if isinstance(value, Constant):
            return _literal(compact(value.value))
        reference = self._reference(capture, value.of, value.name)
        kind = self._type(capture, value.of, value.name).kind
        if kind == "decimal":
            # Infinities and NaN have no scale, and no JSON.
            number = f"trim_scale({reference})" if value.money else reference
            found = f"CASE WHEN scale({reference}) IS NOT NULL THEN {number}::text END"
        elif kind == "float":
            found = f"CASE WHEN {reference} - {reference} = 0 THEN {reference}::text END"
        elif kind in {"integer", "boolean"}:
            found = f"{reference}::text"
        elif kind == "binary":
            return "'null'"
        elif self._type(capture, value.of, value.name).native == "date":
            # JSON knows one form of it, whatever the settings are.
            found = f"to_json({reference})::text"
        else:
            found = (
                f"to_json(left({reference}::text, {LONGEST_VARIABLE}) || CASE WHEN "
                f"length({reference}::text) > {LONGEST_VARIABLE} THEN '…' ELSE '' END)::text"
            )
        return f"coalesce({found}, 'null')"

    def _key(self, capture: Capture) -> str:
        """The ordering key; empty for an id that is empty or is no plain text."""
        key = capture.key
        if isinstance(key, Constant):
            return "NULL" if key.value is None else _literal(f"{capture.key_prefix}:{key.value}")
        reference = f"{self._reference(capture, key.of, key.name)}::text"
        prefix = _literal(capture.key_prefix + ":")
        column = self._type(capture, key.of, key.name)
        if column.kind in {"binary", "boolean"}:
            return "NULL"
        if column.kind == "integer" or column.native == "uuid":
            return f"{prefix} || {reference}"
        return (
            f"CASE WHEN {reference} COLLATE \"C\" !~ '[^ -~]' "
            f"THEN {prefix} || left({reference}, {LONGEST_KEY}) END"
        )

    def _looked_up(self, lookup: Lookup, name: str) -> str:
        match = " AND ".join(
            f"l.{_identifier(theirs)} = {lookup.of.upper()}.{_identifier(ours)}"
            for theirs, ours in lookup.match
        )
        return f"(SELECT l.{_identifier(name)} FROM {_table(lookup.table)} l WHERE {match} LIMIT 1)"  # noqa: S608  (all quoted)


def _exact(column: ColumnType) -> bool:
    """Whether what the type calls equal is written alike, too."""
    return (column.kind != "text" or column.native == "uuid") and column.native != "interval"


def _shard(lane: str) -> str:
    """Which worker delivers a lane."""
    return f"coalesce((7 * ascii(right({lane}, 2)) + ascii(right({lane}, 1))) % 16, 0)"


def _firings(name: str, trigger: Trigger, table: Table) -> tuple[_Firing, ...]:
    """The triggers that call the function; the row-level ones first."""
    plain = _Firing(name, trigger.table, trigger.operation)
    if not trigger.bulk:
        return (plain,)
    sides = {
        "insert": (("NEW", _AFTER),),
        "delete": (("OLD", _BEFORE),),
        "update": (("OLD", _BEFORE), ("NEW", _AFTER)),
    }
    bulk = replace(plain, row_level=False, tables=sides[trigger.operation])
    if trigger.operation != "update":
        return (bulk,)
    moved = " OR ".join(f"NOT {_same(each)}" for each in table.primary_key)
    return replace(plain, name=_MOVED, condition=moved), bulk


def _same(column: str) -> str:
    """Whether a column of a key stays, by an operator that no search path decides about."""
    name = _identifier(column)
    return f"(OLD.{name} OPERATOR(pg_catalog.=) NEW.{name})"


def _kept(fires: Sequence[str], settings: Sequence[str], source: str) -> str:
    """Everything that decides what an installed trigger does."""
    plain = sorted(each.replace(" = ", "=").replace("'", "") for each in settings)
    return f"{' and '.join(fires)}; {'; '.join(plain)}\n{source}"


def _fires(
    table: TableName, kind: int, before: str | None, after: str | None, condition: str
) -> str:
    """When a trigger fires. PostgreSQL spells a condition in its own way, with casts."""
    bare = re.sub(r"::[a-z ]+(\(\d+\))?|OPERATOR\(pg_catalog\.(=)\)|[\s()\"]", r"\2", condition)
    return f"{table} {kind} {before} {after} {bare.lower()}"


def _condition_of(definition: str | None) -> str:
    """The condition in the definition of a trigger."""
    found = re.search(r" WHEN \((.*)\) EXECUTE FUNCTION ", definition or "", re.DOTALL)
    return found[1] if found else ""


def _dollars(source: str) -> str:
    """Quote a text with a tag that does not stand in it."""
    tag = "$espf$"
    while tag in source:
        tag = f"{tag[:-1]}_$"
    return f"{tag}{source}{tag}"


def _constant(value: Scalar | None, kind: Kind) -> str:
    """A constant as a column of this kind is compared with it."""
    if value is None:
        return "NULL"
    if kind == "boolean":
        return "true" if value in {True, "true"} else "false"
    if kind in {"integer", "decimal", "float"}:
        return repr(int(value) if isinstance(value, bool) else value)
    return _literal(str(value))


def _table(name: TableName) -> str:
    schema = f"{_identifier(name.schema)}." if name.schema else ""
    return schema + _identifier(name.name)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: Scalar | None) -> str:
    """A constant, whatever the session's setting of standard_conforming_strings is."""
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        return repr(value)
    quoted = "'" + value.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in value else quoted
