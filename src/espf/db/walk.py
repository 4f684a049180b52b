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

    Found by halving: a handful of looks into the index of the numbers, however long the table is.
    Rows without a time do not count. Where clocks and numbers disagree a little, it is one of the
    places that come into question.
    """
    low, high = (
        connection.execute(select(number).order_by(order).limit(1)).scalar_one_or_none() or 0
        for order in (number, number.desc())
    )
    high += 1
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            select(number.label("number"), at.label("at"))
            .where(number >= middle, at.is_not(None))
            .order_by(number)
            .limit(1)
        ).one_or_none()
        if row is None or row.at >= moment:
            high = middle
        else:
            low = row.number + 1
    return int(low)
