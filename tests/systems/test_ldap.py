"""LDAP: what the billing says of a subscriber decides who can log in to a directory."""

import asyncio

import pytest

from espf.errors import Misconfigured, Rejected, TryLater, Unreachable
from espf.handlers.desired import RECONCILE
from espf.model import Event, compact
from espf.systems import ldap_directory
from espf.systems.ldap_client import Refused
from espf.systems.ldap_directory import LDAP
from espf.testing import check_desired_state
from guides import documented_options, own_options
from ldap_server import ADMIN, BARRED, BLIND, FAILURES, GOLD, PASSWORD, PEOPLE, Slapd

USER, OTHER_USER = "380441234567", "380441234568"
SECRET, OTHER_SECRET = "apple-pie-1", "cherry-pie-2"


@pytest.fixture(scope="module")
def slapd():
    with Slapd() as running:
        yield running


@pytest.fixture
def directory(slapd):
    """The server, without subscribers."""
    slapd.empty()
    return slapd


def options(directory, **more):
    return {
        "LDAP.Address": directory.address,
        "LDAP.Port": 1389,
        "LDAP.Security": "none",
        "LDAP.BindDN": ADMIN,
        "LDAP.BindPassword": PASSWORD,
        "LDAP.BaseDN": PEOPLE,
        "LDAP.Timeout": 2,
        "LDAP.Products": "Gold=gold; *=basic",
        "LDAP.Groups": f"Gold={GOLD}",
        **{f"LDAP.{name}": value for name, value in more.items()},
    }


def named(user):
    return f"uid={user},{PEOPLE}"


async def open_account(town, user=USER, **more):
    info = {
        "id": user,
        "i_customer": town.i_customer,
        "i_product": town.product("Gold"),
        "billing_model": -1,
        "opening_balance": 10,
        "firstname": "Ada",
        "lastname": "Lovelace",
        "email": "ada@example.org",
        "h323_password": SECRET,
        **more,
    }
    return (await town.do("Account/add_account", account_info=info))["i_account"]


async def update(town, i_account, **fields):
    info = {"i_account": i_account, **fields}
    await town.do("Account/update_account", account_info=info)


async def test_the_whole_life_of_a_subscriber(town, directory):
    """From the first day to the last, seen by whoever logs in; each event is told twice."""
    async with town.served(LDAP, options(directory)):
        assert not directory.admits(named(USER), SECRET)
        i_account = await open_account(town)
        assert directory.admits(named(USER), SECRET)
        entry = directory.entry(named(USER))
        assert entry["employeeNumber"] == [str(i_account)]
        assert (entry["cn"], entry["sn"]) == (["Ada Lovelace"], ["Lovelace"])
        assert (entry["mail"], entry["employeeType"]) == (["ada@example.org"], ["gold"])
        assert directory.members(GOLD) == {named(USER)}

        await update(town, i_account, blocked="Y")
        assert not directory.admits(named(USER), SECRET)
        # Without funds as well: to be unblocked alone does not help.
        await town.do("Account/make_transaction", **money(i_account, "manual charge", 10))
        await update(town, i_account, blocked="N")
        assert not directory.admits(named(USER), SECRET)
        await town.do("Account/make_transaction", **money(i_account, "manual payment", 5))
        assert directory.admits(named(USER), SECRET)

        await update(town, i_account, id=OTHER_USER)
        assert not directory.admits(named(USER), SECRET)
        assert directory.admits(named(OTHER_USER), SECRET)
        assert directory.entry(named(OTHER_USER))["entryUUID"] == entry["entryUUID"]
        assert directory.members(GOLD) == {named(OTHER_USER)}

        await update(town, i_account, i_product=town.product("Silver"))
        assert directory.entry(named(OTHER_USER))["employeeType"] == ["basic"]
        assert directory.members(GOLD) == set()

        await update(town, i_account, h323_password=OTHER_SECRET)
        assert not directory.admits(named(OTHER_USER), SECRET)
        assert directory.admits(named(OTHER_USER), OTHER_SECRET)

        await update(town, i_account, lastname="King", email="")
        entry = directory.entry(named(OTHER_USER))
        assert (entry["cn"], entry["sn"]) == (["Ada King"], ["King"])
        assert "mail" not in entry

        await update(town, i_account, bill_status="S")
        assert not directory.admits(named(OTHER_USER), OTHER_SECRET)
        await update(town, i_account, bill_status="O")
        assert directory.admits(named(OTHER_USER), OTHER_SECRET)

        await town.do("Account/terminate_account", i_account=i_account)
        assert directory.people() == []
        assert directory.members(GOLD) == set()


