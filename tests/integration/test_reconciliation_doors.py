"""Audits as people meet them: command line, API, console, alerts, metrics."""

import asyncio
import csv
import io
import json

import pytest

from console import console
from desk import one_line
from espf import comparison, reconciler, reconciliation, subscriptions
from espf.alerts import Kind, conditions
from espf.configuration import Provisioning
from espf.errors import TryLater
from espf.handlers.http import HttpClient
from espf.metrics import AUDITED, DIFFERENCES, DatabaseMetrics, exposition
from espf.reconciler import Reconciler
from espf.reconciliation import Scope
from shelf import People, Shelf, shelves

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture(autouse=True)
def shelf(monkeypatch):
    monkeypatch.setattr(comparison, "AGAIN_SECONDS", 0)
    monkeypatch.setattr(reconciler, "FIRST_PAUSE_SECONDS", 0.01)
    with shelves(monkeypatch) as one:
        yield one


@pytest.fixture
def people():
    """Ten accounts; of each kind of difference there is one, and one that cannot be told."""
    people = People(10)
    people.fill()
    Shelf.entries["n0000002"]["access"] = "no"
    del Shelf.entries["n0000003"]
    Shelf.entries["=nobodys"] = {"access": "yes", "pin": "1234"}
    Shelf.faults["n0000005"] = TryLater("locked for a moment")
    return people


def mend(people):
    people.fill()
    Shelf.faults.clear()


# The command line


@pytest.fixture
def evctl(desk, people, monkeypatch):
    monkeypatch.setattr("espf.cli.process.way_to_billing", lambda *_: people)
    desk("handler", "create", 3, "Shelf", "--type", "Shelf", "--set", "Audit.Rate=5000")
    return desk


def test_the_exit_code_says_whether_all_is_as_it_should_be(evctl, people, tmp_path):
    path = tmp_path / "found.csv"
    done = evctl.run("reconcile", 3, "Shelf", "--all", "--csv", path)
    assert done.exit_code == 7
    assert "missing    n0000003" in done.stdout
    assert "access: no -> yes" in done.stdout
    assert "locked for a moment" in done.stdout
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["key"] for row in rows] == ["n0000002", "n0000003", "n0000005", "'=nobodys"]
    assert rows[0]["differences"] == "access: no -> yes"
    done = evctl.run("reconcile", 3, "Shelf", "--account", "n0000005", "--account", "7", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["same"], told["failed"], told["more_findings"]) == (1, 1, False)
    assert told["findings"][0]["reason"] == "locked for a moment"
    mend(people)
    assert evctl.run("reconcile", 3, "Shelf", "--all").exit_code == 0
    assert evctl.run("reconcile", 3, "Shelf", "--product", "Gold").exit_code == 0
    done = evctl.run("reconcile", 3, "Shelf", "--product", "Lead")
    assert (done.exit_code, "has no product 'Lead'" in done.stderr) == (1, True)


def test_repairs_are_counted_and_one_is_told_how_to_watch_them(evctl):
    done = evctl.run("reconcile", 3, "Shelf", "--all", "--repair")
    assert done.exit_code == 7
    watched = "evctl event list --env 3 --type Custom/Reconcile"
    assert f"3 repairs are in the queue; to watch them: {watched}" in done.stderr
    events = evctl.json(*watched.split()[1:])
    assert [(row["status"], row["handler"]) for row in events] == [("queued", "Shelf")] * 3
    actions = [row[0] for row in evctl.sql("SELECT action FROM Audit_Log ORDER BY i_audit DESC")]
    assert actions[0] == "audit.begin"


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, ["Shelf"], "Give --account, --product or --all"),
        (2, ["Shelf", "--all", "--product", "x"], "Give --account, --product or --all"),
        (2, ["Shelf", "--all", "--rate", "0"], "--rate"),
        (2, ["Shelf", "--account", " "], "an empty one names nobody"),
        (2, ["Shelf", "--all", "--csv", "/nowhere/at/all"], "cannot be written"),
        (4, ["EventSender", "--all"], "nothing that its system should hold"),
        (3, ["Other", "--all"], "there is no handler 'Other'"),
        (3, ["Shelf", "--cancel"], "no audit of handler Shelf is under way"),
    ],
)
def test_what_cannot_be_audited_is_refused_and_nothing_begins(evctl, code, words, said):
    assert said in evctl.fails(code, "reconcile", 3, *words)
    assert evctl.sql("SELECT * FROM Reconciliations") == []


