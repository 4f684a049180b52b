"""``python -m benchmarks``: measure everything and write docs/benchmarks.md.

Takes about an hour; ``--quick`` runs a little of each in 3 minutes, to see that it runs. What a
section finds is kept at once in var/bench, so that a later fault loses nothing. A choice of
sections, such as ``--only drain,latency``, is printed, or with ``--page`` put into the page beside
what was found of the others before.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    audit,
    backlog,
    dispatch,
    drain,
    idle,
    isolation,
    latency,
    pages,
    peers,
    restart,
    targets,
    triggers,
)
from benchmarks.bench import Bench
from benchmarks.measure import BenchError, Facts, machine, tell
from benchmarks.sites import ACCOUNTS, ASYNC

_ROOT = Path(__file__).parent.parent
_REPORT = _ROOT / "docs" / "benchmarks.md"
_PAGE = Path(__file__).parent / "page.md"

SECTIONS: Mapping[str, Callable[[Bench, Facts], str]] = {
    "drain": drain.measure,
    "latency": latency.measure,
    "triggers": triggers.measure,
    "billing": latency.billing,
    "backlog": backlog.measure,
    "snapshot": backlog.snapshot,
    "isolation": isolation.measure,
    "dispatch": dispatch.measure,
    "audit": audit.measure,
    "restart": restart.measure,
    "pages": pages.measure,
    "idle": idle.measure,
}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--only", type=_chosen, help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--page", action="store_true", help="the page, of all that is kept")
    parser.add_argument("--out", type=Path, help="where to write (default: docs/benchmarks.md)")
    options = parser.parse_args()
    # Whoever stops us by a signal does not leave the servers running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    whole = options.page or not options.only
    out = options.out or (_REPORT if whole and not options.quick else None)
    try:
        page = _measured(options.only or list(SECTIONS), quick=options.quick, whole=whole)
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
    if out is None:
        print(page)
    else:
        out.write_text(page)
        tell(f"written to {out.name}")


def _chosen(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - set(SECTIONS)
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {', '.join(unknown)}")
    return names


@dataclass(frozen=True)
class _Found:
    """What a section found: its text, its figures, how long it took and on which day."""

    text: str
    facts: Facts
    seconds: float
    day: str


def _measured(names: Sequence[str], *, quick: bool, whole: bool) -> str:
    installed = _ROOT / "var" / "bench"
    installed.mkdir(parents=True, exist_ok=True)
    kept = installed / f"found{'-quick' if quick else ''}.json"
    with tempfile.TemporaryDirectory(prefix="espf-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        # The servers run as users of their own, and have to pass through it.
        folder.chmod(0o755)
        bench = Bench(folder, installed, stack, quick=quick)
        found = _read(kept) if whole else {}
        for each in names:
            begun = time.monotonic()
            facts: Facts = {}
            text = SECTIONS[each](bench, facts)
            today = datetime.now(UTC).strftime("%Y-%m-%d")
            found[each] = _Found(text, facts, time.monotonic() - begun, today)
            kept.write_text(json.dumps(_read(kept) | found, default=vars))
            tell(f"{each}: {found[each].seconds:.0f} s")
        if missing := [] if not whole else sorted(set(SECTIONS) - set(found)):
            raise BenchError(f"not measured yet: {', '.join(missing)}")
        return _page(bench, found) if whole else _sections(found)


def _read(kept: Path) -> dict[str, _Found]:
    """What was found before."""
    if not kept.exists():
        return {}
    return {name: _Found(**one) for name, one in json.loads(kept.read_text()).items()}


def _facts(found: Mapping[str, _Found]) -> Facts:
    return {name: value for one in found.values() for name, value in one.facts.items()}


def _sections(found: Mapping[str, _Found]) -> str:
    return "\n\n".join([*(one.text for one in found.values()), targets.measure(_facts(found))])


def _page(bench: Bench, found: Mapping[str, _Found]) -> str:
    days = sorted({one.day for one in found.values()})
    return _PAGE.read_text().format(
        **{name: one.text for name, one in found.items()},
        targets=targets.measure(_facts(found)),
        date=" to ".join(dict.fromkeys([days[0], days[-1]])),
        minutes=round(sum(one.seconds for one in found.values()) / 60),
        machine=machine(),
        databases=f"{bench.postgresql.version()}, {bench.mariadb.version()}",
        note=" **A smoke run: its numbers mean little.**" if bench.quick else "",
        peers=peers.versions(),
        rounds=bench.rounds,
        accounts=f"{ACCOUNTS:,}",
        rate=f"{ASYNC['EventSender.TokenRate']:,}",
    )


if __name__ == "__main__":
    main()
