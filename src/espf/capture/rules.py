"""Capture rules: which change of which table is which event.

A rule file is TOML, one ``[[rule]]`` per event; ``docs/reference/capture-rules.md`` describes it.
Files are checked strictly: a wrong rule is refused here, with the file, the rule and the field, and
never becomes a trigger that fails in somebody's billing transaction.
"""

import math
import tomllib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from espf.catalogue import canonical, catalogue, is_custom, is_well_formed
from espf.db.trigger import (
    Capture,
    Column,
    Condition,
    Constant,
    Lookup,
    Operation,
    Side,
    TableName,
    Value,
)
from espf.errors import RuleError
from espf.model import KEY_VARIABLES

#: Variables that ESPF adds to every event.
RESERVED = frozenset({"i_env", "i_event", "event_time"})

#: A database's JSON function takes about a hundred arguments, two for each variable.
MOST_VARIABLES = 50

Row = Literal["old", "new"]


def _identifier(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError("expected the name of a table or column")
    return value


def _scalar(value: object) -> object:
    """Text, a number or a truth value that a database can hold."""
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"expected text or a number, not {value!r}")  # noqa: TRY004  (as below)
    if isinstance(value, str) and "\0" in value:
        raise ValueError("the text holds a NUL character")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{value} does not fit in 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a number that an event can carry")
    return value


def _number(value: object) -> object:
    if isinstance(value, (str, bool)):
        raise ValueError(f"expected a number, not {value!r}")  # noqa: TRY004  (as below)
    return _scalar(value)


def _event_type(value: str) -> str:
    value = canonical(value)
    if value in catalogue() or (is_custom(value) and is_well_formed(value)):
        return value
    near = get_close_matches(value, catalogue(), n=1)
    hint = f"; did you mean {near[0]}?" if near else "; a name of your own begins with Custom/"
    raise ValueError(f"there is no event type {value!r}{hint}")


def _table_name(value: object) -> object:
    if isinstance(value, str):
        return TableName(_identifier(value))
    if isinstance(value, dict) and set(value) == {"name", "schema"}:
        parts = {key: part for key, part in value.items() if isinstance(part, str)}
        if len(parts) == 2:
            return TableName(_identifier(parts["name"]), _identifier(parts["schema"]))
    raise ValueError("expected the name of a table, or { schema, name }")


Identifier = Annotated[str, AfterValidator(_identifier)]
Place = Annotated[TableName, BeforeValidator(_table_name)]
Scalar = Annotated[Any, AfterValidator(_scalar)]
Number = Annotated[Any, AfterValidator(_number)]


class _Part(BaseModel):
    """A table of a rule file. Knows its keys, and says so when it meets another one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, data: object) -> object:
        known = [
            field.alias or name for name, field in cls.model_fields.items() if not field.exclude
        ]
        if not isinstance(data, dict):
            raise ValueError(f"expected a table with the keys {', '.join(known)}, not {data!r}")  # noqa: TRY004  (pydantic's protocol)
        for key in data:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise ValueError(f"unknown key {key!r}; {hint}")
        return data


class Becomes(_Part):
    """The column changed to a value, from a certain one or from any other."""

    column: Identifier
    from_: Scalar = Field(default=None, alias="from")
    to: Scalar

    @model_validator(mode="after")
    def _changes(self) -> "Becomes":
        if self.from_ == self.to:
            raise ValueError("'from' and 'to' are the same value, so nothing would change")
        return self


class Threshold(_Part):
    """The column crossed a number, which is compared with what the database stores."""

    column: Identifier
    value: Number


class Guard(_Part):
    """What must hold besides the change."""

    column: Identifier
    of: Side | None = None
    in_: list[Scalar] | None = Field(default=None, alias="in", min_length=1)
    above: Number = None
    null: Literal[True] | None = None
    not_null: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_test(self) -> "Guard":
        tests = (self.in_, self.above, self.null, self.not_null)
        if sum(test is not None for test in tests) != 1:
            raise ValueError("give one of 'in', 'above', 'null' and 'not_null'")
        return self


class Source(_Part):
    """Where a value comes from: a column before or after the change, or the rule itself."""

    column: Identifier | None = None
    of: Side | None = None
    value: Annotated[Any, AfterValidator(_scalar)] = None

    @model_validator(mode="after")
    def _one_source(self) -> "Source":
        if (self.column is None) == (self.value is None):
            raise ValueError("give either 'column' or 'value'")
        if self.column is None and self.of is not None:
            raise ValueError("'of' goes with 'column'")
        return self

    def resolve(self, side: Row) -> Value:
        """The value for the compiler; ``side`` is the row that a rule means by itself."""
        if self.column is None:
            return Constant(self.value)
        return Column(self.column, self.of or side)


class Environment(Source):
    """The environment of the event: ``i_env = "column"`` for short."""

    @model_validator(mode="after")
    def _number(self) -> "Environment":
        if self.value is not None and (
            isinstance(self.value, bool) or not isinstance(self.value, int)
        ):
            raise ValueError("value: expected the number of an environment")
        return self


class Key(Source):
    """The ordering key ``prefix:value``: events of one key are delivered in order."""

    prefix: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]


class Variable(Source):
    """A variable of the event: ``"column"`` for short."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
    money: bool = False
    null: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Variable":
        sources = (self.column, self.value, self.null)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("give one of 'column', 'value' and 'null'")
        if self.column is None and (self.of is not None or self.money):
            raise ValueError("'of' and 'money' go with 'column'")
        if self.name in RESERVED:
            raise ValueError(f"ESPF adds {self.name!r} to every event itself")
        return self

    def resolve(self, side: Row) -> Value:
        """See Source."""
        if self.column is None:
            return Constant(self.value)
        return Column(self.column, self.of or side, self.money)


