"""HTTP with TLS and through a proxy, against the real nginx and tinyproxy.

No name server knows the hosts ``*.test``: a fixture does. What the proxy looks up is ``localhost``.
"""

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from espf import Misconfigured, Route, TryLater
from espf.errors import Unreachable
from espf.handlers.event_sender import EventSender
from espf.handlers.http import HttpClient
from espf.testing import run_handler, sample_event
from house import House
from web_servers import running
from webhook import Answer, Webhook

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_timeout 60ms; client_max_body_size 10m;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
{servers}
}}
"""

SERVER = """
  server {{
    listen 127.0.0.1:{port} {listen};
    server_name {name};
    ssl_certificate {folder}/{name}.pem; ssl_certificate_key {folder}/{name}.pem;
    ssl_protocols {protocols}; ssl_ciphers DEFAULT@SECLEVEL=0;
    location / {{ return 200 "{name} $ssl_server_name $connection"; }}
  }}
"""

TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout 20
Allow 127.0.0.1
BasicAuth espf hush-hush
"""


def signed(name, alternative, issuer, key, days):
    """A certificate for the key, by an issuer (name and key), that ends in so many days."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer[0]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=not alternative, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        .sign(issuer[1], hashes.SHA256())
    )


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def pem(key, certificate):
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def authority(path, name):
    """A certificate authority; returns its name and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        signed(name, [], (name, key), key, 100).public_bytes(serialization.Encoding.PEM)
    )
    return name, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Certificates: by an authority that we know (``ca.pem``), and by one that we do not."""
    folder = tmp_path_factory.mktemp("tls")
    known = authority(folder / "ca.pem", "Known Authority")
    unknown = authority(folder / "stranger.pem", "Unknown Authority")
    names = {
        "one.test": (known, 10),
        "two.test": (known, 10),
        "old.test": (known, -1),
        "strange.test": (unknown, 10),
        "aged.test": (known, 10),
        "localhost": (known, 10),
    }
    for name, (issuer, days) in names.items():
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [x509.DNSName(name)]
        if name == "one.test":
            alternatives.append(x509.IPAddress(IPv4Address("127.0.0.1")))
        certificate = signed(name, alternatives, issuer, key, days)
        (folder / f"{name}.pem").write_bytes(pem(key, certificate))
    return folder


@pytest.fixture(scope="module")
def aged(folder):
    """The port of an nginx that knows no TLS later than 1.1."""
    with nginx(folder, ["aged.test"], "TLSv1.1") as url:
        yield url.rpartition(":")[2]


@pytest.fixture(scope="module")
def tls(folder):
    """The port of an nginx with a virtual host, and a certificate, for each name."""
    names = ["one.test", "two.test", "old.test", "strange.test", "localhost"]
    with nginx(folder, names, "TLSv1.2 TLSv1.3") as url:
        yield url.rpartition(":")[2]


def nginx(folder, names, protocols):
    """The first of the names is the default host."""

    def command(port):
        first = "ssl default_server backlog=1024"
        servers = "".join(
            SERVER.format(
                folder=folder,
                name=name,
                port=port,
                protocols=protocols,
                listen="ssl" if n else first,
            )
            for n, name in enumerate(names)
        )
        conf = folder / f"{names[0]}.conf"
        conf.write_text(NGINX.format(folder=folder, servers=servers))
        return ["/usr/sbin/nginx", "-e", "stderr", "-p", str(folder), "-c", conf.name]

    return running(folder, command)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tinyproxy")

    def command(port):
        (folder / "tinyproxy.conf").write_text(TINYPROXY.format(port=port))
        return ["/usr/bin/tinyproxy", "-d", "-c", "tinyproxy.conf"]

    with running(folder, command) as url:
        yield url


@pytest.fixture(autouse=True)
def name_server(monkeypatch):
    """Knows that ``*.test`` is here."""
    look_up = socket.getaddrinfo

    def here(host, *more, **options):
        return look_up("127.0.0.1" if host.endswith(".test") else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", here)


@pytest.fixture
def trusted(folder):
    return Route(ca_file=str(folder / "ca.pem"))


@pytest.fixture
async def client():
    async with HttpClient() as client:
        yield client


async def post(client, url, route, body=b"{}"):
    return await client.post(url, body, {}, 10.0, route)


async def refused(client, url, route, verdict=Unreachable):
    with pytest.raises(verdict) as caught:
        await post(client, url, route)
    assert type(caught.value) is verdict
    return str(caught.value)


# TLS


async def test_the_name_chooses_the_virtual_host_and_its_certificate(client, tls, trusted):
    for name in ("one.test", "two.test"):
        reply = await post(client, f"https://{name}:{tls}/x", trusted)
        assert reply.text.split()[:2] == [name, name]


async def test_an_address_has_no_name_to_choose_by(client, tls, trusted):
    reply = await post(client, f"https://127.0.0.1:{tls}/x", trusted)
    assert reply.text.split()[0] == "one.test"
    assert len(reply.text.split()) == 2


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("other.test", "Hostname mismatch, certificate is not valid for 'other.test'."),
        ("old.test", "certificate has expired"),
        ("strange.test", "unable to get local issuer certificate"),
    ],
)
async def test_a_certificate_that_is_not_good(client, tls, trusted, host, why):
    reason = await refused(client, f"https://{host}:{tls}/x", trusted)
    said = f"no connection to https://{host}:{tls}: its certificate is not trusted: {why}"
    assert reason == said


async def test_an_authority_that_the_system_does_not_know(client, tls):
    reason = await refused(client, f"https://one.test:{tls}/x", Route())
    assert "its certificate is not trusted: unable to get local issuer certificate" in reason


async def test_a_server_of_the_past(client, aged, trusted):
    reason = await refused(client, f"https://aged.test:{aged}/x", trusted)
    assert reason.startswith(f"no connection to https://aged.test:{aged}: TLS: ")
    assert "protocol" in reason


async def test_authorities_that_cannot_be_read(client, tls, tmp_path):
    async def with_file():
        route = Route(ca_file=str(path))
        return await refused(client, f"https://one.test:{tls}/x", route, Misconfigured)

    path = tmp_path / "ca.pem"
    assert await with_file() == f"cannot read {path}: no such file or directory"
    path.write_text("nothing")
    assert await with_file() == f"{path} is not a file of PEM certificates"


async def test_authorities_that_are_replaced_count_at_once(client, tls, folder, tmp_path):
    path = tmp_path / "ca.pem"
    path.write_bytes((folder / "stranger.pem").read_bytes())
    route = Route(ca_file=str(path))
    await refused(client, f"https://one.test:{tls}/x", route)
    path.write_bytes((folder / "ca.pem").read_bytes())
    assert (await post(client, f"https://one.test:{tls}/x", route)).ok


async def test_a_connection_that_the_server_is_about_to_close(client, tls, trusted):
    # Some requests cross with nginx closing what is idle; see test_http_servers.py.
    async def pausing(n):
        for step in range(8):
            assert (await post(client, f"https://one.test:{tls}/x", trusted)).ok
            await asyncio.sleep(0.060 + (n * 8 + step - 80) / 8000)

    await asyncio.gather(*(pausing(n) for n in range(20)))


async def test_what_was_kept_too_long_is_asked_once_more(client, folder, trusted):
    asked, writers = [], []

    async def forgetful(reader, writer):
        """Answers the first request, and closes at the second; at once when it is never to."""
        writers.append(writer)
        for _ in range(2):
            asked.append(await reader.readuntil(b"\r\n\r\n{}"))
            if len(asked) in silent:
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    silent = {2, 4}
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "one.test.pem")
    async with await asyncio.start_server(forgetful, "127.0.0.1", 0, ssl=server) as listening:
        url = f"https://one.test:{listening.sockets[0].getsockname()[1]}"
        for _ in range(2):
            assert (await post(client, url, trusted)).ok
        assert len(asked) == 3
        async with HttpClient() as other:
            reason = await refused(other, url, trusted, TryLater)
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)
    assert reason == f"{url} closed the connection without an answer"
    assert len(asked) == 4


# Proxies


def through(proxy, trusted=None, user="espf", password="hush-hush"):
    return Route(proxy, user, password, trusted.ca_file if trusted else None)


async def test_a_proxy_passes_plain_requests_on(client, proxy):
    async with Webhook() as hook:
        hook.then(Answer(202, body="taken"))
        reply = await post(client, f"{hook.url}/a?b=c", through(proxy), b'{"a":1}')
        request = hook.requests[0]
    assert (reply.status, reply.text) == (202, "taken")
    assert (request.method, request.path, request.body) == ("POST", "/a?b=c", b'{"a":1}')
    assert "tinyproxy" in request.headers["via"]
    assert "proxy-authorization" not in request.headers
    assert "authorization" not in request.headers


async def test_a_proxy_gets_the_whole_url(client):
    async with Webhook() as proxy:
        url = "http://no-such-host.invalid/a?b=c"
        await post(client, url, through(proxy.url))
        assert proxy.requests[0].path == url
        assert proxy.requests[0].headers["proxy-authorization"] == "Basic ZXNwZjpodXNoLWh1c2g="
        assert client.target(url, through(proxy.url)) is None


async def test_tls_goes_through_a_tunnel(client, proxy, tls, trusted):
    url = f"https://localhost:{tls}/x"
    for _ in range(3):
        reply = await post(client, url, through(proxy, trusted))
        assert reply.text.split()[:2] == ["localhost", "localhost"]
    reason = await refused(client, url, through(proxy))
    assert reason.startswith(f"no connection to https://localhost:{tls}: its certificate is not")


async def test_what_the_proxy_is_told_goes_no_further(client, proxy, folder, trusted):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "localhost.pem")
    async with Webhook(tls=server) as hook:
        url = f"https://localhost:{hook.port}/"
        assert (await post(client, url, through(proxy, trusted))).ok
        assert not {name for name in hook.requests[0].headers if "authorization" in name}


async def test_a_certificate_at_the_end_of_a_tunnel_is_verified(client, proxy, tls, trusted):
    # Such a host gets the certificate of the first one, which is of this address.
    reply = await post(client, f"https://127.0.0.1:{tls}/x", through(proxy, trusted))
    assert reply.ok
    reason = await refused(client, f"https://127.1:{tls}/x", through(proxy, trusted))
    assert "Hostname mismatch" in reason


# What tinyproxy says of a wrong password is for a server to say.
@pytest.mark.parametrize(
    ("login", "status", "said"),
    [
        (("espf", "wrong"), 401, "HTTP 401 Unauthorized"),
        (("", ""), 407, "HTTP 407 Proxy Authentication Required"),
    ],
)
async def test_a_proxy_that_wants_another_password(
    client, proxy, tls, trusted, login, status, said
):
    route = through(proxy, trusted, *login)
    assert (await post(client, "http://127.0.0.1:1/", route)).status == status
    reason = await refused(client, f"https://localhost:{tls}/", route, Misconfigured)
    assert reason == f"the proxy wants another user or password: {said}"


async def test_a_proxy_that_finds_nobody(client, proxy):
    url = "https://127.0.0.1:1"
    reason = await refused(client, url, through(proxy))
    assert reason.startswith(f"the proxy did not connect to {url}: HTTP 50")
    assert (await post(client, "http://127.0.0.1:1/", through(proxy))).status >= 500


async def test_a_proxy_that_forbids(client):
    async with Webhook() as proxy:
        proxy.always = Answer(403)
        reason = await refused(client, "https://some.invalid/", Route(proxy.url), Misconfigured)
    assert reason == "the proxy did not connect to https://some.invalid: HTTP 403 Forbidden"


async def test_a_proxy_that_is_away(client):
    async with Webhook() as gone:
        url = gone.url
    for scheme in ("http", "https"):
        reason = await refused(client, f"{scheme}://some.invalid/", Route(url))
        assert reason == f"no connection to the proxy {url}: connection refused"
    reason = await refused(client, "http://some.invalid/", Route("http://no-proxy.invalid:81"))
    said = "no connection to the proxy http://no-proxy.invalid:81: the host name is not known"
    assert reason == said


# A connection alone


async def test_a_connection_is_tried_with_all_that_a_request_needs(
    client, tls, aged, trusted, proxy
):
    async def tried(url, route=trusted, verdict=Unreachable):
        with pytest.raises(verdict) as caught:
            await client.connect(url, 10.0, route)
        return str(caught.value)

    url = f"https://one.test:{tls}"
    assert await client.connect(f"{url}/x?y=z", 10.0, trusted) == url
    assert await client.connect(f"http://127.0.0.1:{tls}/x", 10.0) == f"http://127.0.0.1:{tls}"
    through = Route(proxy)
    assert await client.connect("https://some.invalid", 10.0, through) == f"the proxy {proxy}"
    for host, why in [
        ("old.test", "certificate has expired"),
        ("other.test", "Hostname mismatch, certificate is not valid for 'other.test'."),
    ]:
        said = f"no connection to https://{host}:{tls}: its certificate is not trusted: {why}"
        assert await tried(f"https://{host}:{tls}") == said
    assert "unable to get local issuer" in await tried(url, Route())
    assert "TLS: " in await tried(f"https://aged.test:{aged}")
    assert "cannot read /no/file" in await tried(url, Route(ca_file="/no/file"), Misconfigured)
    async with Webhook() as gone:
        nobody = gone.url
    assert await tried(nobody, Route()) == f"no connection to {nobody}: connection refused"
    said = f"no connection to the proxy {nobody}: connection refused"
    assert await tried(url, Route(nobody)) == said
    assert "the host name is not known" in await tried("http://no.invalid", Route())


async def test_a_server_that_says_nothing_is_no_connection_with_tls(client):
    async with Webhook() as silent:
        url = silent.url.replace("http", "https")
        with pytest.raises(Unreachable, match=r"no connection to https://.* within 0.2 s"):
            await client.connect(url, 0.2)


# EventSender


async def sent(url, **chosen):
    given = {"URL": url, "AuthMethod": "None", "APIVersion": 1, **chosen}
    options = {f"EventSender.{name.replace('__', '.')}": value for name, value in given.items()}
    return await run_handler(EventSender, options, sample_event())


async def test_an_event_goes_through_the_proxy_to_a_server_with_tls(proxy, tls, folder):
    url = f"https://localhost:{tls}/x"
    login = {"ProxyAuth__User": "espf", "ProxyAuth__Key": "hush-hush"}
    known = {"CAFile": str(folder / "ca.pem")}
    verdict = await sent(url, Proxy=proxy, **login, **known)
    assert verdict.outcome == "finished"
    assert "hush" not in repr(verdict)
    assert (await sent(url, Proxy=proxy, **login)).outcome == "try later"
    assert (await sent(url, Proxy=proxy, **known)).outcome == "misconfigured"
    assert (await sent("http://127.0.0.1:1/", Proxy=proxy)).outcome == "misconfigured"


@pytest.mark.databases("sqlite")
async def test_a_worker_goes_that_way_and_the_journal_says_why_not(
    database, sealer, tmp_path, proxy, tls, folder
):
    house = House(database, sealer, tmp_path)
    options = {"EventSender__Proxy": proxy, "EventSender__ProxyAuth__User": "espf"}
    options |= {"EventSender__CAFile": str(folder / "ca.pem"), "EventSender__TokenRate": 1000}
    handler = house.handler(f"https://localhost:{tls}/x", **options)
    house.event(i_account=1)

    def reasons():
        return {row["reason"] for row in house.rows("Provisioning_Log")}

    async with house.working():
        said = "the proxy wants another user or password: HTTP 401 Unauthorized"
        await house.come_true(lambda: said in reasons())
        house.change(handler, EventSender__ProxyAuth__Key="hush-hush", EventSender__CAFile="")
        house.event(i_account=2)
        said = "its certificate is not trusted: unable to get local issuer certificate"
        await house.come_true(lambda: any(said in (reason or "") for reason in reasons()))
        house.change(handler, EventSender__CAFile=str(folder / "ca.pem"))
        house.event(i_account=3)
        await house.come_true(lambda: house.statuses()[3] == "finished")
    assert "hush" not in str(house.rows("Provisioning_Log"))
