"""Accounts: who uses the services, identified by a number or name that is unique at a time."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from sqlalchemy import Row, Select, select, update

from espf.billing import (
    addons,
    browse,
    clock,
    custom_fields,
    customer_sites,
    customers,
    dids,
    discount_plans,
    products,
    quotas,
    service_features,
    sim_cards,
    subscribers,
    subscriptions,
)
from espf.billing.browse import Found, Leaf
from espf.billing.closing import close_account
from espf.billing.columns import SUBORDINATE, UNLIMITED_FUNDS
from espf.billing.fields import (
    AccountId,
    BalanceControl,
    BillingModel,
    Code,
    Day,
    Flag,
    Imsi,
    Key,
    Money,
    Page,
    Params,
    Password,
    Search,
    ServiceFlags,
    Switch,
    TimeZone,
    matches,
)
from espf.billing.scope import Result, Scope, closed, not_found
from espf.billing.service_features import Features, Owner
from espf.billing.tables import accounts, service_quotas
from espf.billing.tables import customers as customer_table
from espf.billing.tables import products as product_table
from espf.billing.tables import subscribers as subscriber_table
from espf.errors import InvalidRequest

ENTITY = "Account"


class AccountFields(subscribers.SubscriberFields):
    """What can be given to a new account and changed later."""

    blocked: Flag = "N"
    i_account_balance_control_type: BalanceControl = 1
    credit_limit: Money | None = None
    activation_date: Day | None = None
    expiration_date: Day | None = None
    password: Password | None = None
    h323_password: Password | None = None
    i_account_role: Code = 1
    i_customer_site: Key | None = None
    i_vd_plan: Key | None = None
    service_flags: ServiceFlags | None = None
    time_zone_name: TimeZone = "UTC"
    assigned_addons: addons.Addons = Field(default=[])
    service_features: Features = Field(default=[])


class NewAccount(AccountFields):
    """The fields of a new account. ``i_sim_card`` or ``imsi`` picks the SIM card that it gets."""

    id: AccountId
    i_customer: Key
    i_product: Key
    billing_model: BillingModel
    opening_balance: Money = Decimal(0)
    i_sim_card: Key | None = None
    imsi: Imsi | None = None

    @model_validator(mode="after")
    def _names_one_card(self) -> "NewAccount":
        if self.i_sim_card is not None and self.imsi is not None:
            raise ValueError("at most one of i_sim_card and imsi is expected")
        return self


class ChangedAccount(AccountFields):
    """The fields to change; what is not named stays as it is, and no default is ever written."""

    i_account: Key
    id: AccountId = "-"
    i_product: Key = 1
    bill_status: Literal["O", "I", "S", "E", "C"] = "O"


class AddAccount(Params):
    """Parameters of add."""

    account_info: NewAccount


class UpdateAccount(Params):
    """Parameters of update."""

    account_info: ChangedAccount


class TerminateAccount(Params):
    """Parameters of terminate.

    ``release_assigned_did``: its numbers go back to the pool; otherwise its customer keeps them.
    The vendor's ``force`` is taken and has no effect here.
    """

    i_account: Key
    force: Switch | Flag | None = None
    release_assigned_did: Switch | Flag | None = None


class MoveAccount(Params):
    """Parameters of move."""

    i_account: Key
    i_customer: Key


class GetAccount(Params):
    """Names one account by ``i_account`` or ``id``.

    The vendor's switches for data that the reference billing does not hold are taken and have no
    effect.
    """

    i_account: Key | None = None
    id: AccountId | None = None
    with_customer_info: Switch = 0
    aux_field_names: list[Search] | None = None
    detailed_info: Switch = 0
    expand_alias: Switch = 0
    get_included_services: Switch = 0
    get_service_features: list[Search] | None = None
    without_service_features: Switch = 0
    limit_alias_did_number_list: Annotated[int, Field(ge=0, le=100)] = 0
    with_reseller_info: Switch = 0
    with_call_processing_mode: Switch = 0

    @model_validator(mode="after")
    def _names_one(self) -> "GetAccount":
        if (self.i_account is None) == (self.id is None):
            raise ValueError("exactly one of i_account and id is expected")
        return self


class ListAccounts(Page):
    """Parameters of get_list. ``id``, ``companyname`` and ``did_number`` may hold ``%``.

    ``after_i_account`` begins behind this account: however far that is, it takes no time.
    ``with_addons``: with ``i_product`` also those that have it as an add-on now; each account comes
    with the add-ons that are effective.
    """

    i_customer: Key | None = None
    i_customer_site: Key | None = None
    i_product: Key | None = None
    id: Search | None = None
    companyname: Search | None = None
    did_number: Search | None = None
    bill_status: Literal["O", "I", "S", "E", "C"] | None = None
    billing_model: BillingModel | None = None
    get_not_closed_accounts: Switch = 0
    get_only_real_accounts: Switch = 0
    after_i_account: Key | None = None
    with_addons: Switch = 0


def add(scope: Scope, params: AddAccount) -> Result:
    """Add an account, with its SIM card if one is named.

    It is usable from today on unless ``activation_date`` says otherwise; its time zone is its
    customer's unless it is given one. Raises the faults ``Server.Account.duplicate_id``,
    ``Server.Customer.not_found``, ``.closed``, ``Server.Product.not_found``,
    ``Server.DiscountPlan.not_found``, ``Server.CustomerSite.not_found``,
    ``Server.SIMCard.not_found`` and ``.not_available``.
    """
    info = params.account_info
    customer = scope.open_customer(info.i_customer)
    products.require(scope, info.i_product)
    _require_references(scope, info.model_dump(include=_REFERENCES), info.i_customer)
    values = info.model_dump(exclude={"i_sim_card", "imsi", *_ELSEWHERE})
    if "time_zone_name" not in info.model_fields_set:
        values["time_zone_name"] = customer.time_zone_name
    if info.activation_date is None:
        values["activation_date"] = clock.local_day(scope.now, values["time_zone_name"])
    values |= {
        "bill_status": _status_by_dates(values, scope.now),
        "balance": info.opening_balance,
    }
    i_account = insert_account(scope, values)
    subscribers.add(scope, i_account, info.model_dump(include=set(subscribers.FIELDS)))
    _write_lists(scope, i_account, info)
    subscriptions.follow(scope, i_account)
    wanted = info.model_dump(include={"i_sim_card", "imsi"}, exclude_none=True)
    if wanted:
        sim_cards.give(scope, sim_cards.find(scope, lock=True, **wanted), i_account, info.id)
    return {"i_account": i_account}


def update_fields(scope: Scope, params: UpdateAccount) -> Result:
    """Change the fields that are named and differ; a new id is the new msisdn of its card, too.

    ``assigned_addons`` are all that the account is to have; of ``service_features`` those that are
    named are set. A closed account keeps everything but its id, which can be changed so that the
    number becomes free for another account. Raises the faults ``Server.Account.duplicate_id``,
    ``.closed``, ``Server.Product.not_found``, ``Server.DiscountPlan.not_found`` and
    ``Server.CustomerSite.not_found``.
    """
    info = params.account_info
    account = find(scope, info.i_account, lock=True)
    named = info.model_dump(exclude_unset=True, exclude=_ELSEWHERE)
    changed = _differing(account, named)
    if account.bill_status != "C":
        status = _status_change(account, changed, scope.now)
        changed = _differing(account, {**changed, **status})
    elif changed.keys() - {"id"} or _ELSEWHERE & info.model_fields_set:
        raise closed(ENTITY)
    _require_references(scope, changed, account.i_customer)
    with scope.unless_taken(*_taken(changed.get("id", account.id))):
        scope.change(accounts, account, changed)
    if "id" in changed:
        sim_cards.rename(scope, account.i_account, changed["id"])
    subscriber = info.model_dump(exclude_unset=True, include=set(subscribers.FIELDS))
    subscribers.write(scope, account.i_account, subscriber)
    _write_lists(scope, account.i_account, info)
    if {"i_product", "assigned_addons"} & info.model_fields_set:
        subscriptions.follow(scope, account.i_account)
    return {"i_account": account.i_account}


def move(scope: Scope, params: MoveAccount) -> Result:
    """Give an account to another customer, with its aliases and its numbers; it leaves its site.

    Raises the faults ``Server.Account.closed``, ``Server.Customer.not_found`` and ``.closed``.
    """
    former = find(scope, params.i_account).i_customer
    for i_customer in sorted({former, params.i_customer}):
        customer = customers.find(scope, i_customer, lock=True)
        if i_customer == params.i_customer and customer.bill_status == "C":
            raise closed(customers.ENTITY)
    account = find(scope, params.i_account, lock=True)
    if account.bill_status == "C":
        raise closed(ENTITY)
    if account.i_customer != params.i_customer:
        owner = {"i_customer": params.i_customer}
        scope.change(accounts, account, {**owner, "i_customer_site": None})
        scope.connection.execute(
            update(service_quotas)
            .where(service_quotas.c.i_account == account.i_account)
            .values(**owner)
        )
        mine = accounts.c.i_master_account == account.i_account
        scope.connection.execute(update(accounts).where(mine).values(**owner))
        dids.follow(scope, account.i_account, params.i_customer)
    return {"i_account": account.i_account}


def terminate(scope: Scope, params: TerminateAccount) -> Result:
    """Close an account and all that is its own: see closing. Repeating it changes nothing."""
    account = find(scope, params.i_account, lock=True)
    if account.bill_status != "C":
        pool = params.release_assigned_did in {1, "Y"}
        close_account(scope, account.i_account, release_numbers=pool)
    return {"success": 1}


def get_info(scope: Scope, params: GetAccount) -> Result:
    """One account, with its SIM card and the quotas of the current month.

    ``included_services`` come when they are asked for, ``service_features`` unless they are not.
    """
    criteria = params.model_dump(include={"i_account", "id"}, exclude_none=True)
    row = scope.connection.execute(
        _with_names().where(
            accounts.c.i_env == scope.i_env,
            *(accounts.c[name] == criteria[name] for name in criteria),
        )
    ).first()
    if row is None:
        raise not_found(ENTITY)
    info = _described(row, scope.now)
    info["password"] = row.password
    info["h323_password"] = row.h323_password
    info["sim_card"] = sim_cards.held_by(scope, row.i_account)
    info["service_quotas"] = quotas.of_month(scope, row.i_account, row.time_zone_name)
    info["assigned_addons"] = addons.of_account(scope, row.i_account)
    info |= quotas.usage_times(scope, row)
    info["has_custom_fields"] = int(custom_fields.has_any(scope, row.i_account))
    if params.get_included_services:
        info["included_services"] = quotas.included_services(scope, row.i_product)
    if not params.without_service_features:
        wanted = params.get_service_features
        info["service_features"] = [
            feature
            for feature in service_features.of(scope.connection, Owner("i_account", row.i_account))
            if wanted is None or feature["name"] in wanted
        ]
    result = {"account_info": info}
    if params.with_customer_info:
        result["customer_info"] = customers.described(customers.find(scope, row.i_customer))
    return result


def get_list(scope: Scope, params: ListAccounts) -> Result:
    """The environment's accounts, in the order in which they were added; without passwords."""
    mine = _with_names().where(accounts.c.i_env == scope.i_env)
    query = _chosen(_with_product(mine, params, scope.now), params)
    rows = scope.connection.execute(
        query.order_by(accounts.c.i_account).limit(params.limit).offset(params.offset)
    )
    listed = [_described(row, scope.now) for row in rows]
    if params.with_addons:
        found = addons.effective(scope, [account["i_account"] for account in listed])
        for account in listed:
            account["assigned_addons"] = found.get(account["i_account"], [])
    return {"account_list": listed}


