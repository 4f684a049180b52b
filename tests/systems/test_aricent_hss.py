"""AricentHSS: an adapter that keeps the documented contract lets in whom the billing lets in."""

from datetime import timedelta

import pytest

from aricent_server import Adapter
from espf.catalogue import catalogue
from espf.errors import CheckLater, Misconfigured, Rejected, TryLater
from espf.handlers import registry
from espf.handlers.base import Reply
from espf.systems import aricent_hss
from espf.systems.aricent_hss import AricentHSS
from espf.testing import FakeBilling, check_desired_state, check_handler, sample_event
from mobile_accounts import (
    IMSI,
    NUMBER,
    OTHER_IMSI,
    OTHER_NUMBER,
    card_given,
    charge,
    journal_of,
    of,
    open_account,
    pay,
)
from town import KI, OPC, OTHER_KI

TOKEN = "hush-hush-token"


@pytest.fixture(scope="module")
def server():
    with Adapter(TOKEN) as running:
        yield running


@pytest.fixture
def adapter(server):
    """The adapter, with an HSS that is empty."""
    server.clear()
    server.asked.clear()
    server.instead.clear()
    return server


def options(adapter, **more):
    return {
        "AricentHSS.URL": f"{adapter.url}/v1",
        "AricentHSS.Token": TOKEN,
        "AricentHSS.Timeout": 1,
        "AricentHSS.Services": "Data only=eps; Roaming=roaming; *=cs+eps",
        "AricentHSS.Profiles": "Data only=small; Roaming=abroad; Everything=large",
        **{f"AricentHSS.{name}": value for name, value in more.items()},
    }


def test_it_hears_what_the_vendors_handler_hears():
    """The complete list of the documents, under the names of all releases."""
    heard = registry.supported("AricentHSS", catalogue())
    assert sorted(heard) == sorted(aricent_hss.EVENTS)
    assert len(heard) == 11
    for older in ("Account/Status/Suspend", "Account/Status/Unsuspend"):
        assert registry.supported("AricentHSS", [older]) == [older]


async def test_the_whole_life_of_a_subscriber(town, adapter):
    """From the first card to the end; each event is told twice."""
    async with town.served(AricentHSS, options(adapter)) as handler:
        assert adapter.attach(IMSI) == "unknown"
        i_account, _ = await open_account(town)
        told = adapter.attach(IMSI)
        assert (told["msisdn"], told["services"], told["profiles"]) == (
            NUMBER,
            ["cs", "eps"],
            ["large"],
        )
        assert told["keys"] == {"ki": KI, "opc": OPC}

        await town.do("Account/update_account", account_info=of(i_account, blocked="Y"))
        assert adapter.attach(IMSI) == "barred"
        await town.do("Account/update_account", account_info=of(i_account, bill_status="S"))
        await town.do("Account/update_account", account_info=of(i_account, blocked="N"))
        assert adapter.attach(IMSI) == "barred"
        await town.do("Account/update_account", account_info=of(i_account, bill_status="O"))
        assert adapter.attach(IMSI)["state"] == "granted"

        await town.do("Account/update_account", account_info=of(i_account, id=OTHER_NUMBER))
        assert adapter.attach(IMSI)["msisdn"] == OTHER_NUMBER

        small = town.product("Data only")
        await town.do("Account/update_account", account_info=of(i_account, i_product=small))
        assert adapter.attach(IMSI)["services"] == ["eps"]
        addon = {"i_product": town.product("Roaming", addon_priority=10)}
        await town.do("Account/update_account", account_info=of(i_account, assigned_addons=[addon]))
        told = adapter.attach(IMSI)
        assert (told["services"], told["profiles"]) == (["eps", "roaming"], ["small", "abroad"])

        other = town.card(OTHER_IMSI, ki=OTHER_KI)
        await town.do("SIMCard/assign_sim_card", i_sim_card=other, i_account=i_account)
        assert adapter.attach(IMSI) == "unknown"
        assert adapter.attach(OTHER_IMSI)["keys"]["ki"] == OTHER_KI

        await town.do("Account/terminate_account", i_account=i_account)
        assert adapter.entries == {}
        assert (await handler.compare(OTHER_IMSI, town.context())).kind == "same"


async def test_funds_bar_nobody_unless_that_is_chosen(town, adapter):
    """For no event of this handler tells of them."""
    async with town.served(AricentHSS, options(adapter)) as handler:
        i_account, _ = await open_account(town)
        await town.do("Account/make_transaction", **charge(i_account, 10))
        assert (await handler.compare(IMSI, town.context())).kind == "same"
    chosen = options(adapter) | {"BarredBy": "blocked, no_funds"}
    async with town.served(AricentHSS, chosen) as handler:
        assert (await handler.compare(IMSI, town.context())).fields == ("state",)
        await town.do("Account/make_transaction", **pay(i_account, 5))
        assert (await handler.compare(IMSI, town.context())).kind == "same"


async def test_features_of_the_account_are_told(town, adapter):
    async with town.served(AricentHSS, options(adapter, Features="clir, call_barring")):
        i_account, _ = await open_account(town)
        assert adapter.attach(IMSI)["features"]["clir"] is None
        feature = {"name": "clir", "flag_value": "Y"}
        await town.do(
            "Account/update_service_features", i_account=i_account, service_features=[feature]
        )
        assert adapter.attach(IMSI)["features"]["clir"] == {"flag": "Y"}


