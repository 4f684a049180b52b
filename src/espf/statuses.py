"""How far provisioning has come, per account and service group, as the applications report it.

Handlers that bring a system to a state themselves report in the same way, with their results.

Eight groups are there from the beginning, in every environment; each environment adds its own. Of
each account and group the last report is kept. Works inside the caller's transaction.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeGuard

from sqlalchemy import ColumnElement, Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from espf.billing.environments import is_reference_billing
from espf.billing.tables import accounts
from espf.db.tables import account_statuses, service_groups
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.model import Result, Status

PREDEFINED = (
    *("VoIP", "HSS", "PCRF", "IPTV", "WiMAX", "Netaccess"),
    *("NumberPortability", "LawfulInterception"),
)

#: The number of the first custom group.
FIRST_CUSTOM = 1001

LONGEST_NAME = 64
LONGEST_MESSAGE = 4000

#: i_env, i_account, i_group.
_Key = tuple[int, int, int]


class AccountStatus(StrEnum):
    """How far it has come. RETRY: the first try has failed, and there will be others."""

    OK = "OK"
    IN_PROGRESS = "IN_PROGRESS"
    RETRY = "RETRY"
    FAILED = "FAILED"


#: A status and its message.
_Told = tuple[AccountStatus, str | None]


@dataclass(frozen=True)
class Group:
    """A service group; custom ones have numbers from 1001."""

    i_group: int
    name: str

    @property
    def is_custom(self) -> bool:
        """Whether somebody added it."""
        return self.i_group >= FIRST_CUSTOM


@dataclass(frozen=True)
class Report:
    """What was said last about an account in one group."""

    group: Group
    status: AccountStatus
    message: str | None
    reported_at: datetime


# Groups


def list_groups(connection: Connection, i_env: int) -> list[Group]:
    """The groups of an environment, by number."""
    custom = connection.execute(
        select(service_groups)
        .where(service_groups.c.i_env == i_env)
        .order_by(service_groups.c.i_custom_group)
    )
    return [
        *(Group(number, name) for number, name in enumerate(PREDEFINED, 1)),
        *(Group(_shown(row.i_custom_group), row.name) for row in custom),
    ]


def create_group(connection: Connection, i_env: int, name: str) -> Group:
    """Add a group. Raises InvalidRequest for the name, Conflict when it is taken."""
    name = name.strip()
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise InvalidRequest(f"name: 1 to {LONGEST_NAME} printable characters are expected", "name")
    taken = Conflict(f"there is a service group {name!r} already")
    if name in PREDEFINED:
        raise taken
    try:
        # A savepoint, so that the caller's transaction can go on.
        with connection.begin_nested():
            result = connection.execute(insert(service_groups).values(i_env=i_env, name=name))
    except IntegrityError:
        raise taken from None
    key = result.inserted_primary_key
    assert key is not None
    return Group(_shown(int(key[0])), name)


def require_group(connection: Connection, i_env: int, name: str, field: str) -> Group:
    """The group of this name. Raises InvalidRequest, which names the ``field`` that says it."""
    groups = list_groups(connection, i_env)
    found = next((one for one in groups if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in groups)
        raise InvalidRequest(
            f"{field}: there is no service group {name[:LONGEST_NAME]!r} (known: {known})", field
        )
    return found


def delete_group(connection: Connection, i_env: int, i_group: int) -> Group:
    """Remove a custom group and what was reported in it.

    Raises NotFound, or Conflict for one that is predefined.
    """
    group = next((one for one in list_groups(connection, i_env) if one.i_group == i_group), None)
    if group is None:
        raise NotFound(f"there is no service group {i_group}")
    if not group.is_custom:
        raise Conflict(f"the service group {group.name} is predefined and cannot be deleted")
    connection.execute(
        delete(account_statuses).where(
            account_statuses.c.i_env == i_env, account_statuses.c.i_group == i_group
        )
    )
    connection.execute(
        delete(service_groups).where(
            service_groups.c.i_env == i_env, service_groups.c.i_custom_group == _stored(i_group)
        )
    )
    return group


# Statuses


def find_account(
    connection: Connection, i_env: int, *, i_account: int | None = None, id_: str | None = None
) -> int:
    """The ``i_account`` of an account of this environment, by its number or its id.

    Beside a billing database of another make nothing can be checked: a number is taken as it is,
    and no id is known. Raises NotFound.
    """
    if is_reference_billing(connection):
        named: ColumnElement[bool] = (
            accounts.c.id == id_ if i_account is None else accounts.c.i_account == i_account
        )
        i_account = connection.execute(
            select(accounts.c.i_account).where(accounts.c.i_env == i_env, named)
        ).scalar_one_or_none()
    elif i_account is None:
        raise NotFound("the ids of accounts are unknown here; name the account by i_account")
    if i_account is None:
        raise NotFound("there is no such account in your environment")
    return i_account


def report(
    connection: Connection,
    i_env: int,
    i_account: int,
    group_name: str,
    status: AccountStatus,
    message: str | None,
    now: datetime,
) -> Report:
    """Keep what an application says about an account, in place of what was said in this group.

    Raises InvalidRequest when there is no such group.
    """
    group = require_group(connection, i_env, group_name, "group")
    told = (status, message)
    _keep(connection, (i_env, i_account, group.i_group), told, now)
    return Report(group, status, message, now)


def report_results(
    connection: Connection, results: Iterable[Result], now: datetime
) -> set[tuple[int, str]]:
    """Keep what became of accounts, as the handlers' results tell it, in the group of each.

    Returns the groups that there are not, by environment and name; nothing is kept for them.
    """
    named: dict[tuple[int, str], dict[int, _Told]] = defaultdict(dict)
    for result in results:
        event = result.notification.event
        told, i_account = told_by(result), event.i_account
        if told is not None and _is_number(i_account):
            named[event.i_env, result.group][i_account] = told
    unknown = set()
    # In one order, so that of two who do this neither waits for the other for ever.
    for (i_env, name), accounts_told in sorted(named.items()):
        groups = list_groups(connection, i_env)
        group = next((one for one in groups if one.name == name), None)
        if group is None:
            unknown.add((i_env, name))
        else:
            _keep_all(connection, i_env, group.i_group, accounts_told, now)
    return unknown


def told_by(result: Result) -> _Told | None:
    """What a result says of the account's provisioning; None: nothing."""
    decision = result.decision
    reason = decision.reason and decision.reason[:LONGEST_MESSAGE]
    match decision.status:
        case Status.FINISHED:
            return AccountStatus.OK, None
        case Status.QUEUED:
            return AccountStatus.IN_PROGRESS if decision.begun else AccountStatus.RETRY, reason
        case Status.FAILED | Status.REJECTED:
            return AccountStatus.FAILED, reason
        case _:
            return None