async def test_a_password_does_not_unlock_a_locked_entry(town, directory):
    """The directory lifts a lock when a password is set, so it waits until it may."""
    async with town.served(LDAP, options(directory)):
        i_account = await open_account(town)
        await update(town, i_account, blocked="Y")
        changes = len(town.changes)
        await update(town, i_account, h323_password=OTHER_SECRET)
        assert len(town.changes) == changes, "it was unlocked for a moment"
        locked = directory.entry(named(USER))["pwdAccountLockedTime"]
        assert locked == ["000001010000Z"]
        assert not directory.admits(named(USER), OTHER_SECRET)
        assert not directory.admits(named(USER), SECRET)
        await update(town, i_account, blocked="N")
        assert directory.admits(named(USER), OTHER_SECRET)
        assert not directory.admits(named(USER), SECRET)


async def test_whoever_is_barred_from_the_first_day_gets_in_when_the_bar_ends(town, directory):
    async with town.served(LDAP, options(directory)):
        i_account = await open_account(town, blocked="Y")
        assert not directory.admits(named(USER), SECRET)
        await update(town, i_account, blocked="N")
        assert directory.admits(named(USER), SECRET)


async def test_to_compare_a_password_is_no_attack(town, directory):
    """No bind is tried for it: failed ones would lock the subscriber out."""
    async with town.served(LDAP, options(directory)) as handler:
        i_account = await open_account(town)
        town.api(
            "Account/update_account",
            account_info={"i_account": i_account, "h323_password": OTHER_SECRET},
        )
        for _ in range(FAILURES + 1):
            change = await handler.compare(str(i_account), town.context())
            assert change.fields == ("userPassword",)
        assert "pwdFailureTime" not in directory.entry(named(USER))
        assert directory.admits(named(USER), SECRET)


async def test_a_lock_after_failed_logins_is_left_to_the_policy(town, directory):
    async with town.served(LDAP, options(directory)) as handler:
        i_account = await open_account(town)
        # Two failures at the same moment are one to the policy.
        while "pwdAccountLockedTime" not in directory.entry(named(USER)):
            assert not directory.admits(named(USER), "a guess")
        assert not directory.admits(named(USER), SECRET)
        assert await handler.bring(str(i_account), town.context()) == []
        await update(town, i_account, blocked="Y")
        assert directory.entry(named(USER))["pwdAccountLockedTime"] == ["000001010000Z"]


async def test_a_directory_that_does_not_tell_its_hashes(town, directory):
    """It is said what to do about it; and then a digest tells what was set."""
    blind = {"BindDN": BLIND}
    async with town.served(LDAP, options(directory, **blind)):
        with pytest.raises(Misconfigured, match="may not read userPassword"):
            await open_account(town)
    directory.empty()
    async with town.served(LDAP, options(directory, **blind, DigestAttribute="description")):
        i_account = await open_account(town, OTHER_USER)
        assert directory.admits(named(OTHER_USER), SECRET)
        await update(town, i_account, h323_password=OTHER_SECRET)
        assert directory.admits(named(OTHER_USER), OTHER_SECRET)
        (kept,) = directory.entry(named(OTHER_USER))["description"]
        assert kept.startswith("scrypt$")
        await update(town, i_account, blocked="Y")
        await update(town, i_account, blocked="N")
        assert directory.admits(named(OTHER_USER), OTHER_SECRET)


