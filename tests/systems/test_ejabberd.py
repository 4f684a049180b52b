"""Ejabberd: what the billing says of a subscriber decides who can chat, and who is cut off."""

import pytest

from ejabberd_server import ADMIN, HOST, PASSWORD
from ejabberd_server import Ejabberd as RealEjabberd
from espf.errors import Misconfigured, Rejected, TryLater
from espf.handlers.desired import RECONCILE
from espf.model import Event, compact
from espf.systems import ejabberd
from espf.systems.ejabberd import Ejabberd
from espf.testing import check_desired_state
from guides import documented_options, own_options
from xmpp import Refused

USER, OTHER_USER = "380441234567", "380441234568"

#: One of them is written otherwise in JSON.
SECRET, OTHER_SECRET = "apple-pie-1", 'cherry "pie" \\2'


@pytest.fixture(scope="module")
def program():
    with RealEjabberd() as running:
        yield running


@pytest.fixture
def server(program):
    """The server, without subscribers."""
    program.empty()
    return program


def options(server, **more):
    return {
        "Ejabberd.URL": server.url,
        "Ejabberd.User": ADMIN,
        "Ejabberd.Password": PASSWORD,
        "Ejabberd.Host": HOST,
        "Ejabberd.Timeout": 5,
        "Ejabberd.Access": "Data only=off; *=on",
        **{f"Ejabberd.{name}": value for name, value in more.items()},
    }


async def open_account(town, user=USER, **more):
    info = {
        "id": user,
        "i_customer": town.i_customer,
        "i_product": town.product("Everything"),
        "billing_model": -1,
        "opening_balance": 10,
        "h323_password": SECRET,
        **more,
    }
    return (await town.do("Account/add_account", account_info=info))["i_account"]


async def update(town, i_account, **fields):
    info = {"i_account": i_account, **fields}
    await town.do("Account/update_account", account_info=info)


def refused(server, user, password):
    with pytest.raises(Refused) as refusal:
        server.log_in(user, password)
    return str(refusal.value)


def welcome(server, user, password):
    with server.log_in(user, password) as session:
        return session.is_served()


async def test_the_whole_life_of_a_subscriber(town, server):
    """From the first day to the last, seen by a chat client; each event is told twice."""
    async with town.served(Ejabberd, options(server)):
        assert refused(server, USER, SECRET) == "not-authorized"
        i_account = await open_account(town)
        with server.log_in(USER, SECRET) as session:
            assert session.is_served()
            await update(town, i_account, blocked="Y")
            assert session.end() == "policy-violation"
        assert refused(server, USER, SECRET) == "not-authorized"

        # Without funds as well: to be unblocked alone does not help.
        await town.do("Account/make_transaction", **money(i_account, "manual charge", 10))
        await update(town, i_account, blocked="N")
        assert refused(server, USER, SECRET) == "not-authorized"
        await town.do("Account/make_transaction", **money(i_account, "manual payment", 5))
        assert welcome(server, USER, SECRET)

        await update(town, i_account, h323_password=OTHER_SECRET)
        assert refused(server, USER, SECRET) == "not-authorized"
        assert welcome(server, USER, OTHER_SECRET)

        await update(town, i_account, id=OTHER_USER)
        assert server.users() == {OTHER_USER}
        assert refused(server, USER, OTHER_SECRET) == "not-authorized"
        assert welcome(server, OTHER_USER, OTHER_SECRET)

        await update(town, i_account, i_product=town.product("Data only"))
        assert refused(server, OTHER_USER, OTHER_SECRET) == "not-authorized"
        await update(town, i_account, i_product=town.product("Everything"))
        assert welcome(server, OTHER_USER, OTHER_SECRET)

        await update(town, i_account, bill_status="S")
        assert refused(server, OTHER_USER, OTHER_SECRET) == "not-authorized"
        await update(town, i_account, bill_status="O")
        with server.log_in(OTHER_USER, OTHER_SECRET) as session:
            await town.do("Account/terminate_account", i_account=i_account)
            assert session.end() == "conflict"
        assert server.users() == set()


