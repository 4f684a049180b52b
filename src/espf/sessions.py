"""Sessions of the console: a browser in which somebody is logged in, until it is told otherwise.

A cookie holds a random word, the database only its digest. So a session can be seen and ended by
its owner, from wherever.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from espf.db.database import Database
from espf.db.tables import console_sessions, users
from espf.errors import Denied, NotFound
from espf.users import User, of_row

#: A session ends when nobody has asked for a page for so long, and anyway after so long.
IDLE = timedelta(hours=8)
LIFE = timedelta(days=7)

#: How exact "last seen" is: a page does not cost a write each time.
SEEN_STEP = timedelta(minutes=1)


@dataclass(frozen=True)
class Session:
    """A log-in to the console. Times are UTC; ``address`` and ``browser`` are of the log-in."""

    i_session: int
    i_user: int
    started_at: datetime
    seen_at: datetime
    address: str
    browser: str


def begin(
    connection: Connection, database: Database, user: User, address: str, browser: str
) -> str:
    """Begin a session; returns the word for the cookie, which is not stored anywhere."""
    word = secrets.token_urlsafe(32)
    now = database.now(connection)
    connection.execute(
        insert(console_sessions).values(
            digest=_digest(word),
            i_user=user.i_user,
            started_at=now,
            seen_at=now,
            address=address[:64],
            browser=browser[:255],
        )
    )
    return word


def resume(connection: Connection, database: Database, word: str) -> tuple[Session, User]:
    """The session of a cookie, and whose it is. Raises Denied when it is over."""
    now = database.now(connection)
    c = console_sessions.c
    mine = (
        select(console_sessions, *(column for column in users.c if column.name != "i_user"))
        .join(users)
        .where(
            c.digest == _digest(word),
            c.seen_at > now - IDLE,
            c.started_at > now - LIFE,
            users.c.enabled == 1,
        )
    )
    row = connection.execute(mine).one_or_none()
    if row is None:
        raise Denied("the session has ended; log in again")
    session = Session(
        row.i_session, row.i_user, row.started_at, row.seen_at, row.address, row.browser
    )
    return session, of_row(row)


def is_stale(connection: Connection, database: Database, session: Session) -> bool:
    """Whether it is time to note that the session is in use."""
    return database.now(connection) - session.seen_at >= SEEN_STEP


def touch(connection: Connection, database: Database, session: Session) -> None:
    """Note that the session is in use."""
    connection.execute(
        update(console_sessions)
        .where(console_sessions.c.i_session == session.i_session)
        .values(seen_at=database.now(connection))
    )


def list_of(connection: Connection, i_user: int) -> list[Session]:
    """The sessions of a user, the one seen last first."""
    rows = connection.execute(
        select(console_sessions)
        .where(console_sessions.c.i_user == i_user)
        .order_by(console_sessions.c.seen_at.desc(), console_sessions.c.i_session.desc())
    )
    return [
        Session(row.i_session, row.i_user, row.started_at, row.seen_at, row.address, row.browser)
        for row in rows
    ]


def end(connection: Connection, i_user: int, i_session: int) -> None:
    """End a session of a user. Raises NotFound."""
    ended = connection.execute(
        delete(console_sessions).where(
            console_sessions.c.i_session == i_session, console_sessions.c.i_user == i_user
        )
    )
    if not ended.rowcount:
        raise NotFound(f"there is no session {i_session}")


def end_all(connection: Connection, i_user: int, *, but: int | None = None) -> int:
    """End all sessions of a user, one perhaps excepted; returns how many."""
    query = delete(console_sessions).where(console_sessions.c.i_user == i_user)
    if but is not None:
        query = query.where(console_sessions.c.i_session != but)
    return connection.execute(query).rowcount


def forget_old(connection: Connection, now: datetime) -> None:
    """Remove sessions that are over."""
    c = console_sessions.c
    connection.execute(
        delete(console_sessions).where((c.seen_at <= now - IDLE) | (c.started_at <= now - LIFE))
    )


def _digest(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()