def _with_product(query: Select[Any], params: ListAccounts, now: datetime) -> Select[Any]:
    if params.i_product is None:
        return query
    has_it = accounts.c.i_product == params.i_product
    if params.with_addons:
        has_it |= addons.has(accounts.c.i_account, params.i_product, now)
    return query.where(has_it)


def _chosen(query: Select[Any], params: ListAccounts) -> Select[Any]:
    exact = params.model_dump(
        include={"i_customer", "i_customer_site", "bill_status", "billing_model"},
        exclude_none=True,
    )
    for name, value in exact.items():
        query = query.where(accounts.c[name] == value)
    if params.id is not None:
        query = query.where(matches(accounts.c.id, params.id))
    if params.companyname is not None:
        query = query.where(matches(subscriber_table.c.companyname, params.companyname))
    if params.did_number is not None:
        query = query.where(dids.is_held_by(accounts.c.i_account, params.did_number))
    if params.after_i_account is not None:
        query = query.where(accounts.c.i_account > params.after_i_account)
    if params.get_not_closed_accounts:
        query = query.where(accounts.c.bill_status != "C")
    if params.get_only_real_accounts:
        query = query.where(accounts.c.billing_model != 2)
    return query


def leaf(scope: Scope, wanted: Leaf) -> Found[Result]:
    """A leaf of the environment's accounts, by their ids; as in get_list."""
    return _shown(scope, browse.numbers(scope, accounts.c.id, wanted))


