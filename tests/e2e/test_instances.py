"""The configuration in the whole product: instances as processes, and what is applied to them."""

import asyncio
import signal
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import update

from databases import whatever_the_database
from espf.billing.tables import customers
from webhook import Answer, Webhook

pytestmark = pytest.mark.e2e


@asynccontextmanager
async def worker(desk, instance):
    """`evctl worker --instance` as a process; its words are there when it has ended."""
    process = desk.start("worker", "--instance", instance)
    words = []
    try:
        yield words
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate, timeout=90)
        words.append(said)
    assert process.returncode == 0, said


async def come_true(condition):
    async with asyncio.timeout(90):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.1)


def work(desk):
    """Which handlers each instance works for."""
    listed = desk.json("worker", "list")
    return {one["instance"]: {s["handler"] for s in one["shards"]} for one in listed}


def block(desk, blocked):
    desk.execute(update(customers).where(customers.c.i_customer == 1).values(blocked=blocked))


@whatever_the_database
async def test_each_instance_delivers_for_its_handlers_and_what_is_applied_holds_at_once(
    desk, monkeypatch
):
    monkeypatch.setitem(desk.environment, "ESPF_BILLING_URL", "http://127.0.0.1:1")
    monkeypatch.setitem(desk.environment, "ESPF_BILLING_LOGIN", "nobody")
    monkeypatch.setitem(desk.environment, "ESPF_BILLING_PASSWORD", "nothing")
    async with Webhook() as hook:
        desk("handler", "set", 3, "EventSender", f"EventSender.URL={hook.url}/one")
        desk(
            *("handler", "create", 3, "Other", "--type", "EventSender"),
            *("--set", f"EventSender.URL={hook.url}/other", "--set", "EventSender.APIVersion=1"),
            *("--set", "EventSender.AuthMethod=None"),
        )
        desk("config", "clone")
        desk(
            *("config", "set", 2, "--create-instance", "one", "ESPF.one.handlers=EventSender@3"),
            *("--create-instance", "other", "ESPF.other.handlers=Other@3"),
        )
        desk("config", "apply", 2)
        block(desk, "Y")
        async with worker(desk, "one"):
            await hook.wait_for(1)
            await come_true(lambda: work(desk) == {"one": {"EventSender"}})
            async with worker(desk, "other") as said:
                await hook.wait_for(2)
                await come_true(lambda: work(desk)["other"] == {"Other"})
                assert work(desk)["one"] == {"EventSender"}
                assert [r.path for r in hook.requests] == ["/one", "/other"]

                desk("config", "clone")
                desk(
                    *("config", "set", 3, "Provisioning.RetryDelays=0s", "ESPF.one.enabled=off"),
                    "Provisioning.LongTail=0sx100",
                )
                desk("config", "apply", 3)
                await come_true(lambda: work(desk) == {"one": set(), "other": {"Other"}})
                hook.then(*[Answer(503)] * 3)
                block(desk, "N")
                await hook.wait_for(6)
                assert {r.path for r in hook.requests[2:]} == {"/other"}, "it tries again at once"

                desk("maintenance", "on")
                await come_true(lambda: in_maintenance(desk))
                desk("config", "rollback", 2)
                await hook.wait_for(7)
                assert hook.requests[6].path == "/one", "it waited, and goes on"
                desk("config", "clone")
                desk("config", "set", 6, "--delete-instance", "other")
                desk("config", "apply", 6)
                await come_true(lambda: work(desk)["other"] == set())
    assert "instance other is not in the active configuration any more: it waits" in said[0]


def in_maintenance(desk):
    return desk.json("handler", "show", 3, "Other")["state"] == "maintenance"
