"""API credentials: access tokens that somebody makes for a program, with a name and a long life.

A program that has one needs neither login nor password, may do no more than its scopes, and is
shut out by taking the credential back.
"""

import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select

from espf import tokens
from espf.crypto import Sealer
from espf.db.database import Database
from espf.db.tables import access_tokens
from espf.errors import Conflict, InvalidRequest, NotFound
from espf.users import CREDENTIAL_LIFE, SCOPES, User, claims, digest


@dataclass(frozen=True)
class Credential:
    """A credential of a user, without what opens anything; ``key`` tells it from others."""

    key: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime


def issue(
    connection: Connection,
    database: Database,
    sealer: Sealer,
    user: User,
    name: str,
    scopes: frozenset[str],
    days: int,
) -> str:
    """Make a credential; returns the token, which cannot be shown again.

    Raises InvalidRequest that names the field, Conflict when the user has one of this name.
    """
    if not 1 <= len(name) <= 64 or not name.isprintable() or name != name.strip():
        raise InvalidRequest("name: 1 to 64 printable characters are expected", "name")
    if not scopes or scopes - SCOPES:
        raise InvalidRequest(
            f"scopes: one or more of {', '.join(sorted(SCOPES))} are expected", "scopes"
        )
    if not 1 <= days <= CREDENTIAL_LIFE.days:
        raise InvalidRequest(f"days: 1 to {CREDENTIAL_LIFE.days} are expected", "days")
    if any(one.name == name for one in list_of(connection, user.i_user)):
        raise Conflict(f"there is a credential {name!r} already")
    now, life = database.now(connection), timedelta(days=days)
    token = tokens.sign(connection, sealer, claims(replace(user, scopes=scopes), now, life))
    connection.execute(
        insert(access_tokens).values(
            digest=digest(token),
            # It belongs to no log-in.
            session_digest=digest(secrets.token_hex(16)),
            kind="access",
            i_user=user.i_user,
            expires_at=now + life,
            scopes=" ".join(sorted(scopes)),
            name=name,
            created_at=now,
        )
    )
    return token


def list_of(connection: Connection, i_user: int) -> list[Credential]:
    """The credentials of a user, by name."""
    rows = connection.execute(
        select(access_tokens)
        .where(access_tokens.c.i_user == i_user, access_tokens.c.name.is_not(None))
        .order_by(access_tokens.c.name)
    )
    return [
        Credential(
            row.digest.hex(),
            row.name,
            frozenset(row.scopes.split()),
            row.created_at,
            row.expires_at,
        )
        for row in rows
    ]


def revoke(connection: Connection, i_user: int, key: str) -> str:
    """Take a credential back; returns its name. Raises NotFound."""
    found = next((one for one in list_of(connection, i_user) if one.key == key), None)
    if found is None:
        raise NotFound("there is no such credential")
    connection.execute(delete(access_tokens).where(access_tokens.c.digest == bytes.fromhex(key)))
    return found.name
