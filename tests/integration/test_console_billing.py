"""The console's pages about the reference billing: customers, accounts, products, SIM cards."""

import csv
import io
import re

import pytest
from sqlalchemy import delete, event, update

from billing_api import Api
from console import console
from databases import whatever_the_database
from espf import statuses
from espf.billing.tables import accounts as account_table
from espf.billing.tables import environments
from espf.billing.tables import sim_cards as card_table
from espf.errors import EspfError
from espf.statuses import AccountStatus

NUMBER = "380441234567"
KEY = "0123456789ABCDEF0123456789abcdef"
IMSIS = [f"00101000000000{number}" for number in (1, 2, 3)]
ACCOUNT = {
    "customer": "Acme",
    "id": NUMBER,
    "i_product": "1",
    "billing_model": "1",
    "i_account_balance_control_type": "2",
    "i_account_role": "3",
    "opening_balance": "0",
}

SELECTS = {"i_product", "billing_model"}
WRONG = [
    *(("id", "a b"), ("id", ""), ("i_product", ""), ("i_product", "77"), ("billing_model", "9")),
    *(("activation_date", "2026-02-30"), ("imsi", "12"), ("imsi", "999999999999999")),
    *(("opening_balance", "1e9999"), ("credit_limit", "a lot")),
]

#: Each page with what it may be looked at for; account 1 has card 1.
PAGES = [
    *("customers", "customers/1", "customers/1/accounts", "customers/pick"),
    *("accounts", "accounts/1", "products", "products/1"),
    *("sim-cards", "sim-cards/1", "sim-cards/pick"),
]
FORMS = [
    *("customers/new", "accounts/new", "products/new", "sim-cards/new", "sim-cards/upload"),
    *(f"customers/1/{task}" for task in ("edit", "top-up", "services", "terminate")),
    *(f"accounts/1/{task}" for task in ("edit", "top-up", "product", "sim-card", "passwords")),
    *("accounts/1/services", "accounts/1/terminate", "products/1/edit", "products/1/services"),
    *("sim-cards/1/edit", "sim-cards/2/delete"),
]
SWITCHES = [
    *("customers/1/block", "customers/1/unblock", "accounts/1/block", "accounts/1/unblock"),
    "sim-cards/1/release",
]


class Desk:
    """Somebody at the console in environment 3, and the billing's API to see what is there."""

    def __init__(self, console, sealer):
        self.console = console
        self.database = console.database
        self.api = Api(console.database, sealer)
        self.browser = console.as_("adam")

    def get(self, path, status=200):
        page = self.browser.get(f"/env/3/{path}")
        assert page.status == status, page.text
        return page

    def does(self, path, **form):
        return self.browser.does(f"/env/3/{path}", form)

    def refused(self, path, **form):
        """The page that a form which is refused stands on."""
        page = self.browser.post(f"/env/3/{path}", form)
        assert page.status == 422, page.text
        return page

    def upload(self, text, status=303):
        content = text if isinstance(text, bytes) else text.encode()
        reply = self.console.client.post(
            "/env/3/sim-cards/upload",
            files={"card_list": ("cards.csv", content, "text/csv")},
            headers={
                "Origin": "http://testserver",
                "Cookie": f"espf_session={self.browser.cookies['espf_session']}",
            },
            follow_redirects=False,
        )
        assert reply.status_code == status, reply.text
        found = re.search(
            r'id="field-card_list-error">(.*?)</div>|role="alert">(.*?)</div>',
            reply.text,
            re.DOTALL,
        )
        return found and (found[1] or found[2])

    def csv(self, path):
        return list(csv.DictReader(io.StringIO(self.get(path).html)))

    def audit(self):
        return [(one.action, one.before, one.after) for one in self.console.audit()]

    def card(self, number):
        return self.api("SIMCard/get_card_info", i_sim_card=number)["card_info"]

    def customer(self):
        return self.api("Customer/get_customer_info", i_customer=1)["customer_info"]


@pytest.fixture
def desk(database, sealer):
    with console(database, sealer) as opened:
        desk = Desk(opened, sealer)
        desk.api("Customer/add_customer", customer_info={"name": "Acme", "credit_limit": 100})
        for name in ("LTE", "Voice"):
            desk.api("Product/add_product", product_info={"name": name})
        for imsi in IMSIS:
            card = {"imsi": imsi, "iccid": f"890{imsi}", "ki": KEY, "opc": KEY}
            desk.api("SIMCard/add_sim_card", card_info=card)
        yield desk


