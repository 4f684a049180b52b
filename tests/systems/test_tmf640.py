"""TMF640: what the billing says of an account is what the server of services holds; made from the
specification, against a server that keeps to it."""

import asyncio
import json

import pytest

from databases import whatever_the_database
from espf import subscriptions
from espf.crypto import Sealer
from espf.errors import CheckLater, InvalidRequest, Misconfigured, Rejected, TryLater
from espf.handlers.http_auth import basic
from espf.handlers.registry import read_settings
from espf.systems.tmf640 import TMF640, TMF640Settings
from espf.testing import FakeOutlet, check_desired_state
from house import House
from mobile_accounts import journal_of
from tmf640_server import BASE, TMF640Server, error
from webhook import Answer, Webhook

NUMBER, OTHER_NUMBER = "380441234567", "380441234568"
IMSI = "001010000000001"


@pytest.fixture
async def server():
    async with TMF640Server() as running:
        yield running


def options(server, **more):
    return {
        "TMF640.URL": server.base,
        "TMF640.Specification": "Gold=MOBILE_GOLD; Landline=; *=MOBILE",
        "TMF640.Characteristics": "msisdn=id; imsi=imsi; addons=packages",
        "TMF640.Packages": "Roaming=ROAM",
        "TMF640.Timeout": 1,
        **{f"TMF640.{name}": value for name, value in more.items()},
    }


def the_service(server, i_account):
    """The one that is there for an account."""
    (service,) = server.of(f"acc-{i_account}-mobile")
    return service


def characteristics(service):
    return {one["name"]: one["value"] for one in service["serviceCharacteristic"]}


def account(town, number=NUMBER, product="Everything"):
    return {
        "id": number,
        "i_customer": town.i_customer,
        "i_product": town.product(product),
        "billing_model": -1,
        "opening_balance": 10,
    }


async def open_account(town, **which):
    answer = await town.do("Account/add_account", account_info=account(town, **which))
    return answer["i_account"]


def created(town, **which):
    """An account that the handler has not heard of, and what it is to hear."""
    i_account = town.api("Account/add_account", account_info=account(town, **which))["i_account"]
    (event,) = town.events("Account/New")
    return i_account, event


def blocked(town, i_account, by="Y"):
    town.api("Account/update_account", account_info=of(i_account, blocked=by))
    return town.events("Account/Blocked", "Account/Unblocked")[0]


async def handle(town, event, outlet=None):
    """One attempt, as the worker makes it; ``outlet`` is what the queue remembers of the event."""
    context = town.context()
    if outlet is not None:
        context.outlet = outlet
    await town.handler.handle(event, context)


async def test_the_whole_life_of_a_service(town, server):
    """From the new account to the closed one; each event is told twice."""
    async with town.served(TMF640, options(server)) as handler:
        i_account = await open_account(town)
        service = the_service(server, i_account)
        assert service["state"] == "active"
        assert service["serviceSpecification"] == {"id": "MOBILE"}
        assert service["name"] == NUMBER
        assert service["relatedParty"][0]["id"] == str(town.i_customer)
        assert characteristics(service) == {"msisdn": NUMBER}

        card = town.card(IMSI)
        await town.do("SIMCard/assign_sim_card", i_sim_card=card, i_account=i_account)
        assert characteristics(service) == {"msisdn": NUMBER, "imsi": IMSI}

        await town.do("Account/update_account", account_info=of(i_account, blocked="Y"))
        assert service["state"] == "inactive"
        charge = {"i_account": i_account, "action": "manual charge", "amount": 10}
        await town.do("Account/make_transaction", **charge)
        await town.do("Account/update_account", account_info=of(i_account, blocked="N"))
        assert service["state"] == "inactive"
        pay = {"i_account": i_account, "action": "manual payment", "amount": 5}
        await town.do("Account/make_transaction", **pay)
        assert service["state"] == "active"

        await town.do("Account/update_account", account_info=of(i_account, id=OTHER_NUMBER))
        assert characteristics(service)["msisdn"] == service["name"] == OTHER_NUMBER
        gold = town.product("Gold")
        await town.do("Account/update_account", account_info=of(i_account, i_product=gold))
        assert service["serviceSpecification"] == {"id": "MOBILE_GOLD"}

        await town.do("Account/terminate_account", i_account=i_account)
        assert service["state"] == "terminated"
        assert (await handler.compare(str(i_account), town.context())).kind == "same"
        assert [one.split()[0] for one in server.changes()].count("POST") == 1