def leaf_of_customer(
    scope: Scope, i_customer: int, wanted: Leaf, id_: str | None = None
) -> Found[Result]:
    """A leaf of a customer's accounts as they were added, or the one that has this id."""
    mine = [accounts.c.i_customer == i_customer]
    if id_ is not None:
        mine.append(accounts.c.id == id_)
    return _shown(scope, browse.numbers(scope, accounts.c.i_account, wanted, *mine))


def _shown(scope: Scope, found: Found[int]) -> Found[Result]:
    leaf = browse.rows_of(scope, _with_names(), accounts.c.i_account, found)
    described = [_described(row, scope.now) for row in leaf.rows]
    return Found(described, leaf.has_earlier, leaf.has_later)


def find(scope: Scope, i_account: int, *, lock: bool = False) -> Row[Any]:
    """The account's row. Raises the fault ``Server.Account.not_found``."""
    return scope.find(accounts, ENTITY, accounts.c.i_account == i_account, lock=lock)


#: Fields that are kept in tables of their own, beside the columns of the account.
_ELSEWHERE = {"assigned_addons", "service_features", *subscribers.FIELDS}

_REFERENCES = {"i_product", "i_vd_plan", "i_customer_site"}


def _require_references(scope: Scope, values: dict[str, Any], i_customer: int) -> None:
    """Raise a fault when one of the fields that name something names nothing."""
    if values.get("i_product") is not None:
        products.require(scope, values["i_product"])
    if values.get("i_vd_plan") is not None:
        discount_plans.require(scope, values["i_vd_plan"])
    if values.get("i_customer_site") is not None:
        customer_sites.require(scope, values["i_customer_site"], i_customer)


