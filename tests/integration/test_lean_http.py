"""Plain HTTP, byte by byte: what servers say, when they close, and what becomes of connections."""

import asyncio
import contextlib
import errno
import gc
import socket
import threading
import time
from contextlib import asynccontextmanager

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from espf.errors import TryLater
from espf.handlers import lean_http
from espf.handlers.http import HttpClient
from webhook import Answer, Webhook

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request on a connection with the next of these byte strings, or a function."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.connections = 0
        self.open = 0

    async def connected(self, reader, writer):
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                    self.requests.append((number, head + await reader.readexactly(length)))
                    answer = self.answers.pop(0) if self.answers else OK
                    if callable(answer):
                        await answer(writer)
                    else:
                        writer.write(answer)
                        await writer.drain()
                    if writer.is_closing():
                        return
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def serving(*answers, host="127.0.0.1"):
    server = Server(*answers)
    listening = await asyncio.start_server(server.connected, host, 0, backlog=1024)
    async with listening:
        server.port = listening.sockets[0].getsockname()[1]
        server.url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
        yield server


def closing(data):
    async def answer(writer):
        writer.write(data)
        writer.close()

    return answer


@pytest.fixture
async def client():
    async with HttpClient() as client:
        yield client


@pytest.fixture
async def lean():
    names = lean_http.Names()
    client = lean_http.LeanClient(names, connections=4, connect_seconds=5, idle_seconds=0.4)
    yield client
    await client.close()
    names.close()


async def post(client, url, *, timeout=5.0, headers=None, **options):
    return await client.post(url, b"{}", headers or {}, timeout, **options)


async def refused(client, url, **options):
    with pytest.raises(TryLater) as caught:
        await post(client, url, **options)
    return str(caught.value)


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


# What servers say.

REPLIES = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "hello",
    ),
    "chunked with extensions and trailers": (
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
            b'2;a="b" ; c\r\nhe\r\n00003 \r\nllo\r\n0;last\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n'
        ),
        "hello",
    ),
    "announced": (
        (
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 103 Early Hints\r\nLink: a-long-one-longer-than-all-that-follows\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        ),
        "hello",
    ),
    "lines without CR": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "hello"),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", ""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", ""),
    "old but lasting": (
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello",
        "hello",
    ),
    "many headers": (
        b"HTTP/1.1 200 OK\r\n"
        + b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(2000))
        + b"Content-Length: 5\r\n\r\nhello",
        "hello",
    ),
    "folded header": (
        b"HTTP/1.1 200 OK\r\nX-Long: a\r\n  b\r\nContent-Length:5\t\r\n\r\nhello",
        "hello",
    ),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_every_way_to_end_a_reply_leaves_a_connection_to_use(client, name):
    data, text = REPLIES[name]
    async with serving(data, data) as server:
        assert (await post(client, server.url)).text == text
        assert (await post(client, server.url)).text == text
        assert (await post(client, server.url)).text == "ok"
        assert server.connections == 1


@pytest.mark.parametrize("name", sorted(set(REPLIES) - {"many headers"}))
async def test_a_reply_may_come_byte_by_byte(client, name):
    data, text = REPLIES[name]

    async def drip(writer):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(drip) as server:
        assert (await post(client, server.url)).text == text
        assert (await post(client, server.url)).text == "ok"


def told(reading):
    reply = reading.reply
    return reply.status, reply.headers, reply.body, reading.reusable


@given(st.sampled_from(sorted(REPLIES)), st.data())
def test_a_reply_is_the_same_in_whatever_pieces_it_comes(name, draws):
    data, text = REPLIES[name]
    cuts = draws.draw(st.lists(st.integers(0, len(data)), max_size=10).map(sorted))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    whole = lean_http.Reading(1000)
    assert whole.feed(data)
    reading = lean_http.Reading(1000)
    ends = [reading.feed(piece) for piece in pieces if piece]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert told(reading) == told(whole)
    assert (reading.reply.body, reading.reusable) == (text.encode(), True)


