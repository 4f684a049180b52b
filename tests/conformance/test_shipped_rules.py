"""The rules that come with ESPF for other people's billing systems, on tables like theirs.

The tables are cut down to the columns that the rules read and a few that they do not.
"""

import threading

import pytest

from billing_site import Site
from espf.capture import measuring, triggers
from espf.capture.rules import shipped_rules

A2BILLING = (
    """
CREATE TABLE cc_card (id BIGINT PRIMARY KEY, username VARCHAR(50) NOT NULL UNIQUE,
  uipass VARCHAR(50), credit DECIMAL(15, 5) NOT NULL DEFAULT 0, tariff INTEGER DEFAULT 0,
  status INTEGER NOT NULL DEFAULT 1, typepaid INTEGER DEFAULT 0, creditlimit INTEGER DEFAULT 0,
  lastname VARCHAR(50))
""",
    """
CREATE TABLE cc_sip_buddies (id INTEGER PRIMARY KEY, id_cc_card INTEGER NOT NULL DEFAULT 0,
  name VARCHAR(80) NOT NULL, secret VARCHAR(80) NOT NULL)
""",
)
ASTPP = (
    """
CREATE TABLE accounts (id INTEGER PRIMARY KEY, number VARCHAR(20) NOT NULL, reseller_id INTEGER,
  pricelist_id INTEGER NOT NULL DEFAULT 0, status SMALLINT NOT NULL DEFAULT 0,
  credit_limit DECIMAL(20, 5) NOT NULL DEFAULT 0, posttoexternal SMALLINT NOT NULL DEFAULT 0,
  balance DECIMAL(20, 5) NOT NULL DEFAULT 0, password VARCHAR(100) NOT NULL DEFAULT '',
  type SMALLINT DEFAULT 0, deleted SMALLINT NOT NULL DEFAULT 0)
""",
    """
CREATE TABLE sip_devices (id INTEGER PRIMARY KEY, username VARCHAR(50) NOT NULL,
  accountid INTEGER NOT NULL DEFAULT 0, dir_params TEXT NOT NULL)
""",
)


@pytest.fixture
def site(database_kind, store):
    site = Site(database_kind, store.empty())
    yield site
    site.close()


def told(site):
    """The events in short: no type says anything about another environment or subscriber."""
    found = site.events()
    assert {key for _event, key, _variables in found} <= {"account:5"}
    return [
        (event, *[value for name, value in variables.items() if name != "i_account"])
        for event, _key, variables in found
    ]


def attach(site, name):
    rules = shipped_rules(name)
    site.apply(rules)
    site.subscribe({rule.event for rule in rules}, i_env=1)


@pytest.mark.databases("mariadb", "postgresql")
def test_a_life_of_an_a2billing_card_is_told(site):
    site.sql(*A2BILLING)
    attach(site, "a2billing")
    site.sql("INSERT INTO cc_card (id, username) VALUES (5, '1234567890')")
    assert told(site) == [("Account/New",)]
    site.sql("UPDATE cc_card SET credit = credit + 12.34567, lastname = 'Lee'")
    assert told(site) == [
        ("Account/BalanceChanged", 5, 0, 12.34567),
        ("Account/AvailableFundsAppear",),
    ]
    site.sql("UPDATE cc_card SET credit = credit - 20, status = 6")
    assert told(site) == [
        ("Account/BalanceChanged", 5, 12.34567, -7.65433),
        ("Account/ZeroAvailableFunds",),
        ("Account/Blocked",),
    ]
    site.sql("UPDATE cc_card SET status = 1, username = '99', tariff = 3, uipass = 'x'")
    assert told(site) == [
        ("Account/ID/Changed", "1234567890", "99"),
        ("Account/Product/Changed", 0, 3),
        ("Account/Password/Changed",),
        ("Account/Unblocked",),
    ]
    site.sql("UPDATE cc_card SET typepaid = 1", "UPDATE cc_card SET credit = 1, status = 5")
    assert told(site) == [("Account/BalanceChanged", 5, -7.65433, 1)]
    site.sql(
        "INSERT INTO cc_sip_buddies VALUES (1, 5, 'a', 's'), (2, 0, 'b', 's')",
        "UPDATE cc_sip_buddies SET secret = 't'",
        "UPDATE cc_card SET status = 0",
    )
    assert told(site) == [("Account/ServicePassword/Changed",), ("Account/Status/Closed",)]