def test_the_same_command_goes_on_with_what_was_begun_and_another_one_is_refused(evctl):
    database = evctl.database()
    with database.begin() as connection:
        handler = subscriptions.require_handler(connection, 3, "Shelf")
        words = (connection, database, evctl.sealer(), handler, Scope(), "ada")
        reconciliation.begin(*words)
    database.close()
    assert "audit 1 of all, begun by ada" in one_line(
        evctl.run("reconcile", 3, "Shelf", "--product", "Gold").stderr
    )
    assert evctl.run("reconcile", 3, "Shelf", "--product", "Gold").exit_code == 4
    assert evctl.run("reconcile", 3, "Shelf", "--all").exit_code == 7
    assert evctl.sql("SELECT i_reconciliation, state FROM Reconciliations") == [(1, "done")]


# The doors of the web


@pytest.fixture
def web(database, sealer):
    with console(database, sealer) as one:
        yield one


@pytest.fixture
def handler(web):
    return made(web)


def made(web, name="Shelf", kind="Shelf", i_env=3):
    with web.database.begin() as connection:
        return subscriptions.create_handler(
            connection,
            web.sealer,
            i_env,
            name,
            kind,
            {"Audit.Rate": 5000} if kind == "Shelf" else {},
        )


def carry(web, people, number=None):
    """What a worker does."""

    async def carried():
        async with HttpClient() as client:
            with web.database.read() as connection:
                one = reconciliation.recent(connection, 3)[0]
            return await Reconciler(web.database, web.sealer, client, people).carry(one)

    return asyncio.run(carried())


class Api:
    def __init__(self, web, login):
        self.browser = web.as_(login)
        self.client = web.client
        self.login = login

    def __call__(self, method, path, body=None, status=200):
        reply = self.client.request(
            method, f"/espf/v1{path}", json=body, auth=(self.login, "correct horse battery")
        )
        assert reply.status_code == status, reply.text
        return reply.json() if "json" in reply.headers["content-type"] else reply.text


@pytest.fixture
def api(web):
    return Api(web, "olga")


def test_an_application_begins_an_audit_watches_it_and_reads_what_it_found(
    api, web, handler, people
):
    number = handler.i_event_handler
    begun = api("POST", f"/handler/{number}/reconcile", {})
    assert (begun["state"], begun["share"], begun["scope"]) == (
        "running",
        None,
        {"accounts": [], "product": None},
    )
    here = f"/reconciliation/{begun['i_reconciliation']}"
    api("POST", f"/handler/{number}/reconcile", {}, status=409)
    carry(web, people)
    ended = api("GET", here)
    assert (ended["state"], ended["share"], ended["missing"], ended["failed"]) == ("done", 1, 1, 1)
    first = api("GET", f"{here}/findings?limit=3")
    rest = api("GET", f"{here}/findings?after={first['next']}")
    found = [*first["finding_list"], *rest["finding_list"]]
    assert [one["key"] for one in found] == ["n0000002", "n0000003", "n0000005", "=nobodys"]
    assert rest["next"] is None
    assert found[0]["differences"] == [{"field": "access", "held": "no", "wanted": "yes"}]
    assert found[1]["differences"][1] == {"field": "pin", "held": None, "wanted": "***"}
    missing = api("GET", f"{here}/findings?kind=missing")["finding_list"]
    assert [one["key"] for one in missing] == ["n0000003"]
    text = api("GET", f"{here}/findings.csv?kind=extra")
    assert [row["key"] for row in csv.DictReader(io.StringIO(text))] == ["'=nobodys"]
    listed = api("GET", f"/reconciliations?i_event_handler={number}&limit=1")
    assert (listed["reconciliation_list"], listed["next"]) == ([ended], None)


