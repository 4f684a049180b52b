"""The reference billing: what its services do to a real database."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import event, insert, select, update

from databases import rows_read, whatever_the_database
from espf.billing import (
    accounts,
    clock,
    customers,
    demo,
    environments,
    payments,
    products,
    quotas,
    sim_cards,
    subscription_fees,
    subscriptions,
)
from espf.billing import tables as t
from espf.billing.scope import Scope
from espf.crypto import Sealer
from espf.db.database import Database
from espf.errors import BillingFault, Conflict, InvalidRequest

NOW = datetime(2026, 2, 20, 10, 0, tzinfo=UTC)
KI = "0123456789ABCDEF0123456789abcdef"


class Billing:
    """Calls the services, each in a transaction of its own, in environment 3."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self.database = database
        self.sealer = sealer
        self.now = NOW
        self.i_env = 3
        self.sees_keys = False

    @contextmanager
    def scope(self) -> Iterator[Scope]:
        with self.database.begin() as connection:
            yield Scope(connection, self.i_env, self.now, self.sealer, self.sees_keys)

    def __call__(self, serve: Any, **params: Any) -> dict[str, Any]:
        model = serve.__annotations__["params"]
        with self.scope() as scope:
            return serve(scope, model.model_validate(params))

    def customer(self, name="Acme", **fields) -> int:
        return self(customers.add, customer_info={"name": name, **fields})["i_customer"]

    def product(self, name="LTE", **quota) -> int:
        amounts = [{"service": s, "monthly_amount": a} for s, a in quota.items()]
        return self(products.add, product_info={"name": name, "quotas": amounts})["i_product"]

    def account(self, id="380441234567", billing_model=-1, **fields) -> int:  # noqa: A002
        info = {"id": id, "billing_model": billing_model, "i_customer": 1, "i_product": 1, **fields}
        return self(accounts.add, account_info=info)["i_account"]

    def update(self, i_account, **fields):
        return self(accounts.update_fields, account_info={"i_account": i_account, **fields})

    def card(self, number=1, **fields) -> int:
        numbers = {"imsi": f"00101000000{number:04d}", "iccid": f"890010100000000{number:04d}"}
        return self(sim_cards.add, card_info={**numbers, **fields})["i_sim_card"]

    def show(self, i_account) -> dict[str, Any]:
        return self(accounts.get_info, i_account=i_account)["account_info"]

    def show_card(self, i_sim_card) -> dict[str, Any]:
        return self(sim_cards.get_info, i_sim_card=i_sim_card)["card_info"]

    def rows(self, table):
        with self.database.read() as connection:
            return connection.execute(select(table).order_by(*table.primary_key)).all()

    @contextmanager
    def statements(self):
        """The write statements that the block sends, spelt alike for every database."""
        sent = []

        def note(_connection, _cursor, statement, *_rest):
            if statement.startswith(("INSERT", "UPDATE", "DELETE")):
                plain = re.sub(r"%\(\w+\)s(::\w+)?", "?", " ".join(statement.split()))
                sent.append(re.sub(r"\b(main|public|billing)\.|[`\"]", "", plain))

        event.listen(self.database._engine, "before_cursor_execute", note)
        try:
            yield sent
        finally:
            event.remove(self.database._engine, "before_cursor_execute", note)


@pytest.fixture
def billing(billing_database, sealer) -> Billing:
    with billing_database.begin() as connection:
        environments.add(connection, 3, "three")
        environments.add(connection, 4, "four")
    billing = Billing(billing_database, sealer)
    billing.customer()
    billing.product(netaccess=1000)
    return billing


def fault_of(call, *args, **kwargs) -> str:
    with pytest.raises(BillingFault) as caught:
        call(*args, **kwargs)
    return caught.value.code


# --- Environments ---


def test_an_environment_is_added_once_and_its_name_belongs_to_one_number(billing):
    with billing.database.begin() as connection:
        environments.add(connection, 3, "renamed")
        with pytest.raises(Conflict):
            environments.add(connection, 5, "four")
    assert [tuple(row) for row in billing.rows(t.environments)] == [(3, "three"), (4, "four")]


def test_what_belongs_to_another_environment_does_not_exist(billing):
    i_account, i_card = billing.account(), billing.card()
    billing.i_env = 4
    assert fault_of(billing.show, i_account) == "Server.Account.not_found"
    assert fault_of(billing, accounts.get_info, id="380441234567") == "Server.Account.not_found"
    assert fault_of(billing.update, i_account, blocked="Y") == "Server.Account.not_found"
    assert fault_of(billing, accounts.terminate, i_account=1) == "Server.Account.not_found"
    assert fault_of(billing.show_card, i_card) == "Server.SIMCard.not_found"
    assert fault_of(billing, sim_cards.release, i_sim_card=1) == "Server.SIMCard.not_found"
    assert fault_of(billing, customers.get_info, i_customer=1) == "Server.Customer.not_found"
    assert fault_of(billing, customers.terminate, i_customer=1) == "Server.Customer.not_found"
    assert fault_of(billing, products.get_info, i_product=1) == "Server.Product.not_found"
    assert fault_of(billing.account) == "Server.Customer.not_found"
    for serve in (quotas.authorise, quotas.record, quotas.top_up):
        more = {} if serve is quotas.authorise else {"amount": 1}
        code = fault_of(billing, serve, i_account=1, service="netaccess", **more)
        assert code == "Server.Account.not_found"
    pay = {"i_account": 1, "action": "Manual payment", "amount": 1}
    assert fault_of(billing, payments.make_transaction, **pay) == "Server.Account.not_found"
    assert billing(accounts.get_list) == {"account_list": []}
    assert billing(customers.get_list) == {"customer_list": []}
    assert billing(products.get_list) == {"product_list": []}
    assert billing(sim_cards.get_list) == {"card_list": []}


