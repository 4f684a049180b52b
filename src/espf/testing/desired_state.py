"""Check that a handler which brings a system to a state keeps what it promises.

The system is a real one, or a server of the test's own: what counts is what it holds afterwards.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from espf.errors import BillingFault, HandlerError, Rejected, Skipped, TryLater
from espf.handlers import subscriber
from espf.handlers.base import Context
from espf.handlers.desired import Change, DesiredStateHandler, Fields
from espf.handlers.http import Http, HttpClient, masked
from espf.handlers.registry import read_settings
from espf.model import Event
from espf.testing.running import FakeOutlet, check_settings, sample_event

#: How long an attempt may take, whatever becomes of it.
_PATIENCE_SECONDS = 60.0

#: How long an attempt may take to stop when it is told to.
_STOP_SECONDS = 2.0

#: Pages of keys that are read in search of one.
_PAGES = 1000

#: How an address is written in the options of a handler.
At = Callable[[str, int], Mapping[str, object]]


class OneAccount:
    """A billing with one account, and the SIM card that it holds; both may be changed any time.

    ``account`` is what ``Account/get_account_info`` answers, ``card`` what
    ``SIMCard/get_card_info`` does, its keys among it.
    """

    def __init__(self, **fields: object) -> None:
        self.card: dict[str, Any] = {
            "i_sim_card": 7,
            "i_account": 541,
            "imsi": "001010000000541",
            "iccid": "8901001010000000541",
            "ki": "465B5CE8B199B49FAA5F0A2EE238A6BC",
            "opc": "CD63CB71954A9F4E48A5994E37A02BAF",
        }
        self.account: dict[str, Any] = {
            "i_account": 541,
            "i_customer": 42,
            "id": "380441234541",
            "bill_status": "O",
            "blocked": "N",
            "billing_model": 1,
            "i_product": 5,
            "product_name": "Everything",
            "h323_password": "Ohm7-service-eiP",
            "password": "Ahz4-selfcare-ieR",
            **fields,
        }

    async def call(self, service: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer as the billing does, also that there is no such thing."""
        match f"{service}/{method}":
            case "Account/get_account_info":
                found, member = self._described(), "account_info"
            case "SIMCard/get_card_info":
                found, member = self.card, "card_info"
            case called:
                raise BillingFault("Server.Test.unknown_method", f"there is no {called} here")
        asked = {name: value for name, value in params.items() if name in found}
        if not asked or any(found[name] != value for name, value in asked.items()):
            raise BillingFault("Server.Test.not_found", "there is no such thing")
        return {member: dict(found)}

    async def get_account_info(self, i_account: int) -> dict[str, Any]:
        """The account."""
        answer = await self.call("Account", "get_account_info", {"i_account": i_account})
        return dict(answer["account_info"])

    def close(self) -> list[Event]:
        """Close the account, which gives its card back; the events of that."""
        number, card = self.account["i_account"], self.card["i_sim_card"]
        self.account["bill_status"], self.card["i_account"] = "C", None
        named: dict[str, Any] = {"i_account": number, "prev_i_sim_card": card}
        return [
            sample_event("Account/SIMCardAssignment", **named, curr_i_sim_card=None),
            self.event("Account/Status/Closed"),
        ]

    def event(self, event_type: str, **variables: object) -> Event:
        """An event of the account."""
        about: dict[str, Any] = {name: self.account[name] for name in ("i_account", "i_customer")}
        return sample_event(event_type, **{**about, **variables})

    def secrets(self) -> list[str]:
        """What nobody may read anywhere."""
        values = [self.account.get(name) for name in ("h323_password", "password")]
        return [str(value) for value in (*values, self.card["ki"], self.card["opc"]) if value]

    def _described(self) -> dict[str, Any]:
        if self.card["i_account"] != self.account["i_account"]:
            return self.account
        shown = {name: self.card[name] for name in ("i_sim_card", "imsi", "iccid")}
        return {**self.account, "sim_card": shown}


