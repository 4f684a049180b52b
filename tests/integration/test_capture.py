"""Capture: what a write to the billing tables leaves in the queue, whoever writes."""

import json
import math
import shutil
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from espf.billing.tables import metadata as billing_tables
from espf.capture import triggers
from espf.capture.rules import parse_rules, shipped_rules
from espf.db.database import Database
from espf.db.sqlite_triggers import SqliteTriggers
from espf.db.tables import event_notifications, event_queue, event_subscriptions
from espf.db.tables import metadata as espf_tables
from espf.db.trigger import Capture, Column, Condition, Constant, Table, TableName, Trigger
from espf.errors import Conflict, RuleError
from espf.model import ordering_key

BASE = """
INSERT INTO Environments (i_env, name) VALUES (3, 'three'), (4, 'four');
INSERT INTO Products (i_product, i_env, name) VALUES (1, 3, 'LTE Product'), (2, 3, 'Other');
INSERT INTO Customers (i_customer, i_env, name, creation_date)
VALUES (7, 3, 'c7', ''), (8, 3, 'c8', '');
INSERT INTO Accounts
  (i_account, i_env, i_customer, i_product, id, billing_model, balance, issue_date)
VALUES (541, 3, 7, 1, '380441234567', -1, 1000000, ''),
  (542, 3, 7, 1, '380441234568', -1, 1000000, '');
"""


def shard(key):
    """Which worker delivers a lane, worked out as the schema says."""
    return 0 if key is None else (7 * ord(key[-2]) + ord(key[-1])) % 16


class Bed:
    """A database file with the tables, the shipped triggers and one handler that hears it all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = Database.open(f"sqlite:///{path}")
        self.dialect = self.database.dialect
        self.rules = shipped_rules()

    def make(self) -> None:
        with self.database.begin() as connection:
            espf_tables.create_all(connection)
            billing_tables.create_all(connection)
        self.sql(BASE)

    def apply(self, rules=None, disabled=()):
        wanted = triggers.compile_rules(self.rules if rules is None else rules, disabled)
        with self.database.begin() as connection:
            return triggers.apply(connection, self.dialect, wanted)

    def subscribe(self, i_env=3, i_event_handler=1, active=1, types=None):
        types = types or sorted({rule.event for rule in self.rules})
        with closing(sqlite3.connect(self.path)) as raw, raw:
            raw.executemany(
                "INSERT INTO Event_Subscriptions VALUES (?, ?, ?, ?)",
                [(i_env, name, i_event_handler, active) for name in types],
            )

    def sql(self, script, *values):
        """Write as a stranger does: the driver as it is, none of our pragmas."""
        with closing(sqlite3.connect(self.path)) as raw, raw:
            if values:
                raw.execute(script, values)
            else:
                raw.executescript(f"BEGIN; {script}; COMMIT")

    def events(self):
        """(type, variables without i_env and event_time) of each event; empties the queue."""
        found = []
        with self.database.begin() as connection:
            rows = connection.execute(event_queue.select().order_by(event_queue.c.i_event)).all()
            sent = connection.execute(
                event_notifications.select().order_by(event_notifications.c.position)
            ).all()
            connection.execute(event_queue.delete())
            connection.execute(event_notifications.delete())
        for row in rows:
            variables = json.loads(row.variables)
            names = list(variables)
            assert (names[0], names[-1]) == ("i_env", "event_time")
            assert variables.pop("i_env") == row.i_env == 3
            moment = datetime.strptime(variables.pop("event_time"), "%Y-%m-%d %H:%M:%S")
            assert moment.replace(tzinfo=UTC) == row.created_at.replace(microsecond=0)
            assert abs(datetime.now(UTC) - row.created_at) < timedelta(minutes=1)
            assert row.ordering_key == ordering_key(variables)
            assert (row.start_time, row.position) == (None, None)
            notified = [each for each in sent if each.i_event == row.i_event]
            assert row.notified == len(notified) > 0
            assert {each.shard for each in notified} == {shard(row.ordering_key)}
            found.append((row.event_type, variables))
        for each in sent:
            assert each.position == each.i_event
            assert (each.status, each.attempts, each.next_attempt_at) == ("queued", 0, None)
            assert each.ordering_key is None
        assert [each.i_event for each in sent if each.i_event_handler == 1] == [
            row.i_event for row in rows
        ]
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files of a bed with tables alone, and of one with all that there is: to be copied."""
    folder = tmp_path_factory.mktemp("beds")
    empty, whole = folder / "empty.db", folder / "whole.db"
    bed = Bed(empty)
    bed.make()
    bed.database.close()
    shutil.copyfile(empty, whole)
    bed = Bed(whole)
    bed.apply()
    bed.subscribe()
    bed.database.close()
    return {"empty": empty, "whole": whole}


def copied(template, folder):
    bed = Bed(shutil.copyfile(template, folder / "espf.db"))
    yield bed
    bed.database.close()


@pytest.fixture
def empty(made, tmp_path):
    yield from copied(made["empty"], tmp_path)


@pytest.fixture
def bed(made, tmp_path):
    yield from copied(made["whole"], tmp_path)


ACCOUNT = {"i_account": 541, "i_customer": 7}
CUSTOMER = {"i_customer": 7}


def plain(*types):
    """Events that carry references only."""
    return [(name, ACCOUNT if name.startswith("Account") else CUSTOMER) for name in types]


def on_account(change):
    return f"UPDATE Accounts SET {change} WHERE i_account = 541"


def on_customer(change):
    return f"UPDATE Customers SET {change} WHERE i_customer = 7"


def balance(prev, curr, of=ACCOUNT):
    name = "Account/BalanceChanged" if "i_account" in of else "Customer/BalanceChanged"
    entity = of.get("i_account", of["i_customer"])
    return name, {**of, "billing_entity_id": entity, "prev_balance": prev, "curr_balance": curr}