def test_an_application_has_repaired_what_it_chooses(api, web, handler, people):
    number = handler.i_event_handler
    here = f"/reconciliation/{api('POST', f'/handler/{number}/reconcile')['i_reconciliation']}"
    api("POST", f"{here}/repair", {}, status=409)
    carry(web, people)
    first = api("GET", f"{here}/findings")["finding_list"][0]
    done = api("POST", f"{here}/repair", {"findings": [first["i_finding"], 999]})
    assert (done["repairs"], done["state"]) == (1, "done")
    other = {"findings": [first["i_finding"] + 1], "kinds": ["extra"]}
    assert api("POST", f"{here}/repair", other)["repairs"] == 1
    again = api("POST", f"{here}/repair", {"kinds": ["different", "missing"]})
    assert (again["state"], again["phase"], again["repair"]) == ("running", "repair", True)
    carry(web, people)
    assert api("GET", here)["repairs"] == 2
    assert api("GET", f"{here}/findings")["finding_list"][0]["i_event"] is not None
    begun = api("POST", f"/handler/{number}/reconcile", {"accounts": ["7"], "repair": True})
    ended = api("POST", f"/reconciliation/{begun['i_reconciliation']}/cancel")
    assert ended["state"] == "cancelled"
    assert api("POST", f"/reconciliation/{begun['i_reconciliation']}/cancel") == ended


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"accounts": ["x"], "product": "y"}, "product"),
        ({"accounts": [""]}, "accounts.0"),
        ({"product": " "}, "product"),
        ({"rate": 0}, "rate"),
        ({"what": 1}, "what"),
    ],
)
def test_a_wrong_request_is_refused_by_the_name_of_the_field(api, handler, body, field):
    path = f"/handler/{handler.i_event_handler}/reconcile"
    assert api("POST", path, body, status=400)["field"] == field
    assert api("GET", "/reconciliations")["reconciliation_list"] == []


def test_who_may_not_and_what_cannot(web, handler):
    number = handler.i_event_handler
    Api(web, "rita")("POST", f"/handler/{number}/reconcile", {}, status=403)
    Api(web, "carl")("POST", f"/handler/{number}/reconcile", {}, status=404)
    sender = made(web, "Sender", "EventSender").i_event_handler
    refused = Api(web, "olga")("POST", f"/handler/{sender}/reconcile", {}, status=409)
    assert "passes events on" in refused["error"]


# The console


@pytest.fixture
def olga(web):
    return web.as_("olga")


def page_of(handler):
    return f"/env/3/handlers/{handler.i_event_handler}/audits"


def test_an_audit_from_its_beginning_to_its_repairs(olga, web, handler, people):
    here = page_of(handler)
    page = olga.get(here)
    assert "No audit is remembered" in page.text
    begun = olga.post(here, {"of": "all"})
    assert (begun.status, begun.location) == (303, f"{here}/1")
    running = olga.get(f"{here}/1")
    assert "A worker carries it on" in running.text
    assert 'hx-trigger="every 2s"' in running.html
    assert "Repair all" not in running.text
    carry(web, people)
    page = olga.get(f"{here}/1")
    assert "11 compared, 3 not as they should be" in page.text
    assert "access: no → yes" in page.text
    assert "pin: nothing → ***" in page.text
    assert "1234" not in page.html
    assert "hx-trigger" not in page.html.partition('id="audit"')[2]
    assert "n0000003" not in olga.get(f"{here}/1?kind=extra").text
    rows = list(csv.DictReader(io.StringIO(olga.get(f"{here}/1?format=csv&kind=extra").html)))
    assert [row["key"] for row in rows] == ["'=nobodys"]
    older = next(link for link in olga.get(f"{here}/1?size=2").links() if "after=" in link)
    assert "n0000002" not in olga.get(older).text
    assert "nobodys" in olga.get(older).text
    said = olga.does(f"{here}/1/repair", {"what": "some", "finding": "1"})
    assert "1 repairs are in the queue" in said.text
    said = olga.does(f"{here}/1/repair", {"what": "all"})
    assert "repairs are put into the queue" in said.text
    carry(web, people)
    page = olga.get(f"{here}/1")
    assert "Repair all" not in page.text
    with web.database.read() as connection:
        assert reconciliation.find(connection, 3, 1).repairs == 3
    assert [line.action for line in web.audit()][:3] == [
        "audit.repair",
        "audit.repair",
        "audit.begin",
    ]


def test_what_was_typed_wrong_stays_and_is_told_beside_its_field(olga, handler):
    here = page_of(handler)
    for form, field in (
        ({"of": "accounts", "accounts": " "}, "accounts"),
        ({"of": "product", "product": ""}, "product"),
        ({"of": "all", "rate": "many"}, "rate"),
    ):
        page = olga.post(here, form)
        assert page.status == 422
        assert page.error_at(field)
    assert 'value="many"' in page.html
    assert olga.post(here, {"of": "accounts", "accounts": "1, 2\n3"}).status == 303
    page = olga.post(here, {"of": "all"})
    assert (page.status, "is being audited: audit 1 of 3 accounts" in page.text) == (409, True)
    stopped = olga.post(f"{here}/1/cancel")
    assert (stopped.status, stopped.location) == (303, f"{here}/1")
    assert "cancelled" in olga.get(here).text


