"""FreeRADIUS: what the billing says of a subscriber decides who gets in, and whose session ends."""

import asyncio
import re

import psycopg
import pytest
import sqlalchemy as sa
from pyrad.packet import CoARequest, DisconnectRequest

from espf.errors import Misconfigured, TryLater, Unreachable
from espf.handlers.registry import read_settings
from espf.systems.dynamic_authorization import AccessServer, Session
from espf.systems.free_radius import FreeRADIUS
from espf.testing import check_desired_state
from freeradius_server import SECRET, of_debian
from freeradius_server import AccessServer as Nas
from freeradius_server import FreeRADIUS as RealRADIUS

USER, OTHER_USER = "alice", "+380441234568"
PASSWORD, OTHER_PASSWORD = "a-secret-of-hers", "another-secret"
GROUPS = "Fast Internet=inet-100M; Television=; *=inet-50M"


@pytest.fixture(scope="module")
def server():
    with RealRADIUS() as running:
        yield running


@pytest.fixture
def radius(server):
    """The server, without users and sessions."""
    yield server
    server.clear()


@pytest.fixture
def nas(radius):
    with Nas(radius) as answering:
        yield answering


def options(radius, **more):
    return {
        "FreeRADIUS.DatabaseURL": radius.url,
        "FreeRADIUS.Groups": GROUPS,
        "FreeRADIUS.NASSecret": SECRET.decode(),
        "FreeRADIUS.NASTimeout": 0.2,
        "FreeRADIUS.Timeout": 2,
        **{f"FreeRADIUS.{name}": value for name, value in more.items()},
    }


GARDEN = {"BarredGroup": "garden", "WhenBarred": "walled garden"}


async def open_account(town, user=USER, password=PASSWORD, **fields):
    info = {
        "id": user,
        "i_customer": town.i_customer,
        "i_product": town.product("Everything"),
        "billing_model": -1,
        "opening_balance": 10,
        "h323_password": password,
        **fields,
    }
    return (await town.do("Account/add_account", account_info=info))["i_account"]


async def change(town, i_account, **fields):
    await town.do("Account/update_account", account_info={"i_account": i_account, **fields})


async def test_the_whole_life_of_a_subscriber(town, radius, nas):
    """From the first log-in to the end, seen by an access server; each event is told twice."""
    async with town.served(FreeRADIUS, options(radius)) as handler:
        assert nas.accepts(USER, PASSWORD) is None
        i_account = await open_account(town)
        assert nas.accepts(USER, PASSWORD) == ["rate-50M"]
        assert nas.accepts(USER, "guessed") is None
        session = nas.dial(USER, PASSWORD)

        await change(town, i_account, blocked="Y")
        assert nas.filters(session) is None
        refused = nas.ask(USER, PASSWORD)
        assert refused[18] == [b"Account suspended"]

        # Without funds as well: to be unblocked alone does not help.
        await town.do("Account/make_transaction", **charge(i_account, 10))
        await change(town, i_account, blocked="N")
        assert nas.accepts(USER, PASSWORD) is None
        await town.do("Account/make_transaction", **pay(i_account, 5))
        assert nas.accepts(USER, PASSWORD) == ["rate-50M"]

        session = nas.dial(USER, PASSWORD)
        await change(town, i_account, i_product=town.product("Fast Internet"))
        assert nas.filters(session) is None
        session = nas.dial(USER, PASSWORD)
        assert nas.filters(session) == ["rate-100M"]

        await change(town, i_account, h323_password=OTHER_PASSWORD)
        assert nas.filters(session) is None
        assert nas.accepts(USER, PASSWORD) is None
        session = nas.dial(USER, OTHER_PASSWORD)

        await change(town, i_account, id=OTHER_USER)
        assert nas.filters(session) is None
        assert nas.accepts(USER, OTHER_PASSWORD) is None
        session = nas.dial(OTHER_USER, OTHER_PASSWORD)

        await change(town, i_account, bill_status="S")
        assert nas.filters(session) is None
        assert nas.accepts(OTHER_USER, OTHER_PASSWORD) is None
        await change(town, i_account, bill_status="O")
        session = nas.dial(OTHER_USER, OTHER_PASSWORD)

        await change(town, i_account, i_product=town.product("Television"))
        assert nas.filters(session) is None
        assert nas.accepts(OTHER_USER, OTHER_PASSWORD) is None
        await change(town, i_account, i_product=town.product("Everything"))
        session = nas.dial(OTHER_USER, OTHER_PASSWORD)

        await town.do("Account/terminate_account", i_account=i_account)
        assert nas.filters(session) is None
        assert nas.accepts(OTHER_USER, OTHER_PASSWORD) is None
        assert {code for code, _ in nas.asked} == {DisconnectRequest}
        assert len(nas.asked) == len(set(nas.asked)), "a session was ended twice"
        assert (await handler.compare(OTHER_USER, town.context())).kind == "same"