def status(prev, curr):
    return "Account/Status/Changed", {**ACCOUNT, "prev_bill_status": prev, "curr_bill_status": curr}


# --- the shipped types ---


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("i_account_role = 3", []),
        ("h323_password = 'secret'", plain("Account/ServicePassword/Changed")),
        ("password = 'secret'", plain("Account/Password/Changed")),
        ("balance = 1234567", [balance(10, 12.34567)]),
        ("balance = 0", [balance(10, 0), *plain("Account/ZeroAvailableFunds")]),
        ("balance = -5", [balance(10, -0.00005), *plain("Account/ZeroAvailableFunds")]),
        ("blocked = 'Y'", plain("Account/Blocked")),
        ("bill_status = 'C'", [status("O", "C"), *plain("Account/Status/Closed")]),
        ("bill_status = 'S'", [status("O", "S"), *plain("Account/Status/Suspended")]),
        ("bill_status = 'I'", [status("O", "I")]),
        # Its funds are the customer's from now on: it has none of its own, so none ran out.
        ("i_account_balance_control_type = 2", []),
        # A credit account without a limit spends freely.
        ("billing_model = 1", []),
        ("billing_model = 1, credit_limit = 1000000", plain("Account/ZeroAvailableFunds")),
        (
            "i_product = 2",
            [("Account/Product/Changed", {**ACCOUNT, "prev_i_product": 1, "curr_i_product": 2})],
        ),
        (
            "id = '99'",
            [("Account/ID/Changed", {**ACCOUNT, "prev_id": "380441234567", "curr_id": "99"})],
        ),
    ],
)
def test_a_change_of_an_account_is_its_events(bed, change, expected):
    bed.sql(on_account(change))
    assert bed.events() == expected
    bed.sql(on_account(change))
    assert bed.events() == []


@pytest.mark.parametrize(
    ("before", "change", "expected"),
    [
        ("blocked = 'Y'", "blocked = 'N'", plain("Account/Unblocked")),
        (
            "balance = 0",
            "balance = 1",
            [balance(0, 0.00001), *plain("Account/AvailableFundsAppear")],
        ),
        (
            "billing_model = 1, credit_limit = 0",
            "credit_limit = NULL",
            plain("Account/AvailableFundsAppear"),
        ),
        ("billing_model = 1, balance = 5", "credit_limit = 6", []),
        ("billing_model = 1, balance = 5", "credit_limit = 5", plain("Account/ZeroAvailableFunds")),
        ("billing_model = 2", "billing_model = -1, balance = 0", [balance(10, 0)]),
        ("bill_status = 'C'", "bill_status = 'O'", [status("C", "O")]),
    ],
)
def test_a_change_back_of_an_account_is_its_events(bed, before, change, expected):
    bed.sql(on_account(before))
    bed.events()
    bed.sql(on_account(change))
    assert bed.events() == expected


@pytest.mark.parametrize(
    "model", ["billing_model = 2", "billing_model = 4", "i_account_balance_control_type = 2"]
)
def test_who_has_no_funds_of_its_own_never_loses_or_gets_them(bed, model):
    bed.sql(on_account(model))
    bed.events()
    for amount in ("0", "-1", "5"):
        bed.sql(on_account(f"balance = {amount}"))
    assert {name for name, _variables in bed.events()} == {"Account/BalanceChanged"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("balance = 5", [balance(0, 0.00005, CUSTOMER)]),
        ("credit_limit = 0", plain("Customer/ZeroAvailableFunds")),
        (
            "credit_limit = 5, balance = 5, blocked = 'Y'",
            [
                balance(0, 0.00005, CUSTOMER),
                *plain("Customer/ZeroAvailableFunds", "Customer/Blocked"),
            ],
        ),
        ("companyname = 'renamed'", []),
    ],
)
def test_a_change_of_a_customer_is_its_events(bed, change, expected):
    bed.sql(on_customer(change))
    assert bed.events() == expected


def test_a_customer_comes_back(bed):
    bed.sql(on_customer("credit_limit = 5, balance = 5, blocked = 'Y'"))
    bed.events()
    bed.sql(on_customer("balance = 4, blocked = 'N'"))
    assert bed.events() == [
        balance(0.00005, 0.00004, CUSTOMER),
        ("Customer/AvailableFundsAppear", CUSTOMER),
        ("Customer/Unblocked", CUSTOMER),
    ]


@pytest.mark.parametrize("model", [-1, 0, 1, 2, 4])
def test_a_new_account_of_any_model_is_one_event(bed, model):
    bed.sql(
        "INSERT INTO Accounts (i_env, i_customer, i_product, id, billing_model, balance, blocked, "
        f"issue_date) VALUES (3, 8, 1, 'new', {model}, 0, 'Y', '')"
    )
    assert bed.events() == [("Account/New", {"i_account": 543, "i_customer": 8})]


def test_one_update_emits_its_events_in_the_order_of_the_rules(bed):
    bed.sql(
        on_account(
            "bill_status = 'C', blocked = 'Y', balance = 0, password = 'p', h323_password = 'h', "
            "i_product = 2, id = 'x'"
        )
    )
    assert [name for name, _variables in bed.events()] == [
        "Account/ID/Changed",
        "Account/Product/Changed",
        "Account/ServicePassword/Changed",
        "Account/Password/Changed",
        "Account/BalanceChanged",
        "Account/ZeroAvailableFunds",
        "Account/Blocked",
        "Account/Status/Changed",
        "Account/Status/Closed",
    ]


def card(account="NULL", number=1):
    return (
        "INSERT INTO SIM_Cards (i_sim_card, i_env, imsi, iccid, i_account) "
        f"VALUES ({number}, 3, '00101000000{number}', '894450000000000000{number}', {account})"
    )


