"""An external system's HTTP API, as its handler asks it: one base URL, JSON or forms, verdicts."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from espf.errors import HandlerError, Misconfigured, Rejected, TryLater
from espf.handlers.base import STRAIGHT, Context, Reply, Route
from espf.handlers.event_sender import TEMPORARY, UNKNOWN_SENDER, first_line, retry_after
from espf.handlers.http import masked, status_line
from espf.model import compact


@dataclass(frozen=True)
class Told:
    """What an API answered. ``value`` is its JSON; None where it is none.

    ``shown`` is how it begins, fit for a reason: one line, without secrets.
    """

    reply: Reply
    value: Any
    shown: str = ""

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.reply.status

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return self.reply.ok

    def verdict(self, said: str | None = None) -> HandlerError:
        """What an answer that is no success usually means, by its status alone.

        Later: 408, 425, 429 and 5xx. Settings: 401, 403 and 407. All else is refused for good.
        The reason tells what was ``said``, or else how the answer begins.
        """
        text = self.shown if said is None else first_line(said)
        reason = ": ".join(part for part in (status_line(self.status), text) if part)
        if self.status == 403 or self.status in UNKNOWN_SENDER:
            return Misconfigured(reason)
        if self.status >= 500 or self.status in TEMPORARY:
            after = retry_after(self.reply.headers.get("retry-after"), datetime.now(UTC))
            return TryLater(reason, after=after)
        return Rejected(reason)


@dataclass(frozen=True)
class HttpApi:
    """The API at a base URL; ``headers`` go with every request, and all by the same ``route``.

    What ``secret`` finds in a reply is hidden: keys and passwords that a system tells or echoes.
    """

    url: str
    timeout_seconds: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: re.Pattern[str] | None = None
    route: Route = STRAIGHT

    async def ask(
        self,
        context: Context,
        method: str,
        path: str,
        body: object = None,
        form: Mapping[str, str] | None = None,
        more: Mapping[str, str] | None = None,
        reply_limit: int | None = None,
    ) -> Told:
        """One request; ``body`` goes as JSON, a ``form`` as a form.

        ``path`` is quoted already; empty: the base URL itself. ``more`` are headers of this
        request, ``reply_limit`` is that of ``Http.send``. Raises TryLater when there is no answer,
        and Misconfigured when there can be none.
        """
        headers = {"Accept": "application/json", **self.headers, **(more or {})}
        content: bytes | None = None
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            content = urlencode(form).encode()
        elif body is not None:
            headers["Content-Type"] = "application/json"
            content = compact(body).encode("utf-8", "replace")
        url = f"{self.url.rstrip('/')}/{path.lstrip('/')}" if path else self.url
        seconds, route = self.timeout_seconds, self.route
        reply = await context.http.send(
            method, url, content, headers, seconds, route, reply_limit=reply_limit
        )
        for found in self.secret.finditer(reply.text) if self.secret else ():
            context.hide(found[0])
        # A part of a secret would not be known as one: first hidden, then cut.
        shown = " ".join(masked(reply.text, context.secrets).split())
        return Told(reply, _read(reply.text), first_line(shown))


class Pages:
    """Goes through a list that is read by numbered pages, while entries go and come.

    ``fetch`` returns the keys of a page, counted from 0; a page behind the last one is empty.
    """

    def __init__(self, fetch: Callable[[int, Context], Awaitable[Sequence[str]]]) -> None:
        self._fetch = fetch
        self._number = 0
        self._given: set[str] = set()

    async def after(self, key: str | None, context: Context) -> list[str]:
        """The next keys after this one, in the list's order; None: the first; none: that was all.

        Where ``key`` is not known any more, it begins anew.
        """
        if key is None:
            self._number, self._given = 0, set()
        elif key not in self._given:
            await self._seek(key, context)
        while True:
            # The page before once more: what has gone meanwhile has drawn others into it.
            again = await self._fetch(self._number - 1, context) if self._number else []
            page = await self._fetch(self._number, context)
            fresh = [each for each in dict.fromkeys([*again, *page]) if each not in self._given]
            self._given = {*again, *page}
            self._number += 1
            if fresh or not page:
                return fresh

    async def _seek(self, key: str, context: Context) -> None:
        self._number = 0
        while page := await self._fetch(self._number, context):
            self._number += 1
            if key in page:
                self._given = set(page[: page.index(key) + 1])
                return
        self._number, self._given = 0, set()


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
