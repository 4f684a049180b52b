"""Usage of services and the monthly quotas that it is counted against.

The month is that of the network's own time stamp, in the account's time zone. Its first
authorisation allocates the product's monthly amount, if the account may use services and has
funds. What is used above the allocated and topped up amount makes the quota exceeded: the service
is blocked for the rest of the month, or until a top-up covers what was used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from espf.billing import active_sessions, clock, services
from espf.billing.columns import SUBORDINATE
from espf.billing.fields import Key, Params, Service, SessionId, SomeUnits, Time
from espf.billing.scope import Result, Scope
from espf.billing.tables import (
    accounts,
    customers,
    discount_plans,
    product_quotas,
    products,
    service_quotas,
)
from espf.errors import BillingFault

#: No counter gets beyond this, so that the sum of two always fits an integer of 64 bits.
MAX_UNITS = 10**18


class Usage(Params):
    """What is used, and by whom. ``event_time`` is the network's time stamp; default: now."""

    i_account: Key
    service: Service
    event_time: Time | None = None


class Authorise(Usage):
    """Parameters of authorise. A ``session_id`` makes it known that a session begins."""

    session_id: SessionId | None = None


class Record(Authorise):
    """Parameters of record: so many bytes or pieces, of a session if one is named."""

    amount: SomeUnits


class TopUp(Usage):
    """Parameters of top_up: so many bytes or pieces."""

    amount: SomeUnits


class OfAccount(Params):
    """Parameters of get_full_vd_counter_info."""

    i_account: Key


@dataclass(frozen=True)
class _Quota:
    """One account's quota of a service in a month; ``key`` is None while there is no row."""

    key: int | None = None
    allocated: int | None = None
    topped_up: int = 0
    used: int = 0
    first_used_at: datetime | None = None
    last_used_at: datetime | None = None

    @property
    def remaining(self) -> int:
        return max(0, (self.allocated or 0) + self.topped_up - self.used)

    @property
    def exceeded(self) -> bool:
        return self.used > (self.allocated or 0) + self.topped_up


@dataclass(frozen=True)
class _Case:
    """A request seen together with its account, the month's quota and the product's amount."""

    account: Row[Any]
    service: str
    day: date
    quota: _Quota
    monthly_amount: int | None

    @property
    def month(self) -> str:
        return f"{self.day:%Y-%m}"

    @property
    def included(self) -> bool:
        return self.monthly_amount is not None or self.quota.key is not None


def authorise(scope: Scope, params: Authorise) -> Result:
    """Say whether an account may use a service now, and how much of it is left.

    A refusal is an answer, not a fault, and gives its reason: ``account_closed``,
    ``account_suspended``, ``account_inactive``, ``account_blocked``, ``customer_inactive``,
    ``customer_blocked``, ``not_yet_active``, ``expired``, ``service_not_included``,
    ``no_available_funds`` or ``quota_exceeded``.
    """
    case = _case(scope, params)
    quota = case.quota
    reason = _barred(case)
    if reason is None:
        quota = _allocated(scope, case)
        reason = _shortage(case, quota)
    if reason is not None:
        return {"authorised": "N", "reason": reason, "remaining": quota.remaining}
    _note_session(scope, params)
    return {"authorised": "Y", "remaining": quota.remaining}


def record(scope: Scope, params: Record) -> Result:
    """Count what has been used, whatever the account's state: it has happened.

    Usage without an authorisation, as of a session that runs into a new month, allocates the quota
    if an authorisation would. Raises the fault ``Server.Usage.service_not_included``.
    """
    case = _case(scope, params)
    _require_included(case)
    quota = case.quota if _barred(case) else _allocated(scope, case)
    at = params.event_time or scope.now
    times = {
        "first_used_at": min(quota.first_used_at or at, at),
        "last_used_at": max(quota.last_used_at or at, at),
    }
    answer = _counted(scope, case, quota, {"used": quota.used + params.amount}, times)
    _note_session(scope, params, params.amount)
    return answer


def top_up(scope: Scope, params: TopUp) -> Result:
    """Add to the month's service wallet, which needs no funds.

    Raises the faults ``Server.Account.closed`` and ``Server.Usage.service_not_included``.
    """
    case = _case(scope, params)
    _require_included(case)
    if case.account.bill_status == "C":
        raise BillingFault("Server.Account.closed", "the account is closed")
    return _counted(scope, case, case.quota, {"topped_up": case.quota.topped_up + params.amount})


