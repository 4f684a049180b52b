"""What Prometheus and those who watch a process are told, and what that costs."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, update
from starlette.testclient import TestClient

from databases import whatever_the_database
from desk import PASSWORD, Desk
from espf import depth, standing, subscriptions
from espf.db.tables import event_notifications, workers
from espf.depth import Backlog
from espf.metrics import DATABASE, DatabaseMetrics, exposition
from espf.sources import RETRYING
from espf.web.app import build_app
from espf.worker.gauges import WORKER, Gauges
from house import House
from webhook import Answer, Webhook

NOBODY = "http://127.0.0.1:1"
MONITORING = Path(__file__).parents[2] / "examples" / "monitoring"


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


def parsed(text: str):
    """(name, labels) -> value, of every sample."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def told(metrics):
    """What Prometheus would see of these metrics: a function from name and labels to a value."""
    samples = parsed(exposition(metrics, "")[0].decode())
    return lambda name, **labels: samples.get((name, tuple(sorted(labels.items()))))


# A worker


async def test_a_worker_tells_what_it_has_delivered_and_how_it_stands(house):
    async with Webhook() as hook:
        hook.then(Answer(status=404), Answer(status=503))
        house.handler(hook.url, RetryDelays="1s", RetryJitter=0)
        for n in range(6):
            house.event(i_account=n)
        async with house.working() as worker:
            await house.until("finished", "rejected")
            value = told(Gauges(worker).metrics())
    mine = {"i_env": "1", "handler": "Sender"}
    results = {
        verdict: value("espf_results_total", verdict=verdict, **mine)
        for verdict in ("finished", "retry", "rejected", "failed")
    }
    assert results == {"finished": 5, "retry": 1, "rejected": 1, "failed": 0}
    assert value("espf_delivery_latency_seconds_count", **mine) == 5
    assert value("espf_delivery_latency_seconds_bucket", le="3600.0", **mine) == 5
    assert value("espf_delivery_latency_seconds_sum", **mine) > 1
    assert value("espf_attempt_duration_seconds_bucket", le="+Inf", **mine) == 7
    assert value("espf_breaker_state", state="closed", **mine) == 1
    assert value("espf_shards", **mine) == 16
    assert value("espf_in_flight", **mine) == value("espf_held_events", **mine) == 0
    assert value("espf_lease_held") == 1
    assert value("espf_settle_batch_size_sum") == 7
    assert value("espf_settle_seconds_count") == value("espf_settle_batch_size_count")
    assert value("espf_database_failures_total", what="write") == 0


@whatever_the_database
async def test_a_handler_made_anew_under_the_same_name_goes_on_counting(house):
    async with Webhook() as hook, house.working() as worker:
        for _ in range(2):
            mine = house.handler(hook.url)
            house.event()
            await house.until("finished")
            with house.database.begin() as connection:
                subscriptions.delete_handler(connection, mine)
        text = exposition(Gauges(worker).metrics(), "")[0].decode()
    line = 'espf_results_total{handler="Sender",i_env="1",verdict="finished"} 2.0'
    assert text.count(line) == 1


async def test_every_family_is_told_and_no_other(house):
    house.handler(NOBODY)
    async with house.working() as worker:
        await house.come_true(lambda: bool(house.owners()))
        names = [metric.name for metric in Gauges(worker).metrics()]
    assert names == [family.name.removesuffix("_total") for family in WORKER]
    names = [metric.name for metric in await DatabaseMetrics(house.database, None).collect()]
    assert names == [family.name for family in DATABASE]


@whatever_the_database
async def test_promtool_finds_nothing_wrong_with_the_metrics(house):
    house.handler(NOBODY)
    async with house.working() as worker:
        await house.come_true(lambda: bool(house.owners()))
        metrics = Gauges(worker).metrics()
    metrics += await DatabaseMetrics(house.database, None).collect()
    text, content_type = exposition(metrics, "text/plain")
    assert content_type.startswith("text/plain; version=")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


# What the database knows


