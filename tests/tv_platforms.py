"""Two platforms of television for tests, as such are made: one of REST and JSON, one of XML.

They stand for no product. Both have traps of real ones: passwords that nobody tells, numbers of
their own, errors with HTTP 200.
"""

import hashlib
import json
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from webhook import Answer, Webhook


class JsonPlatform(Webhook):
    """Subscribers by a number of its own, found by an external id."""

    def __init__(self):
        super().__init__()
        self.always = self._answer
        self.token = 'tok"en'
        self.subscribers = {}
        self.loses = None
        self._number = 100

    def watches(self, login, password):
        """What a subscriber sees: a package, ``off``, or nothing."""
        for one in self.subscribers.values():
            if (one["login"], one["password"]) == (login, password):
                return one["package"] if one["enabled"] else "off"
        return None

    def _answer(self, request):
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return said(401, {"error": {"message": f"{request.headers} does not do"}})
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = json.loads(request.body) if request.body else {}
        steps = [unquote(step) for step in parts.path.split("/")[3:]]
        answer = getattr(self, f"_{request.method.lower()}")(steps, query, body)
        return Answer(fault="close") if self.loses == request.method else answer

    def _get(self, steps, query, body):
        found = sorted(self.subscribers.values(), key=lambda one: int(one["external_id"]))
        if "external_id" in query:
            found = [one for one in found if one["external_id"] == query["external_id"]]
        after = int(query.get("after", 0))
        found = [one for one in found if int(one["external_id"]) > after][:3]
        shown = [{name: one[name] for name in one if name != "password"} for one in found]
        return said(200, {"items": shown})

    def _post(self, steps, query, body):
        if any(body["external_id"] == one["external_id"] for one in self.subscribers.values()):
            return said(409, {"error": {"message": "there is one"}})
        if fault := self._fault(None, body):
            return fault
        self._number += 1
        self.subscribers[self._number] = {"id": self._number, **body}
        return said(201, {"id": self._number})

    def _patch(self, steps, query, body):
        one = self.subscribers.get(int(steps[0]))
        if one is None:
            return said(404, {"error": {"message": "no such subscriber"}})
        if fault := self._fault(one, body):
            return fault
        one.update(body)
        return said(200, {})

    def _put(self, steps, query, body):
        number, what = steps
        assert what == "password"
        self.subscribers[int(number)]["password"] = body["password"]
        return said(204)

    def _delete(self, steps, query, body):
        return said(204 if self.subscribers.pop(int(steps[0]), None) else 404)

    def _fault(self, mine, body):
        if body.get("package", "FAM") not in {"FAM", "SPO"}:
            return said(422, {"error": {"code": "package", "message": "unknown package"}})
        others = [one["login"] for one in self.subscribers.values() if one is not mine]
        if body.get("login") in others:
            return said(409, {"error": {"code": "login", "message": "the login is taken"}})
        return None


class XmlPlatform(Webhook):
    """One address for all commands; the result stands in the answer, HTTP says 200."""

    def __init__(self):
        super().__init__()
        self.always = self._answer
        self.user, self.key = "espf", "k<e>y"
        self.users = {}
        self.is_busy = False
        self.commands = []

    def watches(self, login, password):
        """What a subscriber sees: packages, ``off``, or nothing."""
        user = self.users.get(login)
        if user is None or user["password"] != hashlib.sha256(password.encode()).hexdigest():
            return None
        return " ".join(user["packages"]) if user["state"] == "active" else "off"

    def _answer(self, request):
        assert request.headers["content-type"].startswith("text/xml")
        root = ET.fromstring(request.body)
        auth = root.find("auth")
        if (auth.get("user"), auth.get("key")) != (self.user, self.key):
            return self._result(99, "who are you")
        if self.is_busy:
            return self._result(90, "busy")
        command = root.find("command")
        self.commands.append(command.get("name"))
        return self._do(command.get("name"), command)

    def _do(self, name, command):
        login = command.findtext("login")
        user = self.users.get(login)
        if (user is None) != (name == "add"):
            return self._result(11 if user else 10, "it is there" if user else f"no user {login}")
        if name == "get":
            return self._result(0, "here it is", self._shown(login, user))
        if name == "delete":
            del self.users[login]
        else:
            self.users[login] = (user or {}) | self._written(command)
        return self._result(0, "done")

    def _written(self, command):
        written = {
            "name": command.findtext("name"),
            "state": command.findtext("state"),
            "note": command.findtext("note"),
            "packages": [one.text for one in command.findall("packages/package")],
        }
        password = command.findtext("password")
        if password:
            written["password"] = hashlib.sha256(password.encode()).hexdigest()
        return written

    def _shown(self, login, user):
        packages = "".join(
            f"<package>{escape(one)}</package>" for one in reversed(user["packages"])
        )
        texts = "".join(
            f"<tv:{name}>{escape(user[name] or '')}</tv:{name}>"
            for name in ("name", "state", "note")
        )
        return f'<tv:user login="{escape(login)}">{texts}<packages>{packages}</packages></tv:user>'

    def _result(self, code, words, inner=""):
        text = f'<tv:response xmlns:tv="urn:tv"><result code="{code}">{words}</result>{inner}'
        return Answer(200, {"Content-Type": "text/xml"}, f"{text}</tv:response>")


def said(status, body=None):
    return Answer(status, {}, b"" if body is None else json.dumps(body))
