"""Dashboard: what needs attention first, how the handlers stand, how it went of late."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from sqlalchemy import Connection

from espf import alerts, configuration, schedule, standing, statistics, subscriptions
from espf.alerts import Kind
from espf.schedule import Planned
from espf.standing import Standing, WorkerStanding
from espf.statistics import Figures, Step
from espf.web.pages import charts
from espf.web.pages.charts import Chart
from espf.web.pages.visit import Visit, Visitor

pages = APIRouter(prefix="/env/{i_env}/dashboard")

#: Scheduled events that are shown.
AHEAD = 8

#: Alerts that are shown as they were noted last; of the others the page looks itself.
NOTED = frozenset({Kind.FAILING, Kind.WORKER, Kind.CAPTURE, Kind.AUDIT, Kind.SENDING})


@dataclass(frozen=True)
class Alarm:
    """Something that needs attention: how badly, what, and where to go."""

    tone: str
    text: str
    path: str


@dataclass(frozen=True)
class Line:
    """A handler: how it stands, and its last hour."""

    stands: Standing
    rate: float
    hour: Figures
    spark: Chart


@dataclass(frozen=True)
class Dashboard:
    """All that is shown."""

    alarms: Sequence[Alarm]
    lines: Sequence[Line]
    hour: Chart
    day: Chart
    workers: Sequence[WorkerStanding]
    ahead: Sequence[Planned]


@pages.get("")
async def show(visit: Annotated[Visit, Depends(Visitor())]) -> Response:
    """The page; it renews itself."""
    found = await visit.fetch(_read, visit)
    return visit.page("dashboard/show.html", found=found)


def _read(connection: Connection, visit: Visit) -> Dashboard:
    database, i_env = visit.site.database, visit.i_env
    mine = subscriptions.list_handlers(connection, i_env)
    stands = standing.handlers(connection, database, *mine)
    hour = statistics.series(connection, database, Step.MINUTE, 60, i_env, counts_only=True)
    sums = statistics.sums(connection, database, Step.MINUTE, 60, i_env)
    day = statistics.course(connection, database, Step.TEN_MINUTES, 144, i_env)
    rates = statistics.rates(connection, database, i_env)
    workers = standing.list_workers(connection, database)
    too_old = configuration.active(connection).content.provisioning.alert_oldest_waiting
    now = database.now(connection)
    works = any(one.alive for one in workers)
    lines = [
        Line(
            one,
            rates.get(one.handler.i_event_handler, 0.0),
            sums[one.handler.i_event_handler],
            charts.spark(
                f"{one.handler.name}, last hour",
                charts.told(hour.began_at, hour.handlers[one.handler.i_event_handler]),
            ),
        )
        for one in stands
    ]
    return Dashboard(
        alarms=[
            *_of_workers(workers, lines, visit),
            *(
                alarm
                for line in lines
                for alarm in _of_handler(line, visit, now, too_old, works=works)
            ),
            *_noted(connection, visit),
        ],
        lines=lines,
        hour=charts.bars(
            "Delivered in the last hour, by minute", charts.told(hour.began_at, hour.total())
        ),
        day=charts.bars(
            "Delivered in the last day, by ten minutes", charts.told(day, day.values())
        ),
        workers=[one for one in workers if one.alive],
        ahead=schedule.planned(connection, i_env, AHEAD),
    )


def _of_workers(
    workers: Sequence[WorkerStanding], lines: Sequence[Line], visit: Visit
) -> Iterator[Alarm]:
    path = "/system/workers" if visit.user.superuser else visit.path("handlers")
    if lines and not any(one.alive for one in workers):
        yield Alarm("bad", "No worker is there: nothing is delivered.", path)
    if any(one.stands.maintenance for one in lines):
        yield Alarm("warn", "Maintenance: all deliveries wait.", path)
    if not lines:
        yield Alarm(
            "info", "There is no event handler yet: nobody hears of anything.", visit.path("setup")
        )


def _noted(connection: Connection, visit: Visit) -> Iterator[Alarm]:
    everywhere = visit.user.superuser
    for one in alerts.list_alerts(connection, visit.i_env, everywhere=everywhere):
        if one.kind in NOTED:
            tone = "warn" if one.kind is Kind.FAILING else "bad"
            said = f"{alerts.headline(one)} since {one.since:%Y-%m-%d %H:%M} UTC: {one.text}"
            yield Alarm(tone, said, alerts.path(one))


def _of_handler(
    line: Line, visit: Visit, now: datetime, too_old_seconds: int, *, works: bool
) -> Iterator[Alarm]:
    """``works``: there is a worker at all."""
    stands, handler = line.stands, line.stands.handler
    path = visit.path("handlers", handler.i_event_handler)
    events = visit.path("events")
    if missing := handler.missing(visit.site.sealer):
        yield Alarm("warn", f"{handler.name} is not configured: {missing}", f"{path}/configuration")
    for worker, breaker in stands.breakers.items():
        yield Alarm(
            "bad",
            f"{handler.name}: the circuit breaker is {breaker.state} "
            f"({breaker.reason or 'no reason is known'}, {standing.short_name(worker)})",
            path,
        )
    if stands.failed:
        yield Alarm(
            "bad",
            f"{handler.name}: {stands.failed:,} events have failed",
            f"{events}?{urlencode({'handler': handler.name, 'status': 'failed'})}",
        )
    if stands.oldest and now - stands.oldest > timedelta(seconds=too_old_seconds):
        yield Alarm(
            "warn",
            f"{handler.name} ({stands.state}): the oldest event waits since "
            f"{stands.oldest:%Y-%m-%d %H:%M} UTC",
            f"{events}?{urlencode({'handler': handler.name, 'status': 'queued'})}",
        )
    if stands.state == "unattended" and works and not missing:
        yield Alarm("bad", f"{handler.name}: no worker is there for it", path)
