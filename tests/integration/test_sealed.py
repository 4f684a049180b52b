"""Environments are sealed from each other: shown for every route of the APIs."""

import pytest
from sqlalchemy import insert, select
from starlette.testclient import TestClient

from desk import Desk
from espf import users
from espf.billing import tables as billing
from espf.db import tables
from espf.users import Users
from espf.web.app import build_app
from espf.web.methods import METHODS, signatures

#: What only environment 3 knows, wherever it may show up.
MARK = "threes-own"

#: A key that both use.
KEY = "next-month"
LATER = {"start_time": "2037-03-01 00:00:00"}

#: For every route of the ESPF API: a good request about what environment 3 has.
REQUESTS = {
    "POST /espf/v1/event/create": {
        "event_type": "Custom/NextMonth",
        "key": KEY,
        **LATER,
    },
    "POST /espf/v1/account/i/{i_account}/status": {"status": "FAILED", "group": MARK},
    "POST /espf/v1/account/{account_id}/status": {"status": "FAILED", "group": MARK},
    "GET /espf/v1/account/i/{i_account}/status": None,
    "GET /espf/v1/account/{account_id}/status": None,
    "GET /espf/v1/groups": None,
    "POST /espf/v1/group/create": {"name": "fours-own"},
    "POST /espf/v1/group/delete": {"i_group": 1001},
    "DELETE /espf/v1/group/{i_group}": None,
    "POST /espf/v1/group/{i_group}": None,
    "GET /espf/v1/events": None,
    "GET /espf/v1/events/count": None,
    "GET /espf/v1/events.csv": None,
    "GET /espf/v1/timeline": None,
    "GET /espf/v1/held": None,
    "POST /espf/v1/lane/hold": {"about": "account:1", "handler": MARK, "reason": "because"},
    "POST /espf/v1/lane/release": {"about": MARK},
    "GET /espf/v1/events/scheduled": None,
    "GET /espf/v1/event/{i_event}": None,
    "POST /espf/v1/event/{i_event}/restart": {"handler": MARK},
    "POST /espf/v1/event/{i_event}/skip": {"handler": MARK, "reason": "because"},
    "POST /espf/v1/event/{i_event}/cancel": None,
    "POST /espf/v1/event/cancel": {"key": KEY},
    "POST /espf/v1/events/restart": {"handler": MARK, "status": "failed"},
    "GET /espf/v1/handler_types": None,
    "GET /espf/v1/handlers": None,
    "POST /espf/v1/handler/create": {"name": "fours-own", "type": "EventSender"},
    "GET /espf/v1/handler/{i_event_handler}": None,
    "DELETE /espf/v1/handler/{i_event_handler}": None,
    "POST /espf/v1/handler/{i_event_handler}/enable": None,
    "POST /espf/v1/handler/{i_event_handler}/disable": None,
    "POST /espf/v1/handler/{i_event_handler}/pause": None,
    "POST /espf/v1/handler/{i_event_handler}/resume": None,
    "POST /espf/v1/handler/{i_event_handler}/test": {"event_type": "Account/Blocked"},
    "POST /espf/v1/handler/{i_event_handler}/reconcile": {"product": "LTE"},
    "GET /espf/v1/reconciliations": None,
    "GET /espf/v1/reconciliation/{i_reconciliation}": None,
    "GET /espf/v1/reconciliation/{i_reconciliation}/findings": None,
    "GET /espf/v1/reconciliation/{i_reconciliation}/findings.csv": None,
    "POST /espf/v1/reconciliation/{i_reconciliation}/cancel": None,
    "POST /espf/v1/reconciliation/{i_reconciliation}/repair": {"kinds": ["missing"]},
    "GET /espf/v1/handler/{i_event_handler}/settings": None,
    "PUT /espf/v1/handler/{i_event_handler}/settings": {"settings": {"Concurrency": 9}},
    "GET /espf/v1/handler/{i_event_handler}/subscriptions": None,
    "PUT /espf/v1/handler/{i_event_handler}/subscriptions": {"event_type": "Custom/NextMonth"},
    "DELETE /espf/v1/handler/{i_event_handler}/subscriptions": None,
    "GET /espf/v1/event_types": None,
    "POST /espf/v1/event_type/create": {"event_type": "Custom/Other"},
    "POST /espf/v1/event_type/enable": {"event_type": "Account/Blocked"},
    "POST /espf/v1/event_type/disable": {"event_type": "Account/Blocked"},
    "GET /espf/v1/capture": None,
    "GET /espf/v1/workers": None,
    "GET /espf/v1/alerts": None,
    "GET /espf/v1/maintenance": None,
    "PUT /espf/v1/maintenance": {"maintenance": True},
    "GET /espf/v1/configurations": None,
    "GET /espf/v1/configuration/schema": None,
    "GET /espf/v1/configuration/active": None,
    "GET /espf/v1/configuration/{i_configuration}": None,
    "DELETE /espf/v1/configuration/{i_configuration}": None,
    "POST /espf/v1/configuration/clone": None,
    "PUT /espf/v1/configuration/{i_configuration}/settings": {
        "settings": {"Provisioning.Maintenance": True}
    },
    "POST /espf/v1/configuration/{i_configuration}/instance/create": {"name": "fours-own"},
    "DELETE /espf/v1/configuration/{i_configuration}/instance/{name}": None,
    "GET /espf/v1/configuration/{i_configuration}/differences": None,
    "POST /espf/v1/configuration/{i_configuration}/verify": None,
    "POST /espf/v1/configuration/{i_configuration}/apply": None,
    "POST /espf/v1/configuration/{i_configuration}/rollback": None,
    "GET /health": None,
}