async def test_keys_are_told_when_they_differ_and_never_read(town, adapter):
    async with town.served(AricentHSS, options(adapter)) as handler:
        _, i_sim_card = await open_account(town)
        town.api("SIMCard/update_sim_card", card_info={"i_sim_card": i_sim_card, "ki": OTHER_KI})
        change = await handler.compare(IMSI, town.context())
        assert change.fields == ("ki", "opc")
        await handler.bring(IMSI, town.context())
        assert adapter.entries[IMSI]["keys"]["ki"] == OTHER_KI


async def test_no_key_and_no_token_is_told(town, adapter):
    """Neither in the journal, nor in what it has of requests, replies and errors."""

    def refuses(asked):
        return 422, {"reason": f"I do not like {asked.value}".lower()}

    async with town.served(AricentHSS, options(adapter)):
        event = card_given(town)
        adapter.instead["PUT", f"/v1/subscribers/{IMSI}"] = refuses
        shown = await journal_of(town, event)
        assert "i do not like" in shown
        assert not any(secret in shown.upper() for secret in (KI, OPC, TOKEN.upper()))
        adapter.instead.clear()
        await town.attempt(event)
        assert adapter.events[-1] == str(event.i_event)
    assert not any(key in line for key in (KI, OPC, TOKEN) for line in town.journal)


async def test_an_adapter_that_is_away_or_slow_is_tried_later(town, adapter):
    """And what was begun is brought to its end when it is there again."""
    async with town.served(AricentHSS, options(adapter)):
        event = card_given(town)
        adapter.stop()
        with pytest.raises(TryLater, match="no connection"):
            await town.attempt(event)
        adapter.start()
        with adapter.paused(), pytest.raises(TryLater, match="no answer"):
            await town.attempt(event)
        adapter.slow = True
        with pytest.raises(CheckLater) as caught:
            await town.attempt(event)
        assert caught.value.after == timedelta(seconds=10)
        await town.attempt(event)
        assert adapter.attach(IMSI)["msisdn"] == NUMBER


async def test_what_its_statuses_mean(town, adapter):
    async with town.served(AricentHSS, options(adapter)):
        event = card_given(town)
        for method, status, body, verdict in (
            ("PUT", 400, {"reason": "?"}, Rejected),
            ("PUT", 401, "", Misconfigured),
            ("PUT", 404, "", Misconfigured),
            ("PUT", 409, {"reason": "busy"}, TryLater),
            ("PUT", 503, "", TryLater),
            ("GET", 404, "<h1>Not Found</h1>", Misconfigured),
            ("GET", 404, {"detail": "Not Found"}, Misconfigured),
            ("GET", 200, "[]", TryLater),
            ("GET", 204, "", TryLater),
        ):
            adapter.instead = {
                (method, f"/v1/subscribers/{IMSI}"): lambda _asked, said=(status, body): said
            }
            with pytest.raises(verdict):
                await town.attempt(event)
        adapter.instead = {}
        with pytest.raises(Rejected, match="needs keys"):
            await open_account(town, OTHER_NUMBER, OTHER_IMSI, ki=None, opc=None)


async def test_numbers_that_two_cards_have_exchanged(town, adapter):
    async with town.served(AricentHSS, options(adapter)):
        first, _ = await open_account(town)
        second, _ = await open_account(town, OTHER_NUMBER, OTHER_IMSI)
        for i_account, number in ((first, "3"), (second, NUMBER), (first, OTHER_NUMBER)):
            town.api("Account/update_account", account_info=of(i_account, id=number))
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        for event in (theirs, mine_again, mine):
            await town.attempt(event)
        assert adapter.attach(OTHER_IMSI)["msisdn"] == NUMBER
        assert adapter.attach(IMSI)["msisdn"] == OTHER_NUMBER


async def test_in_shadow_mode_nothing_is_sent(town, adapter):
    async with town.served(AricentHSS, options(adapter) | {"Mode": "shadow"}):
        await open_account(town)
        assert adapter.entries == {}
        assert adapter.writes() == []


async def test_all_that_it_holds_is_listed(town, adapter, monkeypatch):
    monkeypatch.setattr(aricent_hss, "PAGE", 3)
    names = [f"00101{number:010}" for number in range(7)]
    adapter.entries = {imsi: {} for imsi in names}
    async with town.served(AricentHSS, options(adapter)) as handler:
        listed = list(await handler.held_keys(None, town.context()))
        while keys := await handler.held_keys(listed[-1], town.context()):
            listed += keys
        assert listed == names


async def test_what_it_says_of_its_adapter(town, adapter):
    async with town.served(AricentHSS, options(adapter)) as handler:
        assert "takes the token" in await handler.check(town.context())
    async with town.served(AricentHSS, options(adapter, Token="wrong")) as handler:
        with pytest.raises(Misconfigured, match="401"):
            await handler.check(town.context())


async def test_it_keeps_the_contract():
    billing = FakeBilling(
        {
            "Account/get_account_info": {"account_info": {"i_account": 541}},
            "SIMCard/get_card_info": {"card_info": {"imsi": IMSI}},
        }
    )
    event = sample_event("Account/Blocked", i_account=541, prev_imsi=IMSI)
    chosen = {"AricentHSS.URL": "http://127.0.0.1:1", "AricentHSS.Token": TOKEN}
    gone = Reply(404, {}, '{"reason": "no such subscriber"}')
    await check_handler(AricentHSS, chosen, event, billing=billing, reply=gone)


async def test_it_keeps_what_handlers_of_its_kind_promise(adapter):
    def at(host, port):
        return {"AricentHSS.URL": f"http://{host}:{port}/v1"}

    await check_desired_state(AricentHSS, options(adapter), at=at)
