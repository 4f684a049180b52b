"""A system that is a dictionary, its handler, and a billing that is one, too, for tests of audits.

Both are cheap, so that what is measured is the audit.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from espf.errors import BillingFault, Rejected
from espf.handlers import registry
from espf.handlers.base import Context, HandlerSettings
from espf.handlers.desired import (
    Change,
    DesiredStateHandler,
    DesiredStateSettings,
    Fields,
)
from espf.handlers.subscriber import Subscriber


class Shelf(DesiredStateHandler):
    """Entries by the ids of accounts, in a dictionary that all of them share."""

    Settings: ClassVar[type[HandlerSettings]] = DesiredStateSettings
    secret_fields = frozenset({"pin"})
    #: What the system holds.
    entries: ClassVar[dict[str, dict[str, str]]] = {}
    #: What it says instead of an answer, of all keys or of one.
    fault: ClassVar[Exception | None] = None
    faults: ClassVar[dict[str, Exception]] = {}
    lists: ClassVar[bool] = True
    reads: ClassVar[int] = 0
    #: Keys that it lists at a time.
    page: ClassVar[int] = 500

    def desired(self, key: str, owner: Subscriber) -> Fields | None:
        if key == "odd":
            raise Rejected(f"nobody can be called {key}")
        access = "no" if owner.barred_by(self.settings.barred_by) else "yes"
        return {"access": access, "pin": f"pin-{owner.id}"}

    async def read(self, key: str, wanted: Fields | None, context: Context) -> Fields | None:
        type(self).reads += 1
        if self.fault is not None:
            raise self.fault
        if key in self.faults:
            raise self.faults[key]
        return self.entries.get(key)

    async def apply(self, change: Change, context: Context) -> None:
        if change.wanted is None:
            self.entries.pop(change.key, None)
        else:
            self.entries[change.key] = dict(change.wanted)

    async def held_keys(self, after: str | None, context: Context) -> Sequence[str]:
        if not self.lists:
            raise Rejected("this system cannot list what it holds")
        keys = sorted(self.entries)
        at = 0 if after is None else bisect_right(keys, after)
        return keys[at : at + self.page]


class People:
    """A billing with accounts 1, 2, 3 ..., made as they are asked for."""

    def __init__(self, count: int, first: int = 1) -> None:
        self.first, self.last = first, first + count - 1
        #: What is otherwise than usual, by i_account.
        self.known: dict[int, dict[str, Any]] = {}
        self.calls = 0
        self.fault: Exception | None = None

    def __call__(self, _i_env: int) -> "People":
        return self

    def info(self, number: int) -> dict[str, Any]:
        usual = {"i_account": number, "id": f"n{number:07}", "bill_status": "O", "blocked": "N"}
        return {**usual, **self.known.get(number, {})}

    def fill(self) -> None:
        """Have the shelf hold what it should."""
        Shelf.entries.clear()
        for number in range(self.first, self.last + 1):
            info = self.info(number)
            if info["bill_status"] != "C":
                access = "no" if info["blocked"] == "Y" else "yes"
                Shelf.entries[info["id"]] = {"access": access, "pin": f"pin-{info['id']}"}

    async def call(self, service: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self.calls += 1
        if self.fault is not None:
            raise self.fault
        match f"{service}/{method}":
            case "Account/get_account_list":
                return {"account_list": list(self._listed(params))}
            case "Account/get_account_info":
                return {"account_info": self._one(params)}
            case "Product/get_product_list":
                return {"product_list": [{"i_product": 5, "name": "Gold"}]}
            case "Product/get_product_info" if params["i_product"] == 5:
                return {"product_info": {"i_product": 5, "name": "Gold"}}
        raise BillingFault("Server.Test.unknown_method", f"{service}/{method}")

    def _listed(self, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        at = max(params.get("after_i_account", 0) + 1, self.first + params.get("offset", 0))
        found = 0
        while at <= self.last and found < params["limit"]:
            info = self.info(at)
            if params.get("i_product") in {None, info.get("i_product")}:
                found += 1
                yield info
            at += 1

    def _one(self, params: Mapping[str, Any]) -> dict[str, Any]:
        number = params.get("i_account")
        if number is None:
            by_id = {one["id"]: key for key, one in self.known.items() if "id" in one}
            name = params["id"]
            number = by_id.get(name)
            if number is None and name[:1] == "n" and name[1:].isdigit():
                number = int(name[1:])
        if number is None or not self.first <= number <= self.last:
            raise BillingFault("Server.Account.not_found", "there is no such account")
        info = self.info(number)
        if "id" in params and info["id"] != params["id"]:
            raise BillingFault("Server.Account.not_found", "there is no such account")
        return info

    async def get_account_info(self, i_account: int) -> dict[str, Any]:
        return self._one({"i_account": i_account})


@contextmanager
def shelves(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Shelf]]:
    """The handler type Shelf is known, and its system is empty and well."""
    known = {**registry.handler_types(), "Shelf": Shelf}
    monkeypatch.setattr(registry, "_registered", lambda: (known, {}))
    for name, value in {"entries": {}, "faults": {}, "fault": None, "reads": 0}.items():
        monkeypatch.setattr(Shelf, name, value)
    yield Shelf
