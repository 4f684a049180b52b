"""MariaDB: one trigger per table and operation, which runs with the rights of ESPF's account.

A trigger keeps the sql_mode and the character set of the session that made it, so what the writer
has set does not matter. It is made in the empty mode, in which no value is an error. Texts are
converted to utf8mb4 before they meet one another: columns of different collations would be an
error. A trigger is replaced by one statement, so that no write falls into a gap.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from sqlalchemy import Connection, text

from espf.db.trigger import (
    LONGEST_VARIABLE,
    Capture,
    ColumnType,
    Compiled,
    Condition,
    Constant,
    Kind,
    Lookup,
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

#: What the session that makes a trigger must have set.
_SESSION = (
    "SET SESSION sql_mode = ''",
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
)

_CREATE = "CREATE OR REPLACE TRIGGER"

_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint", "bit"), "integer"),
    "year": "integer",
    "decimal": "decimal",
    **dict.fromkeys(("float", "double"), "float"),
    **dict.fromkeys(("date", "time", "datetime", "timestamp"), "time"),
    **dict.fromkeys(
        ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"), "binary"
    ),
    **dict.fromkeys(("geometry", "point", "linestring", "polygon", "multipoint"), "binary"),
    **dict.fromkeys(("multilinestring", "multipolygon", "geometrycollection"), "binary"),
}

_RELATIONS = """
SELECT TABLE_SCHEMA AS place, TABLE_NAME AS name, TABLE_TYPE AS type
FROM information_schema.TABLES
WHERE lower(TABLE_SCHEMA) = lower(:schema)
AND lower(TABLE_NAME) = lower(:name)
ORDER BY TABLE_SCHEMA, TABLE_NAME
"""

_COLUMNS = """
SELECT COLUMN_NAME AS name, DATA_TYPE AS type, COLLATION_NAME AS collation, COLUMN_KEY AS part
FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = :schema AND TABLE_NAME = :name
ORDER BY ORDINAL_POSITION
"""

_INSTALLED = """
SELECT t.TRIGGER_SCHEMA AS place, t.TRIGGER_NAME AS name, t.EVENT_OBJECT_TABLE AS subject,
  t.EVENT_MANIPULATION AS operation, t.ACTION_TIMING AS timing, t.ACTION_STATEMENT AS body,
  t.SQL_MODE AS mode, t.CHARACTER_SET_CLIENT AS charset