def assignment(account, prev, curr):
    return (
        "Account/SIMCardAssignment",
        {"i_account": account, "prev_i_sim_card": prev, "curr_i_sim_card": curr},
    )


def assigned(bed):
    """The assignments that the accounts hear of; those who keep cards hear of the same."""
    events = bed.events()
    told = [each for each in events if each[0] == "Account/SIMCardAssignment"]
    replaced = [variables for name, variables in events if name == "SIM/Replaced"]
    assert replaced == [variables for _name, variables in told]
    return told


def test_a_sim_card_is_an_event_for_the_account_that_it_leaves_and_the_one_it_comes_to(bed):
    bed.sql(card())
    assert assigned(bed) == []
    bed.sql("UPDATE SIM_Cards SET i_account = 541, status = 'used'")
    assert assigned(bed) == [assignment(541, None, 1)]
    bed.sql("UPDATE SIM_Cards SET status = 'reserved', i_account = 541")
    assert assigned(bed) == []
    bed.sql("UPDATE SIM_Cards SET i_account = 542")
    assert assigned(bed) == [assignment(541, 1, None), assignment(542, None, 1)]
    bed.sql("UPDATE SIM_Cards SET i_account = NULL")
    assert assigned(bed) == [assignment(542, 1, None)]
    bed.sql("DELETE FROM SIM_Cards")
    assert assigned(bed) == []


def test_a_sim_card_made_on_and_removed_from_an_account_is_captured(bed):
    bed.sql(card("541"))
    assert assigned(bed) == [assignment(541, None, 1)]
    bed.sql("DELETE FROM SIM_Cards")
    assert assigned(bed) == [assignment(541, 1, None)]


def test_a_sim_card_that_leaves_its_environment_is_an_event_in_the_one_that_it_leaves(bed):
    bed.sql(card("541"))
    bed.events()
    bed.sql("UPDATE SIM_Cards SET i_env = 4, i_account = NULL")
    assert assigned(bed) == [assignment(541, 1, None)]


def quota(service="netaccess", allocated="NULL", topped_up=0, used=0):
    return (
        "INSERT INTO Service_Quotas (i_env, i_account, i_customer, service, month, allocated, "
        f"topped_up, used) VALUES (3, 541, 7, '{service}', '2026-02', {allocated}, {topped_up}, "
        f"{used})"
    )


EXCEEDED = "Account/Service/Netaccess/QuotaExceeded"
MSG_EXCEEDED = "Account/Service/Msg/QuotaExceeded"
AVAILABLE = "Account/Service/QuotaAvailable"
EXPIRED = "Account/Service/Netaccess/QuotaExpired"


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        # The first authorisation allocates; use at the limit and then above it.
        ([quota(allocated=10), "used = 10", "used = 11", "used = 12"], [EXCEEDED]),
        ([quota(allocated=10, used=11)], [EXCEEDED]),
        ([quota("msg", allocated=10), "used = 11"], [MSG_EXCEEDED]),
        # A top-up that covers the overuse, and one that does not.
        ([quota(allocated=10, used=11), "topped_up = 1"], [EXCEEDED, AVAILABLE]),
        ([quota(allocated=10, used=15), "topped_up = 1"], [EXCEEDED]),
        ([quota("msg", allocated=10, used=11), "topped_up = 9"], [MSG_EXCEEDED, AVAILABLE]),
        # A top-up in a month that is not allocated: with a row of its own, or with a row there.
        ([quota(topped_up=5)], [AVAILABLE]),
        ([quota(), "topped_up = 5"], [AVAILABLE]),
        ([quota(topped_up=5), "allocated = 10"], [AVAILABLE]),
        # A top-up before the quota is used up tells as well, each time.
        ([quota(allocated=10), "topped_up = 5", "topped_up = 6"], [AVAILABLE, AVAILABLE]),
        ([quota(topped_up=5, used=6), "topped_up = 7, used = 8"], [EXCEEDED]),
        # What is counted for a month that is over exceeds nothing any more.
        ([quota(allocated=10), "expired = 'Y'", "used = 11"], [EXPIRED]),
    ],
)
def test_quotas_are_exceeded_and_available_again(bed, statements, expected):
    for statement in statements:
        bed.sql(statement if "INSERT" in statement else f"UPDATE Service_Quotas SET {statement}")
    found = bed.events()
    assert [name for name, _variables in found] == expected
    assert all(
        {**variables, "service": ""} == {**ACCOUNT, "service": ""} for _n, variables in found
    )


# --- who writes, and how ---


def test_a_rolled_back_change_emits_nothing(bed):
    with closing(sqlite3.connect(bed.path)) as raw:
        raw.execute(on_account("blocked = 'Y'"))
        assert raw.execute("SELECT count(*) FROM Event_Queue").fetchone() == (1,)
        raw.rollback()
    with closing(sqlite3.connect(bed.path)) as raw, pytest.raises(sqlite3.IntegrityError), raw:
        raw.execute("UPDATE Accounts SET blocked = CASE i_account WHEN 542 THEN 'X' ELSE 'Y' END")
    assert bed.events() == []