def _short_source(data: object) -> object:
    return {"column": data} if isinstance(data, str) else data


def _short_variable(data: object) -> object:
    return {"name": data, "column": data} if isinstance(data, str) else data


class LookupRule(_Part):
    """One row of another table, by equal columns: ``match = { theirs = "ours" }``."""

    table: Place
    match: dict[Identifier, Identifier] = Field(min_length=1)
    of: Row | None = None

    def resolve(self, side: Row) -> Lookup:
        """See Source."""
        return Lookup(self.table, tuple(self.match.items()), self.of or side)


class CaptureRule(_Part):
    """One event: on which change of which table, for whom, with which variables."""

    event: Annotated[str, AfterValidator(_event_type)]
    table: Place
    on: Operation
    changed: list[Identifier] | None = Field(default=None, min_length=1)
    becomes: Becomes | None = None
    rises_above: Threshold | None = None
    falls_to: Threshold | None = None
    where: list[Guard] = Field(default_factory=list)
    lookup: LookupRule | None = None
    i_env: Annotated[Environment, BeforeValidator(_short_source)] = Environment(column="i_env")
    key: Key | None = None
    variables: list[Annotated[Variable, BeforeValidator(_short_variable)]] = Field(
        max_length=MOST_VARIABLES
    )
    #: What the [[table]] of the rule's table says.
    bulk: bool = Field(default=False, exclude=True)

    @model_validator(mode="after")
    def _sense(self) -> "CaptureRule":
        """What one field alone cannot know."""
        tests = [test for test in CHANGES if getattr(self, test) is not None]
        if self.on == "update" and not tests:
            raise ValueError(
                f"an update needs one of {', '.join(CHANGES)}: "
                "an update that changes nothing must emit nothing"
            )
        if self.on != "update" and tests:
            raise ValueError(f"{tests[0]}: only an update changes a column; use 'where'")
        missing = {"insert": "old", "delete": "new"}.get(self.on)
        for field, part in self._parts():
            if part.of is not None and part.of == missing:
                raise ValueError(f"{field}.of: the {self.on} of a row has no {missing} row")
            if part.of == "looked_up" and self.lookup is None:
                raise ValueError(f"{field}.of: the rule has no 'lookup'")
        names = [variable.name for variable in self.variables]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"variables: {name!r} is there twice")
        return self

    def _parts(self) -> Iterator[tuple[str, Guard | Source | LookupRule]]:
        """Everything that reads a row, with the name of its field."""
        yield "i_env", self.i_env
        if self.lookup is not None:
            yield "lookup", self.lookup
        if self.key is not None:
            yield "key", self.key
        yield from ((f"where.{at}", guard) for at, guard in enumerate(self.where, 1))
        yield from ((f"variables.{at}", variable) for at, variable in enumerate(self.variables, 1))

    @property
    def watched(self) -> tuple[str, ...]:
        """The columns without whose change nothing happens; none for an insert or a delete."""
        singles = (self.becomes, self.rises_above, self.falls_to)
        return (*(self.changed or ()), *(single.column for single in singles if single))

    def capture(self) -> Capture:
        """The rule in the words of the compiler."""
        side: Row = "old" if self.on == "delete" else "new"
        variables = tuple((each.name, each.resolve(side)) for each in self.variables)
        prefix, key = self._key(dict(variables), side)
        return Capture(
            event_type=self.event,
            conditions=(*self._changes(), *(_guard(guard, side) for guard in self.where)),
            environment=self.i_env.resolve(side),
            key_prefix=prefix,
            key=key,
            variables=variables,
            lookup=self.lookup.resolve(side) if self.lookup else None,
        )

    def _key(self, variables: dict[str, Value], side: Row) -> tuple[str, Value]:
        """The key that the rule names, or the one that its variables make, as in ``espf.model``."""
        if self.key is not None:
            return self.key.prefix, self.key.resolve(side)
        for name, prefix in KEY_VARIABLES:
            if name in variables and variables[name] != Constant(None):
                return prefix, variables[name]
        return "", Constant(None)

    def _changes(self) -> Iterator[Condition]:
        if self.changed is not None:
            yield Condition("changed", tuple(self.changed))
        if self.becomes is not None:
            becomes = self.becomes
            yield Condition("becomes", (becomes.column,), becomes.to, becomes.from_)
        if self.rises_above is not None:
            yield Condition("rises_above", (self.rises_above.column,), self.rises_above.value)
        if self.falls_to is not None:
            yield Condition("falls_to", (self.falls_to.column,), self.falls_to.value)


