"""What ESPF costs when there is nothing to do."""

import time

from benchmarks.bench import Bench
from benchmarks.measure import Facts, table, tell
from benchmarks.servers import process_tree
from benchmarks.side import Process
from benchmarks.sites import ENV, HANDLERS, Site

COUNT = 20
_SETTLE_SECONDS = 5.0


def measure(bench: Bench, facts: Facts) -> str:
    """Processor time of a worker with twenty handlers, and of its database."""
    seconds = bench.sized(20, 3)
    servers = {"PostgreSQL": bench.postgresql.pid, "MariaDB": bench.mariadb.pid}
    rows = []
    for name, installation in bench.installations.items():
        tell(f"idle for {seconds} s on {name}")
        with (
            bench.sinks.running(0),
            installation.filled("handlers", _add_handlers) as site,
            site.working() as worker,
        ):
            time.sleep(_SETTLE_SECONDS)
            tree = [Process(pid) for pid in process_tree(servers[name])] if name in servers else []
            before = worker.cpu_seconds(), sum(each.cpu_seconds() for each in tree)
            time.sleep(seconds)
            used = worker.cpu_seconds() - before[0]
            served = sum(each.cpu_seconds() for each in tree) - before[1]
            memory = worker.peak_megabytes()
        facts[f"idle {name}"] = used / seconds * 100
        rows.append(
            [
                name,
                f"{used / seconds * 100:.1f} %",
                f"{served / seconds * 100:.1f} %" if tree else "in the worker",
                f"{memory:.0f}",
            ]
        )
    return table(["database", "worker", "database server", "worker's memory MB"], rows)


def _add_handlers(site: Site) -> None:
    """Beside the two that are there, as people create them."""
    none = ("--set=EventSender.AuthMethod=None", "--set=EventSender.URL=http://127.0.0.1:9")
    for number in range(COUNT - len(HANDLERS)):
        site.evctl("handler", "create", ENV, f"Idle{number}", "--type=EventSender", *none)
    site.evctl("handler", "enable", ENV, HANDLERS[1])