def test_an_account_cannot_use_customer_product_or_card_of_another_environment(billing):
    billing.i_env = 4
    other_customer, other_product = billing.customer("Other"), billing.product("Other")
    card = billing.card()
    billing.i_env = 3
    assert fault_of(billing.account, i_customer=other_customer) == "Server.Customer.not_found"
    assert fault_of(billing.account, i_product=other_product) == "Server.Product.not_found"
    assert fault_of(billing.account, i_sim_card=card) == "Server.SIMCard.not_found"
    i_account = billing.account()
    code = fault_of(billing.update, i_account, i_product=other_product)
    assert code == "Server.Product.not_found"
    code = fault_of(billing, sim_cards.assign, i_sim_card=card, i_account=i_account)
    assert code == "Server.SIMCard.not_found"
    assert len(billing.rows(t.accounts)) == 1


# --- Accounts ---


def test_an_account_is_shown_as_it_was_added(billing):
    i_account = billing.account(
        billing_model=1,
        opening_balance=Decimal("12.34567"),
        credit_limit=100,
        phone1="+380441234567",
        password="self-care",
        h323_password="service",
        i_account_role=3,
        expiration_date="2030-01-01",
    )
    info = billing.show(i_account)
    assert info["balance"] == info["opening_balance"] == Decimal("12.34567")
    assert info["available_funds"] == Decimal("87.65433")
    assert info["activation_date"] == info["issue_date"] == date(2026, 2, 20)
    assert info["expiration_date"] == date(2030, 1, 1)
    assert (info["password"], info["h323_password"]) == ("self-care", "service")
    assert (info["bill_status"], info["is_active"], info["blocked"]) == ("O", 1, "N")
    assert (info["customer_name"], info["product_name"]) == ("Acme", "LTE")
    assert billing(accounts.get_info, id="380441234567")["account_info"] == info


def test_an_account_takes_the_time_zone_of_its_customer_unless_it_has_its_own(billing):
    there = billing.customer("East", time_zone_name="Asia/Tokyo")
    billing.now = datetime(2026, 2, 20, 16, 0, tzinfo=UTC)
    inherited = billing.show(billing.account("a", i_customer=there))
    own = billing.show(billing.account("b", i_customer=there, time_zone_name="UTC"))
    assert (inherited["time_zone_name"], inherited["activation_date"]) == (
        "Asia/Tokyo",
        date(2026, 2, 21),
    )
    assert (own["time_zone_name"], own["activation_date"]) == ("UTC", date(2026, 2, 20))


def test_an_id_is_unique_in_its_environment_only(billing):
    i_account = billing.account()
    other = billing.account("other")
    assert fault_of(billing.account) == "Server.Account.duplicate_id"
    assert fault_of(billing.update, other, id="380441234567") == "Server.Account.duplicate_id"
    assert billing.show(other)["id"] == "other"
    billing.i_env = 4
    there = billing.account(i_customer=billing.customer("X"), i_product=billing.product("X"))
    assert there != i_account


def test_a_card_named_by_number_or_imsi_is_linked_with_the_new_account(billing):
    first, second = billing.card(1), billing.card(2, status="reserved")
    i_account = billing.account("111", i_sim_card=first)
    other = billing.account("222", imsi="001010000000002")
    assert billing.show(i_account)["sim_card"] == {
        "i_sim_card": first,
        "imsi": "001010000000001",
        "iccid": "8900101000000000001",
    }
    card = billing.show_card(second)
    assert (card["status"], card["msisdn"], card["i_account"]) == ("used", "222", other)


@whatever_the_database
def test_an_account_whose_card_cannot_be_had_is_not_added(billing):
    card = billing.card()
    billing.account("111", i_sim_card=card)
    assert fault_of(billing.account, "222", i_sim_card=card) == "Server.SIMCard.not_available"
    assert fault_of(billing.account, "222", imsi="999999") == "Server.SIMCard.not_found"
    with pytest.raises(ValidationError, match="at most one"):
        billing.account("222", i_sim_card=card, imsi="001010000000001")
    assert [row.id for row in billing.rows(t.accounts)] == ["111"]


def test_an_update_writes_only_the_columns_that_differ(billing):
    i_account = billing.account(phone1="1", password="old")
    with billing.statements() as sent:
        billing.update(i_account, phone1="1", blocked="N", password="new", activation_date=None)
        billing.update(i_account, activation_date="2026-02-20")
    billing.now = NOW
    with billing.statements() as nothing:
        billing.update(i_account, phone1="1", blocked="N", password="new", bill_status="O")
    assert sent == [
        "UPDATE Accounts SET activation_date=?, password=? WHERE Accounts.i_account = ?",
        "UPDATE Accounts SET activation_date=? WHERE Accounts.i_account = ?",
    ]
    assert nothing == []


def test_a_new_id_is_the_new_msisdn_of_the_card(billing):
    card = billing.card()
    i_account = billing.account("111", i_sim_card=card)
    billing.update(i_account, id="222")
    assert billing.show_card(card)["msisdn"] == "222"


@whatever_the_database
def test_what_cannot_be_changed_is_refused_by_name(billing):
    i_account = billing.account()
    for field, value in {"balance": 5, "billing_model": 1, "i_customer": 1, "i_env": 4}.items():
        with pytest.raises(ValidationError, match=field):
            billing.update(i_account, **{field: value})
    assert billing.show(i_account)["balance"] == 0


def test_dates_decide_whether_an_account_is_open(billing):
    early = billing.account("early", activation_date="2026-02-21")
    past = billing.account("past", activation_date="2025-01-01", expiration_date="2026-02-20")
    assert billing.show(early)["bill_status"] == billing.show(past)["bill_status"] == "I"
    billing.update(early, activation_date="2026-02-20")
    billing.update(past, expiration_date="2026-02-21")
    assert billing.show(early)["bill_status"] == billing.show(past)["bill_status"] == "O"
    billing.update(past, expiration_date="2026-02-19")
    assert (billing.show(past)["bill_status"], billing.show(past)["is_active"]) == ("I", 0)


