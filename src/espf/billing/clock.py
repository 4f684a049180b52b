"""The billing clock: what time alone changes. Dates are days of the account's time zone.

An account is usable from its activation date on, and no longer from its expiration date on.
Outside of that its bill_status is I (inactive); inside, O (open). Suspended, exported and closed
accounts are left as they are. A quota ends with its month.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import ColumnElement, Connection, and_, select, update

from espf.billing import addons
from espf.billing.tables import accounts, service_quotas

#: Accounts changed in one transaction: a midnight at which many expire holds nobody up.
BATCH = 500


@dataclass(frozen=True)
class Tick:
    """What one tick changed. ``more``: the batch was full, so tick again at once."""

    activated: int
    expired: int
    addons_begun: int
    addons_ended: int
    quotas_expired: int
    more: bool


def zone(name: str) -> ZoneInfo:
    """The time zone of this name; UTC when another program has stored an unknown one."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


def local_day(moment: datetime, time_zone_name: str) -> date:
    """The day that it is at a moment in a time zone."""
    return moment.astimezone(zone(time_zone_name)).date()


def in_dates(activation: date | None, expiration: date | None, day: date) -> bool:
    """Whether an account with these dates is usable on a day."""
    return (activation is None or activation <= day) and (expiration is None or day < expiration)


def status_by_dates(
    activation: date | None, expiration: date | None, day: date
) -> Literal["O", "I"]:
    """The bill_status that the dates alone would give."""
    return "O" if in_dates(activation, expiration, day) else "I"


def tick(connection: Connection, now: datetime, limit: int = BATCH) -> Tick:
    """Open the accounts whose activation date has come, make the expired ones inactive.

    Add-on products begin and end, quotas end. Changes at most ``limit`` of each sort and reads only
    what is due within a day. Ticking again at the same moment changes nothing.
    """
    expired = _move(connection, now, "O", "I", _ends, limit)
    # Two looks, so that the index finds both sorts without a look at what has expired.
    activated = _move(connection, now, "I", "O", _begins_for_good, limit)
    activated += _move(connection, now, "I", "O", _begins_for_a_while, limit - activated)
    begun, ended = addons.tick(connection, now, limit)
    quotas = _end_quotas(connection, now, limit)
    more = limit in {activated, expired, begun, ended, quotas}
    return Tick(activated, expired, begun, ended, quotas, more=more)


def end_of_month(day: date, time_zone_name: str) -> datetime:
    """The moment at which the month of a day is over in a time zone."""
    following = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
    midnight = datetime.combine(following, time(), zone(time_zone_name))
    return midnight.astimezone(UTC)


def _end_quotas(connection: Connection, now: datetime, limit: int) -> int:
    """Let at most ``limit`` quotas expire whose month is over; return how many."""
    quota = service_quotas.c
    due = (
        select(quota.i_service_quota)
        .where(quota.expired == "N", quota.ends_at <= now)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    keys = list(connection.execute(due).scalars())
    connection.execute(
        update(service_quotas).where(quota.i_service_quota.in_(keys)).values(expired="Y")
    )
    return len(keys)


def _move(
    connection: Connection,
    now: datetime,
    origin: str,
    target: str,
    is_due: Callable[[date, date], ColumnElement[bool]],
    limit: int,
) -> int:
    """Change the bill_status of at most ``limit`` accounts that are due; return how many."""
    today = now.astimezone(UTC).date()
    # Somewhere on Earth it is a day more, somewhere a day less.
    near = is_due(today - timedelta(days=1), today + timedelta(days=1))
    names = connection.execute(
        select(accounts.c.time_zone_name).where(accounts.c.bill_status == origin, near).distinct()
    ).scalars()
    zones = defaultdict(list)
    for name in names:
        zones[local_day(now, name)].append(name)
    moved = 0
    for day, there in zones.items():
        due = connection.execute(
            select(accounts.c.i_account)
            .where(
                accounts.c.bill_status == origin,
                is_due(day, day),
                accounts.c.time_zone_name.in_(there),
            )
            .limit(limit - moved)
            # Somebody else is changing the others; the next tick looks at them again.
            .with_for_update(skip_locked=True, key_share=True)
        ).scalars()
        keys = list(due)
        # Whose status somebody has changed since is left as it is.
        chosen = (accounts.c.i_account.in_(keys), accounts.c.bill_status == origin)
        connection.execute(update(accounts).where(*chosen).values(bill_status=target))
        moved += len(keys)
    return moved


def _ends(_since: date, to: date) -> ColumnElement[bool]:
    return accounts.c.expiration_date <= to


def _begins_for_good(_since: date, to: date) -> ColumnElement[bool]:
    return and_(accounts.c.expiration_date.is_(None), accounts.c.activation_date <= to)


def _begins_for_a_while(since: date, to: date) -> ColumnElement[bool]:
    return and_(accounts.c.expiration_date > since, accounts.c.activation_date <= to)
