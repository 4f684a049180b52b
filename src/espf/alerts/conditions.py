"""What is wrong now, as the database shows it, at a cost that does not grow with what waits."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection

from espf import depth, reconciliation, standing, statistics
from espf.configuration import Provisioning
from espf.db.database import Database
from espf.errors import EspfError
from espf.handlers.http import masked_url
from espf.leases import LEASE_SECONDS
from espf.model import Status, format_time
from espf.sources import MOST_COUNTED, RETRYING
from espf.standing import Standing, WorkerStanding
from espf.statistics import Step
from espf.subscriptions import EventHandler, list_handlers

#: Nothing is expected of a handler in these states.
_AT_REST = frozenset({"disabled", "maintenance", "paused"})

#: Characters of an error that are repeated.
_LONGEST_ERROR = 500


class Kind(StrEnum):
    """What can be wrong. The last one is told without the table, which is away then."""

    FAILING = "failing"
    FAILED = "failed"
    BREAKER = "breaker"
    WAITING = "waiting"
    WORKER = "worker"
    CAPTURE = "capture"
    AUDIT = "audit"
    SENDING = "sending"
    DATABASE = "database"


@dataclass(frozen=True)
class Condition:
    """Something that holds, since when, and about what.

    ``about`` tells those of a kind apart: the number of a handler, the identity of a worker.
    ``subject`` is what people call it. ``i_env`` None: it concerns the whole installation.
    ``count``: how many events failed within the hour, or entries are not as they should be.
    """

    kind: Kind
    about: str
    subject: str
    text: str
    since: datetime
    i_env: int | None = None
    count: int = 0


def current(
    connection: Connection, database: Database, limits: Provisioning, drifts: Sequence[str]
) -> list[Condition]:
    """All that is wrong; ``drifts`` are the differences between triggers and rules."""
    now = database.now(connection)
    working = [one for one in list_handlers(connection) if one.enabled]
    failures = _failures(connection, database)
    conditions = [
        condition
        for stands in standing.handlers(connection, database, *working)
        for condition in _of_handler(
            connection, stands, now, limits, failures.get(stands.handler.i_event_handler, 0)
        )
    ]
    conditions += _audited(connection, working)
    lost = timedelta(seconds=limits.alert_worker_lost)
    conditions += _lost_workers(standing.list_workers(connection, database), now, lost)
    if drifts and working:
        shown = "; ".join(drifts[:5]) + ("; and more" if len(drifts) > 5 else "")
        said = f"{len(drifts)} differ from the capture rules: {shown}."
        conditions.append(Condition(Kind.CAPTURE, "", "capture", said, now))
    return conditions


def _failures(connection: Connection, database: Database) -> dict[int, int]:
    """How many events of each handler were given up or rejected within the hour."""
    hour = statistics.sums(connection, database, Step.MINUTE, 60)
    return {number: one.failed + one.rejected for number, one in hour.items()}


def _of_handler(
    connection: Connection, stands: Standing, now: datetime, limits: Provisioning, failures: int
) -> Iterator[Condition]:
    handler, number = stands.handler, stands.handler.i_event_handler

    def condition(kind: Kind, text: str, since: datetime = now, count: int = 0) -> Condition:
        said = f"{text}{_system(handler)}"
        return Condition(kind, str(number), handler.name, said, since, handler.i_env, count)

    if stands.retrying:
        waits = "waits" if stands.retrying == 1 else "wait"
        said = f"{_events(stands.retrying)} {waits} for a retry"
        error = _example(connection, number, RETRYING)
        yield condition(Kind.FAILING, f"{said}{error}.")
    if stands.failed or failures:
        said = (
            f"{_events(failures)} given up or rejected within the last hour; "
            f"{_events(stands.failed)} that failed can be restarted"
        )
        error = _example(connection, number, Status.FAILED)
        yield condition(Kind.FAILED, f"{said}{error}.", count=failures)
    if stands.breakers:
        first = min(stands.breakers.values(), key=lambda one: one.since)
        workers = ", ".join(sorted(map(standing.short_name, stands.breakers)))
        said = f"Nothing gets through ({_error(first.reason)}), as {workers} found."
        yield condition(Kind.BREAKER, said, first.since)
    limit = timedelta(seconds=limits.alert_oldest_waiting)
    if stands.state not in _AT_REST and stands.oldest and now - stands.oldest > limit:
        said = (
            f"About {_events(stands.waiting + stands.retrying)} in all; the first happened at "
            f"{format_time(stands.oldest)} UTC. The handler's state: {stands.state}."
        )
        yield condition(Kind.WAITING, said, stands.oldest + limit)


def _audited(connection: Connection, working: Sequence[EventHandler]) -> Iterator[Condition]:
    """What the last audit of all has found and is not repaired; or that it came to no end."""
    auditable = {one.i_event_handler: one for one in working if one.brings_state}
    for number, audit in reconciliation.latest(connection, auditable).items():
        left = audit.differences - audit.repairs
        if audit.state == reconciliation.FAILED:
            said = f"Audit {audit.i_reconciliation} came to no end: {_error(audit.remark)}."
        elif left > 0:
            said = (
                f"Audit {audit.i_reconciliation} of {audit.compared:,} entries: "
                f"{audit.different:,} different, {audit.missing:,} missing, {audit.extra:,} too "
                f"many; {audit.repairs:,} are repaired or in the queue for it."
            )
        else:
            continue
        handler, since = auditable[number], audit.ended_at or audit.moved_at
        yield Condition(
            Kind.AUDIT, str(number), handler.name, said, since, handler.i_env, max(0, left)
        )


def _system(handler: EventHandler) -> str:
    """Which external system it is, where the options of the handler's type tell."""
    with suppress(EspfError):
        for name, value in handler.shown().items():
            if name.endswith("URL") and value:
                return f" The system: {masked_url(value)}."
    return ""


