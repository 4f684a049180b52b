"""Administrators: who may log in, to which environment, with which rights; and their tokens."""

import hashlib
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from espf import tokens
from espf.crypto import PasswordCheck, Sealer, hash_password
from espf.db.database import Database
from espf.db.tables import access_tokens, console_sessions, signing_keys, users
from espf.errors import Conflict, Denied, InvalidRequest, NotFound
from espf.tokens import ACCESS_LIFE

#: The login under which event handlers call the reference billing.
SERVICE_LOGIN = "espf-handlers"

#: Reads Ki and OPc of SIM cards.
SIM_KEYS = "sim.keys"
RIGHTS = frozenset({SIM_KEYS})

#: What a token may be used for in the ESPF API: what applications do, and how handlers are set up.
API_SCOPE = "espf.api:write"
HANDLERS_SCOPE = "espf.handlers:write"
SCOPES = frozenset({API_SCOPE, HANDLERS_SCOPE})

#: What each role may do in its environment; a superuser may do everything everywhere.
READ = "read"
OPERATE = "operate"
ADMINISTER = "administer"
ROLES = {
    "administrator": frozenset({READ, OPERATE, ADMINISTER}),
    "operator": frozenset({READ, OPERATE}),
    "readonly": frozenset({READ}),
}

REFRESH_LIFE = timedelta(days=30)

#: The longest life of a credential that is made for a program; no token lives longer.
CREDENTIAL_LIFE = timedelta(days=366)
MIN_PASSWORD = 8


@dataclass(frozen=True)
class User:
    """An administrator. Acts in ``i_env``; only a superuser may name another environment.

    ``scopes`` is what the caller may do in the ESPF API: everything, but for a token that was
    made for less.
    """

    i_user: int
    login: str
    i_env: int
    superuser: bool
    rights: frozenset[str]
    scopes: frozenset[str] = SCOPES
    role: str = "administrator"
    enabled: bool = True

    def may(self, what: str) -> bool:
        """Whether the role allows to READ, OPERATE or ADMINISTER."""
        return self.superuser or what in ROLES[self.role]


@dataclass(frozen=True)
class Tokens:
    """What a login hands out; a refresh does not repeat ``session_id``. Times are UTC."""

    session_id: str | None
    access_token: str
    refresh_token: str
    expires_at: datetime


