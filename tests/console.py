"""Browsers without a screen, for the tests of the console: log in, look at pages, send forms."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from typing import Any

from sqlalchemy import insert, select
from starlette.testclient import TestClient

from espf import sessions
from espf.audit import Entry, Wanted, search
from espf.billing import environments
from espf.billing.tables import metadata as billing_tables
from espf.crypto import Sealer, hash_password
from espf.db.database import Database
from espf.db.tables import users
from espf.users import User, find
from espf.web.app import build_app
from espf.web.pages.visit import COOKIE

PASSWORD = "correct horse battery"

#: Slow to make, and the same for all.
_HASH = hash_password(PASSWORD)

#: Who there is: login -> environment, superuser, role.
PEOPLE = {
    "root": (3, True, "administrator"),
    "adam": (3, False, "administrator"),
    "olga": (3, False, "operator"),
    "rita": (3, False, "readonly"),
    "carl": (4, False, "administrator"),
}


class Page:
    """What a browser got."""

    def __init__(self, reply: Any) -> None:
        self.status: int = reply.status_code
        self.headers = reply.headers
        self.html: str = reply.text
        self.location: str = reply.headers.get("location", "")

    @property
    def text(self) -> str:
        """What a person reads, in one line."""
        visible = re.sub(r"<(script|style).*?</\1>", " ", self.html, flags=re.DOTALL)
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", visible)).split())

    def error_at(self, field: str) -> str:
        """What stands beside a field that is wrong; empty: nothing."""
        place = f"field-{field.replace('.', '-')}-error"
        found = re.search(rf'id="{re.escape(place)}">(.*?)</div>', self.html, re.DOTALL)
        return unescape(found[1]) if found else ""

    def links(self) -> list[str]:
        """Where one can go from here."""
        return [unescape(link) for link in re.findall(r'href="([^"#]*)"', self.html)]


class Browser:
    """One person's browser."""

    def __init__(self, client: TestClient, word: str | None) -> None:
        self.client = client
        self.cookies = {COOKIE: word} if word else {}

    def get(self, path: str, **headers: str) -> Page:
        """A page; redirections are not followed."""
        return self._ask("GET", path, headers)

    def post(self, path: str, form: dict[str, Any] | None = None, **headers: str) -> Page:
        """A form, sent from a page of ours; redirections are not followed."""
        return self._ask("POST", path, {"Origin": "http://testserver", **headers}, form or {})

    def does(self, path: str, form: dict[str, Any] | None = None) -> Page:
        """A form that must succeed: the page that it leads to, with what it says was done."""
        reply = self.post(path, form)
        assert reply.status == 303, (reply.status, reply.text)
        said = re.search(r"espf_said=([^;]*)", reply.headers.get("set-cookie", ""))
        cookies = {"espf_said": said[1].strip('"')} if said else {}
        return self._ask("GET", reply.location, {}, cookies=cookies)

    def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        form: dict[str, Any] | None = None,
        cookies: dict[str, str] | None = None,
    ) -> Page:
        all_cookies = {**self.cookies, **(cookies or {})}
        sent = {
            "Accept": "text/html",
            "Cookie": "; ".join(f"{name}={value}" for name, value in all_cookies.items()),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return Page(
            self.client.request(method, path, headers=sent, data=form, follow_redirects=False)
        )


class Console:
    """The web application over a database, with some people who may log in."""

    def __init__(self, client: TestClient, database: Database, sealer: Sealer) -> None:
        self.client = client
        self.database = database
        self.sealer = sealer

    def as_(self, login: str) -> Browser:
        """The browser of somebody who is logged in."""
        with self.database.begin() as connection:
            user: User = find(connection, login)
            word = sessions.begin(connection, self.database, user, "127.0.0.1", "test")
        return Browser(self.client, word)

    def anybody(self) -> Browser:
        """A browser in which nobody is logged in."""
        return Browser(self.client, None)

    def audit(self) -> list[Entry]:
        """The lines of the audit log, newest first."""
        with self.database.read() as connection:
            return search(connection, Wanted(), 100)

    def rows(self, table: Any, *names: str) -> list[tuple[Any, ...]]:
        """Some columns of a table, or all."""
        with self.database.read() as connection:
            chosen = [table.c[name] for name in names] or [table]
            return [tuple(row) for row in connection.execute(select(*chosen))]


@contextmanager
def console(database: Database, sealer: Sealer, *, billing: bool = True) -> Iterator[Console]:
    """The console over a database that has ESPF's tables; environments 3 and 4, and the people."""
    if billing:
        with database.begin() as connection:
            billing_tables.create_all(connection)
        with database.begin() as connection:
            for i_env in (3, 4):
                environments.add(connection, i_env, f"Environment {i_env}")
    with database.begin() as connection:
        for login, (i_env, superuser, role) in PEOPLE.items():
            connection.execute(
                insert(users).values(
                    login=login,
                    password_hash=_HASH,
                    i_env=i_env,
                    superuser=int(superuser),
                    role=role,
                )
            )
    with TestClient(build_app(database, sealer), raise_server_exceptions=False) as client:
        yield Console(client, database, sealer)
