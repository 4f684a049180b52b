"""The watch: looks what is wrong and has people told, in one process at a time.

Whoever has the turn keeps it as long as it looks, so that one process knows that it is to tell when
the database is away. That it tells without the database, by the configuration that it read last.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection

from espf import configuration, maintenance
from espf.alerts import book, channels
from espf.alerts.channels import Channel, Receipt
from espf.alerts.conditions import Condition, Kind, current
from espf.alerts.messages import Alert, News, State, compose, headline
from espf.capture import rules, triggers
from espf.configuration import Provisioning
from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import DatabaseUnavailable, EspfError
from espf.handlers.http import HttpClient

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: How often it looks, and how often while the database is away.
LOOK_SECONDS = 10.0
AWAY_LOOK_SECONDS = 2.0

#: For how long the turn is its own: longer than a look and what is sent after it.
TURN_SECONDS = 60.0

#: For so long the database must not have answered before it is away: more than a restart takes.
AWAY_SECONDS = 30.0

#: How often it looks at the triggers.
DRIFT_SECONDS = 50.0

#: How soon a channel that failed is tried again: ever later, up to this.
RETRY_SECONDS = 300.0

_TURN = "alerts"


@dataclass(frozen=True)
class _Look:
    """What a look at the database has shown; ``found`` None: it is another process's turn."""

    settings: Provisioning
    found: Sequence[Condition] | None


@dataclass
class _Failure:
    """A channel that failed: what it said, and when to try again, how long after that."""

    fault: str
    pause: float
    again: float