async def check_desired_state(
    handler_class: type[DesiredStateHandler],
    settings: Mapping[str, object],
    *,
    billing: OneAccount | None = None,
    at: At | None = None,
) -> None:
    """Check the promises of a desired-state handler. Raises AssertionError that names a broken one.

    With these ``settings`` the handler must reach a system that holds nothing under the keys of the
    account of ``billing``; in the end it holds nothing again. ``at`` gives the options that lead to
    an address and a port: then it is checked what becomes of a system that is away or silent, which
    takes as long as the handler waits for an answer. Set its time-out low.
    """
    check_settings(handler_class, settings)
    trial = _Trial(handler_class, settings, billing or OneAccount())
    await trial.begins_with_nothing()
    await trial.looks_without_touching()
    await trial.brings_the_subscriber()
    await trial.bars_and_frees()
    await trial.survives_its_end()
    await trial.follows_another_id()
    await trial.removes_the_closed()
    if at is not None:
        await trial.waits_for_a_system_that_is_away(at)


class _Trial:
    """A handler, its system, and one account that things happen to."""

    def __init__(
        self,
        handler_class: type[DesiredStateHandler],
        options: Mapping[str, object],
        billing: OneAccount,
    ) -> None:
        self._type = handler_class
        self._options = options
        self._billing = billing
        # All under which the system may hold something of the account, now or from before.
        self._keys: list[str] = []

    # What is promised

    async def begins_with_nothing(self) -> None:
        async with self._handler() as (handler, context):
            owner = await self._owner(context)
            self._keys += handler.keys_of(owner)
            assert self._keys, "keys_of() names no key of the account"
            for key in self._keys:
                first, second = handler.desired(key, owner), handler.desired(key, owner)
                assert first == second, "desired() says something else the second time"
        assert await self._kinds() == {"missing"}, "the system holds something at the beginning"

    async def looks_without_touching(self) -> None:
        async with self._handler() as (handler, context):
            try:
                said = await handler.check(context)
            except HandlerError as error:
                raise AssertionError(f"check() finds fault with the system: {error}") from error
            self._keep_quiet(handler, context, said or "")
        assert await self._kinds() == {"missing"}, "check() has changed something"
        event = self._billing.event("Account/New")
        changes, verdict = await self._attempt(event, {"Mode": "shadow"})
        assert not changes, "in shadow mode something is applied"
        assert isinstance(verdict, Skipped), f"shadow mode does not say so: {verdict!r}"
        assert await self._kinds() == {"missing"}, "in shadow mode something was changed"

    async def brings_the_subscriber(self) -> None:
        event = self._billing.event("Account/New")
        assert await self._done(event), "a new subscriber changes nothing"
        assert not await self._done(event), "the same event again changes something: apply() again"
        await self._is_listed()

    async def bars_and_frees(self) -> None:
        new = self._billing.event("Account/New")
        before = await self._held()
        self._billing.account["blocked"] = "Y"
        changed = await self._done(self._billing.event("Account/Blocked"))
        settings = read_settings(self._type.Settings, self._options)
        if "blocked" in getattr(settings, "barred_by", ()):
            assert changed, "a blocked subscriber is held as one who is not"
        assert not await self._done(new), "an older event that comes late undoes a newer one"
        self._billing.account["blocked"] = "N"
        await self._done(self._billing.event("Account/Unblocked"))
        assert await self._held() == before, "an unblocked subscriber is not held as before"

    async def survives_its_end(self) -> None:
        """An attempt that ends before, while or after it changes the system is made good."""
        for end, blocked in ((_cancel_at_once, "Y"), (_cancel_soon, "N"), (_fall, "Y")):
            self._billing.account["blocked"] = blocked
            event = self._billing.event(
                "Account/Blocked" if blocked == "Y" else "Account/Unblocked"
            )
            await self._ended(event, end)
            await self._done(event)
            assert not await self._done(event), "after an attempt that was cut off, apply() again"
        self._billing.account["blocked"] = "N"
        await self._done(self._billing.event("Account/Unblocked"))

    async def follows_another_id(self) -> None:
        before = str(self._billing.account["id"])
        after = before[:-1] + ("2" if before[-1] != "2" else "3")
        self._billing.account["id"] = after
        event = self._billing.event("Account/ID/Changed", prev_id=before, curr_id=after)
        async with self._handler() as (handler, context):
            keys = handler.keys_of(await self._owner(context))
        self._keys += [key for key in keys if key not in self._keys]
        await self._done(event)
        assert not await self._done(event), "another id that is told again changes something"

    async def removes_the_closed(self) -> None:
        events = self._billing.close()
        for event in events:
            await self._done(event, strictly=event is events[-1])
        for event in events:
            assert not await self._done(event), "a closed account that is told again is changed"
        assert set((await self._held()).values()) == {None}, "a closed account is still held"

    async def waits_for_a_system_that_is_away(self, at: At) -> None:
        # It must be asked for something: a closed account may have no key.
        self._billing.account["bill_status"] = "O"
        self._billing.card["i_account"] = self._billing.account["i_account"]
        event = self._billing.event("Account/New")
        async with _listener(silent=False) as (host, port):
            changes, verdict = await self._attempt(event, at(host, port))
            assert isinstance(verdict, TryLater), f"a system that hangs up: {verdict!r}"
        changes, verdict = await self._attempt(event, at(host, port))
        assert isinstance(verdict, TryLater), f"a system that is not there: {verdict!r}"
        async with _listener(silent=True) as (host, port):
            changes, verdict = await self._attempt(event, at(host, port))
            assert isinstance(verdict, TryLater), f"no answer is taken for one: {verdict!r}"
            assert not changes, "something is applied without an answer"
            task = asyncio.create_task(self._attempt(event, at(host, port)))
            await asyncio.sleep(0.1)
            await _stopped(task)

    # How it is seen

    async def _done(self, event: Event, *, strictly: bool = True) -> list[Change]:
        """An attempt that must bring the system to where it should be; what it applied."""
        changes, verdict = await self._attempt(event, {})
        assert verdict is None or isinstance(verdict, Skipped), f"{event.event_type}: {verdict!r}"
        if strictly:
            kinds = await self._kinds()
            assert kinds == {"same"}, f"{event.event_type} leaves it {', '.join(sorted(kinds))}"
        return changes

    async def _attempt(
        self, event: Event, more: Mapping[str, object]
    ) -> tuple[list[Change], Exception | None]:
        """One attempt: what it applied, and what it raised."""
        async with self._handler(more) as (handler, context):
            applied = _watched(handler)
            verdict = None
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await handler.handle(event, context)
            except HandlerError as error:
                verdict = error
            except TimeoutError:
                raise AssertionError(
                    f"{event.event_type}: no verdict within {_PATIENCE_SECONDS:g} s"
                ) from None
            self._keep_quiet(handler, context, str(verdict or ""))
            return applied, verdict

    async def _ended(self, event: Event, end: "_End") -> None:
        """An attempt that does not come to its end."""
        async with self._handler() as (handler, context):
            end(handler)
            task = asyncio.create_task(handler.handle(event, context))
            done, _ = await asyncio.wait({task}, timeout=_PATIENCE_SECONDS)
            if not done:
                await _stopped(task)
            elif not task.cancelled():
                error = task.exception()
                assert error is None or isinstance(error, _Fallen | HandlerError), repr(error)

    def _keep_quiet(self, handler: DesiredStateHandler, context: Context, said: str) -> None:
        """Nothing that is kept of an attempt tells a secret."""
        kept = masked("\n".join([*context.notes, said]), context.secrets).casefold()
        for secret in (*self._billing.secrets(), *handler.secrets()):
            assert secret.casefold() not in kept, "a secret stands in the journal or in an error"

    async def _is_listed(self) -> None:
        """A system that can list what it holds does not leave the account out."""
        async with self._handler() as (handler, context):
            after: str | None = None
            missing = set(self._keys)
            for _ in range(_PAGES):
                try:
                    page = await handler.held_keys(after, context)
                except Rejected:
                    return
                if not page:
                    break
                assert page[-1] != after, "held_keys() begins anew after its last key"
                missing.difference_update(page)
                after = page[-1]
            assert not missing, "held_keys() leaves out what the system holds"

    async def _kinds(self) -> set[str]:
        """How the system stands to the billing, under all keys."""
        kinds: set[str] = set()
        async with self._handler() as (handler, context):
            for key in self._keys:
                change = await handler.compare(key, context)
                kinds.add(change.kind)
                shown = " ".join(map(str, change.differences(handler.secret_fields))).casefold()
                for secret in self._billing.secrets():
                    assert secret.casefold() not in shown, "secret_fields lacks a field"
        return kinds

    async def _held(self) -> dict[str, Fields | None]:
        """What is wanted and what the system holds of it, by key."""
        async with self._handler() as (handler, context):
            found = {key: await handler.compare(key, context) for key in self._keys}
        return {
            key: change.held
            if change.held is None or change.wanted is None
            else {name: change.held.get(name, "") for name in change.wanted}
            for key, change in found.items()
        }

    async def _owner(self, context: Context) -> subscriber.Subscriber:
        number = int(self._billing.account["i_account"])
        found = await subscriber.by_account(context, number, keys=self._type.needs_card_keys)
        assert found is not None
        return found

    @asynccontextmanager
    async def _handler(
        self, more: Mapping[str, object] | None = None
    ) -> AsyncIterator[tuple[DesiredStateHandler, Context]]:
        """A new handler, as after a restart of the worker."""
        options = {**self._options, **(more or {})}
        handler = self._type(read_settings(self._type.Settings, options))
        async with HttpClient() as client:
            secrets = [*handler.secrets()]
            context = Context(
                Http(client, secrets), self._billing, 1, FakeOutlet(), secrets=secrets
            )
            await handler.open()
            try:
                yield handler, context
            finally:
                await handler.close()


