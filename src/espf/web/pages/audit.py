"""Administration > Audit log: who did what, when, and what it was before."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from espf import audit
from espf.audit import Entry, Wanted
from espf.errors import InvalidRequest
from espf.model import compact, parse_time
from espf.users import ADMINISTER
from espf.web.pages import listing
from espf.web.pages.listing import Column, Listing
from espf.web.pages.visit import Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/audit")

COLUMNS: Sequence[Column[Entry]] = (
    Column("happened_at", "When", lambda one: one.happened_at, sortable=False),
    Column("login", "Who", lambda one: one.actor.login, sortable=False),
    Column("door", "By", lambda one: one.actor.door, sortable=False),
    Column("action", "What", lambda one: one.action, sortable=False),
    Column("subject", "Of", lambda one: one.subject, sortable=False),
    Column("before", "Before", lambda one: compact(one.before), sortable=False),
    Column("after", "After", lambda one: compact(one.after), sortable=False),
)

#: Lines of one CSV file; older ones are reached by the time.
MOST = 50_000


@pages.get("")
async def show(visit: Annotated[Visit, Depends(Visitor(ADMINISTER))]) -> Response:
    """The newest lines that fit. A superuser sees those of the whole installation with ``all``."""
    size = listing.number(visit, "size", 50, most=200)
    wanted = _wanted(visit)
    if listing.wants_csv(visit):
        rows = await visit.fetch(audit.search, wanted, MOST)
        return listing.as_csv("audit", COLUMNS, rows)
    found = await visit.fetch(audit.page, wanted, size)
    page = Listing(
        visit,
        COLUMNS,
        found.entries,
        "",
        older=None if found.older is None else visit.here(before=found.older),
        newer=visit.here(before=None) if wanted.before else None,
    )
    return visit.page("audit/list.html", listing=page, is_short=found.is_short)


def _wanted(visit: Visit) -> Wanted:
    everything = visit.user.superuser and listing.parameter(visit, "all") == "yes"
    times = {}
    for name in ("since", "until"):
        text = listing.parameter(visit, name).replace("T", " ")
        try:
            # What a browser's field for times sends has no seconds.
            times[name] = parse_time(f"{text}:00" if len(text) == 16 else text) if text else None
        except ValueError as error:
            raise InvalidRequest(f"{name}: {error}", name) from None
    return Wanted(
        i_env=None if everything else visit.i_env,
        login=listing.parameter(visit, "login") or None,
        text=listing.parameter(visit, "q") or None,
        before=listing.number(visit, "before", 0, most=2**62) or None,
        **times,
    )
