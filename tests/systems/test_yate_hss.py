"""YateHSS: what the billing says of a subscriber decides whether the phone is let in.

The server is one that answers as the vendor's documents say; no YateHSS was met.
"""

import pytest

from espf.errors import InvalidRequest, Misconfigured, Rejected, TryLater
from espf.handlers.registry import read_settings
from espf.systems.yate_hss import PAGE, YateHSS
from espf.testing import check_desired_state
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
from yate_server import YateHSS as Server

SECRET = "hush-hush-secret"
PARAMS = '{"msisdn": "{msisdn}", "imsi": "{imsi}", "eps_profile": "{profile}", "active": true}'


@pytest.fixture(scope="module")
def server():
    with Server(SECRET) as running:
        yield running


@pytest.fixture
def yate(server):
    """The server, empty."""
    server.clear()
    server.asked.clear()
    server.instead.clear()
    return server


def options(yate, **more):
    return {
        "YateHSS.URL": yate.url,
        "YateHSS.Secret": SECRET,
        "YateHSS.SIMProfile": "SIMs",
        "YateHSS.SIMParams": '{"amf_lte": "9001"}',
        "YateHSS.Timeout": 1,
        "YateHSS.Services": "Data only=ps+lte; *=cs+ps+lte",
        "YateHSS.Profile": "Data only=small; *=large",
        "YateHSS.SubscriberParams": PARAMS,
        **{f"YateHSS.{name}": value for name, value in more.items()},
    }


def lets_in(yate, imsi=IMSI):
    """The services that a phone gets."""
    switches = ("cs_active", "ps_active", "lte_active")
    return [name[:-7] for name in switches if yate.attach(imsi, name) != "unknownSubscriber"]


@pytest.mark.parametrize("says_absent", [True, False])
async def test_the_whole_life_of_a_subscriber(town, yate, says_absent):
    """From the first card to the end, seen by a phone; each event is told twice."""
    yate.says_absent = says_absent
    async with town.served(YateHSS, options(yate)) as handler:
        assert lets_in(yate) == []
        i_account, _ = await open_account(town)
        assert lets_in(yate) == ["cs", "ps", "lte"]
        sim = yate.sims[IMSI]
        assert (sim["ki"], sim["op"], sim["amf_lte"]) == (KI, OPC, "9001")
        told = yate.attach(IMSI, "lte_active")
        assert (told["msisdn"], told["eps_profile"], told["active"]) == (NUMBER, "large", True)
        (number,) = yate.subscribers

        await town.do("Account/update_account", account_info=of(i_account, blocked="Y"))
        assert len(yate.cut) == 3
        assert lets_in(yate) == []

        # Without funds as well: to be unblocked alone does not help.
        await town.do("Account/make_transaction", **charge(i_account, 10))
        await town.do("Account/update_account", account_info=of(i_account, blocked="N"))
        assert lets_in(yate) == []
        await town.do("Account/make_transaction", **pay(i_account, 5))
        assert lets_in(yate) == ["cs", "ps", "lte"]

        await town.do("Account/update_account", account_info=of(i_account, id=OTHER_NUMBER))
        assert yate.attach(IMSI, "lte_active")["msisdn"] == OTHER_NUMBER

        small = town.product("Data only")
        await town.do("Account/update_account", account_info=of(i_account, i_product=small))
        assert lets_in(yate) == ["ps", "lte"]
        assert yate.attach(IMSI, "lte_active")["eps_profile"] == "small"

        await town.do("Account/update_account", account_info=of(i_account, bill_status="S"))
        assert lets_in(yate) == []
        await town.do("Account/update_account", account_info=of(i_account, bill_status="O"))

        # A swap goes as the vendor says: the subscriber stays, and comes to the new SIM.
        other = town.card(OTHER_IMSI, ki=OTHER_KI)
        await town.tell()
        yate.asked.clear()
        await town.do("SIMCard/assign_sim_card", i_sim_card=other, i_account=i_account)
        did = [asked.value["request"] for asked in yate.asked]
        changes = [name for name in did if name in {"set_sim_range", "set_subscriber", "del_sim"}]
        assert changes == ["set_sim_range", "set_subscriber", "del_sim"]
        assert list(yate.subscribers) == [number]
        assert lets_in(yate) == []
        assert lets_in(yate, OTHER_IMSI) == ["ps", "lte"]

        await town.do("Account/terminate_account", i_account=i_account)
        assert lets_in(yate, OTHER_IMSI) == []
        assert (yate.sims, yate.subscribers) == ({}, {})
        assert (await handler.compare(OTHER_IMSI, town.context())).kind == "same"


