"""What waits and what was: the events of the live tables and of the journal, found and counted.

Step 8 of 8, tell. Only reads. Whoever asks for a page gets it along the indexes of its sources, in
the order of the numbers of events. Where what is wanted is rare on that way, a page ends after so
many rows that were looked at, and says where to go on: so it costs the same however much there is.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Row, select

from espf import journal
from espf.db.database import Database
from espf.db.dialect import to_moment
from espf.db.tables import event_queue
from espf.errors import NotFound
from espf.model import format_time
from espf.sources import (
    LOOK,
    MOST_COUNTED,
    RETRYING,
    Filter,
    Source,
    count_rows,
    done,
    narrowed,
    not_done,
    scheduled,
)

#: More than the handlers that hear of any event.
_ALL_PARTS = 1000

#: Of ``LOOK`` so many rows are looked at first, which nearly always do.
FIRST_LOOK = 1000

#: Lines that are in memory at a time where all are wanted.
LINES = 1000


@dataclass(frozen=True)
class Overview:
    """One line of a list of events: an event and one handler's part in it."""

    i_event: int
    i_env: int | None
    event_type: str | None
    ordering_key: str | None
    handler: str | None
    status: str
    attempts: int
    created_at: datetime | None
    start_time: datetime | None
    next_attempt_at: datetime | None
    reason: str | None


#: The columns of a list as CSV.
CSV_COLUMNS = tuple(each.name for each in fields(Overview))


@dataclass(frozen=True)
class Page:
    """Some lines of a list of events.

    ``newer`` is what to give as ``after`` for the page of newer events, ``older`` as ``before`` for
    the older ones; None: there are none. ``is_short``: so much had to be looked at that the page
    ended before it was full; there may be more on the next one.
    """

    lines: Sequence[Overview]
    newer: int | None
    older: int | None
    is_short: bool


def page(
    connection: Connection,
    wanted: Filter,
    limit: int,
    *,
    oldest_first: bool = False,
    patient: bool = False,
) -> Page:
    """A page of events that fit, live ones and those in the journal, a line per handler.

    The one that follows ``wanted.after`` or comes before ``wanted.before``, else the first in the
    order asked for. All lines of an event are on one page; when one alone has more than fit, the
    page is longer. ``patient``: it is full if there are as many, whatever has to be looked at.
    """
    after, before = wanted.after, wanted.before
    upward = oldest_first if (after is None) == (before is None) else after is not None
    found, end, is_short = _walk(connection, wanted, limit, upward=upward, patient=patient)
    newer, older = (end, None) if upward else (None, end)
    # Beyond where the page began; it began at an end if nobody said where.
    if after is not None and before is None:
        older = after + 1
    if before is not None and after is None:
        newer = before - 1
    return Page(found if upward == oldest_first else found[::-1], newer, older, is_short)


def search(connection: Connection, wanted: Filter, limit: int) -> list[Overview]:
    """The newest events that fit, however far they are from one another; see ``page``."""
    found, _, _ = _walk(connection, wanted, limit, upward=False, patient=True)
    return found


def _walk(
    connection: Connection, wanted: Filter, limit: int, *, upward: bool, patient: bool
) -> tuple[list[Overview], int | None, bool]:
    """See ``_next``."""
    wanted = narrowed(connection, wanted)
    found, end, is_short = _next(connection, wanted, limit, upward=upward)
    while patient and is_short and len(found) < limit:
        wanted = _beyond(wanted, end, upward=upward)
        some, end, is_short = _next(connection, wanted, limit - len(found), upward=upward)
        found += some
    return found, end, is_short


def _beyond(wanted: Filter, end: int | None, *, upward: bool) -> Filter:
    return replace(wanted, after=end) if upward else replace(wanted, before=end)


def lines(
    database: Database, wanted: Filter, *, oldest_first: bool = False
) -> Iterator[list[Overview]]:
    """All events that fit, some at a time, in transactions of their own."""
    with database.read() as connection:
        wanted = narrowed(connection, wanted)
    while True:
        with database.read() as connection:
            some, end, _ = _next(connection, wanted, LINES, upward=oldest_first)
        yield some
        if end is None:
            return
        wanted = _beyond(wanted, end, upward=oldest_first)


@dataclass(frozen=True)
class Count:
    """How many there are; ``is_all`` is False where there are, or may be, more."""

    number: int
    is_all: bool