def _write_lists(scope: Scope, i_account: int, info: AccountFields) -> None:
    if "assigned_addons" in info.model_fields_set:
        addons.write(scope, i_account, info.assigned_addons)
    service_features.write(scope, Owner("i_account", i_account), info.service_features)


def insert_account(scope: Scope, values: dict[str, Any]) -> int:
    """Add an account with these columns. Raises the fault ``Server.Account.duplicate_id``."""
    with scope.unless_taken(*_taken(values["id"])):
        return scope.insert(accounts, issue_date=scope.now, **values)


def _taken(account_id: str) -> tuple[str, str]:
    return (
        f"Server.{ENTITY}.duplicate_id",
        f"there is an account with the id {account_id!r} already",
    )


#: Why an update cannot set these values of bill_status.
_NOT_BY_UPDATE = {
    "C": "Account/terminate_account closes an account",
    "I": "it follows from activation_date and expiration_date; change those",
}


def _differing(account: Row[Any], values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != getattr(account, name)}


def _status_change(account: Row[Any], changed: dict[str, Any], now: datetime) -> dict[str, str]:
    """The bill_status that follows from these changes, if it follows from any."""
    if (refusal := _NOT_BY_UPDATE.get(changed.get("bill_status", ""))) is not None:
        field = "account_info.bill_status"
        raise InvalidRequest(f"{field}: {refusal}", field)
    dates = {"activation_date", "expiration_date", "time_zone_name"}
    if not changed.keys() & {"bill_status", *dates}:
        return {}
    by_dates = _status_by_dates(
        {name: changed.get(name, getattr(account, name)) for name in dates}, now
    )
    status = changed.get("bill_status", account.bill_status)
    return {"bill_status": status if status in {"S", "E"} else by_dates}


