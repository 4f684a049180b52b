"""OsmoHLR: what the billing says of a subscriber decides whether the phone can attach."""

import sqlite3

import pytest
from gsup import DELETE_DATA, GPRS_NOT_ALLOWED, INSERT_DATA, PLMN_NOT_ALLOWED, UNKNOWN_IMSI, Node

from espf.errors import InvalidRequest, TryLater
from espf.handlers.registry import read_settings
from espf.systems.osmo_hlr import OsmoHLR
from espf.testing import check_desired_state
from programs import OsmoHLR as RealHLR
from town import KI, OPC, OTHER_KI

IMSI, OTHER_IMSI = "001010000000001", "001010000000002"
NUMBER, OTHER_NUMBER = "380441234567", "380441234568"


@pytest.fixture(scope="module")
def server():
    with RealHLR() as running:
        yield running


@pytest.fixture
def hlr(server):
    """The server, without subscribers."""
    yield server
    with sqlite3.connect(server.database) as connection:
        for table in ("subscriber", "auc_2g", "auc_3g"):
            connection.execute(f"DELETE FROM {table}")


@pytest.fixture
def vlr(hlr):
    with Node(hlr.address, "cs") as node:
        yield node


@pytest.fixture
def sgsn(hlr):
    with Node(hlr.address, "ps") as node:
        yield node


def options(hlr, **more):
    return {
        "OsmoHLR.Address": hlr.address,
        "OsmoHLR.Algorithm2G": "comp128v1",
        "OsmoHLR.Timeout": 2,
        "OsmoHLR.Services": "Data only=ps; *=cs+ps",
        **{f"OsmoHLR.{name}": value for name, value in more.items()},
    }


async def open_account(town, number=NUMBER, imsi=IMSI, **card):
    info = {
        "id": number,
        "i_customer": town.i_customer,
        "i_product": town.product("Everything"),
        "billing_model": -1,
        "opening_balance": 10,
    }
    i_account = (await town.do("Account/add_account", account_info=info))["i_account"]
    number = town.card(imsi, **card)
    await town.do("SIMCard/assign_sim_card", i_sim_card=number, i_account=i_account)
    return i_account, number


async def test_the_whole_life_of_a_subscriber(town, hlr, vlr, sgsn):
    """From the first card to the end, seen by a phone; each event is told twice."""
    async with town.served(OsmoHLR, options(hlr)) as handler:
        assert vlr.attach(IMSI) == UNKNOWN_IMSI
        i_account, _ = await open_account(town)
        assert vlr.attach(IMSI) is None
        assert sgsn.attach(IMSI) is None
        assert vlr.msisdn == NUMBER
        assert isinstance(vlr.authenticate(IMSI), list)

        await town.do("Account/update_account", account_info=of(i_account, blocked="Y"))
        assert vlr.hear() == [DELETE_DATA]
        assert sgsn.hear() == [DELETE_DATA]
        assert vlr.attach(IMSI) == PLMN_NOT_ALLOWED
        assert sgsn.attach(IMSI) == GPRS_NOT_ALLOWED

        # Without funds as well: to be unblocked alone does not help.
        await town.do("Account/make_transaction", **charge(i_account, 10))
        await town.do("Account/update_account", account_info=of(i_account, blocked="N"))
        assert vlr.attach(IMSI) == PLMN_NOT_ALLOWED
        await town.do("Account/make_transaction", **pay(i_account, 5))
        assert vlr.attach(IMSI) is None
        assert sgsn.attach(IMSI) is None

        await town.do("Account/update_account", account_info=of(i_account, id=OTHER_NUMBER))
        assert vlr.hear() == [INSERT_DATA]
        assert vlr.msisdn == OTHER_NUMBER

        # A phone shows a SIM card and no password: to change it comes to nothing here.
        before = len(town.changes)
        await town.do("Account/update_account", account_info=of(i_account, h323_password="s3cret"))
        assert len(town.changes) == before

        await town.do("Account/update_account", account_info=of(i_account, bill_status="S"))
        assert vlr.hear() == [DELETE_DATA]
        assert vlr.attach(IMSI) == PLMN_NOT_ALLOWED
        await town.do("Account/update_account", account_info=of(i_account, bill_status="O"))
        assert vlr.attach(IMSI) is None

        product = town.product("Data only")
        await town.do("Account/update_account", account_info=of(i_account, i_product=product))
        assert vlr.attach(IMSI) == PLMN_NOT_ALLOWED
        assert sgsn.attach(IMSI) is None

        other = town.card(OTHER_IMSI, ki=OTHER_KI)
        await town.do("SIMCard/assign_sim_card", i_sim_card=other, i_account=i_account)
        assert sgsn.attach(IMSI) == UNKNOWN_IMSI
        assert sgsn.attach(OTHER_IMSI) is None

        await town.do("Account/terminate_account", i_account=i_account)
        assert sgsn.attach(OTHER_IMSI) == UNKNOWN_IMSI
        assert {change.key for change in town.changes} == {IMSI, OTHER_IMSI}
        assert (await handler.compare(OTHER_IMSI, town.context())).kind == "same"


