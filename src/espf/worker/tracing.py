"""Traces for OpenTelemetry: one per event, from its trigger to the reply and the stored result.

All that ESPF does for an event is in one trace, whichever worker does it and however often it is
tried: the trace's number is made from the event's. In it each handler has a span that lasts from
the event to the verdict, and below it what happened: ``wait`` (from the event until it was read),
``attempt`` (from sending to the end of the reply), ``settle`` (until the result was stored).

Imported only where traces are on: the packages come with the extra ``otel``. Where they go is said
by the variables ``OTEL_...`` that OpenTelemetry itself defines.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from espf import model
from espf.backlog import Found
from espf.model import Notification, Settled

_NOTHING = Context()


@dataclass
class _Attempt:
    parent: Context
    span: Span
    began: int


class _Ids(RandomIdGenerator):
    """Numbers by chance, but for the spans whose numbers all workers have to agree on."""

    def __init__(self) -> None:
        self.chosen: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        """See IdGenerator."""
        return self.chosen[0] if self.chosen else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """See IdGenerator."""
        return self.chosen[1] if self.chosen else super().generate_span_id()


class Tracer:
    """Makes the spans of one worker. ``installation`` tells one installation's events from others'.

    The provider is shut down by ``close``; its spans have the resource's ``service.name`` espf,
    unless the environment says otherwise.
    """

    def __init__(self, installation: bytes) -> None:
        self._installation = installation
        self._ids = _Ids()
        self.provider = TracerProvider(
            resource=Resource({"service.name": "espf"}).merge(Resource.create()),
            id_generator=self._ids,
        )
        self._tracer = self.provider.get_tracer("espf")
        self._attempts: dict[tuple[int, int], _Attempt] = {}

    def close(self) -> None:
        """Send what has not been sent yet."""
        self.provider.shutdown()

    def read(self, found: Sequence[Found]) -> None:
        """Note when these were read."""
        now = time.time_ns()
        for one in found:
            parts = (one.new, one.late, one.again, *(some for _, _, some in one.refilled))
            followers = (due for _, due, _ in one.followers)
            for notification in chain(
                one.due, *followers, (first for part in parts for first, _ in part)
            ):
                notification.read_at = now

    def begin(self, notification: Notification, handler: str) -> str:
        """An attempt goes out; returns what to tell its receiver, as ``traceparent`` says it."""
        now = time.time_ns()
        event = notification.event
        parent, sampled = self._parent(notification)
        started = notification.read_at or now
        if notification.attempts == 0 and notification.since is not None:
            waiting = self._tracer.start_span(
                "wait", parent, start_time=min(_ns(notification.since), started)
            )
            waiting.end(started)
        span = self._tracer.start_span("attempt", parent, SpanKind.CLIENT, start_time=now)
        span.set_attributes(
            {
                "espf.i_event": event.i_event,
                "espf.i_env": event.i_env,
                "espf.event_type": event.event_type,
                "espf.handler": handler,
                "espf.attempt": notification.attempts + 1,
            }
        )
        self._attempts[_place(notification)] = _Attempt(parent, span, now)
        context = span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{sampled:02x}"

    def settled(self, batch: Sequence[Settled]) -> None:
        """What became of attempts is stored."""
        now = time.time_ns()
        for one in batch:
            result = one.result
            attempt = self._attempts.pop(_place(result.notification), None)
            if attempt is not None:
                replied = min(now, attempt.began + result.duration_ms * 1_000_000)
                if result.decision.reason is not None:
                    attempt.span.set_status(StatusCode.ERROR, result.decision.reason)
                attempt.span.end(replied)
                storing = self._tracer.start_span("settle", attempt.parent, start_time=replied)
                storing.end(now)
            if one.applied and result.decision.status is not model.Status.QUEUED:
                self._end(one, now)

    def _end(self, one: Settled, now: int) -> None:
        """The span of all that a handler had to do with the event."""
        result, event = one.result, one.result.notification.event
        since = result.notification.since
        self._ids.chosen = self._numbers(result.notification)
        try:
            span = self._tracer.start_span(
                event.event_type,
                _NOTHING,
                SpanKind.CONSUMER,
                start_time=now if since is None else min(_ns(since), now),
            )
        finally:
            self._ids.chosen = None
        span.set_attributes(
            {
                "espf.i_event": event.i_event,
                "espf.i_env": event.i_env,
                "espf.handler": result.handler,
                "espf.verdict": str(result.decision.status),
                "espf.attempts": result.attempt,
            }
        )
        if result.decision.status in {model.Status.FAILED, model.Status.REJECTED}:
            span.set_status(StatusCode.ERROR, result.decision.reason)
        span.end(now)

    def _parent(self, notification: Notification) -> tuple[Context, int]:
        """The span of the handler's whole work, which ends later, maybe elsewhere."""
        trace, span = self._numbers(notification)
        decision = self.provider.sampler.should_sample(None, trace, "event").decision
        flags = TraceFlags(decision is Decision.RECORD_AND_SAMPLE)
        context = SpanContext(trace, span, is_remote=True, trace_flags=flags)
        return set_span_in_context(NonRecordingSpan(context), _NOTHING), flags

    def _numbers(self, notification: Notification) -> tuple[int, int]:
        """Of the trace and of the handler's span in it; the same for every worker."""
        event, handler = notification.event.i_event, notification.i_event_handler
        trace = blake2b(b"%d" % event, key=self._installation, digest_size=16)
        span = blake2b(b"%d %d" % (event, handler), key=self._installation, digest_size=8)
        return int.from_bytes(trace.digest(), "big"), int.from_bytes(span.digest(), "big")


def export(tracer: Tracer) -> None:
    """Send the spans where ``OTEL_EXPORTER_OTLP_...`` says, in batches, beside the work."""
    tracer.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def _place(notification: Notification) -> tuple[int, int]:
    return notification.i_event_handler, notification.position


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
