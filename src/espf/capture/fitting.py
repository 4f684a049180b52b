"""Rules meet a database: the tables and columns that they mean, spelt as they are spelt there.

All that a database would find out too late is found here. It accepts a trigger with a wrong column
or a comparison that makes no sense, and then refuses every write to the table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from espf.db.trigger import (
    Capture,
    Column,
    ColumnType,
    Condition,
    Constant,
    Lookup,
    Relation,
    Side,
    Table,
    TableName,
    Trigger,
    TriggerMaker,
    Value,
)

#: Kinds of columns that a constant of a type may be compared with.
_COMPARABLE: dict[type, frozenset[str]] = {
    bool: frozenset({"boolean", "integer", "any"}),
    int: frozenset({"integer", "decimal", "float", "boolean", "text", "any"}),
    float: frozenset({"integer", "decimal", "float", "any"}),
    str: frozenset({"text", "time", "any"}),
}

_NUMBERS = frozenset({"integer", "decimal", "float", "any"})

_WORDS = {
    "integer": "integers",
    "decimal": "decimals",
    "float": "floating-point numbers",
    "boolean": "true or false",
    "text": "text",
    "time": "moments",
    "binary": "bytes",
}


class Misfit(ValueError):
    """A rule does not fit; the message says which and why."""


class Fitting:
    """The triggers that fit a database, the tables that they need, and the problems of the rest."""

    def __init__(self, connection: Connection, maker: TriggerMaker) -> None:
        self._connection = connection
        self._maker = maker
        self._found: dict[TableName, Table | str] = {}
        self.tables: dict[TableName, Table] = {}
        self.problems: list[str] = []

    def fit(self, wanted: Sequence[Trigger]) -> list[Trigger]:
        """The wanted triggers with exact names; what does not fit goes into ``problems``."""
        fitted: list[Trigger] = []
        for trigger in wanted:
            table = self._table(trigger.table)
            if isinstance(table, str):
                events = ", ".join(dict.fromkeys(each.event_type for each in trigger.captures))
                self.problems.append(
                    f"{table}: the rules on its {trigger.operation} do not apply ({events})"
                )
                continue
            captures = [self._capture(each, trigger, table) for each in trigger.captures]
            if trigger.bulk and (problem := self._one_by_one(table, trigger)):
                self.problems.append(problem)
                continue
            if None in captures:
                continue
            watched = tuple(_exact(table, name) for name in trigger.watched)
            fitted.append(
                replace(
                    trigger,
                    table=table.name,
                    watched=tuple(dict.fromkeys(watched)),
                    captures=tuple(each for each in captures if each is not None),
                )
            )
        self.problems += _doubles(fitted)
        return fitted

    def _one_by_one(self, table: Table, trigger: Trigger) -> str | None:
        """Why the changes of a statement cannot be captured together."""
        reason = table.one_by_one
        if trigger.operation == "update" and not table.primary_key:
            reason = "has no primary key, by which a row is found before and after its change"
        if reason is None or not self._maker.knows_bulk:
            return None
        return f"{table.name} {reason}: take 'bulk' from its [[table]] in the rules"

    def _table(self, name: TableName) -> Table | str:
        """The table that a rule means, or what is wrong with it."""
        if name not in self._found:
            relation = self._relation(name)
            if isinstance(relation, str):
                self._found[name] = relation
            elif relation.obstacle is not None:
                self._found[name] = f"{relation.name} {relation.obstacle}"
            else:
                table = self._maker.describe(self._connection, relation.name)
                self._found[name] = self.tables[relation.name] = table
        return self._found[name]

    def _relation(self, name: TableName) -> Relation | str:
        """Exactly as it is written first, then in capitals or not, if only one is meant."""
        found = self._maker.relations(self._connection, name.schema, name.name)
        if not found and name.schema is None and "." in name.name:
            schema, _, rest = name.name.partition(".")
            found = self._maker.relations(self._connection, schema, rest)
            name = TableName(rest, schema)
        exact = [each for each in found if each.name.name == name.name]
        exact = [each for each in exact if each.name.schema == name.schema] or exact
        if exact:
            return exact[0]
        if not found:
            return f"there is no table {str(name)!r}"
        if len(found) > 1:
            names = ", ".join(str(each.name) for each in found)
            return f"{str(name)!r} may be one of the tables {names}; spell it as it is there"
        return found[0]

    def _capture(self, capture: Capture, trigger: Trigger, table: Table) -> Capture | None:
        """The capture with exact names, or nothing and a problem."""
        try:
            return _Fitter(self._looked_up(capture, table), table).capture(capture)
        except Misfit as problem:
            self.problems.append(
                f"{capture.event_type} on {trigger.operation} of {table.name}: {problem}"
            )
            return None

    def _looked_up(self, capture: Capture, table: Table) -> tuple[Lookup, Table] | None:
        if capture.lookup is None:
            return None
        other = self._table(capture.lookup.table)
        if isinstance(other, str):
            raise Misfit(f"lookup: {other}")
        match = []
        for theirs, ours in capture.lookup.match:
            pair = (_exact(other, theirs), _exact(table, ours))
            kinds = other.columns[pair[0]], table.columns[pair[1]]
            if not _may_match(*kinds):
                raise Misfit(
                    f"lookup: {pair[0]!r} of {other.name} holds {_holds(kinds[0])} and "
                    f"{pair[1]!r} {_holds(kinds[1])}; they never match"
                )
            match.append(pair)
        return replace(capture.lookup, table=other.name, match=tuple(match)), other


class _Fitter:
    """One capture against its table, and against the one that it looks into."""

    def __init__(self, lookup: tuple[Lookup, Table] | None, table: Table) -> None:
        self._table = table
        self._lookup = lookup[0] if lookup else None
        self._other = lookup[1] if lookup else None

    def capture(self, capture: Capture) -> Capture:
        """The capture with exact names. Raises Misfit."""
        environment = self._value(capture.environment)
        if isinstance(environment, Column):
            kind = self._type(environment.of, environment.name).kind
            if kind not in {"integer", "any"}:
                raise Misfit(
                    f"i_env: {environment.name!r} holds {_WORDS[kind]}, no numbers of environments"
                )
        return replace(
            capture,
            conditions=tuple(map(self._condition, capture.conditions)),
            environment=environment,
            key=self._value(capture.key),
            variables=tuple((name, self._value(value)) for name, value in capture.variables),
            lookup=self._lookup,
        )

    def _value(self, value: Value) -> Value:
        if isinstance(value, Constant):
            return value
        return replace(value, name=_exact(self._of(value.of), value.name))

    def _condition(self, condition: Condition) -> Condition:
        table = self._of(condition.of)
        exact = tuple(_exact(table, name) for name in condition.columns)
        column = table.columns[exact[0]]
        ordered = condition.test in {"above", "falls_to", "rises_above"}
        if ordered and column.kind not in _NUMBERS:
            raise Misfit(
                f"{condition.test}: {exact[0]!r} holds {_holds(column)}; "
                "only a number crosses another"
            )
        for constant in condition.constants:
            if not _comparable(column, constant):
                raise Misfit(
                    f"{condition.test}: {exact[0]!r} holds {_holds(column)}, "
                    f"which {constant!r} is never equal to"
                )
        return replace(condition, columns=exact)

    def _of(self, side: Side) -> Table:
        if side != "looked_up":
            return self._table
        assert self._other is not None
        return self._other

    def _type(self, side: Side, name: str) -> ColumnType:
        return self._of(side).columns[name]


def _exact(table: Table, name: str) -> str:
    """The column as the table spells it. Raises Misfit."""
    if name in table.columns:
        return name
    near = [each for each in table.columns if each.lower() == name.lower()]
    if len(near) != 1:
        raise Misfit(f"there is no column {name!r}; {table.name} has {', '.join(table.columns)}")
    return near[0]


def _comparable(column: ColumnType, constant: object) -> bool:
    if column.kind == "boolean":
        return constant in {0, 1, "true", "false"}
    return column.kind in _COMPARABLE[type(constant)]


def _may_match(theirs: ColumnType, ours: ColumnType) -> bool:
    numbers = {"integer", "decimal"}
    if "any" in {theirs.kind, ours.kind} or {theirs.kind, ours.kind} <= numbers:
        return True
    # A type that is no plain text has its own idea of what is equal.
    plain = {"text", "varchar", "bpchar", "char", "tinytext", "mediumtext", "longtext", "enum"}
    return theirs.native == ours.native or {theirs.native, ours.native} <= plain - {"enum"}


def _holds(column: ColumnType) -> str:
    words = _WORDS.get(column.kind, column.kind)
    return f"{words} ({column.native})" if column.native else words


def _doubles(fitted: Sequence[Trigger]) -> Iterator[str]:
    """Two spellings of one table are two triggers in the rules and one in the database."""
    places = [(each.table, each.operation) for each in fitted]
    for table, operation in dict.fromkeys(place for place in places if places.count(place) > 1):
        yield f"{table}: the rules on its {operation} spell its name in several ways"