async def test_somebody_who_is_barred_stays_out_with_any_password(town, server):
    """A new password in the billing meanwhile lets nobody in, nor does the one before."""
    async with town.served(Ejabberd, options(server)) as handler:
        i_account = await open_account(town)
        info = {"i_account": i_account, "blocked": "Y", "h323_password": OTHER_SECRET}
        town.api("Account/update_account", account_info=info)
        await town.tell()
        for secret in (SECRET, OTHER_SECRET):
            assert refused(server, USER, secret) == "not-authorized"
        # Somebody else has set a password: that is not what we have set.
        server.ask("change_password", user=USER, newpass=OTHER_SECRET)
        assert (await handler.compare(USER, town.context())).fields == ("access",)
        await handler.bring(USER, town.context())
        assert refused(server, USER, OTHER_SECRET) == "not-authorized"
        await update(town, i_account, blocked="N")
        assert welcome(server, USER, OTHER_SECRET)


async def test_a_session_is_ended_even_if_its_user_was_barred_before(town, server):
    """As after an attempt that died between the two: the next one still finds it."""
    async with town.served(Ejabberd, options(server)) as handler:
        await open_account(town)
        with server.log_in(USER, SECRET) as session:
            town.api("Account/update_account", account_info={"i_account": 1, "blocked": "Y"})
            (event,) = town.events("Account/Blocked")
            barring = handler._barring_password(USER, town.context())
            server.ask("change_password", user=USER, newpass=barring)
            assert session.is_served()
            await town.attempt(event)
            assert session.end() == "policy-violation"


async def test_whoever_is_barred_from_the_first_day_gets_in_when_the_bar_ends(town, server):
    async with town.served(Ejabberd, options(server)):
        i_account = await open_account(town, blocked="Y", h323_password=None)
        assert server.users() == {USER}
        await update(town, i_account, h323_password=SECRET)
        await update(town, i_account, blocked="N")
        assert welcome(server, USER, SECRET)


@pytest.mark.parametrize("second_first", [True, False])
async def test_names_that_two_have_exchanged(town, server, second_first):
    """Whichever event comes first."""
    async with town.served(Ejabberd, options(server)):
        first = await open_account(town)
        second = await open_account(town, OTHER_USER, h323_password=OTHER_SECRET)
        for i_account, name in ((first, "3"), (second, USER), (first, OTHER_USER)):
            town.api("Account/update_account", account_info={"i_account": i_account, "id": name})
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        for event in (theirs, mine_again, mine) if second_first else (mine, theirs, mine_again):
            await town.attempt(event)
        assert server.users() == {USER, OTHER_USER}
        assert welcome(server, OTHER_USER, SECRET)
        assert welcome(server, USER, OTHER_SECRET)


async def test_a_server_that_is_away_or_frozen_is_tried_later(town, server):
    """And what was begun is brought to its end when it is there again."""
    async with town.served(Ejabberd, options(server, Timeout=1)):
        i_account = await open_account(town)
        town.api("Account/update_account", account_info={"i_account": i_account, "blocked": "Y"})
        (event,) = town.events("Account/Blocked")
        with server.paused(), pytest.raises(TryLater, match="no answer"):
            await town.attempt(event)
    server.stop()
    async with town.served(Ejabberd, options(server)):
        with pytest.raises(TryLater, match="no connection"):
            await town.attempt(event)
        server.start()
        assert welcome(server, USER, SECRET)
        await town.attempt(event)
        assert refused(server, USER, SECRET) == "not-authorized"


REFUSALS = [
    ({"Password": "wrong"}, Misconfigured, "401"),
    ({"User": f"somebody@{HOST}"}, Misconfigured, "401"),
    ({"Host": "elsewhere.example.org"}, Misconfigured, "Unknown virtual host"),
    ({"URL": "{url}/v9"}, Misconfigured, "Missing command name"),
    ({"URL": "{url}s"}, Misconfigured, "404"),
]


async def test_what_a_refusal_means(town, server):
    info = {"i_customer": town.i_customer, "i_product": town.product("Everything"), "id": USER}
    info |= {"billing_model": 1, "h323_password": SECRET}
    i_account = town.api("Account/add_account", account_info=info)["i_account"]
    (event,) = town.events("Account/New")
    for more, verdict, says in REFUSALS:
        chosen = {name: value.format(url=server.url) for name, value in more.items()}
        async with town.served(Ejabberd, options(server, **chosen)) as handler:
            with pytest.raises(verdict, match=says):
                await town.attempt(event)
            with pytest.raises(Misconfigured):
                await handler.check(town.context())
    server.ask("register", user="clerk", password="clerk")
    clerk = {"User": f"clerk@{HOST}", "Password": "clerk"}
    async with town.served(Ejabberd, options(server, **clerk)):
        with pytest.raises(Misconfigured, match="does not have the right"):
            await town.attempt(event)
    async with town.served(Ejabberd, options(server)):
        for name, says in (("Ada", "small letters"), ("a@b", "cannot be"), ("admin", "Reserved")):
            with pytest.raises(Rejected, match=says):
                await update(town, i_account, id=name)
        with pytest.raises(Rejected, match="no service password"):
            await update(town, i_account, id=USER, h323_password=None)
        with pytest.raises(Rejected, match="unacceptable characters"):
            await update(town, i_account, h323_password="\u200e")