async def test_a_product_without_the_service_ends_it_and_another_one_brings_it_back(town, server):
    async with town.served(TMF640, options(server, Removal="delete")):
        i_account = await open_account(town)
        for name, there in (("Landline", 0), ("Gold", 1)):
            product = town.product(name)
            await town.do("Account/update_account", account_info=of(i_account, i_product=product))
            assert len(server.of(f"acc-{i_account}-mobile")) == there
        assert "DELETE" in " ".join(server.changes())


async def test_what_others_have_put_into_a_service_stays(town, server):
    """A list is replaced as a whole by who writes it."""
    async with town.served(TMF640, options(server)):
        i_account = await open_account(town)
        service = the_service(server, i_account)
        theirs = {"name": "shelf", "valueType": "object", "value": {"row": 3}}
        party = {"role": "installer", "id": "77"}
        service["serviceCharacteristic"].append(theirs)
        service["relatedParty"].append(party)
        await town.do("Account/update_account", account_info=of(i_account, id=OTHER_NUMBER))
        assert theirs in service["serviceCharacteristic"]
        assert party in service["relatedParty"]
        assert characteristics(service)["msisdn"] == OTHER_NUMBER


async def test_an_order_that_takes_time_is_waited_for_and_made_once(town, server):
    """What the queue remembers of the event is the monitor; it costs no attempts."""
    server.is_slow, server.lists_monitors = True, False
    async with town.served(TMF640, options(server)):
        i_account, event = created(town)
        memory = FakeOutlet()
        for _ in range(3):
            with pytest.raises(CheckLater, match="monitor 1") as waiting:
                await handle(town, event, memory)
            assert waiting.value.after.total_seconds() == 30
        server.finish()
        await handle(town, event, memory)
        assert the_service(server, i_account)["state"] == "active"
        assert len(server.changes()) == 1


@pytest.mark.parametrize("shows_designs", [False, True])
async def test_who_has_forgotten_an_order_finds_it_among_the_monitors(town, server, shows_designs):
    """As after a crash, or when another event of the account comes first."""
    server.is_slow, server.shows_designs = True, shows_designs
    async with town.served(TMF640, options(server)):
        i_account, event = created(town)
        for _ in range(3):
            with pytest.raises(CheckLater, match="monitor"):
                await handle(town, event)
        server.finish()
        await handle(town, event)
        assert the_service(server, i_account)["state"] == "active"
        change = blocked(town, i_account)
        for _ in range(2):
            with pytest.raises(CheckLater, match="monitor"):
                await handle(town, change)
        server.finish()
        await handle(town, change)
        assert the_service(server, i_account)["state"] == "inactive"
        assert len(server.changes()) == 2


@whatever_the_database
async def test_a_worker_goes_on_with_an_order_where_it_was(server, database, key_file, tmp_path):
    """The queue keeps the monitor's number, also for another worker."""
    server.is_slow, server.lists_monitors = True, False
    house = House(database, Sealer.open(key_file), tmp_path)
    account = {"i_account": 7, "id": NUMBER, "i_customer": 42, "product_name": "Everything"}
    async with Webhook() as billing:
        billing.always = Answer(
            200, {}, json.dumps({"account_info": account, "access_token": "token"})
        )
        chosen = options(server, PollInterval=1)
        with database.begin() as connection:
            subscriptions.create_handler(connection, house.sealer, 1, "TMF", "TMF640", chosen)
        number = house.event("Account/New", i_account=7)
        async with house.working(billing_url=billing.url):
            async with asyncio.timeout(60):
                while not any("/monitor/" in one.path for one in server.requests):
                    await asyncio.sleep(0.01)
        server.finish()
        async with house.working(name="another", billing_url=billing.url):
            await house.until("finished")
    assert server.changes() == [f"POST {BASE}/service"]
    assert the_service(server, 7)["state"] == "active"
    assert house.events()[0].attempts == 1
    assert house.rows("Dispatches") == []
    assert number


