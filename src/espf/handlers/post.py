"""One POST per event, the short way: no task, no coroutine, nothing made that nobody asks for.

Step 5 of the walk for handlers whose work is one request (``PostHandler``). What they say and hear
is kept in two parts, head and body, because a head is the same for many events.
"""

import logging
import traceback
from collections.abc import Callable, Mapping
from time import monotonic

from espf.errors import HandlerError, TryLater
from espf.handlers import lean_http
from espf.handlers.base import Post, PostHandler
from espf.handlers.http import (
    REPLY_LIMIT,
    HttpClient,
    masked,
    message_head,
    status_line,
    storable,
)
from espf.model import Notification, Said
from espf.telemetry import about

_log = logging.getLogger(__name__)

#: Heads of replies that are remembered in a form for people.
MOST_HEADS = 1000

#: Takes what became of a request: the exception (None: the external system has accepted the
#: event), the milliseconds that it took, what was said and what was heard.
Done = Callable[["Posting", Exception | None, int, Said, Said], None]


class Posting(lean_http.Ticket):
    """An attempt as a request. ``epoch``: under which its shard is owned."""

    def __init__(
        self,
        poster: "Poster",
        notification: Notification,
        epoch: int,
        post: Post,
        to: lean_http.Target,
        request: bytes,
    ) -> None:
        super().__init__(to, request, post.timeout_seconds, REPLY_LIMIT)
        self.notification = notification
        self.epoch = epoch
        self.poster = poster
        self.post = post
        # For people; the handler may have another one by the time of the reply.
        self.head = poster.head

    def ended(self, result: lean_http.Reply | Exception) -> None:
        """See Ticket."""
        self.poster.ended(self, result)


class Poster:
    """Posts the events of one handler; ``done`` is told what became of them."""

    def __init__(self, handler: PostHandler, client: HttpClient, done: Done) -> None:
        self._handler = handler
        self._client = client
        self._done = done
        self.secrets = handler.secrets()
        # The head of a request lasts as long as the handler gives the same headers and URL.
        self._url = ""
        self._headers: Mapping[str, str] | None = None
        self._to: lean_http.Target | None = None
        self._bytes: lean_http.RequestHead | None = None
        #: The same in a form for people.
        self.head = ""
        self._heard: dict[bytes, str] = {}

    def send(
        self, notification: Notification, epoch: int, traceparent: str | None = None
    ) -> Posting | Exception | None:
        """Send the request for an event; None: it has to go the long way.

        Where there is nothing to send, that is what became of it. ``traceparent`` is told to the
        receiver.
        """
        try:
            post = self._handler.post(self._handler.spelt(notification.event))
        except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
            return self._raised(error, notification)
        if post.headers is not self._headers or post.url != self._url:
            to = self._client.target(post.url, post.route)
            if to is None:
                return None
            try:
                self._bytes = lean_http.RequestHead(to, post.headers)
            except ValueError as error:
                return TryLater(f"ValueError: {error}")
            self._to, self._url, self._headers = to, post.url, post.headers
            self.head = storable(masked(message_head(post.url, post.headers), self.secrets))
        assert self._to is not None
        assert self._bytes is not None
        request = self._bytes.bytes(post.body, traceparent)
        posting = Posting(self, notification, epoch, post, self._to, request)
        self._client.plain.send(posting)
        return posting

    def cancel(self, posting: Posting) -> None:
        """Give a request up: nobody is told of it any more."""
        self._client.plain.cancel(posting)

    def ended(self, posting: Posting, result: lean_http.Reply | Exception) -> None:
        """Say what became of a request."""
        seconds = monotonic() - posting.began
        outcome: Exception | None = None
        if isinstance(result, lean_http.Reply):
            try:
                self._handler.judge(result)
            except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
                outcome = self._raised(error, posting.notification)
            response = (self._head_of(result), self._masked(result.text))
        else:
            within = posting.deadline - posting.began
            outcome = self._client.told(result, posting.post.url, within)
            response = (f"({outcome})", "")
        request = (posting.head, self._masked(posting.post.body.decode("utf-8", "replace")))
        self._done(posting, outcome, round(seconds * 1000), request, response)

    def _raised(self, error: Exception, notification: Notification) -> Exception:
        """What the handler raised; a fault is for its author to see."""
        if not isinstance(error, HandlerError):
            name = type(self._handler).__name__
            trace = masked("".join(traceback.format_exception(error)), self.secrets)
            about_it = about(
                self._handler.name, notification.event.i_event, notification.attempts + 1
            )
            _log.error("a fault in handler type %s\n%s", name, trace, extra=about_it)
        return error

    def _masked(self, text: str) -> str:
        return masked(text, self.secrets) if self.secrets and text else text

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