class Watch:
    """``rules_file`` is the setting that names the capture rules."""

    def __init__(
        self, database: Database, sealer: Sealer, client: HttpClient, rules_file: Path | None
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._client = client
        self._rules = rules_file
        self._me = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._my_turn = False
        self._settings: Provisioning | None = None
        self._answered = (time.monotonic(), datetime.now(UTC))
        # The channels that know that the database is away, as it was told.
        self._told_away: dict[Channel, Alert] = {}
        # What was told, and the database does not know of it yet.
        self._unnoted: list[tuple[Receipt, Sequence[News]]] = []
        self._failures: dict[Channel, _Failure] = {}
        self._drift: tuple[float, Sequence[str]] = (-DRIFT_SECONDS, ())
        self._said = ""

    async def run(self) -> None:
        """Look, and tell, until cancelled."""
        while True:
            pause, said = LOOK_SECONDS, ""
            try:
                await self._look_and_tell()
                await self._tell_back()
            except DatabaseUnavailable as error:
                await self._tell_away(str(error))
                pause = AWAY_LOOK_SECONDS
            except Exception as error:  # noqa: BLE001  (for want of an alert no delivery must stop)
                said = str(error)
                if said != self._said:
                    ours = isinstance(error, EspfError)
                    _log.error("alerts cannot be looked for: %s", error, exc_info=not ours)
            self._said = said
            await asyncio.sleep(pause)

    async def _look_and_tell(self) -> None:
        await self._note()
        look = await self._ask(self._database.fetch(self._look))
        self._settings = look.settings
        self._my_turn = look.found is not None
        if look.found is None:
            return
        there = channels.wanted(look.settings)
        turn = await self._ask(self._database.write(self._put, look.found, there))
        self._my_turn = turn is not None
        if turn is None:
            return
        begun, news = turn
        for one in begun:
            _log.warning("alert: %s: %s", headline(one), one.text)
        self._unnoted += await self._send(news, look.settings)
        await self._note()

    async def _note(self) -> None:
        """Note what was told; when the database goes away just then, as soon as it is back."""
        if self._unnoted:
            await self._ask(self._database.write(book.note, self._database, self._unnoted))
            self._unnoted = []

    def _look(self, connection: Connection) -> _Look:
        settings = configuration.active(connection).opened(self._sealer).provisioning
        if maintenance.whose_turn(connection, self._database, _TURN) not in {"", self._me}:
            return _Look(settings, None)
        drifts = self._drifts(connection)
        return _Look(settings, current(connection, self._database, settings, drifts))

    def _put(
        self, connection: Connection, found: Sequence[Condition], there: Sequence[Channel]
    ) -> tuple[list[Alert], dict[Channel, list[News]]] | None:
        """Note what was found, and say what is to be told; None: another process has the turn."""
        turn = timedelta(seconds=TURN_SECONDS)
        if not maintenance.keep_turn(connection, self._database, _TURN, self._me, turn):
            return None
        begun = book.reconcile(connection, self._database, found, there)
        return begun, book.news(connection, self._database, there)

    def _drifts(self, connection: Connection) -> Sequence[str]:
        now = time.monotonic()
        if self._drift[0] + DRIFT_SECONDS <= now:
            try:
                wanted = triggers.compile_rules(
                    rules.chosen_rules(self._rules), triggers.disabled_types(connection)
                )
                found = triggers.verify(connection, self._database.dialect, wanted)
                self._drift = (now, list(map(str, found)))
            except DatabaseUnavailable:
                raise
            except EspfError:
                # Rules that are wrong are told of by whoever applies them.
                self._drift = (now, ())
        return self._drift[1]

    # To send

    async def _send(
        self, news: Mapping[Channel, Sequence[News]], settings: Provisioning
    ) -> list[tuple[Receipt, Sequence[News]]]:
        """Tell each channel, in one message, what there is for it, unless it failed just now."""
        due = {channel: some for channel, some in news.items() if some and self._is_due(channel)}
        now = datetime.now(UTC)
        receipts = await asyncio.gather(
            *(
                channels.send(
                    channel, compose(some, settings.console_url, now), settings, self._client
                )
                for channel, some in due.items()
            )
        )
        for receipt in receipts:
            self._remember(receipt)
        return list(zip(receipts, due.values(), strict=True))

    def _is_due(self, channel: Channel) -> bool:
        failure = self._failures.get(channel)
        return failure is None or failure.again <= time.monotonic()

    def _remember(self, receipt: Receipt) -> None:
        failed = self._failures.pop(receipt.channel, None)
        by = receipt.channel.spoken
        if receipt.fault is None:
            _log.info("alerts sent %s: %s", by, receipt.said)
            return
        if failed is None or failed.fault != receipt.fault:
            _log.error("alerts cannot be sent %s: %s", by, receipt.fault)
        pause = min(2 * failed.pause, RETRY_SECONDS) if failed else LOOK_SECONDS
        # A little less, so that it is due when it is looked for.
        again = time.monotonic() + pause - LOOK_SECONDS / 2
        self._failures[receipt.channel] = _Failure(receipt.fault, pause, again)

    # When the database is away

    async def _ask(self, asked: Coroutine[Any, Any, T]) -> T:
        """The answer of the database, however long it takes; that it takes too long is told."""
        asking = asyncio.ensure_future(asked)
        try:
            while not (await asyncio.wait({asking}, timeout=AWAY_SECONDS))[0]:
                await self._tell_away("it does not answer")
            found = asking.result()
        finally:
            asking.cancel()
        self._answered = (time.monotonic(), datetime.now(UTC))
        return found

    async def _tell_away(self, reason: str) -> None:
        """Tell that the database is away, if that is our turn, and once it is sure."""
        known, since = self._answered
        if self._settings is None or not self._my_turn or time.monotonic() - known < AWAY_SECONDS:
            return
        host = socket.gethostname()
        text = f"{' '.join(reason.split())}."
        away = Alert(Kind.DATABASE, "", None, f"on {host}", text, 0, since)
        missing = [one for one in channels.wanted(self._settings) if one not in self._told_away]
        news = {channel: [News(away, State.RAISED)] for channel in missing}
        for receipt, _ in await self._send(news, self._settings):
            if receipt.fault is None:
                self._told_away[receipt.channel] = away

    async def _tell_back(self) -> None:
        """Tell those that the database is back who heard that it was away."""
        if not self._told_away or self._settings is None:
            return
        _, back = self._answered
        news = {
            channel: [News(_ended(away, back), State.OVER)]
            for channel, away in self._told_away.items()
            if channel in channels.wanted(self._settings)
        }
        self._told_away = {channel: self._told_away[channel] for channel in news}
        for receipt, _ in await self._send(news, self._settings):
            if receipt.fault is None:
                del self._told_away[receipt.channel]


def _ended(alert: Alert, moment: datetime) -> Alert:
    return replace(alert, gone_since=moment)