def _status_by_dates(values: dict[str, Any], now: datetime) -> Literal["O", "I"]:
    activation, expiration = values["activation_date"], values["expiration_date"]
    if activation is not None and expiration is not None and expiration <= activation:
        raise InvalidRequest(
            "account_info.expiration_date: a day after activation_date is expected",
            "account_info.expiration_date",
        )
    return clock.status_by_dates(
        activation, expiration, clock.local_day(now, values["time_zone_name"])
    )


def _with_names() -> Select[Any]:
    """Accounts with what they inherit from customer and product."""
    customer = customer_table.c
    return (
        select(
            accounts,
            customer.name.label("customer_name"),
            customer.bill_status.label("customer_bill_status"),
            customer.blocked.label("customer_blocked"),
            customer.iso_4217.label("iso_4217"),
            customer.available_funds.label("customer_available_funds"),
            product_table.c.name.label("product_name"),
            subscriber_table.c.i_subscriber,
            *(subscriber_table.c[name] for name in subscribers.FIELDS),
        )
        .join(customer_table, customer.i_customer == accounts.c.i_customer)
        .join(product_table, product_table.c.i_product == accounts.c.i_product)
        # Another program may have added the account.
        .outerjoin(subscriber_table, subscriber_table.c.i_account == accounts.c.i_account)
    )


_SHOWN = (
    "i_account",
    "i_customer",
    "i_product",
    "i_master_account",
    "id",
    "billing_model",
    "i_account_balance_control_type",
    "balance",
    "opening_balance",
    "credit_limit",
    "blocked",
    "bill_status",
    "activation_date",
    "expiration_date",
    "i_account_role",
    "i_customer_site",
    "i_vd_plan",
    "service_flags",
    "i_subscriber",
    *subscribers.FIELDS,
    "time_zone_name",
    "iso_4217",
    "customer_name",
    "customer_bill_status",
    "customer_blocked",
    "product_name",
)


def _described(row: Row[Any], now: datetime) -> Result:
    subordinate = row.i_account_balance_control_type == SUBORDINATE
    funds = row.customer_available_funds if subordinate else row.available_funds
    usable = row.bill_status == "O" and clock.in_dates(
        row.activation_date, row.expiration_date, clock.local_day(now, row.time_zone_name)
    )
    issued: date = clock.local_day(row.issue_date, row.time_zone_name)
    return {
        **{name: getattr(row, name) for name in _SHOWN},
        "issue_date": issued,
        "is_active": int(usable),
        "customer_bill_suspended": int(row.customer_bill_status == "S"),
        # A suspension is never put off, a product has one name, and an account ends by its date.
        "cust_bill_suspension_delayed": 0,
        "product_visible_name": row.product_name,
        "iso_639_1": row.i_lang,
        "life_time": None,
        "inactivity_expire_time": None,
        "available_funds": None if funds is None or funds >= UNLIMITED_FUNDS else funds,
    }