def _note_session(scope: Scope, params: Authorise, used: int = 0) -> None:
    if params.session_id is not None:
        session = active_sessions.OneSession(
            i_account=params.i_account, service=params.service, session_id=params.session_id
        )
        active_sessions.heard_of(scope, session, params.event_time or scope.now, used)


def usage_times(scope: Scope, account: Row[Any]) -> Result:
    """When an account was used first and last, and the days for which it has not been used."""
    zone = account.time_zone_name
    mine = service_quotas.c.i_account == account.i_account
    first, last = scope.connection.execute(
        select(
            func.min(service_quotas.c.first_used_at), func.max(service_quotas.c.last_used_at)
        ).where(mine)
    ).one()
    since = clock.local_day(last or account.issue_date, zone)
    idle: timedelta = clock.local_day(scope.now, zone) - since
    return {
        "first_usage": first and clock.local_day(first, zone),
        "first_usage_time": first,
        "last_usage": last,
        "idle_days": max(0, idle.days),
    }


def included_services(scope: Scope, i_product: int) -> list[Result]:
    """The services that a product gives, and how much of each in a month."""
    rows = scope.connection.execute(
        select(product_quotas)
        .where(product_quotas.c.i_product == i_product)
        .order_by(product_quotas.c.service)
    )
    numbers = services.numbers(scope)
    return [
        {
            "i_service": numbers.get(row.service),
            "name": row.service,
            "unit": services.unit_of(row.service),
            "monthly_amount": row.monthly_amount,
        }
        for row in rows
    ]


def of_month(scope: Scope, i_account: int, time_zone_name: str) -> list[Result]:
    """The quotas of an account in the current month, by service."""
    month = f"{clock.local_day(scope.now, time_zone_name):%Y-%m}"
    rows = scope.connection.execute(
        select(service_quotas)
        .where(service_quotas.c.i_account == i_account, service_quotas.c.month == month)
        .order_by(service_quotas.c.service)
    )
    return [
        {
            "service": row.service,
            "month": row.month,
            "allocated": row.allocated,
            "topped_up": row.topped_up,
            "used": row.used,
            "remaining": _quota(row).remaining,
            "exceeded": row.exceeded,
        }
        for row in rows
    ]


def get_full_vd_counter_info(scope: Scope, params: OfAccount) -> Result:
    """What an account may still use of each service in the current month, as the vendor shows it.

    What has not been allocated yet is shown as it would be.
    """
    account = scope.find(accounts, "Account", accounts.c.i_account == params.i_account)
    counters = {
        row.service: (row.monthly_amount, row.monthly_amount)
        for row in scope.connection.execute(
            select(product_quotas)
            .where(product_quotas.c.i_product == account.i_product)
            .order_by(product_quotas.c.service)
        )
    }
    for each in of_month(scope, account.i_account, account.time_zone_name):
        if each["allocated"] is None:
            promised = counters.get(each["service"], (0, 0))[0]
            left = max(0, promised + each["topped_up"] - each["used"])
        else:
            promised, left = each["allocated"], each["remaining"]
        counters[each["service"]] = (promised + each["topped_up"], left)
    plan, numbers = _discount_plan(scope, account), services.numbers(scope)
    return {
        "vd_counter_info": [
            {
                **plan,
                "i_service": numbers.get(service),
                "service_name": service,
                "unit": services.unit_of(service),
                "allocated_amount": amount,
                "remaining": left,
            }
            for service, (amount, left) in sorted(counters.items())
        ]
    }


def _discount_plan(scope: Scope, account: Row[Any]) -> Result:
    """The plan under which an account uses services: its own or its product's."""
    product = scope.connection.execute(
        select(products).where(products.c.i_product == account.i_product)
    ).one()
    number = product.i_vd_plan if account.i_vd_plan is None else account.i_vd_plan
    name = scope.connection.execute(
        select(discount_plans.c.name).where(discount_plans.c.i_vd_plan == number)
    ).scalar()
    return {"i_vd_plan": number, "vdp_name": name, "addon_priority": product.addon_priority}


