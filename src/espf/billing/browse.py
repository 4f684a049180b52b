"""Long lists a leaf at a time, along an index: the last of a million rows costs as the first.

A leaf is found by where it begins or ends, never by how many rows are before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, Row, Select, Table, select

from espf.billing.scope import Scope

T = TypeVar("T")

#: Behind every text that begins alike.
_LAST = "\U0010ffff"


@dataclass(frozen=True)
class Leaf:
    """Which rows: at most ``limit`` behind ``after``, or before ``before``, in the list's order.

    Both are values of the column that orders the list. ``beginning``: how its texts begin.
    """

    beginning: str = ""
    after: Any = None
    before: Any = None
    descending: bool = False
    limit: int = 50


@dataclass(frozen=True)
class Found(Generic[T]):
    """The rows of a leaf, in order, and whether there are others on either side."""

    rows: Sequence[T]
    has_earlier: bool
    has_later: bool


def numbers(
    scope: Scope, order: Column[Any], leaf: Leaf, *conditions: ColumnElement[bool]
) -> Found[int]:
    """The primary keys of a leaf of the environment's rows that meet the conditions.

    The table needs an index of ``i_env``, of what the conditions compare, and of ``order``, which
    must be unique among what they leave.
    """
    table = order.table
    assert isinstance(table, Table)
    (key,) = table.primary_key
    back = leaf.before is not None
    query = select(key).where(table.c.i_env == scope.i_env, *conditions, *_bounds(order, leaf))
    direction = order.desc() if leaf.descending != back else order.asc()
    found = list(
        scope.connection.execute(query.order_by(direction).limit(leaf.limit + 1)).scalars()
    )
    more, rows = len(found) > leaf.limit, found[: leaf.limit]
    if back:
        return Found(rows[::-1], has_earlier=more, has_later=True)
    return Found(rows, has_earlier=leaf.after is not None, has_later=more)


def rows_of(
    scope: Scope, query: Select[Any], key: Column[int], found: Found[int]
) -> Found[Row[Any]]:
    """The rows of a query that have these keys, in their order.

    The query has no condition of its own: a database might go along that one's index instead.
    """
    there = scope.connection.execute(query.where(key.in_(found.rows))) if found.rows else ()
    by_key = {getattr(row, key.name): row for row in there}
    rows = [by_key[number] for number in found.rows if number in by_key]
    return Found(rows, found.has_earlier, found.has_later)


def _bounds(order: Column[Any], leaf: Leaf) -> list[ColumnElement[bool]]:
    bounds: list[ColumnElement[bool]] = []
    if leaf.beginning:
        bounds += [order >= leaf.beginning, order < leaf.beginning + _LAST]
    if leaf.after is not None:
        bounds.append(order < leaf.after if leaf.descending else order > leaf.after)
    if leaf.before is not None:
        bounds.append(order > leaf.before if leaf.descending else order < leaf.before)
    return bounds