class Users:
    """Logs administrators in; remembers good passwords and live tokens for a moment."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._check = PasswordCheck()
        self._nobody = _hash_of_nobody()

    def by_password(self, login: str, password: str) -> User:
        """The user with this login and password. Raises Denied. Slow the first time: argon2."""
        with self._database.read() as connection:
            row = connection.execute(
                select(users).where(users.c.login == login, users.c.enabled == 1)
            ).one_or_none()
        # A login that does not exist costs the same time as a wrong password.
        if not self._check(password, row.password_hash if row else self._nobody) or row is None:
            raise Denied("the login or the password is wrong")
        return of_row(row)

    def by_token(self, token: str) -> User:
        """The user that holds this access token.

        Raises Denied when it is unknown or expired, or when a key has signed it that is no more.
        """
        key = select(signing_keys.c.public_key).where(signing_keys.c.kid == tokens.key_of(token))
        with self._database.read() as connection:
            live = self._live(connection, token, "access")
            row = connection.execute(
                live.add_columns(key.scalar_subquery().label("public_key"))
            ).one_or_none()
            if row is None:
                tokens.require_ours(connection, token)
        if row is None:
            raise Denied("the token is unknown or has expired; log in again")
        tokens.check(token, row.public_key)
        return _holder(row)

    def by_session(self, session_id: str) -> User:
        """The user of a session that has a live access token. Raises Denied."""
        with self._database.read() as connection:
            row = connection.execute(
                select(users)
                .join(access_tokens)
                .where(
                    access_tokens.c.session_digest == digest(session_id),
                    access_tokens.c.kind == "access",
                    access_tokens.c.expires_at > self._database.now(connection),
                    users.c.enabled == 1,
                )
            ).first()
        if row is None:
            raise Denied("the session is unknown or has expired; log in again")
        return of_row(row)

    def open_session(self, user: User, scopes: frozenset[str] = SCOPES) -> Tokens:
        """Begin a session, with its first pair of tokens.

        Raises InvalidRequest when ``scopes`` are not among those that there are.
        """
        if unknown := scopes - SCOPES:
            raise InvalidRequest(
                f"scopes: {min(unknown)!r:.50} is not one of {', '.join(sorted(SCOPES))}", "scopes"
            )
        session_id = secrets.token_hex(16)
        return self._issue(replace(user, scopes=scopes), digest(session_id), session_id)

    def _issue(self, user: User, session_digest: bytes, session_id: str | None) -> Tokens:
        refresh = secrets.token_urlsafe(32)
        with self._database.begin() as connection:
            now = self._database.now(connection)
            forget_expired(connection, now)
            access = tokens.sign(connection, self._sealer, claims(user, now, ACCESS_LIFE))
            for token, kind, life in (
                (access, "access", ACCESS_LIFE),
                (refresh, "refresh", REFRESH_LIFE),
            ):
                connection.execute(
                    insert(access_tokens).values(
                        digest=digest(token),
                        session_digest=session_digest,
                        kind=kind,
                        i_user=user.i_user,
                        expires_at=now + life,
                        scopes=" ".join(sorted(user.scopes)),
                    )
                )
        return Tokens(session_id, access, refresh, now + ACCESS_LIFE)

    def refresh(self, refresh_token: str) -> Tokens:
        """Exchange a refresh token, which is used up, for a new pair. Raises Denied."""
        with self._database.read() as connection:
            row = connection.execute(self._live(connection, refresh_token, "refresh")).one_or_none()
        if row is None:
            raise Denied("the token is unknown or has expired; log in again")
        user = _holder(row)
        with self._database.begin() as connection:
            used = access_tokens.c.digest == digest(refresh_token)
            # Of two who come with the same token, the second waits here and finds nothing.
            session_digest = connection.execute(
                select(access_tokens.c.session_digest).where(used).with_for_update()
            ).scalar_one_or_none()
            connection.execute(delete(access_tokens).where(used))
        if session_digest is None:
            raise Denied("the token is unknown or has expired; log in again")
        return self._issue(user, session_digest, None)

    def close_session(self, token: str) -> None:
        """Log out: every token of the session of this access token stops working."""
        with self._database.begin() as connection:
            session = select(access_tokens.c.session_digest).where(
                access_tokens.c.digest == digest(token)
            )
            connection.execute(
                delete(access_tokens).where(access_tokens.c.session_digest.in_(session))
            )

    def close_session_id(self, session_id: str) -> None:
        """Log out by session_id."""
        with self._database.begin() as connection:
            connection.execute(
                delete(access_tokens).where(access_tokens.c.session_digest == digest(session_id))
            )

    def _live(
        self, connection: Connection, token: str, kind: Literal["access", "refresh"]
    ) -> Select[Any]:
        return (
            select(users, access_tokens.c.scopes)
            .join(access_tokens)
            .where(
                access_tokens.c.digest == digest(token),
                access_tokens.c.kind == kind,
                access_tokens.c.expires_at > self._database.now(connection),
                users.c.enabled == 1,
            )
        )


def create(
    connection: Connection,
    login: str,
    password: str,
    i_env: int,
    *,
    superuser: bool = False,
    rights: frozenset[str] = frozenset(),
    role: str = "administrator",
) -> int:
    """Add an administrator; returns i_user. Raises Conflict when the login is taken."""
    _check_role(role)
    if not 1 <= len(login) <= 64 or not login.isprintable() or {" ", ":"} & set(login):
        raise InvalidRequest(
            "login: 1 to 64 printable characters without blanks or colons are expected", "login"
        )
    check_password(password)
    if unknown := rights - RIGHTS:
        raise InvalidRequest(
            f"rights: {', '.join(sorted(unknown))} is not one of {', '.join(sorted(RIGHTS))}",
            "rights",
        )
    row = insert(users).values(
        login=login,
        password_hash=hash_password(password),
        i_env=i_env,
        superuser=int(superuser),
        rights=" ".join(sorted(rights)),
        role=role,
    )
    try:
        # A savepoint, so that the caller's transaction can go on.
        with connection.begin_nested():
            result = connection.execute(row)
    except IntegrityError:
        raise Conflict(f"the login {login!r} is taken") from None
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])


def forget_expired(connection: Connection, now: datetime) -> None:
    """Remove the tokens that open nothing any more, and the keys that signed no other ones."""
    connection.execute(delete(access_tokens).where(access_tokens.c.expires_at < now))
    tokens.forget_retired(connection, now - CREDENTIAL_LIFE)


def set_password(connection: Connection, login: str, password: str) -> None:
    """Give an administrator a new password; all of the login's sessions end."""
    check_password(password)
    i_user = find(connection, login).i_user
    connection.execute(
        update(users).where(users.c.i_user == i_user).values(password_hash=hash_password(password))
    )
    _end_sessions(connection, i_user)


