"""The application at the other end: benchmarks/sink.c, compiled, started, and read from outside.

What it counts and remembers is in memory that both map, so asking it costs it nothing.
"""

import mmap
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import BenchError

_SOURCE = Path(__file__).parent / "sink.c"
_STATE = struct.Struct("=8Q")
_DELAY, _HANG = 6 * 8, 7 * 8


class Arrival(NamedTuple):
    """One request: when it was there (seconds, monotonic), and what its body says."""

    at: float
    i_event: int
    i_account: int


_ARRIVAL = struct.Struct("=3Q")


class Sink:
    """A running sink."""

    def __init__(self, shared: mmap.mmap) -> None:
        self._shared = shared

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._state()[0]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def requests(self) -> int:
        """How many came, to be waited for."""
        return self._state()[2]

    @property
    def first(self) -> float:
        """When the first came, in seconds of the monotonic clock."""
        return self._state()[3] / 1e9

    @property
    def last(self) -> float:
        """When the last came."""
        return self._state()[4] / 1e9

    def delay(self, milliseconds: float) -> None:
        """Take so long for each answer from now on."""
        struct.pack_into("=Q", self._shared, _DELAY, round(milliseconds * 1000))

    def hang(self) -> None:
        """Answer nobody from now on."""
        struct.pack_into("=Q", self._shared, _HANG, 1)

    def arrivals(self) -> list[Arrival]:
        """What came, in the order in which it came."""
        count = min(self.requests, self._state()[1])
        rows = _ARRIVAL.iter_unpack(self._shared[_STATE.size : _STATE.size + count * _ARRIVAL.size])
        return [Arrival(ns / 1e9, i_event, i_account) for ns, i_event, i_account in rows]

    def _state(self) -> tuple[int, ...]:
        return _STATE.unpack_from(self._shared)


class SinkProgram:
    """The compiled program. Its sinks listen at one address, one after another."""

    def __init__(self, folder: Path) -> None:
        """Compile it into a folder. Raises BenchError without a C compiler."""
        self._program = folder / "sink"
        command = ["cc", "-O2", "-o", str(self._program), str(_SOURCE)]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchError(f"the sink needs a C compiler (install gcc): {error}") from error
        self._port = 0
        with self.running(0) as sink:
            self._port = sink.port
            self.url = sink.url

    @contextmanager
    def running(self, capacity: int) -> Iterator[Sink]:
        """A sink that remembers so many requests, for as long as the block lasts."""
        with tempfile.NamedTemporaryFile() as file:
            command: list[str | Path] = [self._program, file.name, str(capacity), str(self._port)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                if not process.stdout.readline():
                    raise BenchError("the sink did not start")
                with mmap.mmap(file.fileno(), 0) as shared:
                    yield Sink(shared)
            finally:
                process.stdin.close()
                process.wait()
                process.stdout.close()
