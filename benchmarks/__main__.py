"""``python -m benchmarks``: measure everything and write docs/benchmarks.md.

Takes about 25 minutes; ``--quick`` runs a little of each in 3, to see that it runs. A choice of
sections, such as ``--only drain,latency``, is printed instead of written.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    backlog,
    dispatch,
    drain,
    idle,
    isolation,
    latency,
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
    "restart": restart.measure,
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
    parser.add_argument("--out", type=Path, help="where to write (default: docs/benchmarks.md)")
    options = parser.parse_args()
    # Whoever stops us by a signal does not leave the servers running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    out = options.out or (None if options.quick or options.only else _REPORT)
    try:
        page = _measured(options.only or list(SECTIONS), quick=options.quick)
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


def _measured(names: Sequence[str], *, quick: bool) -> str:
    installed = _ROOT / "var" / "bench"
    installed.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="espf-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        # The servers run as users of their own, and have to pass through it.
        folder.chmod(0o755)
        bench = Bench(folder, installed, stack, quick=quick)
        facts: Facts = {}
        started = time.monotonic()
        written = {}
        for each in names:
            begun = time.monotonic()
            written[each] = SECTIONS[each](bench, facts)
            tell(f"{each}: {time.monotonic() - begun:.0f} s")
        minutes = (time.monotonic() - started) / 60
        if set(names) != set(SECTIONS):
            return "\n\n".join([*written.values(), targets.measure(facts)])
        return _page(bench, facts, written, minutes)


def _page(bench: Bench, facts: Facts, written: Mapping[str, str], minutes: float) -> str:
    return _PAGE.read_text().format(
        **written,
        targets=targets.measure(facts),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        minutes=round(minutes),
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
