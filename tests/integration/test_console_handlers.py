"""The console's pages of one handler: how it went of late, its options, and a trial."""

import asyncio
import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest

from console import console
from espf import statistics, subscriptions
from espf.statistics import Figures
from webhook import Answer, Webhook

pytestmark = pytest.mark.databases("sqlite")

SECRET = "a-secret-of-the-application"


@pytest.fixture
def desk(database, sealer, monkeypatch):
    monkeypatch.setattr("espf.trial.REST_SECONDS", 0)
    with console(database, sealer) as one:
        yield one


@pytest.fixture
def hook():
    with running_hook() as one:
        yield one


@contextmanager
def running_hook():
    """A web application in a loop of its own: the browser of these tests blocks."""
    hook = Webhook()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    hook.do = do
    do(hook.start())
    yield hook
    do(hook.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def made(desk, name="HSS", kind="EventSender", **options):
    with desk.database.begin() as connection:
        handler = subscriptions.create_handler(
            connection,
            desk.sealer,
            3,
            name,
            kind,
            {key.replace("__", "."): value for key, value in options.items()},
        )
    return f"/env/3/handlers/{handler.i_event_handler}"


def to(hook, **options):
    return {
        "EventSender__URL": hook.url,
        "EventSender__AuthMethod": "Basic",
        "EventSender__BasicAuth__User": "espf",
        "EventSender__BasicAuth__Key": SECRET,
        **options,
    }


# A new one


@pytest.mark.parametrize("usual", [True, False])
def test_a_new_handler_hears_of_what_is_usual_if_so_wished(desk, usual):
    form = {"name": "HLR", "type": "OsmoHLR", "enabled": "on", **({"usual": "on"} if usual else {})}
    page = desk.as_("adam").post("/env/3/handlers/new", form)
    assert page.status == 303, page.text
    with desk.database.begin() as connection:
        made = subscriptions.require_handler(connection, 3, "HLR")
        heard = subscriptions.subscriptions(connection, made)
    assert "Account/Blocked" in heard
    assert ("SIM/Updated" in heard) is not usual


# A trial


def test_a_connection_is_tested_and_no_event_goes_out(desk, hook):
    here = made(desk, **to(hook))
    page = desk.as_("adam").post(f"{here}/test", {"what": "check"})
    assert page.status == 200
    assert f"reached 127.0.0.1:{hook.port}" in page.text or "can be reached" in page.text
    assert hook.requests == []
    assert desk.audit()[0].action == "handler.test"
    assert desk.audit()[0].after == {"reached": True}
    gone = made(desk, "Gone", EventSender__URL="http://127.0.0.1:1", EventSender__AuthMethod="None")
    page = desk.as_("adam").post(f"{gone}/test", {"what": "check"})
    assert (page.status, "not reached" in page.text) == (200, True)
    assert "no connection to http://127.0.0.1:1" in page.text


@pytest.mark.parametrize(
    "variables", ["a = 541\n\nb=x y\nempty=\nc=[1]", '{"a": 541, "b": "x y", "c": [1]}']
)
def test_a_test_event_goes_out_and_what_came_of_it_is_shown_without_secrets(desk, hook, variables):
    here = made(desk, **to(hook))
    hook.then(Answer(200, {}, f"hello {SECRET}"))
    form = {"what": "send", "event_type": "Custom/Test", "variables": variables}
    page = desk.as_("adam").post(f"{here}/test", form)
    (request,) = hook.requests
    sent = request.json["variables"]
    assert request.json["event_type"] == "Custom/Test"
    assert (sent["a"], sent["b"], sent["c"], sent["i_event"]) == (541, "x y", [1], 0)
    assert "empty" not in sent
    assert page.status == 200
    for said in ("finished", "the external system took it", " ms", "HTTP 200", "hello ***"):
        assert said in page.text
    assert f"POST {hook.url}" in page.text
    assert SECRET not in page.html
    (line,) = desk.audit()
    assert (line.actor.login, line.action, line.subject) == ("adam", "handler.test", "handler HSS")
    assert line.after == {"reached": True, "event_type": "Custom/Test", "verdict": "finished"}


def test_a_refusal_is_told_in_words(desk, hook):
    here = made(desk, **to(hook))
    form = {"what": "send", "event_type": "Custom/Test", "variables": ""}
    hook.then(Answer(400, {}, "unknown subscriber"), Answer(503, {"Retry-After": "60"}))
    page = desk.as_("adam").post(f"{here}/test", form)
    assert "refuses it for good" in page.text
    assert "HTTP 400 Bad Request: unknown subscriber" in page.text
    page = desk.as_("adam").post(f"{here}/test", form)
    assert "it would be tried again in 1 min" in page.text


def test_the_variables_of_a_type_are_there_to_be_filled_in(desk):
    here = made(desk)
    page = desk.as_("adam").get(f"{here}/test?event_type=Account/Blocked")
    assert ">i_account=\ni_customer=" in page.html
    assert "<option>Account/Blocked</option>" in page.html
    assert "really gets it" in page.text
    # What was typed for another type is kept; what was not filled in goes.
    typed = "?event_type=Account/Blocked&variables=number%3D%0Ai_customer+%3D+7%0Aown%3D1"
    page = desk.as_("adam").get(f"{here}/test{typed}")
    assert ">i_customer = 7\nown=1\ni_account=</textarea>" in page.html


@pytest.mark.parametrize(
    ("event_type", "variables", "field", "said"),
    [
        ("Account/Nope", "", "event_type", "Account/Nope"),
        ("Custom/Test", "no line", "variables", "line 1: expected NAME=VALUE"),
        ("Custom/Test", '{"x": ', "variables", "no JSON object"),
        ("Account/Blocked", "i_account=77", "variables", "there is no i_account 77"),
    ],
)
def test_what_is_wrong_with_a_test_stands_beside_it_and_nothing_goes_out(
    desk, hook, event_type, variables, field, said
):
    here = made(desk, **to(hook))
    form = {"what": "send", "event_type": event_type, "variables": variables}
    page = desk.as_("adam").post(f"{here}/test", form)
    assert page.status == 422
    assert said in page.error_at(field)
    assert f'value="{event_type}"' in page.html
    assert hook.requests == []
    assert desk.audit() == []


def test_a_handler_that_is_not_configured_leads_to_its_configuration(desk):
    here = made(desk)
    page = desk.as_("adam").post(f"{here}/test", {"what": "check"})
    assert page.status == 409
    assert "is not configured yet" in page.text
    assert f"{here}/configuration" in page.links()


def test_one_test_of_a_handler_at_a_time(desk, hook, monkeypatch):
    monkeypatch.setattr("espf.trial.REST_SECONDS", 600)
    here = made(desk, **to(hook))
    form = {"what": "send", "event_type": "Custom/Test", "variables": "a=1"}
    assert desk.as_("adam").post(f"{here}/test", form).status == 200
    page = desk.as_("root").post(f"{here}/test", form)
    assert page.status == 429
    assert "try again in a moment" in page.text
    assert ">a=1</textarea>" in page.html
    assert len(hook.requests) == 1
    assert len(desk.audit()) == 1


# Its options


def test_a_form_that_is_sent_as_it_came_sets_nothing(desk, hook):
    here = made(desk, **to(hook))
    adam = desk.as_("adam")
    form = {
        "Concurrency": "",
        "OnFailure": "",
        "EventSender.AsyncMode": ["off", "on"],
        "EventSender.WithUniqueID": ["off", "on"],
        "EventSender.URL": hook.url,
        "EventSender.AuthMethod": "Basic",
        "EventSender.BasicAuth.User": "espf",
        "EventSender.BasicAuth.Key": "",
    }
    page = adam.get(f"{here}/configuration")
    assert 'placeholder="1"' in page.html
    assert "Default: 10." in page.text
    assert "(requests per second)" in page.text
    assert '<option value="" selected>continue (default)</option>' in page.html
    adam.does(f"{here}/configuration", form)
    assert set(stored(desk)) == {key.replace("__", ".") for key in to(hook)}


def test_an_option_goes_back_to_its_default_and_the_others_stay(desk, hook):
    here = made(desk, **to(hook, EventSender__TokenRate=7, EventSender__AsyncMode=False))
    adam = desk.as_("adam")
    back = {"default": "EventSender.TokenRate", "EventSender.URL": "not meant to be saved"}
    adam.does(f"{here}/configuration", back)
    assert "EventSender.TokenRate" not in stored(desk)
    assert stored(desk)["EventSender.URL"] == hook.url
    adam.does(f"{here}/configuration", {"default": "EventSender.AsyncMode"})
    assert "EventSender.AsyncMode" not in stored(desk)
    # It is off by choice, and not by default.
    adam.does(f"{here}/configuration", {"EventSender.AsyncMode": "off"})
    assert stored(desk)["EventSender.AsyncMode"] is False
    assert adam.post(f"{here}/configuration", {"default": "Nope"}).status == 422


def test_options_are_in_groups_and_say_with_which_other_one_they_count(desk):
    page = desk.as_("adam").get(f"{made(desk)}/configuration")
    groups = ["Address", "What is sent", "Authentication", "Pace", "Order and retries"]
    places = [page.html.index(f"<legend>{group}</legend>") for group in groups]
    assert places[0] == min(places)
    assert places[-1] == max(places)
    assert 'data-with="EventSender.AuthMethod" data-with-value="Signature"' in page.html


def stored(desk):
    with desk.database.read() as connection:
        (handler,) = subscriptions.list_handlers(connection, 3)
    return handler.options


# How it went


def test_the_page_of_a_handler_says_how_it_went_of_late(desk):
    here = made(desk)
    number = int(here.rpartition("/")[2])
    with desk.database.begin() as connection:
        now = desk.database.now(connection)
        figures = Figures(finished=1234, failed=2, duration_ms=9888, latency_ms=12340, slowest_ms=9)
        figures.within = [0, *[1234] * 10]
        statistics.store(connection, desk.database, {(number, now): figures})
        old = {(number, now - timedelta(hours=5)): Figures(finished=1)}
        statistics.store(connection, desk.database, old)
    page = desk.as_("rita").get(here)
    assert "Delivered 1,234" in page.text
    assert "Delivered 1,235" in page.text
    assert "half within 7 ms" in page.text
    assert "8 ms on average" in page.text
    assert page.html.count('<svg class="plot"') == 2
    assert "Closed: what is due goes out" in page.text
