"""What must be true when the storm is over: the record of it, and what it gives away. Pure.

Nothing here knows how ESPF works. One side is what the billing programs wrote, each change as a
pair of values, the one that was found and the one that was set; so the changes of an account form a
chain that ends at the value that its table holds now, and the chain says which commits came through
where nobody was told. The other side is what the receivers heard. All times are in seconds, on one
clock of the machine.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

#: What an event says: its type, and the value that was set, where the type tells it.
Says = tuple[str, str | None]

#: How long after the answer a result may wait to be stored, on a busy machine.
STORED_SECONDS = 3.0

#: For how long what a fault has left behind may still arrive.
AFTERMATH_SECONDS = 3.0


@dataclass(frozen=True)
class Write:
    """One change of an account. ``unknown``: the program was not told whether it was committed."""

    i_account: int
    before: str
    after: str
    fate: Literal["committed", "undone", "unknown"]


@dataclass(frozen=True)
class Reception:
    """One request that a receiver heard from ``at`` on and answered at ``until``, or never.

    ``accepted``: it said yes, and the answer went out whole and in time. ``late``: not in time; a
    worker that was frozen meanwhile finds its yes all the same when it wakes.
    """

    at: float
    until: float
    i_account: int
    i_event: int
    says: Says
    body: str
    accepted: bool
    late: bool = False

    @property
    def perhaps_accepted(self) -> bool:
        """Whether the sender may have heard its yes."""
        return self.accepted or self.late


@dataclass(frozen=True)
class Fault:
    """What was done to a worker or to the database, and from when to when.

    A worker that is told to stop is none: it leaves nothing undone.
    """

    kind: Literal["kill", "freeze", "database"]
    start: float
    end: float


@dataclass
class Record:
    """Everything that is known of a storm when it is over.

    ``heard``: what each handler's receiver heard, in order. ``verdicts``: (i_event, handler,
    verdict) of each line of the journal. ``left``: how many rows each live table still holds.
    """

    first: Mapping[int, str]
    final: Mapping[int, str]
    writes: Sequence[Write]
    heard: Mapping[str, Sequence[Reception]]
    faults: Sequence[Fault] = ()
    verdicts: Iterable[tuple[int, str, str]] = ()
    left: Mapping[str, int] = field(default_factory=dict)


def check(record: Record) -> list[str]:
    """What is wrong: lines, each of which begins with the guarantee that is broken."""
    problems = [f"left over: {count} rows in {t}" for t, count in record.left.items() if count]
    history, gaps = _history(record)
    problems += gaps
    for handler, heard in record.heard.items():
        by_account: dict[int, list[Reception]] = defaultdict(list)
        for reception in heard:
            by_account[reception.i_account].append(reception)
        for i_account in sorted({*history, *by_account}):
            lane = by_account[i_account]
            where = f"{handler}, account {i_account}"
            said = [*_wrong_content(history.get(i_account, []), lane), *_wrong_order(lane)]
            said += _unexplained(lane, record.faults)
            problems += [f"{what} [{where}]" for what in said]
    problems += _altered(record.heard)
    problems += _wrong_verdicts(record)
    return problems


def repetitions(record: Record) -> int:
    """How many requests repeat an earlier one."""
    return sum(len(heard) - len({r.i_event for r in heard}) for heard in record.heard.values())


def _history(record: Record) -> tuple[dict[int, list[Says]], list[str]]:
    """What each account's events have to say, by the chain of its values."""
    of_account: dict[int, list[Write]] = defaultdict(list)
    for write in record.writes:
        of_account[write.i_account].append(write)
    history: dict[int, list[Says]] = {}
    problems = []
    for i_account, value in record.final.items():
        chain = _chain(of_account[i_account], record.first[i_account], value)
        if (chain[-1].after if chain else record.first[i_account]) != value:
            problems.append(f"record: nobody wrote {value!r} to account {i_account}")
        kept = {write.after for write in chain}
        # A change that its program has taken back and that is there, or the other way round.
        problems += [
            f"record: {write.after!r} of account {i_account} is {write.fate}"
            for write in of_account[i_account]
            if write.fate != "unknown" and (write.fate == "committed") != (write.after in kept)
        ]
        history[i_account] = [says for n, w in enumerate(chain) for says in events_of(n, w.after)]
    return history, problems


