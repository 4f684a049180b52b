"""Going through a long table in small steps: where to begin, and how far one has come.

Numbers count up as time passes, and they are what the tables are in order of. So a time is turned
into a number first, and no time needs an index.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, select


@dataclass(frozen=True)
class Progress:
    """A step that is taken: how many rows it was about, and the number to go on after."""

    count: int
    last: int


def first_at(connection: Connection, number: Column[Any], at: Column[Any], moment: datetime) -> int:
    """The number from which on rows are of this time or later.

    Two looks tell where all rows are later, or all are earlier; else it is found by halving: a
    handful of looks into the index of the numbers, however long the table is. Rows without a time
    do not count. Where clocks and numbers disagree a little, it is one of the places that come into
    question.
    """
    timed = select(number.label("number"), at.label("at")).where(at.is_not(None)).limit(1)
    first, last = (
        connection.execute(timed.order_by(order)).one_or_none() for order in (number, number.desc())
    )
    if first is None or last is None:
        return 0
    if first.at >= moment:
        return int(first.number)
    if last.at < moment:
        return int(last.number) + 1
    low, high = first.number + 1, last.number
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(timed.where(number >= middle).order_by(number)).one_or_none()
        # Others may remove rows meanwhile.
        if row is None or row.at >= moment:
            high = middle
        else:
            low = row.number + 1
    return int(low)