def _watched(handler: DesiredStateHandler) -> list[Change]:
    """The changes that a handler applies from now on."""
    applied: list[Change] = []
    apply = handler.apply

    async def watched(change: Change, context: Context) -> None:
        applied.append(change)
        await apply(change, context)

    handler.apply = watched  # type: ignore[method-assign]
    return applied


class _Fallen(Exception):
    """The process is gone."""


#: How an attempt does not come to its end.
_End = Callable[[DesiredStateHandler], None]


def _cancel_at_once(handler: DesiredStateHandler) -> None:
    """It is cut off when it first waits within a change."""
    apply = handler.apply

    async def cut(change: Change, context: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await apply(change, context)

    handler.apply = cut  # type: ignore[method-assign]


def _cancel_soon(handler: DesiredStateHandler) -> None:
    """It is cut off a little later: in the middle of the change, if that takes so long."""
    apply = handler.apply

    async def cut(change: Change, context: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.001, task.cancel)
        await apply(change, context)

    handler.apply = cut  # type: ignore[method-assign]


def _fall(handler: DesiredStateHandler) -> None:
    """The process ends when the system has been changed, and nothing was noted."""
    apply = handler.apply

    async def fall(change: Change, context: Context) -> None:
        await apply(change, context)
        raise _Fallen

    handler.apply = fall  # type: ignore[method-assign]


async def _stopped(task: asyncio.Task[Any]) -> None:
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=_STOP_SECONDS)
    assert done, f"a cancelled handler goes on for more than {_STOP_SECONDS:g} s"
    assert task.cancelled(), "a cancelled handler does not stop: it swallows CancelledError"


@asynccontextmanager
async def _listener(*, silent: bool) -> AsyncIterator[tuple[str, int]]:
    """A server that takes connections, and says nothing or hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if silent:
                await reader.read(-1)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()