async def test_an_order_that_comes_to_nothing_spends_an_attempt_and_is_made_anew(town, server):
    server.is_slow = True
    async with town.served(TMF640, options(server)):
        i_account, event = created(town)
        memory = FakeOutlet()
        with pytest.raises(CheckLater):
            await handle(town, event, memory)
        server.fail(503, "the core is away")
        with pytest.raises(TryLater, match=r"503 .*the core is away"):
            await handle(town, event, memory)
        with pytest.raises(CheckLater):
            await handle(town, event, memory)
        server.fail(400, "no such slice")
        with pytest.raises(Rejected, match="no such slice"):
            await handle(town, event, memory)
        assert server.of(f"acc-{i_account}-mobile") == []
        with pytest.raises(CheckLater):
            await handle(town, event, memory)
        server.finish()
        await handle(town, event, memory)
        assert the_service(server, i_account)["state"] == "active"


async def test_an_order_that_is_over_and_has_not_done_it_spends_an_attempt(town, server):
    """Else an event could go on asking for ever."""
    server.is_slow = True
    async with town.served(TMF640, options(server)):
        i_account, event = created(town)
        memory = FakeOutlet()
        with pytest.raises(CheckLater):
            await handle(town, event, memory)
        server.finish()
        the_service(server, i_account)["name"] = "another"
        with pytest.raises(TryLater, match="is over, and it is not as it should be"):
            await handle(town, event, memory)


async def test_a_service_that_is_there_already_is_taken_over(town, server):
    """409: somebody was quicker. It is read and compared."""
    server.has_unique_ids = True
    async with town.served(TMF640, options(server)):
        i_account, event = created(town)
        # Nobody sees it at first: a list may lag behind.
        server.then(
            Answer(200, {}, "[]"), Answer(200, {}, "[]"), Answer(409, {}, '{"reason": "taken"}')
        )
        body = {"externalId": f"acc-{i_account}-mobile", "state": "inactive"}
        server._make(body | {"serviceSpecification": {"id": "MOBILE"}})
        await handle(town, event)
        service = the_service(server, i_account)
        assert service["state"] == "active"
        assert characteristics(service) == {"msisdn": NUMBER}


async def test_a_taken_id_without_a_service_is_tried_later(town, server):
    async with town.served(TMF640, options(server)):
        _, event = created(town)
        empty = Answer(200, {}, "[]")
        server.then(empty, empty, Answer(409, {}, '{"reason": "it is being made"}'), empty)
        with pytest.raises(TryLater, match="it is being made"):
            await handle(town, event)


async def test_of_two_services_one_is_ended(town, server):
    """A reply that came too late may have left another one."""
    async with town.served(TMF640, options(server)) as handler:
        i_account, event = created(town)
        server.then(Answer(200, {}, "[]"), Answer(200, {}, "[]"), Answer(fault="hang"))
        with pytest.raises(TryLater, match="no answer within 1 s"):
            await handle(town, event)
        for _ in range(3):
            body = {"externalId": f"acc-{i_account}-mobile", "state": "active"}
            server._make(body | {"serviceSpecification": {"id": "MOBILE"}})
        change = await handler.compare(str(i_account), town.context())
        assert "surplus: 2,3 -> none" in change.told(())
        await town.attempt(event)
        assert the_service(server, i_account)["id"] == "1"


async def test_what_each_answer_means(town, server):
    cases = [
        (Answer(500, {}, '{"code": "E7", "reason": "the core"}'), TryLater, "500 .*E7: the core"),
        (Answer(503, {"Retry-After": "7"}, ""), TryLater, "503"),
        (Answer(429), TryLater, "429"),
        (Answer(fault="hang"), TryLater, "no answer within 1 s"),
        (Answer(201, {}, "{}", fault="half"), TryLater, "broke off"),
        (Answer(400, {}, '{"reason": "no such thing"}'), Rejected, "no such thing"),
        (Answer(401, {}, ""), Misconfigured, "401"),
        (Answer(403, {}, ""), Misconfigured, "403"),
        (Answer(404, {}, ""), Misconfigured, "cannot be made there"),
        (Answer(202, {}, ""), TryLater, "does not name the monitor"),
    ]
    async with town.served(TMF640, options(server)):
        for number, (answer, verdict, said) in enumerate(cases):
            i_account, event = created(town, number=str(number))
            empty = Answer(200, {}, "[]")
            server.then(empty, empty, answer)
            with pytest.raises(verdict, match=said):
                await handle(town, event)
            await handle(town, event)
            assert the_service(server, i_account)["state"] == "active"