def test_a_short_reply_may_follow_a_long_announcement():
    reading = lean_http.Reading(100)
    assert not reading.feed(b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 200)
    assert reading.feed(b"\r\n\r\n" + OK)
    assert reading.reply.body == b"ok"


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", OK[:-4]]))
def test_nothing_that_comes_breaks_more_than_the_reply(data, start):
    reading = lean_http.Reading(50)
    with contextlib.suppress(lean_http.Fault):
        reading.feed(start + data) or reading.end()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xd9\xa2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED + b"x\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"2\r\nokay\r\n0\r\n\r\n",
        CHUNKED + b"2;" + b"x" * 5000,
        CHUNKED + b"0\r\n" + b"X: y\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\n : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
)
async def test_what_is_in_doubt_is_no_reply(client, data):
    # The server does not close: the bytes alone must tell.
    async with serving(data) as server:
        reason = await refused(client, server.url)
        assert reason.startswith(f"the answer of {server.url} is not HTTP: ")
        await until(lambda: server.open == 0)
        assert (await post(client, server.url)).ok
        assert server.connections == 2


async def test_headers_that_drip_for_ever_end_with_the_time_out(client):
    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for n in range(1000):
            writer.write(b"X-%d: 1\r\n" % n)
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(drip) as server:
        assert await refused(client, server.url, timeout=0.3) == "no answer within 0.3 s"
        await until(lambda: server.open == 0)


async def test_announcements_without_end_end_with_the_time_out(client):
    async def announce(writer):
        while not writer.is_closing():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)

    async with serving(announce) as server:
        assert await refused(client, server.url, timeout=0.3) == "no answer within 0.3 s"


# When servers close.


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: other\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_a_connection_that_ends_is_not_used_again(client, data):
    async with serving(closing(data)) as server:
        assert (await post(client, server.url)).text == "hello"
        assert (await post(client, server.url)).text == "ok"
        assert [number for number, _ in server.requests] == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_close_is_believed_before_it_happens(client, data):
    async with serving(data) as server:
        await post(client, server.url)
        await until(lambda: server.open == 0)  # the client closed; the server did not


async def test_a_time_out_of_the_network_is_told_as_such(client, monkeypatch):
    async def lost(*args, **options):
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(lean_http, "start_connection", lost)
    reason = await refused(client, "http://127.0.0.1:9")
    assert reason == "no connection to http://127.0.0.1:9: connection timed out"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "{} closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "{} closed the connection without an answer"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "{} closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "the answer of {} broke off"),
        (CHUNKED + b"5\r\nhello\r\n", "the answer of {} broke off"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", "the answer of {} broke off"),
    ],
)
async def test_an_answer_that_ends_early_is_none(client, data, reason):
    async with serving(closing(data)) as server:
        assert await refused(client, server.url) == reason.format(server.url)
        assert len(server.requests) == 1


async def test_a_half_closed_connection_is_not_used_again(client):
    async def half_close(writer):
        writer.write(OK)
        writer.write_eof()

    async with serving(half_close) as server:
        assert (await post(client, server.url)).text == "ok"
        await asyncio.sleep(0.05)
        assert (await post(client, server.url)).text == "ok"
        assert [number for number, _ in server.requests] == [1, 2]


@pytest.mark.parametrize("garbage", [b"\r\n", b"x", OK])
@pytest.mark.parametrize("later", [False, True])
async def test_what_follows_a_reply_is_never_the_next_reply(client, garbage, later):
    async def answer(writer):
        writer.write(OK if later else OK + garbage)
        await writer.drain()
        if later:
            await asyncio.sleep(0.05)
            writer.write(garbage)

    async with serving(answer, OK.replace(b"ok", b"no")) as server:
        assert (await post(client, server.url)).text == "ok"
        await asyncio.sleep(0.1)
        assert (await post(client, server.url)).text == "no"
        assert server.connections == 2


async def test_what_crosses_with_the_closing_of_an_idle_connection_is_sent_again(client):
    async with serving(OK, closing(b"")) as server:
        await post(client, server.url)
        assert (await post(client, server.url)).text == "ok"
        assert [number for number, _ in server.requests] == [1, 1, 2]
        assert server.requests[1][1] == server.requests[2][1]


async def test_it_is_sent_again_once_only(client):
    async with serving(OK, closing(b""), closing(b"")) as server:
        await post(client, server.url)
        assert "closed the connection without an answer" in await refused(client, server.url)
        assert len(server.requests) == 3