async def test_numbers_that_two_cards_have_exchanged(town, yate):
    """Whichever event comes first."""
    async with town.served(YateHSS, options(yate)):
        first, _ = await open_account(town)
        second, _ = await open_account(town, OTHER_NUMBER, OTHER_IMSI)
        for i_account, number in ((first, "3"), (second, NUMBER), (first, OTHER_NUMBER)):
            town.api("Account/update_account", account_info=of(i_account, id=number))
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        for event in (theirs, mine_again, mine):
            await town.attempt(event)
        assert yate.attach(OTHER_IMSI, "cs_active")["msisdn"] == NUMBER
        assert yate.attach(IMSI, "cs_active")["msisdn"] == OTHER_NUMBER
        assert len(yate.subscribers) == 2


async def test_no_key_and_no_secret_is_told(town, yate):
    """Neither in the journal, nor in what it has of requests, replies and errors."""
    async with town.served(YateHSS, options(yate, SIMProfile="nobody's")):
        event = card_given(town)
        shown = await journal_of(town, event)
        assert "no profile nobody's" in shown
        # Nor a part of one, where a long message is cut.
        assert not any(secret[:8] in shown for secret in (KI, OPC, SECRET))
    async with town.served(YateHSS, options(yate)):
        await town.attempt(event)
    assert not any(key in line for key in (KI, OPC, SECRET) for line in town.journal)


async def test_a_server_that_is_away_or_slow_is_tried_later(town, yate):
    """And what was begun is brought to its end when it is there again."""
    async with town.served(YateHSS, options(yate)):
        i_account, _ = await open_account(town)
        town.api("Account/update_account", account_info=of(i_account, blocked="Y"))
        (event,) = town.events("Account/*")
        yate.stop()
        with pytest.raises(TryLater, match="no connection"):
            await town.attempt(event)
        yate.start()
        with yate.paused(), pytest.raises(TryLater, match="no answer"):
            await town.attempt(event)
        await town.attempt(event)
        assert lets_in(yate) == []


async def test_an_attempt_that_died_half_way_is_gone_on_with(town, yate):
    """Whichever request was the last, and whether it was heard or not."""
    async with town.served(YateHSS, options(yate)):
        event = card_given(town)
        for request in ("set_sim_range", "set_subscriber"):
            for heard in (False, True):
                yate.clear()

                def dies(asked, request=request, heard=heard):
                    if asked.value["request"] != request:
                        return yate.answer(asked)
                    if heard:
                        yate.answer(asked)
                    return 503, ""

                yate.instead["POST", "/api.php"] = dies
                with pytest.raises(TryLater):
                    await town.attempt(event)
                yate.instead.clear()
                await town.attempt(event)
                assert lets_in(yate) == ["cs", "ps", "lte"]
                assert (len(yate.sims), len(yate.subscribers)) == (1, 1)


async def test_what_it_does_not_tell_of_a_subscriber_is_sent_once(town, yate):
    """And again when it changes, or when nobody knows any more what was sent."""
    yate.tells = {"subscriber_id", "imsi", "msisdn"}
    async with town.served(YateHSS, options(yate)):
        i_account, _ = await open_account(town)
        small = town.product("Data only")
        await town.do("Account/update_account", account_info=of(i_account, i_product=small))
        assert yate.attach(IMSI, "lte_active")["eps_profile"] == "small"
        yate.asked.clear()
        await town.do("Account/update_account", account_info=of(i_account, blocked="Y"))
        assert not [a for a in yate.asked if a.value["request"] == "set_subscriber"]
    async with town.served(YateHSS, options(yate)):
        await town.do("Account/update_account", account_info=of(i_account, blocked="N"))
        assert len([a for a in yate.asked if a.value["request"] == "set_subscriber"]) == 1


async def test_a_sim_may_stay_without_services(town, yate):
    async with town.served(YateHSS, options(yate, KeepSIMs="on")):
        i_account, _ = await open_account(town)
        await town.do("Account/terminate_account", i_account=i_account)
        assert lets_in(yate) == []
        assert list(yate.sims) == [IMSI]


