"""Ministra: what the billing says of a subscriber decides what the set-top box shows.

Against a server that does as the API is documented; nobody has tried the product.
"""

import json
from dataclasses import astuple

import pytest

from alone import ONE_ACCOUNT, alone
from espf.errors import Misconfigured, Rejected, TryLater
from espf.handlers.base import Reply
from espf.handlers.http_auth import basic
from espf.systems.ministra import Ministra
from espf.testing import check_desired_state, check_handler, sample_event
from ministra_server import MinistraServer
from webhook import Answer

LOGIN, OTHER_LOGIN = "380441234567", "380441234568"
PASSWORD, OTHER_PASSWORD = "open ses+me&1", "another-0ne"


@pytest.fixture
async def portal():
    """A Ministra without accounts."""
    async with MinistraServer() as server:
        yield server


def options(portal, **more):
    return {
        "Ministra.URL": portal.api,
        "Ministra.User": portal.user,
        "Ministra.Key": portal.key,
        "Ministra.Tariffs": "Family TV=family; Sport TV=sport; Basic TV=basic",
        "Ministra.Timeout": 2,
        **{f"Ministra.{name}": value for name, value in more.items()},
    }


async def open_account(town, login=LOGIN, product="Family TV", password=PASSWORD):
    info = {
        "id": login,
        "i_customer": town.i_customer,
        "i_product": town.product(product),
        "billing_model": -1,
        "opening_balance": 10,
        "h323_password": password,
    }
    return (await town.do("Account/add_account", account_info=info))["i_account"]


async def update(town, i_account, **fields):
    await town.do("Account/update_account", account_info={"i_account": i_account, **fields})


async def pay(town, i_account, amount, action="manual payment"):
    await town.do("Account/make_transaction", i_account=i_account, action=action, amount=amount)


async def test_the_whole_life_of_a_subscriber(town, portal):
    """From the first evening to the last, seen on the screen; each event is told twice."""
    async with town.served(Ministra, options(portal)) as handler:
        assert portal.watches(LOGIN, PASSWORD) is None
        i_account = await open_account(town)
        assert portal.watches(LOGIN, PASSWORD) == "family"

        await update(town, i_account, blocked="Y")
        assert portal.watches(LOGIN, PASSWORD) == "cut off"
        assert portal.sent == [("cut_off", LOGIN)]
        # Without funds as well: to be unblocked alone does not help.
        await pay(town, i_account, 10, "manual charge")
        await update(town, i_account, blocked="N")
        assert portal.watches(LOGIN, PASSWORD) == "cut off"
        await pay(town, i_account, 5)
        assert portal.watches(LOGIN, PASSWORD) == "family"
        assert portal.sent == [("cut_off", LOGIN), ("cut_on", LOGIN)]
        for status, shown in (("S", "cut off"), ("O", "family")):
            where = f"WHERE i_account = {i_account}"
            town.site.sql(f"UPDATE \"Accounts\" SET bill_status = '{status}' {where}")
            await town.tell()
            assert portal.watches(LOGIN, PASSWORD) == shown

        await update(town, i_account, i_product=town.product("Sport TV"))
        assert portal.watches(LOGIN, PASSWORD) == "sport"
        await update(town, i_account, h323_password=OTHER_PASSWORD)
        assert portal.watches(LOGIN, PASSWORD) is None
        assert portal.watches(LOGIN, OTHER_PASSWORD) == "sport"
        await update(town, i_account, id=OTHER_LOGIN)
        assert portal.watches(LOGIN, OTHER_PASSWORD) is None
        assert portal.watches(OTHER_LOGIN, OTHER_PASSWORD) == "sport"
        assert len(portal.accounts) == 1

        await update(town, i_account, i_product=town.product("Telephone"))
        assert portal.accounts == {}
        await update(town, i_account, i_product=town.product("Basic TV"))
        assert portal.watches(OTHER_LOGIN, OTHER_PASSWORD) == "basic"

        await town.do("Account/terminate_account", i_account=i_account)
        assert portal.accounts == {}
        assert (await handler.compare(str(i_account), town.context())).kind == "same"


