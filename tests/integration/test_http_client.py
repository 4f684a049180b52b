"""The HTTP client against real servers: every fault is TryLater with a reason, never a success."""

import asyncio
import contextlib
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from espf import Route
from espf.errors import Misconfigured, TryLater
from espf.handlers.http import EXCHANGE_LIMIT, REPLY_LIMIT, Http, HttpClient
from webhook import Answer, Webhook

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def hook():
    async with Webhook() as hook:
        yield hook


@pytest.fixture
async def client():
    async with HttpClient() as client:
        yield client


async def post(client, url, *, body=b"{}", headers=None, timeout=5.0):
    return await client.post(url, body, headers or {}, timeout)


async def refused(client, url, **options):
    with pytest.raises(TryLater) as caught:
        await post(client, url, **options)
    return str(caught.value)


async def test_a_post_arrives_as_it_was_given(client, hook):
    hook.then(Answer(202, {"X-One": "1"}, "grüß"))
    reply = await post(
        client, f"{hook.url}/a/b?c=d%20e", body=b'{"a":1}', headers={"X-Case": "Kept"}
    )
    request = hook.requests[0]
    assert (request.method, request.path, request.body) == ("POST", "/a/b?c=d%20e", b'{"a":1}')
    assert ("X-Case", "Kept") in request.head
    assert request.headers["content-length"] == "7"
    assert request.headers["user-agent"] == "ESPF"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["host"] == f"127.0.0.1:{hook.port}"
    assert (reply.status, reply.headers["x-one"], reply.text) == (202, "1", "grüß")
    assert reply.ok


async def test_connections_are_kept_and_cookies_are_not(client, hook):
    hook.always = Answer(200, {"Set-Cookie": "session=1"})
    for _ in range(3):
        await post(client, hook.url)
    assert {request.connection for request in hook.requests} == {1}
    assert all("cookie" not in request.headers for request in hook.requests)


async def test_hundreds_of_requests_are_under_way_at_once(client, hook):
    hook.always = Answer(delay=1.0)
    await asyncio.gather(*(post(client, hook.url, timeout=30) for _ in range(400)))
    assert hook.most_in_progress == 400


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(client, hook, status):
    hook.then(Answer(status, {"Location": f"{hook.url}/elsewhere"}))
    assert (await post(client, hook.url)).status == status
    assert len(hook.requests) == 1


async def test_proxies_in_the_environment_are_ignored(client, hook, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert (await post(client, hook.url)).ok


async def test_a_packed_reply_is_not_unpacked(client, hook):
    hook.then(Answer(200, {"Content-Encoding": "gzip"}, b"not gzip at all"))
    assert (await post(client, hook.url)).text == "not gzip at all"


async def test_no_server(client):
    async with Webhook() as gone:
        url = gone.url
    assert await refused(client, url) == f"no connection to {url}: connection refused"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "a" * 300])
async def test_an_unknown_host(client, host):
    reason = await refused(client, f"http://{host}:81/x")
    assert reason == f"no connection to http://{host}:81: the host name is not known"


async def test_a_host_is_found_by_its_name(client, hook):
    assert (await post(client, f"http://localhost:{hook.port}/")).ok


async def test_credentials_in_a_url_are_sent_but_not_told(client, hook):
    http = Http(client)
    await http.post(hook.url.replace("//", "//username:secret@"), b"", {}, 5)
    assert hook.requests[0].headers["authorization"] == "Basic dXNlcm5hbWU6c2VjcmV0"
    assert "secret" not in http.exchange.request


async def test_a_server_that_hangs(client, hook):
    hook.always = Answer(fault="hang")
    begin = time.monotonic()
    assert await refused(client, hook.url, timeout=0.3) == "no answer within 0.3 s"
    assert time.monotonic() - begin > 0.25


async def test_a_body_that_does_not_end_in_time(client, hook):
    async def drip(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (
            await refused(client, f"http://127.0.0.1:{port}", timeout=0.3)
            == "no answer within 0.3 s"
        )


async def test_a_network_that_swallows_connections():
    # The backlog is full and nobody accepts: the kernel drops what else comes.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        url = f"http://127.0.0.1:{address[1]}"
        with socket.create_connection(address):
            async with HttpClient(connect_seconds=0.3) as client:
                assert await refused(client, url) == f"no connection to {url} within 0.3 s"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("close", "closed the connection without an answer"),
        ("reset", "connection reset by peer"),
        ("half", "broke off"),
        ("garbage", "is not HTTP"),
    ],
)
async def test_a_server_that_breaks_off(client, hook, fault, reason):
    hook.then(Answer(200, body="x" * 100, fault=fault))
    said = await refused(client, hook.url)
    assert reason in said
    assert hook.url in said
    assert "\n" not in said
    # The next one is not harmed.
    assert (await post(client, hook.url)).ok


