"""What the pages about the reference billing have in common: its functions, forms and lists.

The pages ask the same functions as the billing API does, with the same models of parameters. What
these refuse stands beside the field that is to blame, in the same words.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, TypeVar, get_args

from fastapi import Depends
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy import Connection

from espf.billing import service_features
from espf.billing.browse import Found, Leaf
from espf.billing.scope import Result, Scope
from espf.billing.service_features import (
    Owner,
    OwnerColumn,
    UpdateOfAccount,
    UpdateOfCustomer,
    UpdateOfProduct,
)
from espf.errors import BillingFault, Conflict, InvalidRequest, NotFound
from espf.users import ADMINISTER
from espf.web.pages import listing
from espf.web.pages.forms import Field
from espf.web.pages.listing import Column, Listing
from espf.web.pages.visit import Form, Guest, Visit, Visitor, logged_in
from espf.web.rest import InvalidParameters, validated

T = TypeVar("T")

Reader = Annotated[Visit, Depends(Visitor())]
Administrator = Annotated[Visit, Depends(Visitor(ADMINISTER))]

#: What a dialog offers at a time; its search finds the others.
MOST_PICKS = 20

#: Rows of a CSV file that are read at a time.
BATCH = 1000

#: What follows from something else, or changes by itself: no audit log is told.
_FOREIGN = {"service_quotas", "available_funds", "credit_exceed", "is_active"}


async def require_billing(guest: Annotated[Guest, Depends(logged_in)]) -> None:
    """Raise NotFound where the reference billing does not have the environment."""
    if not guest.has_billing:
        raise NotFound(
            "the reference billing in this database, if there is one, has no such environment: "
            "customers, accounts, products and SIM cards are looked after in the billing system "
            "that is attached"
        )


# The functions of the billing


def scope_of(visit: Visit, connection: Connection) -> Scope:
    """The scope of a call: the visit's environment, and no keys of SIM cards."""
    site = visit.site
    scope = Scope(connection, visit.i_env, site.database.now(connection), site.sealer)
    scope.require_environment()
    return scope


@contextmanager
def as_page() -> Iterator[None]:
    """What the billing refuses, as what a page says of it. Raises NotFound or Conflict."""
    try:
        yield
    except BillingFault as fault:
        kind = NotFound if fault.code.endswith(".not_found") else Conflict
        raise kind(str(fault)) from None


async def fetch(visit: Visit, read: Callable[[Scope], T]) -> T:
    """What a function finds in the billing. Raises NotFound or Conflict."""

    def work(connection: Connection) -> T:
        return read(scope_of(visit, connection))

    with as_page():
        return await visit.fetch(work)


# Forms


Parts = Sequence[tuple[str, Sequence[Field]]]


