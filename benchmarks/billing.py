"""A billing program in a process of its own: one account after another, a commit each.

Tells, as JSON, for each change the moment at which it was committed and the seconds that the
transaction took. ``python -m benchmarks.billing DATABASE CHANGES PER_SECOND``.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.installation import ACCOUNTS, Site


@dataclass(frozen=True)
class Commits:
    """What a run of the billing program came to, change by change."""

    at: list[float]
    took: list[float]


async def commit(site: Site, changes: int, per_second: float) -> Commits:
    """Run it over a site."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.billing"),
        *(str(site.folder), str(changes), str(per_second)),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return Commits(**json.loads(said))


def _work(site: Site, changes: int, per_second: float) -> Commits:
    commits = Commits([], [])
    with site.billing() as billing:
        begun = time.monotonic()
        for number in range(changes):
            time.sleep(max(0.0, begun + number / per_second - time.monotonic()))
            started = time.monotonic()
            # One statement, one transaction; the id says which change the event is about.
            billing.execute(
                "UPDATE Accounts SET id = ? WHERE i_account = ?",
                (f"change-{number}", number % ACCOUNTS + 1),
            )
            now = time.monotonic()
            commits.at.append(now)
            commits.took.append(now - started)
    return commits


if __name__ == "__main__":
    done = _work(Site(Path(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3]))
    print(json.dumps(vars(done)))