async def test_the_database_tells_what_waits_what_failed_and_who_works(house):
    mine = house.handler(NOBODY)
    house.handler(NOBODY, "Other", i_env=2)
    events = [house.event(i_account=n) for n in range(5)]
    with house.database.begin() as connection:
        soon = house.database.now(connection)
        n = event_notifications.c
        for which, values in (
            (events[0], {"status": "failed", "last_error": "503"}),
            (events[1], {"next_attempt_at": soon, "last_error": "503", "attempts": 1}),
        ):
            connection.execute(update(event_notifications).where(n.i_event == which).values(values))
        lives = {"expires_at": soon.replace(year=soon.year + 1), "started_at": soon}
        connection.execute(insert(workers).values(worker="here/1/1", **lives))
        gone = {"expires_at": soon.replace(year=soon.year - 1), "started_at": soon}
        connection.execute(insert(workers).values(worker="here/2/1", **gone))
    value = told(await DatabaseMetrics(house.database, None).collect())
    labels = {"i_env": "1", "handler": "Sender"}
    assert value("espf_database_up") == 1
    assert value("espf_waiting_events", **labels) == 3
    assert value("espf_retrying_events", **labels) == value("espf_failed_events", **labels) == 1
    assert value("espf_oldest_waiting_seconds", **labels) > 0
    assert value("espf_handler_state", state="unattended", **labels) == 1
    assert value("espf_waiting_events", i_env="2", handler="Other") == 0
    assert value("espf_oldest_waiting_seconds", i_env="2", handler="Other") == 0
    assert value("espf_workers", state="alive") == value("espf_workers", state="lost") == 1
    # Nothing is installed of what the reference billing's rules want.
    assert value("espf_capture_drifts") > 0
    with house.database.read() as connection:
        (stands,) = standing.handlers(connection, house.database, mine)
        exact = depth.counts(connection, mine.i_event_handler)
    assert exact == {name: getattr(stands, name) for name in exact}
    assert not stands.estimated


@whatever_the_database
async def test_the_database_is_asked_once_for_all_who_ask(house, monkeypatch):
    metrics = DatabaseMetrics(house.database, None)
    assert await metrics.collect() is await metrics.collect()
    monkeypatch.setattr("espf.metrics.READ_SECONDS", 0.0)
    assert await metrics.collect() is not await metrics.collect()


@pytest.mark.databases("postgresql", "mariadb")
async def test_of_a_database_that_is_away_it_is_told_that_it_is(house, store):
    metrics = DatabaseMetrics(house.database, None)
    store.stop()
    try:
        assert told(await metrics.collect())("espf_database_up") == 0
    finally:
        store.start()
    assert told(await metrics.collect())("espf_database_up") == 1


def fill(house, handler, statuses):
    """Notifications in order, with these statuses; nothing else is asked of their events."""
    rows = [
        {
            "i_event_handler": handler.i_event_handler,
            "position": 3 * place + 1,
            "i_event": 3 * place + 1,
            "status": "queued" if status == RETRYING else status,
            "next_attempt_at": None,
        }
        for place, status in enumerate(statuses)
    ]
    with house.database.begin() as connection:
        connection.execute(insert(event_notifications), rows)


@pytest.mark.parametrize(
    ("statuses", "waiting"),
    [
        (["queued"] * 20, 20),
        (["queued"] * 999, 999),
        # A slow neighbour keeps what this handler is done with; only what is new waits.
        (["finished"] * 900 + ["queued"] * 7, 7),
        (["queued"] * 450 + ["finished"] * 450, 450),
        (["finished", "finished", "queued"] * 300, 300),
    ],
    ids=["few", "all", "the last", "the first half", "every third"],
)
def test_what_waits_is_estimated_from_samples(house, statuses, waiting, monkeypatch):
    monkeypatch.setattr(depth, "SAMPLE", 30)
    handler = house.handler(NOBODY)
    fill(house, handler, statuses)
    with house.database.read() as connection:
        now = house.database.now(connection)
        rough = depth.backlog(connection, handler.i_event_handler, now)
    assert rough.waiting == pytest.approx(waiting, rel=0.15)
    assert rough == Backlog(rough.waiting, 0, 0, None, estimated=len(statuses) > 60)


