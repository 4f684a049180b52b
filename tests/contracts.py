"""Small real HTTP servers that answer as the documents of a system say, its traps included.

For systems that cannot run here. What such a server does is what was read of the system; that the
system does it is not proven by it.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Asked:
    """What came in. ``value`` is the body's JSON, None where it has none; headers in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    text: str

    @property
    def value(self) -> Any:
        try:
            return json.loads(self.text)
        except ValueError:
            return None


#: A status, and a body: a text as it is, all else as JSON.
Said = tuple[int, object]


class Contract:
    """A server on a port of 127.0.0.1; the subclass says what it ``answer``s.

    ``asked`` is all that came in. What stands in ``instead``, by method and path, is answered in
    place of what it would do.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.instead: dict[tuple[str, str], Callable[[Asked], Said]] = {}
        self._may_answer = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._server: _Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def answer(self, asked: Asked) -> Said:
        raise NotImplementedError

    def writes(self) -> list[Asked]:
        """The requests that were to change something."""
        return [asked for asked in self.asked if asked.method != "GET"]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; again on the port of before."""
        self._may_answer.set()
        self._server = _Server(self, self._port)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Cut all connections and listen no more."""
        if self._server is not None:
            self._may_answer.set()
            self._server.shutdown()
            self._thread.join()
            self._server.cut()
            self._server.server_close()
            self._server = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It takes requests and answers none, for as long as the block lasts."""
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    def say(self, asked: Asked) -> Said:
        self._may_answer.wait()
        with self._one_at_a_time:
            self.asked.append(asked)
            return self.instead.get((asked.method, asked.path), self.answer)(asked)


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, contract: Contract, port: int) -> None:
        self.contract = contract
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hung up did not want to know more."""

    def cut(self) -> None:
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        asked = Asked(
            self.command,
            unquote(parts.path),
            {name: values[0] for name, values in parse_qs(parts.query).items()},
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(),
        )
        status, body = self.server.contract.say(asked)
        content = (body if isinstance(body, str) else json.dumps(body, indent=4) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(0 if status == 204 else len(content)))
        self.end_headers()
        if status != 204:
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815  (so it wants them)

    def log_message(self, *_arguments: object) -> None:
        """Not told."""