async def test_a_hash_that_cannot_be_compared_is_told(town, directory):
    """Rather than to set the password again and again."""
    async with town.served(LDAP, options(directory)) as handler:
        i_account = await open_account(town)
        with directory.as_root() as root:
            crypt = [("MODIFY_REPLACE", ["{CRYPT}$6$salt$hash"])]
            root.modify(named(USER), {"userPassword": crypt})
        with pytest.raises(Misconfigured, match="hashed in a way that cannot be compared"):
            await handler.bring(str(i_account), town.context())


@pytest.mark.parametrize("second_first", [True, False])
async def test_names_that_two_have_exchanged(town, directory, second_first):
    """Whichever event comes first."""
    async with town.served(LDAP, options(directory)) as handler:
        first = await open_account(town)
        second = await open_account(
            town, OTHER_USER, h323_password=OTHER_SECRET, i_product=town.product("Silver")
        )
        for i_account, name in ((first, "3"), (second, USER), (first, OTHER_USER)):
            town.api("Account/update_account", account_info={"i_account": i_account, "id": name})
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        # Whoever had to make way gets its own name with the event of the other.
        for event in (theirs,) if second_first else (mine, theirs):
            await town.attempt(event)
        for user, secret in ((OTHER_USER, SECRET), (USER, OTHER_SECRET)):
            assert directory.admits(named(user), secret)
        assert directory.members(GOLD) == {named(OTHER_USER)}
        assert sorted(directory.people()) == sorted([named(USER), named(OTHER_USER)])
        for event in (mine_again, mine):
            await town.attempt(event)
        for i_account in (first, second):
            assert (await handler.compare(str(i_account), town.context())).kind == "same"


async def test_a_name_that_is_somebody_elses_is_not_taken(town, directory):
    """An entry without the number of an account was not made here, and is not touched."""
    with directory.as_root() as root:
        root.add(named(USER), "inetOrgPerson", {"cn": "Chief", "sn": "Chief"})
    async with town.served(LDAP, options(directory)):
        with pytest.raises(Rejected, match="is there already"):
            await open_account(town)
    assert directory.entry(named(USER))["cn"] == ["Chief"]


@pytest.mark.parametrize("attribute", ["employeeNumber", ""])
async def test_capital_letters_make_no_other_name(town, directory, attribute):
    """The directory does not tell them apart, so the second account gets no entry."""
    async with town.served(LDAP, options(directory, AccountAttribute=attribute)):
        await open_account(town, "ada")
        with pytest.raises(Rejected if attribute else TryLater):
            await open_account(town, "Ada", h323_password=OTHER_SECRET)
        await town.do("Account/terminate_account", i_account=2)
        assert directory.admits(named("ada"), SECRET)
        assert directory.people() == [named("ada")]


async def test_a_name_means_only_itself(town, directory):
    """Whatever stands in an id, it is neither a part of a name nor of a search."""
    async with town.served(LDAP, options(directory)):
        await open_account(town, "bystander")
        i_account = await open_account(town)
        for user in (
            *("a,b+c", '"<quoted>";=', "back\\slash", "#1", "*)(uid=*", "*", "a/b"),
            "ünï@exämple.org",
        ):
            await update(town, i_account, id=user)
            (dn,) = set(directory.people()) - {named("bystander")}
            assert directory.entry(dn)["uid"] == [user]
            assert directory.admits(dn, SECRET)
            assert dn in directory.members(GOLD)
        await update(town, i_account, blocked="Y")
        assert not directory.admits(dn, SECRET)
        await town.do("Account/terminate_account", i_account=i_account)
        assert directory.people() == [named("bystander")]
        assert directory.members(GOLD) == {named("bystander")}