async def test_a_walled_garden_is_entered_and_left_without_a_new_session(town, radius, nas):
    """The filter of the session changes, by CoA."""
    chosen = options(radius, LiveSessions="change", **GARDEN)
    async with town.served(FreeRADIUS, chosen):
        i_account = await open_account(town)
        session = nas.dial(USER, PASSWORD)
        await town.do("Account/make_transaction", **charge(i_account, 10))
        assert nas.filters(session) == nas.accepts(USER, PASSWORD) == ["only-the-portal"]
        await town.do("Account/make_transaction", **pay(i_account, 10))
        assert nas.filters(session) == nas.accepts(USER, PASSWORD) == ["rate-50M"]
        await change(town, i_account, i_product=town.product("Fast Internet"))
        assert nas.filters(session) == ["rate-100M"]
        assert {code for code, _ in nas.asked} == {CoARequest}
        # Whoever has another password has to show it.
        await change(town, i_account, h323_password=OTHER_PASSWORD)
        assert nas.filters(session) is None


async def test_a_walled_garden_is_entered_by_dialling_in_again_and_that_session_stays(
    town, radius, nas
):
    async with town.served(FreeRADIUS, options(radius, **GARDEN)):
        i_account = await open_account(town)
        session = nas.dial(USER, PASSWORD)
        await change(town, i_account, blocked="Y")
        assert nas.filters(session) is None
        session = nas.dial(USER, PASSWORD)
        await change(town, i_account, bill_status="S")
        assert nas.filters(session) == ["only-the-portal"]


async def test_a_session_that_was_changed_by_coa_is_ended_when_its_user_is_barred(
    town, radius, nas
):
    async with town.served(FreeRADIUS, options(radius, LiveSessions="change")):
        i_account = await open_account(town)
        session = nas.dial(USER, PASSWORD)
        await change(town, i_account, i_product=town.product("Fast Internet"))
        assert nas.filters(session) == ["rate-100M"]
        await change(town, i_account, blocked="Y")
        assert nas.filters(session) is None


async def test_a_quota_that_is_used_up_slows_down(town, radius, nas):
    async with town.served(FreeRADIUS, options(radius, QuotaGroup="garden", LiveSessions="change")):
        quotas = [{"service": "netaccess", "monthly_amount": 1000}]
        product = town.product("Limited", quotas=quotas)
        i_account = await open_account(town, i_product=product)
        session = nas.dial(USER, PASSWORD)
        usage = {"i_account": i_account, "service": "netaccess"}
        await town.do("Usage/record", **usage, amount=2000)
        assert nas.filters(session) == ["only-the-portal"]
        await town.do("Usage/top_up", **usage, amount=5000)
        assert nas.filters(session) == ["rate-50M"]