@pytest.mark.databases("mariadb")
def test_a_life_of_an_astpp_customer_is_told_and_of_a_reseller_is_not(site):
    site.sql(*ASTPP)
    attach(site, "astpp")
    site.sql("INSERT INTO accounts (id, number, type) VALUES (5, '47', 0), (6, '48', 1)")
    assert told(site) == [("Account/New",)]
    site.sql("UPDATE accounts SET balance = 0.00001, status = 1")
    assert told(site) == [
        ("Account/BalanceChanged", 5, 0, 0.00001),
        ("Account/AvailableFundsAppear",),
        ("Account/Blocked",),
    ]
    site.sql("UPDATE accounts SET balance = 0, status = 0, number = '50', pricelist_id = 2")
    assert told(site) == [
        ("Account/ID/Changed", "47", "50"),
        ("Account/Product/Changed", 0, 2),
        ("Account/BalanceChanged", 5, 0.00001, 0),
        ("Account/ZeroAvailableFunds",),
        ("Account/Unblocked",),
    ]
    site.sql(
        "INSERT INTO sip_devices VALUES (1, 'a', 5, '{}')",
        "UPDATE sip_devices SET dir_params = 'changed'",
        "UPDATE accounts SET password = 'x', deleted = 1",
    )
    assert told(site) == [
        ("Account/ServicePassword/Changed",),
        ("Account/Password/Changed",),
        ("Account/Status/Closed",),
    ]


@pytest.mark.databases("mariadb")
def test_replacing_a_trigger_leaves_no_write_uncaptured_or_captured_twice(site):
    """Where the DDL is no transaction, each trigger is replaced by one statement."""
    site.sql(*A2BILLING, "INSERT INTO cc_card (id, username) VALUES (5, 'x')")
    rules = shipped_rules("a2billing")
    attach(site, "a2billing")
    done = threading.Event()
    written = []

    def write():
        with site.cursor() as cursor:
            while not done.is_set():
                cursor.execute("UPDATE cc_card SET credit = credit + 1")
                written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            # Each time another trigger, and always one that hears of the credit.
            for chosen in (rules[4:5], rules):
                assert len(triggers_of(site, chosen).create) >= 1
    finally:
        done.set()
        writer.join()
    told_of = [event for event in told(site) if event[0] == "Account/BalanceChanged"]
    assert len(told_of) == len(written) > 0
    assert [event[3] for event in told_of] == list(range(1, len(written) + 1))


def triggers_of(site, rules):
    with site.database.begin() as connection:
        return triggers.apply(connection, site.dialect, triggers.compile_rules(rules))


def test_measuring_says_what_a_write_costs_and_leaves_nothing_behind(site):
    site.sql(*A2BILLING)
    for number in range(1, 21):
        site.sql(f"INSERT INTO cc_card (id, username, credit) VALUES ({number}, 'u{number}', 1)")
    rules = shipped_rules("a2billing")
    site.subscribe({rule.event for rule in rules}, i_env=1)
    with site.database.begin() as connection:
        transaction = connection.get_transaction()
        costs = measuring.measure(connection, site.dialect, triggers.compile_rules(rules))
        undone = connection.get_nested_transaction() or transaction
        undone.rollback()
    by_operation = {(each.table.rpartition(".")[2], each.operation): each for each in costs}
    card = by_operation["cc_card", "update"]
    assert card.reason is None
    assert card.writes == 100
    assert card.plain_us > 0
    assert card.events > 0
    ways = [
        (each.bulk, each.rows)
        for each in costs
        if (each.table, each.operation) == (card.table, "update")
    ]
    assert ways == site.pick(
        postgresql=[(False, 1), (False, 20), (True, 1), (True, 20)], others=[(False, 1)]
    )
    assert by_operation["cc_card", "insert"].events == 100
    assert by_operation["cc_sip_buddies", "update"].reason == "the table has fewer than two rows"
    assert site.installed() == set()
    assert site.events() == []
