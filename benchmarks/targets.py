"""What ESPF is meant to reach, and whether this run did."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure import Facts, table


@dataclass(frozen=True)
class Target:
    """A measured figure with two bounds."""

    what: str
    fact: str
    must: float
    stretch: float
    unit: str = ""
    more_is_better: bool = False

    def row(self, facts: Facts) -> list[str]:
        """The line of the table."""
        value = facts.get(self.fact)
        bounds = [f"{self.must:g}{self.unit}", f"{self.stretch:g}{self.unit}"]
        if value is None:
            return [self.what, "not measured", *bounds, "-"]
        return [self.what, f"{value:.2f}{self.unit}", *bounds, self._verdict(value)]

    def _verdict(self, value: float) -> str:
        for bound, verdict in ((self.stretch, "stretch"), (self.must, "must")):
            if value >= bound if self.more_is_better else value <= bound:
                return verdict
        return "**missed**"


def _peer(key: str, title: str) -> Target:
    return Target(
        f"PostgreSQL drain / best peer, {title}", f"drain {key} / best peer", 3, 5, "x", True
    )


def _none(key: str, what: str, title: str) -> Target:
    return Target(f"{title}, all drains of {key} loads", f"drain {key} {what}", 0, 0)


_CAPTURE = "write with trigger / without"

TARGETS: Sequence[Target] = (
    _peer("small", "20,000 events"),
    _peer("large", "100,000 events"),
    _peer("twice", "20,000 events, 2 handlers"),
    _none("small", "repeated", "requests sent twice"),
    _none("large", "repeated", "requests sent twice"),
    _none("small", "disordered", "events out of order"),
    _none("large", "disordered", "events out of order"),
    Target("PostgreSQL, commit to POST, p50", "latency ESPF, PostgreSQL p50", 0.5, 0.3, " ms"),
    Target("PostgreSQL, commit to POST, p99", "latency ESPF, PostgreSQL p99", 2, 0.6, " ms"),
    Target(
        f"PostgreSQL, {_CAPTURE}, synchronous_commit on",
        "trigger PostgreSQL synchronous_commit=on, 1 client",
        *(1.6, 1.45, "x"),
    ),
    Target(
        f"PostgreSQL, {_CAPTURE}, synchronous_commit on, 4 clients",
        "trigger PostgreSQL synchronous_commit=on, 4 clients",
        *(1.6, 1.45, "x"),
    ),
    Target(
        f"PostgreSQL, {_CAPTURE}, synchronous_commit off, 4 clients",
        "trigger PostgreSQL synchronous_commit=off, 4 clients",
        *(2.0, 1.8, "x"),
    ),
    Target(f"MariaDB, {_CAPTURE}, one writer", "trigger MariaDB 1 client", 2.3, 1.9, "x"),
    Target(f"SQLite FULL, {_CAPTURE}", "trigger SQLite synchronous=FULL", 1.7, 1.5, "x"),
    Target(f"SQLite NORMAL, {_CAPTURE}", "trigger SQLite synchronous=NORMAL", 2.8, 2.3, "x"),
    Target("PostgreSQL, drain with most waiting / 10k", "flat PostgreSQL", 0.9, 0.97, "x", True),
    Target(
        "PostgreSQL, drain with an old snapshot, last / first window",
        *("snapshot PostgreSQL", 0.9, 0.98, "x", True),
    ),
    Target("resident memory with 5M waiting", "memory PostgreSQL", 300, 150, " MB"),
    Target(
        "resident memory of an audit of 1M accounts", "audit PostgreSQL memory", 300, 150, " MB"
    ),
    *(
        target
        for name in ("PostgreSQL", "MariaDB", "SQLite")
        for target in (
            Target(
                f"{name}, rate beside a target that hangs / alone",
                *(f"isolation {name} rate", 0.9, 0.97, "x", True),
            ),
            Target(f"{name}, median latency, the same", f"isolation {name} latency", 2, 1.2, "x"),
        )
    ),
    *(
        Target(f"{name}, sent twice or out of order after a restart", f"restart {name} wrong", 0, 0)
        for name in ("PostgreSQL", "MariaDB", "SQLite")
    ),
    *(
        Target(f"{name}, the slowest page", f"pages {name}", 100, 50, " ms")
        for name in ("PostgreSQL", "MariaDB", "SQLite")
    ),
    Target("idle processor time, 20 handlers, PostgreSQL", "idle PostgreSQL", 2, 0.5, " %"),
    Target("the same, MariaDB", "idle MariaDB", 2, 0.5, " %"),
    Target("the same, SQLite", "idle SQLite", 2, 0.5, " %"),
)


def measure(facts: Facts) -> str:
    """The report's section."""
    head = ["target", "measured", "must", "stretch", "reached"]
    return table(head, [target.row(facts) for target in TARGETS])