def _chain(writes: Iterable[Write], first: str, final: str) -> list[Write]:
    """The changes that lead from the first value to the final one; empty when none do."""
    by_value = {write.after: write for write in writes}
    chain = []
    while final != first:
        if final not in by_value:
            return []
        chain.append(by_value[final])
        final = chain[-1].before
    return chain[::-1]


def events_of(number: int, value: str) -> tuple[Says, Says]:
    """The events of an account's change: those with even numbers block it."""
    return (
        ("Account/ID/Changed", value),
        ("Account/Unblocked" if number % 2 else "Account/Blocked", None),
    )


def _wrong_content(expected: Sequence[Says], lane: Sequence[Reception]) -> Iterator[str]:
    """Each committed event, taken at least once; no other; in order of the commits."""
    firsts = list({r.i_event: r for r in reversed(lane)}.values())[::-1]
    firsts.sort(key=lambda r: r.at)
    heard = [r.says for r in firsts]
    missing, strange = Counter(expected) - Counter(heard), Counter(heard) - Counter(expected)
    yield from (f"lost: {says} never came" for says in missing)
    yield from (f"made up: {says} was not committed, or came under two numbers" for says in strange)
    if not missing and not strange and heard != expected:
        yield f"overtaken: {heard} instead of {list(expected)}"
    taken = {r.i_event for r in lane if r.perhaps_accepted}
    yield from (f"lost: {r.i_event} was never taken" for r in firsts if r.i_event not in taken)


def _wrong_order(lane: Sequence[Reception]) -> Iterator[str]:
    """Each event for the first time after its forerunner was taken, and under a higher number."""
    firsts: dict[int, Reception] = {}
    accepted: dict[int, float] = {}
    for reception in lane:
        firsts.setdefault(reception.i_event, reception)
        if reception.perhaps_accepted:
            known = accepted.get(reception.i_event, reception.until)
            accepted[reception.i_event] = min(known, reception.until)
    for earlier, later in pairwise(sorted(firsts.values(), key=lambda r: r.at)):
        if later.i_event < earlier.i_event:
            yield f"overtaken: {later.i_event} came after {earlier.i_event}"
        elif later.at < accepted.get(earlier.i_event, float("inf")):
            yield f"early: {later.i_event} came before {earlier.i_event} was taken"


def _unexplained(lane: Sequence[Reception], faults: Sequence[Fault]) -> Iterator[str]:
    """What was taken comes again only after a fault; and late, only after a freeze or a kill."""
    taken: dict[int, float] = {}
    newest = 0
    for reception in lane:
        again = taken.get(reception.i_event)
        if again is not None and not _met(faults, again, again + STORED_SECONDS, reception.at):
            yield f"repeated: {reception.i_event} was taken, and came again without need"
        if reception.i_event < newest and not _met(
            [fault for fault in faults if fault.kind in {"freeze", "kill"}],
            reception.at - AFTERMATH_SECONDS,
            reception.at,
            reception.at,
        ):
            yield f"stepped back: {reception.i_event} came after {newest}"
        newest = max(newest, reception.i_event)
        if reception.accepted:
            taken[reception.i_event] = reception.until


def _met(faults: Iterable[Fault], start: float, end: float, at: float) -> bool:
    """Whether a fault that had begun at a time lay, with its aftermath, in this stretch."""
    return any(
        fault.start <= min(end, at) and fault.end + AFTERMATH_SECONDS >= start for fault in faults
    )


def _altered(heard: Mapping[str, Sequence[Reception]]) -> Iterator[str]:
    """One number, one body: for every handler, and each time."""
    bodies: dict[int, str] = {}
    for handler, receptions in heard.items():
        for reception in receptions:
            if bodies.setdefault(reception.i_event, reception.body) != reception.body:
                yield f"altered: {reception.i_event} has two bodies [{handler}]"


def _wrong_verdicts(record: Record) -> Iterator[str]:
    """In the journal each event has its end with each handler, and nothing else has."""
    ends: dict[tuple[int, str], set[str]] = defaultdict(set)
    for i_event, handler, verdict in record.verdicts:
        if verdict not in {"retry", "orphan"}:
            ends[i_event, handler].add(verdict)
    heard = {(r.i_event, handler) for handler, some in record.heard.items() for r in some}
    for i_event, handler in sorted(heard | set(ends)):
        verdicts = ends.get((i_event, handler), set())
        if verdicts != {"finished"} or (i_event, handler) not in heard:
            said = ", ".join(sorted(verdicts)) or "no end"
            yield f"journal: {i_event} has {said} [{handler}]"