@dataclass(frozen=True)
class Sheet:
    """A form that has a page of its own. ``parts`` are titles with the fields below them.

    ``crumbs`` are titles and addresses of the pages above; the last is where Cancel leads. ``was``
    is what was there when the form was opened, where something is changed.
    """

    title: str
    crumbs: Sequence[tuple[str, str]]
    parts: Parts
    button: str = "Save"
    about: str = ""
    is_danger: bool = False
    was: Mapping[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> list[Field]:
        """All fields."""
        return [one for _, fields in self.parts for one in fields]

    @property
    def picks(self) -> list[Field]:
        """The fields that have a dialog."""
        return [one for one in self.fields if one.kind == "pick"]

    @property
    def has_file(self) -> bool:
        """Whether a file is sent."""
        return any(one.kind == "file" for one in self.fields)

    def given(self, form: Form) -> dict[str, str]:
        """What was filled in."""
        sent = {one.name: _sent(one, form) for one in self.fields}
        return {name: value for name, value in sent.items() if value}

    def changed(self, form: Form) -> dict[str, str | None]:
        """What somebody changed in the form; None: made empty.

        What was left as the form had it is not written back over what others write meanwhile.
        """
        return {
            one.name: value if value or one.required else None
            for one in self.fields
            if one.name in form
            for value in [_sent(one, form)]
            if value != _was(one, form)
        }


@dataclass(frozen=True)
class Outcome:
    """What a form has done: where to go on, and what is said there.

    ``noted`` is for the audit log, beside what the subject shows of itself.
    """

    said: str
    path: str = ""
    noted: Mapping[str, Any] = field(default_factory=dict)


def show(visit: Visit, sheet: Sheet) -> Response:
    """A form to fill in."""
    return visit.page("billing/form.html", sheet=sheet, error=None)


async def submit(
    visit: Visit,
    sheet_of: Callable[[Scope], Sheet],
    change: Callable[[Scope, Sheet, Form], Outcome],
) -> Response:
    """Do what a form asks for; or show it again, each error beside its field."""
    form = Form([])
    try:
        form = await visit.form()

        def work(connection: Connection) -> Outcome:
            scope = scope_of(visit, connection)
            return change(scope, sheet_of(scope), form)

        done = await visit.write(work)
    except (BillingFault, InvalidRequest) as error:
        sheet = await fetch(visit, sheet_of)
        blamed, general = _blamed(sheet, form, error)
        return visit.page("billing/form.html", status=422, sheet=blamed, error=general)
    return visit.go(done.path, done.said)


def of_model(model: type[BaseModel], *fields: Field) -> list[Field]:
    """Fields with what the model of the parameters says of them: what is required, defaults."""
    return [_of_model(model, one) for one in fields]


def with_values(fields: Sequence[Field], values: Mapping[str, Any]) -> list[Field]:
    """Fields that show what somebody has."""
    return [_with_value(one, text(values.get(one.name))) for one in fields]


def text(value: object) -> str:
    """A value as a form has it."""
    match value:
        case None:
            return ""
        case Decimal():
            return f"{value + 0:f}"
        case date():
            return value.isoformat()
        case _:
            return str(value)


def choices(titles: Mapping[Any, str]) -> list[tuple[str, str]]:
    """What can be selected, from codes and their titles."""
    return [(str(code), title) for code, title in titles.items()]


def _of_model(model: type[BaseModel], one: Field) -> Field:
    known = model.model_fields[one.name]
    nullable = type(None) in get_args(known.annotation)
    default = "" if known.is_required() else text(known.get_default())
    return replace(one, required=not nullable, value=one.value or default)


def _with_value(one: Field, value: str) -> Field:
    known = one.kind != "select" or value in dict(one.choices)
    # What no page offers, but another program has written, is not changed by looking at it.
    offered = one.choices if known else (*one.choices, (value, value))
    return replace(one, value=value, choices=offered)


def _sent(one: Field, form: Form) -> str:
    if one.kind == "secret":
        return form.raw(one.name)
    return form.get(one.name, "").replace("\r\n", "\n")


def _was(one: Field, form: Form) -> str:
    """What a field had when its form was opened."""
    return form.get(f"was:{one.name}", one.value).replace("\r\n", "\n")


#: The field that a fault of the billing is about, where a form has it.
_FAULTS = {
    "Account.duplicate_id": "id",
    "Customer.duplicate_name": "name",
    "Customer.not_found": "customer",
    "Customer.closed": "customer",
    "Product.duplicate_name": "name",
    "Product.not_found": "i_product",
    "DiscountPlan.not_found": "i_vd_plan",
    "CustomerSite.not_found": "i_customer_site",
    "AccessPolicy.not_found": "attributes",
    "SIMCard.not_found": "imsi",
    "SIMCard.not_available": "imsi",
    "SIMCard.duplicate_imsi": "imsi",
    "SIMCard.duplicate_iccid": "iccid",
}


def _problems(
    error: BillingFault | InvalidRequest, names: Collection[str]
) -> list[tuple[str, str]]:
    """Where something is wrong, and what; a fault is about the one of these fields."""
    match error:
        case InvalidParameters():
            return list(error.problems)
        case InvalidRequest():
            return [(error.field or "", str(error).removeprefix(f"{error.field}: "))]
        case _:
            field = _FAULTS.get(error.code.partition(".")[2], "")
            return [(field if field in names else "", str(error))]


def _blamed(
    sheet: Sheet, form: Form, error: BillingFault | InvalidRequest
) -> tuple[Sheet, str | None]:
    """The sheet as somebody sent it, with what is wrong; and what no field is to blame for."""
    names = {one.name for one in sheet.fields}
    wrong: dict[str, list[str]] = {}
    for place, what in _problems(error, names):
        steps = place.split(".")
        named = next((step for step in steps if step in names), "")
        within = steps[steps.index(named) + 1 :] if named else steps if place else []
        wrong.setdefault(named, []).append(f"{_place(within)}{what}")
    parts = [
        (title, [_as_sent(one, form, wrong.get(one.name)) for one in fields])
        for title, fields in sheet.parts
    ]
    was = {one.name: _was(one, form) for one in sheet.fields if one.name in sheet.was}
    return replace(sheet, parts=parts, was=was), "; ".join(wrong.get("", ())) or None


def _as_sent(one: Field, form: Form, wrong: Sequence[str] | None) -> Field:
    kept = one.kind in {"secret", "file"}
    value = one.value if kept else form.get(one.name, one.value)
    return replace(one, value=value, error="; ".join(wrong) if wrong else None)


def _place(steps: Sequence[str]) -> str:
    """Where in a field something is wrong: ``line 3, values: ``."""
    words = [f"line {int(step) + 1}" if step.isdigit() else step for step in steps]
    return f"{', '.join(words)}: " if words else ""


# What can be done with an account, a customer, a product, a card


@dataclass(frozen=True)
class Task:
    """What can be done with something by a form of its own.

    ``change`` gets the fields that were sent and the sheet that was shown. ``secrets`` are the
    fields of which the audit log hears no more than that they were set. ``is_end``: it is no more.
    """

    title: str
    parts: Callable[[Visit, Scope, Result], Parts]
    change: Callable[[Scope, Result, Sheet, Form], Outcome]
    button: str = "Save"
    about: str = ""
    is_danger: bool = False
    is_end: bool = False
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A sort of things that have pages.

    ``info`` is what pages and the audit log may show of one, hence no secrets; it raises a fault
    for what is not there.
    """

    noun: str
    plural: str
    path: str
    key: str
    name: str
    info: Callable[[Scope, int], Result]
    tasks: Mapping[str, Task]

    def subject(self, info: Result) -> str:
        """What the audit log calls it."""
        return f"{self.noun} {info[self.name]} ({info[self.key]})"

    def action(self, name: str) -> str:
        """What the audit log calls something that is done: ``sim-card.release``."""
        return f"{self.noun.lower().replace(' ', '-')}.{name}"

    def home(self, visit: Visit, number: int) -> str:
        """The address of its page."""
        return visit.path(self.path, number)

    def list_crumb(self, visit: Visit) -> tuple[str, str]:
        """The list that it is in."""
        return self.plural, visit.path(self.path)

    def crumbs(self, visit: Visit, info: Result) -> list[tuple[str, str]]:
        """The pages above what is done with it."""
        home = self.home(visit, info[self.key])
        return [self.list_crumb(visit), (info[self.name], home)]


async def ask(visit: Visit, kind: Kind, number: int, name: str) -> Response:
    """The form for a task."""
    task = _task(kind, name)
    return show(visit, await fetch(visit, lambda scope: _sheet(visit, scope, kind, number, task)))


async def do(visit: Visit, kind: Kind, number: int, name: str) -> Response:
    """Do a task as its form says."""
    task = _task(kind, name)

    def sheet_of(scope: Scope) -> Sheet:
        with as_page():
            return _sheet(visit, scope, kind, number, task)

    def change(scope: Scope, sheet: Sheet, form: Form) -> Outcome:
        before = kind.info(scope, number)
        done = task.change(scope, before, sheet, form)
        secrets = {one: "set" for one in task.secrets if form.raw(one)}
        noted = {**done.noted, **secrets}
        is_changed = _note(visit, scope, name, kind, before, noted)
        path = visit.path(kind.path) if task.is_end else kind.home(visit, number)
        return Outcome(done.said if is_changed else "Nothing changed", path)

    return await submit(visit, sheet_of, change)


async def act(
    visit: Visit, kind: Kind, number: int, name: str, change: Callable[[Scope, Result], str]
) -> Response:
    """Do at once what needs no form; ``change`` returns what to say. Raises NotFound, Conflict."""

    def work(connection: Connection) -> str:
        scope = scope_of(visit, connection)
        before = kind.info(scope, number)
        said = change(scope, before)
        is_changed = _note(visit, scope, name, kind, before, {})
        return said if is_changed else "Nothing changed"

    with as_page():
        said = await visit.write(work)
    return visit.go(kind.home(visit, number), said)


async def create(
    visit: Visit,
    kind: Kind,
    sheet_of: Callable[[Scope], Sheet],
    make: Callable[[Scope, Sheet, Form], int],
) -> Response:
    """Make something new as a form says; ``make`` returns its number."""

    def change(scope: Scope, sheet: Sheet, form: Form) -> Outcome:
        number = make(scope, sheet, form)
        info = kind.info(scope, number)
        after = {one: value for one, value in _looked(info).items() if value not in (None, [])}
        visit.note(scope.connection, kind.action("create"), kind.subject(info), None, after)
        said = f"The {kind.noun} {info[kind.name]} is created"
        return Outcome(said, kind.home(visit, number))

    return await submit(visit, sheet_of, change)


def _task(kind: Kind, name: str) -> Task:
    if name not in kind.tasks:
        raise NotFound("there is no such page")
    return kind.tasks[name]


def _sheet(visit: Visit, scope: Scope, kind: Kind, number: int, task: Task) -> Sheet:
    info = kind.info(scope, number)
    parts = task.parts(visit, scope, info)
    return Sheet(
        title=f"{info[kind.name]}: {task.title}",
        crumbs=kind.crumbs(visit, info),
        parts=parts,
        button=task.button,
        about=task.about,
        is_danger=task.is_danger,
        was={one.name: one.value for _, fields in parts for one in fields},
    )


def _note(
    visit: Visit, scope: Scope, name: str, kind: Kind, before: Result, noted: Mapping[str, Any]
) -> bool:
    """Write into the audit log what has changed; returns whether anything has."""
    try:
        after = _looked(kind.info(scope, before[kind.key]))
    except BillingFault:
        after = {}
    old = _looked(before)
    if after == old and not noted:
        return False
    subject = kind.subject(before)
    visit.note(scope.connection, kind.action(name), subject, old, {**after, **noted})
    return True


def _looked(info: Result) -> Result:
    return {name: value for name, value in info.items() if name not in _FOREIGN}


# Lists


def leaf(visit: Visit, order: str) -> Leaf:
    """The leaf that the address asks for: ``q`` how its texts begin, ``sort`` which way round.

    ``page`` is ``after:`` or ``before:`` with the value of a neighbour in the column ``order``.
    Raises InvalidRequest.
    """
    sort = listing.parameter(visit, "sort", order)
    if sort.removeprefix("-") != order:
        raise InvalidRequest(f"sort: this list is sorted by {order} or -{order}", "sort")
    direction, _, neighbour = listing.parameter(visit, "page").partition(":")
    if direction not in {"", "after", "before"}:
        raise InvalidRequest("page: after: or before: and a neighbour are expected", "page")
    beginning = listing.parameter(visit, "q")
    if "\x00" in beginning + neighbour:
        raise InvalidRequest("no text may have a NUL in it", "q")
    return Leaf(
        beginning=beginning,
        descending=sort.startswith("-"),
        limit=listing.number(visit, "size", 50, most=200),
        **{direction: _neighbour(order, neighbour)} if direction else {},
    )


async def show_list(
    visit: Visit,
    template: str,
    columns: Sequence[Column[Result]],
    wanted: Leaf,
    read: Callable[[Scope, Leaf], Found[Result]],
    *,
    order: str,
    name: str,
    more: Sequence[Column[Result]] = (),
    **words: Any,
) -> Response:
    """A page of a long list, or all that fits as the CSV file ``name``.

    ``order`` is the column that orders it; ``more`` columns are in the file only.
    """
    if listing.wants_csv(visit):
        batches = _batches(visit, wanted, read, order)
        return listing.stream_csv(name, [*columns, *more], batches)
    found = await fetch(visit, lambda scope: read(scope, wanted))
    rows = found.rows
    page = Listing(
        visit,
        columns,
        rows,
        f"-{order}" if wanted.descending else order,
        older=visit.here(page=f"after:{rows[-1][order]}") if found.has_later and rows else None,
        newer=visit.here(page=f"before:{rows[0][order]}") if found.has_earlier and rows else None,
    )
    return visit.page(template, listing=page, **words)


async def _batches(
    visit: Visit, wanted: Leaf, read: Callable[[Scope, Leaf], Found[Result]], order: str
) -> AsyncIterator[Sequence[Result]]:
    at = replace(wanted, limit=BATCH, after=None, before=None)
    more = True
    while more:
        leaf = at
        found = await fetch(visit, lambda scope, leaf=leaf: read(scope, leaf))  # type: ignore[misc]
        yield found.rows
        more = found.has_later and bool(found.rows)
        at = replace(at, after=found.rows[-1][order]) if more else at


def _neighbour(order: str, value: str) -> str | int:
    """A value of the column that orders a list: numbers have names such as ``i_account``."""
    if not order.startswith("i_"):
        return value
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise InvalidRequest("page: a number is expected", "page")
    return int(value)


# Service features


def services(
    model: type[UpdateOfAccount | UpdateOfCustomer | UpdateOfProduct], key: OwnerColumn
) -> Task:
    """The task that sets a service feature: ``feature`` in the address names it."""

    def parts(visit: Visit, scope: Scope, info: Result) -> Parts:
        name = listing.parameter(visit, "feature")
        known = _feature(scope, Owner(key, info[key]), name)
        shown = {
            "name": name,
            "flag_value": known.get("flag_value", "Y"),
            "attributes": _lines(known),
        }
        return [("", with_values(_FEATURE, shown))]

    def change(scope: Scope, info: Result, sheet: Sheet, form: Form) -> Outcome:
        feature = sheet.given(form)
        name = feature.get("name", "")
        known = _feature(scope, Owner(key, info[key]), name)
        wanted = {
            **{one["name"]: [None] for one in known.get("attributes", ())},
            **_attributes(feature.pop("attributes", "")),
        }
        named = [{"name": one, "values": values} for one, values in wanted.items()]
        params = {key: info[key], "service_features": [{**feature, "attributes": named}]}
        service_features.update_fields(scope, validated(model, params))
        return Outcome(f"The service feature {name} is saved")

    return Task("service feature", parts, change)


_FEATURE = (
    Field(
        "name",
        "Feature",
        required=True,
        help="Lower-case letters, digits and _, such as netaccess_policy.",
    ),
    Field(
        "flag_value",
        "Switch",
        help="Y on, N off, or a code; ~ as the product has it, ^ as the customer has it, / unset.",
    ),
    Field(
        "attributes",
        "Attributes",
        kind="area",
        help="One on a line: name = value. Several values stand on lines of their own, and what "
        "is left out has none any more.",
    ),
)


def _feature(scope: Scope, owner: Owner, name: str) -> Result:
    known = service_features.of(scope.connection, owner)
    return next((one for one in known if one["name"] == name), {})


def _lines(feature: Result) -> str:
    return "\n".join(
        f"{one['name']} = {value}"
        for one in feature.get("attributes", ())
        for value in one["values"]
        if value is not None
    )


def _attributes(lines: str) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for line in lines.splitlines():
        name, _, value = (part.strip() for part in line.partition("="))
        if line.strip():
            found.setdefault(name, []).append(value or None)
    return found