def _case(scope: Scope, params: Usage) -> _Case:
    # Whoever counts for the same account at the same time takes turns.
    scope.find(accounts, "Account", accounts.c.i_account == params.i_account, lock=True)
    account = scope.connection.execute(
        select(
            accounts,
            customers.c.bill_status.label("customer_bill_status"),
            customers.c.blocked.label("customer_blocked"),
            customers.c.available_funds.label("customer_available_funds"),
            product_quotas.c.monthly_amount,
        )
        .join(customers, customers.c.i_customer == accounts.c.i_customer)
        .outerjoin(
            product_quotas,
            (product_quotas.c.i_product == accounts.c.i_product)
            & (product_quotas.c.service == params.service),
        )
        .where(accounts.c.i_account == params.i_account)
    ).one()
    day = clock.local_day(params.event_time or scope.now, account.time_zone_name)
    row = scope.connection.execute(
        select(service_quotas).where(
            service_quotas.c.i_account == account.i_account,
            service_quotas.c.service == params.service,
            service_quotas.c.month == f"{day:%Y-%m}",
        )
    ).first()
    quota = _Quota() if row is None else _quota(row)
    return _Case(account, params.service, day, quota, account.monthly_amount)


def _quota(row: Row[Any]) -> _Quota:
    return _Quota(
        row.i_service_quota,
        row.allocated,
        row.topped_up,
        row.used,
        row.first_used_at,
        row.last_used_at,
    )


def _barred(case: _Case) -> str | None:
    """Why the account may use no service at all on this day, if so."""
    account = case.account
    if account.bill_status != "O":
        return {"C": "account_closed", "S": "account_suspended"}.get(
            account.bill_status, "account_inactive"
        )
    if account.blocked == "Y":
        return "account_blocked"
    # To be limited bars nobody from what a quota allows.
    if account.customer_bill_status not in {"O", "L"}:
        return "customer_inactive"
    if account.customer_blocked == "Y":
        return "customer_blocked"
    if not clock.in_dates(account.activation_date, account.expiration_date, case.day):
        early = account.activation_date is not None and case.day < account.activation_date
        return "not_yet_active" if early else "expired"
    return None


def _shortage(case: _Case, quota: _Quota) -> str | None:
    """Why there is nothing to use, if so.

    A quota that is used up to the last unit is not exceeded yet, and still authorised: it is the
    next unit that exceeds it and that the network is told about.
    """
    if quota.allocated is None and quota.topped_up == 0:
        return "no_available_funds" if case.included else "service_not_included"
    return "quota_exceeded" if quota.exceeded else None


def _has_funds(account: Row[Any]) -> bool:
    subordinate = account.i_account_balance_control_type == SUBORDINATE
    funds = account.customer_available_funds if subordinate else account.available_funds
    return funds is not None and funds > 0


def _allocated(scope: Scope, case: _Case) -> _Quota:
    """The month's quota, allocated now if it was not yet and the funds allow it."""
    if case.quota.allocated is not None or case.monthly_amount is None:
        return case.quota
    if not _has_funds(case.account):
        return case.quota
    return _stored(scope, case, case.quota, allocated=case.monthly_amount)


def _require_included(case: _Case) -> None:
    if not case.included:
        raise BillingFault(
            "Server.Usage.service_not_included",
            f"the account's product gives no quota of {case.service!r}",
        )


def _counted(
    scope: Scope,
    case: _Case,
    quota: _Quota,
    counter: Mapping[str, int],
    times: Mapping[str, datetime] | None = None,
) -> Result:
    if max(counter.values()) > MAX_UNITS:
        raise BillingFault("Server.Usage.amount_out_of_range", "the sum would be too large")
    quota = _stored(scope, case, quota, **counter, **(times or {}))
    return {"remaining": quota.remaining, "exceeded": "Y" if quota.exceeded else "N"}


def _stored(scope: Scope, case: _Case, quota: _Quota, **changes: int | datetime) -> _Quota:
    """Write some columns of the month's row, which is made if there is none; read it back."""
    table = service_quotas
    key = quota.key
    if key is None:
        result = scope.connection.execute(
            insert(table).values(
                i_env=scope.i_env,
                i_account=case.account.i_account,
                i_customer=case.account.i_customer,
                service=case.service,
                month=case.month,
                ends_at=clock.end_of_month(case.day, case.account.time_zone_name),
                **changes,
            )
        )
        assert result.inserted_primary_key is not None
        (key,) = result.inserted_primary_key
    else:
        scope.connection.execute(
            update(table).where(table.c.i_service_quota == key).values(**changes)
        )
    row = scope.connection.execute(select(table).where(table.c.i_service_quota == key)).one()
    return _quota(row)