async def test_entries_that_are_found_by_their_names(town, directory):
    """Without an attribute for the account another name is another entry."""
    async with town.served(LDAP, options(directory, AccountAttribute="")):
        first = await open_account(town)
        second = await open_account(town, OTHER_USER, h323_password=OTHER_SECRET)
        for i_account, name in ((first, "3"), (second, USER), (first, OTHER_USER)):
            await update(town, i_account, id=name)
        assert directory.admits(named(OTHER_USER), SECRET)
        assert directory.admits(named(USER), OTHER_SECRET)
        assert sorted(directory.people()) == sorted([named(USER), named(OTHER_USER)])
        assert directory.members(GOLD) == {named(USER), named(OTHER_USER)}


async def test_other_ways_to_bar(town, directory):
    """An attribute with a value of either kind, and a group."""
    ways = {"BarAttribute": "carLicense", "BarredValue": "no", "FreeValue": "yes"}
    async with town.served(LDAP, options(directory, **ways, BarGroup=BARRED)):
        i_account = await open_account(town)
        assert directory.entry(named(USER))["carLicense"] == ["yes"]
        await update(town, i_account, blocked="Y")
        assert directory.entry(named(USER))["carLicense"] == ["no"]
        assert directory.members(BARRED) == {named(USER)}
        # This does not lock anybody out by itself, so the password must be right all the time.
        await update(town, i_account, h323_password=OTHER_SECRET)
        assert directory.admits(named(USER), OTHER_SECRET)
        await update(town, i_account, id=OTHER_USER)
        assert directory.members(BARRED) == {named(OTHER_USER)}
        await update(town, i_account, blocked="N")
        assert directory.entry(named(OTHER_USER))["carLicense"] == ["yes"]
        assert directory.members(BARRED) == set()


async def test_a_group_must_be_there_and_keep_a_member(town, directory):
    async with town.served(LDAP, options(directory)) as handler:
        i_account = await open_account(town)
        with directory.as_root() as root:
            root.modify(GOLD, {"member": [("MODIFY_DELETE", [GOLD])]})
        with pytest.raises(Misconfigured, match="add one that stays"):
            await update(town, i_account, i_product=town.product("Silver"))
        with directory.as_root() as root:
            root.delete(GOLD)
        with pytest.raises(Misconfigured, match="there is no group"):
            await handler.bring(str(i_account), town.context())
        with pytest.raises(Misconfigured, match="there is no cn=gold"):
            await handler.check(town.context())


async def test_a_server_that_is_away_or_frozen_is_tried_later(town, directory):
    """And what was begun is brought to its end when it is there again."""
    async with town.served(LDAP, options(directory)):
        i_account = await open_account(town)
        town.api("Account/update_account", account_info={"i_account": i_account, "blocked": "Y"})
        (event,) = town.events("Account/*")
        with directory.paused(), pytest.raises(TryLater, match="no answer"):
            await town.attempt(event)
        directory.stop()
        with pytest.raises(Unreachable, match="no connection"):
            await town.attempt(event)
        directory.start()
        await town.attempt(event)
        assert not directory.admits(named(USER), SECRET)
        # Its connections have ended; that costs no attempt.
        directory.stop()
        directory.start()
        await update(town, i_account, blocked="N")
        assert directory.admits(named(USER), SECRET)


async def test_whoever_is_told_to_stop_does_not_wait_for_the_server(town, directory):
    async with town.served(LDAP, options(directory, Timeout=60)) as handler:
        i_account = await open_account(town)
        with directory.paused():
            asking = asyncio.create_task(handler.compare(str(i_account), town.context()))
            await asyncio.sleep(0.05)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(asking, 5)
        assert (await handler.compare(str(i_account), town.context())).kind == "same"


async def test_a_directory_that_may_only_be_read_is_tried_later(town, directory):
    async with town.served(LDAP, options(directory)):
        directory.stop()
        directory.configure("readonly on")
        directory.start()
        try:
            with pytest.raises(TryLater, match="restricted"):
                await open_account(town)
        finally:
            directory.stop()
            directory.configure()
            directory.start()