async def test_a_silent_access_server_is_asked_again_and_then_warned_of(town, radius, nas):
    """The tables hold the truth from the first attempt on."""
    async with town.served(FreeRADIUS, options(radius)) as handler:
        i_account = await open_account(town)
        session = nas.dial(USER, PASSWORD)
        nas.silent = True
        event = blocked(town, i_account)
        with pytest.raises(TryLater, match="does not answer") as caught:
            await town.attempt(event)
        assert not isinstance(caught.value, Unreachable), "the database can be reached"
        assert nas.accepts(USER, PASSWORD) is None

        context = town.context()
        context.attempt = 3
        await handler.handle(event, context)
        assert context.notes[-1].startswith(f"WARNING: session {session}: the NAS")

        # An audit still finds the session, and ends it when the server is there again.
        found = await handler.compare(USER, town.context())
        assert [str(one) for one in found.differences(frozenset())] == ["sessions: 1 open -> none"]
        nas.silent = False
        await town.attempt(event)
        assert nas.filters(session) is None


async def test_a_retry_finds_what_is_left_to_do_wherever_an_attempt_ended(town, radius, nas):
    """Also when another process goes on with it."""
    for user, chosen in (
        ("a", {}),
        ("b", GARDEN),
        ("c", {"LiveSessions": "change", **GARDEN}),
    ):
        async with town.served(FreeRADIUS, options(radius, **chosen)):
            i_account = await open_account(town, user)
            session = nas.dial(user, PASSWORD)
            event = blocked(town, i_account)
            nas.silent = True
            with pytest.raises(TryLater):
                await town.attempt(event)
            nas.silent = False
        async with town.served(FreeRADIUS, options(radius, **chosen)) as handler:
            assert (await handler.compare(user, town.context())).fields == ("sessions",)
            await town.attempt(event)
            expected = ["only-the-portal"] if "LiveSessions" in chosen else None
            assert nas.filters(session) == expected
            assert (await handler.compare(user, town.context())).kind == "same"


async def test_what_an_access_server_refuses(town, radius, nas):
    """Gone is as good as ended; what may be over soon is tried again; else there is a warning."""
    async with town.served(FreeRADIUS, options(radius)):
        for cause, told in ((503, "no such session"), (501, "WARNING"), (404, "WARNING")):
            i_account = await open_account(town, f"user-{cause}")
            nas.dial(f"user-{cause}", PASSWORD)
            nas.refuses = cause
            await town.attempt(blocked(town, i_account))
            assert told in town.journal[-1]
        for cause in (506, 0):
            i_account = await open_account(town, f"user-{cause}")
            nas.dial(f"user-{cause}", PASSWORD)
            nas.refuses = cause
            with pytest.raises(TryLater, match="refuses"):
                await town.attempt(blocked(town, i_account))


async def test_freeradius_itself_takes_what_is_sent(town, radius):
    """It is signed as another implementation expects it; a wrong secret meets silence."""
    async with town.served(FreeRADIUS, options(radius)):
        server = AccessServer(radius.address, 3800, SECRET, 2)
        session = Session("u", "s", USER, radius.address)
        assert (await server.ask(session, (), town.context())).outcome == "done"
        assert "has done it" in (await server.ask(session, ("slow",), town.context())).reason
        unknown = Session("u", "unknown", USER, radius.address)
        assert "no such session" in (await server.ask(unknown, (), town.context())).reason
        stranger = AccessServer(radius.address, 3800, b"wrong", 0.1)
        assert "does not answer" in (await stranger.ask(session, (), town.context())).reason


async def test_the_secret_of_an_access_server_may_stand_in_its_table(town, radius, nas):
    async with town.served(FreeRADIUS, options(radius, NASSecret="")):
        i_account = await open_account(town)
        session = nas.dial(USER, PASSWORD)
        await town.attempt(blocked(town, i_account))
        assert "no secret" in town.journal[-1]
        assert nas.filters(session) == ["rate-50M"]
        secret = SECRET.decode()
        radius.rows(
            "INSERT INTO nas (nasname, shortname, secret) VALUES (%s, 'bng', %s)",
            nas.address,
            secret,
        )
        await change(town, i_account, blocked="N")
        await change(town, i_account, i_product=town.product("Fast Internet"))
        assert nas.filters(session) is None
        assert not any(secret in line for line in town.journal)