@pytest.mark.parametrize(
    "pragmas",
    [
        "",
        "PRAGMA recursive_triggers = ON; PRAGMA foreign_keys = ON;",
        "PRAGMA count_changes = ON; PRAGMA case_sensitive_like = ON;",
    ],
)
def test_a_change_from_the_shell_is_captured(bed, pragmas):
    shell = shutil.which("sqlite3")
    if shell is None:
        pytest.skip("the sqlite3 shell is not installed")
    done = subprocess.run(
        [shell, "-bail", bed.path],
        input=f"{pragmas} {on_account('blocked = char(89), balance = 0')};",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bed.events() == [
        balance(10, 0),
        ("Account/ZeroAvailableFunds", ACCOUNT),
        ("Account/Blocked", ACCOUNT),
    ]


def test_a_change_through_our_own_connection_is_captured(bed):
    with bed.database.begin() as connection:
        changed = connection.exec_driver_sql(on_account("blocked = 'Y'"))
        assert changed.rowcount == 1
    assert bed.events() == [("Account/Blocked", ACCOUNT)]


def test_an_update_of_many_rows_emits_one_event_for_each_that_qualifies(bed):
    bed.sql("UPDATE Accounts SET blocked = 'Y' WHERE i_account = 542")
    bed.events()
    bed.sql(
        "INSERT INTO Accounts (i_account, i_env, i_customer, i_product, id, billing_model, "
        "issue_date) WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n "
        "WHERE i < 1099) SELECT i, 3, 7, 1, i, -1, '' FROM n"
    )
    assert [variables["i_account"] for _name, variables in bed.events()] == list(range(1000, 1100))
    bed.sql("UPDATE Accounts SET blocked = 'Y'")
    found = bed.events()
    assert {name for name, _variables in found} == {"Account/Blocked"}
    assert [variables["i_account"] for _name, variables in found] == [541, *range(1000, 1100)]


def test_an_upsert_is_captured_as_what_it_did(bed):
    bed.sql(
        "INSERT INTO Accounts (i_env, i_customer, i_product, id, billing_model, issue_date) "
        "VALUES (3, 8, 1, '380441234567', -1, ''), (3, 8, 1, 'new', -1, '') "
        "ON CONFLICT (i_env, id) DO UPDATE SET blocked = 'Y'"
    )
    (blocked, new) = bed.events()
    assert blocked == ("Account/Blocked", ACCOUNT)
    assert new[0] == "Account/New"


def test_a_replaced_row_is_captured_as_a_new_one(bed):
    bed.sql(
        "INSERT OR REPLACE INTO Accounts (i_account, i_env, i_customer, i_product, id, "
        "billing_model, blocked, issue_date) VALUES (541, 3, 7, 1, 'other', -1, 'Y', '')"
    )
    assert bed.events() == [("Account/New", ACCOUNT)]


def test_an_update_that_ignores_conflicts_emits_only_what_it_did(bed):
    bed.sql("UPDATE OR IGNORE Accounts SET blocked = 'Y', id = '380441234568'")
    assert bed.events() == [("Account/Blocked", {"i_account": 542, "i_customer": 7})]


def test_a_change_of_the_primary_key_goes_by_the_new_one(bed):
    bed.sql("UPDATE Accounts SET i_account = 99 WHERE i_account = 541")
    assert bed.events() == []
    bed.sql("UPDATE Accounts SET i_account = 541, blocked = 'Y' WHERE i_account = 99")
    assert bed.events() == [("Account/Blocked", ACCOUNT)]


def test_a_trigger_of_the_billing_itself_that_writes_is_captured_too(bed):
    """Its events and ours must not get mixed up, though one trigger runs within the other."""
    bed.subscribe(i_event_handler=2)
    bed.sql(
        "CREATE TRIGGER own AFTER UPDATE OF blocked ON Accounts BEGIN "
        "UPDATE Customers SET blocked = NEW.blocked WHERE i_customer = NEW.i_customer; "
        "UPDATE Customers SET balance = balance + 5 WHERE i_customer = NEW.i_customer; END"
    )
    bed.sql(on_account("blocked = 'Y', password = 'p'"))
    with bed.database.read() as connection:
        rows = connection.execute(event_notifications.select()).all()
    found = bed.events()
    assert sorted(name for name, _variables in found) == [
        "Account/Blocked",
        "Account/Password/Changed",
        "Customer/BalanceChanged",
        "Customer/Blocked",
    ]
    assert sorted(row.i_event_handler for row in rows) == [1] * 4 + [2] * 4


def test_the_writer_sees_its_own_row_count_and_row_id(bed):
    with closing(sqlite3.connect(bed.path)) as raw, raw:
        assert raw.execute("UPDATE Accounts SET blocked = 'Y'").rowcount == 2
        made = raw.execute(
            "INSERT INTO Accounts (i_env, i_customer, i_product, id, billing_model, issue_date) "
            "VALUES (3, 7, 1, 'new', -1, '')"
        )
        assert made.lastrowid == 543
        assert raw.execute("SELECT changes(), last_insert_rowid()").fetchone() == (1, 543)


# --- who hears it ---


def test_an_event_without_a_subscriber_is_not_stored(empty):
    empty.apply()
    empty.subscribe(types=["Account/Unblocked"])
    empty.sql(on_account("blocked = 'Y'"))
    assert empty.events() == []
    empty.sql(on_account("blocked = 'N'"))
    assert empty.events() == [("Account/Unblocked", ACCOUNT)]


def test_an_inactive_subscription_hears_nothing(empty):
    empty.apply()
    empty.subscribe(active=0)
    empty.sql(on_account("blocked = 'Y'"))
    assert empty.events() == []
    empty.subscribe(i_event_handler=2)
    empty.sql(on_account("blocked = 'N'"))
    with empty.database.read() as connection:
        (sent,) = connection.execute(event_notifications.select()).all()
    assert sent.i_event_handler == 2


def test_a_handler_of_another_environment_is_not_notified(empty):
    empty.apply()
    empty.subscribe(i_env=4, i_event_handler=2)
    empty.sql(on_account("blocked = 'Y'"))
    assert empty.events() == []
    empty.subscribe(i_env=3, i_event_handler=1)
    empty.sql(on_account("blocked = 'N'"))
    with empty.database.read() as connection:
        (sent,) = connection.execute(event_notifications.select()).all()
    assert sent.i_event_handler == 1


def test_each_of_several_subscribers_gets_each_event_under_its_number(bed):
    bed.subscribe(i_event_handler=2)
    bed.subscribe(i_event_handler=3, types=["Account/Blocked"])
    bed.sql(on_account("balance = 0, blocked = 'Y'"))
    with bed.database.read() as connection:
        events = {row.i_event: row.event_type for row in connection.execute(event_queue.select())}
        sent = {
            (row.i_event_handler, events[row.i_event], row.position == row.i_event)
            for row in connection.execute(event_notifications.select())
        }
    assert sent == {
        (handler, name, True)
        for handler in (1, 2, 3)
        for name in ("Account/BalanceChanged", "Account/ZeroAvailableFunds", "Account/Blocked")
        if handler != 3 or name == "Account/Blocked"
    }


def test_what_waits_already_is_not_notified_again(bed):
    bed.sql(on_account("blocked = 'Y'"))
    bed.subscribe(i_event_handler=2)
    bed.sql(on_account("blocked = 'N'"))
    bed.sql(on_account("i_account_role = 3"))
    # Nobody hears this one, though the trigger runs.
    bed.sql("DELETE FROM Event_Subscriptions WHERE event_type = 'Account/Password/Changed'")
    bed.sql(on_account("password = 'p'"))
    with bed.database.read() as connection:
        rows = connection.execute(event_notifications.select()).all()
    assert sorted((row.i_event_handler, row.i_event) for row in rows) == [(1, 1), (1, 2), (2, 2)]


def test_numbers_are_not_used_again_after_the_clean_up(bed):
    bed.sql(on_account("blocked = 'Y'"))
    bed.events()
    with bed.database.begin() as connection:
        assert bed.dialect.next_position(connection) == 2
    bed.sql(on_account("blocked = 'N', balance = 0"))
    with bed.database.read() as connection:
        rows = connection.execute(event_queue.select()).all()
    assert sorted(row.i_event for row in rows) == [3, 4, 5]
    assert len(bed.events()) == 3


@pytest.mark.databases("sqlite")
def test_a_table_may_have_more_rules_than_a_select_has_parts(empty):
    numbers = range(501)
    several = "".join(
        f"""
        [[rule]]
        event = "Custom/N{number}"
        table = "Accounts"
        on = "update"
        changed = ["blocked"]
        variables = ["i_account"]
        """
        for number in numbers
    )
    rules = parse_rules(several, "many.toml")
    empty.apply(rules)
    empty.subscribe(types=[rule.event for rule in rules])
    empty.sql(on_account("blocked = 'Y'"))
    assert [name for name, _variables in empty.events()] == [f"Custom/N{each}" for each in numbers]


# --- plan, apply, verify ---


def names_of(compiled):
    return {each.name for each in compiled}


def names(bed):
    with bed.database.read() as connection:
        return set(bed.dialect.triggers.installed(connection))


def drift(bed, rules=None):
    wanted = triggers.compile_rules(bed.rules if rules is None else rules)
    with bed.database.read() as connection:
        found = triggers.verify(connection, bed.dialect, wanted)
    assert all(each.subject in str(each) for each in found)
    return [(each.kind, each.subject) for each in found]


def test_plan_apply_verify_and_remove_go_round(empty):
    wanted = triggers.compile_rules(empty.rules)
    with empty.database.read() as connection:
        planned = triggers.plan(connection, empty.dialect, wanted)
    tables = {(rule.table, rule.on) for rule in empty.rules}
    assert (len(planned.create), planned.drop, planned.unchanged) == (len(tables), (), ())
    assert names(empty) == set()
    assert {kind for kind, _name in drift(empty)} == {"missing"}

    assert empty.apply() == planned
    assert names(empty) == names_of(planned.create)
    assert drift(empty) == []
    again = empty.apply()
    assert again.is_empty
    assert set(again.unchanged) == names_of(planned.create)

    with empty.database.begin() as connection:
        assert set(triggers.remove(connection, empty.dialect)) == names_of(planned.create)
    assert names(empty) == set()


def test_the_printed_ddl_installs_what_apply_installs(empty):
    with empty.database.read() as connection:
        script = triggers.ddl(connection, empty.dialect, triggers.compile_rules(empty.rules))
    empty.sql(script)
    assert drift(empty) == []
    assert empty.apply().is_empty


def test_a_trigger_is_named_after_its_table_and_operation_and_replaced_when_rules_change(bed):
    before = names(bed)
    assert "espf_Accounts_update" in before
    done = bed.apply(rules=[*bed.rules, *parse_rules(CUSTOM, "test.toml")])
    assert names_of(done.create) == {"espf_Customers_update"}
    assert done.drop == ()
    assert names(bed) == before


def test_a_disabled_type_is_not_captured_until_it_is_enabled(bed):
    bed.sql("INSERT INTO Event_Types VALUES (1, 'Account/Blocked', 0), (2, 'Custom/X', 1)")
    with bed.database.read() as connection:
        disabled = triggers.disabled_types(connection)
    assert disabled == {"Account/Blocked"}
    bed.apply(disabled=disabled)
    bed.sql(on_account("blocked = 'Y'"))
    bed.sql(on_account("blocked = 'N'"))
    assert bed.events() == [("Account/Unblocked", ACCOUNT)]
    bed.apply()
    bed.sql(on_account("blocked = 'Y'"))
    assert bed.events() == [("Account/Blocked", ACCOUNT)]


def test_a_trigger_altered_by_hand_is_found_and_put_right(bed):
    (name,) = (each for each in names(bed) if each.startswith("espf_Customers_update"))
    with bed.database.begin() as connection:
        text = bed.dialect.triggers.installed(connection)[name]
        connection.exec_driver_sql(bed.dialect.triggers.drop(name))
        connection.exec_driver_sql(text.replace("'Y'", "'y'"))
    assert drift(bed) == [("altered", name)]
    done = bed.apply()
    assert (names_of(done.create), done.drop) == ({name}, ())
    assert drift(bed) == []


def test_missing_and_unknown_triggers_are_found_and_strangers_left_alone(bed):
    (name,) = (each for each in names(bed) if each.startswith("espf_Customers_update"))
    stranger = "AFTER DELETE ON Products BEGIN SELECT 1; END"
    bed.sql(f"DROP TRIGGER {name}; CREATE TRIGGER espf_old {stranger}")
    bed.sql(f"CREATE TRIGGER espfield {stranger}")
    assert drift(bed) == [("missing", name), ("unknown", "espf_old")]
    bed.apply()
    assert drift(bed) == []
    with closing(sqlite3.connect(bed.path)) as raw:
        count = raw.execute("SELECT count(*) FROM sqlite_master WHERE name = 'espfield'")
        assert count.fetchone() == (1,)


CUSTOM = """
[[rule]]
event = "Custom/Renamed"
table = "Customers"
on = "update"
changed = ["name"]
variables = ["i_customer"]
"""


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ('["name"]', '["nam"]', "no column 'nam'; Customers has i_customer, i_env, name"),
        ('["i_customer"]', '["i_custom"]', "no column 'i_custom'"),
        ('["i_customer"]', '["i_customer"]\ni_env = "env"', "no column 'env'"),
        ('["i_customer"]', '[]\nkey = { prefix = "a", column = "b" }', "no column 'b'"),
        ('["i_customer"]', '[]\nwhere = [{ column = "c", above = 1 }]', "no column 'c'"),
        ('"Customers"', '"customers"', "Customers: the rules on its update spell its name"),
        ('"Customers"', '"Event_Queue"', "Event_Queue is ESPF's own table; a rule there would"),
        ('"Customers"', '"Clients"', r"the rules on its update do not apply \(Custom/Renamed\)"),
    ],
)
def test_a_rule_that_does_not_fit_the_database_is_refused_and_nothing_changes(
    bed, was, becomes, said
):
    before = names(bed)
    rules = [*bed.rules[1:], *parse_rules(CUSTOM.replace(was, becomes), "test.toml")]
    with pytest.raises(RuleError, match=said):
        bed.apply(rules=rules)
    assert names(bed) == before
    assert "misfit" in {kind for kind, _subject in drift(bed, rules)}
    bed.sql(on_customer("name = 'still writable'"))