@pytest.fixture
def account(desk):
    info = {"imsi": IMSIS[0], "h323_password": "old secret", "password": "older secret"}
    return desk.api.account(NUMBER, i_account_balance_control_type=2, **info)


# Who may do what


@whatever_the_database
def test_every_page_shows_nothing_that_is_secret(desk, account):
    for path in (*PAGES, *FORMS):
        page = desk.get(path)
        assert page.html.count("<h1>") == ("pick" not in path), path
        for secret in (KEY, "old secret", "older secret"):
            assert secret not in page.html, path
    assert desk.api.info(account)["bill_status"] == "O"


@whatever_the_database
def test_who_may_only_read_or_operate_sees_no_buttons_and_changes_nothing(desk, account):
    before = [desk.console.rows(table) for table in (account_table, card_table)]
    for login in ("rita", "olga"):
        desk.browser = desk.console.as_(login)
        for path in PAGES:
            page = desk.get(path)
            assert not set(page.links()) & {f"/env/3/{form}" for form in FORMS}, path
            main = page.html.partition("<main")[2]
            assert 'method="post"' not in main, path
        for path in FORMS:
            assert desk.browser.get(f"/env/3/{path}").status == 403, path
        for path in (*FORMS, *SWITCHES):
            assert desk.browser.post(f"/env/3/{path}", ACCOUNT).status == 403, path
    assert before == [desk.console.rows(table) for table in (account_table, card_table)]
    assert desk.audit() == []


@whatever_the_database
def test_nobody_sees_or_changes_what_belongs_to_another_environment(desk, account):
    desk.browser = desk.console.as_("carl")
    for path in (*PAGES, *FORMS):
        assert desk.browser.get(f"/env/3/{path}").status == 404, path
    for path in (*FORMS, *SWITCHES):
        assert desk.browser.post(f"/env/3/{path}", ACCOUNT).status == 404, path
        if "/1" in path or "/2" in path:
            assert desk.browser.post(f"/env/4/{path}", ACCOUNT).status == 404, path
    for path in ("customers/1", "accounts/1", "products/1", "sim-cards/1", "customers/1/accounts"):
        assert desk.browser.get(f"/env/4/{path}").status == 404, path
    for path in ("customers", "accounts", "products", "sim-cards"):
        assert (
            len(
                list(
                    csv.DictReader(io.StringIO(desk.browser.get(f"/env/4/{path}?format=csv").html))
                )
            )
            == 0
        )
    # A card, a product or a customer of others is none here.
    form = {**ACCOUNT, "imsi": IMSIS[1]}
    desk.console.as_("carl").post(
        "/env/4/customers/new",
        {"name": "Acme", "iso_4217": "USD", "time_zone_name": "UTC", "opening_balance": "0"},
    )
    page = desk.browser.post("/env/4/accounts/new", form)
    assert (page.status, page.error_at("i_product")) == (422, "Product: there is no such record")
    assert desk.api.info(account)["bill_status"] == "O"


@whatever_the_database
def test_beside_another_billing_the_pages_say_that_they_are_not_there(database, sealer):
    with console(database, sealer, billing=False) as opened:
        for path in ("customers", "accounts/1", "products/new", "sim-cards/upload"):
            page = opened.as_("adam").get(f"/env/3/{path}")
            assert page.status == 404
            assert "the reference billing in this database, if there is one" in page.text


@whatever_the_database
def test_an_environment_that_the_billing_does_not_have_has_no_pages_of_it(desk):
    with desk.console.database.begin() as connection:
        connection.execute(delete(environments).where(environments.c.i_env == 4))
    for login, i_env, offered in (("carl", 4, False), ("root", 4, False), ("root", 3, True)):
        browser = desk.console.as_(login)
        page = browser.get(f"/env/{i_env}/dashboard")
        assert (f"/env/{i_env}/accounts" in page.links()) is offered
        assert browser.get(f"/env/{i_env}/accounts").status == (200 if offered else 404)


# Accounts