async def test_names_that_two_subscribers_have_exchanged(town, radius, nas):
    """Whichever event comes first; the sessions that had the names before are over."""
    async with town.served(FreeRADIUS, options(radius)):
        first = await open_account(town)
        second = await open_account(town, OTHER_USER, OTHER_PASSWORD)
        sessions = [nas.dial(USER, PASSWORD), nas.dial(OTHER_USER, OTHER_PASSWORD)]
        for i_account, user in ((first, "3"), (second, USER), (first, OTHER_USER)):
            town.api("Account/update_account", account_info={"i_account": i_account, "id": user})
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        for event in (theirs, mine_again, mine):
            await town.attempt(event)
        assert [nas.filters(session) for session in sessions] == [None, None]
        assert nas.accepts(USER, OTHER_PASSWORD) == ["rate-50M"]
        assert nas.accepts(OTHER_USER, PASSWORD) == ["rate-50M"]
        assert nas.accepts(USER, PASSWORD) is None


async def test_a_password_is_what_it_is(town, radius, nas):
    """Between quotes of its own, FreeRADIUS would evaluate it, or even run it."""
    odd = ['"%{User-Name}"', "`/usr/bin/id`", "'it''s'", "'", '"', r"back\slash\n", r"'\'"]
    async with town.served(FreeRADIUS, options(radius)):
        i_account = await open_account(town)
        for password in (*odd, " %{1} $x "):
            await change(town, i_account, h323_password=password)
            assert nas.accepts(USER, password) == ["rate-50M"], password


async def test_attributes_of_a_user_come_from_the_billing(town, radius, nas):
    attributes = "Class=i_account; Framed-IP-Address=netaccess_static_ip.address"
    async with town.served(FreeRADIUS, options(radius, ReplyAttributes=attributes)):
        i_account = await open_account(town)
        assert 8 not in nas.ask(USER, PASSWORD)
        address = {"name": "address", "values": ["192.0.2.7"]}
        feature = {"name": "netaccess_static_ip", "flag_value": "Y", "attributes": [address]}
        await town.do(
            "Account/update_service_features", i_account=i_account, service_features=[feature]
        )
        reply = nas.ask(USER, PASSWORD)
        assert reply[25] == [str(i_account).encode()]
        assert reply[8] == [bytes([192, 0, 2, 7])]


async def test_rows_that_others_have_made_for_a_user_stay_but_none_that_lets_in(town, radius, nas):
    async with town.served(FreeRADIUS, options(radius)) as handler:
        i_account = await open_account(town)
        for attribute, value in (("Crypt-Password", "x"), ("NAS-IP-Address", nas.address)):
            radius.rows(
                "INSERT INTO radcheck (username, attribute, op, value) VALUES (%s, %s, '==', %s)",
                USER,
                attribute,
                value,
            )
        radius.rows("INSERT INTO radusergroup (username, groupname) VALUES (%s, 'inet-100M')", USER)
        context = town.context()
        found = await handler.compare(USER, context)
        assert found.fields == ("password", "groups")
        assert not {nas.address, "none"} & set(context.secrets), "what is no secret is hidden"
        await change(town, i_account, blocked="Y")
        await change(town, i_account, blocked="N")
        left = {row[0] for row in radius.rows("SELECT attribute FROM radcheck")}
        assert left == {"Cleartext-Password", "NAS-IP-Address"}
        assert radius.rows("SELECT groupname, priority FROM radusergroup") == [("inet-50M", 1)]


async def test_nobody_is_put_into_a_group_that_would_let_everybody_in(town, radius, nas):
    async with town.served(FreeRADIUS, options(radius, BarredGroup="mistyped")) as handler:
        i_account = await open_account(town)
        with pytest.raises(Misconfigured, match="'mistyped' is neither in radgroupcheck"):
            await town.attempt(blocked(town, i_account))
        with pytest.raises(Misconfigured, match="would keep nobody out"):
            await handler.check(town.context())