def find(connection: Connection, login: str) -> User:
    """The user with this login. Raises NotFound."""
    row = connection.execute(select(users).where(users.c.login == login)).one_or_none()
    if row is None:
        raise NotFound(f"there is no user {login!r}")
    return of_row(row)


def change(
    connection: Connection, login: str, *, role: str, superuser: bool, enabled: bool
) -> User:
    """Change what a user may do; with less than before, or disabled, all its sessions end.

    Raises NotFound, and Conflict when no superuser would be left.
    """
    _check_role(role)
    before = find(connection, login)
    connection.execute(
        update(users)
        .where(users.c.i_user == before.i_user)
        .values(role=role, superuser=int(superuser), enabled=int(enabled))
    )
    _require_superuser(connection)
    after = find(connection, login)
    if not after.enabled or (before.superuser, before.role) != (after.superuser, after.role):
        _end_sessions(connection, before.i_user)
    return after


def remove(connection: Connection, login: str) -> None:
    """Delete a user and its sessions. Raises NotFound, and Conflict as ``change`` does."""
    user = find(connection, login)
    if login == SERVICE_LOGIN:
        raise Conflict(f"{login} is the account of the event handlers; disable it instead")
    _end_sessions(connection, user.i_user)
    connection.execute(delete(users).where(users.c.i_user == user.i_user))
    _require_superuser(connection)


def _require_superuser(connection: Connection) -> None:
    """Somebody must be there who can put things right."""
    left = select(users.c.i_user).where(users.c.superuser == 1, users.c.enabled == 1).limit(1)
    if connection.execute(left).first() is None:
        raise Conflict("no superuser would be left who may log in")


def _end_sessions(connection: Connection, i_user: int) -> None:
    for table in (access_tokens, console_sessions):
        connection.execute(delete(table).where(table.c.i_user == i_user))


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidRequest(f"role: {role!r:.50} is not one of {', '.join(ROLES)}", "role")


def list_all(connection: Connection) -> list[User]:
    """All administrators, by login."""
    return [of_row(row) for row in connection.execute(select(users).order_by(users.c.login))]


def check_password(password: str) -> None:
    """Raise InvalidRequest when a new password is too short, or is no text that can be typed."""
    if not password.isprintable():
        raise InvalidRequest("password: printable characters are expected", "password")
    if len(password) < MIN_PASSWORD:
        raise InvalidRequest(
            f"password: at least {MIN_PASSWORD} characters are expected", "password"
        )


def service_password(sealer: Sealer) -> str:
    """The password of the handlers' service account: derived from the key file, stored nowhere."""
    return sealer.derive("service account of the event handlers")


def of_row(row: Row[Any]) -> User:
    """A user out of a row that has the columns of Users."""
    return User(
        i_user=row.i_user,
        login=row.login,
        i_env=row.i_env,
        superuser=bool(row.superuser),
        rights=frozenset(row.rights.split()),
        role=row.role,
        enabled=bool(row.enabled),
    )


def _holder(row: Row[Any]) -> User:
    """Who holds a token, and what it may be used for."""
    return replace(of_row(row), scopes=frozenset(row.scopes.split()))


def claims(user: User, now: datetime, life: timedelta) -> dict[str, Any]:
    """What an access token says, in the vendor's words."""
    return {
        "iat": int(now.timestamp()),
        "exp": int((now + life).timestamp()),
        "jti": secrets.token_hex(16),
        "i_user": user.i_user,
        "i_env": user.i_env,
        "login": user.login,
        "realm": "admin",
        "scopes": " ".join(sorted(user.scopes)),
        "is_super_user": int(user.superuser),
    }


def digest(token: str) -> bytes:
    """What is stored of a token: nobody can log in with it."""
    return hashlib.sha256(token.encode()).digest()


@cache
def _hash_of_nobody() -> str:
    """A hash that no password has, to spend the same time on logins that do not exist."""
    return hash_password(secrets.token_urlsafe(32))