def test_an_account_is_created_as_the_handbook_says(desk):
    assert "/env/3/customers/1/accounts" in desk.get("customers").links()
    assert "/env/3/accounts/new?customer=1" in desk.get("customers/1/accounts").links()
    form = desk.get("accounts/new?customer=1").html
    assert 'value="Acme"' in form
    assert 'hx-get="/env/3/sim-cards/pick"' in form
    assert re.findall(r'data-fill="(\d+)"', desk.get("sim-cards/pick?q=00101").html) == IMSIS
    page = desk.does("accounts/new", **ACCOUNT, imsi=IMSIS[1], activation_date="2026-01-02")
    for said in (f"The account {NUMBER} is created", "Acme", "Subordinate", "Mobile", IMSIS[1]):
        assert said in page.text
    info = desk.api.info(1)
    assert info["sim_card"]["imsi"] == IMSIS[1]
    expected = {"i_customer": 1, "product_name": "LTE", "billing_model": 1, "bill_status": "O"}
    assert {name: info[name] for name in expected} == expected
    assert f"/env/3/accounts/{info['i_account']}" in desk.get("customers/1/accounts").links()
    assert IMSIS[1] not in desk.get("sim-cards/pick").html
    ((action, before, after),) = desk.audit()
    assert (action, before, after["id"]) == ("account.create", {}, NUMBER)


@whatever_the_database
def test_what_the_api_refuses_stands_beside_the_field_in_the_same_words(desk):
    for field, value in WRONG:
        form = {**ACCOUNT, "activation_date": "2026-01-02", field: value}
        info = {name: text for name, text in form.items() if text and name != "customer"}
        with pytest.raises(EspfError) as refused:
            desk.api("Account/add_account", account_info={**info, "i_customer": 1})
        page = desk.refused("accounts/new", **form)
        said = str(refused.value).removeprefix(f"account_info.{field}: ")
        assert (page.error_at(field), page.html.count("-error")) == (said, 2), field
        # What was typed is kept.
        assert all(f'value="{value}"' in page.html for value in ("Acme", "2026-01-02")) or (
            field == "activation_date"
        )
        assert field in SELECTS or f'value="{value}"' in page.html
    assert desk.console.rows(account_table) == []
    assert desk.audit() == []


@whatever_the_database
def test_every_field_that_is_wrong_is_told_of_at_once(desk):
    page = desk.refused("accounts/new", **{**ACCOUNT, "id": "a b", "imsi": "1", "email": "x" * 300})
    assert all(page.error_at(field) for field in ("id", "imsi", "email"))
    page = desk.refused("accounts/new", **{**ACCOUNT, "customer": "Nobody", "id": "a b"})
    assert page.error_at("customer") == "Customer: there is no such record"
    assert page.error_at("id")
    assert desk.refused("accounts/new", **{**ACCOUNT, "customer": ""}).error_at("customer")


@whatever_the_database
def test_an_id_and_a_card_are_given_once(desk, account):
    page = desk.refused("accounts/new", **ACCOUNT)
    assert page.error_at("id") == f"there is an account with the id '{NUMBER}' already"
    page = desk.refused("accounts/new", **{**ACCOUNT, "id": "2", "imsi": IMSIS[0]})
    assert "is used; only an available" in page.error_at("imsi")
    assert len(desk.console.rows(account_table)) == 1


def test_what_is_done_with_an_account_is_done_and_noted(desk, account):
    here = f"accounts/{account}"
    assert "is blocked" in desk.does(f"{here}/block").text
    assert desk.api.info(account)["blocked"] == "Y"
    assert "is unblocked" in desk.does(f"{here}/unblock").text
    assert "Nothing changed" in desk.does(f"{here}/unblock").text
    desk.does(f"{here}/product", i_product="2")
    desk.does(f"{here}/sim-card", imsi=IMSIS[2])
    payment = {"action": "Manual payment", "amount": "12.5", "visible_comment": "cash"}
    assert "Manual payment of 12.5 is done" in desk.does(f"{here}/top-up", **payment).text
    desk.does(f"{here}/passwords", h323_password="new secret", password="")
    info = desk.api.info(account)
    assert (info["product_name"], info["sim_card"]["imsi"]) == ("Voice", IMSIS[2])
    assert (info["h323_password"], info["password"]) == ("new secret", "older secret")
    assert desk.api.owes() == -12.5
    assert desk.card(1)["status"] == "available"
    noted = [(action, before, after) for action, before, after in reversed(desk.audit())]
    assert noted[0] == ("account.block", {"blocked": "N"}, {"blocked": "Y"})
    assert [action for action, _, _ in noted[1:]] == [
        *("account.unblock", "account.product", "account.sim-card", "account.top-up"),
        "account.passwords",
    ]
    assert noted[-1] == ("account.passwords", {}, {"h323_password": "set"})
    assert noted[-2][2]["amount"] == "12.5"