async def test_an_unknown_tariff_is_refused_before_ministra_takes_it_for_none(town, portal):
    """Sent, it would be the default tariff, and no error."""
    async with town.served(Ministra, options(portal, Tariffs="Gold=gold; Basic TV=basic")):
        with pytest.raises(Rejected, match="no tariff with the external id 'gold'"):
            await open_account(town, product="Gold")
        assert portal.accounts == {}
        i_account = await open_account(town, OTHER_LOGIN, product="Basic TV")
        with pytest.raises(Rejected, match="'gold'"):
            await update(town, i_account, i_product=town.product("Gold"))
        assert portal.watches(OTHER_LOGIN, PASSWORD) == "basic"
        # One that is added is known at once.
        portal.tariffs["gold"] = 9
        await update(town, i_account, firstname="Ann", blocked="Y")
        assert portal.accounts[1]["plan"] == 9


async def test_a_long_list_of_tariffs_is_read_to_its_end(town, portal):
    portal.tariffs |= {f"{number:05}{'x' * 200}": number for number in range(10, 1000)}
    portal.tariffs["family"] = portal.tariffs.pop("family")
    async with town.served(Ministra, options(portal)) as handler:
        await open_account(town)
        assert "993 tariffs" in await handler.check(town.context())


async def test_logins_that_two_accounts_have_exchanged(town, portal):
    async with town.served(Ministra, options(portal)):
        first = await open_account(town)
        second = await open_account(town, OTHER_LOGIN, "Sport TV", OTHER_PASSWORD)
        for i_account, login in ((first, "3"), (second, LOGIN), (first, OTHER_LOGIN)):
            info = {"i_account": i_account, "id": login}
            town.api("Account/update_account", account_info=info)
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        for event in (theirs, mine_again, mine):
            await town.attempt(event)
        assert portal.watches(LOGIN, OTHER_PASSWORD) == "sport"
        assert portal.watches(OTHER_LOGIN, PASSWORD) == "family"


async def test_accounts_that_are_not_ours_are_left_alone(town, portal):
    """Neither a login that somebody has, nor an account number that looks like ours, is taken."""
    portal.add(login=LOGIN, account_number="1", password="theirs", tariff_plan="sport")
    async with town.served(Ministra, options(portal)):
        with pytest.raises(Rejected, match="belongs to an account of Ministra that the billing"):
            await open_account(town)
        await town.tell()
        town.api("Account/terminate_account", i_account=1)
        await town.tell()
        assert portal.watches(LOGIN, "theirs") == "sport"
        assert len(portal.accounts) == 1


async def test_a_comment_keeps_what_somebody_wrote_there(town, portal):
    async with town.served(Ministra, options(portal)):
        i_account = await open_account(town)
        account = portal.of_login(LOGIN)
        account["comment"] = f"VIP, second floor {account['comment']}"
        await update(town, i_account, h323_password=OTHER_PASSWORD)
        assert account["comment"].startswith("VIP, second floor [espf:")
        assert account["comment"].count("[espf:") == 1
        assert portal.watches(LOGIN, OTHER_PASSWORD) == "family"


async def test_without_the_mark_a_password_is_sent_once(town, portal):
    portal.tells_comments = False
    async with town.served(Ministra, options(portal)):
        with pytest.raises(Misconfigured, match="switch PasswordMark off"):
            await open_account(town)
    async with town.served(Ministra, options(portal, PasswordMark="off")):
        await update(town, 1, h323_password=OTHER_PASSWORD)
        assert portal.watches(LOGIN, PASSWORD) == "family"


async def test_no_password_is_told(town, portal):
    """Nor in the form in which it is sent."""
    new = {"h323_password": "new ses+me&2"}
    sent_key = basic(portal.user, portal.key).partition(" ")[2]
    async with town.served(Ministra, options(portal)) as handler:
        i_account = await open_account(town)
        town.api("Account/update_account", account_info={"i_account": i_account, **new})
        (event,) = town.events("Account/ServicePassword/Changed")
        portal.loses = "PUT"
        context = town.context()
        with pytest.raises(TryLater):
            await handler.handle(event, context)
        assert "PUT" in context.http.exchange.request
        said = "\n".join([*town.journal, *context.notes, *map(str, astuple(context.http.exchange))])
        for secret in (PASSWORD, "new ses+me&2", "new+ses%2Bme%262", portal.key, sent_key):
            assert secret not in said