def test_the_audits_of_a_handler_are_a_list_like_others(olga, handler):
    here = page_of(handler)
    for number in (1, 2, 3):
        assert olga.post(here, {"of": "all"}).status == 303
        if number < 3:
            olga.post(f"{here}/{number}/cancel")

    def numbers(query):
        rows = csv.DictReader(io.StringIO(olga.get(f"{here}?{query}&format=csv").html))
        return [int(row["i_reconciliation"]) for row in rows]

    assert numbers("") == [3, 2, 1]
    assert numbers("sort=i_reconciliation&q=cancelled") == [1, 2]
    page = olga.get(f"{here}?size=2")
    older = next(link for link in page.links() if "page=2" in link)
    assert f"{here}/3" in page.links()
    assert f"{here}/1" in olga.get(older).links()
    assert "No audit fits" in olga.get(f"{here}?q=nobody").text
    wrong = olga.post(f"{here}?q=nobody", {"of": "accounts", "accounts": ""})
    assert (wrong.status, "No audit fits" in wrong.text) == (422, True)


def test_whom_the_pages_let_in_and_what_they_offer(web, handler, people):
    here = page_of(handler)
    rita = web.as_("rita")
    assert "Begin an audit" not in rita.get(here).text
    assert rita.post(here, {"of": "all"}).status == 403
    assert web.as_("carl").get(here).status == 404
    web.as_("olga").post(here, {"of": "all"})
    carry(web, people)
    page = rita.get(f"{here}/1")
    assert (page.status, "Repair" in page.html.partition('id="audit"')[2].partition("<dd>")[0]) == (
        200,
        False,
    )
    assert rita.post(f"{here}/1/repair", {"what": "all"}).status == 403
    sender = made(web, "Sender", "EventSender")
    other = f"/env/3/handlers/{sender.i_event_handler}"
    assert "Audits" not in rita.get(other).text
    assert "passes events on" in rita.get(f"{other}/audits").text
    assert rita.get(f"{other}/audits/1").status == 404
    assert rita.get(f"{here}/99").status == 404
    assert rita.get(f"{here}/1?kind=odd").status == 400


# Alerts and metrics


def wrong(web):
    with web.database.read() as connection:
        found = conditions.current(connection, web.database, Provisioning(), ())
    return [one for one in found if one.kind is Kind.AUDIT]


async def measured(web):
    metrics = await DatabaseMetrics(web.database, None).collect()
    text = exposition(metrics, "")[0].decode()
    return [line for line in text.splitlines() if line.startswith("espf_audit")]


def begun(web, handler, scope=Scope(), **words):  # noqa: B008  (it is frozen)
    with web.database.begin() as connection:
        reconciliation.begin(connection, web.database, web.sealer, handler, scope, "ada", **words)


def test_differences_are_an_alert_until_they_are_repaired_or_gone(web, handler, people):
    begun(web, handler, Scope(accounts=("n0000003",)))
    carry(web, people)
    assert wrong(web) == []
    begun(web, handler)
    carry(web, people)
    (one,) = wrong(web)
    assert one.subject == "Shelf"
    assert "1 different, 1 missing, 1 too many; 0 are repaired" in one.text
    assert (one.count, one.i_env) == (3, 3)
    text = asyncio.run(measured(web))
    assert f'{DIFFERENCES.name}{{handler="Shelf",i_env="3",kind="missing"}} 1.0' in text
    assert any(line.startswith(f'{AUDITED.name}{{handler="Shelf"') for line in text)
    begun(web, handler, repairs=True)
    assert len(wrong(web)) == 1
    carry(web, people)
    assert wrong(web) == []
    mend(people)
    begun(web, handler)
    carry(web, people)
    assert wrong(web) == []
    text = asyncio.run(measured(web))
    assert f'{DIFFERENCES.name}{{handler="Shelf",i_env="3",kind="missing"}} 0.0' in text


def test_an_audit_that_fails_is_an_alert(web, handler, people, monkeypatch):
    monkeypatch.setattr(reconciler, "PATIENCE_SECONDS", -1)
    people.fault = TryLater("the billing is away")
    begun(web, handler)
    carry(web, people)
    (one,) = wrong(web)
    assert "came to no end: the billing is away" in one.text
