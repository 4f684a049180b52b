"""A voicemail system for tests, or to try the handler by hand: it forgets everything at its end."""

import json
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "a-token-for-tests"
PAGE = 2


class VoicemailServer(ThreadingHTTPServer):
    """Serves on a port of 127.0.0.1 while it is entered; ``refuses``: all, with this status."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Request)
        self.boxes: dict[str, dict[str, str]] = {}
        self.writes = 0
        self.refuses: int | None = None

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.shutdown()
        self.server_close()


class _Request(BaseHTTPRequestHandler):
    server: VoicemailServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """One mailbox, or a page of their numbers."""
        if (number := self._number()) is None:
            return
        boxes = self.server.boxes
        if number:
            self._answer(200 if number in boxes else 404, boxes.get(number, {}))
            return
        (after,) = parse_qs(urlsplit(self.path).query).get("after", [""])
        self._answer(200, {"boxes": sorted(one for one in boxes if one > after)[:PAGE]})

    def do_PUT(self) -> None:
        """Make or change one."""
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length))
        if number := self._number():
            self.server.writes += 1
            self.server.boxes[number] = body
            self._answer(200, body)

    def do_DELETE(self) -> None:
        """Remove one."""
        if number := self._number():
            self.server.writes += 1
            gone = self.server.boxes.pop(number, None)
            self._answer(404 if gone is None else 200, {})

    def _number(self) -> str | None:
        """The mailbox that is asked for; None: the request is refused, and has been answered."""
        if self.server.refuses is not None:
            self._answer(self.server.refuses, {"error": "refused"})
            return None
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "who are you?"})
            return None
        return unquote(urlsplit(self.path).path.removeprefix("/boxes").removeprefix("/"))

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing of each request."""


if __name__ == "__main__":
    serving = VoicemailServer(int(sys.argv[1]) if sys.argv[1:] else 9000)
    print(f"{serving.url}, token {TOKEN}; Ctrl-C ends it", flush=True)
    with suppress(KeyboardInterrupt):
        serving.serve_forever()
