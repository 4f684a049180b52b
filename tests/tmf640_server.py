"""A TMF640 server for tests: real HTTP, made from the specification of version 4 with its traps.

It knows no unique external ids unless told to; a PATCH replaces lists as a whole; lists come in
pages; what is ordered may be worked on later, which a monitor tells of.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from webhook import Answer, Request, Webhook

BASE = "/tmf-api/ServiceActivationAndConfiguration/v4"
STATES = ("feasibilityChecked", "designed", "reserved", "inactive", "active", "terminated")
#: Pages are no longer than that, whatever is asked for.
LONGEST_PAGE = 2


class TMF640Server(Webhook):
    """The server; ``services`` and ``monitors`` are what it holds, by id."""

    def __init__(self) -> None:
        super().__init__()
        self.always = self.answer
        self.services: dict[str, dict[str, Any]] = {}
        self.monitors: dict[str, dict[str, Any]] = {}
        self.specifications = {"MOBILE", "MOBILE_GOLD"}
        #: What requests must say of who they are.
        self.authorization: str | None = None
        #: Orders are worked on until ``finish``.
        self.is_slow = False
        #: Whether one that is worked on can be seen, as designed.
        self.shows_designs = False
        self.has_unique_ids = False
        self.lists_monitors = True
        self.filters = True
        self._orders: dict[str, tuple[str, str, dict[str, Any] | None]] = {}
        self._last = 0

    @property
    def base(self) -> str:
        """The URL of the API."""
        return f"{self.url}{BASE}"

    def of(self, external_id: str) -> list[dict[str, Any]]:
        """The services of this external id that are not over."""
        return [
            one
            for one in self.services.values()
            if one["externalId"] == external_id and one["state"] != "terminated"
        ]

    def changes(self) -> list[str]:
        """The requests so far that may change something."""
        return [f"{one.method} {one.path}" for one in self.requests if one.method != "GET"]

    def finish(self) -> None:
        """Do all that is ordered."""
        for number, (method, target, body) in list(self._orders.items()):
            answer = self._do(method, target, body, urgent=True)
            self._told(number, "Completed" if answer.status < 300 else "InError", answer)
        self._orders.clear()

    def fail(self, status: int, reason: str) -> None:
        """Let all that is ordered come to nothing."""
        for number in self._orders:
            self._told(number, "InError", error(status, reason))
        self._orders.clear()

    def answer(self, request: Request) -> Answer:
        """One answer."""
        parts = urlsplit(request.path)
        if self.authorization and request.headers.get("authorization") != self.authorization:
            return error(401, "who are you")
        if not parts.path.startswith(f"{BASE}/"):
            return error(404, "no such resource")
        kind, _, number = parts.path.removeprefix(f"{BASE}/").partition("/")
        query = dict(parse_qsl(parts.query))
        held = {"service": self.services, "monitor": self.monitors}.get(kind)
        if held is None or (kind == "monitor" and not number and not self.lists_monitors):
            return error(404, "no such resource")
        if request.method == "GET":
            return self._get(held, number, query)
        if kind == "monitor" or (request.method == "POST") == bool(number):
            return error(405, "not allowed")
        body = request.json if request.body else None
        return self._do(request.method, number, body)

    def _get(
        self, held: Mapping[str, dict[str, Any]], number: str, query: dict[str, str]
    ) -> Answer:
        if number:
            return said(200, held[number]) if number in held else error(404, "not found")
        fields = query.pop("fields", "")
        offset, limit = int(query.pop("offset", 0)), int(query.pop("limit", 100))
        found = [
            one
            for one in held.values()
            if not self.filters or all(str(one.get(name)) == query[name] for name in query)
        ]
        page = found[offset : offset + min(limit, LONGEST_PAGE)]
        if fields:
            chosen = {"id", "href", *fields.split(",")}
            page = [{name: one[name] for name in one if name in chosen} for one in page]
        is_all = offset + len(page) >= len(found)
        headers = {"X-Total-Count": str(len(found)), "X-Result-Count": str(len(page))}
        return said(200 if is_all else 206, page, headers)

    def _do(
        self, method: str, number: str, body: dict[str, Any] | None, *, urgent: bool = False
    ) -> Answer:
        if number and number not in self.services:
            return error(404, "not found")
        if fault := self._fault(method, body):
            return fault
        if self.is_slow and not urgent:
            return self._accept(method, number, body)
        if method == "DELETE":
            del self.services[number]
            return Answer(204)
        assert body is not None
        if method == "PATCH":
            self.services[number] |= body
            return said(200, self.services[number])
        made = self._make(body)
        return said(201, made, {"Location": made["href"]})

    def _fault(self, method: str, body: dict[str, Any] | None) -> Answer | None:
        if method == "DELETE":
            return None
        if not isinstance(body, dict) or (method == "PATCH" and {"id", "href"} & body.keys()):
            return error(400, "invalid body")
        specification = body.get("serviceSpecification", {}).get("id")
        if specification not in self.specifications and (specification or method == "POST"):
            return error(400, f"there is no specification {specification}")
        if body.get("state", "active") not in STATES:
            return error(400, f"there is no state {body['state']}")
        is_taken = method == "POST" and self.has_unique_ids and self.of(body["externalId"])
        return error(409, "the externalId is taken") if is_taken else None

    def _make(self, body: dict[str, Any]) -> dict[str, Any]:
        for one in self.of(body["externalId"]):
            if one["state"] == "designed":
                one.update(body)
                return one
        number = self._number()
        href = f"{BASE}/service/{number}"
        self.services[number] = {"id": number, "href": href, **body}
        return self.services[number]

    def _accept(self, method: str, number: str, body: dict[str, Any] | None) -> Answer:
        if method == "POST" and body and self.shows_designs:
            self._make({**body, "state": "designed"})
        monitor = self._number()
        href = f"{BASE}/monitor/{monitor}"
        self._orders[monitor] = (method, number, body)
        self.monitors[monitor] = {
            "id": monitor,
            "href": href,
            "sourceHref": f"{BASE}/service/{number}" if number else "",
            "state": "InProgress",
            "request": {"method": method, "to": "", "body": json.dumps(body)},
        }
        return said(202, self.monitors[monitor], {"Location": href})

    def _told(self, monitor: str, state: str, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, str) else answer.body.decode()
        response = {"statusCode": str(answer.status), "body": body}
        self.monitors[monitor] |= {"state": state, "response": response}

    def _number(self) -> str:
        self._last += 1
        return str(self._last)


def said(status: int, body: object, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON answer."""
    told = {"Content-Type": "application/json;charset=utf-8", **(headers or {})}
    return Answer(status, told, json.dumps(body))


def error(status: int, reason: str) -> Answer:
    """An error as the specification has it."""
    return said(status, {"code": str(status), "reason": reason, "status": str(status)})
