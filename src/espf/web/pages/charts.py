"""Charts, drawn on the server as SVG: they need no script, and follow light and dark."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from espf.statistics import Figures

#: Shares of the highest bar at which a line is drawn, with its figure.
_LINES = (0.5, 1.0)


@dataclass(frozen=True)
class Bar:
    """One bar: what was counted in a span of time that began at ``began_at``, by tone."""

    began_at: datetime
    good: int
    warn: int = 0
    bad: int = 0

    @property
    def total(self) -> int:
        """All together."""
        return self.good + self.warn + self.bad


@dataclass(frozen=True)
class Rect:
    """A part of a bar, in the units of the drawing."""

    x: float
    y: float
    width: float
    height: float
    tone: str


@dataclass(frozen=True)
class Chart:
    """A drawing of ``width`` by ``height``: parts of bars, lines with figures, times below.

    ``label`` says the same in words, for those who do not see it.
    """

    label: str
    width: int
    height: int
    rects: Sequence[Rect]
    lines: Sequence[tuple[float, str]]
    times: Sequence[tuple[float, str]]


def bars(label: str, values: Sequence[Bar], *, width: int = 640, height: int = 150) -> Chart:
    """A bar for each value, green, yellow and red on top of each other."""
    left, bottom, top = 44, height - 20, 8
    most = _round_up(max((one.total for one in values), default=0))
    step = (width - left) / max(len(values), 1)
    scale = (bottom - top) / most
    rects = []
    for place, one in enumerate(values):
        base = float(bottom)
        for tone, count in (("good", one.good), ("warn", one.warn), ("bad", one.bad)):
            if count:
                # What happened at all is seen.
                size = max(count * scale, 1.5)
                base -= size
                rects.append(_rect(left + place * step, base, max(step - 1.5, 1), size, tone))
    every = max(len(values) // 6, 1)
    return Chart(
        f"{label}: {sum(one.total for one in values):,} in all, at most "
        f"{max((one.total for one in values), default=0):,} at a time",
        width,
        height,
        rects,
        [(bottom - share * most * scale, _short(share * most)) for share in _LINES],
        [
            (left + place * step, f"{one.began_at:%H:%M}")
            for place, one in enumerate(values)
            if place % every == 0
        ],
    )


def told(began_at: Iterable[datetime], figures: Iterable[Figures]) -> list[Bar]:
    """What was delivered; what was to be tried again; what failed or was rejected."""
    return [
        Bar(moment, one.finished + one.skipped, one.retried, one.failed + one.rejected)
        for moment, one in zip(began_at, figures, strict=True)
    ]


def spark(label: str, values: Sequence[Bar]) -> Chart:
    """A small one for a line of a table: bars alone."""
    width, height = 120, 24
    most = max((one.total for one in values), default=0) or 1
    step = width / max(len(values), 1)
    rects = []
    for place, one in enumerate(values):
        if one.total:
            size = max(one.total / most * height, 1.5)
            tone = "bad" if one.bad else "warn" if one.warn else "good"
            rects.append(_rect(place * step, height - size, max(step - 0.5, 0.5), size, tone))
    return Chart(f"{label}: {sum(one.total for one in values):,}", width, height, rects, (), ())


def _rect(x: float, y: float, width: float, height: float, tone: str) -> Rect:
    return Rect(round(x, 1), round(y, 1), round(width, 1), round(height, 1), tone)


def _round_up(most: int) -> int:
    """The next number above that people like: 1, 2, 4 or 10 times a power of ten."""
    size = 1
    while True:
        for factor in (2, 4, 10):
            if most <= factor * size:
                return factor * size
        size *= 10


def _short(count: float) -> str:
    """A figure with few letters: ``1.5k``."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if count >= size:
            return f"{count / size:g}{letter}"
    return f"{count:g}"