async def test_what_its_codes_mean(town, yate):
    said = {}

    def fails(_asked):
        return said["it"]

    async with town.served(YateHSS, options(yate, RejectedCodes="402, 500")):
        event = card_given(town)
        yate.instead["POST", "/api.php"] = fails
        for answer, verdict, reason in (
            ((200, {"code": 17, "message": "busy"}), TryLater, r"busy \(code 17\)"),
            ((200, {"code": "500", "message": "wrong"}), Rejected, r"wrong \(code 500\)"),
            ((200, {"message": "ok"}), TryLater, "has no code"),
            ((200, "<html>"), TryLater, "has no code"),
            ((502, ""), TryLater, "502"),
            ((403, ""), Misconfigured, "403"),
            ((404, ""), Misconfigured, "api.php"),
        ):
            said["it"] = answer
            with pytest.raises(verdict, match=reason):
                await town.attempt(event)
        yate.instead.clear()
        await town.attempt(event)
    async with town.served(YateHSS, options(yate, AbsentCodes="17")) as handler:
        yate.instead["POST", "/api.php"] = lambda _asked: (200, {"code": 17, "message": "?"})
        assert await handler.read(IMSI, None, town.context()) is None


async def test_a_sim_with_another_key_is_told(town, yate):
    """No document says how a key is changed."""
    async with town.served(YateHSS, options(yate)):
        i_account, _ = await open_account(town)
        told = [{"imsi": IMSI, "ki": OTHER_KI, "cs_active": True}]

        def tells(asked):
            if asked.value["request"] == "get_sim":
                return 200, {"code": 0, "sim": told}
            return yate.answer(asked)

        yate.instead["POST", "/api.php"] = tells
        with pytest.raises(Rejected, match="another key"):
            await town.do("Account/update_account", account_info=of(i_account, blocked="Y"))
        assert lets_in(yate) == [], "it is barred all the same"
        told.clear()
        with pytest.raises(Rejected, match="knows the keys"):
            await open_account(town, OTHER_NUMBER, OTHER_IMSI, ki=None, opc=None)


async def test_a_filter_that_is_not_heeded_changes_nobody_else(town, yate, monkeypatch):
    def all_of_them(_params):
        return {"subscriber": list(yate.subscribers.values())}

    async with town.served(YateHSS, options(yate)):
        await open_account(town)
        monkeypatch.setattr(yate, "_get_subscriber", all_of_them)
        i_account, _ = await open_account(town, OTHER_NUMBER, OTHER_IMSI)
        await town.do("Account/terminate_account", i_account=i_account)
    assert [each["imsi"] for each in yate.subscribers.values()] == [IMSI]
    assert list(yate.sims) == [IMSI]


async def test_in_shadow_mode_nothing_is_sent_and_all_is_told(town, yate):
    async with town.served(YateHSS, options(yate) | {"Mode": "shadow"}) as handler:
        await open_account(town)
        assert (yate.sims, yate.subscribers) == ({}, {})
        change = await handler.compare(IMSI, town.context())
        assert change.kind == "missing"
        assert KI not in str(change.differences(handler.secret_fields))


async def test_all_that_it_holds_is_listed(town, yate):
    names = [f"00101{number:010}" for number in range(PAGE + 5)]
    yate.sims = {imsi: {"imsi": imsi} for imsi in names}
    async with town.served(YateHSS, options(yate)) as handler:
        listed = list(await handler.held_keys(None, town.context()))
        while keys := await handler.held_keys(listed[-1], town.context()):
            listed += keys
        assert listed == names


async def test_what_it_says_of_its_server(town, yate):
    async with town.served(YateHSS, options(yate)) as handler:
        assert (await handler.check(town.context())).endswith("hss 1.3")
    async with town.served(YateHSS, options(yate, Secret="wrong")) as handler:
        with pytest.raises(Misconfigured):
            await handler.check(town.context())


def test_what_stands_in_its_templates_is_checked(yate):
    for wrong in ("{", "[]", '{"msisdn": "{number}"}'):
        with pytest.raises(InvalidRequest, match=r"YateHSS\.SubscriberParams"):
            read_settings(YateHSS.Settings, options(yate, SubscriberParams=wrong))
    with pytest.raises(InvalidRequest, match=r"YateHSS\.SIMParams"):
        read_settings(YateHSS.Settings, options(yate, SIMParams='{"x": "{msisdn}"}'))
    assert read_settings(YateHSS.Settings, options(yate)).service_group == "HSS"


async def test_it_keeps_what_handlers_of_its_kind_promise(yate):
    def at(host, port):
        return {"YateHSS.URL": f"http://{host}:{port}/api.php"}

    await check_desired_state(YateHSS, options(yate), at=at)