@pytest.mark.parametrize(
    ("answer", "verdict", "told"),
    [
        (Answer(fault="hang"), TryLater, "no answer"),
        (Answer(503, body="busy"), TryLater, "503"),
        (Answer(200, body="<b>Fatal error</b>"), TryLater, "not the JSON"),
        (Answer(200, body='{"status":"ERROR","results":null,"error":"Login already in use"}'),
         TryLater, "Login already in use"),
        (Answer(200, body='{"status":"ERROR","error":"Insert data is empty"}'),
         Rejected, "Insert data"),
        (Answer(200, body='{"status":"ERROR","error":"Resource \\"accounts\\" does not exist"}'),
         Misconfigured, "does not exist"),
        (Answer(200, body='{"status":"OK","results":false}'), TryLater, "has not done it"),
        (Answer(302, {"Location": "http://127.0.0.1:1/"}), Rejected, "302"),
    ],
)  # fmt: skip
async def test_what_an_answer_means(portal, answer, verdict, told):
    async with alone(Ministra, options(portal, Timeout=1)) as (handler, context):
        portal.then(answer)
        with pytest.raises(verdict, match=told):
            await handler.read("1", None, context)


async def test_a_portal_that_was_away_is_brought_to_the_end(town, portal):
    async with town.served(Ministra, options(portal)):
        i_account = await open_account(town)
        info = {"i_account": i_account, "blocked": "Y"}
        town.api("Account/update_account", account_info=info)
        (event,) = town.events("Account/Blocked")
        await portal.stop()
        with pytest.raises(TryLater, match="no connection"):
            await town.attempt(event)
        await portal.start(portal.port)
        # The answer is lost after the change was made: the next attempt finds it done.
        portal.loses = "PUT"
        with pytest.raises(TryLater):
            await town.attempt(event)
        portal.loses = None
        await town.attempt(event)
        assert portal.watches(LOGIN, PASSWORD) == "cut off"
        assert portal.sent == [("cut_off", LOGIN)]


async def test_the_settings_are_to_blame_for_a_wrong_key_and_an_api_that_is_off(portal):
    async with alone(Ministra, options(portal, Key="wrong")) as (handler, context):
        with pytest.raises(Misconfigured, match="login"):
            await handler.check(context)
        portal.is_enabled = False
        with pytest.raises(Misconfigured, match="not enabled"):
            await handler.check(context)


async def test_it_keeps_the_contract_of_handlers():
    account = {"login": "ann", "tariff_plan": "family", "status": 1, "comment": None}
    reply = Reply(200, {}, json.dumps({"status": "OK", "results": [account]}))
    chosen = {
        "Ministra.URL": "http://127.0.0.1:1",
        "Ministra.User": "espf",
        "Ministra.Key": "hush-hush",
        "Ministra.Tariffs": "Family TV=family",
    }
    event = sample_event("Account/Blocked")
    await check_handler(Ministra, chosen, event, billing=ONE_ACCOUNT, reply=reply)


async def test_two_accounts_of_one_number_are_refused(town, portal):
    """Ministra would change both of them."""
    for login in ("a", "b"):
        portal.add(login=login, account_number="espf-1")
    async with town.served(Ministra, options(portal)):
        with pytest.raises(Rejected, match="2 accounts of Ministra have the number espf-1"):
            await open_account(town)


@pytest.mark.parametrize("login", ["a,b", "a/b", "00:1a:79:00:00:01"])
async def test_an_id_that_cannot_be_a_login_is_refused(town, portal, login):
    async with town.served(Ministra, options(portal)):
        with pytest.raises(Rejected, match="cannot be a login"):
            await open_account(town, login)
        assert portal.accounts == {}


async def test_in_shadow_mode_nothing_is_sent_and_all_is_told(town, portal):
    async with town.served(Ministra, options(portal) | {"Mode": "shadow"}) as handler:
        i_account = await open_account(town)
        assert portal.accounts == {}
        change = await handler.compare(str(i_account), town.context())
        assert change.kind == "missing"
        assert PASSWORD not in str(change.differences(handler.secret_fields))


async def test_what_it_says_of_its_server(portal):
    async with alone(Ministra, options(portal)) as (handler, context):
        assert await handler.check(context) == (
            "Ministra answers, and has 3 tariffs, with all that are named"
        )
    async with alone(Ministra, options(portal, Tariffs="*=gold")) as (handler, context):
        with pytest.raises(Misconfigured, match="'gold'"):
            await handler.check(context)


async def test_it_keeps_what_handlers_of_its_kind_promise(portal):
    def at(host, port):
        return {"Ministra.URL": f"http://{host}:{port}/", "Ministra.Timeout": 1}

    await check_desired_state(Ministra, options(portal, Tariffs="*=family"), at=at)
