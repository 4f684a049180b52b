"""OAuth 2.0: a token for the program itself, by its own name and secret (client credentials)."""

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from espf.errors import Misconfigured, TryLater
from espf.handlers.base import STRAIGHT, Context, Reply, Route
from espf.handlers.event_sender import TEMPORARY, first_line, retry_after
from espf.handlers.http import status_line
from espf.handlers.http_auth import basic

#: A token is not used any more when it is valid for less than that.
_MARGIN_SECONDS = 30.0

#: How long a token is used of which nobody says how long it is valid.
_UNTOLD_SECONDS = 300.0


class ClientCredentials:
    """Asks a token server for tokens, and remembers the last one for as long as it is valid."""

    def __init__(
        self,
        url: str,
        client_id: str,
        secret: str,
        scope: str,
        timeout_seconds: float,
        route: Route = STRAIGHT,
    ) -> None:
        self._url = url
        # In the header, both are written as in a form.
        self._header = basic(quote(client_id, safe=""), quote(secret, safe=""))
        form = {"grant_type": "client_credentials", **({"scope": scope} if scope else {})}
        self._form = urlencode(form).encode()
        self._timeout = timeout_seconds
        self._route = route
        self._turn = asyncio.Lock()
        self._token = ""
        self._until = 0.0

    @property
    def secret(self) -> str:
        """The secret in the form in which it is sent."""
        return self._header.partition(" ")[2]

    async def token(self, context: Context) -> str:
        """A token that is valid now.

        Raises TryLater when there is no answer, Misconfigured when the server refuses.
        """
        async with self._turn:
            if time.monotonic() >= self._until:
                headers = {
                    "Authorization": self._header,
                    "Content-Type": "application/x-www-form-urlencoded",
                    "Accept": "application/json",
                }
                reply = await context.http.post(
                    self._url, self._form, headers, self._timeout, self._route
                )
                if reply.ok:
                    context.hide(reply.text)
                self._token, seconds = _read(reply)
                self._until = time.monotonic() + seconds - _MARGIN_SECONDS
            context.hide(self._token)
            return self._token

    def forget(self, token: str) -> None:
        """A token is refused: do not use it again."""
        if token == self._token:
            self._until = 0.0


def _read(reply: Reply) -> tuple[str, float]:
    """The token in an answer, and for how many seconds it is valid."""
    try:
        told: Any = json.loads(reply.text)
    except (ValueError, RecursionError):
        told = None
    told = told if isinstance(told, dict) else {}
    if reply.ok and isinstance(told.get("access_token"), str) and told["access_token"]:
        seconds = told.get("expires_in")
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        return told["access_token"], float(seconds) if known else _UNTOLD_SECONDS
    said = "it holds no access_token" if reply.ok else _refusal(told, reply.text)
    reason = f"the token server: {status_line(reply.status)}: {said}"
    if reply.status >= 500 or reply.status in TEMPORARY:
        after = retry_after(reply.headers.get("retry-after"), datetime.now(UTC))
        raise TryLater(reason, after=after)
    raise Misconfigured(reason)


def _refusal(told: dict[str, Any], text: str) -> str:
    names = ("error", "error_description")
    return first_line(": ".join(str(told[name]) for name in names if told.get(name)) or text)
