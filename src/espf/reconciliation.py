"""Audits: what an external system holds, compared with what the billing wants it to hold.

An audit of a million subscribers takes hours. How far it has come is in the database, together with
what was counted and found on the way, so that whoever carries it on begins where it stopped and
counts nothing twice. Here is that record; ``espf.reconciler`` does the work.

Of a handler there is one audit at a time. What is found can be repaired: an event for this handler
alone, in the lane of its account, by which the handler looks at one entry again.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, or_, select, update

from espf.crypto import Sealer
from espf.db.database import Database
from espf.db.tables import event_notifications, reconciliation_findings, reconciliations
from espf.db.walk import Progress
from espf.errors import Conflict, InvalidRequest, LeaseLost, NotFound
from espf.handlers import registry
from espf.handlers.desired import (
    RECONCILE,
    DesiredStateSettings,
    Difference,
    daily_time,
)
from espf.maintenance import hold
from espf.model import Status, compact
from espf.queue import add_all
from espf.subscriptions import EventHandler

RUNNING, DONE, CANCELLED, FAILED = "running", "done", "cancelled", "failed"
STATES = (RUNNING, DONE, CANCELLED, FAILED)

#: What is gone through, one after the other; the last one where somebody asks for it afterwards.
ACCOUNTS, HELD, REPAIR = "accounts", "held", "repair"

#: How an entry may differ; and that it could not be compared.
Kind = Literal["different", "missing", "extra", "failed"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: What can be repaired.
REPAIRABLE: tuple[Kind, ...] = ("different", "missing", "extra")

#: How long audits are remembered, and how many of a handler.
KEPT = timedelta(days=30)
MOST_KEPT = 20

#: Without a sign of life for so long, whoever carries one on is gone.
CARRIED = timedelta(seconds=30)

#: With so many events of its handler waiting, no more repairs are put behind them.
MOST_WAITING = 1000

#: Accounts that can be named one by one.
MOST_ACCOUNTS = 1000

#: After its time of the day an audit begins so much later at most.
GRACE = timedelta(hours=1)

#: Who begins the audits of each day.
SCHEDULE = "schedule"


@dataclass(frozen=True)
class Scope:
    """Whom an audit is about: some accounts, those that have a product, or all there are.

    An account is named by its id or its ``i_account``, a product by its name or its ``i_product``.
    Only an audit of all finds what the system holds for nobody.
    """

    accounts: tuple[str, ...] = ()
    product: str | None = None

    @property
    def is_all(self) -> bool:
        """Whether it is about everything."""
        return not self.accounts and self.product is None

    def __str__(self) -> str:
        if self.product is not None:
            return f"product {self.product}"
        if len(self.accounts) == 1:
            return f"account {self.accounts[0]}"
        return f"{len(self.accounts)} accounts" if self.accounts else "all"


@dataclass(frozen=True)
class Finding:
    """An entry that is not as it should be; ``reason`` is why it could not be compared.

    ``i_account`` None: by the billing it is nobody's. ``i_event`` is the event that repairs it.
    """

    key: str
    kind: Kind
    i_account: int | None = None
    differences: Sequence[Difference] = ()
    reason: str | None = None
    i_finding: int = 0
    i_event: int | None = None

    @property
    def text(self) -> str:
        """What is wrong, in one line."""
        return self.reason or ", ".join(map(str, self.differences))


@dataclass(frozen=True)
class Reconciliation:
    """An audit. ``reached`` is how far it has come in its ``phase``, in the words of whoever works.

    ``last_account`` is the number of the last account when it began, where that is known.
    ``repairs_what`` are the kinds that are repaired as they are found, ``repairs`` the events that
    were made for it. ``remark``: what it waits for, why it failed, what could not be compared.
    ``moved_at`` is when the last step was taken.
    """

    i_reconciliation: int
    i_env: int
    i_event_handler: int
    handler: str
    begun_by: str
    scope: Scope
    repairs_what: tuple[Kind, ...]
    rate: int
    state: str
    phase: str
    reached: str
    last_account: int | None
    accounts: int
    held_keys: int
    same: int
    different: int
    missing: int
    extra: int
    failed: int
    repairs: int
    remark: str | None
    carrier: str
    carried_until: datetime | None
    begun_at: datetime
    moved_at: datetime
    ended_at: datetime | None

    @property
    def differences(self) -> int:
        """How many entries are not as they should be."""
        return self.different + self.missing + self.extra

    @property
    def compared(self) -> int:
        """How many entries were looked at."""
        return self.same + self.differences + self.failed

    @property
    def is_clean(self) -> bool:
        """Whether all that was to be compared is as it should be."""
        return self.state == DONE and not self.differences and not self.failed

    @property
    def is_running(self) -> bool:
        """Whether there is something left to do."""
        return self.state == RUNNING

    def share(self) -> float | None:
        """About how much of its phase is done, from 0 to 1; None: nobody knows."""
        if not self.is_running:
            return 1.0
        if self.phase == ACCOUNTS:
            end = len(self.scope.accounts) or self.last_account
            return min(1.0, int(self.reached or 0) / end) if end else None
        if self.phase == HELD:
            held = self.same + self.different + self.extra
            return min(1.0, self.held_keys / held) if held else None
        return min(1.0, self.repairs / (self.differences or 1))


@dataclass(frozen=True)
class Step:
    """What was done at once: what was found, and how far one has come with it.

    ``accounts``, ``held_keys`` and ``same`` are added to the counts. ``phase`` None: that was all.
    """

    phase: str | None
    reached: str = ""
    accounts: int = 0
    held_keys: int = 0
    same: int = 0
    findings: Sequence[Finding] = ()
    last_account: int | None = None
    remark: str | None = None


@dataclass(frozen=True)
class FindingPage:
    """Findings in the order in which they were found; ``next``: more come behind this one."""

    findings: list[Finding] = field(default_factory=list)
    next: int | None = None


# Whom there is to audit


def settings_of(handler: EventHandler, sealer: Sealer) -> DesiredStateSettings:
    """Its options.

    Raises Conflict where there is nothing to compare, or something is not set yet.
    """
    if not handler.brings_state:
        registry.handler_type(handler.type)
        raise Conflict(
            f"handler {handler.name} is of type {handler.type}, which passes events on: there is "
            "nothing that its system should hold, and so nothing to compare"
        )
    if missing := handler.missing(sealer):
        raise Conflict(f"handler {handler.name} is not configured yet: {missing}")
    settings = handler.build(sealer).settings
    assert isinstance(settings, DesiredStateSettings)
    return settings


# What people do


def begin(
    connection: Connection,
    database: Database,
    sealer: Sealer,
    handler: EventHandler,
    scope: Scope,
    by: str,
    *,
    repairs: bool = False,
    rate: int | None = None,
) -> Reconciliation:
    """Have a handler audited by whoever carries audits on.

    ``rate`` is how many entries are compared a second; None: as its settings say. Raises Conflict
    while it is being audited, and what ``settings_of`` raises.
    """
    settings = settings_of(handler, sealer)
    _require_scope(scope)
    hold(connection, database, __name__)
    _require_idle(connection, handler.i_event_handler, handler.name)
    now = database.now(connection)
    made = connection.execute(
        insert(reconciliations).values(
            i_env=handler.i_env,
            i_event_handler=handler.i_event_handler,
            handler=handler.name,
            begun_by=by[:64],
            scope=_scope_text(scope),
            repairs_what=",".join(REPAIRABLE) if repairs else "",
            rate=rate or settings.audit_rate,
            state=RUNNING,
            phase=ACCOUNTS,
            reached="",
            begun_at=now,
            moved_at=now,
        )
    )
    assert made.inserted_primary_key is not None
    database.announce(connection)
    return find(connection, handler.i_env, int(made.inserted_primary_key[0]))


def cancel(
    connection: Connection, database: Database, i_env: int, i_reconciliation: int
) -> Reconciliation:
    """Let it be: what is found stays, and what is in the queue is done. Raises NotFound."""
    one = _locked(connection, i_env, i_reconciliation)
    if not one.is_running:
        return one
    # An audit that is repaired afterwards has come to its end before.
    state = DONE if one.phase == REPAIR else CANCELLED
    return _ended(connection, database, one, state, None)


def repair_all(
    connection: Connection,
    database: Database,
    i_env: int,
    i_reconciliation: int,
    kinds: Collection[Kind] = REPAIRABLE,
) -> Reconciliation:
    """Have all repaired that an audit has found and is not repaired yet, a part at a time.

    Raises NotFound, Conflict unless it is done, or while another audit of the handler runs.
    """
    hold(connection, database, __name__)
    one = _locked(connection, i_env, i_reconciliation)
    _require_idle(connection, one.i_event_handler, one.handler)
    if one.state != DONE:
        raise Conflict(f"audit {i_reconciliation} did not come to its end: begin another one")
    wanted = [kind for kind in REPAIRABLE if kind in kinds]
    _update(
        connection,
        one,
        state=RUNNING,
        phase=REPAIR,
        reached="0",
        repairs_what=",".join(wanted),
        moved_at=database.now(connection),
    )
    database.announce(connection)
    return find(connection, i_env, i_reconciliation)


def repair(
    connection: Connection,
    database: Database,
    i_env: int,
    i_reconciliation: int,
    numbers: Collection[int],
    kinds: Collection[Kind] = REPAIRABLE,
) -> int:
    """Have some findings repaired at once, by their numbers; those that are already, are not again.

    Those of other ``kinds`` stay as they are.

    Returns how many events were put into the queue. Raises NotFound.
    """
    one = _locked(connection, i_env, i_reconciliation)
    c = reconciliation_findings.c
    rows = connection.execute(
        select(reconciliation_findings)
        .where(
            c.i_reconciliation == i_reconciliation,
            c.i_finding.in_(sorted(numbers)),
            c.kind.in_(sorted(kinds)),
        )
        .order_by(c.i_finding)
    )
    count = _repair(connection, database, one, [_finding(row) for row in rows])
    _update(connection, one, repairs=one.repairs + count)
    return count


# What people see


def find(connection: Connection, i_env: int, i_reconciliation: int) -> Reconciliation:
    """One of an environment. Raises NotFound."""
    return _found(connection, i_env, i_reconciliation, lock=False)


def unknown(i_reconciliation: int) -> NotFound:
    """What is said where there is no such audit."""
    return NotFound(f"there is no audit {i_reconciliation}")


def recent(
    connection: Connection,
    i_env: int,
    i_event_handler: int | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Reconciliation]:
    """Those of an environment, or of one handler, the newest first, from ``before`` on."""
    c = reconciliations.c
    query = select(reconciliations).where(c.i_env == i_env)
    if i_event_handler is not None:
        query = query.where(c.i_event_handler == i_event_handler)
    if before is not None:
        query = query.where(c.i_reconciliation < before)
    return [
        _of_row(row)
        for row in connection.execute(query.order_by(c.i_reconciliation.desc()).limit(limit))
    ]


def running(connection: Connection, i_event_handler: int) -> Reconciliation | None:
    """The audit of a handler that is under way."""
    c = reconciliations.c
    row = connection.execute(
        select(reconciliations).where(c.i_event_handler == i_event_handler, c.state == RUNNING)
    ).first()
    return None if row is None else _of_row(row)


def latest(
    connection: Connection, handlers: Iterable[int], *, failed: bool = True
) -> dict[int, Reconciliation]:
    """The last audit of each handler that went through all there is, or with ``failed`` was to."""
    found = {}
    c = reconciliations.c
    states = (DONE, FAILED) if failed else (DONE,)
    for number in handlers:
        row = connection.execute(
            select(reconciliations)
            .where(
                c.i_event_handler == number,
                c.scope == _scope_text(Scope()),
                or_(c.state.in_(states), c.phase == REPAIR),
            )
            .order_by(c.i_reconciliation.desc())
            .limit(1)
        ).first()
        if row is not None:
            found[number] = _of_row(row)
    return found


def findings(
    connection: Connection,
    i_reconciliation: int,
    kinds: Collection[str] = (),
    after: int = 0,
    limit: int = 100,
) -> FindingPage:
    """The findings behind ``after``, of these kinds or all."""
    c = reconciliation_findings.c
    query = select(reconciliation_findings).where(
        c.i_reconciliation == i_reconciliation, c.i_finding > after
    )
    if kinds:
        query = query.where(c.kind.in_(sorted(kinds)))
    rows = connection.execute(query.order_by(c.i_finding).limit(limit + 1)).all()
    page = [_finding(row) for row in rows[:limit]]
    return FindingPage(page, page[-1].i_finding if len(rows) > limit else None)


def all_findings(
    database: Database, i_reconciliation: int, kinds: Collection[str] = ()
) -> Iterator[list[Finding]]:
    """All findings, some at a time, in transactions of their own; at first none."""
    yield []
    after: int | None = 0
    while after is not None:
        with database.read() as connection:
            page = findings(connection, i_reconciliation, kinds, after, database.dialect.batch)
        yield page.findings
        after = page.next


#: The columns of findings as CSV.
CSV_COLUMNS = ("kind", "key", "i_account", "differences", "i_event")


def to_csv(some: Iterable[Finding], *, head: bool = False) -> str:
    """Findings as CSV; ``head``: with the names of the columns before them."""
    text = io.StringIO()
    writer = csv.writer(text)
    if head:
        writer.writerow(CSV_COLUMNS)
    for one in some:
        writer.writerow([one.kind, _cell(one.key), one.i_account, _cell(one.text), one.i_event])
    return text.getvalue()


def _cell(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


# What whoever carries audits on does


def due(connection: Connection, database: Database, handler: EventHandler, sealer: Sealer) -> bool:
    """Whether the audit of the day is to begin, by the settings of the handler."""
    at = settings_of(handler, sealer).audit_at
    if not at:
        return False
    now = database.now(connection)
    moment = last_time(at, now)
    if now - moment > GRACE or running(connection, handler.i_event_handler):
        return False
    c = reconciliations.c
    begun = connection.execute(
        select(func.count())
        .select_from(reconciliations)
        .where(
            c.i_event_handler == handler.i_event_handler,
            c.begun_by == SCHEDULE,
            c.begun_at >= moment,
        )
    ).scalar_one()
    return not begun


def last_time(at: str, now: datetime) -> datetime:
    """When it was this time of the day last."""
    clock = daily_time(at)
    today = now.astimezone(clock.tzinfo).date()
    moments = (
        datetime.combine(today - timedelta(days=days), clock).astimezone(now.tzinfo)
        for days in (0, 1)
    )
    return next(moment for moment in moments if moment <= now)


def untended(connection: Connection, database: Database) -> list[Reconciliation]:
    """Those that are under way and that nobody carries on now."""
    c = reconciliations.c
    now = database.now(connection)
    rows = connection.execute(
        select(reconciliations)
        .where(c.state == RUNNING, or_(c.carrier == "", c.carried_until < now))
        .order_by(c.i_reconciliation)
    )
    return [_of_row(row) for row in rows]


def take(
    connection: Connection, database: Database, i_env: int, i_reconciliation: int, carrier: str
) -> Reconciliation | None:
    """Carry one on from now; None: it has ended, or somebody else does. Raises NotFound."""
    one = _locked(connection, i_env, i_reconciliation)
    now = database.now(connection)
    others = one.carrier not in {"", carrier}
    if not one.is_running or (others and one.carried_until and one.carried_until >= now):
        return None
    _update(connection, one, carrier=carrier, carried_until=now + CARRIED)
    return find(connection, i_env, i_reconciliation)


def keep(connection: Connection, database: Database, one: Reconciliation, carrier: str) -> bool:
    """Give a sign of life; False: it has ended, or somebody else carries it on."""
    c = reconciliations.c
    kept = connection.execute(
        update(reconciliations)
        .where(c.i_reconciliation == one.i_reconciliation, c.state == RUNNING, c.carrier == carrier)
        .values(carried_until=database.now(connection) + CARRIED)
    )
    return bool(kept.rowcount)


def let_go(connection: Connection, one: Reconciliation, carrier: str) -> None:
    """Carry it on no more: whoever comes next need not wait."""
    c = reconciliations.c
    connection.execute(
        update(reconciliations)
        .where(c.i_reconciliation == one.i_reconciliation, c.carrier == carrier)
        .values(carrier="", carried_until=None)
    )


def has_room(connection: Connection, one: Reconciliation) -> bool:
    """Whether more repairs may be put behind what waits for the handler."""
    n = event_notifications.c
    some = (
        select(n.position)
        .where(n.i_event_handler == one.i_event_handler, n.status == Status.QUEUED)
        .limit(MOST_WAITING)
        .subquery()
    )
    count = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return int(count) < MOST_WAITING


def store(
    connection: Connection, database: Database, one: Reconciliation, carrier: str, step: Step
) -> Reconciliation:
    """Store a step: what was found, the events that repair it, and how far one has come.

    Raises LeaseLost when it has ended meanwhile, or somebody else carries it on.
    """
    before = _mine(connection, one, carrier)
    now = database.now(connection)
    counts = Counter[str](finding.kind for finding in step.findings)
    stored = _add_findings(connection, before, step.findings, now)
    wanted = [finding for finding in stored if finding.kind in before.repairs_what]
    repaired = _repair(connection, database, before, wanted)
    _update(
        connection,
        before,
        phase=step.phase or before.phase,
        reached=step.reached,
        last_account=step.last_account or before.last_account,
        accounts=before.accounts + step.accounts,
        held_keys=before.held_keys + step.held_keys,
        same=before.same + step.same,
        **{kind: getattr(before, kind) + counts[kind] for kind in KINDS},
        repairs=before.repairs + repaired,
        remark=step.remark,
        moved_at=now,
        carried_until=now + CARRIED,
    )
    after = find(connection, before.i_env, before.i_reconciliation)
    return after if step.phase else _ended(connection, database, after, DONE, step.remark)


def repair_next(
    connection: Connection, database: Database, one: Reconciliation, carrier: str, limit: int
) -> Reconciliation:
    """Put the next repairs of a whole audit into the queue. Raises as ``store``."""
    before = _mine(connection, one, carrier)
    page = findings(
        connection, one.i_reconciliation, before.repairs_what, int(before.reached or 0), limit
    )
    count = _repair(connection, database, before, page.findings)
    _update(
        connection,
        before,
        reached=str(page.next or ""),
        repairs=before.repairs + count,
        remark=None,
        moved_at=database.now(connection),
    )
    after = find(connection, before.i_env, before.i_reconciliation)
    return after if page.next else _ended(connection, database, after, DONE, None)


def wait(
    connection: Connection, one: Reconciliation, carrier: str, remark: str | None
) -> Reconciliation:
    """Say what an audit waits for. Raises as ``store``."""
    before = _mine(connection, one, carrier)
    if before.remark != remark:
        _update(connection, before, remark=remark)
    return replace(before, remark=remark)


def fail(
    connection: Connection, database: Database, one: Reconciliation, carrier: str, reason: str
) -> Reconciliation:
    """End one that cannot go on. Raises as ``store``."""
    return _ended(connection, database, _mine(connection, one, carrier), FAILED, reason)


# What the janitor does


def forget_next(
    database: Database, size: int, connection: Connection, _after: int
) -> Progress | None:
    """Remove a part of what is old; None: nothing is."""
    old = _old(connection, database.now(connection))
    if not old:
        return None
    c = reconciliation_findings.c
    rows = connection.execute(
        select(c.i_finding).where(c.i_reconciliation == old[0]).order_by(c.i_finding).limit(size)
    )
    numbers = list(rows.scalars())
    connection.execute(delete(reconciliation_findings).where(c.i_finding.in_(numbers)))
    if len(numbers) < size:
        connection.execute(
            delete(reconciliations).where(reconciliations.c.i_reconciliation == old[0])
        )
    return Progress(len(numbers), old[0])


def _old(connection: Connection, now: datetime) -> list[int]:
    """The audits that are remembered no more."""
    c = reconciliations.c
    rows = connection.execute(
        select(c.i_reconciliation, c.i_event_handler, c.moved_at)
        .where(c.state != RUNNING)
        .order_by(c.i_reconciliation.desc())
    )
    met = Counter[int]()
    old = []
    for row in rows:
        met[row.i_event_handler] += 1
        if row.moved_at < now - KEPT or met[row.i_event_handler] > MOST_KEPT:
            old.append(row.i_reconciliation)
    return old


# Rows


def _require_scope(scope: Scope) -> None:
    if scope.accounts and scope.product is not None:
        raise InvalidRequest("product: accounts are named, too; name one or the other", "product")
    if len(scope.accounts) > MOST_ACCOUNTS:
        raise InvalidRequest(f"accounts: at most {MOST_ACCOUNTS:,} can be named", "accounts")
    if any(not one.strip() for one in scope.accounts):
        raise InvalidRequest("accounts: an empty one names nobody", "accounts")
    if scope.product is not None and not scope.product.strip():
        raise InvalidRequest("product: an empty name names nothing", "product")


def _require_idle(connection: Connection, i_event_handler: int, name: str) -> None:
    other = running(connection, i_event_handler)
    if other is not None:
        raise Conflict(
            f"handler {name} is being audited: audit {other.i_reconciliation} of {other.scope}, "
            f"begun by {other.begun_by}"
        )


def _add_findings(
    connection: Connection, one: Reconciliation, some: Sequence[Finding], now: datetime
) -> list[Finding]:
    """Store findings; returns them with their numbers."""
    if not some:
        return []
    c = reconciliation_findings.c
    last = connection.execute(
        select(func.max(c.i_finding)).where(c.i_reconciliation == one.i_reconciliation)
    ).scalar_one()
    connection.execute(
        insert(reconciliation_findings),
        [
            {
                "i_reconciliation": one.i_reconciliation,
                "kind": finding.kind,
                "entry_key": finding.key,
                "i_account": finding.i_account,
                "differences": compact(
                    [[each.field, each.held, each.wanted] for each in finding.differences]
                ),
                "reason": finding.reason,
                "found_at": now,
            }
            for finding in some
        ],
    )
    # Nobody else adds to this audit.
    return findings(connection, one.i_reconciliation, after=last or 0, limit=len(some)).findings


def _repair(
    connection: Connection, database: Database, one: Reconciliation, some: Sequence[Finding]
) -> int:
    """Put an event for each of them into the queue, for the handler alone."""
    wanted = [finding for finding in some if finding.kind in REPAIRABLE and finding.i_event is None]
    if not wanted:
        return 0
    variables = {finding.i_finding: _variables(one, finding) for finding in wanted}
    handlers = [one.i_event_handler]
    made = dict(
        add_all(connection, database, one.i_env, RECONCILE, [*variables.values()], handlers)
    )
    connection.execute(
        update(reconciliation_findings)
        .where(reconciliation_findings.c.i_finding == bindparam("number"))
        .values(i_event=bindparam("event")),
        [
            {"number": number, "event": made[compact(values)]}
            for number, values in variables.items()
        ],
    )
    return len(wanted)


def _variables(one: Reconciliation, finding: Finding) -> Mapping[str, object]:
    about = {} if finding.i_account is None else {"i_account": finding.i_account}
    told = {"i_env": one.i_env, "key": finding.key, "i_reconciliation": one.i_reconciliation}
    return {**about, **told, "i_finding": finding.i_finding}


def _mine(connection: Connection, one: Reconciliation, carrier: str) -> Reconciliation:
    found = _locked(connection, one.i_env, one.i_reconciliation)
    if not found.is_running or found.carrier != carrier:
        raise LeaseLost(f"audit {one.i_reconciliation} has ended, or another process goes on")
    return found


def _ended(
    connection: Connection,
    database: Database,
    one: Reconciliation,
    state: str,
    remark: str | None,
) -> Reconciliation:
    now = database.now(connection)
    ended = one.ended_at or now
    _update(
        connection,
        one,
        state=state,
        remark=remark,
        moved_at=now,
        ended_at=ended,
        carrier="",
        carried_until=None,
    )
    return find(connection, one.i_env, one.i_reconciliation)


def _locked(connection: Connection, i_env: int, i_reconciliation: int) -> Reconciliation:
    return _found(connection, i_env, i_reconciliation, lock=True)


def _found(
    connection: Connection, i_env: int, i_reconciliation: int, *, lock: bool
) -> Reconciliation:
    c = reconciliations.c
    query = select(reconciliations).where(c.i_reconciliation == i_reconciliation, c.i_env == i_env)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise unknown(i_reconciliation)
    return _of_row(row)


def _update(connection: Connection, one: Reconciliation, **values: object) -> None:
    c = reconciliations.c
    connection.execute(
        update(reconciliations).where(c.i_reconciliation == one.i_reconciliation).values(**values)
    )


def _scope_text(scope: Scope) -> str:
    told: dict[str, object] = {}
    if scope.accounts:
        told["accounts"] = list(scope.accounts)
    if scope.product is not None:
        told["product"] = scope.product
    return compact(told)


def _of_row(row: Row[Any]) -> Reconciliation:
    known = dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's public name for it)
    told = json.loads(known["scope"])
    known["scope"] = Scope(tuple(told.get("accounts", ())), told.get("product"))
    known["repairs_what"] = tuple(kind for kind in known["repairs_what"].split(",") if kind)
    return Reconciliation(**known)


def _finding(row: Row[Any]) -> Finding:
    return Finding(
        key=row.entry_key,
        kind=row.kind,
        i_account=row.i_account,
        differences=[Difference(*each) for each in json.loads(row.differences)],
        reason=row.reason,
        i_finding=row.i_finding,
        i_event=row.i_event,
    )
