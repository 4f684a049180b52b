"""``python -m benchmarks``: measure everything and write docs/benchmarks.md.

``--quick`` runs a little of each to see that it runs; ``--out`` names another file.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import delivery, triggers
from benchmarks.installation import Site
from benchmarks.measure import machine, tell

_REPORT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
_PAGE = Path(__file__).parent / "page.md"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--out", type=Path, help="where to write (default: docs/benchmarks.md)")
    options = parser.parse_args()
    out = options.out or (None if options.quick else _REPORT)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="espf-bench-") as folder:
        _register(Path(folder) / "plug-in")
        page = asyncio.run(_measure(Path(folder), quick=options.quick))
    tell(f"done in {time.monotonic() - started:.0f} s")
    if out is None:
        print(page)
    else:
        out.write_text(page)
        tell(f"written to {out.name}")


def _register(folder: Path) -> None:
    """Make the in-process sink known as a handler type, the way a foreign package does."""
    package = folder / "espf_bench-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: espf-bench\nVersion: 0\n")
    (package / "entry_points.txt").write_text(
        "[espf.handlers]\nNothing = benchmarks.delivery:Nothing\n"
    )
    sys.path.append(str(folder))


async def _measure(folder: Path, *, quick: bool) -> str:
    rounds = 1 if quick else 5
    template = Site(folder / "template")
    template.init()
    return _PAGE.read_text().format(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=machine(),
        note=" **A smoke run: its numbers mean little.**" if quick else "",
        rounds=rounds,
        triggers=triggers.measure(template, folder / "triggers", rounds, 100 if quick else 5000),
        drain=await delivery.drain(template, folder / "drain", rounds, 1 if quick else 20),
        latency=await delivery.latency(template, folder, 1 if quick else 20),
        writers=await delivery.writers(
            template, folder, 2 if quick else 30, 100 if quick else 1500
        ),
    )


if __name__ == "__main__":
    main()