@whatever_the_database
def test_a_card_is_taken_from_an_account_by_leaving_the_field_empty(desk, account):
    desk.does(f"accounts/{account}/sim-card", imsi="")
    assert desk.api.info(account)["sim_card"] is None
    page = desk.refused(f"accounts/{account}/sim-card", imsi="999999999999999")
    assert page.error_at("imsi") == "SIMCard: there is no such record"


def test_an_account_is_closed_after_a_question_and_for_good(desk, account):
    here = f"accounts/{account}"
    assert "This cannot be undone" in desk.get(f"{here}/terminate").text
    assert desk.api.info(account)["bill_status"] == "O"
    assert f"{NUMBER} is closed" in desk.does(f"{here}/terminate").text
    assert (desk.api.info(account)["bill_status"], desk.card(1)["status"]) == ("C", "disposed")
    assert not {"top-up", "product", "terminate"} & {
        link.rpartition("/")[2] for link in desk.get(here).links()
    }
    page = desk.browser.post(f"/env/3/{here}/block")
    assert (page.status, "the account is closed" in page.text) == (409, True)
    page = desk.refused(f"{here}/top-up", action="Manual payment", amount="1")
    assert "the account is closed" in page.text
    assert "the account is closed" in desk.refused(f"{here}/edit", lastname="Moore").text


@whatever_the_database
def test_an_edit_writes_what_somebody_changed_and_nothing_over_what_others_did(desk, account):
    def opened():
        shown = desk.get("accounts/1/edit").html
        typed = dict(re.findall(r'<input [^>]*?name="([\w:]+)"[^>]*?value="([^"]*)"', shown))
        chosen = re.findall(
            r'<select [^>]*?name="(\w+)".*?<option value="([^"]*)" selected', shown, re.DOTALL
        )
        return typed | dict(chosen)

    form = {**opened(), "lastname": "Moore", "credit_limit": "", "city": ""}
    with desk.database.begin() as connection:
        # Another program, meanwhile; and a value that no page offers.
        values = {"blocked": "Y", "time_zone_name": "Europe/Prague", "i_account_role": 9}
        connection.execute(update(account_table).values(**values))
    desk.does("accounts/1/edit", **form)
    info = desk.api.info(account)
    assert {name: info[name] for name in values} == values
    assert (info["lastname"], info["id"], info["city"]) == ("Moore", NUMBER, None)
    assert opened()["i_account_role"] == "9"
    wrong = {"id": "", "time_zone_name": "Mars", "expiration_date": "1999-1-1"}
    page = desk.refused("accounts/1/edit", **{**opened(), **wrong})
    assert all(page.error_at(field) for field in wrong)
    # What was there when the form was opened is known on, however often it is refused.
    assert 'name="was:time_zone_name" value="Europe/Prague"' in page.html
    page = desk.refused("accounts/1/edit", **{**opened(), "expiration_date": "1999-01-01"})
    assert page.error_at("expiration_date") == "a day after activation_date is expected"


@whatever_the_database
def test_the_page_of_an_account_shows_how_far_provisioning_has_come(desk, account):
    with desk.database.begin() as connection:
        now = desk.database.now(connection)
        failed, ok = AccountStatus.FAILED, AccountStatus.OK
        for group, status, said in (("HSS", failed, "<no route>"), ("PCRF", ok, None)):
            statuses.report(connection, 3, account, group, status, said, now)
    page = desk.get(f"accounts/{account}")
    assert re.search(r"HSS FAILED <no route> \d{4}-\d\d-\d\d .* PCRF OK", page.text)
    assert {f"/env/3/timeline/account%3A{account}", f"/env/3/events?about=account%3A{account}"} <= {
        *page.links()
    }


