"""A customer with very many accounts, beside what goes on all the time."""

import time

from benchmarks.backlog import numbers
from benchmarks.bench import Bench
from benchmarks.latency import PER_SECOND, SETTLE_SECONDS
from benchmarks.measure import Facts, percentile, table, tell
from benchmarks.side import until
from benchmarks.sites import ACCOUNTS, ENV, SYNC, Fill, Installation, Site

_DISPATCHER = "CustomerToAccountsDispatcher"
_CAUSE = "Customer/ZeroAvailableFunds"


def measure(bench: Bench, facts: Facts) -> str:
    """How live events fare while a customer's end of funds is told to each of its accounts."""
    rows = []
    for name, installation in bench.installations.items():
        full = 1_000_000 if name == "PostgreSQL" else 100_000
        count = bench.sized(full, 2000)
        took: dict[bool, list[float]] = {}
        for dispatching in (False, True):
            beside = f"a dispatch to {count:,} accounts" if dispatching else "nothing"
            tell(f"dispatch on {name}: live events beside {beside}")
            took[dispatching], rate, memory = _run(bench, installation, count, dispatching)
            figures = [f"{percentile(took[dispatching], share):.2f}" for share in (0.5, 0.99)]
            made = f"{rate:,.0f}" if rate else "-"
            rows.append([name, beside, *figures, made, f"{memory:.0f}"])
        p50 = {beside: percentile(some, 0.5) for beside, some in took.items()}
        facts[f"dispatch {name} latency"] = p50[True] / p50[False]
        facts[f"dispatch {name} memory"] = memory
    head = ["database", "beside", "p50 ms", "p99 ms", "dispatched/s", "worker's peak memory MB"]
    return table(head, rows)


def _many(count: int) -> tuple[str, Fill]:
    """One customer more, with so many accounts, and a dispatcher."""

    def fill(site: Site) -> None:
        site.configure(SYNC)
        many, text = numbers(site, count)
        site.say(
            f"INSERT INTO {site.table('Customers')} (i_customer, i_env, name, creation_date) "
            f"VALUES (1000, {ENV}, 'many', '2026-01-01 00:00:00')",
            f"INSERT INTO {site.accounts()} (i_env, i_customer, i_product, id, billing_model, "
            "issue_date, i_account_balance_control_type) "
            f"SELECT {ENV}, 1000, 1, {text}, 1, '2026-01-01 00:00:00', 2 FROM {many}",
            f"DELETE FROM {site.home}Event_Notifications",
            f"DELETE FROM {site.home}Event_Queue",
        )
        site.evctl("handler", "create", ENV, "Dispatcher", f"--type={_DISPATCHER}")

    return f"customer_of_{count}", fill


def _run(
    bench: Bench, installation: Installation, count: int, dispatching: bool
) -> tuple[list[float], float, float]:
    """The waits of live events in ms, dispatched events a second, and the worker's memory in MB."""
    seconds = bench.sized(20, 2)
    live = seconds * PER_SECOND
    posts = 1 + live + (count + 1 if dispatching else 0)
    with (
        bench.sinks.running(posts + 10) as sink,
        installation.filled(*_many(count)) as site,
        site.serving(),
        site.working() as worker,
    ):
        site.evctl("event", "create", ENV, "Customer/Blocked", "--var", "i_customer=1")
        until(lambda: sink.requests > 0, "the worker")
        time.sleep(SETTLE_SECONDS)
        if dispatching:
            site.evctl("event", "create", ENV, _CAUSE, "--var", "i_customer=1000")
            until(lambda: sink.requests > 2, "the first dispatched events")
        committed = site.trickle(seconds, PER_SECOND)
        until(lambda: sink.requests >= posts, f"{posts:,} requests", 3600)
        memory = worker.peak_megabytes()
        arrived = sorted(sink.arrivals(), key=lambda each: each.i_event)
    mine = [each for each in arrived if 0 < each.i_account <= ACCOUNTS]
    others = sorted(each.at for each in arrived if each.i_account > ACCOUNTS)
    took = [(there.at - at) * 1000 for there, at in zip(mine, committed, strict=True)]
    rate = len(others) / (others[-1] - others[0]) if others else 0.0
    return took, rate, memory
