"""What capture costs the billing: one UPDATE per commit, with the shipped triggers and without."""

import time
from collections import defaultdict
from pathlib import Path

from benchmarks.installation import ACCOUNTS, Site
from benchmarks.measure import Rounds, ratio, shown, table, tell

_WATCHED = (
    "UPDATE Accounts SET blocked = CASE blocked WHEN 'Y' THEN 'N' ELSE 'Y' END WHERE i_account = ?"
)
_SLICES = 10
_UNWATCHED = "UPDATE Accounts SET phone1 = ? WHERE i_account = ?"


def measure(template: Site, folder: Path, rounds: int, updates: int) -> str:
    """The report's section."""
    bare = template.copy(folder / "bare")
    with bare.billing() as billing:
        names = billing.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in names:
            billing.execute(f'DROP TRIGGER "{name}"')
    sites = {"bare": bare, "captured": template.copy(folder / "captured")}
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        tell(f"triggers: round {number + 1} of {rounds}")
        for synchronous in ("FULL", "NORMAL"):
            for what in ("watched", "unwatched"):
                seconds = dict.fromkeys(sites, 0.0)
                # In small slices, so that what else the machine does hits both alike.
                for _ in range(_SLICES):
                    for name, site in sites.items():
                        count = updates // _SLICES
                        seconds[name] += _seconds(site, synchronous, count, what == "watched")
                for name, spent in seconds.items():
                    rates[f"{synchronous} {what} {name}"].append(updates / spent)
    return _section(rates)


def _seconds(site: Site, synchronous: str, updates: int, watched: bool) -> float:
    with site.billing(synchronous) as billing:
        started = time.perf_counter()
        for number in range(updates):
            account = number % ACCOUNTS + 1
            if watched:
                billing.execute(_WATCHED, (account,))
            else:
                billing.execute(_UNWATCHED, (str(time.perf_counter()), account))
        spent = time.perf_counter() - started
        # What was captured is not delivered here, and the next slice begins like this one.
        billing.execute("DELETE FROM Event_Notifications")
        billing.execute("DELETE FROM Event_Queue")
    return spent


def _section(rates: Rounds) -> str:
    rows = []
    for synchronous in ("FULL", "NORMAL"):
        for what, meaning in (
            ("watched", "a watched column: one event, one subscriber"),
            ("unwatched", "a column that no rule watches"),
        ):
            bare, captured = (rates[f"{synchronous} {what} {n}"] for n in ("bare", "captured"))
            rows.append([synchronous, meaning, shown(bare), shown(captured), ratio(bare, captured)])
    head = ["synchronous", "UPDATE of", "commits/s without", "commits/s with", "times slower"]
    return table(head, rows)