@whatever_the_database
def test_a_service_feature_is_set_and_its_values_taken_away(desk, account):
    here = f"accounts/{account}/services"
    lines = "number = 12\r\nnumber = 13\r\n\r\nmode = fast"
    desk.does(here, name="clir", flag_value="Y", attributes=lines)
    (feature,) = desk.api("Account/get_service_features", i_account=account)["service_features"]
    values = {one["name"]: one["values"] for one in feature["attributes"]}
    assert (feature["flag_value"], values) == ("Y", {"mode": ["fast"], "number": ["12", "13"]})
    assert "number = 12\nnumber = 13" in desk.get(f"{here}?feature=clir").html
    desk.does(here, name="clir", flag_value="N", attributes="mode = slow")
    (feature,) = desk.api("Account/get_service_features", i_account=account)["service_features"]
    values = {one["name"]: one["values"] for one in feature["attributes"]}
    assert (feature["flag_value"], values) == ("N", {"mode": ["slow"]})
    assert "required" not in re.search("<textarea[^>]*>", desk.get(here).html)[0]
    page = desk.refused(here, name="Clir!", flag_value="Y", attributes="x y = 1")
    assert page.error_at("name")
    assert page.error_at("attributes").startswith("line 1, name: ")
    page = desk.refused(here, name="policy", attributes="access_policy = 5")
    assert page.error_at("attributes") == "AccessPolicy: there is no such record"


# Customers and products


@whatever_the_database
def test_a_customer_is_created_changed_blocked_paid_for_and_closed(desk, account):
    new = {"name": "Emca", "iso_4217": "EUR", "time_zone_name": "UTC", "opening_balance": "0"}
    assert desk.does("customers/new", **new).text.count("The customer Emca is created") == 1
    assert "already" in desk.refused("customers/new", **new).error_at("name")
    wrong = desk.refused("customers/new", **{**new, "name": "", "iso_4217": "euro"})
    assert all(wrong.error_at(field) for field in ("name", "iso_4217"))
    desk.does("customers/1/edit", bill_status="S", credit_limit="50", email="a@b.example")
    desk.does("customers/1/top-up", action="Manual charge", amount="7")
    info = desk.customer()
    shown = [info[name] for name in ("bill_status", "credit_limit", "email", "balance", "name")]
    assert shown == ["S", 50, "a@b.example", 7, "Acme"]
    assert "is blocked" in desk.does("customers/1/block").text
    assert desk.customer()["blocked"] == "Y"
    assert "Acme is closed" in desk.does("customers/1/terminate").text
    assert desk.api.info(account)["bill_status"] == "C"
    # Who is closed may still pay, here as through the API.
    paid = desk.api("Customer/make_transaction", i_customer=1, action="Manual charge", amount=3)
    assert paid["balance"] == 10
    desk.does("customers/1/top-up", action="Manual payment", amount="7")
    assert desk.customer()["balance"] == 3
    page = desk.refused("accounts/new", **{**ACCOUNT, "id": "2"})
    assert page.error_at("customer") == "the customer is closed"
    assert [action for action, _, _ in reversed(desk.audit())] == [
        f"customer.{name}" for name in ("create", "edit", "top-up", "block", "terminate", "top-up")
    ]


@whatever_the_database
def test_a_product_is_created_with_quotas_and_changed(desk):
    quotas = "netaccess 5000000000\nmsg 100\n"
    new = {"name": "Data", "addon_priority": "0", "description": "Much\r\nof it"}
    page = desk.does("products/new", **new, quotas=quotas)
    assert "netaccess 5,000,000,000 bytes" in page.text
    wrong = desk.refused("products/new", **{**new, "name": "Other"}, quotas="msg\nnetaccess some")
    said = wrong.error_at("quotas")
    assert said.startswith("line 1, monthly_amount: ")
    assert "line 2, monthly_amount: " in said
    twice = desk.refused("products/new", **{**new, "name": "Other"}, quotas="msg 1\nmsg 2")
    assert "each service may stand there once" in twice.error_at("quotas")
    desk.does("products/3/edit", description="", addon_priority="20")
    desk.does("products/3/services", name="netaccess_policy", flag_value="Y", attributes="a = 1")
    info = desk.api("Product/get_product_info", i_product=3)["product_info"]
    assert (info["name"], info["description"], info["addon_priority"]) == ("Data", None, 20)
    assert "netaccess_policy on a = 1" in desk.get("products/3").text
    assert "already" in desk.refused("products/3/edit", name="LTE").error_at("name")


# SIM cards


