"""The queue against a model of it that fits in the head, on the real databases.

Hypothesis makes up what happens: events come, at once or later; two handlers read and settle, also
under an epoch that is over; administrators restart, skip, cancel and let go; time passes. After
each step the live tables, what may be read, and the journal have to be what the model says.
"""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update

from espf import restarts, subscriptions
from espf.backlog import Backlog, Start, Wanted
from espf.db.tables import event_handlers, event_notifications, event_queue, provisioning_log
from espf.leases import Leases
from espf.model import DONE, SHARDS, Decision, Result, Status
from espf.queue import Queue

#: More for ``make chaos``, and then other ones each time.
MINUTES = float(os.environ.get("CHAOS_MINUTES", "0"))
SETTINGS = settings(
    max_examples=25 + int(40 * MINUTES),
    stateful_step_count=30,
    derandomize=not MINUTES,
    deadline=None,
    database=None,
    # Making a failure smaller takes minutes on a database; thirty steps can be read.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

ALL = (1 << SHARDS) - 1
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SOON = timedelta(hours=1)

#: Who is subscribed to each of these types.
TYPES = {"Account/Blocked": "AB", "Account/Unblocked": "A", "Account/New": ""}

DECISIONS = {
    "finished": Decision(Status.FINISHED),
    "skipped": Decision(Status.SKIPPED, "nothing to do"),
    "rejected": Decision(Status.REJECTED, "HTTP 404"),
    "retry": Decision(Status.QUEUED, "HTTP 503", delay=timedelta(hours=1)),
    "retry now": Decision(Status.QUEUED, "HTTP 503", delay=timedelta(0)),
    "retry now unspent": Decision(Status.QUEUED, "HTTP 401", delay=timedelta(0), spent=False),
    "retry unspent": Decision(Status.QUEUED, "HTTP 401", delay=timedelta(hours=1), spent=False),
    "failed": Decision(Status.FAILED, "gave up"),
    "held": Decision(Status.FAILED, "gave up", hold=True),
}


@dataclass
class Note:
    """What a handler has of an event.

    ``waits``: it keeps its lane waiting; ``due``: it may go; ``refused``: it has been tried, in
    vain, since it was made or restarted.
    """

    status: str = "queued"
    attempts: int = 0
    waits: bool = False
    due: bool = False
    refused: bool = False

    @property
    def done(self) -> bool:
        return self.status in DONE


@dataclass
class Known:
    """An event. ``position`` is empty while it is scheduled; ``notes`` are gone when it is over."""

    account: int
    event_type: str
    position: int | None
    notes: dict[str, Note] = field(default_factory=dict)
    #: What each handler said last, or None where there was none.
    journal: dict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    live: bool = True

    @property
    def scheduled(self) -> bool:
        return self.live and self.position is None


ACCOUNTS = (1, 2)

accounts = st.sampled_from(ACCOUNTS)
names = st.sampled_from("AB")
types = st.sampled_from(list(TYPES))
luck = st.integers(0, 1000)


class QueueMachine(RuleBasedStateMachine):
    def __init__(self, database, sealer):
        super().__init__()
        self.database = database
        self.queue = Queue(database)
        self.backlog = Backlog(database)
        self.leases = Leases(database)
        self.known: dict[int, Known] = {}
        self.epochs = dict.fromkeys("AB", 0)
        self.owner = dict.fromkeys("AB", "")
        with database.begin() as connection:
            for table in (event_notifications, event_queue, provisioning_log):
                connection.execute(delete(table))
            if connection.execute(select(event_handlers)).first() is None:
                self._make_handlers(connection, sealer)
            self.handlers = {
                one.name: one for one in subscriptions.list_handlers(connection) if one.name in "AB"
            }
        for name in "AB":
            self.take_over(name)

    @staticmethod
    def _make_handlers(connection, sealer):
        options = {"EventSender.URL": "http://127.0.0.1:1", "EventSender.AuthMethod": "None"}
        for name in "AB":
            handler = subscriptions.create_handler(
                connection, sealer, 1, name, "EventSender", options
            )
            for event_type, subscribers in TYPES.items():
                if name not in subscribers:
                    subscriptions.unsubscribe(connection, handler, event_type)

    # In

    @rule(account=accounts, event_type=types)
    def create(self, account, event_type):
        i_event = self._create(account, event_type, None)
        self.known[i_event] = Known(account, event_type, i_event)
        self._notify(self.known[i_event])

    @rule(account=accounts, event_type=types)
    def schedule(self, account, event_type):
        i_event = self._create(account, event_type, datetime.now(UTC) + SOON)
        self.known[i_event] = Known(account, event_type, None)

    def _create(self, account, event_type, start_time):
        with self.database.begin() as connection:
            return self.queue.create_event(
                connection, 1, event_type, {"i_account": account}, start_time
            )

    @rule()
    def time_passes(self):
        n = event_notifications.c
        with self.database.begin() as connection:
            connection.execute(
                update(event_queue).where(event_queue.c.notified == 0).values(start_time=LONG_AGO)
            )
            connection.execute(
                update(event_notifications)
                .where(n.status == "queued", n.next_attempt_at.is_not(None))
                .values(next_attempt_at=LONG_AGO)
            )
            scheduled = [i for i, one in self.known.items() if one.scheduled]
            assert self.queue.release_scheduled(connection, 1000) == len(scheduled)
            places = connection.execute(select(event_queue.c.i_event, event_queue.c.position))
            positions = {row.i_event: row.position for row in places}
        for one in self.known.values():
            for note in one.notes.values():
                note.due |= note.waits and note.status == "queued"
        for i_event in sorted(scheduled):
            one = self.known[i_event]
            highest = max(
                filter(None, (other.position for other in self.known.values())), default=0
            )
            # Behind all that is there.
            one.position = positions.get(i_event, highest + 1)
            assert one.position > highest or not TYPES[one.event_type]
            self._notify(one)

    @staticmethod
    def _notify(one):
        one.notes = {name: Note() for name in TYPES[one.event_type]}
        if not one.notes:
            one.live = False
            one.journal[None].append("finished")

    # Through

    @rule(name=names)
    def take_over(self, name):
        """Another worker takes a handler; whoever had it is dead."""
        places = [(self.handlers[name].i_event_handler, shard) for shard in range(SHARDS)]
        before = self.owner[name]
        self.owner[name] = f"w{int(before[1:] or 0) + 1}" if before else "w1"
        with self.database.begin() as connection:
            owners = set(self.leases.roll(connection).owners.values())
            self.leases.sign_of_life(connection, self.owner[name], 600)
            taken = self.leases.acquire(connection, self.owner[name], places, owners)
        (epoch,) = {lease.epoch for lease in taken}
        assert len(taken) == SHARDS
        assert epoch > self.epochs[name]
        self.epochs[name] = epoch

    @rule(choices=st.lists(st.tuples(luck, st.sampled_from(sorted(DECISIONS))), max_size=3))
    def settle(self, choices):
        """Results of different lanes and handlers, in one batch."""
        batch = {}
        for number, said in choices:
            if ready := self._heads():
                name, i_event = ready[number % len(ready)]
                lane = name, self.known[i_event].account
                batch.setdefault(lane, (name, i_event, said))
        results = [self._result(name, i, DECISIONS[said]) for name, i, said in batch.values()]
        assert all(one.applied for one in self._store(results))
        for name, i_event, said in batch.values():
            self._decided(name, i_event, DECISIONS[said])

    @rule(number=luck, said=st.sampled_from(sorted(DECISIONS)), ago=st.integers(1, 3))
    def settle_too_late(self, number, said, ago):
        """Whoever was the owner once changes nothing."""
        if ready := self._heads():
            name, i_event = ready[number % len(ready)]
            result = self._result(name, i_event, DECISIONS[said])
            result.epoch -= ago
            (settled,) = self._store([result])
            assert not settled.applied
            self.known[i_event].journal[name].append("orphan")

    @rule(number=luck)
    def supersede(self, number):
        """A newer one of its account and type takes its place; or is not there any more."""
        if not (ready := self._heads()):
            return
        name, i_event = ready[number % len(ready)]
        one = self.known[i_event]
        later = [
            (other.position, other.notes[name])
            for _, other in self._in_order()
            if (other.account, other.event_type) == (one.account, one.event_type)
            and other.position > one.position
            and name in other.notes
        ]
        if not later:
            return
        by, newer = later[number % len(later)]
        decision = Decision(Status.SUPERSEDED, "a newer one waits", spent=False, by=by)
        (settled,) = self._store([self._result(name, i_event, decision)])
        assert settled.applied
        if newer.status == "queued":
            self._decided(name, i_event, decision)
        else:
            self._decided(name, i_event, DECISIONS["retry now unspent"])

    def _heads(self):
        """The first of each lane of each handler, as far as it may go out."""
        heads = {}
        for name in "AB":
            for i_event, one in self._in_order():
                note = one.notes.get(name)
                if note is not None and (note.status == "queued" or note.waits):
                    heads.setdefault((name, one.account), (note, i_event))
        return [
            (name, i_event)
            for (name, _), (note, i_event) in sorted(heads.items())
            if note.due or not note.waits
        ]

    def _result(self, name, i_event, decision):
        found = self._read(name)
        notifications = [*found.due, *(n for n, behind in found.new if not behind)]
        (mine,) = [n for n in notifications if n.event.i_event == i_event]
        return Result(mine, name, self.epochs[name], decision, 12, "POST …", "HTTP 200")

    def _store(self, results):
        texts = {}
        with self.database.begin() as connection:
            settled = self.queue.settle(connection, results, texts)
        self.queue.journal.committed(texts)
        return settled

    def _decided(self, name, i_event, decision):
        one = self.known[i_event]
        one.journal[name].append("retry" if decision.status == "queued" else decision.status)
        note = one.notes[name]
        note.status = str(decision.status)
        note.attempts += decision.spent
        note.refused = True
        note.waits = decision.status == "queued" or decision.hold
        note.due = decision.delay == timedelta(0)
        self._clean_up(one)

    @staticmethod
    def _clean_up(one):
        if all(note.done for note in one.notes.values()):
            one.live, one.notes = False, {}

    # Again, and no more

    @rule(number=luck)
    def restart(self, number):
        """What was refused, has failed or is tried again: again, for whom it was."""
        undone = [i for i in self.known if self._undone(i)]
        if undone:
            i_event = undone[number % len(undone)]
            wanted = self._undone(i_event)
            with self.database.begin() as connection:
                assert sorted(restarts.restart(connection, self.database, i_event)) == wanted
            self._again(i_event, wanted)

    def _undone(self, i_event):
        one = self.known[i_event]
        return sorted(
            name
            for name in "AB"
            if (name in one.notes and one.notes[name].refused and not one.notes[name].done)
            or self._end(one, name) == "rejected"
        )

    @rule(number=luck, name=names)
    def restart_for(self, number, name):
        """What has come to an end with a handler: again for this one."""
        over = [i for i, one in self.known.items() if self._end(one, name)]
        if over:
            i_event = over[number % len(over)]
            with self.database.begin() as connection:
                handler = self.handlers[name]
                restarts.restart(connection, self.database, i_event, handler)
            self._again(i_event, [name])

    @staticmethod
    def _end(one, name):
        """How it ended with a handler; None: it has not, or never came there."""
        note = one.notes.get(name)
        if note is not None:
            return note.status if note.done else None
        verdicts = [v for v in one.journal[name] if v not in {"orphan", "retry"}]
        return verdicts[-1] if verdicts else None

    def _again(self, i_event, wanted):
        one = self.known[i_event]
        if not one.live:
            one.live, one.position = True, i_event
        for name in wanted:
            one.notes[name] = Note(waits=True, due=True)

    @rule(number=luck)
    def skip(self, number):
        open_ = [
            (i_event, name)
            for i_event, one in self.known.items()
            for name, note in one.notes.items()
            if note.waits or note.status == "failed"
        ]
        if open_:
            i_event, name = open_[number % len(open_)]
            with self.database.begin() as connection:
                restarts.skip(connection, self.database, i_event, self.handlers[name], "no more")
            one = self.known[i_event]
            one.journal[name].append("skipped")
            note = one.notes[name]
            note.status, note.waits, note.due = "skipped", False, False
            self._clean_up(one)

    @precondition(lambda self: any(one.scheduled for one in self.known.values()))
    @rule(number=luck)
    def cancel(self, number):
        scheduled = [i for i, one in self.known.items() if one.scheduled]
        i_event = scheduled[number % len(scheduled)]
        with self.database.begin() as connection:
            restarts.cancel(connection, self.database, i_event)
        self.known[i_event].live = False
        self.known[i_event].journal[None].append("cancelled")

    @rule(name=names)
    def let_go(self, name):
        with self.database.begin() as connection:
            restarts.let_go(connection, self.handlers[name].i_event_handler)
        for one in self.known.values():
            note = one.notes.get(name)
            if note is not None and note.status == "failed":
                note.waits = False

    # What has to be true

    def _in_order(self):
        placed = [(i, one) for i, one in self.known.items() if one.live and not one.scheduled]
        return sorted(placed, key=lambda pair: pair[1].position)

    def _read(self, name):
        wanted = Wanted(
            self.handlers[name].i_event_handler,
            ALL,
            Start(0),
            1000,
            1000,
            follow=[f"account:{account}" for account in ACCOUNTS],
            follow_room=2,
        )
        with self.database.read() as connection:
            (found,) = self.backlog.read(connection, [wanted])
        return found

    @invariant()
    def a_worker_finds_what_may_go_out_in_order(self):
        for name in "AB":
            new, due, waiting = [], set(), set()
            tried = {account: [] for account in ACCOUNTS}
            for i_event, one in self._in_order():
                note = one.notes.get(name)
                if note is None:
                    continue
                if note.status == "queued" and not note.waits:
                    new.append((i_event, one.account in waiting))
                if note.due and one.account not in waiting:
                    due.add((i_event, note.attempts))
                if note.waits:
                    waiting.add(one.account)
                    tried[one.account].append((i_event, note.due))
            found = self._read(name)
            assert [(n.event.i_event, behind) for n, behind in found.new] == new
            assert {(n.event.i_event, n.attempts) for n in found.due} == due
            assert len(found.due) == len(due)
            assert {key: [n.event.i_event for n in some] for key, some, _ in found.followers} == {
                f"account:{account}": [i for i, _ in takewhile(lambda each: each[1], some[:2])]
                for account, some in tried.items()
            }
            heads = {n.event.ordering_key for n in found.due}
            assert found.followed == heads & {
                f"account:{account}" for account, some in tried.items() if len(some) > 1
            }

    @invariant()
    def the_live_tables_hold_what_is_not_over_and_nothing_else(self):
        with self.database.read() as connection:
            events = set(connection.execute(select(event_queue.c.i_event)).scalars())
            rows = connection.execute(select(event_notifications)).all()
        ids = {handler.i_event_handler: name for name, handler in self.handlers.items()}
        assert events == {i for i, one in self.known.items() if one.live}
        assert {
            (r.i_event, ids[r.i_event_handler]): (
                r.position,
                r.status,
                r.attempts,
                r.next_attempt_at is not None,
            )
            for r in rows
        } == {
            (i, name): (one.position, note.status, note.attempts, note.waits)
            for i, one in self.known.items()
            for name, note in one.notes.items()
        }

    @invariant()
    def the_journal_tells_all_that_happened(self):
        log = provisioning_log.c
        with self.database.read() as connection:
            rows = connection.execute(
                select(log.i_event, log.handler, log.verdict).order_by(log.i_log)
            )
            found = defaultdict(list)
            for row in rows:
                found[row.i_event, row.handler].append(row.verdict)
        assert found == {
            (i, name): verdicts
            for i, one in self.known.items()
            for name, verdicts in one.journal.items()
            if verdicts
        }


@pytest.mark.timeout(300 + 600 * MINUTES)
def test_the_queue_does_what_its_model_says(database, sealer):
    run_state_machine_as_test(lambda: QueueMachine(database, sealer), settings=SETTINGS)