class TableRule(_Part):
    """What holds for all rules of a table, which is named as they name it."""

    name: Place
    bulk: bool


#: The fields of a rule that ask for a change.
CHANGES = ("changed", "becomes", "rises_above", "falls_to")


def _guard(guard: Guard, side: Row) -> Condition:
    of: Side = guard.of or side
    columns = (guard.column,)
    if guard.in_ is not None:
        return Condition("is_in", columns, values=tuple(guard.in_), of=of)
    if guard.above is not None:
        return Condition("above", columns, guard.above, of=of)
    return Condition("null" if guard.null else "not_null", columns, of=of)


#: The rule files that come with ESPF, by name.
SHIPPED = ("billing", "a2billing", "astpp")


@cache
def shipped_rules(name: str = "billing") -> tuple[CaptureRule, ...]:
    """The rules that come with ESPF: for the reference billing, or for another system by name."""
    text = (files("espf.capture") / f"{name}.toml").read_text(encoding="utf-8")
    return parse_rules(text, f"{name}.toml")


def chosen_rules(chosen: Path | str | None) -> tuple[CaptureRule, ...]:
    """The rules of a file, or those that come with ESPF under a name; None: the billing's.

    Raises RuleError.
    """
    path = Path(chosen or SHIPPED[0])
    if str(path) in SHIPPED and not path.exists():
        return shipped_rules(str(path))
    return load_rules(path)


def load_rules(path: Path) -> tuple[CaptureRule, ...]:
    """Read a rule file. Raises RuleError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise RuleError(f"{path}: the rule file cannot be read: {error}") from None
    return parse_rules(text, str(path))


def parse_rules(text: str, source: str) -> tuple[CaptureRule, ...]:
    """Read the text of a rule file; ``source`` names it in errors. Raises RuleError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"{source}: this is not TOML: {error}") from None
    unknown = sorted(document.keys() - {"rule", "table"})
    if unknown:
        raise RuleError(f"{source}: unknown key {unknown[0]!r}; a rule begins with [[rule]]")
    entries = document.get("rule")
    if not isinstance(entries, list) or not entries:
        raise RuleError(f"{source}: there is no rule; a rule begins with [[rule]]")
    rules: list[CaptureRule] = []
    numbers: list[int] = []
    for number, entry in enumerate(entries, 1):
        for each in _by_operation(entry):
            rule = _read(CaptureRule, each, f"{source}: rule {number}")
            if rule in rules:
                raise RuleError(
                    f"{source}: rule {number} ({rule.event}): repeats rule "
                    f"{numbers[rules.index(rule)]}; each event would be sent twice"
                )
            rules.append(rule)
            numbers.append(number)
    bulk = _bulk_tables(document.get("table", []), {rule.table for rule in rules}, source)
    return tuple(rule.model_copy(update={"bulk": rule.table in bulk}) for rule in rules)


def _by_operation(entry: object) -> list[object]:
    """One rule for each of the operations in ``on``; only an update has tests for a change."""
    if not isinstance(entry, dict) or not isinstance(entry.get("on"), list) or not entry["on"]:
        return [entry]
    without = {name: value for name, value in entry.items() if name not in CHANGES}
    return [
        {**(entry if operation == "update" else without), "on": operation}
        for operation in entry["on"]
    ]


def _bulk_tables(entries: object, known: AbstractSet[TableName], source: str) -> set[TableName]:
    """The tables of the rules that are written in bulk. Raises RuleError."""
    if not isinstance(entries, list):
        raise RuleError(f"{source}: what holds for a table begins with [[table]]")
    found: dict[TableName, bool] = {}
    for number, entry in enumerate(entries, 1):
        place = f"{source}: table {number}"
        table = _read(TableRule, entry, place)
        if table.name in found:
            raise RuleError(f"{place}: name: {str(table.name)!r} is there twice")
        if table.name not in known:
            raise RuleError(f"{place}: name: no rule is about a table spelt {str(table.name)!r}")
        found[table.name] = table.bulk
    return {name for name, bulk in found.items() if bulk}


_P = TypeVar("_P", bound=_Part)


def _read(kind: type[_P], entry: object, place: str) -> _P:
    """Check one entry; all that is wrong with it goes into one RuleError, a line each."""
    try:
        return kind.model_validate(entry)
    except ValidationError as error:
        event = entry.get("event") if isinstance(entry, dict) else None
        if isinstance(event, str):
            place += f" ({event})"
        complaints = []
        for each in error.errors(include_url=False):
            # Lists are counted from 1, as the rules are.
            field = ".".join(str(at + 1 if isinstance(at, int) else at) for at in each["loc"])
            reason = each["msg"].removeprefix("Value error, ")
            complaints.append(f"{place}: {field}: {reason}" if field else f"{place}: {reason}")
        raise RuleError("\n".join(complaints)) from None