def test_an_apply_that_fails_half_way_leaves_the_old_triggers(bed):
    """SQLite refuses too deep an expression, which is seen only when the trigger is created."""
    before = names(bed)
    guards = ", ".join(f'{{ column = "name", in = ["{n}"] }}' for n in range(1001))
    text = f"{CUSTOM}\nwhere = [{guards}]"
    rules = [*bed.rules[1:], *parse_rules(text, "test.toml")]
    wanted = triggers.compile_rules(rules)
    with bed.database.begin() as connection:
        with pytest.raises(RuleError, match="the database refuses the trigger"):
            triggers.apply(connection, bed.dialect, wanted)
        connection.exec_driver_sql(on_account("blocked = 'Y'"))
    assert names(bed) == before
    assert bed.events() == [("Account/Blocked", ACCOUNT)]


def test_without_our_tables_nothing_is_planned_or_created(tmp_path):
    database = Database.open(f"sqlite:///{tmp_path / 'b.db'}")
    with database.begin() as connection:
        billing_tables.create_all(connection)
    wanted = triggers.compile_rules(shipped_rules())
    with database.begin() as connection:
        for refuse in (triggers.plan, triggers.apply, triggers.verify):
            with pytest.raises(Conflict, match=r"no usable table Event_Types; .*evctl init"):
                refuse(connection, database.dialect, wanted)
        with pytest.raises(Conflict, match="evctl init"):
            triggers.disabled_types(connection)
        assert database.dialect.triggers.installed(connection) == {}
    database.close()