@whatever_the_database
def test_an_expiration_on_or_before_the_activation_is_refused(billing):
    dates = {"activation_date": "2026-02-20", "expiration_date": "2026-02-20"}
    with pytest.raises(InvalidRequest, match="expiration_date"):
        billing.account(**dates)
    i_account = billing.account()
    with pytest.raises(InvalidRequest, match="expiration_date"):
        billing.update(i_account, expiration_date="2020-01-01")


def test_bill_status_is_set_by_hand_only_to_suspend_and_to_take_that_back(billing):
    i_account = billing.account()
    billing.update(i_account, bill_status="S")
    billing.update(i_account, expiration_date="2026-02-21")
    assert billing.show(i_account)["bill_status"] == "S"
    billing.now = datetime(2026, 2, 22, tzinfo=UTC)
    billing.update(i_account, bill_status="O")
    assert billing.show(i_account)["bill_status"] == "I", "it has expired meanwhile"
    billing.update(i_account, bill_status="I")
    for status in ("C", "I"):
        other = billing.account(f"other {status}".replace(" ", ""))
        with pytest.raises(InvalidRequest, match="bill_status"):
            billing.update(other, bill_status=status)


def test_a_terminated_account_is_closed_for_good_and_its_card_disposed(billing):
    card = billing.card()
    i_account = billing.account(i_sim_card=card)
    assert billing(accounts.terminate, i_account=i_account) == {"success": 1}
    with billing.statements() as sent:
        billing(accounts.terminate, i_account=i_account)
    assert sent == []
    assert billing.show(i_account)["bill_status"] == "C"
    assert billing.show_card(card)["status"] == "disposed"
    assert (billing.show_card(card)["i_account"], billing.show_card(card)["msisdn"]) == (None, None)
    assert fault_of(billing.update, i_account, blocked="Y") == "Server.Account.closed"
    assert fault_of(billing.update, i_account, bill_status="O") == "Server.Account.closed"
    pay = {"i_account": i_account, "action": "Manual payment", "amount": 1}
    assert fault_of(billing, payments.make_transaction, **pay) == "Server.Account.closed"
    fresh = billing.card(2)
    code = fault_of(billing, sim_cards.assign, i_sim_card=fresh, i_account=i_account)
    assert code == "Server.Account.closed"
    top_up = {"i_account": i_account, "service": "netaccess", "amount": 1}
    assert fault_of(billing, quotas.top_up, **top_up) == "Server.Account.closed"


def test_the_number_of_a_closed_account_can_be_made_free(billing):
    i_account = billing.account("111")
    billing(accounts.terminate, i_account=i_account)
    assert fault_of(billing.account, "111") == "Server.Account.duplicate_id"
    billing.update(i_account, id="111-closed")
    billing.account("111")


def test_lists_select_and_page_and_never_show_passwords(billing):
    other = billing.customer("Beta")
    for number in range(5):
        billing.account(f"38044{number}", companyname="A_B", password="x", h323_password="y")
    billing.account("999", billing_model=1, i_customer=other, companyname="AxB")
    billing.account("alias", billing_model=2)
    billing(accounts.terminate, i_account=1)

    def ids(**params):
        return [row["id"] for row in billing(accounts.get_list, **params)["account_list"]]

    assert ids(id="38044%") == [f"38044{n}" for n in range(5)]
    assert ids(id="380441") == ["380441"]
    assert ids(id="%", limit=2, offset=1) == ["380441", "380442"]
    assert ids(i_customer=other) == ids(billing_model=1) == ["999"]
    assert ids(companyname="A_B%") == [f"38044{n}" for n in range(5)], "_ stands for itself"
    assert ids(bill_status="C") == ["380440"]
    assert "380440" not in ids(get_not_closed_accounts=1)
    assert "alias" not in ids(get_only_real_accounts=1)
    assert ids(i_product=77) == []
    for row in billing(accounts.get_list)["account_list"]:
        assert not {"password", "h323_password"} & row.keys()


def test_the_customer_comes_along_when_it_is_asked_for(billing):
    i_account = billing.account()
    assert "customer_info" not in billing(accounts.get_info, i_account=i_account)
    answer = billing(accounts.get_info, i_account=i_account, with_customer_info=1)
    alone = billing(customers.get_info, i_customer=1)["customer_info"]
    assert alone == {**answer["customer_info"], "service_features": []}


# --- Funds ---


@whatever_the_database
@pytest.mark.parametrize(
    ("fields", "funds"),
    [
        ({"billing_model": -1, "opening_balance": 7}, 7),
        ({"billing_model": 0, "opening_balance": 7}, 7),
        ({"billing_model": 1, "opening_balance": 7, "credit_limit": 10}, 3),
        ({"billing_model": 1, "opening_balance": 7}, None),
        ({"billing_model": 2}, None),
        ({"billing_model": 4}, None),
        ({"billing_model": 1, "i_account_balance_control_type": 2}, 50),
    ],
)
def test_available_funds_follow_the_billing_model(billing, fields, funds):
    i_customer = billing.customer("Rich", credit_limit=50)
    i_account = billing.account(i_customer=i_customer, **fields)
    assert billing.show(i_account)["available_funds"] == funds


@whatever_the_database
@pytest.mark.parametrize(
    ("model", "action", "balance"),
    [
        (-1, "Manual payment", "15.10"),
        (-1, "Manual charge", "4.90"),
        (0, "manual payment", "15.10"),
        (1, "Manual payment", "4.90"),
        (1, "MANUAL CHARGE", "15.10"),
    ],
)
def test_a_transaction_moves_the_balance_the_way_the_billing_model_says(
    billing, model, action, balance
):
    i_account = billing.account(billing_model=model, opening_balance=10)
    answer = billing(
        payments.make_transaction,
        i_account=i_account,
        action=action,
        amount=Decimal("5.1"),
        visible_comment="a receipt",
    )
    assert answer == {"transaction_id": 1, "balance": Decimal(balance)}
    assert billing.show(i_account)["balance"] == Decimal(balance)
    assert billing.show(i_account)["opening_balance"] == 10
    (row,) = billing.rows(t.transactions)
    assert (row.i_account, row.i_customer, row.amount) == (i_account, 1, Decimal("5.1"))
    assert row.action == action.capitalize()
    assert (row.visible_comment, row.transaction_time) == ("a receipt", NOW)