async def test_a_service_that_is_busy_is_tried_later(town, server):
    async with town.served(TMF640, options(server)):
        i_account = await open_account(town)
        event = blocked(town, i_account)
        page = Answer(200, {}, json.dumps([the_service(server, i_account)]))
        server.then(page, Answer(200, {}, "[]"), Answer(409, {}, '{"reason": "it is locked"}'))
        with pytest.raises(TryLater, match="it is locked"):
            await handle(town, event)
        await handle(town, event)
        assert the_service(server, i_account)["state"] == "inactive"


async def test_a_server_that_does_not_look_by_the_id_is_not_given_services(town, server):
    """Else each event would make another one."""
    async with town.served(TMF640, options(server)):
        i_account = await open_account(town)
        server.filters = False
        server._make({"externalId": "someone's", "state": "active"})
        with pytest.raises(Misconfigured, match="by their externalId"):
            await handle(town, blocked(town, i_account))


async def test_an_unknown_specification_is_refused_for_good(town, server):
    async with town.served(TMF640, options(server, Specification="*=NOWHERE")):
        _, event = created(town)
        with pytest.raises(Rejected, match="there is no specification NOWHERE"):
            await handle(town, event)


async def test_it_says_who_it_is(town, server):
    ways = [
        (
            {"AuthMethod": "Basic", "Basic.User": "espf", "Basic.Password": "hush-hush"},
            basic("espf", "hush-hush"),
        ),
        ({"AuthMethod": "Bearer", "Bearer.Token": "hush-hush"}, "Bearer hush-hush"),
    ]
    for auth, server.authorization in ways:
        async with town.served(TMF640, options(server, **auth)) as handler:
            assert "it has 0 services" in await handler.check(town.context())
        wrong = {name: f"{value}x" if "hush" in value else value for name, value in auth.items()}
        async with town.served(TMF640, options(server, **wrong)) as handler:
            with pytest.raises(Misconfigured, match=r"401 .*who are you"):
                await handler.check(town.context())
            assert "hush-hushx" in " ".join(handler.secrets())


@pytest.mark.parametrize("method", ["Basic", "Bearer"])
async def test_no_credential_is_told(town, server, method):
    """Nor by a server that repeats it."""
    names = {"Basic": ("Basic.User", "Basic.Password"), "Bearer": ("Bearer.Token",)}[method]
    auth = {"AuthMethod": method, **dict.fromkeys(names, "hush-hush")}
    server.always = lambda request: error(400, f"{request.headers['authorization']} is odd")
    async with town.served(TMF640, options(server, **auth)):
        _, event = created(town)
        shown = await journal_of(town, event)
    assert f"{method} *** is odd" in shown
    sent = server.requests[0].headers["authorization"].partition(" ")[2]
    assert not any(secret in shown for secret in ("hush-hush", sent))


async def test_a_token_is_used_until_it_is_refused(town, server):
    async with Webhook() as tokens:
        given = iter(("first-token", "second-token", "third-token"))
        tokens.always = lambda _: Answer(
            200, {}, json.dumps({"access_token": next(given), "expires_in": 3600})
        )
        server.authorization = "Bearer first-token"
        auth = {
            "AuthMethod": "OAuth",
            "OAuth.TokenURL": tokens.url,
            "OAuth.ClientId": "espf",
            "OAuth.ClientSecret": "hush-hush",
            "OAuth.Scope": "services",
        }
        async with town.served(TMF640, options(server, **auth)) as handler:
            i_account = await open_account(town)
            assert len(tokens.requests) == 1
            asked = tokens.requests[0]
            assert asked.headers["authorization"] == basic("espf", "hush-hush")
            assert asked.body == b"grant_type=client_credentials&scope=services"

            server.authorization = "Bearer second-token"
            await town.do("Account/update_account", account_info=of(i_account, blocked="Y"))
            assert the_service(server, i_account)["state"] == "inactive"
            assert len(tokens.requests) == 2

            server.authorization = "Bearer of nobody"
            context = town.context()
            with pytest.raises(Misconfigured, match="401"):
                await handler.handle(blocked(town, i_account, "N"), context)
            assert {"third-token", "hush-hush"} <= set(context.secrets)
            exchange = context.http.exchange
            assert "token" not in exchange.response
            assert "third-token" not in exchange.request