def test_a_renamed_column_is_noticed(bed):
    bed.sql("ALTER TABLE Customers RENAME COLUMN blocked TO stopped")
    assert {kind for kind, _subject in drift(bed)} == {"misfit"}


# --- hostile data ---

WEIRD = 'wei"rd Täble; --'
TABLE = 'CREATE TABLE "wei""rd Täble; --" (id INTEGER PRIMARY KEY, "select", "a\'b", i_env)'


def weird_trigger(*captures):
    return Trigger(TableName(WEIRD), "update", ("select",), tuple(captures))


def weird_capture(**changes):
    parts = {
        "event_type": "Custom/It's",
        "conditions": (Condition("changed", ("select",)),),
        "environment": Constant(3),
        "key_prefix": "account",
        "key": Column("select"),
        "variables": (("x", Column("select")), ("it's", Column("a'b", "old"))),
        **changes,
    }
    return Capture(**parts)


#: The tables that a trigger writes to, in memory, for tests with many examples.
TABLES = ";".join(
    str(CreateTable(table).compile(dialect=sqlite.dialect()))
    for table in (event_queue, event_notifications, event_subscriptions)
)


def memory(trigger, *types):
    """A connection with the weird table, our live tables and the trigger."""
    raw = sqlite3.connect(":memory:", isolation_level=None)
    raw.text_factory = lambda text: text.decode(errors="replace")
    raw.executescript(f"{TABLES};{TABLE}")
    for name in types:
        raw.execute("INSERT INTO Event_Subscriptions VALUES (3, ?, 1, 1)", (name,))
    tables = {trigger.table: Table(trigger.table, {})}
    raw.executescript(";".join(SqliteTriggers().render(trigger, tables).statements))
    return raw


