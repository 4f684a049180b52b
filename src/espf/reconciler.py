"""Carries audits on: asks the billing whom there is, and the handler how its system stands to that.

Any process that delivers does it, and so does ``evctl reconcile`` while it is looked at: each audit
is carried on by one of them at a time, a step after the other. A step is what is compared in about
two seconds. What was compared and how far that has come is stored together, so that after a crash
no entry is left out and none is counted twice.

Memory holds one step, however many subscribers there are.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
)
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy import Connection

from espf import configuration, reconciliation, subscriptions
from espf.attempt import presentable
from espf.comparison import Comparison
from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import (
    BillingFault,
    DatabaseUnavailable,
    EspfError,
    LeaseLost,
    Misconfigured,
    TryLater,
)
from espf.handlers.base import Billing
from espf.handlers.desired import DesiredStateHandler
from espf.handlers.http import HttpClient
from espf.reconciliation import (
    REPAIR,
    SCHEDULE,
    Reconciliation,
    Scope,
)
from espf.subscriptions import EventHandler

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: How often a process looks whether there is an audit to begin or to carry on.
LOOK_SECONDS = 5.0

#: How often whoever carries an audit on gives a sign of life, and sees whether it is cancelled.
KEEP_SECONDS = 5.0

#: While nothing can be compared, how long to wait before the next try, at first and at the longest;
#: and after how long an audit is given up.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
PATIENCE_SECONDS = 600.0

#: How long opening and closing a handler may take.
OPEN_SECONDS = 30.0

#: Repairs that are put into the queue in one transaction.
REPAIRS = 200


class Reconciler:
    """Audits of this process, for the handlers of its ``instance``, or with "" for all."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        client: HttpClient,
        billing: Callable[[int], Billing],
        instance: str = "",
    ) -> None:
        self.database = database
        self.sealer = sealer
        self.client = client
        self.billing = billing
        self._instance = instance
        self.name = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._carried: dict[int, asyncio.Task[Reconciliation]] = {}

    async def run(self) -> None:
        """Begin what is due and carry on what nobody does, until cancelled."""
        try:
            while True:
                try:
                    await self._look()
                except DatabaseUnavailable as error:
                    _log.info("audits wait for the database: %s", error)
                except EspfError as error:
                    _log.error("audits cannot be looked for: %s", error)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            tasks = list(self._carried.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        self._carried = {number: task for number, task in self._carried.items() if not task.done()}
        await self._begin_due()
        for one in await self.database.fetch(self._untended):
            if one.i_reconciliation not in self._carried:
                task = asyncio.create_task(self._guarded(one))
                self._carried[one.i_reconciliation] = task

    async def _begin_due(self) -> None:
        for handler in await self.database.fetch(self._due):
            with suppress(EspfError):
                await self.database.write(self._begin, handler)

    def _due(self, connection: Connection) -> list[EventHandler]:
        found = []
        for handler in subscriptions.list_handlers(connection):
            if not handler.enabled or not handler.brings_state:
                continue
            # One whose settings are not right is told of elsewhere.
            with suppress(EspfError):
                if reconciliation.due(connection, self.database, handler, self.sealer):
                    found.append(handler)
        return found

    def _begin(self, connection: Connection, handler: EventHandler) -> None:
        """Begin the audit of the day, unless another process has done so just now."""
        one = reconciliation.begin(
            connection, self.database, self.sealer, handler, Scope(), SCHEDULE
        )
        _log.info("audit %d of handler %s begins", one.i_reconciliation, handler.name)

    def _untended(self, connection: Connection) -> list[Reconciliation]:
        content = configuration.active(connection).content
        return [
            one
            for one in reconciliation.untended(connection, self.database)
            if content.serves(self._instance, one.i_env, one.handler)
        ]

    async def _guarded(self, one: Reconciliation) -> Reconciliation:
        try:
            one = await self.carry(one)
            told = (one.i_reconciliation, one.handler, one.state, one.differences)
            _log.info("audit %d of handler %s: %s, %d differences", *told)
        except DatabaseUnavailable as error:
            _log.info("audit %d goes on later: %s", one.i_reconciliation, error)
        except Exception:  # noqa: BLE001  (one audit must not end the others)
            _log.exception("a fault in audit %d", one.i_reconciliation)
        return one

    async def carry(
        self,
        one: Reconciliation,
        watch: Callable[[Reconciliation], None] = lambda _: None,
    ) -> Reconciliation:
        """Carry an audit on until it ends, or somebody else does; returns how it stands.

        ``watch`` is told after each step. Raises DatabaseUnavailable; it can be carried on later.
        """
        fetch, write = self.database.fetch, self.database.write
        place = (one.i_env, one.i_reconciliation)
        mine = await write(reconciliation.take, self.database, *place, self.name)
        if mine is None:
            return await fetch(reconciliation.find, *place)
        work = asyncio.create_task(_Carrying(self, mine, watch).run())
        kept = asyncio.create_task(self._keep(mine))
        try:
            await asyncio.wait({work, kept}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                with suppress(LeaseLost):
                    work.result()
        finally:
            for task in (work, kept):
                task.cancel()
            await asyncio.gather(work, kept, return_exceptions=True)
            with suppress(DatabaseUnavailable):
                await write(reconciliation.let_go, mine, self.name)
        return await fetch(reconciliation.find, *place)

    async def _keep(self, one: Reconciliation) -> None:
        """Return when an audit is not ours any more."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            with suppress(DatabaseUnavailable):
                if not await self.database.write(
                    reconciliation.keep, self.database, one, self.name
                ):
                    return


class _Carrying:
    """One audit, while this process carries it on."""

    def __init__(
        self, by: Reconciler, one: Reconciliation, watch: Callable[[Reconciliation], None]
    ) -> None:
        self._by = by
        self._database = by.database
        self._one = one
        self._watch = watch
        self._away_since: float | None = None
        self._pause = FIRST_PAUSE_SECONDS

    async def run(self) -> None:
        """Go on to its end. Raises LeaseLost when it is not ours any more."""
        while self._one.is_running:
            if self._one.phase == REPAIR:
                await self._repair()
                continue
            try:
                await self._compare()
            except _Changed:
                continue
            except (DatabaseUnavailable, LeaseLost):
                raise
            except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
                known = isinstance(error, EspfError)
                if not known:
                    _log.exception("a fault in audit %d", self._one.i_reconciliation)
                reason = str(error) if known else f"{type(error).__name__}: {error}"
                await self._store(reconciliation.fail, self._database, reason=reason)

    async def _repair(self) -> None:
        """Put repairs that people asked for into the queue, as there is room."""
        if await self._has_room():
            await self._store(reconciliation.repair_next, self._database, limit=REPAIRS)

    async def _compare(self) -> None:
        """Go on under the settings that the handler has now, until those change."""
        handler = await self._database.fetch(
            subscriptions.find_handler, self._one.i_env, self._one.i_event_handler
        )
        async with self._opened(handler) as comparison:
            while self._one.is_running:
                await self._require_unchanged(handler)
                if self._one.repairs_what and not await self._has_room():
                    continue
                await self._step(comparison)

    async def _step(self, comparison: Comparison) -> None:
        try:
            step = await comparison.step(self._one)
        except (TryLater, BillingFault) as error:
            await self._wait_for(str(error))
            return
        self._away_since, self._pause = None, FIRST_PAUSE_SECONDS
        await self._store(reconciliation.store, self._database, step=step)

    async def _wait_for(self, reason: str) -> None:
        """Nothing can be compared now: try again soon, and give up when that lasts."""
        now = asyncio.get_running_loop().time()
        self._away_since = self._away_since or now
        if now - self._away_since > PATIENCE_SECONDS:
            await self._store(reconciliation.fail, self._database, reason=reason)
            return
        await self._store(reconciliation.wait, remark=f"it is tried again: {reason}")
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    async def _has_room(self) -> bool:
        if await self._database.fetch(reconciliation.has_room, self._one):
            return True
        remark = "it waits until the handler has worked on repairs that are in the queue"
        await self._store(reconciliation.wait, remark=remark)
        await asyncio.sleep(FIRST_PAUSE_SECONDS)
        return False

    async def _store(self, change: Callable[..., Reconciliation], *args: Any, **words: Any) -> None:
        def do(connection: Connection) -> Reconciliation:
            return change(connection, *args, one=self._one, carrier=self._by.name, **words)

        self._one = await self._database.write(do)
        self._watch(self._one)

    async def _require_unchanged(self, handler: EventHandler) -> None:
        now = await self._database.fetch(
            subscriptions.find_handler, handler.i_env, handler.i_event_handler
        )
        if now.revision != handler.revision:
            raise _Changed

    @asynccontextmanager
    async def _opened(self, configured: EventHandler) -> AsyncIterator[Comparison]:
        """The handler, apart from the one that delivers. Raises Misconfigured, or EspfError."""
        by = self._by
        try:
            reconciliation.settings_of(configured, by.sealer)
            handler = configured.build(by.sealer)
        except EspfError as error:
            raise Misconfigured(str(error)) from None
        assert isinstance(handler, DesiredStateHandler)
        client = by.client.of_environment(configured.i_env)
        client.confine(configured.networks)
        fault = await _within(OPEN_SECONDS, handler.open())
        if fault is not None:
            said = presentable(fault, handler.secrets())
            raise Misconfigured(f"handler {configured.name} cannot be opened: {said}")
        try:
            yield Comparison(handler, client, by.billing(configured.i_env), self._one.rate)
        finally:
            await _within(OPEN_SECONDS, handler.close())


class _Changed(Exception):
    """The handler has other settings now."""


async def _within(seconds: float, work: Awaitable[object]) -> Exception | None:
    """Do something that somebody else has written, for so long; what went wrong."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return TryLater(f"no answer within {seconds:g} s")
    except Exception as error:  # noqa: BLE001  (a foreign handler may raise anything)
        return error
    return None
