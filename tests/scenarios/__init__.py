"""How every event type of the catalogue comes about in the reference billing.

A scenario says what an administrator does over the API, what a stranger would write in SQL for the
same, and which events exactly follow, in order, with which variables. In all of its texts
``{name}`` stands for what the world knows under this name: the keys of a fresh customer, account
and so on, and what steps have found since. Tables stand in double quotes in SQL.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Call:
    """A method of the billing API. The keys that it answers become known by their names."""

    method: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class New:
    """A number that no row has yet becomes known by a name, for an INSERT in SQL."""

    name: str


@dataclass(frozen=True)
class Tick:
    """The billing clock passes this moment."""

    at: datetime


#: What can be done: one of the above, or a statement in SQL.
Step = Call | New | Tick | str

#: An event: its type and its variables, without i_env and event_time.
Told = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Scenario:
    """How one type comes about.

    ``before`` is done first; the events of it do not matter. ``told`` holds all events of ``api``,
    and of ``sql``.
    """

    event_type: str
    api: tuple[Step, ...]
    sql: tuple[Step, ...]
    told: tuple[Told, ...]
    before: tuple[Step, ...] = ()


ACCOUNT = {"i_account": "{i_account}", "i_customer": "{i_customer}"}
CUSTOMER = {"i_customer": "{i_customer}"}


def filled(template: Any, known: Mapping[str, Any]) -> Any:
    """A template with what is known. A text that is one name alone becomes the thing itself."""
    if isinstance(template, Mapping):
        return {name: filled(value, known) for name, value in template.items()}
    if isinstance(template, (list, tuple)):
        return [filled(value, known) for value in template]
    if not isinstance(template, str):
        return template
    if template[:1] == "{" and template.find("}") == len(template) - 1:
        return known[template[1:-1]]
    return template.format_map(known)


def update_account(**fields: Any) -> Call:
    """Account/update_account for the world's account."""
    return Call("Account/update_account", {"account_info": {"i_account": "{i_account}", **fields}})


def update_customer(**fields: Any) -> Call:
    """Customer/update_customer for the world's customer."""
    info = {"i_customer": "{i_customer}", **fields}
    return Call("Customer/update_customer", {"customer_info": info})


def set_account(columns: str) -> str:
    """An UPDATE of the world's account."""
    return f'UPDATE "Accounts" SET {columns} WHERE i_account = {{i_account}}'


def set_customer(columns: str) -> str:
    """An UPDATE of the world's customer."""
    return f'UPDATE "Customers" SET {columns} WHERE i_customer = {{i_customer}}'


def in_short(steps: tuple[Step, ...]) -> str:
    """What is done, as the documents tell it."""
    return "; ".join(text for step in steps if (text := _short(step)))


def _short(step: Step) -> str:
    match step:
        case Call():
            return " ".join((step.method, *dict.fromkeys(_members(step.params))))
        case str():
            return _statement(" ".join(step.replace('"', "").split()))
        case Tick():
            return "the billing clock"
        case New():
            return ""


def _members(params: object, name: str = "") -> Iterator[str]:
    """The parameters, by name, and with their values where these are short."""
    if isinstance(params, Mapping):
        for key, value in params.items():
            yield from _members(value, key)
    elif isinstance(params, (list, tuple)) and params:
        for value in params:
            yield from _members(value, name)
    else:
        text = "null" if params is None else str(params)
        yield f"{name}={text}" if len(text) <= 14 and "{" not in text else name


def _statement(sql: str) -> str:
    """As far as it says what is done: an UPDATE up to its WHERE, the table of any other."""
    if sql.startswith("UPDATE"):
        return re.sub(r"'?[^' ]*\{\w+\}[^') ]*'?", "…", re.sub(r"(.*) WHERE .*", r"\1", sql))
    return " ".join(sql.split()[:3])