async def test_a_token_server_that_gives_none(town, server):
    cases = [
        (Answer(400, {}, '{"error": "invalid_client"}'), Misconfigured, "400 .*invalid_client"),
        (Answer(401), Misconfigured, "401"),
        (Answer(503, {}, "later"), TryLater, "503 .*later"),
        (Answer(200, {}, '{"token": "hush-hush"}'), Misconfigured, "holds no access_token"),
        (Answer(fault="close"), TryLater, "closed the connection"),
    ]
    async with Webhook() as tokens:
        auth = {
            "AuthMethod": "OAuth",
            "OAuth.TokenURL": tokens.url,
            "OAuth.ClientId": "espf",
            "OAuth.ClientSecret": "hush",
        }
        async with town.served(TMF640, options(server, **auth)) as handler:
            for tokens.always, verdict, said in cases:
                context = town.context()
                with pytest.raises(verdict, match=said) as told:
                    await handler.check(context)
                assert "hush-hush" not in f"{told.value}{context.http.exchange.response}"
    assert server.requests == []


async def test_the_accounts_that_it_holds_are_listed_page_by_page(town, server):
    """Those of another service, and those that are over, are none of ours."""
    async with town.served(TMF640, options(server)) as handler:
        for number in range(1, 8):
            state = "terminated" if number == 4 else "active"
            kind = "iptv" if number == 5 else "mobile"
            server._make({"externalId": f"acc-{number}-{kind}", "state": state})
        found, after = [], None
        while keys := await handler.held_keys(after, town.context()):
            found += keys
            after = keys[-1]
        assert found == ["1", "2", "3", "6", "7"]
        assert await handler.held_keys("1", town.context()) == ("1", "2")


async def test_in_shadow_mode_nothing_is_ordered_and_all_is_told(town, server):
    async with town.served(TMF640, options(server) | {"Mode": "shadow"}) as handler:
        i_account = await open_account(town)
        assert server.changes() == []
        assert (await handler.compare(str(i_account), town.context())).kind == "missing"


async def test_two_accounts_that_exchange_ids(town, server):
    async with town.served(TMF640, options(server)):
        first = await open_account(town)
        second = await open_account(town, number=OTHER_NUMBER)
        for i_account, number in ((first, "3"), (second, NUMBER), (first, OTHER_NUMBER)):
            town.api("Account/update_account", account_info=of(i_account, id=number))
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        for event in (theirs, mine_again, mine):
            await town.attempt(event)
        assert the_service(server, first)["name"] == OTHER_NUMBER
        assert the_service(server, second)["name"] == NUMBER


@pytest.mark.parametrize("removal", ["terminate", "delete"])
async def test_it_keeps_what_handlers_of_its_kind_promise(server, removal):
    def at(host, port):
        return {"TMF640.URL": f"http://{host}:{port}"}

    await check_desired_state(TMF640, options(server, Removal=removal), at=at)


async def test_what_it_says_of_its_server(town, server):
    async with town.served(TMF640, options(server)) as handler:
        await open_account(town)
        before = len(server.changes())
        assert await handler.check(town.context()) == "the server answers; it has 1 services"
        assert len(server.changes()) == before
        server.then(Answer(200, {}, "<html>"))
        with pytest.raises(Misconfigured, match="no list"):
            await handler.check(town.context())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"AuthMethod": "OAuth"}, "OAuth.TokenURL: is mandatory with AuthMethod OAuth"),
        ({"AuthMethod": "Bearer"}, "Bearer.Token: is mandatory"),
        ({"Characteristics": "msisdn=number"}, "'number' is none of id, imsi"),
        ({"Service": "two words"}, "TMF640.Service"),
        ({"Specification": ""}, "TMF640.Specification"),
    ],
)
def test_options_that_cannot_be_right_are_refused(wrong, said):
    given = {
        "TMF640.URL": "http://127.0.0.1:1",
        "TMF640.Specification": "*=MOBILE",
        **{f"TMF640.{name}": value for name, value in wrong.items()},
    }
    with pytest.raises(InvalidRequest, match=said):
        read_settings(TMF640Settings, given)


def of(i_account, **fields):
    return {"i_account": i_account, **fields}