async def test_the_keys_of_a_card_are_written_once(town, hlr, vlr):
    """Written again, they would set the sequence number of the card back."""
    async with town.served(OsmoHLR, options(hlr)):
        i_account, _ = await open_account(town)
        for _ in range(3):
            vlr.authenticate(IMSI)
        before = sequence_number(hlr)
        assert before > 0
        for blocked in "YN":
            await town.do("Account/update_account", account_info=of(i_account, blocked=blocked))
        assert sequence_number(hlr) == before


def test_what_a_product_gives_is_checked_where_it_is_set():
    wrong = {"OsmoHLR.Address": "127.0.0.1", "OsmoHLR.Services": "Gold=csps"}
    with pytest.raises(InvalidRequest, match=r"OsmoHLR\.Services: what Gold gives is one of cs,"):
        read_settings(OsmoHLR.Settings, wrong)


@pytest.mark.parametrize("opc", [None, OPC])
async def test_a_card_without_a_key_of_one_kind_is_provisioned_all_the_same(town, hlr, vlr, opc):
    """A key that is not wanted is not written, where there is none."""
    async with town.served(OsmoHLR, options(hlr) | {"OsmoHLR.Algorithm2G": "none"}) as handler:
        await open_account(town, opc=opc)
        assert vlr.attach(IMSI) is None
        change = await handler.compare(IMSI, town.context())
        assert (change.kind, change.held["aud2g"]) == ("same", "none")
        assert (change.held["aud3g"] == "none") is (opc is None)


async def test_no_key_is_told(town, hlr):
    """Neither what is written nor what is read of a key stands in the journal or an error."""
    async with town.served(OsmoHLR, options(hlr)) as handler:
        await open_account(town)
        assert not any(key in line.upper() for key in (KI, OPC) for line in town.journal)
        context = town.context()
        await handler.compare(IMSI, context)
        assert {KI, OPC} <= set(context.secrets)


async def test_a_server_that_is_away_locked_or_slow_is_tried_later(town, hlr):
    """And what was begun is brought to its end when it is there again."""
    async with town.served(OsmoHLR, options(hlr)):
        i_account, _ = await open_account(town)
        town.api("Account/update_account", account_info=of(i_account, blocked="Y"))
        (event,) = town.events("Account/*")
        hlr.stop()
        with pytest.raises(TryLater, match="no connection"):
            await town.attempt(event)
        hlr.start()
        await town.attempt(event)
        with hlr.paused(), pytest.raises(TryLater, match="no answer"):
            await town.attempt(event)
        with sqlite3.connect(hlr.database, isolation_level=None) as locking:
            locking.execute("BEGIN IMMEDIATE")
            town.api("Account/update_account", account_info=of(i_account, blocked="N"))
            (event,) = town.events("Account/*")
            with pytest.raises(TryLater):
                await town.attempt(event)
            locking.execute("ROLLBACK")
        await town.attempt(event)
        with Node(hlr.address, "cs") as vlr:
            assert vlr.attach(IMSI) is None


@pytest.mark.parametrize("live", [True, False])
async def test_numbers_that_two_cards_have_exchanged(town, hlr, vlr, live):
    """Whichever event comes first."""
    async with town.served(OsmoHLR, options(hlr, LiveUpdate=live)):
        first, _ = await open_account(town)
        second, _ = await open_account(town, OTHER_NUMBER, OTHER_IMSI)
        for i_account, number in ((first, "3"), (second, NUMBER), (first, OTHER_NUMBER)):
            town.api("Account/update_account", account_info=of(i_account, id=number))
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        for event in (theirs, mine_again, mine):
            await town.attempt(event)
        assert vlr.attach(OTHER_IMSI) is None
        assert vlr.msisdn == NUMBER
        assert vlr.attach(IMSI) is None
        assert vlr.msisdn == OTHER_NUMBER


async def test_in_shadow_mode_nothing_is_sent_and_all_is_told(town, hlr, vlr):
    async with town.served(OsmoHLR, options(hlr) | {"Mode": "shadow"}) as handler:
        await open_account(town)
        assert vlr.attach(IMSI) == UNKNOWN_IMSI
        change = await handler.compare(IMSI, town.context())
        assert change.kind == "missing"
        assert KI not in str(change.differences(handler.secret_fields))


async def test_what_it_says_of_its_server(town, hlr):
    async with town.served(OsmoHLR, options(hlr)) as handler:
        assert (await handler.check(town.context())).startswith("CTRL and VTY answer: OsmoHLR")


def of(i_account, **fields):
    return {"i_account": i_account, **fields}


def charge(i_account, amount):
    return {"i_account": i_account, "action": "manual charge", "amount": amount}


def pay(i_account, amount):
    return {"i_account": i_account, "action": "manual payment", "amount": amount}


def sequence_number(hlr):
    with sqlite3.connect(hlr.database) as connection:
        return connection.execute("SELECT sqn FROM auc_3g").fetchone()[0]


async def test_it_keeps_what_handlers_of_its_kind_promise(hlr):
    def at(host, port):
        return {
            "OsmoHLR.Address": host,
            "OsmoHLR.CtrlPort": port,
            "OsmoHLR.VtyPort": port,
            "OsmoHLR.Timeout": 1,
        }

    await check_desired_state(OsmoHLR, options(hlr), at=at)
