"""Traces: one per event, whoever works on it and however often; none where nobody wants them."""

import asyncio
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from databases import whatever_the_database
from desk import Desk
from espf.worker.tracing import Tracer
from house import House
from webhook import Answer, Webhook

pytestmark = whatever_the_database


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


@pytest.fixture
def memory():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(memory):
    made = Tracer(b"this installation")
    made.provider.add_span_processor(SimpleSpanProcessor(memory))
    yield made
    made.close()


def by_name(memory):
    spans = {}
    for span in memory.get_finished_spans():
        spans.setdefault(span.name, []).append(span)
    return spans


async def test_an_event_has_one_trace_from_its_trigger_to_the_stored_result(house, tracer, memory):
    async with Webhook() as hook:
        hook.then(Answer(status=503))
        house.handler(hook.url, RetryDelays="0s", RetryJitter=0)
        i_event = house.event(i_account=5)
        async with house.working(tracer=tracer):
            await house.until("finished")
    spans = by_name(memory)
    assert {name: len(some) for name, some in spans.items()} == {
        "wait": 1,
        "attempt": 2,
        "settle": 2,
        "Account/Blocked": 1,
    }
    (whole,), attempts = spans["Account/Blocked"], spans["attempt"]
    assert len({span.context.trace_id for some in spans.values() for span in some}) == 1
    parts = [*spans["wait"], *attempts, *spans["settle"]]
    assert {span.parent.span_id for span in parts} == {whole.context.span_id}
    assert whole.parent is None
    assert whole.attributes == {
        "espf.i_event": i_event,
        "espf.i_env": 1,
        "espf.handler": "Sender",
        "espf.verdict": "finished",
        "espf.attempts": 2,
    }
    assert [span.attributes["espf.attempt"] for span in attempts] == [1, 2]
    assert [span.status.is_ok for span in attempts] == [False, True]
    assert whole.start_time <= spans["wait"][0].start_time
    for attempt, settle in zip(attempts, spans["settle"], strict=True):
        assert attempt.start_time <= attempt.end_time == settle.start_time <= settle.end_time
    assert spans["settle"][-1].end_time == whole.end_time


async def test_handlers_of_an_event_share_its_trace_and_another_event_has_its_own(
    house, tracer, memory
):
    async with Webhook() as hook:
        house.handler(hook.url, "One")
        house.handler(hook.url, "Two")
        house.event(i_account=5)
        house.event(i_account=6)
        async with house.working(tracer=tracer):
            await house.until("finished")
    wholes = by_name(memory)["Account/Blocked"]
    assert len({span.context.span_id for span in wholes}) == 4
    traces = {span.context.trace_id: span.attributes["espf.i_event"] for span in wholes}
    assert sorted(traces.values()) == [1, 2]


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("way", ["plain", "through a proxy"])
async def test_a_receiver_is_told_of_the_trace_where_the_option_is_on(
    house, tracer, memory, wanted, way
):
    async with Webhook() as hook:
        # What goes through a proxy goes the long way; the receiver takes its requests, too.
        proxy = {} if way == "plain" else {"EventSender.Proxy": hook.url}
        house.handler(hook.url, TraceContext=wanted, **proxy)
        house.event(i_account=5)
        async with house.working(tracer=tracer):
            await house.until("finished")
    (request,), (attempt,) = hook.requests, by_name(memory)["attempt"]
    told = request.headers.get("traceparent")
    context = attempt.context
    expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    assert told == (expected if wanted else None)
    (row,) = house.rows("Provisioning_Log_Texts")[:1]
    assert "traceparent" not in row["content"]


async def test_without_traces_the_receiver_is_told_of_none(house):
    async with Webhook() as hook:
        house.handler(hook.url, TraceContext=True)
        house.event()
        async with house.working():
            await house.until("finished")
    assert "traceparent" not in hook.requests[0].headers


async def test_what_is_not_sampled_is_not_traced_and_the_receiver_knows(house, memory, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    tracer = Tracer(b"this installation")
    tracer.provider.add_span_processor(SimpleSpanProcessor(memory))
    async with Webhook() as hook:
        house.handler(hook.url, TraceContext=True)
        house.event()
        async with house.working(tracer=tracer):
            await house.until("finished")
    tracer.close()
    assert memory.get_finished_spans() == ()
    (request,) = hook.requests
    assert request.headers["traceparent"].endswith("-00")


async def test_a_process_sends_its_traces_to_the_collector_that_is_named(desk: Desk):
    async with Webhook() as collector, Webhook() as hook:
        desk("handler", "set", "3", "EventSender", f"EventSender.URL={hook.url}")
        desk.environment |= {
            "ESPF_TRACES": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url.rstrip("/"),
        }
        async with desk.running():
            desk("event", "create", "3", "Account/Blocked")
            await hook.wait_for(1)
        assert collector.requests
        assert b"Account/Blocked" in b"".join(r.body for r in collector.requests)


def test_nothing_of_it_is_loaded_where_it_is_not_wanted():
    asked = "import sys, espf.cli.process; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"


async def test_without_the_packages_it_is_said_what_to_install(desk: Desk):
    blocked = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; from espf.cli import main; main()"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", blocked, "run"),
        env={
            **desk.environment,
            "ESPF_TRACES": "1",
            "PATH": "/usr/bin",
            "PYTHONPATH": ":".join(sys.path),
        },
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 2
    assert b"espf[otel]" in said.splitlines()[-1]