async def test_what_is_there_already_or_not_there_is_no_fault(town, directory):
    """Somebody else was quicker: it is compared again, and comes to the same."""
    async with town.served(LDAP, options(directory)) as handler:
        i_account = await open_account(town)
        asked, context = handler._directory, town.context()
        names = {"cn": "Ada", "sn": "Lovelace"}
        for code, work in (
            (68, asked.add(named(USER), ["inetOrgPerson"], names, context)),
            (68, asked.rename(GOLD, BARRED.partition(",")[0], context)),
            (32, asked.replace(named("nobody"), {"cn": ["Nobody"]}, context)),
        ):
            with pytest.raises(Refused) as refused:
                await work
            assert refused.value.code == code
            assert isinstance(refused.value.verdict(), TryLater)
        with directory.as_root() as root:
            for how, member, code in (
                ("MODIFY_ADD", named(USER), 20),
                ("MODIFY_DELETE", named("nobody"), 16),
            ):
                root.modify(GOLD, {"member": [(how, [member])]})
                assert root.result["result"] == code
        await asked.join(GOLD, "member", named(USER), context)
        await asked.leave(GOLD, "member", named("nobody"), context)
        await asked.delete(named("nobody"), context)
        assert directory.members(GOLD) == {named(USER)}
        assert await handler.bring(str(i_account), context) == []


async def test_an_entry_that_somebody_else_adds_meanwhile_is_compared_again(
    town, directory, monkeypatch
):
    """It was not there when it was looked for: the event is done in one attempt all the same."""
    async with town.served(LDAP, options(directory)) as handler:
        add = handler._directory.add

        async def late(dn, classes, attributes, context):
            monkeypatch.setattr(handler._directory, "add", add)
            await add(dn, classes, attributes, context)
            await add(dn, classes, attributes, context)

        monkeypatch.setattr(handler._directory, "add", late)
        await open_account(town)
        assert directory.admits(named(USER), SECRET)


REFUSALS = [
    ({"BindPassword": "wrong"}, Misconfigured, "invalidCredentials"),
    ({"BindDN": named("nobody")}, Misconfigured, "invalidCredentials"),
    ({"BindDN": "nobody=1"}, Misconfigured, "invalidDNSyntax"),
    ({"BaseDN": "ou=nowhere,dc=example,dc=org"}, Misconfigured, "there is no ou=nowhere"),
    ({"Attributes": "cn={id}; sn={id}; noSuch={id}"}, Misconfigured, "undefinedAttributeType"),
    ({"Attributes": "cn={id}"}, Rejected, "requires attribute 'sn'"),
    ({"Attributes": "cn={id}; sn={id}; mail=Jürgen"}, Rejected, "invalidAttributeSyntax"),
    ({"Security": "starttls"}, Misconfigured, "CERTIFICATE_VERIFY_FAILED"),
    ({"Security": "ldaps", "Port": 1636}, Misconfigured, "CERTIFICATE_VERIFY_FAILED"),
    ({"Security": "ldaps", "Port": 1389}, Unreachable, "no connection"),
    ({"Security": "starttls", "CAFile": "/nowhere.pem"}, Misconfigured, "cannot read"),
]


async def test_what_a_refusal_means(town, directory):
    info = {"i_customer": town.i_customer, "i_product": town.product("Gold"), "id": USER}
    town.api("Account/add_account", account_info=info | {"billing_model": 1})
    (event,) = town.events("Account/New")
    for more, verdict, says in REFUSALS:
        async with town.served(LDAP, options(directory, **more)):
            with pytest.raises(verdict, match=says):
                await town.attempt(event)


async def test_who_may_not_write_is_told(town, directory):
    """Nobody but the subscriber binds: reading is allowed, writing is not."""
    with directory.as_root() as root:
        attributes = {"cn": "R", "sn": "R", "userPassword": PASSWORD}
        root.add(named("reader"), "inetOrgPerson", attributes)
    async with town.served(LDAP, options(directory, BindDN=named("reader"))):
        with pytest.raises(Misconfigured, match="insufficientAccessRights"):
            await open_account(town)