@whatever_the_database
def test_a_card_is_added_changed_released_and_deleted_and_its_keys_are_only_set(desk, account):
    new = {"imsi": "001010000000009", "iccid": "8" * 19, "status": "reserved", "ki": KEY}
    assert "sealed, and never shown" in desk.does("sim-cards/new", **new).text
    sealed = desk.console.rows(card_table, "ki", "opc")
    desk.does("sim-cards/4/edit", description="drawer 3", opc=KEY, ki="")
    after = desk.console.rows(card_table, "ki", "opc")
    assert after[:3] == sealed[:3]
    assert (after[3][0], after[3][1] is None) == (sealed[3][0], False)
    page = desk.refused("sim-cards/4/edit", ki="zz", iccid="1")
    assert all(page.error_at(field) for field in ("ki", "iccid"))
    assert "zz" not in page.html.partition("<main")[2].replace("Puzzle", "")
    assert "already" in desk.refused("sim-cards/4/edit", imsi=IMSIS[0]).error_at("imsi")
    assert "is available" in desk.does("sim-cards/1/release").text
    assert desk.api.info(account)["sim_card"] is None
    assert "is deleted" in desk.does("sim-cards/4/delete").text
    assert desk.get("sim-cards/4", 404)
    actions = [(action, after) for action, _, after in reversed(desk.audit())]
    assert [action.partition(".")[2] for action, _ in actions] == [
        *("create", "edit", "release", "delete")
    ]
    assert KEY not in str(actions)
    assert actions[1][1] == {"description": "drawer 3", "opc": "set"}


def test_a_file_of_cards_is_taken_as_a_whole_or_not_at_all(desk, account):
    head = "imsi,iccid,ki,opc,description,action\r\n"
    good = f'{head}001010000000007,{"7" * 19},{KEY},{KEY},"a, b",+\r\n{IMSIS[2]},,,,,-\r\n'
    assert desk.upload("\ufeff" + good) is None
    cards = {row["imsi"]: row for row in desk.csv("sim-cards?format=csv")}
    assert cards.keys() == {IMSIS[0], IMSIS[1], "001010000000007"}
    assert cards["001010000000007"]["description"] == "a, b"
    assert desk.audit()[0] == ("sim-card.upload", {}, {"added": 1, "removed": 1})
    for text, said in (
        (f"{head}001010000000008,{'8' * 19},,,,\n12,1,zz,,,\n", "line 3, imsi: "),
        (f"{head}001010000000008,{'8' * 19},,,,\n{IMSIS[0]},,,,,-\n", f"{IMSIS[0]}: an account"),
        (f"{head}001010000000008,{'8' * 19},,,,\n{IMSIS[1]},{'9' * 19},,,,\n", IMSIS[1]),
        ("imsi,iccid,colour\n001010000000008,8888888888888888888,red\n", "line 2, colour: "),
        (f"{head}001010000000008,{'8' * 19},,,,,more\n", "more than there are columns"),
        (head, "at least 1 item"),
        ("", "at least 1 item"),
        (b"\xff\xfe", "no text in UTF-8"),
        (head + "x" * 300_000, "larger than"),
    ):
        refused = desk.upload(text, 422)
        assert refused
        assert said in refused, text
    assert len(desk.console.rows(card_table)) == 3
    assert len(desk.audit()) == 1


# Lists


def walked(desk, path):
    """All that a list shows, page by page to its end and back; the two ways must agree."""
    there, back = [], []
    address = f"/env/3/{path}"
    while address:
        page = desk.browser.get(address)
        assert page.status == 200, page.text
        there.append(listed(page))
        last, address = address, neighbour(page, "next")
    address = last
    while address:
        page = desk.browser.get(address)
        back.insert(0, listed(page))
        address = neighbour(page, "prev")
    assert [one for each in there for one in each] == [one for each in back for one in each]
    return [one for each in there for one in each]


def listed(page):
    body = page.html.partition("<tbody>")[2].partition("</tbody>")[0]
    return re.findall(r"<tr>\s*<td><a [^>]*>([^<]*)</a>", body)


def neighbour(page, rel):
    found = re.search(rf'rel="{rel}" href="([^"]*)"', page.html)
    return found and found[1].replace("&amp;", "&")


