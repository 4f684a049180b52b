"""Numbers that can be quoted: medians with their spread, ratios within one round, tables."""

import platform
import sqlite3
import statistics
import sys
from collections.abc import Sequence
from os import cpu_count

#: Single numbers by name, for the table of targets.
Facts = dict[str, float]


class BenchError(Exception):
    """Something cannot be measured here; the text says why."""


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def shown(values: Sequence[float], digits: int = 0) -> str:
    """``median [min-max]``."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f}-{high:,.{digits}f}]"


def ratio(values: Sequence[float], base: Sequence[float]) -> str:
    """The ratios of each round, which say more than the ratio of the medians."""
    return shown([value / one for value, one in zip(values, base, strict=True)], 2)


def median_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios of each round."""
    return statistics.median(value / one for value, one in zip(values, base, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """The shape of the machine, without its name."""
    return (
        f"{cpu_count()} cores, {platform.system()} on {platform.machine()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )
