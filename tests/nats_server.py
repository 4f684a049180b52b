"""A real nats-server with JetStream for tests, its users, its certificates and its credentials."""

import base64
import binascii
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from nats.aio.client import Client
from nats.js import JetStreamContext

from programs import Program

USER, PASSWORD = "espf", "hush-hush-password"
#: Somebody who may do what the documents say that is needed, for what is about accounts.
POOR = "poor"
TOKEN = "hush-hush-token"

USERS = f"""
authorization {{
  users: [
    {{user: {USER}, password: {PASSWORD}}},
    {{user: {POOR}, password: {PASSWORD}, permissions: {{
      publish: ["*.*.Account.>", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.CREATE.*"],
      subscribe: "_INBOX.>"
    }}}},
  ]
}}
"""


class NatsServer(Program):
    """A server; ``config`` says whom it lets in. Each of a test process has a port of its own."""

    def __init__(self, port: int = 4222, config: str = USERS) -> None:
        super().__init__()
        self.ports = (port,)
        self._config = config

    @property
    def at(self) -> str:
        """Its address and port."""
        return f"{self.address}:{self.ports[0]}"

    def install(self) -> None:
        (self.folder / "nats.conf").write_text(
            f"listen: {self.at}\nserver_name: one\nmax_payload: 100KB\n"
            f'jetstream {{ store_dir: "{self.folder}/js" }}\n{self._config}\n'
        )

    def command(self) -> list[str]:
        return ["nats-server", "-c", "nats.conf"]

    @asynccontextmanager
    async def visited(self, **login: Any) -> AsyncIterator[JetStreamContext]:
        """A connection of somebody else."""
        client = Client()
        await client.connect(f"nats://{self.at}", **(login or {"user": USER, "password": PASSWORD}))
        try:
            yield client.jetstream()
        finally:
            await client.close()


def tls_config(folder: Path, address: str) -> str:
    """Make a certificate for an address, ``folder/ca.pem``; what a server must be told of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    files = f'cert_file: "{folder}/ca.pem", key_file: "{folder}/key.pem"'
    return f"tls {{ {files} }}\nauthorization {{ token: {TOKEN} }}\n"


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "ca.pem"))


class _Key:
    """A key as NATS writes it; ``kind`` is the letter that its names begin with."""

    def __init__(self, kind: Literal["A", "O", "U"]) -> None:
        self._kind = {"A": 0, "O": 14 << 3, "U": 20 << 3}[kind]
        self.key = Ed25519PrivateKey.generate()
        raw = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.name = _summed(bytes([self._kind]) + self.key.public_key().public_bytes(*raw))

    @property
    def seed(self) -> str:
        first = bytes([18 << 3 | self._kind >> 5, (self._kind & 31) << 3])
        return _summed(first + self.key.private_bytes_raw())

    def claim(self, kind: str, about: "_Key", **more: Any) -> str:
        """A JWT about a key, signed by this one."""
        claims = {
            "jti": about.name,
            "iat": int(datetime.now(UTC).timestamp()),
            "iss": self.name,
            "name": kind,
            "sub": about.name,
            "nats": {"type": kind, "version": 2, **more},
        }
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_url64(json.dumps(one).encode()) for one in (head, claims))
        return f"{text}.{_url64(self.key.sign(text.encode()))}"


def operator_config() -> tuple[str, str]:
    """What a server is told that knows users by credentials; and the text of such a file."""
    operator, system, account, user = _Key("O"), _Key("A"), _Key("A"), _Key("U")
    names = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    limits = dict.fromkeys((*names, "mem_storage", "disk_storage", "streams", "consumer"), -1)
    plain = {name: limits[name] for name in names} | {"wildcards": True}
    claimed = operator.claim("account", account, limits=limits | plain)
    config = (
        f'operator: "{operator.claim("operator", operator)}"\n'
        f"system_account: {system.name}\nresolver: MEMORY\n"
        f'resolver_preload: {{ {account.name}: "{claimed}"\n'
        f'{system.name}: "{operator.claim("account", system, limits=plain)}" }}\n'
    )
    jwt = account.claim("user", user, pub={}, sub={}, subs=-1, data=-1, payload=-1)
    credentials = (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    return config, credentials


def _summed(raw: bytes) -> str:
    whole = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(whole).decode().rstrip("=")


def _url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