def _keep_all(
    connection: Connection, i_env: int, i_group: int, told: Mapping[int, _Told], now: datetime
) -> None:
    """Keep what is told of many accounts in one group, in few statements."""
    s = account_statuses.c
    here = (s.i_env == i_env, s.i_group == i_group)
    query = select(s.i_account).where(*here, s.i_account.in_(told))
    there = set(connection.execute(query).scalars())
    old = [
        {"account": number, "told": told[number][0], "said": told[number][1]}
        for number in sorted(there)
    ]
    if old:
        change = (
            update(account_statuses)
            .where(*here, s.i_account == bindparam("account"))
            .values(status=bindparam("told"), message=bindparam("said"), reported_at=now)
        )
        connection.execute(change, old)
    new = [(i_env, number, i_group) for number in sorted(told.keys() - there)]
    if not new:
        return
    try:
        with connection.begin_nested():
            rows = [_row(key, told[key[1]], now) for key in new]
            connection.execute(insert(account_statuses), rows)
    except IntegrityError:
        # Somebody else was the first to report one of them.
        for key in new:
            _keep(connection, key, told[key[1]], now)


def _keep(connection: Connection, key: _Key, told: _Told, now: datetime) -> None:
    s = account_statuses.c
    row = _row(key, told, now)
    change = (
        update(account_statuses)
        .where(s.i_env == key[0], s.i_account == key[1], s.i_group == key[2])
        .values(row)
    )
    if not connection.execute(change).rowcount:
        try:
            with connection.begin_nested():
                connection.execute(insert(account_statuses).values(row))
        except IntegrityError:
            # Somebody else was the first.
            connection.execute(change)


def _row(key: _Key, told: _Told, now: datetime) -> dict[str, object]:
    i_env, i_account, i_group = key
    return {
        "i_env": i_env,
        "i_account": i_account,
        "i_group": i_group,
        "status": told[0],
        "message": told[1],
        "reported_at": now,
    }


def _is_number(value: object) -> TypeGuard[int]:
    """Whether it can be the number of an account; an event's variables may be anything."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def of_account(connection: Connection, i_env: int, i_account: int) -> Sequence[Report]:
    """What was said last about an account, by group."""
    rows = connection.execute(
        select(account_statuses)
        .where(account_statuses.c.i_env == i_env, account_statuses.c.i_account == i_account)
        .order_by(account_statuses.c.i_group)
    ).all()
    groups = {one.i_group: one for one in list_groups(connection, i_env)} if rows else {}
    return [
        Report(groups[row.i_group], AccountStatus(row.status), row.message, row.reported_at)
        for row in rows
        if row.i_group in groups
    ]


def _shown(i_custom_group: int) -> int:
    return FIRST_CUSTOM - 1 + i_custom_group


def _stored(i_group: int) -> int:
    return i_group - FIRST_CUSTOM + 1