@pytest.mark.parametrize("heard", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_after_the_first_byte_of_an_answer_nothing_is_sent_again(client, heard):
    async with serving(OK, closing(heard)) as server:
        await post(client, server.url)
        assert "closed the connection without an answer" in await refused(client, server.url)
        assert len(server.requests) == 2


async def test_a_connection_that_the_server_closed_when_idle_is_not_tried(client):
    async def close_soon(writer):
        writer.write(OK)
        await writer.drain()
        writer.close()

    async with serving(close_soon) as server:
        await post(client, server.url)
        await until(lambda: server.open == 0)
        await asyncio.sleep(0.05)
        await post(client, server.url)
        assert [number for number, _ in server.requests] == [1, 2]


# What becomes of connections.


async def test_five_hundred_at_once_and_their_connections_serve_the_next(client):
    async with Webhook() as hook:
        hook.always = Answer(delay=0.5)
        for _ in range(2):
            await asyncio.gather(*(post(client, hook.url, timeout=30) for _ in range(500)))
        assert hook.most_in_progress == 500
        assert hook.connections == 500


async def test_what_is_beyond_the_limit_waits(lean):
    async with Webhook() as hook:
        hook.always = Answer(delay=0.02)
        to = lean_http.target(hook.url)
        await asyncio.gather(*(lean.post(to, {}, b"", 10, 100) for _ in range(40)))
        assert (hook.most_in_progress, hook.connections) == (4, 4)


async def test_waiting_for_a_connection_counts_as_waiting(lean):
    async with Webhook() as hook:
        hook.always = Answer(fault="hang")
        to = lean_http.target(hook.url)
        hanging = [asyncio.create_task(lean.post(to, {}, b"", 60, 100)) for _ in range(4)]
        await hook.wait_for(4)
        with pytest.raises(TimeoutError):
            await lean.post(to, {}, b"", 0.2, 100)
        assert len(hook.requests) == 4
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_cancelling_and_time_outs_free_the_place_and_close_the_connection(lean):
    async def hang(writer):
        await asyncio.sleep(0.7)
        writer.close()

    async with serving(*[hang] * 8) as server:
        to = lean_http.target(server.url)
        tasks = [asyncio.create_task(lean.post(to, {}, b"", 60, 100)) for _ in range(4)]
        await until(lambda: len(server.requests) == 4)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)
        tried = [lean.post(to, {}, b"", 0.2, 100) for _ in range(4)]
        results = await asyncio.gather(*tried, return_exceptions=True)
        assert [type(result) for result in results] == [TimeoutError] * 4
        answers = await asyncio.gather(*(lean.post(to, {}, b"", 5, 100) for _ in range(8)))
        assert {bytes(answer.body) for answer in answers} == {b"ok"}
        assert 8 < server.connections <= 12


async def test_idle_connections_to_others_make_room(lean):
    async with serving() as one, serving() as other:
        for server in (one, other):
            to = lean_http.target(server.url)
            await asyncio.gather(*(lean.post(to, {}, b"", 5, 100) for _ in range(4)))
        await until(lambda: one.open == 0)
        assert other.open == 4


async def test_idle_connections_are_closed_and_busy_ones_are_not(lean):
    async def slow(writer):
        await asyncio.sleep(1.0)
        writer.write(OK)

    async with serving(slow) as server:
        to = lean_http.target(server.url)
        waiting = asyncio.create_task(lean.post(to, {}, b"", 5, 100))
        await until(lambda: server.requests)
        await lean.post(to, {}, b"", 5, 100)
        assert server.open == 2
        await until(lambda: server.open == 1)
        assert (await waiting).status == 200
        await until(lambda: server.open == 0)


async def test_the_last_used_connection_is_used_first(lean):
    async with serving() as server:
        to = lean_http.target(server.url)
        await asyncio.gather(*(lean.post(to, {}, b"", 5, 100) for _ in range(3)))
        last = {(await lean.post(to, {}, b"", 5, 100)) and server.requests[-1][0] for _ in range(5)}
        assert len(last) == 1


async def test_a_storm_of_cancellations_leaks_nothing(client):
    async with Webhook() as hook:
        hook.always = Answer(delay=0.01)

        async def impatient(n):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(n % 40 / 1000):
                    await post(client, hook.url)

        await asyncio.gather(*(impatient(n) for n in range(400)))
        assert (await post(client, hook.url)).ok
        assert client._plain._busy == 0
        await client.close()
        gc.collect()  # a forgotten socket would warn, and a warning fails the test
        await client.open()


