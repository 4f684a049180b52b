"""An external system's HTTP API, as its handler asks it: one base URL, JSON or forms, verdicts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from espf.errors import HandlerError, Misconfigured, Rejected, TryLater
from espf.handlers.base import Context, Reply
from espf.handlers.event_sender import TEMPORARY, UNKNOWN_SENDER, first_line, retry_after
from espf.handlers.http import status_line
from espf.model import compact


@dataclass(frozen=True)
class Told:
    """What an API answered. ``value`` is its JSON; None where it is none."""

    reply: Reply
    value: Any

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.reply.status

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return self.reply.ok

    def verdict(self) -> HandlerError:
        """What an answer that is no success usually means, by its status alone.

        Later: 408, 425, 429 and 5xx. Settings: 401, 403 and 407. All else is refused for good.
        """
        reason = ": ".join(
            part for part in (status_line(self.status), first_line(self.reply.text)) if part
        )
        if self.status == 403 or self.status in UNKNOWN_SENDER:
            return Misconfigured(reason)
        if self.status >= 500 or self.status in TEMPORARY:
            after = retry_after(self.reply.headers.get("retry-after"), datetime.now(UTC))
            return TryLater(reason, after=after)
        return Rejected(reason)


@dataclass(frozen=True)
class HttpApi:
    """The API at a base URL; ``headers`` go with every request."""

    url: str
    timeout_seconds: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    async def ask(
        self,
        context: Context,
        method: str,
        path: str,
        body: object = None,
        form: Mapping[str, str] | None = None,
        reply_limit: int | None = None,
    ) -> Told:
        """One request; ``body`` goes as JSON, a ``form`` as a form.

        ``path`` is quoted already; ``reply_limit`` is that of ``Http.send``. Raises TryLater when
        there is no answer, and Misconfigured when there can be none.
        """
        headers = {"Accept": "application/json", **self.headers}
        content: bytes | None = None
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            content = urlencode(form).encode()
        elif body is not None:
            headers["Content-Type"] = "application/json"
            content = compact(body).encode("utf-8", "replace")
        url = f"{self.url.rstrip('/')}/{path.lstrip('/')}"
        reply = await context.http.send(
            method, url, content, headers, self.timeout_seconds, reply_limit=reply_limit
        )
        return Told(reply, _read(reply.text))


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