async def test_headers_without_end(client, hook):
    hook.then(Answer(200, {"X-Long": "x" * 100_000}))
    assert "is not HTTP" in await refused(client, hook.url)


async def test_of_a_long_body_the_beginning_is_read(client, hook):
    hook.then(Answer(200, body=b"a" * (REPLY_LIMIT + 5_000_000)))
    reply = await post(client, hook.url)
    assert reply.ok
    assert reply.text == "a" * REPLY_LIMIT
    assert (await post(client, hook.url)).ok


async def test_a_body_without_end_is_not_waited_for(client):
    async def endless(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"a" * 1000)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async with await asyncio.start_server(endless, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await post(client, f"http://127.0.0.1:{port}", timeout=5)).ok


async def test_a_body_of_exactly_the_limit_keeps_the_connection(client, hook):
    hook.then(Answer(200, body=b"a" * REPLY_LIMIT))
    assert len((await post(client, hook.url)).text) == REPLY_LIMIT
    await post(client, hook.url)
    assert hook.requests[1].connection == 1


async def test_a_body_that_is_not_utf_8(client, hook):
    hook.then(Answer(400, body=b"\xff\xfe"))
    assert (await post(client, hook.url)).text == "\ufffd\ufffd"


async def test_a_header_given_twice_is_joined(client):
    async def twice(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nVary: a\r\nVARY: b\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(twice, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reply = await post(client, f"http://127.0.0.1:{port}", body=b"")
    assert reply.headers["vary"] == "a, b"


@pytest.mark.parametrize("url", ["http://[::1", "ftp://host/", "http://host:99999/", "nothing"])
async def test_what_is_no_url_is_the_settings_fault(client, url):
    with pytest.raises(Misconfigured, match="is not the URL of an HTTP server"):
        await post(client, url)


async def test_cancelling_cuts_the_connection(client, hook):
    hook.always = Answer(fault="hang")
    task = asyncio.create_task(post(client, hook.url, timeout=60))
    await hook.wait_for(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def certificate(tmp_path):
    """A server's TLS context with a certificate of its own, and a route that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, Route(ca_file=str(path))


async def test_tls_is_verified(client, tmp_path):
    server, trusting = certificate(tmp_path)
    async with Webhook(tls=server) as hook:
        reason = await refused(client, hook.url)
        assert reason.startswith(f"no connection to {hook.url}: its certificate is not trusted: ")
        assert hook.requests == []
        assert (await client.post(hook.url, b"{}", {}, 5.0, trusting)).ok


async def test_tls_where_there_is_none(client):
    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reason = await refused(client, f"https://127.0.0.1:{port}")
    assert reason.startswith(f"no connection to https://127.0.0.1:{port}: TLS: ")


async def test_the_exchange_is_remembered_without_secrets(client, hook):
    http = Http(client, secrets=["hush"])
    assert http.exchange is None
    hook.then(Answer(404, {"Set-Cookie": "s=1", "X-Echo": "hush"}, "you said hush"))
    await http.post(
        f"{hook.url}/x?token=abc",
        b'{"key":"hush"}',
        {"Date": "today", "Content-Type": "application/json", "X-Auth": "Basic abc"},
        5,
    )
    assert http.exchange.request == (
        f"POST {hook.url}/x?token=*** HTTP/1.1\n"
        "Date: today\nContent-Type: application/json\nX-Auth: ***\n"
        '\n{"key":"***"}'
    )
    assert http.exchange.response == (
        "HTTP 404 Not Found\ncontent-length: 13\nset-cookie: ***\nx-echo: ***\n\nyou said ***"
    )


async def test_of_a_fault_the_request_and_the_reason_are_remembered(client):
    async with Webhook() as gone:
        url = gone.url
    http = Http(client)
    with pytest.raises(TryLater):
        await http.post(url, b"body", {}, 5)
    assert http.exchange.request.endswith("\n\nbody")
    assert http.exchange.response == f"(no connection to {url}: connection refused)"


async def test_of_a_long_exchange_the_beginning_is_remembered(client, hook):
    http = Http(client, secrets=["secret" * 5])
    # The secret lies across the cut: what is left of it must not be told.
    filler = b"a" * (EXCHANGE_LIMIT - len(f"POST {hook.url} HTTP/1.1\n\n") - 10)
    await http.post(hook.url, filler + b"secret" * 5 + b"b" * 1000, {}, 5)
    assert "secret" not in http.exchange.request
    assert http.exchange.request.endswith(" more characters)")
    assert len(http.exchange.request) < EXCHANGE_LIMIT + 50
