"""The table Alerts: what holds, since when, and what people were told of it by which channel.

A channel is told of what changed since it was told last. What could not be sent is what has changed
still, at the next turn; and what came and went meanwhile needs not be told at all.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, or_, select, update

from espf.alerts.channels import Channel, Receipt
from espf.alerts.conditions import Condition, Kind
from espf.alerts.messages import Alert, News, State
from espf.db.database import Database
from espf.db.tables import alerts

#: For so long it must not hold any more before it is over.
OVER_SECONDS = 60.0

#: How often people are told that more events have failed.
AGAIN = timedelta(hours=1)

#: What tells one alert from another.
_Key = tuple[Kind, str]

_TOLD: Mapping[Channel, str] = {Channel.MAIL: "mailed_at", Channel.HTTP: "posted_at"}


def list_alerts(
    connection: Connection, i_env: int | None = None, *, everywhere: bool = False
) -> list[Alert]:
    """What holds, the newest first: in an environment (None: in all).

    ``everywhere``: besides, what concerns the whole installation.
    """
    a = alerts.c
    mine: list[ColumnElement[bool]] = []
    if i_env is not None:
        mine.append(or_(a.i_env == i_env, a.i_env.is_(None)) if everywhere else a.i_env == i_env)
    query = select(alerts).where(a.gone_since.is_(None), *mine)
    return [_alert(row) for row in connection.execute(query.order_by(a.since.desc(), a.about))]


def reconcile(
    connection: Connection,
    database: Database,
    found: Iterable[Condition],
    channels: Collection[Channel],
) -> list[Alert]:
    """Make the table say what holds now; returns what has begun, or begun again.

    ``channels`` are those that there are. Of another, nobody was told anything.
    """
    now = database.now(connection)
    _forget(connection, now, channels)
    known = {(one.kind, one.about): one for one in _all(connection)}
    holds = {(one.kind, one.about): one for one in found}
    begun = []
    for key, condition in holds.items():
        values = {"text": condition.text, "count": condition.count, "subject": condition.subject}
        if key not in known:
            connection.execute(insert(alerts).values(**asdict(condition)))
            begun.append(_found(connection, key))
        elif known[key].gone_since or any(getattr(known[key], k) != v for k, v in values.items()):
            _set(connection, key, {**values, "gone_since": None})
    for key, one in known.items():
        # Whether alerts can be sent shows when one is.
        stays = key in holds or (one.kind is Kind.SENDING and one.about in channels)
        if not stays and one.gone_since is None:
            _set(connection, key, {"gone_since": now})
    return begun


def news(
    connection: Connection, database: Database, channels: Iterable[Channel]
) -> dict[Channel, list[News]]:
    """What each channel is to be told."""
    now, rows = database.now(connection), _all(connection)
    return {
        channel: [
            News(one, state)
            for one in rows
            if (state := _to_tell(one, _told_at(one, channel), now)) is not None
        ]
        for channel in channels
    }


def note(
    connection: Connection, database: Database, told: Sequence[tuple[Receipt, Sequence[News]]]
) -> None:
    """Note what was sent, and that something could not be."""
    now = database.now(connection)
    for receipt, some in told:
        key = (Kind.SENDING, str(receipt.channel))
        if receipt.fault is None:
            column = _TOLD[receipt.channel]
            for one in some:
                moment = None if one.state is State.OVER else now
                _set(connection, (one.alert.kind, one.alert.about), {column: moment})
            broken = _is(key) & alerts.c.gone_since.is_(None)
            connection.execute(update(alerts).where(broken).values(gone_since=now))
        elif not _set(connection, key, {"text": receipt.fault, "gone_since": None}):
            fault = Condition(*key, receipt.channel.spoken, receipt.fault, now)
            connection.execute(insert(alerts).values(**asdict(fault)))


def _to_tell(one: Alert, told_at: datetime | None, now: datetime) -> State | None:
    if one.gone_since is not None:
        over = now - one.gone_since >= timedelta(seconds=OVER_SECONDS)
        return State.OVER if over and told_at is not None else None
    if told_at is None:
        return State.RAISED
    more = one.kind is Kind.FAILED and one.count > 0 and now - told_at >= AGAIN
    return State.REPEATED if more else None


def _forget(connection: Connection, now: datetime, channels: Collection[Channel]) -> None:
    """Drop what is over, as everybody knows who was told that it had begun."""
    for channel in set(Channel) - set(channels):
        told = alerts.c[_TOLD[channel]]
        connection.execute(update(alerts).where(told.is_not(None)).values({told.name: None}))
    untold = [alerts.c[column].is_(None) for column in _TOLD.values()]
    over = alerts.c.gone_since <= now - timedelta(seconds=OVER_SECONDS)
    connection.execute(delete(alerts).where(over, *untold))


def _told_at(one: Alert, channel: Channel) -> datetime | None:
    moment: datetime | None = getattr(one, _TOLD[channel])
    return moment


def _all(connection: Connection) -> list[Alert]:
    query = select(alerts).order_by(alerts.c.since, alerts.c.kind, alerts.c.about)
    return [_alert(row) for row in connection.execute(query)]


def _found(connection: Connection, key: _Key) -> Alert:
    return _alert(connection.execute(select(alerts).where(_is(key))).one())


def _set(connection: Connection, key: _Key, values: Mapping[str, object]) -> int:
    return connection.execute(update(alerts).where(_is(key)).values(dict(values))).rowcount


def _is(key: _Key) -> ColumnElement[bool]:
    kind, about = key
    return (alerts.c.kind == kind) & (alerts.c.about == about)


def _alert(row: Row[Any]) -> Alert:
    return Alert(**{**row._asdict(), "kind": Kind(row.kind)})
