"""Subscription fees: what becomes due month by month, and is charged when somebody asks for it.

A month begins on the day of the activation, and on that day of each month after it; one that has
begun is paid for as a whole, in advance.
"""

import itertools
from calendar import monthrange
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Row

from espf.billing import clock, payments, subscriptions
from espf.billing.fields import Key, Months, Params
from espf.billing.scope import Result, Scope
from espf.billing.tables import account_subscriptions as table


class Charge(Params):
    """Parameters of charge. ``immediately_in_advance``: so many months that begin later, too."""

    i_account: Key
    immediately_in_advance: Months = 0


def charge(scope: Scope, params: Charge) -> Result:
    """Charge an account for the months that have begun and are not paid for; answer the sum.

    Raises the faults of ``payments.make_transaction``.
    """
    account = payments.locked(scope, params.i_account)
    today = clock.local_day(scope.now, account.time_zone_name)
    until = _months_later(today, params.immediately_in_advance)
    total = Decimal(0)
    for row in subscriptions.rows_of(scope, account.i_account):
        months = _due(row, until)
        if months:
            billed_to = _months_later(row.activation_date, months[-1] + 1) - timedelta(days=1)
            scope.change(table, row, {"billed_to": billed_to})
            total += _charged(scope, row, len(months), billed_to)
    return {"success": 1, "charged": total}


def _charged(scope: Scope, row: Row[Any], months: int, billed_to: date) -> Decimal:
    amount: Decimal = row.monthly_fee * months
    if amount:
        entry = payments.Entry("Subscription fee", amount, f"{row.name}, until {billed_to}")
        payments.for_account(scope, row.i_account, -amount, entry)
    return amount


def _due(row: Row[Any], until: date) -> list[int]:
    """The months since the activation that begin by a day and are not paid for."""
    due: list[int] = []
    if row.activation_date is None:
        return due
    for month in itertools.count():
        begin = _months_later(row.activation_date, month)
        if begin > until or (row.finish_date is not None and begin >= row.finish_date):
            return due
        if row.billed_to is None or begin > row.billed_to:
            due.append(month)
    raise AssertionError


def _months_later(day: date, months: int) -> date:
    """The same day so many months later, or the last one of a month that is too short."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
