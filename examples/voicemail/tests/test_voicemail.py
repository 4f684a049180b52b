"""Voicemail, with the server of these tests: what the kit asks of every handler, and its own."""

from collections.abc import Iterator

import pytest
from acme_voicemail import Voicemail
from voicemail_server import TOKEN, VoicemailServer

from espf.errors import InvalidRequest
from espf.handlers.registry import read_settings
from espf.testing import OneAccount, check_desired_state, run_handler


@pytest.fixture
def server() -> Iterator[VoicemailServer]:
    """A voicemail system without mailboxes."""
    with VoicemailServer() as running:
        yield running


def options(server: VoicemailServer) -> dict[str, object]:
    """How to reach it."""
    return {
        "Voicemail.URL": server.url,
        "Voicemail.Token": TOKEN,
        "Voicemail.Minutes": "Gold=60; Silver=20",
        "Voicemail.Timeout": 0.5,
    }


async def test_it_keeps_what_handlers_of_its_kind_promise(server: VoicemailServer) -> None:
    """Repeats, order, shadow mode, secrets, time-out, cancellation: the kit has them all."""
    await check_desired_state(
        Voicemail,
        options(server),
        billing=OneAccount(product_name="Gold"),
        at=lambda host, port: {"Voicemail.URL": f"http://{host}:{port}"},
    )


async def test_the_best_product_counts_and_a_bar_closes_the_mailbox(
    server: VoicemailServer,
) -> None:
    """What is this handler's own."""
    addon = {"i_product": 6, "name": "Gold"}
    billing = OneAccount(product_name="Silver", assigned_addons=[addon], blocked="Y")
    event = billing.event("Account/ProductAddon/Inserted")
    verdict = await run_handler(Voicemail, options(server), event, billing=billing)
    assert verdict.outcome == "finished"
    box = {"open": "no", "minutes": "60", "pin": billing.account["h323_password"]}
    assert server.boxes == {billing.account["id"]: box}


async def test_without_a_product_that_has_one_there_is_no_mailbox(server: VoicemailServer) -> None:
    """And one that was there is removed."""
    billing = OneAccount(product_name="Bronze")
    server.boxes[str(billing.account["id"])] = {"open": "yes", "minutes": "20", "pin": "1"}
    event = billing.event("Account/Product/Changed")
    await run_handler(Voicemail, options(server), event, billing=billing)
    assert server.boxes == {}


def test_a_number_of_minutes_is_a_number() -> None:
    """Whoever sets it hears so at once, and no event fails because of it."""
    wrong = {"Voicemail.URL": "http://x", "Voicemail.Token": "t", "Voicemail.Minutes": "Gold=much"}
    with pytest.raises(InvalidRequest, match=r"Voicemail\.Minutes: the minutes of Gold are"):
        read_settings(Voicemail.Settings, wrong)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(503, "try later"), (429, "try later"), (401, "misconfigured"), (400, "rejected")],
)
async def test_each_refusal_has_its_verdict(
    server: VoicemailServer, status: int, outcome: str
) -> None:
    """As the table in the package's README says."""
    server.refuses = status
    billing = OneAccount(product_name="Gold")
    event = billing.event("Account/New")
    verdict = await run_handler(Voicemail, options(server), event, billing=billing)
    assert verdict.outcome == outcome
