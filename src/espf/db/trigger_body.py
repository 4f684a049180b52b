"""What the bodies of triggers have in common where columns have types: PostgreSQL and MariaDB.

The tests of a rule are the same sentences in both; how a column is compared is each one's own.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from espf.db.trigger import (
    Capture,
    ColumnType,
    Condition,
    Constant,
    Kind,
    Lookup,
    Scalar,
    Side,
    Tables,
    Trigger,
    Value,
)

#: Tests that hold only when a column changes.
_CHANGES = frozenset({"changed", "becomes", "falls_to", "rises_above"})


@dataclass(frozen=True)
class Group:
    """Captures in a row that all wait for one of the same columns to change; none: for nothing."""

    awaited: tuple[str, ...]
    captures: tuple[Capture, ...]

    def rest(self, capture: Capture) -> list[Condition]:
        """The tests of one of them that are left when one of the columns has changed."""
        return [each for each in capture.conditions if each != Condition("changed", self.awaited)]


class TypedBody(ABC):
    """The body of one trigger."""

    def __init__(self, trigger: Trigger, tables: Tables) -> None:
        self._trigger = trigger
        self._tables = tables
        self._columns = tables[trigger.table].columns

    @abstractmethod
    def _quoted(self, name: str) -> str:
        """A name as an identifier."""

    @abstractmethod
    def _literal(self, value: Scalar | None) -> str:
        """A value as it is written in a statement."""

    @abstractmethod
    def _constant(self, value: Scalar | None, kind: Kind) -> str:
        """A constant as a column of this kind is compared with it."""

    @abstractmethod
    def _compared(self, capture: Capture, of: Side, name: str) -> str:
        """A column in the form in which it is compared with a constant."""

    @abstractmethod
    def _differs(self, name: str) -> str:
        """Whether a column changed; a change of case is one, whatever the database compares by."""

    @abstractmethod
    def _is_not(self, compared: str, constant: str) -> str:
        """Whether a column holds something else than a constant, or nothing."""

    @abstractmethod
    def _looked_up(self, lookup: Lookup, name: str) -> str:
        """A column of the row that a look-up finds, or NULL."""

    def _groups(self) -> Iterator[Group]:
        """All captures, in their order."""
        for awaited, captures in groupby(self._trigger.captures, _awaited):
            yield Group(awaited, tuple(captures))

    def _condition(self, capture: Capture, condition: Condition) -> str:
        """One test as an expression that is never an error, whatever the columns hold."""
        if condition.test == "changed":
            return f"({' OR '.join(map(self._differs, condition.columns))})"
        name = condition.columns[0]
        kind = self._type(capture, condition.of, name).kind
        here = self._compared(capture, condition.of, name)
        value = self._constant(condition.value, kind)
        match condition.test:
            case "null" | "not_null":
                return f"{here} IS {'NOT ' if condition.test == 'not_null' else ''}NULL"
            case "above":
                return f"{here} > {value}"
            case "is_in":
                among = ", ".join(self._constant(each, kind) for each in condition.values)
                return f"{here} IN ({among})"
        old = self._compared(capture, "old", name)
        if condition.test == "becomes":
            was = self._is_not(old, value)
            if condition.origin is not None:
                was = f"{old} = {self._constant(condition.origin, kind)}"
            return f"{here} = {value} AND {was}"
        crossing = ("<=", ">") if condition.test == "rises_above" else (">", "<=")
        return f"{old} {crossing[0]} {value} AND {here} {crossing[1]} {value}"

    def _value(self, capture: Capture, value: Value) -> str:
        if isinstance(value, Constant):
            return self._literal(value.value)
        return self._reference(capture, value.of, value.name)

    def _reference(self, capture: Capture, of: Side, name: str) -> str:
        if of == "looked_up":
            assert capture.lookup is not None
            return self._looked_up(capture.lookup, name)
        return f"{of.upper()}.{self._quoted(name)}"

    def _type(self, capture: Capture, of: Side, name: str) -> ColumnType:
        if of == "looked_up" and capture.lookup is not None:
            return self._tables[capture.lookup.table].columns[name]
        return self._columns[name]


def _awaited(capture: Capture) -> tuple[str, ...]:
    """The columns of which one has to change for this event."""
    tests = (each for each in capture.conditions if each.test in _CHANGES)
    return tuple(dict.fromkeys(column for each in tests for column in each.columns))