def update(raw, old, new, extra=None):
    """Change the row's column "select" and give back what was captured."""
    table = '"wei""rd Täble; --"'
    raw.execute("DELETE FROM Event_Queue")
    raw.execute("DELETE FROM Event_Notifications")
    raw.execute(f"DELETE FROM {table}")
    raw.execute(
        f'INSERT INTO {table} ("select", "a\'b", i_env) VALUES ({old[0]}, ?, 3)', (old[1], extra)
    )
    raw.execute(f'UPDATE {table} SET "select" = {new[0]}', (new[1],))
    rows = raw.execute("SELECT ordering_key, variables FROM Event_Queue").fetchall()
    assert raw.execute("SELECT shard FROM Event_Notifications").fetchall() == [
        (shard(key),) for key, _variables in rows
    ]
    return rows


def strict(text):
    """Read JSON as a receiver does: no NaN, no Infinity, nothing twice."""

    def pairs(members):
        assert len(dict(members)) == len(members)
        return dict(members)

    def refuse(name):
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=pairs)


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        (("?", 5), "account:5", 5),
        (("?", -(2**63)), f"account:{-(2**63)}", -(2**63)),
        (("?", 2**63 - 1), f"account:{2**63 - 1}", 2**63 - 1),
        (("?", 1.5), "account:1.5", 1.5),
        (("?", 1.7976931348623157e308), "account:1.79769313486232e+308", None),
        (("?", math.inf), "account:Inf", None),
        (("?", -math.inf), "account:-Inf", None),
        (("?", math.nan), None, None),
        (("?", b"\xff\x00blob"), None, None),
        (("?", b"41"), None, None),
        (("?", "text"), "account:text", "text"),
        (("?", "Zoë ✓ 😀"), None, "Zoë ✓ 😀"),
        (("?", 'quote " back \\ new\nline \x01'), None, 'quote " back \\ new\nline \x01'),
        (("?", "'; DROP TABLE x; --"), "account:'; DROP TABLE x; --", "'; DROP TABLE x; --"),
        (("?", '{"a":1}'), 'account:{"a":1}', '{"a":1}'),
        (("?", "x" * 4000), "account:" + "x" * 200, "x" * 4000),
        (("?", "é" * 4001), None, "é" * 4000 + "…"),
        (("?", "x" * 3_000_000), "account:" + "x" * 200, "x" * 4000 + "…"),
        (("?", "a\0b" * 9000), "account:a", "a"),
        (("CAST(? AS TEXT)", b"\xff\xfe\xc3"), None, "���"),
        (("CAST(? AS TEXT)", b"ab\xe2\x82"), None, "ab�"),
        (("CAST(? AS TEXT)", b"\xed\xa0\x80"), None, "���"),
        (("?", ""), "account:", ""),
    ],
)  # fmt: skip
def test_no_value_makes_a_write_fail_and_each_gives_valid_json(value, key, expected):
    trigger = weird_trigger(weird_capture())
    with closing(memory(trigger, "Custom/It's")) as raw:
        ((got, text),) = update(raw, ("?", "before"), value, extra=b"blob")
    assert got == key
    variables = strict(text)
    assert list(variables) == ["i_env", "x", "it's", "event_time"]
    assert (variables["i_env"], variables["x"], variables["it's"]) == (3, expected, None)
    assert " " not in text.replace(variables["event_time"], "").replace(
        json.dumps(expected, ensure_ascii=False), ""
    )


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
    st.sampled_from([-1.5, 0.0, 0.5, 2.0]),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["Y", "y", "N", "0", "1"]),
    st.binary(max_size=20),
)


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=20))
@settings(max_examples=100)
def test_any_values_give_valid_json_with_the_same_values(rows):
    columns = {"old": Column("select", "old"), "new": Column("select")}
    columns["m"] = Column("a'b", money=True)
    capture = weird_capture(variables=tuple(columns.items()))
    with closing(memory(weird_trigger(capture), "Custom/It's")) as raw:
        for old, new, amount in rows:
            got = update(raw, ("?", old), ("?", new), extra=amount)
            assert len(got) == (order(old) != order(new))
            for _key, text in got:
                variables = strict(text)
                assert same(variables["old"], old)
                assert same(variables["new"], new)
                money = json.loads(text, parse_float=Decimal, parse_int=Decimal)["m"]
                if isinstance(amount, int):
                    assert money == Decimal(amount) / 100000
                    assert not str(money).endswith(".")
                else:
                    assert money is None


def same(got, value):
    """Whether a variable holds the value, as far as JSON and fifteen digits can."""
    match value:
        case bytes() | None:
            return got is None
        case float():
            if abs(value) > 1e308:
                return got is None
            return math.isclose(got, value, rel_tol=1e-14, abs_tol=1e-300)
        case str():
            return got == value.split("\0")[0]
        case _:
            return got == value


@pytest.mark.parametrize(
    ("stored", "number"),
    [
        (1234567, "12.34567"),
        (-5, "-0.00005"),
        (1000000, "10"),
        (0, "0"),
        (10, "0.0001"),
        (-100000, "-1"),
        (2**63 - 1, "92233720368547.75807"),
        (-(2**63), "-92233720368547.75808"),
        (1.5, "null"),
        ("12", "null"),
        (b"12", "null"),
        (None, "null"),
        (math.inf, "null"),
    ],
)
def test_money_is_a_json_number_digit_by_digit(stored, number):
    capture = weird_capture(variables=(("m", Column("a'b", money=True)),))
    with closing(memory(weird_trigger(capture), "Custom/It's")) as raw:
        ((_key, text),) = update(raw, ("?", 1), ("?", 2), extra=stored)
    assert f'"m":{number},' in text


def test_hostile_values_in_the_billing_tables_do_not_stop_a_write(bed):
    """SQLite keeps what does not fit a column's type as it is."""
    for amount in ("'lots'", "x'ff'", "9e999", "-9223372036854775808", "12.5"):
        bed.sql(on_account(f"balance = {amount}, i_product = {amount}, id = x'ff00'"))
        bed.sql(on_customer(f"balance = {amount}, credit_limit = {amount}"))
    balances = [
        variables["curr_balance"]
        for name, variables in bed.events()
        if name == "Account/BalanceChanged"
    ]
    assert balances == [None, None, None, -92233720368547.75808, None]


