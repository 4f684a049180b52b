"""One POST per event, the short way: no task, no coroutine, nothing made that nobody asks for.

Step 5 of the walk for handlers whose work is one request (``PostHandler``). What they say and hear
is kept in two parts, head and body, because a head is the same for many events.
"""

import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic

from espf.errors import HandlerError, TryLater
from espf.handlers import lean_http
from espf.handlers.base import PostHandler
from espf.handlers.http import (
    REPLY_LIMIT,
    HttpClient,
    masked,
    message_head,
    status_line,
    storable,
)
from espf.model import Event, Said

_log = logging.getLogger(__name__)

#: Heads of replies that are remembered in a form for people.
MOST_HEADS = 1000


@dataclass(slots=True)
class Exchange:
    """How a POST went. ``outcome`` None: the external system has accepted the event."""

    outcome: Exception | None
    seconds: float
    request: Said | None
    response: Said | None


class Poster:
    """Posts the events of one handler."""

    def __init__(self, handler: PostHandler, client: HttpClient) -> None:
        self._handler = handler
        self._client = client
        self._secrets = handler.secrets()
        # The head of a request lasts as long as the handler gives the same headers and URL.
        self._url = ""
        self._headers: Mapping[str, str] | None = None
        self._to: lean_http.Target | None = None
        self._head: lean_http.RequestHead | None = None
        self._said = ""
        self._heard: dict[bytes, str] = {}

    def send(
        self, event: Event, done: Callable[[Exchange], None]
    ) -> lean_http.Ticket | Exchange | None:
        """Send the request for an event; ``done`` is called with what became of it.

        Returns what cancels it; or, when there is nothing to send, what became of it at once;
        or None, when the request has to go the long way.
        """
        try:
            post = self._handler.post(event)
        except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
            return Exchange(self._raised(error), 0.0, None, None)
        if post.headers is not self._headers or post.url != self._url:
            to = self._client.target(post.url)
            if to is None:
                return None
            try:
                self._head = lean_http.RequestHead(to, post.headers)
            except ValueError as error:
                return Exchange(TryLater(f"ValueError: {error}"), 0.0, None, None)
            self._to, self._url, self._headers = to, post.url, post.headers
            self._said = storable(masked(message_head(post.url, post.headers), self._secrets))
        assert self._to is not None
        assert self._head is not None
        return self._client.plain.send(
            self._to,
            self._head.bytes(post.body),
            post.timeout_seconds,
            REPLY_LIMIT,
            partial(self._ended, post.body, self._said, post.timeout_seconds, monotonic(), done),
        )

    def _ended(
        self,
        body: bytes,
        head: str,
        timeout_seconds: float,
        began: float,
        done: Callable[[Exchange], None],
        result: lean_http.Reply | Exception,
    ) -> None:
        seconds = monotonic() - began
        outcome: Exception | None = None
        if isinstance(result, lean_http.Reply):
            try:
                self._handler.judge(result)
            except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
                outcome = self._raised(error)
            response = Said(self._head_of(result), self._masked(result.text))
        else:
            outcome = self._client.told(result, self._url, min(seconds, timeout_seconds))
            response = Said(f"({outcome})", "")
        request = Said(head, self._masked(body.decode("utf-8", "replace")))
        done(Exchange(outcome, seconds, request, response))

    def _raised(self, error: Exception) -> Exception:
        """What the handler raised; a fault is for its author to see."""
        if not isinstance(error, HandlerError):
            name = type(self._handler).__name__
            trace = masked("".join(traceback.format_exception(error)), self._secrets)
            _log.error("a fault in handler type %s\n%s", name, trace)
        return error

    def _masked(self, text: str) -> str:
        return masked(text, self._secrets) if self._secrets and text else text

    def _head_of(self, reply: lean_http.Reply) -> str:
        """The head of a reply, for people; servers say the same over and over."""
        head = self._heard.get(reply.head)
        if head is None:
            if len(self._heard) >= MOST_HEADS:
                self._heard.clear()
            lines = [status_line(reply.status)]
            lines += [
                f"{name}: {'***' if name == 'set-cookie' else value}"
                for name, value in reply.headers.items()
            ]
            head = self._heard[reply.head] = storable(self._masked("\n".join(lines)))
        return head
