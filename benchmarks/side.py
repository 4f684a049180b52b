"""What is compared: a side takes a load, delivers it, and is looked at from outside."""

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import BenchError

_TICKS = os.sysconf("SC_CLK_TCK")

#: How often one looks how a program is.
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Load:
    """So many events, each for so many handlers (or queues, as others call them)."""

    events: int
    handlers: int = 1

    @property
    def posts(self) -> int:
        """How many requests they come to."""
        return self.events * self.handlers

    def __str__(self) -> str:
        return f"{self.events:,} events, {self.handlers} handler{'s' * (self.handlers > 1)}"


class Process:
    """A running program, watched through /proc."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def cpu_seconds(self) -> float:
        """Processor time of the process itself so far."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def peak_megabytes(self) -> float:
        """The most memory that was resident."""
        status = (self._folder / "status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class Stock(ABC):
    """A load in a database of its own, waiting for a worker."""

    @abstractmethod
    def working(self) -> AbstractContextManager[Process]:
        """The side's worker, one process, for as long as the block lasts."""

    @abstractmethod
    def wait_until_done(self) -> float:
        """Return, when by the side's own tables nothing is left to do, the moment of that."""

    @abstractmethod
    def trickle(self, seconds: int, per_second: int) -> list[float]:
        """Make events at a rate; the moments at which each commit returned, in order."""


class Side(ABC):
    """One contestant."""

    name: str

    @abstractmethod
    def stocked(self, load: Load) -> AbstractContextManager[Stock]:
        """The same load as before, as good as new, for as long as the block lasts."""


def until(done: Callable[[], bool], what: str, timeout_seconds: float = 60.0) -> float:
    """Ask again and again; the moment of the first yes. Raises BenchError when there is none."""
    end = time.monotonic() + timeout_seconds
    while not done():
        if time.monotonic() > end:
            raise BenchError(f"still waiting after {timeout_seconds:.0f} s: {what}")
        time.sleep(0.002)
    return time.monotonic()


def peak_megabytes(running: "subprocess.Popen[bytes]", look: Callable[[], object]) -> float:
    """Wait for a program to end, and ``look`` meanwhile; the most memory that was resident.

    What the system tells of a child at its end would count our own memory at its start, too.
    """
    most = 0.0
    while running.poll() is None:
        # It may end at any moment.
        with suppress(OSError, IndexError):
            most = Process(running.pid).peak_megabytes()
        look()
        time.sleep(_LOOK_SECONDS)
    return most


@contextmanager
def program(
    command: Sequence[str | Path], environment: Mapping[str, str], log: Path
) -> Iterator[Process]:
    """Run a program; at the end ask it to stop, and after a while make it."""
    with log.open("ab") as file:
        running = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=file, stderr=file
        )
        try:
            yield Process(running.pid)
        except BenchError as error:
            if running.poll() is None:
                raise
            said = log.read_text()[-2000:]
            raise BenchError(f"{error}; for {command[0]} has ended: {said}") from error
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(5)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
