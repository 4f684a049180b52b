"""Billing > Accounts: who uses the services, what can be done with an account, its provisioning.

How far provisioning has come is what applications have reported, by service group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from espf import statuses
from espf.billing import (
    accounts,
    customer_sites,
    customers,
    discount_plans,
    payments,
    products,
    sim_cards,
)
from espf.billing.accounts import (
    AddAccount,
    ChangedAccount,
    GetAccount,
    NewAccount,
    TerminateAccount,
    UpdateAccount,
)
from espf.billing.browse import Found, Leaf
from espf.billing.customers import GetCustomer
from espf.billing.fields import Page
from espf.billing.scope import Result, Scope
from espf.billing.service_features import UpdateOfAccount
from espf.errors import BillingFault
from espf.model import ordering_key
from espf.statuses import Report
from espf.web.contract import PathNumber
from espf.web.pages import billing, listing
from espf.web.pages.billing import Administrator, Kind, Outcome, Parts, Reader, Sheet, Task
from espf.web.pages.forms import Field
from espf.web.pages.listing import Column
from espf.web.pages.visit import Form, Visit
from espf.web.rest import InvalidParameters, validated

pages = APIRouter(prefix="/env/{i_env}/accounts", dependencies=[Depends(billing.require_billing)])

ROLES = {1: "Universal", 2: "Phone line", 3: "Mobile", 4: "Internet access", 5: "IPTV"}
TYPES = {1: "Credit", -1: "Debit", 0: "Voucher"}
ALL_TYPES = {**TYPES, 2: "Alias", 4: "Beneficiary"}
BALANCE_CONTROL = {2: "Subordinate", 1: "Individual"}
STATUSES = {"O": "open", "I": "inactive", "S": "suspended", "E": "exported", "C": "closed"}

COLUMNS: Sequence[Column[Result]] = (
    Column("id", "ID", lambda one: one["id"]),
    Column("customer_name", "Customer", lambda one: one["customer_name"], sortable=False),
    Column("product_name", "Product", lambda one: one["product_name"], sortable=False),
    Column("type", "Type", lambda one: ALL_TYPES[one["billing_model"]], sortable=False),
    Column("status", "Status", lambda one: STATUSES[one["bill_status"]], sortable=False),
    Column("balance", "Balance", lambda one: one["balance"], sortable=False, number=True),
    Column("activation_date", "Activation date", lambda one: one["activation_date"], False),
)

#: What CSV has besides.
MORE: Sequence[Column[Result]] = (
    Column("blocked", "Blocked", lambda one: one["blocked"] == "Y"),
    Column("iso_4217", "Currency", lambda one: one["iso_4217"]),
    Column("i_account", "Number", lambda one: one["i_account"]),
)


@pages.get("")
async def show_list(visit: Reader) -> Response:
    """The accounts of the environment."""
    wanted = billing.leaf(visit, "id")
    return await billing.show_list(
        visit,
        "accounts/list.html",
        COLUMNS,
        wanted,
        accounts.leaf,
        order="id",
        name="accounts",
        more=MORE,
        types=ALL_TYPES,
        statuses=STATUSES,
    )


async def show_list_of_customer(visit: Visit, i_customer: int) -> Response:
    """The accounts of a customer, as they were added."""
    wanted = billing.leaf(visit, "i_account")
    id_, wanted = wanted.beginning or None, replace(wanted, beginning="")
    columns = [replace(one, sortable=False) for one in COLUMNS if one.name != "customer_name"]

    def read(scope: Scope, leaf: Leaf) -> Found[Result]:
        return accounts.leaf_of_customer(scope, i_customer, leaf, id_)

    def customer_of(scope: Scope) -> Result:
        info = customers.get_info(scope, GetCustomer(i_customer=i_customer))
        return dict(info["customer_info"])

    return await billing.show_list(
        visit,
        "customers/accounts.html",
        columns,
        wanted,
        read,
        order="i_account",
        name="accounts",
        more=MORE,
        types=ALL_TYPES,
        statuses=STATUSES,
        customer=await billing.fetch(visit, customer_of),
    )


# One account


_SECRETS = ("h323_password", "password")


@dataclass(frozen=True)
class _Shown:
    info: Result
    reports: Sequence[Report]


def _info(scope: Scope, i_account: int) -> Result:
    found = accounts.get_info(scope, GetAccount(i_account=i_account))["account_info"]
    return {name: value for name, value in found.items() if name not in _SECRETS}


@pages.get("/{i_account:int}")
async def show(visit: Reader, i_account: PathNumber) -> Response:
    """One account: what it is and has, and how far its provisioning has come."""

    def read(scope: Scope) -> _Shown:
        info = _info(scope, i_account)
        return _Shown(info, statuses.of_account(scope.connection, scope.i_env, i_account))

    shown = await billing.fetch(visit, read)
    return visit.page(
        "accounts/show.html",
        account=shown.info,
        reports=shown.reports,
        key=ordering_key({"i_account": i_account}),
        roles=ROLES,
        types=ALL_TYPES,
        controls=BALANCE_CONTROL,
        statuses=STATUSES,
    )


# Create an account


def _new_fields(scope: Scope, visit: Visit, customer: str) -> list[Field]:
    products_ = [("", ""), *((str(key), name) for key, name in products.names(scope))]
    asked = billing.of_model(
        NewAccount,
        Field("id", "ID", help="The user's mobile number, or another name that is unique here."),
        Field("i_account_role", "Account role", kind="select", choices=billing.choices(ROLES)),
        Field(
            "imsi",
            "IMSI",
            kind="pick",
            source=("SIM Card Inventory", visit.path("sim-cards", "pick")),
            help="The SIM card that the account gets; empty: none.",
        ),
        Field("i_product", "Product", kind="select", choices=products_),
        Field(
            "activation_date",
            "Activation date",
            kind="date",
            help="The date from which the account is usable; empty: today.",
        ),
        Field(
            "billing_model",
            "Type",
            kind="select",
            choices=billing.choices(TYPES),
            help="Credit for those who pay later, Debit for those who pay before.",
        ),
        Field(
            "i_account_balance_control_type",
            "Balance control",
            kind="select",
            choices=billing.choices(BALANCE_CONTROL),
            help="A subordinate account spends its customer's funds.",
        ),
    )
    owner = Field(
        "customer",
        "Customer",
        value=customer,
        kind="pick",
        required=True,
        source=("Customers", visit.path("customers", "pick")),
        help="The name of the customer who pays.",
    )
    return [owner, *asked]


_MORE = billing.of_model(
    NewAccount,
    Field("expiration_date", "Expiration date", kind="date", help="No longer usable from then on."),
    Field("opening_balance", "Opening balance", kind="number"),
    Field("credit_limit", "Credit limit", kind="number", help="Empty: no limit."),
    Field("h323_password", "Service password", kind="secret", help="For SIP, RADIUS and the like."),
    Field("password", "Password", kind="secret", help="For the user's own log-in to self-care."),
    Field("firstname", "First name"),
    Field("lastname", "Last name"),
    Field("companyname", "Company"),
    Field("email", "E-mail"),
    Field("phone1", "Phone"),
)


async def _new_sheet(visit: Visit) -> Callable[[Scope], Sheet]:
    number = listing.number(visit, "customer", 0, most=2**62)

    def customer_of(scope: Scope) -> str:
        if not number:
            return ""
        info = customers.get_info(scope, GetCustomer(i_customer=number))
        return str(info["customer_info"]["name"])

    customer = await billing.fetch(visit, customer_of)
    crumbs = [("Accounts", visit.path("accounts"))]
    if number:
        home = visit.path("customers", number)
        crumbs = [("Customers", visit.path("customers")), (customer, home)]
        crumbs.append(("Accounts", f"{home}/accounts"))

    def sheet(scope: Scope) -> Sheet:
        fields = _new_fields(scope, visit, customer)
        return Sheet("Create an account", crumbs, [("", fields), ("More", _MORE)])

    return sheet


@pages.get("/new")
async def ask_new(visit: Administrator) -> Response:
    """The form "Create an account"."""
    return billing.show(visit, await billing.fetch(visit, await _new_sheet(visit)))


@pages.post("/new")
async def create(visit: Administrator) -> Response:
    """Add an account, with its SIM card."""

    def make(scope: Scope, sheet: Sheet, form: Form) -> int:
        given: dict[str, Any] = sheet.given(form)
        owner, wrong = _owner(scope, given.pop("customer", ""))
        if owner is not None:
            given["i_customer"] = owner
        try:
            params = validated(AddAccount, {"account_info": given})
        except InvalidParameters as error:
            problems = [
                ("customer", wrong) if place == "account_info.i_customer" else (place, what)
                for place, what in error.problems
            ]
            raise InvalidParameters(problems) from None
        return int(accounts.add(scope, params)["i_account"])

    return await billing.create(visit, KIND, await _new_sheet(visit), make)


def _owner(scope: Scope, name: str) -> tuple[int | None, str]:
    """The number of the customer with this name; or None, and what is wrong with the name."""
    try:
        named = validated(GetCustomer, {"name": name})
        return int(customers.get_info(scope, named)["customer_info"]["i_customer"]), ""
    except InvalidParameters as error:
        return None, error.problems[0][1]
    except BillingFault as fault:
        return None, str(fault)


# What can be done with an account


def _edit_parts(_visit: Visit, scope: Scope, info: Result) -> Parts:
    plans = discount_plans.get_list(scope, Page())["discount_plan_list"]
    params = customer_sites.ListSites(i_customer=info["i_customer"])
    sites = customer_sites.get_list(scope, params)["customer_site_list"]
    status = {code: STATUSES[code] for code in (info["bill_status"], "O", "S", "E")}
    account = billing.of_model(
        ChangedAccount,
        Field("id", "ID", help="A new ID is the number of its SIM card, too."),
        Field("i_account_role", "Account role", kind="select", choices=billing.choices(ROLES)),
        Field(
            "bill_status",
            "Status",
            kind="select",
            choices=billing.choices(status),
            help="Inactive follows from the dates.",
        ),
        Field("activation_date", "Activation date", kind="date"),
        Field("expiration_date", "Expiration date", kind="date"),
        Field(
            "i_account_balance_control_type",
            "Balance control",
            kind="select",
            choices=billing.choices(BALANCE_CONTROL),
        ),
        Field("credit_limit", "Credit limit", kind="number", help="Empty: no limit."),
        Field("time_zone_name", "Time zone", help="Such as Europe/Prague."),
        Field("i_vd_plan", "Discount plan", kind="select", choices=_named(plans, "i_vd_plan")),
        Field(
            "i_customer_site",
            "Customer site",
            kind="select",
            choices=_named(sites, "i_customer_site"),
        ),
    )
    subscriber = billing.of_model(ChangedAccount, *_SUBSCRIBER)
    return [
        ("", billing.with_values(account, info)),
        ("Subscriber", billing.with_values(subscriber, info)),
    ]


_SUBSCRIBER = (
    Field("salutation", "Salutation"),
    Field("firstname", "First name"),
    Field("midinit", "Middle initial"),
    Field("lastname", "Last name"),
    Field("companyname", "Company"),
    Field("baddr1", "Address"),
    Field("address_line_2", "Address, line 2"),
    Field("city", "City"),
    Field("state", "State"),
    Field("zip", "Postal code"),
    Field("country", "Country"),
    Field("email", "E-mail"),
    Field("phone1", "Phone"),
    Field("phone2", "Other phone"),
    Field("faxnum", "Fax"),
)


def _named(rows: Sequence[Result], key: str) -> list[tuple[str, str]]:
    return [("", "none"), *((str(row[key]), row["name"]) for row in rows)]


def _update(scope: Scope, info: Result, changed: dict[str, str | None]) -> Outcome:
    named = {"i_account": info["i_account"], **changed}
    accounts.update_fields(scope, validated(UpdateAccount, {"account_info": named}))
    return Outcome("Saved")


def _edit(scope: Scope, info: Result, sheet: Sheet, form: Form) -> Outcome:
    return _update(scope, info, sheet.changed(form))


def _product_parts(_visit: Visit, scope: Scope, info: Result) -> Parts:
    known = [(str(key), name) for key, name in products.names(scope)]
    product = billing.of_model(
        ChangedAccount, Field("i_product", "Product", kind="select", choices=known)
    )
    return [("", billing.with_values(product, info))]


def _card_parts(visit: Visit, _scope: Scope, info: Result) -> Parts:
    card = info["sim_card"] or {}
    imsi = Field(
        "imsi",
        "IMSI",
        value=card.get("imsi", ""),
        kind="pick",
        source=("SIM Card Inventory", visit.path("sim-cards", "pick")),
        help="The card that the account has now becomes available again. Empty: it has none.",
    )
    return [("", [imsi])]


def _swap(scope: Scope, info: Result, sheet: Sheet, form: Form) -> Outcome:
    changed = sheet.changed(form)
    held, imsi = info["sim_card"], changed.get("imsi")
    if imsi:
        named = validated(sim_cards.GetCard, {"imsi": imsi})
        card = sim_cards.get_info(scope, named)["card_info"]["i_sim_card"]
        sim_cards.assign(scope, sim_cards.AssignCard(i_sim_card=card, i_account=info["i_account"]))
        return Outcome(f"{info['id']} has the SIM card {imsi} now")
    if "imsi" in changed and held:
        sim_cards.release(scope, sim_cards.OneCard(i_sim_card=held["i_sim_card"]))
    return Outcome(f"{info['id']} has no SIM card now")


def _password_parts(_visit: Visit, _scope: Scope, _info: Result) -> Parts:
    fields = billing.of_model(
        ChangedAccount,
        Field(
            "h323_password",
            "Service password",
            kind="secret",
            help="For SIP, RADIUS and the like. Empty: it stays as it is.",
        ),
        Field(
            "password",
            "Password",
            kind="secret",
            help="For the user's own log-in to self-care. Empty: it stays as it is.",
        ),
    )
    return [("", fields)]


def _set_passwords(scope: Scope, info: Result, sheet: Sheet, form: Form) -> Outcome:
    return _update(scope, info, {**sheet.given(form)})


PAYMENT = billing.of_model(
    payments.Transaction,
    Field(
        "action",
        "Transaction",
        kind="select",
        choices=[("Manual payment", "Manual payment"), ("Manual charge", "Manual charge")],
        help="A payment is what somebody can spend more; a charge is not limited by the funds.",
    ),
    Field("amount", "Amount", kind="number", help="Above 0."),
    Field("visible_comment", "Comment", kind="area"),
)


def _pay(scope: Scope, info: Result, sheet: Sheet, form: Form) -> Outcome:
    given = {"i_account": info["i_account"], **sheet.given(form)}
    params = validated(payments.MakeTransaction, given)
    balance = payments.make_transaction(scope, params)["balance"]
    noted = {"action": params.action, "amount": params.amount, "balance": balance}
    return Outcome(f"{params.action} of {billing.text(params.amount)} is done", noted=noted)


def _terminate(scope: Scope, info: Result, _sheet: Sheet, form: Form) -> Outcome:
    pool = int(form.get("release_assigned_did") == "on")
    named = TerminateAccount(i_account=info["i_account"], release_assigned_did=pool)
    accounts.terminate(scope, named)
    return Outcome(f"{info['id']} is closed")


def _terminate_parts(_visit: Visit, _scope: Scope, _info: Result) -> Parts:
    pool = Field(
        "release_assigned_did",
        "Release its DID numbers",
        kind="switch",
        help="They go back to the pool; otherwise its customer keeps them.",
    )
    return [("", [pool])]


KIND = Kind(
    noun="account",
    plural="Accounts",
    path="accounts",
    key="i_account",
    name="id",
    info=_info,
    tasks={
        "edit": Task("edit", _edit_parts, _edit),
        "top-up": Task("top up", lambda *_: [("", PAYMENT)], _pay, button="Top up"),
        "product": Task("change product", _product_parts, _edit),
        "sim-card": Task("change SIM card", _card_parts, _swap),
        "passwords": Task(
            "passwords",
            _password_parts,
            _set_passwords,
            secrets=_SECRETS,
        ),
        "services": billing.services(UpdateOfAccount, "i_account"),
        "terminate": Task(
            "terminate",
            _terminate_parts,
            _terminate,
            button="Terminate",
            is_danger=True,
            about="Terminate this account? It is closed for good, its SIM card is disposed of and "
            "its aliases are closed with it. This cannot be undone.",
        ),
    },
)


@pages.post("/{i_account:int}/block")
async def block(visit: Administrator, i_account: PathNumber) -> Response:
    """Keep an account from its services until it is unblocked."""
    return await billing.act(visit, KIND, i_account, "block", _blocked("Y"))


@pages.post("/{i_account:int}/unblock")
async def unblock(visit: Administrator, i_account: PathNumber) -> Response:
    """Let an account use its services again."""
    return await billing.act(visit, KIND, i_account, "unblock", _blocked("N"))


def _blocked(flag: str) -> Callable[[Scope, Result], str]:
    def change(scope: Scope, info: Result) -> str:
        _update(scope, info, {"blocked": flag})
        return f"{info['id']} is {'blocked' if flag == 'Y' else 'unblocked'}"

    return change


@pages.get("/{i_account:int}/{task}")
async def ask(visit: Administrator, i_account: PathNumber, task: str) -> Response:
    """The form for what can be done with an account."""
    return await billing.ask(visit, KIND, i_account, task)


@pages.post("/{i_account:int}/{task}")
async def do(visit: Administrator, i_account: PathNumber, task: str) -> Response:
    """Do what the form says."""
    return await billing.do(visit, KIND, i_account, task)