async def test_the_administrator_is_no_subscriber(town, server):
    """Whatever an event or a repair says."""
    async with town.served(Ejabberd, options(server)) as handler:
        await town.attempt(Event(1, 3, RECONCILE, compact({"key": "admin"}), "r"))
        assert "admin" in server.ask("registered_users")
        assert await handler.held_keys(None, town.context()) == ()


async def test_capital_letters_make_no_other_name(town, server):
    """Ejabberd does not tell them apart; what becomes of the second one is not the first's."""
    async with town.served(Ejabberd, options(server)):
        await open_account(town, "ada")
        with pytest.raises(Rejected, match="small letters"):
            await open_account(town, "Ada", h323_password=OTHER_SECRET)
        await update(town, 2, id="grace")
        assert server.users() == {"ada", "grace"}
        assert welcome(server, "ada", SECRET)


async def test_an_audit_sees_all_that_the_server_holds(town, server, monkeypatch):
    monkeypatch.setattr(ejabberd, "_PAGE", 2)
    async with town.served(Ejabberd, options(server)) as handler:
        for number in range(3):
            await open_account(town, f"user-{number}")
        server.ask("register", user="former", password="x")
        context = town.context()
        assert await handler.held_keys(None, context) == ("former", "user-0")
        assert await handler.held_keys("user-0", context) == ("user-1", "user-2")
        assert await handler.held_keys("user-2", context) == ()
        assert (await handler.compare("former", context)).kind == "extra"
        await town.attempt(Event(1, 3, RECONCILE, compact({"key": "former"}), "r"))
        assert server.users() == {"user-0", "user-1", "user-2"}
    async with town.served(Ejabberd, options(server)) as another:
        assert await another.held_keys("user-0", town.context()) == ("user-1", "user-2")


async def test_no_password_is_told(town, server):
    async with town.served(Ejabberd, options(server)) as handler:
        i_account = await open_account(town)
        await update(town, i_account, h323_password=OTHER_SECRET)
        await update(town, i_account, blocked="Y")
        context = town.context()
        exchanges = []
        await update(town, i_account, blocked="N", h323_password=SECRET)
        change = await handler.compare(USER, context)
        exchanges.append(str(context.http.exchange))
        assert change.kind == "same"
        for info in ({"blocked": "Y"}, {"blocked": "N", "h323_password": OTHER_SECRET}):
            town.api("Account/update_account", account_info={"i_account": i_account, **info})
            context = town.context()
            for change in await handler.bring(USER, context):
                exchanges += [str(change.differences(handler.secret_fields))]
            await handler.compare(USER, context)
            exchanges.append(str(context.http.exchange))
        told = "\n".join([*town.journal, *exchanges])
        assert "check_password" in told
        for secret in (SECRET, "cherry", PASSWORD, handler._barring_password(USER, context)):
            assert secret not in told


async def test_in_shadow_mode_nothing_is_sent_and_all_is_told(town, server):
    async with town.served(Ejabberd, options(server) | {"Mode": "shadow"}) as handler:
        await open_account(town)
        assert server.users() == set()
        change = await handler.compare(USER, town.context())
        assert change.kind == "missing"
        assert SECRET not in str(change.differences(handler.secret_fields))


async def test_what_it_says_of_its_server(town, server):
    async with town.served(Ejabberd, options(server)) as handler:
        assert HOST in await handler.check(town.context())


def test_every_option_is_documented_with_its_default():
    assert documented_options("ejabberd.md") == own_options("Ejabberd")


def money(i_account, action, amount):
    return {"i_account": i_account, "action": action, "amount": amount}


async def test_it_keeps_what_handlers_of_its_kind_promise(server):
    def at(host, port):
        return {"Ejabberd.URL": f"http://{host}:{port}/api", "Ejabberd.Timeout": 1}

    await check_desired_state(Ejabberd, options(server), at=at)