async def test_closing_the_client_ends_what_is_under_way():
    async with serving(OK, lambda _: asyncio.sleep(0.3)) as server, HttpClient() as client:
        await post(client, server.url)
        task = asyncio.create_task(post(client, server.url, timeout=60))
        await until(lambda: len(server.requests) == 2)
        await client.close()
        with pytest.raises(TryLater, match="closed the connection"):
            await task
        await until(lambda: server.open == 0)
        assert server.connections == 1


async def test_the_server_learns_at_once_that_nobody_waits_any_more(client):
    gone = asyncio.Event()

    async def silent(reader, writer):
        await reader.read()
        gone.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        task = asyncio.create_task(post(client, url))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait_for(gone.wait(), 1)
        assert task.cancelled()
        gone.clear()
        await refused(client, url, timeout=0.1)
        await asyncio.wait_for(gone.wait(), 1)


async def test_closing_waits_until_connections_are_closed(lean):
    async with serving() as server:
        await lean.post(lean_http.target(server.url), {}, b"", 5, 100)
        assert len(lean._open) == 1
        await lean.close()
        assert not lean._open


async def test_a_closed_client_sends_nothing_more(monkeypatch):
    release = threading.Event()
    real = socket.getaddrinfo

    def slow(host, port, **options):
        if not options.get("flags"):
            release.wait(5)
        return real(host, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    async with serving() as server:
        async with HttpClient() as client:
            task = asyncio.create_task(post(client, f"http://localhost:{server.port}/"))
            await asyncio.sleep(0.1)
        release.set()
        with pytest.raises(TryLater):
            await task
        assert server.requests == []


async def test_an_answer_before_the_end_of_the_request_ends_the_connection(client):
    connections = []
    over = asyncio.Event()

    async def hasty(reader, writer):
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        await over.wait()
        writer.transport.abort()

    async with await asyncio.start_server(hasty, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert (await client.post(url, b"x" * 50_000_000, {}, 5)).text == "ok"
        assert (await post(client, url, timeout=1)).text == "ok"
        assert len(connections) == 2
        over.set()
        await asyncio.sleep(0.05)


async def test_closing_the_client_ends_what_waits_for_a_name(monkeypatch):
    release = threading.Event()
    real = socket.getaddrinfo

    def slow(host, port, **options):
        if not options.get("flags"):
            release.wait(5)
        return real(host, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    async with HttpClient() as client:
        # More than there are threads, so that some look-ups have not begun.
        tasks = [asyncio.create_task(post(client, f"http://h{n}.invalid/")) for n in range(20)]
        await asyncio.sleep(0.1)
    release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {TryLater}


async def test_of_a_long_reply_the_rest_is_not_read(client):
    async def endless(writer):
        writer.write(CHUNKED)
        while True:
            writer.write(b"3e8\r\n" + b"a" * 1000 + b"\r\n")
            await writer.drain()

    async with serving(endless) as server:
        assert (await post(client, server.url, reply_limit=1500)).text == "a" * 1500
        await until(lambda: server.open == 0)


# Without waiting: a request, and a function for what becomes of it.


class Request(lean_http.Ticket):
    """Hands on what became of it."""

    def __init__(self, to, request, timeout, done):
        super().__init__(to, request, timeout, 100)
        self._done = done

    def ended(self, result):
        self._done(result)


class Outcomes(list):
    """Takes what became of requests; ``sent`` sends one."""

    def sent(self, lean, url, *, timeout=5.0, done=None, repeatable=True):
        to = lean_http.target(url)
        request = lean_http.request_bytes(to, {}, b"{}")
        ticket = Request(to, request, timeout, done or self.append)
        ticket.repeatable = repeatable
        lean.send(ticket)
        return ticket


async def test_a_request_is_told_its_end_once_by_the_loop_and_never_from_within(lean):
    async with serving() as server:
        outcomes = Outcomes()
        outcomes.sent(lean, server.url)
        assert outcomes == []
        await until(lambda: outcomes)
        outcomes.sent(lean, server.url)  # over the same connection
        assert len(outcomes) == 1
        await until(lambda: len(outcomes) == 2)
        assert [(reply.status, reply.text) for reply in outcomes] == [(200, "ok")] * 2
        assert server.connections == 1
        await lean.close()
        outcomes.sent(lean, server.url)
        assert len(outcomes) == 2
        await until(lambda: len(outcomes) == 3)
        assert isinstance(outcomes[2], lean_http.ClosedError)
        await asyncio.sleep(0.2)
        assert len(outcomes) == 3


async def test_the_next_request_may_be_sent_when_one_has_ended(lean):
    async with serving() as server:
        outcomes = Outcomes()

        def again(reply):
            outcomes.append(reply)
            if len(outcomes) < 100:
                outcomes.sent(lean, server.url, done=again)

        outcomes.sent(lean, server.url, done=again)
        await until(lambda: len(outcomes) == 100)
        assert server.connections == 1


async def test_what_is_cancelled_is_not_told_of(lean):
    async with Webhook() as hook:
        hook.always = Answer(fault="hang")
        outcomes = Outcomes()
        tickets = [outcomes.sent(lean, hook.url) for _ in range(4)]
        await hook.wait_for(4)
        tickets += [outcomes.sent(lean, hook.url) for _ in range(8)]  # these wait
        hook.always = Answer()
        for ticket in tickets[4:7]:
            lean.cancel(ticket)
        for ticket in (*tickets[:4], *tickets[:4]):  # the second time it means nothing
            lean.cancel(ticket)
        await until(lambda: len(outcomes) == 5)
        await asyncio.sleep(0.1)
        assert [reply.status for reply in outcomes] == [200] * 5
        assert len(hook.requests) == 9
        assert lean._busy == 0


async def test_a_fault_that_is_about_to_be_told_can_still_be_cancelled(lean):
    async with serving() as server:
        outcomes = Outcomes()
        await lean.close()
        lean.cancel(outcomes.sent(lean, server.url))
        await asyncio.sleep(0.05)
        assert outcomes == []


async def test_a_time_out_is_never_early_and_hardly_late(lean):
    async with Webhook() as hook:
        hook.always = Answer(fault="hang")
        to = lean_http.target(hook.url)
        ends = {}

        def ended(seconds, begin):
            return lambda fault: ends.setdefault(seconds, (fault, time.monotonic() - begin))

        # Four are on the way, the others wait for a connection.
        for seconds in (0.3, 0.11, 0.2, 0.35, 0.15, 0.25, 0.05):
            lean.send(Request(to, b"", seconds, ended(seconds, time.monotonic())))
            await asyncio.sleep(0.01)
        await until(lambda: len(ends) == 7)
        for seconds, (fault, took) in ends.items():
            assert isinstance(fault, TimeoutError)
            assert seconds <= took < seconds + 3  # 0.05, and what a busy machine adds
        assert lean._busy == 0


async def test_what_may_not_be_repeated_is_not_sent_again(lean):
    async with serving(OK, closing(b"")) as server:
        outcomes = Outcomes()
        outcomes.sent(lean, server.url)
        await until(lambda: len(outcomes) == 1)
        outcomes.sent(lean, server.url, repeatable=False)
        await until(lambda: len(outcomes) == 2)
        assert isinstance(outcomes[1], lean_http.ClosedError)
        assert len(server.requests) == 2


async def test_servers_take_turns_when_connections_are_scarce(lean):
    async with Webhook() as busy, Webhook() as other:
        busy.always = other.always = Answer(delay=0.05)
        outcomes = Outcomes()
        for _ in range(40):
            outcomes.sent(lean, busy.url, timeout=30)
        outcomes.sent(lean, other.url)
        await other.wait_for(1)
        assert len(busy.requests) <= 9  # four before, four beside it, and one took its turn
        await until(lambda: len(outcomes) == 41)


USUAL = (
    (b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.0 200 OK", b"HTTP/1.1 404"),
    (b"", b"Date: x", b"Connection: close", b"connection: keep-alive", b"X: a\rb", b"no colon"),
    (b"", b"Content-Length: 2", b"content-length:0", b"Content-Length: 2x", b"Content-length: 99"),
    (b"", b"Content-Length: 2", b"Transfer-Encoding: chunked", b"X-More: 1", b" folded", b"Y:\n"),
    (b"", b"ok", b"okay", b"0\r\n\r\n"),
)


@given(st.tuples(*map(st.sampled_from, USUAL)), st.sampled_from([0, 1, 2, 100]))
def test_the_short_way_to_read_a_reply_comes_to_the_same(parts, limit):
    *head, body = parts
    data = b"\r\n".join(part for part in head if part) + b"\r\n\r\n" + body
    reply = lean_http.usual_reply(data, limit)
    if reply is not None:
        reading = lean_http.Reading(limit)
        assert reading.feed(data)
        assert told(reading) == (reply.status, reply.headers, reply.body, True)


@pytest.mark.parametrize("name", ["length", "many headers"])
def test_usual_replies_take_the_short_way(name):
    assert lean_http.usual_reply(REPLIES[name][0], 100).text == "hello"


# What is sent.


async def test_the_request_as_it_goes_over_the_wire(client):
    async with serving() as server:
        await client.post(
            f"{server.url}/a b?c=ü#d", b"{}", {"accept": "text/plain", "X-One": "é", "Date": "x"}, 5
        )
        assert server.requests[0][1] == (
            b"POST /a%20b?c=%C3%BC HTTP/1.1\r\n"
            b"Host: 127.0.0.1:" + str(server.port).encode() + b"\r\n"
            b"User-Agent: ESPF\r\nAccept-Encoding: identity\r\n"
            b"Content-Type: application/octet-stream\r\n"
            b"accept: text/plain\r\nX-One: \xc3\xa9\r\nDate: x\r\nContent-Length: 2\r\n\r\n{}"
        )


async def test_an_address_of_version_6(client):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with serving(host="::1") as server:
        assert (await post(client, server.url)).ok
        assert f"Host: [::1]:{server.port}\r\n".encode() in server.requests[0][1]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Host", "host"),
        ("http://host:80/", "host"),
        ("http://host:8080/", "host:8080"),
        ("http://[::1]/", "[::1]"),
        ("http://[::1]:81/", "[::1]:81"),
        ("http://bücher.example/", "xn--bcher-kva.example"),
        ("http://ho\r\nst/", "host"),
    ],
)
def test_the_host_header(url, host):
    assert lean_http.target(url).host_header == host


@pytest.mark.parametrize(
    "url", ["https://host/", "http://user:secret@host/", "http://user@host/", "//host/", "http:///"]
)
def test_what_is_not_for_this_client(url):
    assert lean_http.target(url) is None


@given(st.text(max_size=30))
def test_no_url_breaks_the_request(text):
    to = lean_http.target(f"http://host/{text}")
    if to is not None:
        sent = lean_http.request_bytes(to, {}, b"")
        assert sent.count(b"\r\n") == 8
        assert sent.count(b"\n") == 8
        assert sent.split(b"\r\n")[0].count(b" ") == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"A": "b\r\nC: d"},
        {"A": "b\nC: d"},
        {"A": "b\r"},
        {"A": "\0"},
        {"A\r\nB": "c"},
        {"A:": "c"},
        {"A b": "c"},
        {"": "c"},
        {"Transfer-Encoding": "chunked"},
    ],
)
async def test_a_header_cannot_break_the_request(client, headers):
    async with serving() as server:
        with pytest.raises(ValueError, match="header"):
            await post(client, server.url, headers=headers)
        assert server.connections == 0


async def test_the_length_is_for_the_client_to_say(client):
    async with serving() as server:
        await post(client, server.url, headers={"content-length": "1"})
        assert server.requests[0][1].lower().count(b"content-length: 2\r\n") == 1
        assert server.requests[0][1].lower().count(b"content-length") == 1


async def test_many_requests_look_a_name_up_once(client, monkeypatch):
    asked = []
    real = socket.getaddrinfo

    def counted(host, port, **options):
        if not options.get("flags"):
            asked.append(host)
        return real(host, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", counted)
    async with serving() as server:
        url = f"http://localhost:{server.port}/"
        await asyncio.gather(*(post(client, url) for _ in range(20)))
    assert asked == ["localhost"]


async def test_a_name_with_a_dead_address_is_reached_at_the_other(client, monkeypatch):
    real = socket.getaddrinfo

    def two(host, port, **options):
        if host != "two.example" or options.get("flags"):
            return real(host, port, **options)
        return [*real("127.0.0.2", port, **options), *real("127.0.0.1", port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    async with serving() as server:
        assert (await post(client, f"http://two.example:{server.port}/")).ok