def test_a_subordinate_account_moves_the_balance_of_its_customer(billing):
    i_account = billing.account(i_account_balance_control_type=2, opening_balance=3)
    answer = billing(
        payments.make_transaction, i_account=i_account, action="Manual charge", amount=8
    )
    assert answer["balance"] == 8
    assert billing(customers.get_info, i_customer=1)["customer_info"]["balance"] == 8
    assert billing.show(i_account)["balance"] == 3


def test_money_is_exact_to_the_last_place(billing):
    i_account = billing.account()
    for _ in range(10):
        billing(
            payments.make_transaction,
            i_account=i_account,
            action="Manual payment",
            amount=Decimal("0.10001"),
        )
    assert billing.show(i_account)["balance"] == Decimal("1.00010")


def test_a_balance_that_would_get_too_large_is_refused_and_unchanged(billing):
    i_account = billing.account()
    with billing.database.begin() as connection:
        connection.execute(update(t.accounts).values(balance=payments.MAX_BALANCE))
    pay = {"i_account": i_account, "action": "Manual payment", "amount": Decimal("0.00001")}
    code = fault_of(billing, payments.make_transaction, **pay)
    assert code == "Server.Account.balance_out_of_range"
    assert billing.show(i_account)["balance"] == payments.MAX_BALANCE
    assert billing.rows(t.transactions) == []


@whatever_the_database
@pytest.mark.parametrize("amount", [0, -1, Decimal("0.000001"), Decimal(10) ** 11, "NaN", True])
def test_only_a_positive_amount_with_five_places_is_money(billing, amount):
    with pytest.raises(ValidationError):
        billing(
            payments.make_transaction,
            i_account=billing.account(),
            action="Manual payment",
            amount=amount,
        )


@whatever_the_database
def test_an_alias_has_no_balance_to_move(billing):
    i_account = billing.account(billing_model=2)
    pay = {"i_account": i_account, "action": "Manual payment", "amount": 1}
    assert fault_of(billing, payments.make_transaction, **pay) == "Server.Account.has_no_balance"


# --- Customers and products ---


def test_a_customer_is_shown_as_it_was_added_and_changed(billing):
    i_customer = billing.customer("Beta", credit_limit=10, opening_balance=4, email="b@example.net")
    billing(
        customers.update_fields,
        customer_info={"i_customer": i_customer, "blocked": "Y", "bill_status": "S"},
    )
    info = billing(customers.get_info, name="Beta")["customer_info"]
    assert (info["balance"], info["available_funds"], info["credit_exceed"]) == (4, 6, 0)
    assert (info["blocked"], info["bill_status"], info["email"]) == ("Y", "S", "b@example.net")
    assert info["creation_date"] == NOW
    assert billing(customers.get_info, i_customer=1)["customer_info"]["available_funds"] is None


def test_a_customer_update_writes_only_the_columns_that_differ(billing):
    changes = {"i_customer": 1, "blocked": "N", "name": "Acme", "credit_limit": None}
    with billing.statements() as sent:
        billing(customers.update_fields, customer_info=changes)
        billing(customers.update_fields, customer_info={**changes, "credit_limit": 5})
    (statement,) = sent
    assert "SET credit_limit=?" in statement


def test_a_customer_name_is_unique_in_its_environment(billing):
    other = billing.customer("Beta")
    assert fault_of(billing.customer, "Acme") == "Server.Customer.duplicate_name"
    rename = {"i_customer": other, "name": "Acme"}
    code = fault_of(billing, customers.update_fields, customer_info=rename)
    assert code == "Server.Customer.duplicate_name"


def test_a_terminated_customer_takes_its_accounts_along_one_by_one(billing):
    cards = [billing.card(number) for number in (1, 2)]
    for number, card in enumerate(cards):
        billing.account(f"a{number}", i_sim_card=card)
    other = billing.account("other", i_customer=billing.customer("Beta"))
    with billing.statements() as sent:
        billing(customers.terminate, i_customer=1)
    one_account = ["Accounts", "Active_Sessions", "SIM_Cards", "IP_Devices", "DID_Numbers"]
    assert [statement.replace("DELETE FROM", "DELETE").split()[1] for statement in sent] == [
        *one_account,
        *one_account,
        "DID_Numbers",
        "Customers",
    ]
    assert {row.bill_status for row in billing.rows(t.accounts) if row.i_customer == 1} == {"C"}
    assert {row.status for row in billing.rows(t.sim_cards)} == {"disposed"}
    assert billing.show(other)["bill_status"] == "O"
    assert fault_of(billing.account, "late") == "Server.Customer.closed"
    change = {"i_customer": 1, "blocked": "Y"}
    code = fault_of(billing, customers.update_fields, customer_info=change)
    assert code == "Server.Customer.closed"
    with billing.statements() as again:
        billing(customers.terminate, i_customer=1)
    assert again == []


@whatever_the_database
def test_only_termination_closes_a_customer(billing):
    with pytest.raises(InvalidRequest, match="terminate_customer"):
        billing(customers.update_fields, customer_info={"i_customer": 1, "bill_status": "C"})


def test_customers_and_products_are_listed_by_name(billing):
    billing.customer("Beta")
    billing.product("Voice", voice=100, msg=5)

    def names(serve, key, **params):
        return [row["name"] for row in billing(serve, **params)[key]]

    assert names(customers.get_list, "customer_list") == ["Acme", "Beta"]
    assert names(customers.get_list, "customer_list", name="%eta") == ["Beta"]
    assert names(customers.get_list, "customer_list", bill_status="C") == []
    assert names(products.get_list, "product_list", limit=1, offset=1) == ["Voice"]
    assert names(products.get_list, "product_list", name="L%") == ["LTE"]
    assert billing(products.get_info, i_product=2)["product_info"] == {
        "i_product": 2,
        "name": "Voice",
        "description": None,
        "i_vd_plan": None,
        "i_subscription": None,
        "addon_priority": 0,
        "quotas": [
            {"service": "msg", "monthly_amount": 5},
            {"service": "voice", "monthly_amount": 100},
        ],
    }


