"""What a trigger is made of, and what a database must be able to do with it.

The rules (``espf.capture``) say which change is which event; here that is said as plain values.
One ``TriggerMaker`` per database knows that database's tables and words: it finds the table that a
rule means, and turns the values into DDL.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sqlalchemy import Connection

Operation = Literal["insert", "update", "delete"]

#: The row that a column is read from: before or after the change, or the one that was looked up.
Side = Literal["old", "new", "looked_up"]

#: What a column holds, as far as the databases agree about it. ``any``: the value decides.
Kind = Literal["integer", "decimal", "float", "boolean", "text", "time", "binary", "any"]

#: Characters of a text that a trigger copies into a variable; then it puts an ellipsis.
LONGEST_VARIABLE = 4000


@dataclass(frozen=True, order=True)
class TableName:
    """The name of a table; without a schema it is looked for where the billing's tables are."""

    name: str
    schema: str | None = None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True)
class ColumnType:
    """A column's type: our word for it, the database's, and the order of its texts."""

    kind: Kind
    native: str = ""
    collation: str | None = None


@dataclass(frozen=True)
class Table:
    """A table as the database has it; ``name`` is exact and complete.

    ``made_from`` is told by SQLite: for each generated column, the columns that may change it.
    ``one_by_one`` says why changes of many rows cannot be captured together, where that is so.
    """

    name: TableName
    columns: Mapping[str, ColumnType]
    primary_key: tuple[str, ...] = ()
    made_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    one_by_one: str | None = None


@dataclass(frozen=True)
class Relation:
    """Something in the database that has a name of its own, and why it cannot be captured."""

    name: TableName
    obstacle: str | None = None


@dataclass(frozen=True)
class Column:
    """A column of the row that fired the trigger, or of the row that was looked up.

    ``money`` columns hold an amount of money and are rendered as a JSON number.
    """

    name: str
    of: Side = "new"
    money: bool = False


@dataclass(frozen=True)
class Constant:
    """A value that does not depend on the row."""

    value: str | int | float | bool | None


Value = Column | Constant

#: What a rule may compare a column with.
Scalar = str | int | float | bool


@dataclass(frozen=True)
class Lookup:
    """One row of another table: the one whose columns equal columns of the changed row.

    ``match`` holds pairs (column of the other table, column of this one). No such row: all its
    columns are empty; several: one of them.
    """

    table: TableName
    match: tuple[tuple[str, str], ...]
    of: Literal["old", "new"] = "new"


@dataclass(frozen=True)
class Condition:
    """One test on the changed row; a capture happens when all tests of its rule hold.

    ``changed``      any of ``columns`` differs (NULL-safe)
    ``becomes``      the first column changed to ``value`` (from ``origin``, if given)
    ``falls_to``     the column was above ``value`` and no longer is
    ``rises_above``  the column was at or below ``value`` and no longer is
    ``is_in``        the column (of the row ``of``) holds one of ``values``
    ``above``        the column (of the row ``of``) holds more than ``value``
    ``null``         the column (of the row ``of``) is empty
    ``not_null``     the column (of the row ``of``) holds something

    A comparison with an empty column never holds.
    """

    test: Literal[
        "changed", "becomes", "falls_to", "rises_above", "is_in", "above", "null", "not_null"
    ]
    columns: tuple[str, ...]
    value: Scalar | None = None
    origin: Scalar | None = None
    values: tuple[Scalar, ...] = ()
    of: Side = "new"

    @property
    def constants(self) -> tuple[Scalar, ...]:
        """What the column is compared with."""
        return tuple(each for each in (self.value, self.origin, *self.values) if each is not None)


@dataclass(frozen=True)
class Capture:
    """One event that a trigger emits: when, of what type, for whom, with which variables.

    The ordering key is ``key_prefix:key``, and empty where ``key`` is. The trigger adds ``i_env``
    before the variables and ``event_time`` after them.
    """

    event_type: str
    conditions: tuple[Condition, ...]
    environment: Value
    key_prefix: str
    key: Value
    variables: tuple[tuple[str, Value], ...]
    lookup: Lookup | None = None

    @property
    def values(self) -> tuple[Value, ...]:
        """Every value that the event is made of."""
        return (self.environment, self.key, *(value for _name, value in self.variables))


@dataclass(frozen=True)
class Trigger:
    """All captures of one table and operation, in the order in which their events are emitted.

    ``watched`` columns let the trigger be left at once when none of them changed; empty means
    that the operation itself is the change (insert, delete). ``bulk``: most statements change many
    rows, so that all changes of a statement are to be captured together, where that is quicker.
    """

    table: TableName
    operation: Operation
    watched: tuple[str, ...]
    captures: tuple[Capture, ...]
    bulk: bool = False


#: The tables that the rules name, as the database has them.
Tables = Mapping[TableName, Table]


@dataclass(frozen=True)
class Compiled:
    """A trigger as DDL.

    ``text`` is what ``installed`` gives for it once it is there. The ``statements`` put it in
    place of an older one of the same name.
    """

    name: str
    text: str
    statements: tuple[str, ...]


class TriggerMaker(ABC):
    """The secret of one database's triggers.

    ``home`` is the schema (or, on MariaDB, the database) of ESPF's own tables, ``billing`` the one
    of tables that a rule names without one; both are empty where there is only one for all.
    """

    #: Whether a change of triggers is undone by a rollback.
    transactional: ClassVar[bool] = True

    #: Whether a trigger for bulk statements is another one.
    knows_bulk: ClassVar[bool] = False

    #: Bytes of a name that the database keeps.
    longest_name: ClassVar[int] = 63

    def __init__(self, home: str = "", billing: str = "") -> None:
        self.home = home
        self.billing = billing

    @abstractmethod
    def relations(self, connection: Connection, schema: str | None, name: str) -> list[Relation]:
        """What has this name, in capitals or not, where the billing's tables are looked for.

        What comes first is found first.
        """

    @abstractmethod
    def describe(self, connection: Connection, name: TableName) -> Table:
        """The columns of a table that is there."""

    @abstractmethod
    def render(self, trigger: Trigger, tables: Tables) -> Compiled:
        """Compile a trigger whose names are exact. ``tables`` has its table and the looked-up."""

    @abstractmethod
    def installed(self, connection: Connection) -> Mapping[str, str]:
        """The triggers of ESPF in the database: name -> text."""

    @abstractmethod
    def drop(self, name: str) -> str:
        """The statement that removes an installed trigger, and all that was made for it."""

    @contextmanager
    def changing(self, connection: Connection) -> Iterator[None]:  # noqa: ARG002  (others need it)
        """Set the connection up to change triggers, on tables that are being written.

        At the end it is as it was before, and in a transaction.
        """
        yield

    @abstractmethod
    def script(
        self, connection: Connection, compiled: Sequence[Compiled], unwanted: Sequence[str]
    ) -> str:
        """A script for the database's own shell that drops the unwanted and makes the others.

        Whoever runs it, the triggers have the rights of the account that is connected.
        """

    def trigger_name(self, table: TableName, operation: Operation) -> str:
        """``espf_<table>_<operation>``, cut to what the database keeps and still unique."""
        whole = f"espf_{table}_{operation}"
        if len(whole.encode()) <= self.longest_name:
            return whole
        digest = hashlib.sha256(whole.encode()).hexdigest()[:12]
        room = self.longest_name - len(f"_{operation}_{digest}")
        return f"{whole.encode()[:room].decode(errors='ignore')}_{operation}_{digest}"
