"""Kamailio: what the billing says of a subscriber decides whether a phone can register."""

import psycopg
import pytest

from espf.errors import Misconfigured, Rejected, TryLater, Unreachable
from espf.handlers.registry import read_settings
from espf.systems.kamailio import Kamailio
from espf.testing import check_desired_state
from kamailio_server import DOMAIN, Phone
from kamailio_server import Kamailio as RealKamailio

USER, OTHER_USER = "380441234567", "+Bob"
PASSWORD, OTHER_PASSWORD = "a-secret-of-hers", "another-secret"


@pytest.fixture(scope="module")
def server():
    with RealKamailio() as running:
        yield running


@pytest.fixture
def sip(server):
    """The server, without users and registrations."""
    yield server
    server.clear()


@pytest.fixture
def phone(sip):
    with Phone(sip) as calling:
        yield calling


def options(sip, **more):
    return {
        "Kamailio.DatabaseURL": sip.url,
        "Kamailio.RPC": sip.rpc,
        "Kamailio.Domain": DOMAIN,
        "Kamailio.Services": "Internet only=none; *=sip",
        "Kamailio.Timeout": 2,
        **{f"Kamailio.{name}": value for name, value in more.items()},
    }


async def open_account(town, user=USER, password=PASSWORD, **fields):
    info = {
        "id": user,
        "i_customer": town.i_customer,
        "i_product": town.product("Telephone"),
        "billing_model": -1,
        "opening_balance": 10,
        "h323_password": password,
        **fields,
    }
    return (await town.do("Account/add_account", account_info=info))["i_account"]


async def change(town, i_account, **fields):
    await town.do("Account/update_account", account_info={"i_account": i_account, **fields})


async def test_the_whole_life_of_a_subscriber(town, sip, phone):
    """From the first registration to the end, seen by a phone; each event is told twice."""
    async with town.served(Kamailio, options(sip)) as handler:
        assert phone.register(USER, PASSWORD) == 401
        i_account = await open_account(town)
        assert phone.register(USER, "guessed") == 401
        assert phone.register(USER, PASSWORD) == 200
        assert registered(sip) == [USER]

        await change(town, i_account, blocked="Y")
        assert registered(sip) == []
        assert phone.register(USER, PASSWORD) == 403
        assert phone.register(USER, "guessed") == 401

        # Without funds as well: to be unblocked alone does not help.
        await town.do("Account/make_transaction", **charge(i_account, 10))
        await change(town, i_account, blocked="N")
        assert phone.register(USER, PASSWORD) == 403
        await town.do("Account/make_transaction", **pay(i_account, 5))
        assert phone.register(USER, PASSWORD) == 200

        await change(town, i_account, h323_password=OTHER_PASSWORD)
        assert registered(sip) == []
        assert phone.register(USER, PASSWORD) == 401
        assert phone.register(USER, OTHER_PASSWORD) == 200

        await change(town, i_account, id=OTHER_USER)
        assert registered(sip) == []
        assert phone.register(USER, OTHER_PASSWORD) == 401
        assert phone.register(OTHER_USER, OTHER_PASSWORD) == 200

        await change(town, i_account, bill_status="S")
        assert registered(sip) == []
        assert phone.register(OTHER_USER, OTHER_PASSWORD) == 403
        await change(town, i_account, bill_status="O")
        assert phone.register(OTHER_USER, OTHER_PASSWORD) == 200

        await change(town, i_account, i_product=town.product("Internet only"))
        assert registered(sip) == []
        assert phone.register(OTHER_USER, OTHER_PASSWORD) == 401
        await change(town, i_account, i_product=town.product("Telephone"))
        assert phone.register(OTHER_USER, OTHER_PASSWORD) == 200

        await change(town, i_account, blocked="Y")
        await town.do("Account/terminate_account", i_account=i_account)
        assert phone.register(OTHER_USER, OTHER_PASSWORD) == 401
        assert (await handler.compare(OTHER_USER, town.context())).kind == "same"
        assert sip.rows("SELECT * FROM subscriber") == sip.rows("SELECT * FROM htable") == []


