"""The handbook's check-list with real processes: from `evctl init` to the event at the receiver.

Set up; configure the handler; run; create an account with a SIM card over the API; see the event
arrive; change the billing from another program; see that in the list and in the log as well.
"""

import asyncio
import base64
import json
import re

import pytest
from sqlalchemy import func, select, update

from desk import new_account
from espf.billing.tables import accounts, customers
from espf.db.tables import event_notifications, event_queue
from webhook import Answer, Webhook

pytestmark = pytest.mark.e2e

KEY = "a key of the receiver"


async def finished(desk, count):
    """Wait until so many events are delivered; returns them as `evctl event list` shows them."""
    async with asyncio.timeout(90):
        while True:
            rows = await asyncio.to_thread(desk.json, "event", "list", "--status", "finished")
            if len(rows) >= count:
                return rows
            await asyncio.sleep(0.1)


async def test_the_handbooks_check_list(desk):
    async with Webhook() as hook:
        (desk.folder / "key").write_text(KEY)
        desk(
            *("handler", "set", 3, "EventSender", f"EventSender.URL={hook.url}", "RetryDelays=1s"),
            *("RetryJitter=0", "--set-file", "EventSender.BasicAuth.Key=key"),
        )
        hook.then(Answer(503, body="not yet\nplease wait"))
        async with desk.running() as base:
            i_account = await asyncio.to_thread(new_account, desk, base)
            await hook.wait_for(3)
            mine = accounts.c.i_account == i_account
            desk.execute(update(accounts).where(mine).values(blocked="Y"))
            requests = await hook.wait_for(4)
            events = await finished(desk, 3)

    # What arrived: in order, the first one twice under the same number, with the right credentials.
    said = [(r.json["event_type"], r.json["variables"]["i_account"]) for r in requests]
    types = ["Account/New", "Account/New", "Account/SIMCardAssignment", "Account/Blocked"]
    assert said == [(event_type, i_account) for event_type in types]
    assert requests[0].i_event == requests[1].i_event
    credentials = base64.b64encode(f"espf:{KEY}".encode()).decode()
    for request in requests:
        assert request.line == "POST / HTTP/1.1"
        assert request.headers["authorization"] == f"Basic {credentials}"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["date"].endswith(" GMT")
        assert list(request.json) == ["event_type", "variables"]
        assert list(request.json["variables"])[-1] == "i_event"
        assert request.json["variables"]["i_env"] == 3

    # What the administrator sees.
    assert [row["event_type"] for row in reversed(events)] == types[1:]
    assert {row["handler"] for row in events} == {"EventSender"}
    shown = desk.json("event", "show", requests[0].i_event)
    verdicts = [(one["attempt"], one["verdict"]) for one in shown["attempts"]]
    assert verdicts == [(1, "retry"), (2, "finished")]
    assert KEY not in json.dumps(shown)
    assert credentials not in json.dumps(shown)
    for table in (event_queue, event_notifications):
        assert desk.execute(select(func.count()).select_from(table)) == [(0,)]

    # What the log says: a line per failure and per final verdict, and no secret.
    lines = desk.log_file.read_text().splitlines()
    assert len(lines) == 4
    first = f"verdict=retry i_event={requests[0].i_event} type=Account/New key=account:{i_account}"
    assert first in lines[0]
    assert "handler=EventSender attempt=1" in lines[0]
    assert "503" in lines[0]
    assert " next_try=20" in lines[0]
    assert [re.search(r"verdict=(\w+)", line)[1] for line in lines[1:]] == ["finished"] * 3
    assert "attempt=2" in lines[1]
    assert KEY not in desk.log_file.read_text()


async def test_a_second_start_goes_on_where_the_first_ended(desk):
    """What happens while ESPF is down is delivered when it is up again."""
    async with Webhook() as hook:
        desk("handler", "set", 3, "EventSender", f"EventSender.URL={hook.url}")
        async with desk.running():
            desk.execute(update(customers).values(blocked="Y"))
            await hook.wait_for(1)
        desk.execute(update(customers).values(blocked="N"))
        async with desk.running():
            requests = await hook.wait_for(2)
    assert [request.json["event_type"] for request in requests] == [
        "Customer/Blocked",
        "Customer/Unblocked",
    ]
