"""Lists: what is shown of many things, chosen, sorted and paged by the parameters of the address.

A list is its address: it can be shared, and fetched as CSV with ``format=csv``.
"""

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from fastapi.responses import Response, StreamingResponse

from espf.errors import InvalidRequest
from espf.model import format_time
from espf.web.pages.visit import Visit

R = TypeVar("R")

PAGE_SIZES = (25, 50, 100, 200)


@dataclass(frozen=True)
class Column(Generic[R]):
    """A column: its name in the address and in CSV, its title, and what a row has there.

    ``number``: figures stand below one another, and the title above them.
    """

    name: str
    title: str
    value: Callable[[R], Any]
    sortable: bool = True
    number: bool = False


@dataclass(frozen=True)
class Listing(Generic[R]):
    """A page of a list, for a template.

    ``total`` is how many fit in all, where that is known; ``older`` and ``newer`` are the
    addresses of the neighbouring pages.
    """

    visit: Visit
    columns: Sequence[Column[R]]
    rows: Sequence[R]
    sort: str
    total: int | None = None
    older: str | None = None
    newer: str | None = None

    def sort_path(self, column: Column[R]) -> str:
        """The address that sorts by a column; by the same one again, the other way round."""
        turned = f"-{column.name}" if self.sort == column.name else column.name
        return self.visit.here(sort=turned, page=None)

    def order_of(self, column: Column[R]) -> str:
        """How the list is sorted by a column, in the words of ``aria-sort``."""
        if self.sort.removeprefix("-") != column.name:
            return "none"
        return "descending" if self.sort.startswith("-") else "ascending"

    @property
    def csv_path(self) -> str:
        """The address of all that fits, as CSV."""
        return self.visit.here(format="csv", page=None)


def parameter(visit: Visit, name: str, default: str = "") -> str:
    """A parameter of the address, blanks at the ends removed."""
    return visit.request.query_params.get(name, default).strip()


def number(visit: Visit, name: str, default: int, *, most: int = 10**9) -> int:
    """A parameter that must be a whole number from 1 up. Raises InvalidRequest."""
    text = parameter(visit, name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= most:
        raise InvalidRequest(f"{name}: a number from 1 to {most:,} is expected", name)
    return int(text)


def wants_csv(visit: Visit) -> bool:
    """Whether the address asks for CSV."""
    return parameter(visit, "format") == "csv"


def of(visit: Visit, columns: Sequence[Column[R]], rows: Iterable[R], *, sort: str) -> Listing[R]:
    """A page of rows that are all at hand.

    ``q`` in the address chooses those that have its text in some column, ``sort`` orders them,
    ``page`` and ``size`` cut a page out. ``sort`` here is the order where none is asked for.
    """
    wanted = parameter(visit, "q").casefold()
    chosen = [
        row
        for row in rows
        if not wanted or any(wanted in text_of(c.value(row)).casefold() for c in columns)
    ]
    order = parameter(visit, "sort", sort)
    by = {column.name: column for column in columns if column.sortable}.get(order.removeprefix("-"))
    if by is None:
        raise InvalidRequest(f"sort: {order!r} is no column of this list", "sort")
    value = by.value
    chosen.sort(key=lambda row: _sortable(value(row)), reverse=order.startswith("-"))
    size = len(chosen) or 1 if wants_csv(visit) else number(visit, "size", 50, most=200)
    page = number(visit, "page", 1)
    first = (page - 1) * size
    return Listing(
        visit,
        columns,
        chosen[first : first + size],
        order,
        len(chosen),
        older=visit.here(page=page + 1) if first + size < len(chosen) else None,
        newer=visit.here(page=page - 1) if page > 1 else None,
    )


def as_csv(name: str, columns: Sequence[Column[R]], rows: Iterable[R]) -> Response:
    """Rows as a CSV file."""
    text = "".join(_lines(columns, rows))
    return Response(text, media_type="text/csv; charset=utf-8", headers=_attached(name))


def stream_csv(
    name: str, columns: Sequence[Column[R]], batches: AsyncIterator[Sequence[R]]
) -> StreamingResponse:
    """Rows as a CSV file, however many: a batch at a time is in memory."""

    async def lines() -> AsyncIterator[str]:
        for line in _lines(columns, ()):
            yield line
        async for batch in batches:
            for line in list(_lines(columns, batch))[1:]:
                yield line

    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=_attached(name))


def text_of(value: object) -> str:
    """A value as CSV has it, and as it is searched."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return format_time(value)
        case _:
            return str(value)


def _lines(columns: Sequence[Column[R]], rows: Iterable[R]) -> Iterable[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    for row in [None, *rows]:
        cells = (
            [column.name for column in columns]
            if row is None
            else [_harmless(text_of(column.value(row))) for column in columns]
        )
        writer.writerow(cells)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _harmless(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _sortable(value: object) -> tuple[int, Any]:
    """A key that compares: nothing first, numbers by size, texts without regard to capitals."""
    match value:
        case None:
            return 0, ""
        case bool() | int() | float():
            return 1, float(value)
        case _:
            return 2, text_of(value).casefold()


def _attached(name: str) -> dict[str, str]:
    return {
        "Content-Disposition": f'attachment; filename="{name}.csv"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