async def test_a_bar_outlives_a_restart_of_kamailio(town, sip, phone):
    """Its memory does not; and a registration that was dropped does not come back."""
    async with town.served(Kamailio, options(sip)) as handler:
        i_account = await open_account(town)
        assert phone.register(USER, PASSWORD) == 200
        await change(town, i_account, blocked="Y")
        sip.kill()
        sip.start()
        assert phone.register(USER, PASSWORD) == 403
        assert registered(sip) == []
        assert (await handler.compare(USER, town.context())).kind == "same"
        await change(town, i_account, blocked="N")
        assert phone.register(USER, PASSWORD) == 200
        sip.kill()
        sip.start()
        assert phone.register(USER, PASSWORD) == 200


async def test_a_bar_that_came_while_kamailio_was_away_holds_when_it_is_back(town, sip, phone):
    async with town.served(Kamailio, options(sip)):
        i_account = await open_account(town)
        assert phone.register(USER, PASSWORD) == 200
        event = blocked(town, i_account)
        sip.stop()
        try:
            with pytest.raises(Unreachable):
                await town.attempt(event)
        finally:
            sip.start()
        await town.attempt(event)
        assert phone.register(USER, PASSWORD) == 403
        assert registered(sip) == []


async def test_memory_that_differs_from_the_table_is_put_right(town, sip, phone):
    """Whoever changed it, by hand or by an attempt that died."""
    async with town.served(Kamailio, options(sip)) as handler:
        i_account = await open_account(town)
        assert phone.register(USER, PASSWORD) == 200
        sip.rows("INSERT INTO htable (key_name, key_value) VALUES (%s, '1')", USER)
        found = await handler.compare(USER, town.context())
        assert [str(one) for one in found.differences(frozenset())] == ["barred: yes -> no"]
        event = blocked(town, i_account)
        # The table is written, and nothing else has come to be.
        await town.attempt(event)
        await handler._ask(town.context(), "htable.delete", "blocked", USER)
        assert phone.register(USER, PASSWORD) == 200
        found = await handler.compare(USER, town.context())
        assert found.fields == ("barred_now", "registrations")
        await town.attempt(event)
        assert phone.register(USER, PASSWORD) == 403
        assert registered(sip) == []


async def test_names_that_two_subscribers_have_exchanged(town, sip, phone):
    """Whichever event comes first; the phones that had the names before are not called."""
    async with town.served(Kamailio, options(sip)):
        first = await open_account(town)
        second = await open_account(town, OTHER_USER, OTHER_PASSWORD)
        assert phone.register(USER, PASSWORD) == phone.register(OTHER_USER, OTHER_PASSWORD) == 200
        for i_account, user in ((first, "3"), (second, USER), (first, OTHER_USER)):
            town.api("Account/update_account", account_info={"i_account": i_account, "id": user})
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        for event in (theirs, mine_again, mine):
            await town.attempt(event)
        assert registered(sip) == []
        assert phone.register(USER, OTHER_PASSWORD) == phone.register(OTHER_USER, PASSWORD) == 200
        assert phone.register(USER, PASSWORD) == 401


async def test_faults_in_between(town, sip, phone):
    """Locked, wrong: the event is not to blame, and comes to its end."""
    async with town.served(Kamailio, options(sip)):
        event = blocked(town, await open_account(town))
        with psycopg.connect(sip.postgresql.url("kamailio")) as locking:
            locking.execute("LOCK TABLE htable")
            with pytest.raises(TryLater, match="55P03"):
                await town.attempt(event)
        sip.rows("ALTER TABLE htable RENAME TO elsewhere")
        try:
            with pytest.raises(Misconfigured, match='"htable" does not exist'):
                await town.attempt(event)
        finally:
            sip.rows("ALTER TABLE elsewhere RENAME TO htable")
        await town.attempt(event)
        assert phone.register(USER, PASSWORD) == 403