def test_a_product_has_one_quota_per_service_and_a_name_of_its_own(billing):
    assert fault_of(billing.product, "LTE") == "Server.Product.duplicate_name"
    twice = [{"service": "msg", "monthly_amount": 1}] * 2
    with pytest.raises(InvalidRequest, match="quotas"):
        billing(products.add, product_info={"name": "Twice", "quotas": twice})
    assert len(billing.rows(t.products)) == 1


# --- SIM cards ---


def test_keys_are_sealed_and_shown_only_to_who_may_see_them(billing):
    card = billing.card(ki=KI, opc=KI)
    (row,) = billing.rows(t.sim_cards)
    assert KI not in (row.ki, row.opc)
    assert not {"ki", "opc"} & billing.show_card(card).keys()
    billing.sees_keys = True
    assert billing.show_card(card)["ki"] == billing.show_card(card)["opc"] == KI
    assert billing.show_card(billing.card(2))["ki"] is None
    for shown in billing(sim_cards.get_list)["card_list"]:
        assert not {"ki", "opc"} & shown.keys()


@whatever_the_database
@pytest.mark.parametrize(
    "wrong",
    [
        {"imsi": "12345"},
        {"imsi": "1" * 16},
        {"imsi": "٠١٢٣٤٥٦"},
        {"iccid": "1" * 17},
        {"iccid": "1" * 23},
        {"ki": "0" * 31},
        {"opc": "G" * 32},
        {"status": "used"},
    ],
)
def test_a_card_with_a_wrong_number_or_key_is_refused(billing, wrong):
    with pytest.raises(ValidationError) as caught:
        billing.card(**wrong)
    assert [problem["loc"][-1] for problem in caught.value.errors()] == list(wrong)
    assert billing.rows(t.sim_cards) == []


def test_imsi_and_iccid_are_unique_over_all_environments(billing):
    billing.card(1)
    billing.i_env = 4
    code = fault_of(billing.card, 2, imsi="001010000000001")
    assert code == "Server.SIMCard.duplicate_imsi"
    code = fault_of(billing.card, 2, iccid="8900101000000000001")
    assert code == "Server.SIMCard.duplicate_iccid"


def test_a_swap_releases_the_card_that_the_account_held(billing):
    old, new = billing.card(1), billing.card(2)
    i_account = billing.account("111", i_sim_card=old)
    billing(sim_cards.assign, i_sim_card=new, i_account=i_account)
    assert billing.show_card(old)["status"] == "available"
    assert (billing.show_card(old)["i_account"], billing.show_card(old)["msisdn"]) == (None, None)
    assert billing.show_card(new)["status"] == "used"
    assert billing.show(i_account)["sim_card"]["i_sim_card"] == new


def test_assigning_the_card_that_the_account_holds_changes_nothing(billing):
    card = billing.card()
    i_account = billing.account(i_sim_card=card)
    with billing.statements() as sent:
        billing(sim_cards.assign, i_sim_card=card, i_account=i_account)
    assert sent == []


@whatever_the_database
@pytest.mark.parametrize("status", ["used", "disposed"])
def test_only_an_available_or_reserved_card_can_be_assigned(billing, status):
    card = billing.card()
    i_account = billing.account()
    with billing.database.begin() as connection:
        connection.execute(update(t.sim_cards).values(status=status))
    code = fault_of(billing, sim_cards.assign, i_sim_card=card, i_account=i_account)
    assert code == "Server.SIMCard.not_available"


def test_a_released_card_is_available_again(billing):
    card = billing.card()
    i_account = billing.account(i_sim_card=card)
    billing(sim_cards.release, i_sim_card=card)
    assert billing.show_card(card)["status"] == "available"
    assert billing.show(i_account)["sim_card"] is None
    billing(sim_cards.release, i_sim_card=card)
    billing.account("222", i_sim_card=card)
    assert fault_of(billing, sim_cards.release, i_sim_card=99) == "Server.SIMCard.not_found"


def test_cards_are_found_by_number_status_and_account(billing):
    first, second = billing.card(1), billing.card(2)
    i_account = billing.account(i_sim_card=second)

    def found(**params):
        return [row["i_sim_card"] for row in billing(sim_cards.get_list, **params)["card_list"]]

    assert found() == [first, second]
    assert found(status="available") == found(imsi="%0001") == [first]
    assert found(i_account=i_account) == found(iccid="8900101000000000002") == [second]
    assert found(limit=1, offset=1) == [second]
    assert billing(sim_cards.get_info, imsi="001010000000002") == {
        "card_info": billing.show_card(second)
    }
    with pytest.raises(ValidationError, match="exactly one"):
        billing(sim_cards.get_info)


# --- Usage and quotas ---


class Usage:
    def __init__(self, billing: Billing, i_account: int) -> None:
        self.billing = billing
        self.params = {"i_account": i_account, "service": "netaccess"}

    def authorise(self, **params):
        return self.billing(quotas.authorise, **{**self.params, **params})

    def record(self, amount, **params):
        return self.billing(quotas.record, **{**self.params, "amount": amount, **params})

    def top_up(self, amount, **params):
        return self.billing(quotas.top_up, **{**self.params, "amount": amount, **params})


@pytest.fixture
def usage(billing) -> Usage:
    return Usage(billing, billing.account(opening_balance=10))


def test_the_first_authorisation_of_a_month_allocates_the_quota_once(billing, usage):
    assert billing.rows(t.service_quotas) == []
    assert usage.authorise() == {"authorised": "Y", "remaining": 1000}
    usage.record(100)
    assert usage.authorise() == {"authorised": "Y", "remaining": 900}
    (row,) = billing.rows(t.service_quotas)
    assert (row.month, row.allocated, row.used, row.exceeded) == ("2026-02", 1000, 100, "N")
    assert billing.show(1)["service_quotas"] == [
        {
            "service": "netaccess",
            "month": "2026-02",
            "allocated": 1000,
            "topped_up": 0,
            "used": 100,
            "remaining": 900,
            "exceeded": "N",
        }
    ]


