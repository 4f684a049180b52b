"""A Ministra for tests, as its API is documented and its public sources show; not the product.

Every error is HTTP 200. An unknown tariff is none, and none reads as the default one. Passwords
are kept as digests, and nothing tells them. Account numbers need not be unique, logins must be.
"""

import hashlib
import json
from base64 import b64encode
from urllib.parse import parse_qs, unquote

from webhook import Answer, Webhook

BASE = "/stalker_portal/api/v1/"
WRITABLE = ("login", "account_number", "full_name", "comment")


class Refused(Exception):
    """An ERROR of the API."""


class MinistraServer(Webhook):
    """A Ministra with three tariffs; ``sent`` are the events that set-top boxes got.

    ``loses`` is a method whose requests are carried out, and not answered.
    """

    def __init__(self, user="espf", key="api-key", *, tells_comments=True):
        super().__init__()
        self.always = self._answer
        self.user, self.key = user, key
        self.is_enabled = True
        self.tells_comments = tells_comments
        self.tariffs = {"basic": 1, "family": 2, "sport": 3}
        self.default = "basic"
        self.accounts = {}
        self.sent = []
        self.loses = None
        self._number = 0

    @property
    def api(self):
        return f"{self.url}{BASE}"

    def add(self, **fields):
        """An account that somebody has made by hand."""
        return self._create({"status": "1", **fields})

    def of_login(self, login):
        """The account that somebody logs in to, if it is there."""
        return next((one for one in self.accounts.values() if one["login"] == login), None)

    def watches(self, login, password):
        """What a set-top box shows: a tariff, ``cut off``, or nothing where it cannot log in."""
        account = self.of_login(login)
        if account is None or account["password"] != digest(password, account["id"]):
            return None
        return self._tariff(account) if account["is_on"] else "cut off"

    def _answer(self, request):
        expected = b64encode(f"{self.user}:{self.key}".encode()).decode()
        if not self.is_enabled or not request.path.startswith(BASE):
            return Answer(404, body="API not enabled")
        if request.headers.get("authorization") != f"Basic {expected}":
            return told("ERROR", error="401 Unauthorized request", status=401)
        # What is not a form is no data at all.
        form = {name: values[-1] for name, values in parse_qs(request.body.decode()).items()}
        resource, _, rest = unquote(request.path.removeprefix(BASE)).partition("/")
        identifiers = rest.split("/")[0].split(",") if rest else None
        try:
            results = self._do(request.method, resource, identifiers, form)
            return Answer(fault="close") if self.loses == request.method else told("OK", results)
        except Refused as error:
            return told("ERROR", error=str(error))

    def _do(self, method, resource, identifiers, form):
        if resource == "tariffs" and method == "GET":
            plans = self.tariffs.items()
            return [{"id": str(number), "external_id": name} for name, number in plans]
        if resource not in {"accounts", "users"}:
            raise Refused(f'Resource "{resource}" does not exist')
        if method == "POST":
            return self._created(form)
        by = "account_number" if resource == "accounts" else "login"
        found = [
            one for one in self.accounts.values() if identifiers is None or one[by] in identifiers
        ]
        if method != "GET" and not identifiers:
            raise Refused("Identifier required")
        if identifiers is not None and len(identifiers) == 1 and not found:
            raise Refused("Account not found")
        if method == "GET":
            shown = [self._shown(one) for one in found]
            return shown if resource == "accounts" else shown[0]
        if len(identifiers) > 1:
            raise Refused("Only one identifier allowed")
        for one in found:
            self._delete(one) if method == "DELETE" else self._update(one, form)
        return True

    def _created(self, form):
        if not form:
            raise Refused("HTTP POST data is empty")
        if not form.get("login"):
            raise Refused("Login required")
        if self.of_login(form["login"]):
            raise Refused("Login already in use")
        return bool(self._create(form))

    def _create(self, form):
        self._number += 1
        account = {"id": self._number, "is_on": True, "plan": 0, "password": ""}
        account |= {name: form.get(name, "") for name in WRITABLE}
        self.accounts[self._number] = account
        self._write(account, form)
        return account

    def _update(self, account, form):
        if not form:
            raise Refused("HTTP POST data is empty")
        holder = self.of_login(form.get("login"))
        if holder is not None and holder is not account:
            raise Refused("Login already in use")
        was_on = account["is_on"]
        self._write(account, form)
        if account["is_on"] != was_on:
            self.sent.append(("cut_on" if account["is_on"] else "cut_off", account["login"]))

    def _write(self, account, form):
        account |= {name: form[name] for name in WRITABLE if name in form}
        if form.get("tariff_plan"):
            account["plan"] = self.tariffs.get(form["tariff_plan"], 0)
        if "status" in form:
            account["is_on"] = form["status"] == "1"
        if form.get("password"):
            account["password"] = digest(form["password"], account["id"])

    def _delete(self, account):
        del self.accounts[account["id"]]

    def _tariff(self, account):
        names = {number: name for name, number in self.tariffs.items()}
        return names.get(account["plan"], self.default)

    def _shown(self, account):
        shown = {name: account[name] for name in WRITABLE}
        if not self.tells_comments:
            del shown["comment"]
        return shown | {
            "status": int(account["is_on"]),
            "tariff_plan": self._tariff(account),
            "online": "0",
            "subscribed": [],
        }


def digest(password, number):
    """How passwords are kept."""
    inner = hashlib.md5(password.encode()).hexdigest()
    return hashlib.md5(f"{inner}{number}".encode()).hexdigest()


def told(word, results=None, error=None, status=200):
    body = {"status": word, "results": results} | ({"error": error} if error else {})
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(body))