async def test_faults_of_the_database_in_between(town, radius, nas):
    """Restarted, frozen, locked, without rights: the event comes to its end when that is over."""
    async with town.served(FreeRADIUS, options(radius)):
        i_account = await open_account(town)
        event = blocked(town, i_account)
        radius.postgresql.stop()
        try:
            with pytest.raises(Unreachable, match="PostgreSQL at"):
                await town.attempt(event)
        finally:
            radius.postgresql.start()
        await town.attempt(event)
        with radius.postgresql.paused(), pytest.raises(TryLater, match="no answer within 2 s"):
            await town.attempt(event)

        town.api("Account/update_account", account_info={"i_account": i_account, "blocked": "N"})
        (event,) = town.events("Account/*")
        with psycopg.connect(radius.postgresql.url("radius")) as locking:
            locking.execute("LOCK TABLE radusergroup")
            with pytest.raises(TryLater, match="55P03"):
                await town.attempt(event)
        radius.rows("ALTER TABLE radusergroup RENAME TO elsewhere")
        try:
            with pytest.raises(Misconfigured, match='"radusergroup" does not exist'):
                await town.attempt(event)
        finally:
            radius.rows("ALTER TABLE elsewhere RENAME TO radusergroup")
        await town.attempt(event)
        assert nas.accepts(USER, PASSWORD) == ["rate-50M"]


async def test_a_cancelled_handler_stops_at_once(town, radius, nas):
    async with town.served(FreeRADIUS, options(radius)):
        event = blocked(town, await open_account(town))
        with radius.postgresql.paused():
            attempt = asyncio.create_task(town.attempt(event))
            await asyncio.wait({attempt}, timeout=0.1)
            attempt.cancel()
            await asyncio.wait({attempt}, timeout=1)
            assert attempt.cancelled()
        await town.attempt(event)
        assert nas.accepts(USER, PASSWORD) is None


async def test_no_secret_is_told(town, radius, nas):
    """Neither a password in the journal or a difference, nor the database's in an error."""
    async with town.served(FreeRADIUS, options(radius)) as handler:
        i_account = await open_account(town)
        await change(town, i_account, h323_password=OTHER_PASSWORD)
        assert town.journal
        told = "\n".join(town.journal)
        assert PASSWORD not in told
        assert OTHER_PASSWORD not in told
        radius.rows("UPDATE radcheck SET value = 'what-stood-there'")
        context = town.context()
        found = await handler.compare(USER, context)
        assert {OTHER_PASSWORD, "what-stood-there"} <= set(context.secrets)
        assert "none" not in context.secrets
        assert "what-stood-there" not in str(found.differences(handler.secret_fields))
    url = "postgresql://espf:the-database-password@127.0.0.1:1/radius"
    async with town.served(FreeRADIUS, options(radius, DatabaseURL=url)) as handler:
        assert "the-database-password" in handler.secrets()
        with pytest.raises(Unreachable) as caught:
            await handler.check(town.context())
        assert "the-database-password" not in str(caught.value)


async def test_all_names_that_it_holds_are_told_in_pages(town, radius, nas, monkeypatch):
    monkeypatch.setattr("espf.systems.radius_tables.PAGE", 2)
    async with town.served(FreeRADIUS, options(radius)) as handler:
        for user in ("e", "b", "d", "+4", "c"):
            await open_account(town, user)
        radius.rows("DELETE FROM radcheck WHERE username = 'd'")
        # FreeRADIUS looks for no such names.
        for name in ("+1", "+2", "+3"):
            radius.rows("INSERT INTO radcheck (username) VALUES (%s)", name)
        pages, after = [], None
        while page := await handler.held_keys(after, town.context()):
            pages.append(list(page))
            after = page[-1]
        assert [key for page in pages for key in page] == ["+4", "b", "c", "d", "e"]
        assert max(map(len, pages)) == 2


