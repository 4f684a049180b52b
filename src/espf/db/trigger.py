"""What a trigger is made of, before a database's own words are found for it.

The rules (``espf.capture``) say which change is which event; here that is said as plain values,
and one renderer per database turns them into DDL.
"""

from dataclasses import dataclass
from typing import Literal

Operation = Literal["insert", "update", "delete"]


@dataclass(frozen=True)
class Column:
    """A column of the row that fired the trigger, before (``old``) or after (``new``) the change.

    ``money`` columns hold an amount of money and are rendered as a JSON number.
    """

    name: str
    of: Literal["old", "new"] = "new"
    money: bool = False


@dataclass(frozen=True)
class Constant:
    """A value that does not depend on the row."""

    value: str | int | float | bool | None


Value = Column | Constant


@dataclass(frozen=True)
class Condition:
    """One test on the changed row; a capture happens when all tests of its rule hold.

    ``changed``      any of ``columns`` differs (NULL-safe)
    ``becomes``      the first column changed to ``value`` (from ``origin``, if given)
    ``falls_to``     the column was above ``value`` and no longer is
    ``rises_above``  the column was at or below ``value`` and no longer is
    ``is_in``        the column (``of`` old or new) holds one of ``values``
    ``above``        the column (``of`` old or new) holds more than ``value``
    ``not_null``     the column (``of`` old or new) holds something

    A comparison with an empty column never holds.
    """

    test: Literal["changed", "becomes", "falls_to", "rises_above", "is_in", "above", "not_null"]
    columns: tuple[str, ...]
    value: str | int | float | None = None
    origin: str | int | float | None = None
    values: tuple[str | int, ...] = ()
    of: Literal["old", "new"] = "new"


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

    @property
    def columns(self) -> frozenset[str]:
        """Every column of the table that the capture reads."""
        values = (self.environment, self.key, *(value for _name, value in self.variables))
        return frozenset(
            [name for condition in self.conditions for name in condition.columns]
            + [value.name for value in values if isinstance(value, Column)]
        )


@dataclass(frozen=True)
class Trigger:
    """All captures of one table and operation, in the order in which their events are emitted.

    ``watched`` columns let the trigger be left at once when none of them changed; empty means
    that the operation itself is the change (insert, delete).
    """

    table: str
    operation: Operation
    watched: tuple[str, ...]
    captures: tuple[Capture, ...]
