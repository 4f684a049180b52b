"""Access tokens: JSON Web Tokens, signed with keys of our own that can be changed while in use.

A token names its key. The newest key signs. Of a key that was replaced only the public half is
kept, for as long as a token lives that it may have signed; then the tokens end with it.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import Connection, delete, insert, select, update

from espf.crypto import Sealer
from espf.db.tables import signing_keys
from espf.errors import Denied, SettingsError

#: How long an access token lives.
ACCESS_LIFE = timedelta(hours=48)

AUDIENCE = ("portabilling-api", "portasip-api", "espf-api")
ALGORITHM = "RS256"
KEY_BITS = 2048


class Forged(Denied):
    """The token is not signed by this installation; log in again."""


@dataclass(frozen=True)
class SigningKey:
    """A key by its name ``kid``; ``public_key`` is PEM. ``retired_at`` None: it signs."""

    kid: str
    public_key: str
    created_at: datetime
    retired_at: datetime | None


def add_key(connection: Connection, sealer: Sealer, now: datetime) -> str:
    """Make a new key, which signs from now on; returns its name.

    What was signed before stays valid until it expires.
    """
    connection.execute(
        update(signing_keys)
        .where(signing_keys.c.retired_at.is_(None))
        .values(private_key=None, retired_at=now)
    )
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    kid = secrets.token_hex(8)
    connection.execute(
        insert(signing_keys).values(
            kid=kid,
            public_key=public.decode(),
            private_key=sealer.seal(private.decode()),
            created_at=now,
        )
    )
    return kid


def list_keys(connection: Connection) -> list[SigningKey]:
    """The keys whose tokens are valid, the newest first."""
    rows = connection.execute(select(signing_keys).order_by(signing_keys.c.created_at.desc()))
    return [SigningKey(row.kid, row.public_key, row.created_at, row.retired_at) for row in rows]


def forget_retired(connection: Connection, before: datetime) -> int:
    """Remove keys that were retired before a time, and with them the tokens; returns how many."""
    return connection.execute(
        delete(signing_keys).where(signing_keys.c.retired_at <= before)
    ).rowcount


def sign(connection: Connection, sealer: Sealer, claims: Mapping[str, Any]) -> str:
    """A token with these claims, for our audience.

    Raises SettingsError when there is no key, or when it is sealed with another key file.
    """
    key = connection.execute(
        select(signing_keys)
        .where(signing_keys.c.private_key.is_not(None))
        .order_by(signing_keys.c.created_at.desc())
        .limit(1)
    ).one_or_none()
    if key is None:
        raise SettingsError("there is no key to sign tokens with; run 'evctl init' to make one")
    return jwt.encode(
        {**claims, "aud": list(AUDIENCE)},
        sealer.unseal(key.private_key),
        ALGORITHM,
        headers={"kid": key.kid},
    )


def key_of(token: str) -> str:
    """The name of the key that a token says has signed it. Raises Denied when it is no token."""
    try:
        return str(jwt.get_unverified_header(token).get("kid"))[:64]
    except jwt.InvalidTokenError:
        raise Denied("the token is none that Session/login gives; log in again") from None


def check(token: str, public_key: str | None) -> None:
    """Raise Forged unless this key has signed the token; None: there is no such key.

    Whether it has expired or was given back is known to the table of tokens alone, whose clock is
    the database's.
    """
    if public_key is None:
        raise Forged
    try:
        _check(token, public_key)
    except jwt.InvalidTokenError:
        raise Forged from None


def require_ours(connection: Connection, token: str) -> None:
    """Raise Denied unless one of our keys has signed the token, be it valid or not."""
    public_key = connection.execute(
        select(signing_keys.c.public_key).where(signing_keys.c.kid == key_of(token))
    ).scalar_one_or_none()
    check(token, public_key)


@lru_cache(maxsize=1024)
def _check(token: str, public_key: str) -> None:
    """Only what is right is remembered."""
    jwt.decode(
        token,
        public_key,
        algorithms=[ALGORITHM],
        audience=AUDIENCE,
        options={"verify_exp": False, "verify_iat": False},
    )