def test_lists_are_walked_sorted_and_searched_by_beginnings_on_every_database(desk):
    ids = ["380", "380a@x", "380_1", "381", "Ab", "ab", "a", "é1", "+7", "9"]
    for id_ in ids:
        desk.api.account(id_)
    for name in ("Zeta", "zeta", "Émile & Co", "a 1", "a-2"):
        desk.api("Customer/add_customer", customer_info={"name": name})
        desk.api("Product/add_product", product_info={"name": name})
    assert walked(desk, "accounts?size=3") == sorted(ids)
    assert walked(desk, "accounts?size=3&sort=-id") == sorted(ids, reverse=True)
    assert walked(desk, "accounts?size=2&q=380") == ["380", "380_1", "380a@x"]
    assert walked(desk, "accounts?q=380_") == ["380_1"]
    assert walked(desk, "accounts?q=%25") == []
    assert walked(desk, "customers/1/accounts?size=4") == ids
    assert walked(desk, "customers/1/accounts?q=380") == ["380"]
    names = sorted(["Acme", "Zeta", "zeta", "Émile & Co", "a 1", "a-2"])
    assert [one.replace("&amp;", "&") for one in walked(desk, "customers?size=2")] == names
    assert walked(desk, "customers?q=a&size=1") == ["a 1", "a-2"]
    assert walked(desk, "products?q=Z") == ["Zeta"]
    assert [row["id"].lstrip("'") for row in desk.csv("accounts?format=csv&sort=-id")] == sorted(
        ids, reverse=True
    )
    for wrong in ("sort=balance", "page=x:1", "size=0", "size=1000", "q=a%00b"):
        assert desk.browser.get(f"/env/3/accounts?{wrong}").status == 400, wrong
    assert desk.browser.get("/env/3/customers/1/accounts?page=after:x").status == 400


@whatever_the_database
def test_a_list_has_a_cell_below_each_title(desk, account):
    for path in ("customers", "customers/1/accounts", "accounts", "products", "sim-cards"):
        page = desk.get(path).html
        cells = page.partition("<tbody>")[2].partition("</tr>")[0].count("<td")
        assert page.count('<th scope="col"') == cells > 0, path


@whatever_the_database
def test_the_inventory_is_filtered_by_status_and_found_by_iccid(desk, account):
    assert walked(desk, "sim-cards?size=1") == IMSIS
    assert walked(desk, "sim-cards?status=used") == IMSIS[:1]
    assert walked(desk, "sim-cards?status=available&size=1&sort=-imsi") == [IMSIS[2], IMSIS[1]]
    assert walked(desk, f"sim-cards?q=890{IMSIS[1]}") == [IMSIS[1]]
    assert walked(desk, "sim-cards?status=available&q=001010000000003") == [IMSIS[2]]
    assert desk.browser.get("/env/3/sim-cards?status=lost").status == 400
    (row,) = desk.csv("sim-cards?format=csv&status=used")
    assert (row["imsi"], row["status"], row["msisdn"]) == (IMSIS[0], "in use", NUMBER)
    assert row.keys() == {"imsi", "iccid", "status", "msisdn", "description"}


@whatever_the_database
def test_a_list_reads_a_page_along_an_index_and_never_passes_by_what_is_before(desk, account):
    """However long a list is, no page of it counts, sorts or skips rows."""
    for number in range(60):
        desk.api.account(f"380{number}")
    lists = [
        *("accounts?page=after:1", "accounts?sort=-id&page=before:9", "accounts?q=380"),
        *("customers/1/accounts?page=after:0", "customers/1/accounts?q=380"),
        *("customers?page=after:A", "customers/pick?q=A", "products?q=L"),
        *("sim-cards?q=00101", "sim-cards?status=used", "sim-cards/pick", "sim-cards?q=89000101"),
    ]
    asked = []

    def note(_connection, _cursor, statement, parameters, *_rest):
        asked.append((statement, parameters))

    engine = desk.database._engine
    event.listen(engine, "before_cursor_execute", note)
    for path in lists:
        desk.get(path)
    event.remove(engine, "before_cursor_execute", note)
    long = [one for one in asked if re.search('FROM main."(Acc|Cust|Prod|SIM)', one[0])]
    assert len(long) >= 2 * len(lists)
    for statement, parameters in long:
        with desk.database.read() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [row.detail for row in plan]
        assert all(step.startswith("SEARCH ") for step in steps), (statement, steps)
        # All rows of the environment only where they are read in order, up to a limit.
        is_short = "LIMIT" in statement or not any("(i_env=?)" in step for step in steps)
        assert is_short, (statement, steps)
        offset = parameters[-1] if "OFFSET" in statement else 0
        assert offset == 0