@pytest.mark.parametrize("frozen", ["Kamailio", "database"])
async def test_what_is_too_slow_is_tried_later(town, sip, phone, frozen):
    async with town.served(Kamailio, options(sip, Timeout=1)):
        event = blocked(town, await open_account(town))
        slow = sip if frozen == "Kamailio" else sip.postgresql
        with slow.paused(), pytest.raises(TryLater, match="no answer"):
            await town.attempt(event)
        await town.attempt(event)
        assert phone.register(USER, PASSWORD) == 403


async def test_a_name_that_is_too_long_is_rejected(town, sip):
    async with town.served(Kamailio, options(sip)):
        with pytest.raises(Rejected, match="22001"):
            await open_account(town, "8" * 65)


async def test_what_is_configured_otherwise_is_said(town, sip):
    elsewhere = sip.rpc.removesuffix("/RPC") + "/elsewhere"
    for option, value, said in (
        ("HTable", "nosuch", "No such htable"),
        ("Location", "nosuch", "Domain table not found"),
        ("BarTable", "nosuch", "42P01"),
        ("RPC", elsewhere, "no JSON-RPC"),
    ):
        async with town.served(Kamailio, options(sip, **{option: value})) as handler:
            with pytest.raises(Misconfigured, match=said):
                await handler.check(town.context())


async def test_no_secret_is_told(town, sip):
    """Neither a password nor a digest, by which one can log in as well."""
    async with town.served(Kamailio, options(sip)) as handler:
        i_account = await open_account(town)
        await change(town, i_account, h323_password=OTHER_PASSWORD)
        ((ha1, ha1b, password),) = sip.rows("SELECT ha1, ha1b, password FROM subscriber")
        assert not password
        told = "\n".join(town.journal)
        assert "ha1: ***" in told
        assert not any(text in told for text in (PASSWORD, OTHER_PASSWORD, ha1, ha1b))
        context = town.context()
        await handler.compare(USER, context)
        assert {OTHER_PASSWORD, ha1, ha1b} <= set(context.secrets)


async def test_all_names_that_it_holds_are_told_in_pages(town, sip, monkeypatch):
    monkeypatch.setattr("espf.systems.kamailio._PAGE", 2)
    async with town.served(Kamailio, options(sip)) as handler:
        for user in ("d", "b", "a"):
            await open_account(town, user)
        sip.rows("INSERT INTO htable (key_name) VALUES ('b'), ('c')")
        sip.rows("INSERT INTO subscriber (username, domain) VALUES ('e', 'other.example.net')")
        pages, after = [], None
        while page := await handler.held_keys(after, town.context()):
            pages.append(list(page))
            after = page[-1]
        assert pages == [["a", "b"], ["c", "d"]]


async def test_in_shadow_mode_nothing_is_changed_and_all_is_told(town, sip, phone):
    async with town.served(Kamailio, options(sip) | {"Mode": "shadow"}) as handler:
        await open_account(town)
        assert phone.register(USER, PASSWORD) == 401
        assert (await handler.compare(USER, town.context())).kind == "missing"


async def test_what_it_says_of_its_server(town, sip):
    async with town.served(Kamailio, options(sip)) as handler:
        assert "has the tables; kamailio 5" in await handler.check(town.context())
    assert Kamailio(read_settings(Kamailio.Settings, options(sip))).service_group == "VoIP"


def registered(sip):
    """Whose phones Kamailio would call."""
    return [user for (user,) in sip.rows("SELECT username FROM location ORDER BY username")]


def blocked(town, i_account):
    town.api("Account/update_account", account_info={"i_account": i_account, "blocked": "Y"})
    (event,) = town.events("Account/*")
    return event


def charge(i_account, amount):
    return {"i_account": i_account, "action": "manual charge", "amount": amount}


def pay(i_account, amount):
    return {"i_account": i_account, "action": "manual payment", "amount": amount}


async def test_it_keeps_what_handlers_of_its_kind_promise(sip):
    def at(host, port):
        return {"Kamailio.RPC": f"http://{host}:{port}/RPC", "Kamailio.Timeout": 1}

    await check_desired_state(Kamailio, options(sip), at=at)