#: About the whole installation, the same for all environments.
FOR_ALL = (
    *("/event_types", "/event_type/create", "/event_type/enable", "/event_type/disable"),
    *("/capture", "/workers", "/maintenance", "/handler_types", "/health"),
    *(name.split()[1] for name in REQUESTS if "/configuration" in name),
)
QUERIES = {
    "DELETE /espf/v1/handler/{i_event_handler}/subscriptions": "event_type=Account/Blocked",
    "GET /espf/v1/timeline": f"about={MARK}",
}


class Site:
    """Environments 3 and 4 with a login each; environment 3 has one of each thing."""

    def __init__(self, client, database, sealer):
        self.client = client
        self.database = database
        with database.begin() as connection:
            clerk = {"login": "clerk", "password_hash": "", "i_env": 4}
            connection.execute(insert(tables.users).values(clerk))
            connection.execute(insert(billing.environments).values(i_env=4, name="Four"))
            known = users.list_all(connection)
        sessions = Users(database, sealer)
        self.tokens = {one.login: sessions.open_session(one).access_token for one in known}
        self.ids = self._fill()

    def call(self, login, method, path, body):
        headers = {"Authorization": f"Bearer {self.tokens[login]}"}
        reply = self.client.request(method, path, json=body, headers=headers)
        assert reply.status_code < 500 or path.startswith("/rest"), reply.text
        return reply

    def about(self, login, name, query=""):
        """The request of a route about what environment 3 has."""
        method, path = name.split()
        query = "&".join(filter(None, (query, QUERIES.get(name))))
        return self.call(login, method, f"{path.format(**self.ids)}?{query}", REQUESTS[name])

    def state(self):
        """All that environment 3 has, and what belongs to nobody in particular."""
        found = {}
        with self.database.read() as connection:
            for table in (*tables.metadata.tables.values(), *billing.metadata.tables.values()):
                rows = connection.execute(select(table)).mappings()
                found[table.name] = [dict(row) for row in rows if row.get("i_env", 3) == 3]
        # Numbers of handlers of other environments.
        del found["Handler_Leases"]
        # Whose turn it is leaves an empty row.
        found["System_Settings"] = [row for row in found["System_Settings"] if row["value"]]
        return found

    def _fill(self):
        def made(path, **body):
            reply = self.call("admin", "POST", path, body)
            assert reply.status_code == 200, reply.text
            return reply.json()

        draft = made("/espf/v1/configuration/clone", comment=MARK)["i_configuration"]
        made(f"/espf/v1/configuration/{draft}/instance/create", name=MARK)
        sender = made("/espf/v1/handler/create", name=MARK, type="EventSender")
        settings = {"OsmoHLR.Address": "127.0.0.1"}
        hlr = made("/espf/v1/handler/create", name="HLR", type="OsmoHLR", settings=settings)
        path = f"/espf/v1/handler/{hlr['i_event_handler']}/reconcile"
        audit = made(path, accounts=[MARK])["i_reconciliation"]
        made("/espf/v1/event_type/create", event_type="Custom/NextMonth")
        made("/espf/v1/group/create", name=MARK)
        info = {"i_customer": 1, "i_product": 1, "id": MARK, "billing_model": -1}
        added = made("/rest/Account/add_account", params={"account_info": info})
        made(f"/espf/v1/account/{MARK}/status", status="OK", group=MARK)
        event = made(
            "/espf/v1/event/create",
            event_type="Custom/NextMonth",
            variables={"x": MARK},
            key=KEY,
            **LATER,
        )
        alert = {"kind": "failed", "about": str(sender["i_event_handler"]), "i_env": 3}
        with self.database.begin() as connection:
            now = self.database.now(connection)
            alert |= {"subject": MARK, "text": MARK, "since": now}
            connection.execute(insert(tables.alerts).values(alert))
        return {
            "i_account": added["i_account"],
            "account_id": MARK,
            "i_group": 1001,
            "i_event": event["i_event"],
            "i_event_handler": sender["i_event_handler"],
            "i_configuration": draft,
            "i_reconciliation": audit,
            "name": MARK,
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    desk = Desk(tmp_path_factory.mktemp("sealed"))
    desk("init", "--demo", ESPF_ADMIN_PASSWORD="correct horse battery")
    database = desk.database()
    with TestClient(build_app(database, desk.sealer())) as client:
        yield Site(client, database, desk.sealer())
    database.close()


def test_every_route_is_shown(site):
    paths = site.client.get("/doc/api").json()["paths"]
    described = {f"{method.upper()} {path}" for path, one in paths.items() for method in one}
    billing = {f"POST /rest/{name}" for name in signatures()}
    assert described == REQUESTS.keys() | billing


@pytest.mark.parametrize("name", REQUESTS)
def test_nobody_sees_or_changes_anything_of_another_environment(site, name):
    before = site.state()
    reply = site.about("clerk", name)
    assert MARK not in reply.text.replace(f"'{MARK}'", "")
    assert site.state() == before
    if "/configuration" in name:
        assert reply.status_code == 403
    elif "{" in name:
        assert reply.status_code == 404


@pytest.mark.parametrize(
    "name", [name for name in REQUESTS if not name.split()[1].endswith(FOR_ALL)]
)
def test_nobody_but_a_superuser_names_another_environment(site, name):
    before = site.state()
    reply = site.about("clerk", name, "i_env=3")
    assert (reply.status_code, reply.json()["field"]) == (400, "i_env")
    assert site.state() == before


@pytest.mark.parametrize("name", REQUESTS)
def test_nobody_gets_in_without_credentials(site, name):
    method, path = name.split()
    reply = site.client.request(method, path.format(**site.ids), json=REQUESTS[name])
    assert reply.status_code == (200 if path == "/health" else 401)


@pytest.mark.parametrize("name", METHODS)
def test_no_method_of_the_billing_is_for_another_environment(site, name):
    before = site.state()
    reply = site.call("clerk", "POST", f"/rest/{name}", {"params": {"i_env": 3}})
    assert (reply.status_code, reply.json()["faultcode"]) == (500, "Client.environment_denied")
    assert site.state() == before