def test_use_above_the_quota_blocks_the_service_until_a_top_up_or_a_new_month(usage):
    usage.authorise()
    assert usage.record(1000) == {"remaining": 0, "exceeded": "N"}
    assert usage.authorise() == {"authorised": "Y", "remaining": 0}
    assert usage.record(1) == {"remaining": 0, "exceeded": "Y"}
    denied = {"authorised": "N", "reason": "quota_exceeded", "remaining": 0}
    assert usage.authorise() == denied
    assert usage.authorise(event_time="2026-02-28 23:59:59") == denied
    assert usage.authorise(event_time="2026-03-01 00:00:00") == {
        "authorised": "Y",
        "remaining": 1000,
    }
    assert usage.top_up(1) == {"remaining": 0, "exceeded": "N"}
    assert usage.authorise()["authorised"] == "Y"


def test_the_month_is_that_of_the_time_stamp_in_the_time_zone_of_the_account(billing):
    i_account = billing.account("ny", opening_balance=1, time_zone_name="America/New_York")
    usage = Usage(billing, i_account)
    usage.authorise(event_time="2026-03-01 04:59:59")
    usage.authorise(event_time="2026-03-01T05:00:00+00:00")
    assert [row.month for row in billing.rows(t.service_quotas)] == ["2026-02", "2026-03"]


@whatever_the_database
@pytest.mark.parametrize(
    ("table", "state", "reason"),
    [
        (t.accounts, {"bill_status": "C"}, "account_closed"),
        (t.accounts, {"bill_status": "S"}, "account_suspended"),
        (t.accounts, {"bill_status": "I"}, "account_inactive"),
        (t.accounts, {"blocked": "Y"}, "account_blocked"),
        (t.customers, {"bill_status": "S"}, "customer_inactive"),
        (t.customers, {"blocked": "Y"}, "customer_blocked"),
        (t.accounts, {"activation_date": date(2026, 2, 21)}, "not_yet_active"),
        (t.accounts, {"expiration_date": date(2026, 2, 20)}, "expired"),
        (t.accounts, {"balance": Decimal(0)}, "no_available_funds"),
        (t.accounts, {"billing_model": 2}, "no_available_funds"),
        (t.product_quotas, {"service": "msg"}, "service_not_included"),
    ],
)
def test_who_may_not_use_the_service_is_refused_with_the_reason(
    billing, usage, table, state, reason
):
    with billing.database.begin() as connection:
        connection.execute(update(table).values(**state))
    assert usage.authorise() == {"authorised": "N", "reason": reason, "remaining": 0}
    assert billing.rows(t.service_quotas) == []


@whatever_the_database
def test_a_subordinate_account_needs_the_funds_of_its_customer(billing):
    poor = billing.customer("Poor", credit_limit=0)
    i_account = billing.account(
        i_customer=poor, i_account_balance_control_type=2, opening_balance=100
    )
    usage = Usage(billing, i_account)
    assert usage.authorise()["reason"] == "no_available_funds"
    billing(customers.update_fields, customer_info={"i_customer": poor, "credit_limit": 1})
    assert usage.authorise()["authorised"] == "Y"


def test_a_wallet_top_up_opens_the_service_without_funds_and_before_the_allocation(billing):
    usage = Usage(billing, billing.account())
    assert usage.authorise()["reason"] == "no_available_funds"
    assert usage.top_up(50) == {"remaining": 50, "exceeded": "N"}
    (row,) = billing.rows(t.service_quotas)
    assert (row.allocated, row.topped_up, row.used) == (None, 50, 0)
    assert usage.authorise() == {"authorised": "Y", "remaining": 50}
    billing(
        payments.make_transaction,
        i_account=usage.params["i_account"],
        action="Manual payment",
        amount=1,
    )
    assert usage.authorise() == {"authorised": "Y", "remaining": 1050}


def test_usage_without_authorisation_counts_and_allocates_where_it_may(billing, usage):
    assert usage.record(10) == {"remaining": 990, "exceeded": "N"}
    poor = Usage(billing, billing.account("poor"))
    assert poor.record(10) == {"remaining": 0, "exceeded": "Y"}
    row = billing.rows(t.service_quotas)[-1]
    assert (row.allocated, row.used, row.exceeded) == (None, 10, "Y")


@whatever_the_database
def test_a_service_that_the_product_lacks_is_refused_unless_the_month_has_a_row(billing, usage):
    for serve in (usage.record, usage.top_up):
        assert fault_of(serve, 1, service="msg") == "Server.Usage.service_not_included"
    usage.authorise()
    billing.update(1, i_product=billing.product("None"))
    assert usage.record(1)["remaining"] == 999
    assert usage.authorise() == {"authorised": "Y", "remaining": 999}


@whatever_the_database
@pytest.mark.parametrize("amount", [0, -1, 1.5, True, 10**16, "many"])
def test_an_amount_is_a_positive_whole_number(usage, amount):
    with pytest.raises(ValidationError):
        usage.record(amount)


@whatever_the_database
@pytest.mark.parametrize(
    "event_time", ["soon", "0001-01-01 00:00:00+14:00", "9999-12-31 23:59:59", 5, "2" * 999]
)
def test_a_time_stamp_out_of_reach_is_refused(usage, event_time):
    with pytest.raises(ValidationError):
        usage.authorise(event_time=event_time)


def test_a_counter_that_would_get_too_large_is_refused(billing, usage):
    usage.authorise()
    with billing.database.begin() as connection:
        connection.execute(update(t.service_quotas).values(used=quotas.MAX_UNITS))
    assert fault_of(usage.record, 1) == "Server.Usage.amount_out_of_range"