def test_an_environment_that_is_no_number_has_no_subscribers():
    capture = weird_capture(environment=Column("select"))
    with closing(memory(weird_trigger(capture), "Custom/It's")) as raw:
        for value in ("abc", b"3", None, math.inf, "3abc", 2.5):
            assert update(raw, ("?", 0), ("?", value)) == []
        for value in (3, 3.0, "3", " 3 "):
            ((_key, text),) = update(raw, ("?", 0), ("?", value))
            assert strict(text)["i_env"] == 3


def test_as_many_variables_as_a_rule_may_have_can_be_written():
    variables = tuple((f"v{n}", Column("a'b", "old")) for n in range(50))
    with closing(memory(weird_trigger(weird_capture(variables=variables)), "Custom/It's")) as raw:
        ((_key, text),) = update(raw, ("?", 0), ("?", 1), extra="x")
    assert len(strict(text)) == 52


@pytest.mark.parametrize("value", ["it's", 'a"b', 5, -1.5, 1e300, -(2**63), True, False, None])
def test_a_constant_arrives_as_it_is(value):
    capture = weird_capture(variables=(("x", Constant(value)),), key=Constant(7))
    with closing(memory(weird_trigger(capture), "Custom/It's")) as raw:
        ((key, text),) = update(raw, ("?", 0), ("?", 1))
    assert key == "account:7"
    got = strict(text)["x"]
    assert (got, type(got)) == (value, type(value))


def test_an_event_without_a_key_is_alone():
    capture = weird_capture(key=Constant(None), key_prefix="")
    with closing(memory(weird_trigger(capture), "Custom/It's")) as raw:
        ((key, _text),) = update(raw, ("?", 0), ("?", 1))
    assert key is None


def test_a_change_of_case_is_a_change_in_a_column_that_ignores_case(empty):
    empty.sql(
        "CREATE TABLE Logins (i_env INT, login TEXT COLLATE NOCASE, flag TEXT COLLATE NOCASE)"
    )
    empty.sql("INSERT INTO Logins VALUES (3, 'ann', 'y')")
    text = CUSTOM.replace("Customers", "Logins").replace("i_customer", "login")
    rules = parse_rules(text.replace('"name"', '"login"'), "test.toml")
    empty.apply(rules=rules)
    empty.subscribe(types=["Custom/Renamed"])
    empty.sql("UPDATE Logins SET login = 'Ann'")
    assert empty.events() == [("Custom/Renamed", {"login": "Ann"})]


# --- the compiler against a model of it ---


def order(value):
    """A value's place in SQLite's order; numbers before text before BLOBs."""
    match value:
        case None:
            return None
        case int() | float():
            return (1, value)
        case str():
            return (2, value.encode())
        case _:
            return (3, value)


def holds(condition, old, new):
    """What a condition means, in Python."""
    was, now, limit = order(old), order(new), order(condition.value)
    here = was if condition.of == "old" else now
    both = was is not None and now is not None
    origin = order(condition.origin)
    return {
        "changed": lambda: was != now,
        "becomes": lambda: now == limit and (was == origin if origin else was != limit),
        "falls_to": lambda: both and was > limit >= now,
        "rises_above": lambda: both and was <= limit < now,
        "is_in": lambda: here is not None and here in map(order, condition.values),
        "above": lambda: here is not None and here > limit,
        "null": lambda: here is None,
        "not_null": lambda: here is not None,
    }[condition.test]()


SCALARS = st.one_of(
    st.integers(-3, 3), st.sampled_from(["Y", "N", "it's", ""]), st.sampled_from([0.5, -1.5])
)
SIDES = st.sampled_from(["old", "new"])
COLUMN = ("select",)
CONDITIONS = st.one_of(
    st.just(Condition("changed", COLUMN)),
    st.builds(Condition, st.just("becomes"), st.just(COLUMN), SCALARS, st.none() | SCALARS).filter(
        lambda condition: condition.value != condition.origin
    ),
    st.builds(
        Condition,
        st.sampled_from(["falls_to", "rises_above", "above"]),
        st.just(COLUMN),
        st.integers(-3, 3) | st.floats(-3, 3),
        of=SIDES,
    ),
    st.builds(
        Condition,
        st.just("is_in"),
        st.just(COLUMN),
        values=st.lists(SCALARS, min_size=1).map(tuple),
        of=SIDES,
    ),
    st.builds(Condition, st.sampled_from(["null", "not_null"]), st.just(COLUMN), of=SIDES),
)
CELLS = st.one_of(
    st.none(),
    SCALARS,
    st.sampled_from([2**63 - 1, -(2**63), 1e300, math.inf, b"", b"Y", "y"]),
    VALUES,
)


@given(
    captures=st.lists(st.lists(CONDITIONS, min_size=1, max_size=3), min_size=1, max_size=4),
    cells=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=30),
)
@settings(max_examples=300)
def test_a_trigger_and_its_conditions_agree(captures, cells):
    compiled = [
        weird_capture(
            event_type=f"Custom/{number}",
            conditions=tuple(conditions),
            variables=(("x", Constant(number)),),
        )
        for number, conditions in enumerate(captures)
    ]
    types = [each.event_type for each in compiled]
    with closing(memory(weird_trigger(*compiled), *types)) as raw:
        for old, new in cells:
            got = [strict(text)["x"] for _key, text in update(raw, ("?", old), ("?", new))]
            expected = [
                number
                for number, conditions in enumerate(captures)
                if order(old) != order(new) and all(holds(each, old, new) for each in conditions)
            ]
            assert got == expected