@pytest.mark.parametrize(("most", "retrying", "failed"), [(1000, 8, 9), (7, 7, 7), (5, 5, 5)])
def test_what_is_retried_and_what_has_failed_is_counted_as_far_as_it_goes(
    house, monkeypatch, most, retrying, failed
):
    monkeypatch.setattr(depth, "MOST_COUNTED", most)
    handler = house.handler(NOBODY)
    with house.database.begin() as connection:
        now = house.database.now(connection)
        hour = timedelta(hours=1)
        kinds = [
            *[("failed", None, "gave up")] * 5,
            # They hold their lanes.
            *[("failed", now - hour, "gave up")] * 4,
            *[("queued", now + hour, "HTTP 503")] * 6,
            # Their time has come.
            *[("queued", now - hour / 2, "HTTP 503")] * 2,
            # They have been restarted.
            *[("queued", now - hour, None)] * 3,
        ]
        rows = [
            {
                "i_event_handler": handler.i_event_handler,
                "position": place,
                "i_event": place,
                "status": status,
                "next_attempt_at": at,
                "ordering_key": f"account:{place}",
                "last_error": error,
            }
            for place, (status, at, error) in enumerate(kinds, 1)
        ]
        connection.execute(insert(event_notifications), rows)
        rough = depth.backlog(connection, handler.i_event_handler, now)
    assert (rough.waiting, rough.retrying, rough.failed) == (3, retrying, failed)
    assert rough.estimated is (most < 1000)


@pytest.mark.databases("sqlite")
def test_a_rough_count_costs_the_same_whatever_waits(house, monkeypatch):
    monkeypatch.setattr(depth, "SAMPLE", 30)
    monkeypatch.setattr(depth, "MOST_COUNTED", 30)
    handler = house.handler(NOBODY)

    def steps():
        count = 0

        def tick():
            nonlocal count
            count += 1
            return 0

        with house.database.read() as connection:
            now = house.database.now(connection)
            raw = connection.connection.driver_connection
            raw.set_progress_handler(tick, 100)
            depth.backlog(connection, handler.i_event_handler, now)
            raw.set_progress_handler(None, 100)
        return count

    fill(house, handler, ["queued", "failed"] * 300)
    few = steps()
    with house.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM Event_Notifications")
    fill(house, handler, ["queued", "failed"] * 10_000)
    assert steps() <= 1.2 * few


# A process


@pytest.fixture
def client(desk: Desk):
    with (
        closing(desk.database()) as database,
        TestClient(build_app(database, desk.sealer()), raise_server_exceptions=False) as opened,
    ):
        yield opened


@pytest.mark.databases("sqlite")
def test_beside_the_apis_metrics_are_for_superusers(client, desk):
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", auth=("admin", "wrong")).status_code == 401
    desk("user", "create", "clerk", "--env", "3", stdin=PASSWORD)
    assert client.get("/metrics", auth=("clerk", PASSWORD)).status_code == 403
    reply = client.get("/metrics", auth=("admin", PASSWORD))
    assert reply.status_code == 200
    assert "espf_database_up 1.0\n" in reply.text
    assert "process_cpu_seconds_total" in reply.text


@pytest.mark.databases("sqlite")
def test_a_process_is_ready_while_its_database_is_and_lives_all_the_same(client, desk):
    assert client.get("/readyz").json() == client.get("/healthz").json() == {"status": "ok"}
    client.app.state.site.database._engine.dispose()
    desk.database_file.write_bytes(b"This is a letter to somebody. " * 100)
    reply = client.get("/readyz")
    assert reply.status_code == 503
    assert "cannot be used" in reply.json()["problems"][0]
    assert client.get("/healthz").status_code == 200


@pytest.mark.databases("sqlite")
def test_a_process_with_tables_of_another_release_is_not_ready(client, desk):
    desk.sql("UPDATE espf_alembic_version SET version_num = '9999'")
    assert "newer ESPF" in client.get("/readyz").json()["problems"][0]


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextmanager
def process(desk, *words):
    """A process; gives the address at which it tells how it stands."""
    started = desk.start(*words)
    try:
        lines = iter(started.stderr.readline, "")
        found = next(filter(None, (re.search(r"metrics at (\S+)/metrics", line) for line in lines)))
        yield found[1]
    finally:
        started.terminate()
        started.communicate(timeout=90)


