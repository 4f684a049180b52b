"""The web server as clients meet it: TLS, proxies, limits, headers. Real sockets, a real nginx."""

import asyncio
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from desk import PASSWORD
from espf.errors import SettingsError
from espf.web import body, contract
from espf.web import server as web
from espf.web.app import build_app
from web_servers import running

pytestmark = pytest.mark.databases("sqlite")

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate}; ssl_certificate_key {key};
{locations}
  }}
}}
"""


def certificate(folder, number=1):
    """A certificate for 127.0.0.1 that signs itself, in the files of earlier ones."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ours")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    tls = web.Tls(folder / "tls.pem", folder / "tls.key")
    tls.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    tls.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return tls


@contextmanager
def serving(desk, proxies=(), tls=None):
    """The application on a free port, in a thread of its own; gives its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    with closing(desk.database()) as database:
        context = tls and tls.context()
        one = web.server(build_app(database, desk.sealer()), proxies, context)

        async def serve():
            follow = asyncio.create_task(tls.follow(context)) if tls else None
            await one.serve([listening])
            if follow is not None:
                follow.cancel()

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            one.should_exit = True
            thread.join()


def ask(url, tls=None, data=None, **headers):
    """The status and the headers of a reply."""
    context = ssl.create_default_context(cafile=tls.certificate) if tls else None
    request = urllib.request.Request(url, data, headers)
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), NoRedirects(), urllib.request.ProxyHandler({})
    )
    try:
        with opener.open(request, timeout=60) as reply:
            return reply.status, reply.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def log_in(url, tls=None, **headers):
    """The cookie of a new session."""
    form = urlencode({"login": "admin", "password": PASSWORD}).encode()
    status, got = ask(f"{url}/login", tls, form, **{"Origin": url, **headers})
    assert status == 303
    return next(one for one in got.get_all("Set-Cookie") if one.startswith("espf_session="))


def test_with_a_certificate_it_serves_tls_and_nothing_else(desk, tmp_path):
    tls = certificate(tmp_path)
    with serving(desk, tls=tls) as (host, port):
        status, headers = ask(f"https://{host}:{port}/healthz", tls)
        assert (status, headers["Strict-Transport-Security"]) == (200, "max-age=31536000")
        assert "Server" not in headers
        assert "; Secure" in log_in(f"https://{host}:{port}", tls)
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            ask(f"http://{host}:{port}/healthz")
    assert tls.context().minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_renewed_certificate_is_served_without_a_restart(desk, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(web, "TLS_LOOK_SECONDS", 0.02)
    tls = certificate(tmp_path, 1)

    def serial(place):
        shown = ssl.get_server_certificate(place, timeout=60)
        return x509.load_pem_x509_certificate(shown.encode()).serial_number

    def becomes(place, number):
        return any(serial(place) == number for _ in range(2000))

    with serving(desk, tls=tls) as place:
        assert serial(place) == 1
        tls.key.write_text("half of a key")
        for _ in range(2000):
            if "stays as it was" in caplog.text:
                break
            assert serial(place) == 1
        certificate(tmp_path, 2)
        assert becomes(place, 2)


def test_a_certificate_that_cannot_be_used_is_told_at_the_start(desk, tmp_path):
    tls = certificate(tmp_path)
    tls.key.write_text("no key")
    with pytest.raises(SettingsError, match=r"ESPF_TLS_CERTIFICATE, ESPF_TLS_KEY: .*tls\.key"):
        tls.context()
    words = {"ESPF_TLS_CERTIFICATE": str(tls.certificate), "ESPF_TLS_KEY": str(tls.key)}
    assert "ESPF_TLS_CERTIFICATE" in desk.fails(2, "run", **words)
    del words["ESPF_TLS_KEY"]
    assert "belong together" in desk.fails(2, "run", **words)


def test_a_process_serves_tls_and_its_workers_need_to_know_where(desk, tmp_path):
    tls = certificate(tmp_path)
    desk.environment |= {
        "ESPF_TLS_CERTIFICATE": str(tls.certificate),
        "ESPF_TLS_KEY": str(tls.key),
    }
    with desk.start("run") as process:
        try:
            found = re.search(r"INFO .* listening on (https://\S+)", process.stderr.readline())
            assert found
            assert ask(f"{found[1]}/healthz", tls)[0] == 200
        finally:
            process.terminate()
            rest = process.stderr.read()
        assert process.wait(60) == 0, rest
    # Its own would be asked under a name that no certificate is for.
    done = desk.child("worker")
    assert done.returncode == 2
    assert "ESPF_BILLING_URL" in done.stderr


def locations(place):
    """What the how-to tells to write into the configuration of nginx, for this place."""
    page = (Path(__file__).parents[2] / "docs/how-to/serve-by-tls.md").read_text("utf-8")
    found = re.search(r"```nginx\n(.*?)```", page, re.DOTALL)
    return found[1].replace("127.0.0.1:8080", "{}:{}".format(*place))


def test_behind_nginx_as_the_how_to_says(desk, tmp_path):
    tls = certificate(tmp_path)

    def command(place):
        def made(port):
            words = {"certificate": tls.certificate, "key": tls.key, "port": port}
            conf = tmp_path / "nginx.conf"
            conf.write_text(
                NGINX.format(folder=tmp_path, locations=locations(place), **words), "utf-8"
            )
            return ["/usr/sbin/nginx", "-e", "stderr", "-p", str(tmp_path), "-c", conf.name]

        return made

    with serving(desk, ["127.0.0.1"]) as place, running(tmp_path, command(place)) as front:
        url = front.replace("http:", "https:")
        # Host is passed on: the origin of the form must be the host that was asked.
        assert "; Secure" in log_in(url, tls)
        status, headers = ask(f"{url}/healthz", tls)
        assert (status, headers["Strict-Transport-Security"]) == (200, "max-age=31536000")
        assert headers.get_all("X-Content-Type-Options") == ["nosniff"]
        rows = desk.sql("SELECT address FROM Console_Sessions")
        assert {address for (address,) in rows} == {"127.0.0.1"}
        # What a client says of itself is not passed on.
        log_in(url, tls, **{"X-Forwarded-For": "192.0.2.7"})
        rows = desk.sql("SELECT address FROM Console_Sessions")
        assert {address for (address,) in rows} == {"127.0.0.1"}


@pytest.mark.parametrize(("proxies", "secure"), [(["127.0.0.1"], True), (["192.0.2.1"], False)])
def test_only_a_trusted_proxy_says_how_a_client_came(desk, proxies, secure):
    with serving(desk, proxies) as (host, port):
        cookie = log_in(f"http://{host}:{port}", **{"X-Forwarded-Proto": "https"})
    assert ("; Secure" in cookie) is secure


def test_replies_of_the_apis_are_neither_guessed_at_nor_kept(desk):
    with serving(desk) as (host, port):
        for path in ("/espf/v1/handlers", "/doc/api", "/healthz", "/rest/Account/x", "/nowhere"):
            _, headers = ask(f"http://{host}:{port}{path}")
            assert headers.get_all("X-Content-Type-Options") == ["nosniff"], path
            assert headers.get_all("Cache-Control") == ["no-store"], path
            assert "Strict-Transport-Security" not in headers


def closes(connection):
    """Whether the server closes the connection; what it said before that."""
    connection.settimeout(60)
    said = b""
    while some := connection.recv(4096):
        said += some
    return said


def test_a_head_that_does_not_end_ends_the_connection(desk, monkeypatch):
    monkeypatch.setattr(web, "HEAD_SECONDS", 0.3)
    with serving(desk) as place:
        with socket.create_connection(place) as silent:
            assert closes(silent) == b""
        with socket.create_connection(place) as slow:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            assert closes(slow) == b""
        with socket.create_connection(place) as second:
            second.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /heal")
            assert closes(second).startswith(b"HTTP/1.1 200 ")


def test_a_head_that_is_too_long_is_refused(desk):
    with serving(desk) as place, socket.create_connection(place) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * 2 * web.HEAD_BYTES)
        assert closes(connection).startswith(b"HTTP/1.1 400 ")


def test_a_body_that_does_not_come_is_not_waited_for(desk, monkeypatch):
    monkeypatch.setattr(body, "BODY_SECONDS", 0.2)
    with serving(desk) as place, closing(HTTPConnection(*place, timeout=60)) as connection:
        connection.putrequest("POST", "/login")
        connection.putheader("Sec-Fetch-Site", "same-origin")
        connection.putheader("Content-Type", contract.FORM)
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"login=")
        reply = connection.getresponse()
        assert reply.status == 400
        assert "does not come" in reply.read().decode()
