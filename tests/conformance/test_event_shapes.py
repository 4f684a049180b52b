"""What EventSender sends, of every type and in both versions, has its published shape."""

import pytest

import shapes
from espf.catalogue import catalogue
from espf.handlers.event_sender import EventSender
from espf.model import Event, compact
from espf.testing import run_handler
from webhook import Webhook

#: Values of variables; those that are not here are just numbers.
VALUES = {
    "i_env": 3,
    "i_account": 541,
    "i_customer": 42,
    "i_invoice": 9,
    "i_sim_card": 7,
    "number": "4930123",
    "prev_balance": 12.5,
    "curr_balance": 0,
    "prev_status": "available",
    "curr_status": "used",
    "event_time": "2026-03-01 12:00:00",
}


def variables(event_type):
    """What an event of a type carries, by the catalogue."""
    entry = catalogue().get(event_type)
    own = entry.variables if entry else ("i_account", "day")
    return {name: VALUES.get(name, 1) for name in ("i_env", *own, "event_time")}


# The documented simplified event of each type that has one; by the first words that fit.
FORMS = {
    "Account/New": "Subscriber/Created",
    "Account/Status/Closed": "Subscriber/Deleted",
    "Account/": "Subscriber/Updated",
    "Subscriber/": "Subscriber/Updated",
    "Customer/New": "Customer/Created",
    "Customer/Status/Closed": "Customer/Deleted",
    "Customer/": "Customer/Updated",
    "CustomerSite/": "Customer/Updated",
    "DID/New": "DID/Created",
    "DID/Deleted": "DID/Deleted",
    "DID/": "DID/Updated",
    "Invoice/New": "Invoice/Created",
    "Invoice/": "Invoice/Updated",
    "SIM/Created": "SIM/Created",
    "SIM/Updated": "SIM/Updated",
    "SIM/Deleted": "SIM/Deleted",
    "SIM/Replaced": "SIM/Replaced",
    # What administrators make goes out as it is.
    "Custom/": None,
}


def form(event_type):
    return next((form for start, form in FORMS.items() if event_type.startswith(start)), "skipped")


@pytest.fixture
async def hook():
    async with Webhook() as hook:
        yield hook


async def send(hook, event_type, version, **changed):
    options = {
        "EventSender.URL": hook.url,
        "EventSender.AuthMethod": "None",
        "EventSender.APIVersion": version,
    }
    event = Event(623623, 3, event_type, compact({**variables(event_type), **changed}))
    return await run_handler(EventSender, options, event)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("event_type", [*catalogue(), "Custom/NextMonth"])
async def test_every_type_has_its_published_shape(hook, event_type, version):
    verdict = await send(hook, event_type, version)
    simplified = form(event_type)
    if version == 2 and simplified == "skipped":
        assert verdict.outcome == "skipped"
        assert f"{event_type} has no version 2 form" in verdict.reason
        assert hook.requests == []
        return
    assert verdict.outcome == "finished", verdict
    (request,) = hook.requests
    if version == 1 or simplified is None:
        shapes.check(shapes.version_1(event_type), request.json)
        assert request.json["variables"] == {**variables(event_type), "i_event": 623623}
    else:
        shapes.check(shapes.version_2(simplified), request.json)
        sent = request.json["variables"]
        assert sent.items() <= {**variables(event_type), "i_event": 623623}.items()


def test_all_simplified_events_are_among_the_forms():
    assert {form(event_type) for event_type in catalogue()} - {None, "skipped"} == {
        *shapes.VERSION_2
    }


@pytest.mark.parametrize(
    ("event_type", "given", "sent"),
    [
        # Ids may come as texts of digits, over the API or from a column of texts.
        ("Account/Blocked", {"i_account": "541"}, {"i_account": 541}),
        ("Invoice/New", {"i_invoice": "9"}, {"i_customer": 42, "i_invoice": 9}),
        ("DID/New", {"number": 4930123}, {"number": "4930123"}),
        (
            "SIM/Created",
            {"i_account": None, "curr_status": None, "prev_status": None},
            {"i_env": 3, "i_sim_card": 7, "event_time": "2026-03-01 12:00:00"},
        ),
    ],
)
async def test_the_types_of_variables_are_the_documented_ones(hook, event_type, given, sent):
    await send(hook, event_type, 2, **given)
    body = hook.requests[0].json
    shapes.check(shapes.version_2(form(event_type)), body)
    assert body["variables"] == {**sent, "i_event": 623623}


@pytest.mark.parametrize("value", ["x", "", "5.0", 5.5, True, [5], {"a": 5}, None])
async def test_what_is_no_number_is_not_sent_as_one(hook, value):
    verdict = await send(hook, "Account/Blocked", 2, i_account=value)
    assert verdict.outcome == "rejected"
    assert verdict.reason == "the event has no i_account, which Subscriber/Updated needs"
    assert hook.requests == []