@pytest.mark.parametrize(("security", "port"), [("starttls", 1389), ("ldaps", 1636)])
async def test_with_tls(town, directory, security, port):
    """A connection serves one request after the other."""
    tls = {"Security": security, "Port": port, "CAFile": str(directory.authority)}
    async with town.served(LDAP, options(directory, **tls)) as handler:
        i_account = await open_account(town)
        assert directory.admits(named(USER), SECRET)
        (before,) = handler._directory._idle
        assert (await handler.compare(str(i_account), town.context())).kind == "same"
        assert handler._directory._idle == [before]
        assert "knows" in await handler.check(town.context())


async def test_an_audit_sees_all_that_the_directory_holds(town, directory, monkeypatch):
    """A page at a time, also after it was cut off; what nobody owns is removed by a repair."""
    monkeypatch.setattr(ldap_directory, "PAGE", 2)
    with directory.as_root() as root:
        for name, number in (("chief", "none"), ("former", "4711"), ("other", None)):
            attributes = {"cn": name, "sn": name} | ({"employeeNumber": number} if number else {})
            root.add(named(name), "inetOrgPerson", attributes)
    async with town.served(LDAP, options(directory)) as handler:
        accounts = [str(await open_account(town, f"user-{number}")) for number in range(5)]
        held = await listed(town, handler)
        assert sorted(held) == sorted([*accounts, "4711"])
        # Another one goes on where this one was.
        async with town.served(LDAP, options(directory)) as another:
            rest = await listed(town, another, held[2])
            assert rest == held[3:]
        async with town.served(LDAP, options(directory)) as another:
            assert (await another.compare("4711", town.context())).kind == "extra"
            await town.attempt(Event(1, 3, RECONCILE, compact({"key": "4711"}), "r"))
            assert directory.entry(named("former")) is None
            assert directory.entry(named("chief")) is not None
            # What was told last is gone: better all again than none.
            assert sorted(await listed(town, another, "4711")) == sorted(accounts)


async def listed(town, handler, after=None):
    found = []
    while keys := await handler.held_keys(after, town.context()):
        found += keys
        after = keys[-1]
    return found


async def test_no_password_is_told(town, directory):
    async with town.served(LDAP, options(directory)) as handler:
        i_account = await open_account(town)
        await update(town, i_account, h323_password=OTHER_SECRET)
        assert town.journal
        for secret in (SECRET, OTHER_SECRET, PASSWORD, "{SSHA}"):
            assert not any(secret in line for line in town.journal)
            assert secret not in str(handler.settings)
        context = town.context()
        change = await handler.compare(str(i_account), context)
        assert {OTHER_SECRET, PASSWORD} <= set(context.secrets)
        assert OTHER_SECRET not in str(change.differences(handler.secret_fields))


async def test_in_shadow_mode_nothing_is_sent_and_all_is_told(town, directory):
    async with town.served(LDAP, options(directory) | {"Mode": "shadow"}) as handler:
        i_account = await open_account(town)
        assert directory.people() == []
        change = await handler.compare(str(i_account), town.context())
        assert change.kind == "missing"
        assert SECRET not in str(change.differences(handler.secret_fields))


async def test_what_it_says_of_its_server(town, directory):
    async with town.served(LDAP, options(directory)) as handler:
        told = await handler.check(town.context())
        assert told.startswith(f"{directory.address}:1389 knows {ADMIN}")


def test_every_option_is_documented_with_its_default():
    assert documented_options("ldap.md") == own_options("LDAP")


def money(i_account, action, amount):
    return {"i_account": i_account, "action": action, "amount": amount}


async def test_it_keeps_what_handlers_of_its_kind_promise(directory):
    def at(host, port):
        return {"LDAP.Address": host, "LDAP.Port": port, "LDAP.Timeout": 1}

    await check_desired_state(LDAP, options(directory), at=at)