# --- The billing clock ---


def tick(billing, now, limit=clock.BATCH) -> clock.Tick:
    with billing.database.begin() as connection:
        return clock.tick(connection, now, limit)


def test_the_clock_opens_and_expires_accounts_on_their_days_and_only_once(billing):
    i_account = billing.account(activation_date="2026-02-21", expiration_date="2026-02-23")

    def after(moment):
        done = tick(billing, datetime.fromisoformat(moment))
        again = tick(billing, datetime.fromisoformat(moment))
        assert (again.activated, again.expired) == (0, 0)
        return (done.activated, done.expired, billing.show(i_account)["bill_status"])

    assert after("2026-02-20T23:59:59Z") == (0, 0, "I")
    assert after("2026-02-21T00:00:00Z") == (1, 0, "O")
    assert after("2026-02-22T23:59:59Z") == (0, 0, "O")
    assert after("2026-02-23T00:00:00Z") == (0, 1, "I")
    assert after("2026-06-01T00:00:00Z") == (0, 0, "I")


def test_the_clock_takes_each_day_where_the_account_is(billing):
    for zone in ("Pacific/Kiritimati", "UTC", "Pacific/Pago_Pago"):
        billing.account(zone, activation_date="2026-03-01", time_zone_name=zone)

    def opened(moment):
        tick(billing, datetime.fromisoformat(moment))
        return [row.id for row in billing.rows(t.accounts) if row.bill_status == "O"]

    assert opened("2026-02-28T09:59:59Z") == []
    assert opened("2026-02-28T10:00:00Z") == ["Pacific/Kiritimati"]
    assert opened("2026-03-01T10:59:59Z") == ["Pacific/Kiritimati", "UTC"]
    assert len(opened("2026-03-01T11:00:00Z")) == 3


def test_the_clock_leaves_suspended_closed_and_undated_accounts_alone(billing):
    for status in ("S", "C", "I", "O"):
        billing.account(status, expiration_date="2026-03-01")
        with billing.database.begin() as connection:
            connection.execute(
                update(t.accounts).where(t.accounts.c.id == status).values(bill_status=status)
            )
    undated = billing.account("undated")
    with billing.database.begin() as connection:
        connection.execute(
            update(t.accounts)
            .where(t.accounts.c.i_account == undated)
            .values(activation_date=None, bill_status="I")
        )
    assert tick(billing, datetime(2026, 3, 2, tzinfo=UTC)) == clock.Tick(0, 1, 0, 0, 0, more=False)
    assert [row.bill_status for row in billing.rows(t.accounts)] == ["S", "C", "I", "I", "I"]


@whatever_the_database
@pytest.mark.parametrize("unknown", ["Nowhere/Atlantis", "Europe", "", "/etc/passwd"])
def test_the_clock_takes_an_unknown_time_zone_as_utc(billing, unknown):
    i_account = billing.account(activation_date="2026-03-01")
    with billing.database.begin() as connection:
        connection.execute(update(t.accounts).values(time_zone_name=unknown))
    assert tick(billing, datetime(2026, 2, 28, 23, 59, tzinfo=UTC)).activated == 0
    assert tick(billing, datetime(2026, 3, 1, tzinfo=UTC)).activated == 1
    assert billing.show(i_account)["bill_status"] == "O"


def test_the_clock_works_in_batches_and_says_when_there_is_more(billing):
    for number in range(5):
        zone = ("UTC", "Asia/Tokyo")[number % 2]
        billing.account(str(number), expiration_date="2026-03-01", time_zone_name=zone)
    now = datetime(2026, 3, 5, tzinfo=UTC)
    done = [tick(billing, now, limit=2) for _ in range(3)]
    assert [(one.expired, one.more) for one in done] == [(2, True), (2, True), (1, False)]


@pytest.mark.databases("sqlite")
def test_the_clock_reads_only_what_is_due_by_the_index(billing):
    seen = []

    def note(_connection, _cursor, statement, parameters, *_rest):
        if statement.startswith("SELECT"):
            seen.append((statement, parameters))

    event.listen(billing.database._engine, "before_cursor_execute", note)
    billing.account(activation_date="2026-03-01", expiration_date="2026-05-01")
    seen.clear()
    tick(billing, datetime(2026, 3, 2, tzinfo=UTC))
    tick(billing, datetime(2026, 5, 2, tzinfo=UTC))
    event.remove(billing.database._engine, "before_cursor_execute", note)
    assert seen
    with billing.database.read() as connection:
        for statement, parameters in seen:
            plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
            assert not [step for step in plan if "SCAN" in step[-1]], (statement, plan)
            if "Account_Addons" not in statement:
                due = ("Accounts_due (bill_status=? AND", "Service_Quotas_due (expired=? AND")
                assert any(index in step[-1] for step in plan for index in due), plan


# --- Many at a time ---


def outcome_beside(billing, first, second):
    """What the second call answers that begins while the first is not committed yet."""
    outcome = []

    def call():
        try:
            outcome.append(billing(second[0], **second[1]))
        except BillingFault as fault:
            outcome.append(fault.code)

    beside = threading.Thread(target=call)
    with billing.scope() as scope:
        serve, params = first
        serve(scope, serve.__annotations__["params"].model_validate(params))
        beside.start()
        # Time to read what is not true any more, and to go wrong.
        beside.join(0.2)
    beside.join()
    return outcome[0]


def test_usage_that_is_counted_at_the_same_time_adds_up(billing):
    used = {"i_account": billing.account(opening_balance=1), "service": "netaccess", "amount": 300}
    billing(quotas.record, **used)
    assert outcome_beside(billing, (quotas.record, used), (quotas.record, used)) == {
        "remaining": 100,
        "exceeded": "N",
    }


