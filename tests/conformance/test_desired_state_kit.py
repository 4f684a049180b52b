"""The kit for desired-state handlers: a sound one passes, a broken promise is named."""

import asyncio

import pytest
from pydantic import Field

from espf import DesiredStateHandler, DesiredStateSettings, Rejected, TryLater
from espf.testing import OneAccount, check_desired_state, desired_state


class Shelf(DesiredStateHandler):
    """A system in memory: the service and the password of each account."""

    secret_fields = frozenset({"password"})

    class Settings(DesiredStateSettings):
        url: str = Field(default="", alias="Shelf.URL", description="Asked before each look.")

    def __init__(self, settings):
        super().__init__(settings)
        self.held = HELD

    def desired(self, key, owner):
        barred = owner.barred_by(self.settings.barred_by)
        return {"active": "no" if barred else "yes", "password": owner.service_password or ""}

    async def read(self, key, wanted, context):
        await asyncio.sleep(0)
        if self.settings.url:
            await context.http.get(self.settings.url, {}, 0.5)
        return self.held.get(key)

    async def apply(self, change, context):
        await asyncio.sleep(0)
        if change.wanted is None:
            del self.held[change.key]
        else:
            self.held[change.key] = dict(change.wanted)

    async def held_keys(self, after, context):
        return [key for key in sorted(self.held) if after is None or key > after][:1]


HELD = {}


@pytest.fixture(autouse=True)
def nothing_is_held(monkeypatch):
    HELD.clear()
    monkeypatch.setattr(desired_state, "_PATIENCE_SECONDS", 2)


def at(host, port):
    return {"Shelf.URL": f"http://{host}:{port}"}


@pytest.mark.parametrize("keyed_by", ["id", "imsi", "i_account"])
async def test_a_sound_handler_passes(keyed_by):
    kind = type("Sound", (Shelf,), {"keyed_by": keyed_by, "__module__": __name__})
    await check_desired_state(kind, {}, billing=OneAccount(id="anna"), at=at)
    assert HELD == {}


class Fickle(Shelf):
    count = 0

    def desired(self, key, owner):
        type(self).count += 1
        return {**super().desired(key, owner), "count": str(self.count)}


class TouchesWhenAsked(Shelf):
    async def check(self, context):
        self.held["380441234541"] = {}


class BlindToShadow(Shelf):
    async def bring(self, key, context):
        changes = []
        while (change := await self.compare(key, context)).kind != "same":
            changes.append(change)
            await self.apply(change, context)
        return changes


class AppliesAlways(Shelf):
    async def bring(self, key, context):
        if self.settings.mode == "shadow":
            return await super().bring(key, context)
        change = await self.compare(key, context)
        await self.apply(change, context)
        return [change]


class NeverContent(Shelf):
    async def read(self, key, wanted, context):
        held = await super().read(key, wanted, context)
        return held and {**held, "active": "perhaps"}


class ActsOnTheEvent(Shelf):
    async def handle(self, event, context):
        if self.settings.mode == "shadow" or event.event_type != "Account/New" or not self.held:
            return await super().handle(event, context)
        change = await self.compare(event.variables.get("id", "380441234541"), context)
        if change.wanted["active"] == "no":
            await self.apply(change, context)
        return None


class IgnoresBars(Shelf):
    def desired(self, key, owner):
        return {"active": "yes"}


class ShowsThePassword(Shelf):
    secret_fields = frozenset()


class TellsThePassword(Shelf):
    async def apply(self, change, context):
        await super().apply(change, context)
        context.note(f"set to {(change.wanted or {}).get('password', '').upper()}")


class KeepsWhatShouldGo(Shelf):
    async def apply(self, change, context):
        if change.wanted is not None:
            await super().apply(change, context)


class ListsNothing(Shelf):
    async def held_keys(self, after, context):
        return []


class ListsForEver(Shelf):
    async def held_keys(self, after, context):
        return ["1"]


class HalfWritten(Shelf):
    async def apply(self, change, context):
        if change.key in self.held and change.wanted is not None:
            # An entry that is taken away to be written anew is missing if it ends in between.
            del self.held[change.key]
            self.held.setdefault("lost", {})
            await asyncio.sleep(0.1)
        await super().apply(change, context)

    async def read(self, key, wanted, context):
        if self.held.get("lost") is not None and key not in self.held:
            raise Rejected("half an entry")
        return await super().read(key, wanted, context)


class TakesSilenceForNothing(Shelf):
    async def read(self, key, wanted, context):
        try:
            return await super().read(key, wanted, context)
        except TryLater:
            return wanted


class WaitsForEver(Shelf):
    async def read(self, key, wanted, context):
        if self.settings.url:
            try:
                await context.http.get(self.settings.url, {}, 0.2)
            except TryLater as error:
                if "no connection" in str(error) or "hung up" in str(error):
                    raise
                await asyncio.Event().wait()
        return self.held.get(key)


class Stubborn(Shelf):
    async def read(self, key, wanted, context):
        try:
            return await super().read(key, wanted, context)
        except asyncio.CancelledError:
            return wanted


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (Fickle, r"desired\(\) says something else"),
        (TouchesWhenAsked, r"check\(\) has changed something"),
        (BlindToShadow, "in shadow mode something is applied"),
        (AppliesAlways, "the same event again changes something"),
        (NeverContent, "still not as it should be"),
        (IgnoresBars, "a blocked subscriber is held as one who is not"),
        (ActsOnTheEvent, "an older event that comes late"),
        (ShowsThePassword, "secret_fields lacks a field"),
        (TellsThePassword, "a secret stands in the journal"),
        (KeepsWhatShouldGo, "still not as it should be: 380441234541 is removed"),
        (ListsNothing, r"held_keys\(\) leaves out"),
        (ListsForEver, r"held_keys\(\) begins anew"),
        (HalfWritten, "half an entry"),
        (TakesSilenceForNothing, "a system that hangs up: None"),
        (WaitsForEver, "no verdict within"),
        (Stubborn, "swallows CancelledError"),
    ],
)
async def test_a_broken_promise_is_named(broken, promise):
    with pytest.raises(AssertionError, match=promise):
        await check_desired_state(broken, {}, at=at)


async def test_a_system_that_holds_the_account_already_is_not_touched():
    HELD["380441234541"] = {"active": "no"}
    with pytest.raises(AssertionError, match="holds something at the beginning"):
        await check_desired_state(Shelf, {})
    assert HELD == {"380441234541": {"active": "no"}}