@pytest.mark.databases("sqlite")
def test_each_process_tells_on_the_next_port_that_is_free(desk):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        desk.environment["ESPF_METRICS_LISTEN"] = f"127.0.0.1:{port}"
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            # Where the handlers would find the billing API.
            desk.environment["ESPF_LISTEN"] = f"127.0.0.1:{probe.getsockname()[1]}"
        with process(desk, "worker") as worker, process(desk, "web") as web:
            assert port < int(worker.rpartition(":")[2]) < int(web.rpartition(":")[2])
            deadline = time.monotonic() + 60
            while (ready := get(f"{worker}/readyz"))[0] != 200:
                assert time.monotonic() < deadline, ready
                time.sleep(0.05)
            assert get(f"{web}/readyz") == (200, '{"status":"ok"}')
            of_worker, of_web = get(f"{worker}/metrics")[1], get(f"{web}/metrics")[1]
    assert "espf_lease_held 1.0" in of_worker
    assert "espf_database_up" not in of_worker
    assert 'espf_workers{state="alive"} 1.0' in of_web
    assert "espf_lease_held" not in of_web


@pytest.mark.databases("sqlite")
def test_an_address_for_metrics_that_cannot_be_had_is_refused(desk):
    refused = desk.child("web", ESPF_METRICS_LISTEN="192.0.2.1:9180")
    assert refused.returncode == 2
    said = refused.stderr.splitlines()[-1]
    assert said.startswith("evctl: ESPF_METRICS_LISTEN: cannot listen on 192.0.2.1:9180: ")


@pytest.mark.databases("sqlite")
def test_a_process_that_is_to_tell_nothing_takes_no_port(desk):
    web = desk.start("web")
    desk.environment["ESPF_METRICS_LISTEN"] = "off"
    silent = desk.start("web")
    for each, takes in ((web, True), (silent, False)):
        assert "listening on" in each.stderr.readline()
        if takes:
            assert "metrics at" in each.stderr.readline()
        each.terminate()
        assert "metrics at" not in each.stderr.read()
        each.communicate(timeout=90)


# Examples


def asked(expression):
    """The metrics that an expression asks for, each with the labels that it names."""
    expression = re.sub(r"\$__\w+|\$\w+", "x", expression)
    for name, labels in re.findall(r"\b((?:espf|process)_\w+)(\{[^}]*\})?", expression):
        yield name, frozenset(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", labels))
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    names = [name for name, _ in re.findall(r"\b((?:espf|process)_\w+)(\{)?", expression)]
    for name in names:
        for labels in grouped:
            yield name, frozenset(label.strip() for label in labels.split(","))


def known():
    """Every name under which a sample can be asked for, with its labels."""
    #: What Prometheus itself adds.
    added = {"instance", "job"}
    samples = {"process_cpu_seconds_total": added, "process_resident_memory_bytes": added}
    for family in (*WORKER, *DATABASE):
        labels = {*family.labels, *added}
        if family.kind == "histogram":
            samples |= {f"{family.name}_bucket": {*labels, "le"}}
            samples |= {f"{family.name}_{end}": labels for end in ("sum", "count")}
        else:
            samples[family.name] = labels
    return samples


def expressions():
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (v["definition"] for v in dashboard["templating"]["list"] if "definition" in v)
    rules = (MONITORING / "alerts.yml").read_text()
    yield from re.findall(r"expr: (?:>-\n)?((?:.|\n {10})+)", rules)


@pytest.mark.parametrize("expression", list(expressions()))
def test_what_dashboard_and_alerts_ask_for_is_there(expression):
    names = known()
    found = list(asked(expression))
    assert found
    for name, labels in found:
        assert name in names, expression
        assert labels <= names[name], (name, expression)


def test_every_metric_of_our_own_has_its_place_on_the_dashboard_or_among_the_alerts():
    everything = " ".join(expressions())
    unused = [each.name for each in (*WORKER, *DATABASE) if each.name not in everything]
    # How a worker's own breaker stands is on the dashboard as the database knows it.
    assert unused == ["espf_breaker_state", "espf_database_read_seconds"]


def test_promtool_accepts_the_alert_rules_and_what_is_scraped():
    assert shutil.which("promtool"), "scripts/need-servers installs it"
    for what, name in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        subprocess.run(["promtool", "check", what, MONITORING / name], check=True, timeout=60)


# The dashboard of Grafana


def test_no_panel_of_the_dashboard_lies_over_another():
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    places = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