FROM information_schema.TRIGGERS t
WHERE t.TRIGGER_NAME LIKE 'espf\\_%' AND t.ACTION_STATEMENT LIKE :ours
ORDER BY t.TRIGGER_SCHEMA, t.TRIGGER_NAME
"""


class MariadbTriggers(TriggerMaker):
    """See TriggerMaker. Names of triggers are complete: ``billing.espf_Accounts_update``."""

    transactional = False
    longest_name = 64

    def relations(self, connection: Connection, schema: str | None, name: str) -> list[Relation]:
        """See TriggerMaker."""
        rows = connection.execute(
            text(_RELATIONS), {"schema": schema or self.billing, "name": name}
        )
        return [
            Relation(
                TableName(row.name, row.place),
                None
                if row.type == "BASE TABLE"
                else f"is no table of its own ({row.type.lower()})",
            )
            for row in rows
            if row.place != self.home
        ]

    def describe(self, connection: Connection, name: TableName) -> Table:
        """See TriggerMaker."""
        rows = connection.execute(text(_COLUMNS), {"schema": name.schema, "name": name.name}).all()
        return Table(
            name,
            {
                row.name: ColumnType(_KINDS.get(row.type, "text"), row.type, row.collation)
                for row in rows
            },
            tuple(row.name for row in rows if row.part == "PRI"),
        )

    def render(self, trigger: Trigger, tables: Tables) -> Compiled:
        """See TriggerMaker."""
        place = trigger.table.schema
        assert place is not None
        name = TableName(self.trigger_name(TableName(trigger.table.name), trigger.operation), place)
        body = _Body(self.home, trigger, tables).source()
        ddl = (
            f"{_CREATE} {_table(name)} AFTER {trigger.operation.upper()}\n"
            f"ON {_table(trigger.table)} FOR EACH ROW\n{body}"
        )
        kept = _kept(trigger.table.name, trigger.operation.upper(), "AFTER", "", "utf8mb4", body)
        return Compiled(str(name), kept, (ddl,))

    def installed(self, connection: Connection) -> Mapping[str, str]:
        """See TriggerMaker."""
        ours = f"%{_identifier(self.home)}.Event\\_Queue%"
        return {
            f"{row.place}.{row.name}": _kept(
                row.subject, row.operation, row.timing, row.mode, row.charset, row.body
            )
            for row in connection.execute(text(_INSTALLED), {"ours": ours})
        }

    def drop(self, name: str) -> str:
        """See TriggerMaker."""
        place, _, trigger = name.rpartition(".espf_")
        return f"DROP TRIGGER IF EXISTS {_table(TableName('espf_' + trigger, place))}"

    @contextmanager
    def changing(self, connection: Connection) -> Iterator[None]:
        """See TriggerMaker."""
        before = connection.exec_driver_sql(
            "SELECT @@sql_mode AS mode, @@collation_connection AS collation, "
            "@@lock_wait_timeout AS patience"
        ).one()
        try:
            for statement in (*_SESSION, f"SET SESSION lock_wait_timeout = {LOCK_SECONDS}"):
                connection.exec_driver_sql(statement)
            yield
        finally:
            connection.exec_driver_sql(
                f"SET SESSION sql_mode = '{before.mode}', lock_wait_timeout = {before.patience}"
            )
            connection.exec_driver_sql(f"SET NAMES utf8mb4 COLLATE {before.collation}")
            # The DDL has ended the caller's.
            connection.exec_driver_sql("START TRANSACTION")

    def script(
        self, connection: Connection, compiled: Sequence[Compiled], unwanted: Sequence[str]
    ) -> str:
        """See TriggerMaker."""
        account = str(connection.exec_driver_sql("SELECT current_user()").scalar_one())
        definer = "@".join(map(_identifier, account.rsplit("@", 1)))
        made = [
            statement.replace(_CREATE, f"CREATE OR REPLACE DEFINER = {definer} TRIGGER", 1)
            for each in compiled
            for statement in each.statements
        ]
        head = "".join(f"{statement};\n" for statement in _SESSION)
        body = "".join(f"{statement}//\n\n" for statement in (*map(self.drop, unwanted), *made))
        return f"{head}DELIMITER //\n\n{body}DELIMITER ;\n"


def _kept(table: str, operation: str, timing: str, mode: str, charset: str, body: str) -> str:
    """Everything that decides what an installed trigger does."""
    return f"{timing} {operation} ON {table} ({charset}, mode {mode!r})\n{body}"


class _Body(TypedBody):
    """The body of one trigger."""

    def __init__(self, home: str, trigger: Trigger, tables: Tables) -> None:
        self._home = _identifier(home)
        super().__init__(trigger, tables)

    def source(self) -> str:
        """The whole body.

        Rules in a row that wait for the same columns are left together: every test costs, also one
        that fails, because the server resolves it anew each time.
        """
        events = "".join(map(self._events, self._groups()))
        return (
            "BEGIN\nDECLARE espf_env, espf_heard, espf_first, espf_last INT;\n"
            "DECLARE espf_lane VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;\n"
            f"{events}END"
        )

    def _events(self, group: Group) -> str:
        """The events of rules that wait for the same columns."""
        events = "".join(self._event(each, group.rest(each)) for each in group.captures)
        if not group.awaited:
            return events
        same = " AND ".join(map(self._same, group.awaited))
        return f"IF NOT ({same}) THEN\n{events}END IF;\n"

    def _event(self, capture: Capture, conditions: Sequence[Condition]) -> str:
        """One event: the cheap tests first, then whether somebody hears it.

        Every statement costs, and most of all one that reads. The first and the last subscriber
        are the ends of an index, which the server looks up before it plans anything; most events
        have one subscriber, and then nothing else is read.
        """
        event_type = _literal(capture.event_type)
        home = self._home
        settings, env, lane = self._at_hand(capture)
        subscribers = (
            f"{home}.Event_Subscriptions s\n"
            f"    WHERE s.i_env = {env} AND s.event_type = {event_type} AND s.active = 1"
        )
        shard = f"COALESCE((7 * ASCII(RIGHT({lane}, 2)) + ASCII(RIGHT({lane}, 1))) % 16, 0)"
        notify = (
            f"INSERT INTO {home}.Event_Notifications (i_event_handler, position, i_event, shard)"
        )
        event = f"""\
{settings}  SELECT MIN(s.i_event_handler), MAX(s.i_event_handler), 1
    INTO espf_first, espf_last, espf_heard FROM {subscribers};
  IF espf_first IS NOT NULL THEN
    IF espf_first < espf_last THEN
      SELECT COUNT(*) INTO espf_heard FROM {subscribers};
    END IF;
    INSERT INTO {home}.Event_Queue
      (i_env, event_type, ordering_key, variables, created_at, notified)
    VALUES ({env}, {event_type}, {lane},
      CONCAT({self._variables(capture, env)}),
      UTC_TIMESTAMP(3), espf_heard);
    IF espf_first = espf_last THEN
      {notify}
      VALUES (espf_first, LAST_INSERT_ID(), LAST_INSERT_ID(), {shard});
    ELSE
      {notify}
      SELECT s.i_event_handler, LAST_INSERT_ID(), LAST_INSERT_ID(), {shard}
      FROM {subscribers};
    END IF;
  END IF;