def count(connection: Connection, wanted: Filter) -> Count:
    """How many lines fit, up to ``MOST_COUNTED``, among as many as a page looks at."""
    few, walks = _places(connection, narrowed(connection, wanted))
    ends, end = _reach(connection, walks, LOOK, upward=False)
    if ends > 1:
        _, end = _reach(connection, walks, max(FIRST_LOOK, LOOK // ends), upward=False)
    queries = [one for source in few for one in source.shortest]
    number = 0
    for query in chain(queries, (walk.within(end, upward=False) for walk in walks)):
        number += count_rows(connection, query.limit(MOST_COUNTED + 1 - number))
        if number > MOST_COUNTED:
            return Count(MOST_COUNTED, is_all=False)
    return Count(number, is_all=end is None)


@dataclass(frozen=True)
class Story:
    """All that is known of an event.

    ``parts`` is where each handler stands with it, ``attempts`` all that was tried, ``variables``
    JSON text.
    """

    parts: Sequence[Overview]
    attempts: Sequence[journal.Entry]
    variables: str | None


def require(connection: Connection, i_event: int, i_env: int) -> None:
    """Raise NotFound when there is no such event in the environment."""
    if not search(connection, Filter(i_event=i_event, i_env=i_env), 1):
        raise NotFound(f"there is no event {i_event}")


def story(connection: Connection, i_event: int, i_env: int | None = None) -> Story:
    """What became of one event. Raises NotFound when it is not there, or not in ``i_env``."""
    parts = search(connection, Filter(i_event=i_event, i_env=i_env), _ALL_PARTS)
    if not parts:
        raise NotFound(f"there is no event {i_event}")
    return Story(parts, journal.of_event(connection, i_event), variables(connection, i_event))


def to_csv(found: Iterable[Overview], *, head: bool = False) -> str:
    """Lines as CSV, as RFC 4180 has it; ``head``: with the names of the columns before them."""
    text = io.StringIO()
    writer = csv.writer(text)
    if head:
        writer.writerow(CSV_COLUMNS)
    writer.writerows([_cell(getattr(one, name)) for name in CSV_COLUMNS] for one in found)
    return text.getvalue()


def variables(connection: Connection, i_event: int) -> str | None:
    """The variables of an event as JSON text, wherever it is now; None: no such event."""
    payload: str | None = connection.execute(
        select(event_queue.c.variables).where(event_queue.c.i_event == i_event)
    ).scalar_one_or_none()
    if payload is not None:
        return payload
    entries = journal.of_event(connection, i_event)
    return entries[-1].variables if entries else None


# What makes a spreadsheet take a text for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _places(connection: Connection, wanted: Filter) -> tuple[list[Source], list[Source]]:
    """Where to look: sources of few rows, and others that are gone through in order."""
    few: list[Source] = []
    walks: list[Source] = []
    for source in chain(
        not_done(connection, wanted), scheduled(connection, wanted), done(connection, wanted)
    ):
        walk = source.in_order(connection)
        if walk is None:
            few.append(source)
        else:
            walks.append(walk)
    return few, walks


def _next(
    connection: Connection, wanted: Filter, limit: int, *, upward: bool
) -> tuple[list[Overview], int | None, bool]:
    """The next ones on the way, where to go on, and whether there was too much to look at."""
    rows, end = _look_through(connection, wanted, limit, upward=upward)
    is_short = end is not None and len(rows) <= limit
    if len(rows) > limit:
        # Of the last event there may be more than was read.
        last = rows[limit].i_event
        whole = [row for row in rows[:limit] if row.i_event != last]
        if not whole:
            one = replace(wanted, i_event=last)
            whole, _ = _look_through(connection, one, limit + _ALL_PARTS, upward=upward)
        rows, end = whole, whole[-1].i_event
    return [_overview(row) for row in rows], end, is_short


def _look_through(
    connection: Connection, wanted: Filter, limit: int, *, upward: bool
) -> tuple[list[Row[Any]], int | None]:
    """One more than so many rows, in order, if there are; up to which number all was looked at."""
    few, walks = _places(connection, wanted)
    beside = [row for one in few for row in one.first_of_few(connection, limit + 1, upward=upward)]

    def look(rows: int) -> tuple[list[Row[Any]], int, int | None]:
        ends, end = _reach(connection, walks, rows, upward=upward)
        found = [
            row
            for row in beside
            if end is None or row.i_event == end or (row.i_event < end) == upward
        ]
        for walk in walks:
            found += walk.first(connection, limit + 1, upward=upward, upto=end)
        return found, ends, end

    found, ends, end = look(FIRST_LOOK)
    if end is not None and len(found) <= limit:
        found, _, end = look(max(2 * FIRST_LOOK, LOOK // ends))
    found.sort(key=lambda row: row.i_event, reverse=not upward)
    return found, end


def _reach(
    connection: Connection, walks: Sequence[Source], look: int, *, upward: bool
) -> tuple[int, int | None]:
    """How many ways go on after so many rows, and how far all was looked at; None: to the end."""
    reached = (walk.reach(connection, look, upward=upward) for walk in walks)
    ends = [end for end in reached if end is not None]
    if not ends:
        return 0, None
    return len(ends), min(ends) if upward else max(ends)


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _overview(row: Row[Any]) -> Overview:
    return Overview(
        i_event=row.i_event,
        i_env=row.i_env,
        event_type=row.event_type,
        ordering_key=row.ordering_key,
        handler=row.handler,
        status=row.status,
        attempts=row.attempts,
        created_at=row.created_at,
        start_time=row.start_time,
        next_attempt_at=to_moment(row.next_attempt_at) if row.status == RETRYING else None,
        reason=row.reason,
    )