def test_a_fee_that_is_charged_at_the_same_time_is_charged_once(billing):
    fee = {"name": "Basic", "monthly_fee": 9}
    billing(subscriptions.add, subscription_info=fee)
    billing(products.update_fields, product_info={"i_product": 1, "i_subscription": 1})
    mine = {"i_account": billing.account(opening_balance=100)}
    billing(subscriptions.activate, **mine)
    charge = (subscription_fees.charge, mine)
    assert outcome_beside(billing, charge, charge) == {"success": 1, "charged": 0}
    assert billing.show(mine["i_account"])["balance"] == 91


def test_usage_of_a_new_month_that_is_counted_at_the_same_time_adds_up(billing):
    used = {"i_account": billing.account(opening_balance=1), "service": "netaccess", "amount": 300}
    answer = outcome_beside(billing, (quotas.record, used), (quotas.record, used))
    assert answer == {"remaining": 400, "exceeded": "N"}


def test_a_card_that_two_want_at_the_same_time_goes_to_one(billing):
    card, mine, other = billing.card(), billing.account("mine"), billing.account("other")
    wanted = [
        (sim_cards.assign, {"i_sim_card": card, "i_account": i_account})
        for i_account in (mine, other)
    ]
    assert outcome_beside(billing, *wanted) == "Server.SIMCard.not_available"
    assert billing.show_card(card)["i_account"] == mine


def test_no_account_comes_to_a_customer_that_is_being_terminated(billing):
    info = {"id": "late", "billing_model": -1, "i_customer": 1, "i_product": 1}
    end, late = (customers.terminate, {"i_customer": 1}), (accounts.add, {"account_info": info})
    assert outcome_beside(billing, end, late) == "Server.Customer.closed"


def test_nobody_changes_or_charges_an_account_that_is_being_terminated(billing):
    for serve, params in (
        (accounts.update_fields, {"account_info": {"blocked": "Y"}}),
        (payments.make_transaction, {"action": "Manual charge", "amount": 1}),
        (quotas.top_up, {"service": "netaccess", "amount": 1}),
    ):
        i_account = billing.account(id=serve.__name__)
        place = params.get("account_info", params)
        place["i_account"] = i_account
        end = (accounts.terminate, {"i_account": i_account})
        assert outcome_beside(billing, end, (serve, params)) == "Server.Account.closed"


def test_payments_at_the_same_time_add_up(billing):
    i_account = billing.account()
    pay = (
        payments.make_transaction,
        {"i_account": i_account, "action": "Manual payment", "amount": 5},
    )
    assert outcome_beside(billing, pay, pay)["balance"] == 10


def test_an_id_that_two_want_at_the_same_time_goes_to_one(billing):
    info = {"id": "wanted", "billing_model": -1, "i_customer": 1, "i_product": 1}
    add = (accounts.add, {"account_info": info})
    assert outcome_beside(billing, add, add) == "Server.Account.duplicate_id"


def test_the_clock_passes_by_who_is_being_changed_and_comes_back(billing):
    i_account = billing.account(expiration_date="2026-03-01")
    change = {"account_info": {"i_account": i_account, "expiration_date": "2026-04-01"}}
    now = datetime(2026, 3, 2, tzinfo=UTC)
    ticked = []
    clock_beside = threading.Thread(target=lambda: ticked.append(tick(billing, now)))
    with billing.scope() as scope:
        accounts.update_fields(scope, accounts.UpdateAccount.model_validate(change))
        clock_beside.start()
        clock_beside.join(0.2)
    clock_beside.join()
    assert ticked[0].expired == 0
    assert billing.show(i_account)["bill_status"] == "O"
    assert tick(billing, datetime(2026, 4, 1, tzinfo=UTC)).expired == 1


# --- Demo data ---


def test_the_demo_data_is_loaded_once(billing):
    def load():
        with billing.database.begin() as connection:
            demo.load(connection, billing.sealer, NOW)

    load()
    tables = (t.environments, t.products, t.product_quotas, t.customers, t.sim_cards)
    before = [billing.rows(table) for table in tables]
    with billing.statements() as sent:
        load()
    assert sent == []
    assert [billing.rows(table) for table in tables] == before
    billing.sees_keys = True
    cards = [billing.show_card(row.i_sim_card) for row in billing.rows(t.sim_cards)]
    assert len(cards) == 10
    assert len({card[key] for card in cards for key in ("ki", "opc")}) == 20
    (product,) = billing(products.get_list, name=demo.PRODUCT)["product_list"]
    assert [quota["service"] for quota in product["quotas"]] == ["netaccess"]
    customer = billing(customers.get_info, name=demo.CUSTOMER)["customer_info"]
    assert customer["available_funds"] == 1000


def test_what_an_audit_asks_costs_the_same_however_many_accounts_there_are(billing):
    costs = []
    for first, last in ((1, 300), (301, 9000)):
        numbers = range(first, last + 1)
        with billing.database.begin() as connection:
            account = {"i_env": 3, "i_customer": 1, "i_product": 1, "billing_model": -1}
            rows = [account | {"i_account": n, "id": f"u{n}", "issue_date": NOW} for n in numbers]
            connection.execute(insert(t.accounts), rows)
            card = {"i_env": 3, "i_customer": 1}
            cards = [
                card | {"i_sim_card": n, "i_account": n, "imsi": f"{n:015}", "iccid": f"{n:020}"}
                for n in numbers
            ]
            connection.execute(insert(t.sim_cards), cards)
        with billing.database.begin() as connection:
            scope = Scope(connection, 3, NOW, billing.sealer, sees_keys=True)
            near_the_end = {"after_i_account": last - 60, "limit": 50}
            asked = (
                partial(accounts.get_list, scope, accounts.ListAccounts(**near_the_end)),
                partial(accounts.get_info, scope, accounts.GetAccount(i_account=last)),
                partial(accounts.get_info, scope, accounts.GetAccount(id=f"u{last}")),
                partial(sim_cards.get_info, scope, sim_cards.GetCard(imsi=f"{last:015}")),
            )
            for work in asked:
                work()
            costs.append([rows_read(connection, work) for work in asked])
    for few, many in zip(*costs, strict=True):
        assert few > 0, "it is asked for something"
        assert many <= few * 1.3 + 20