"""  # noqa: S608  (all quoted)
        tests = " AND ".join(map(partial(self._condition, capture), conditions))
        return f"IF {tests} THEN\n{event}END IF;\n" if tests else event

    def _at_hand(self, capture: Capture) -> tuple[str, str, str]:
        """Statements that come first, and how environment and key are called after them.

        What is as cheap as a name of its own needs no statement.
        """
        first = ""
        env, key = capture.environment, capture.key
        if self._is_whole_number(capture, env):
            # One that fits no column equals no subscription's, and then nothing comes of it.
            in_env = f"({self._value(capture, env)} + 0)"
        else:
            in_env = "espf_env"
            first += f"  SET espf_env = {self._environment(capture)};\n"
        lane = self._key(capture)
        if not isinstance(key, Constant) and not self._is_whole_number(capture, key):
            first += f"  SET espf_lane = {lane};\n"
            lane = "espf_lane"
        return first, in_env, lane

    def _is_whole_number(self, capture: Capture, value: Value) -> bool:
        """Whether it is an integer of the changed row."""
        if isinstance(value, Constant) or value.of == "looked_up":
            return False
        return self._type(capture, value.of, value.name).kind == "integer"

    def _quoted(self, name: str) -> str:
        return _identifier(name)

    def _literal(self, value: Scalar | None) -> str:
        return _literal(value)

    def _constant(self, value: Scalar | None, kind: Kind) -> str:
        return _constant(value, kind)

    def _is_not(self, compared: str, constant: str) -> str:
        return f"NOT ({compared} <=> {constant})"

    def _compared(self, capture: Capture, of: Side, name: str) -> str:
        """A column in the form in which it is compared with a constant."""
        column = self._type(capture, of, name)
        if column.kind in {"integer", "decimal", "float"}:
            return f"({self._reference(capture, of, name)} + 0)"
        if (column.collation or "").startswith("utf8mb4"):
            return f"BINARY {self._reference(capture, of, name)}"
        return f"BINARY {self._text(capture, of, name)}"

    def _differs(self, name: str) -> str:
        return f"NOT ({self._same(name)})"

    def _same(self, name: str) -> str:
        """Whether a column stays; a change of case is one, whatever the collation says."""
        binary = "BINARY " if self._columns[name].kind == "text" else ""
        quoted = _identifier(name)
        return f"{binary}NEW.{quoted} <=> OLD.{quoted}"

    def _environment(self, capture: Capture) -> str:
        """An environment that fits its column, or nothing: then nobody can be subscribed."""
        value = self._value(capture, capture.environment)
        return f"IF({value} BETWEEN 1 AND 2147483647, {value}, NULL)"

    def _variables(self, capture: Capture, env: str) -> str:
        """The pieces of the JSON object of the variables."""
        pieces = [f"'{{\"i_env\":', {env}"]
        pieces += [
            f"{_literal(f',{compact(name)}:')}, {self._json(capture, value)}"
            for name, value in capture.variables
        ]
        pieces.append(
            "',\"event_time\":\"', DATE_FORMAT(UTC_TIMESTAMP(), '%Y-%m-%d %H:%i:%s'), '\"}'"
        )
        return ",\n        ".join(pieces)

    def _json(self, capture: Capture, value: Value) -> str:
        """A value as JSON text."""
        if isinstance(value, Constant):
            return _literal(compact(value.value))
        reference = self._reference(capture, value.of, value.name)
        kind = self._type(capture, value.of, value.name).kind
        if kind == "binary":
            return "'null'"
        if kind == "decimal":
            # As text first: a product or a function could make a float of it.
            found = f"CAST({reference} AS CHAR)"
            if value.money:
                found = (
                    f"IF(LOCATE('.', {found}), "
                    f"TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM {found})), {found})"
                )
        elif kind in {"integer", "float"}:
            found = f"{reference} + 0"
        else:
            found = self._text(capture, value.of, value.name)
            found = (
                f"JSON_QUOTE(CONCAT(LEFT({found}, {LONGEST_VARIABLE}), "
                f"IF(CHAR_LENGTH({found}) > {LONGEST_VARIABLE}, '…', '')))"
            )
        return f"COALESCE({found}, 'null')"

    def _key(self, capture: Capture) -> str:
        """The ordering key; empty for an id that is empty or is no plain text."""
        key = capture.key
        if isinstance(key, Constant):
            return "NULL" if key.value is None else _literal(f"{capture.key_prefix}:{key.value}")
        prefix = _literal(capture.key_prefix + ":")
        kind = self._type(capture, key.of, key.name).kind
        if kind == "binary":
            return "NULL"
        if kind in {"integer", "decimal", "float"}:
            return f"CONCAT({prefix}, {self._reference(capture, key.of, key.name)} + 0)"
        found = self._text(capture, key.of, key.name)
        return (
            f"IF({found} NOT REGEXP '[^ -~]', CONCAT({prefix}, LEFT({found}, {LONGEST_KEY})), NULL)"
        )

    def _text(self, capture: Capture, of: Side, name: str) -> str:
        """A column as text in utf8mb4; moments in UTC, whatever the writer's time zone is."""
        reference = self._reference(capture, of, name)
        if self._type(capture, of, name).native == "timestamp":
            reference = f"'1970-01-01 00:00:00' + INTERVAL UNIX_TIMESTAMP({reference}) SECOND"
        return f"CONVERT({reference} USING utf8mb4) COLLATE utf8mb4_bin"

    def _looked_up(self, lookup: Lookup, name: str) -> str:
        tests = []
        for theirs, ours in lookup.match:
            mine = f"{lookup.of.upper()}.{_identifier(ours)}"
            collation = self._tables[lookup.table].columns[theirs].collation
            if collation is not None:
                charset = collation.partition("_")[0]
                mine = f"CONVERT({mine} USING {charset}) COLLATE {collation}"
            tests.append(f"l.{_identifier(theirs)} = {mine}")
        table = _table(lookup.table)
        return f"(SELECT l.{_identifier(name)} FROM {table} l WHERE {' AND '.join(tests)} LIMIT 1)"  # noqa: S608  (all quoted)


def _constant(value: Scalar | None, kind: Kind) -> str:
    """A constant as a column of this kind is compared with it."""
    if value is None:
        return "NULL"
    if kind in {"integer", "decimal", "float"}:
        return repr(int(value) if isinstance(value, bool) else value)
    return _literal(str(value))


def _table(name: TableName) -> str:
    schema = f"{_identifier(name.schema)}." if name.schema else ""
    return schema + _identifier(name.name)


def _identifier(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _literal(value: Scalar | None) -> str:
    """A constant, whatever the sql_mode says of backslashes, and as the catalogue gives it back."""
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        return repr(value)
    if "\\" in value:
        return f"CONVERT(X'{value.encode().hex()}' USING utf8mb4)"
    return "'" + value.replace("'", "''") + "'"