def _events(count: int) -> str:
    more = " or more" if count >= MOST_COUNTED else ""
    return f"{count:,}{more} event{'' if count == 1 else 's'}"


def _example(connection: Connection, i_event_handler: int, status: str) -> str:
    found = depth.example(connection, i_event_handler, status)
    return f", such as {found[0]}: {_error(found[1])}" if found else ""


def _error(reason: str | None) -> str:
    """A reason in one line, as an external system may have worded it."""
    return " ".join((reason or "no reason is known").split())[:_LONGEST_ERROR]


def _lost_workers(
    workers: Sequence[WorkerStanding], now: datetime, limit: timedelta
) -> Iterator[Condition]:
    alive = [one for one in workers if one.alive]
    # Each of them takes the place of one.
    successors = list(alive)
    for one in sorted(workers, key=lambda one: one.seen_until):
        if one.alive or now - one.seen_until < limit:
            continue
        silent = one.seen_until - timedelta(seconds=LEASE_SECONDS)
        heir = next((other for other in successors if _replaces(other, one, silent)), None)
        if heir is not None:
            successors.remove(heir)
            continue
        left = (
            f"{len(alive)} other{'' if len(alive) == 1 else 's'} can do its work"
            if alive
            else "no worker is there: nothing is delivered"
        )
        of = f" of the instance {one.instance}" if one.instance else ""
        said = f"The worker{of} did not sign off, and gave no sign of life since then; {left}."
        yield Condition(Kind.WORKER, one.worker, standing.short_name(one.worker), said, silent)


def _replaces(one: WorkerStanding, lost: WorkerStanding, silent: datetime) -> bool:
    """Whether a worker was started on the same machine, for the same work, since then."""
    same_host = one.worker.partition("/")[0] == lost.worker.partition("/")[0]
    return same_host and one.instance == lost.instance and one.started_at >= silent