@pytest.mark.parametrize("kind", ["mariadb", "sqlite"])
async def test_the_tables_may_be_in_another_database(town, radius, nas, stores, kind):
    """The same is written there; who reads it there, was not tried."""
    url = stores(kind).empty("radius").partition("&")[0]
    make_tables(kind, url)
    async with town.served(FreeRADIUS, options(radius, DatabaseURL=url)) as handler:
        i_account = await open_account(town, OTHER_USER)
        columns = "acctsessionid, acctuniqueid, username, nasipaddress, acctstarttime"
        values = f"'gone', 'gone', '=2B380441234568', '{nas.address}', '2026-01-01'"
        run(kind, url, f"INSERT INTO radacct ({columns}) VALUES ({values})")
        await change(town, i_account, i_product=town.product("Fast Internet"))
        assert "no such session" in town.journal[-1]
        await change(town, i_account, blocked="Y")
        await change(town, i_account, blocked="N")
        assert await handler.held_keys(None, town.context()) == [OTHER_USER]
        assert await handler.held_keys(OTHER_USER, town.context()) == ()
        assert "has the tables" in await handler.check(town.context())
        await town.do("Account/terminate_account", i_account=i_account)
        assert await handler.held_keys(None, town.context()) == ()


def make_tables(kind, url):
    """As FreeRADIUS brings them, with the group of the barred."""
    group = "INSERT INTO radgroupcheck (groupname, attribute, op, value) VALUES "
    statements = of_debian("schema.sql", "mysql" if kind == "mariadb" else kind).split(";")
    run(kind, url, *statements, f"{group} ('suspended', 'Auth-Type', ':=', 'Reject')")


def run(kind, url, *statements):
    engine = sa.create_engine(url.replace("mysql:", "mysql+pymysql:"))
    with engine.begin() as connection:
        for statement in statements:
            if re.sub(r"--.*|#.*", "", statement).strip():
                connection.exec_driver_sql(statement)
    engine.dispose()


async def test_in_shadow_mode_nothing_is_changed_and_all_is_told(town, radius, nas):
    async with town.served(FreeRADIUS, options(radius) | {"Mode": "shadow"}) as handler:
        await open_account(town)
        assert nas.accepts(USER, PASSWORD) is None
        found = await handler.compare(USER, town.context())
        assert found.kind == "missing"
        assert PASSWORD not in str(found.differences(handler.secret_fields))


async def test_what_it_says_of_its_database(town, radius):
    async with town.served(FreeRADIUS, options(radius)) as handler:
        assert "has the tables and the groups" in await handler.check(town.context())
    prefixed = options(radius, TablePrefix="public.", LiveSessions="leave")
    async with town.served(FreeRADIUS, prefixed) as handler:
        assert (await handler.check(town.context())).endswith("the groups")
    async with town.served(FreeRADIUS, options(radius, TablePrefix="aaa_")) as handler:
        with pytest.raises(Misconfigured, match='"aaa_radusergroup" does not exist'):
            await handler.check(town.context())


def test_the_status_is_that_of_net_access(radius):
    settings = read_settings(FreeRADIUS.Settings, options(radius))
    assert FreeRADIUS(settings).service_group == "Netaccess"


def blocked(town, i_account):
    town.api("Account/update_account", account_info={"i_account": i_account, "blocked": "Y"})
    (event,) = town.events("Account/*")
    return event


def charge(i_account, amount):
    return {"i_account": i_account, "action": "manual charge", "amount": amount}


def pay(i_account, amount):
    return {"i_account": i_account, "action": "manual payment", "amount": amount}


async def test_it_keeps_what_handlers_of_its_kind_promise(radius):
    def at(host, port):
        return {
            "FreeRADIUS.DatabaseURL": f"postgresql://espf:nobody-sees-it@{host}:{port}/radius",
            "FreeRADIUS.Timeout": 1,
        }

    await check_desired_state(FreeRADIUS, options(radius), at=at)
