"""PyHSS: what the billing says of a subscriber decides what an MME is told of it.

The server is one that answers as PyHSS's source says. Where PYHSS_URL names a real one (and
PYHSS_KEY its provisioning key), what needs no faults runs against that.
"""

import json
import os
import urllib.request
from itertools import product
from urllib.error import HTTPError

import pytest

from espf.errors import Misconfigured, Rejected, TryLater
from espf.handlers.base import Reply
from espf.handlers.subscriber import Card, Subscriber
from espf.systems.pyhss import PAGE, PyHSS
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
from pyhss_server import PyHSS as Contract
from town import KI, OPC, OTHER_KI

KEY = "hush-hush-provisioning"
REAL = os.environ.get("PYHSS_URL")

contract_only = pytest.mark.skipif(bool(REAL), reason="a real PyHSS cannot be made to fail so")


class Network:
    """PyHSS as an MME meets it, and its administrator."""

    def __init__(self, url, key):
        self.url = url
        self.key = key

    def ask(self, method, path, row=None):
        headers = {"Provisioning-Key": self.key, "Content-Type": "application/json"}
        content = None if row is None else json.dumps(row).encode()
        request = urllib.request.Request(f"{self.url}/{path}", content, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return json.load(reply)
        except HTTPError as error:
            with error:
                return json.load(error)

    def attach(self, imsi):
        """Why not, or what the MME is told; then the session is open."""
        row = self.ask("GET", f"subscriber/imsi/{imsi}")
        if row is None:
            return "unknown"
        auc = self.ask("GET", f"auc/{row['auc_id']}")
        if auc is None or auc["imsi"] != imsi:
            return "no keys"
        if not row["enabled"]:
            return "not allowed"
        serving = {"serving_mme": "mme1", "serving_mme_realm": "example.net"}
        self.ask("PATCH", f"subscriber/{row['subscriber_id']}", serving)
        names = [self.name(number) for number in row["apn_list"].split(",")]
        rates = f"{row['ue_ambr_dl']}/{row['ue_ambr_ul']}"
        return row["msisdn"], self.name(row["default_apn"]), set(names), rates

    def name(self, number):
        return self.ask("GET", f"apn/{number}")["apn"]

    def is_served(self, imsi):
        return bool(self.ask("GET", f"subscriber/imsi/{imsi}")["serving_mme"])

    def calls(self, number):
        """Whom a call to a number goes to."""
        found = self.ask("GET", f"ims_subscriber/ims_subscriber_msisdn/{number}")
        return found and found["imsi"]

    def wipe(self):
        """None of ours is there; the APNs are."""
        for imsi in (IMSI, OTHER_IMSI):
            for table, path in (
                ("ims_subscriber", "ims_subscriber/ims_subscriber_imsi"),
                ("subscriber", "subscriber/imsi"),
                ("auc", "auc/imsi"),
            ):
                found = self.ask("GET", f"{path}/{imsi}")
                if isinstance(found, dict):
                    self.ask("DELETE", f"{table}/{found[f'{table}_id']}")
        known = {row["apn"] for row in self.ask("GET", "apn/list?page=0&page_size=100")}
        for name in {"internet", "ims", "slow"} - known:
            self.ask("PUT", "apn/", {"apn": name, "apn_ambr_dl": 0, "apn_ambr_ul": 0})


@pytest.fixture(scope="module")
def server():
    if REAL:
        yield None
        return
    with Contract(KEY) as running:
        yield running


@pytest.fixture
def pyhss(server):
    """The contract server, empty but for APNs."""
    if server is not None:
        server.clear()
        server.asked.clear()
        server.instead.clear()
        server.tells_keys = False
    return server


@pytest.fixture
def network(server, pyhss):
    made = Network(REAL.rstrip("/"), os.environ.get("PYHSS_KEY", "")) if REAL else None
    made = made or Network(server.url, KEY)
    made.wipe()
    yield made
    if REAL:
        made.wipe()


def options(network, **more):
    return {
        "PyHSS.URL": network.url,
        "PyHSS.ProvisioningKey": network.key,
        "PyHSS.Timeout": 10 if REAL else 3,
        "PyHSS.APNs": "Data only=internet; *=internet, ims",
        "PyHSS.AMBR": "Data only=1000/500; *=100000000/50000000",
        **{f"PyHSS.{name}": value for name, value in more.items()},
    }


EVERYTHING = "internet", {"internet", "ims"}, "100000000/50000000"


async def test_the_whole_life_of_a_subscriber(town, network, pyhss):
    """From the first card to the end, seen by an MME; each event is told twice."""
    async with town.served(PyHSS, options(network)) as handler:
        assert network.attach(IMSI) == "unknown"
        i_account, _ = await open_account(town)
        assert network.attach(IMSI) == (NUMBER, *EVERYTHING)
        assert network.calls(NUMBER) == IMSI
        assert network.is_served(IMSI)

        await town.do("Account/update_account", account_info=of(i_account, blocked="Y"))
        assert not network.is_served(IMSI)
        assert pyhss is None or pyhss.cancelled == [IMSI]
        assert network.attach(IMSI) == "not allowed"

        # Without funds as well: to be unblocked alone does not help.
        await town.do("Account/make_transaction", **charge(i_account, 10))
        await town.do("Account/update_account", account_info=of(i_account, blocked="N"))
        assert network.attach(IMSI) == "not allowed"
        await town.do("Account/make_transaction", **pay(i_account, 5))
        assert network.attach(IMSI) == (NUMBER, *EVERYTHING)

        await town.do("Account/update_account", account_info=of(i_account, id=OTHER_NUMBER))
        assert network.attach(IMSI) == (OTHER_NUMBER, *EVERYTHING)
        assert network.calls(NUMBER) is None
        assert network.calls(OTHER_NUMBER) == IMSI

        data_only = town.product("Data only")
        await town.do("Account/update_account", account_info=of(i_account, i_product=data_only))
        assert network.attach(IMSI) == (OTHER_NUMBER, "internet", {"internet"}, "1000/500")
        assert network.calls(OTHER_NUMBER) is None

        await town.do("Account/update_account", account_info=of(i_account, bill_status="S"))
        assert network.attach(IMSI) == "not allowed"
        await town.do("Account/update_account", account_info=of(i_account, bill_status="O"))
        assert network.attach(IMSI)[0] == OTHER_NUMBER

        everything = town.product("Everything")
        await town.do("Account/update_account", account_info=of(i_account, i_product=everything))
        other = town.card(OTHER_IMSI, ki=OTHER_KI)
        await town.do("SIMCard/assign_sim_card", i_sim_card=other, i_account=i_account)
        assert network.attach(IMSI) == "unknown"
        assert network.attach(OTHER_IMSI) == (OTHER_NUMBER, *EVERYTHING)
        assert network.calls(OTHER_NUMBER) == OTHER_IMSI

        await town.do("Account/terminate_account", i_account=i_account)
        assert network.attach(OTHER_IMSI) == "unknown"
        assert network.calls(OTHER_NUMBER) is None
        if pyhss is not None:
            gone = [asked.path.split("/")[1] for asked in pyhss.asked if asked.method == "DELETE"]
            assert gone[-3:] == ["ims_subscriber", "subscriber", "auc"]
        for imsi in (IMSI, OTHER_IMSI):
            assert network.ask("GET", f"auc/imsi/{imsi}") is None
            assert (await handler.compare(imsi, town.context())).kind == "same"


@contract_only
async def test_no_key_is_told(town, network, pyhss):
    """Neither in the journal, nor in what it has of requests, replies and errors."""

    def locked(asked):
        return pyhss.locked(asked)

    def lost(asked):
        return 503, json.dumps(asked.value).upper()

    async with town.served(PyHSS, options(network)):
        event = card_given(town)
        for fault in (locked, lost):
            pyhss.instead["PUT", "/auc/"] = fault
            shown = await journal_of(town, event)
            assert "is locked" in shown or "503" in shown
            assert not any(secret in shown.upper() for secret in (KI, OPC, KEY.upper()))
        pyhss.instead.clear()
        pyhss.instead["GET", "/apn/list"] = lambda _asked: (503, "")
        shown = await journal_of(town, event)
        assert not any(key in shown.upper() for key in (KI, OPC))
        pyhss.instead.clear()
        await town.attempt(event)
        # One that tells keys, and the other secrets of a card.
        pyhss.tells_keys = True
        (number,) = pyhss.tables["auc"]
        pyhss.tables["auc"][number] |= {"ki": OTHER_KI.lower(), "pin1": "1234", "adm1": "87654"}
        pyhss.instead["GET", f"/subscriber/imsi/{IMSI}"] = lambda _asked: (503, "")
        context = town.context()
        with pytest.raises(TryLater):
            await town.handler.read(IMSI, None, context)
        assert OTHER_KI.lower() in context.secrets
        assert '"pin1": "1234"' in context.secrets
        assert '"adm1": "87654"' in context.secrets
    assert not any(key in line.upper() for key in (KI, OPC, OTHER_KI) for line in town.journal)


@contract_only
async def test_a_server_that_is_away_locked_or_slow_is_tried_later(town, network, pyhss):
    """And what was begun is brought to its end when it is there again."""
    async with town.served(PyHSS, options(network)):
        i_account, _ = await open_account(town)
        town.api("Account/update_account", account_info=of(i_account, blocked="Y"))
        (event,) = town.events("Account/*")
        pyhss.stop()
        with pytest.raises(TryLater, match="no connection"):
            await town.attempt(event)
        pyhss.start()
        with pyhss.paused(), pytest.raises(TryLater, match="no answer"):
            await town.attempt(event)
        path = f"/subscriber/{next(iter(pyhss.tables['subscriber']))}"
        pyhss.instead["PATCH", path] = pyhss.locked
        with pytest.raises(TryLater, match=r"database is locked$"):
            await town.attempt(event)
        pyhss.instead["PATCH", path] = lambda _asked: (502, "<h1>Bad Gateway</h1>")
        with pytest.raises(TryLater, match="502"):
            await town.attempt(event)
        pyhss.instead.clear()
        await town.attempt(event)
        assert network.attach(IMSI) == "not allowed"


@contract_only
async def test_an_attempt_that_died_half_way_is_gone_on_with(town, network, pyhss):
    """Whether the last request was heard or not; nothing is there twice."""

    def heard_and_lost(asked):
        pyhss.answer(asked)
        return 503, ""

    async with town.served(PyHSS, options(network)):
        event = card_given(town)
        tables = ("auc", "subscriber", "ims_subscriber")
        faults = (lambda _asked: (503, ""), heard_and_lost)
        for table, fault in product(tables, faults):
            network.wipe()
            pyhss.instead["PUT", f"/{table}/"] = fault
            with pytest.raises(TryLater):
                await town.attempt(event)
            pyhss.instead.clear()
            await town.attempt(event)
            assert network.attach(IMSI) == (NUMBER, *EVERYTHING)
            assert network.calls(NUMBER) == IMSI
            assert [len(pyhss.tables[each]) for each in tables] == [1, 1, 1]


@contract_only
async def test_a_session_that_was_not_cut_is_cut_by_the_next_attempt(town, network, pyhss):
    async with town.served(PyHSS, options(network)):
        i_account, _ = await open_account(town)
        network.attach(IMSI)
        # The MME is not told when the request does not name it.
        (row,) = pyhss.tables["subscriber"].values()
        network.ask("PATCH", f"subscriber/{row['subscriber_id']}", {"enabled": False})
        assert pyhss.cancelled == []
        await town.do("Account/update_account", account_info=of(i_account, blocked="Y"))
        assert pyhss.cancelled == [IMSI]
        assert not network.is_served(IMSI)


async def test_numbers_that_two_cards_have_exchanged(town, network):
    """Whichever event comes first."""
    async with town.served(PyHSS, options(network)):
        first, _ = await open_account(town)
        second, _ = await open_account(town, OTHER_NUMBER, OTHER_IMSI)
        for i_account, number in ((first, "3"), (second, NUMBER), (first, OTHER_NUMBER)):
            town.api("Account/update_account", account_info=of(i_account, id=number))
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        for event in (theirs, mine_again, mine):
            await town.attempt(event)
        assert network.calls(NUMBER) == OTHER_IMSI
        assert network.calls(OTHER_NUMBER) == IMSI
        assert network.attach(OTHER_IMSI)[0] == NUMBER
        assert network.attach(IMSI)[0] == OTHER_NUMBER


@contract_only
async def test_what_somebody_else_holds_is_told(town, network, pyhss):
    """An IMS subscriber without an IMSI has the number; nobody knows whose it is."""
    network.ask("PUT", "ims_subscriber/", {"msisdn": NUMBER})
    async with town.served(PyHSS, options(network)):
        with pytest.raises(TryLater, match=f"ims: none -> {NUMBER}"):
            await open_account(town)
        assert any("UNIQUE constraint failed: ims_subscriber.msisdn" in x for x in town.journal)


async def test_keys_that_were_not_ours_stay(town, network, pyhss):
    """A card that the billing has no keys of is provisioned with the AuC entry that is there."""
    row = {"imsi": IMSI, "ki": OTHER_KI, "opc": OPC, "amf": "8000", "sqn": 77}
    network.ask("PUT", "auc/", row)
    async with town.served(PyHSS, options(network)):
        i_account, _ = await open_account(town, ki=None, opc=None)
        assert network.attach(IMSI) == (NUMBER, *EVERYTHING)
        await town.do("Account/terminate_account", i_account=i_account)
        assert network.attach(IMSI) == "unknown"
        assert network.ask("GET", f"auc/imsi/{IMSI}")["sqn"] == 77
        with pytest.raises(Rejected, match="nor PyHSS knows the keys"):
            await open_account(town, OTHER_NUMBER, OTHER_IMSI, ki=None, opc=None)


@contract_only
@pytest.mark.parametrize("tells", [True, False])
async def test_keys_are_written_when_they_differ_and_never_else(town, network, pyhss, tells):
    """Whether PyHSS tells them or not; the sequence number stays."""
    pyhss.tells_keys = tells
    async with town.served(PyHSS, options(network)):
        i_account, i_sim_card = await open_account(town)
        (row,) = pyhss.tables["auc"].values()
        pyhss.tables["auc"][row["auc_id"]] = {**row, "sqn": 481}
        before = len(pyhss.asked)
        for blocked in "YN":
            await town.do("Account/update_account", account_info=of(i_account, blocked=blocked))
        assert not [a for a in pyhss.asked[before:] if a.path.startswith("/auc/") and a.text]
        info = {"i_sim_card": i_sim_card, "ki": OTHER_KI}
        await town.do("SIMCard/update_sim_card", card_info=info)
        (row,) = pyhss.tables["auc"].values()
        assert (row["ki"], row["sqn"]) == (OTHER_KI, 481)


@contract_only
async def test_a_free_field_that_is_in_use_is_left_alone(town, network, pyhss):
    row = {"imsi": IMSI, "ki": KI, "opc": OPC, "amf": "8000", "misc4": "shelf 7"}
    network.ask("PUT", "auc/", row)
    async with town.served(PyHSS, options(network)):
        with pytest.raises(Misconfigured, match="misc4"):
            await open_account(town)
    assert pyhss.tables["auc"].popitem()[1]["misc4"] == "shelf 7"


async def test_a_wrong_key_and_an_apn_that_is_not_there_are_no_events_fault(town, network):
    if not REAL or network.key:
        async with town.served(PyHSS, options(network, ProvisioningKey="wrong")):
            with pytest.raises(Misconfigured, match="401"):
                await open_account(town)
    async with town.served(PyHSS, options(network, APNs="*=nowhere")) as handler:
        with pytest.raises(Misconfigured, match="no APN 'nowhere'"):
            await open_account(town, OTHER_NUMBER, OTHER_IMSI)
        with pytest.raises(Misconfigured, match="no APN 'nowhere'"):
            await handler.check(town.context())


@contract_only
async def test_what_its_answers_mean(town, network, pyhss):
    async with town.served(PyHSS, options(network)):
        event = card_given(town)
        for status, body, verdict in (
            (400, {"result": "Failed", "reason": "IntegrityError: NOT NULL failed"}, Rejected),
            (500, {"reason": "'x' is an invalid keyword argument for AUC"}, Rejected),
            (500, {"reason": "An internal server error occurred: x"}, TryLater),
            (404, {"Result": "Not Found"}, Misconfigured),
            (200, "<html>a proxy</html>", TryLater),
            (200, "null", TryLater),
            (429, "", TryLater),
        ):
            pyhss.instead["PUT", "/auc/"] = lambda _asked, said=(status, body): said
            with pytest.raises(verdict):
                await town.attempt(event)


@contract_only
async def test_that_an_entry_has_gone_is_believed_of_one_that_is_well(town, network, pyhss):
    """It says null, too, when it cannot ask its database."""
    async with town.served(PyHSS, options(network)):
        i_account, _ = await open_account(town)
        town.api("Account/terminate_account", i_account=i_account)
        *_, event = town.events("Account/SIMCardAssignment")
        paths = ("auc/imsi", "subscriber/imsi", "ims_subscriber/ims_subscriber_imsi")
        for path in (*(f"/{path}/{IMSI}" for path in paths), "/apn/list"):
            pyhss.instead["GET", path] = lambda _asked: (200, None)
        with pytest.raises(TryLater, match="does not list"):
            await town.attempt(event)
        pyhss.instead.clear()
        await town.attempt(event)
        assert network.attach(IMSI) == "unknown"


@contract_only
async def test_its_log_of_operations_names_the_event(town, network, pyhss):
    async with town.served(PyHSS, options(network)):
        pyhss.operations.clear()
        event = card_given(town)
        await town.attempt(event)
        assert set(pyhss.operations) == {f"espf-{event.i_event}"}
        assert len(pyhss.operations) == 3


async def test_in_shadow_mode_nothing_is_sent_and_all_is_told(town, network):
    async with town.served(PyHSS, options(network) | {"Mode": "shadow"}) as handler:
        await open_account(town)
        assert network.attach(IMSI) == "unknown"
        change = await handler.compare(IMSI, town.context())
        assert change.kind == "missing"
        assert KI not in str(change.differences(handler.secret_fields))


@contract_only
async def test_all_that_it_holds_is_listed_while_entries_go(town, network, pyhss):
    names = [f"00101{number:010}" for number in range(2 * PAGE + 5)]
    for number, imsi in enumerate(names):
        pyhss.tables["subscriber"][number] = {"imsi": imsi}
    async with town.served(PyHSS, options(network)) as handler:
        listed = list(await handler.held_keys(None, town.context()))
        assert listed == names[:PAGE]
        for number in range(10):
            del pyhss.tables["subscriber"][number]
        while keys := await handler.held_keys(listed[-1], town.context()):
            listed += keys
        assert listed == names
        # Another process goes on in the middle.
        async with town.served(PyHSS, options(network)) as another:
            assert names[50] in await another.held_keys(names[40], town.context())


async def test_what_it_says_of_its_server(town, network):
    async with town.served(PyHSS, options(network)) as handler:
        assert "PyHSS answers and has the APNs" in await handler.check(town.context())


def test_what_a_subscriber_without_quota_keeps():
    owner = Subscriber(
        i_account=1,
        id=NUMBER,
        is_closed=False,
        bars=frozenset(),
        products=("Everything",),
        exceeded=frozenset({"netaccess"}),
        card=Card(IMSI, "", KI, OPC),
        service_password=None,
        info={},
    )
    some = {"PyHSS.URL": "http://127.0.0.1:1", "PyHSS.APNs": "*=internet, ims"}

    def wanted(**more):
        settings = PyHSS.Settings.model_validate({**some, **more})
        return PyHSS(settings).desired(IMSI, owner)

    assert wanted()["enabled"] == "0"
    kept = wanted(**{"PyHSS.APNsWithoutQuota": "ims"})
    assert (kept["enabled"], kept["apns"], kept["ims"]) == ("1", "ims", NUMBER)
    assert PyHSS.Settings.model_validate(some).service_group == "HSS"


async def test_it_keeps_the_contract():
    billing = FakeBilling(
        {
            "Account/get_account_info": {"account_info": {"i_account": 541}},
            "SIMCard/get_card_info": {"card_info": {"imsi": IMSI}},
        }
    )
    event = sample_event(i_account=541, prev_imsi=IMSI)
    chosen = {"PyHSS.URL": "http://127.0.0.1:1", "PyHSS.ProvisioningKey": KEY}
    await check_handler(PyHSS, chosen, event, billing=billing, reply=Reply(200, {}, "[]"))


async def test_it_keeps_what_handlers_of_its_kind_promise(network):
    def at(host, port):
        return {"PyHSS.URL": f"http://{host}:{port}", "PyHSS.Timeout": 1}

    await check_desired_state(PyHSS, options(network), at=at)
