"""Real programs for the test suites: each a child process over a folder, on an address of its own.

One that is not installed is a failure, not a skip. However the test process ends, they end, too.
"""

import os
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

#: What does not answer by then never will.
PATIENCE_SECONDS = 60


class Program(ABC):
    """A program that serves. Started when it is entered, ended when it is left.

    ``address`` is a loopback address that no other test process uses.
    """

    #: The ports that it listens on when it is ready.
    ports: tuple[int, ...]

    def __init__(self) -> None:
        number = os.getpid()
        self.address = f"127.71.{number >> 8 & 255}.{number & 255}"
        self._temporary = tempfile.TemporaryDirectory(prefix="espf-")
        self.folder = Path(self._temporary.name)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.install()
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._process is not None:
            self.resume()
            self.kill()
        self._temporary.cleanup()

    @abstractmethod
    def install(self) -> None:
        """Make what the program needs in its folder."""

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it in the foreground."""

    def environment(self) -> dict[str, str]:
        """The variables that it is started with."""
        return dict(os.environ)

    def start(self) -> None:
        """Start it over the data that it has; return when it listens."""
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self.command()],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it does not start:\n{self.output()[-3000:]}")
            time.sleep(0.02)

    def is_ready(self) -> bool:
        """Whether it listens on all of its ports."""
        for port in self.ports:
            try:
                socket.create_connection((self.address, port), timeout=1).close()
            except OSError:
                return False
        return True

    def output(self) -> str:
        """What it has printed."""
        return (self.folder / "output").read_text("utf-8", "replace")

    def stop(self) -> None:
        """End it as an administrator does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: connections stay, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Frozen for as long as the block lasts."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        self._process.wait(PATIENCE_SECONDS)


class OsmoHLR(Program):
    """An OsmoHLR; its ports cannot be changed, so it has an address of its own."""

    ports = (4258, 4259, 4222)

    def install(self) -> None:
        (self.folder / "osmo-hlr.cfg").write_text(
            f"line vty\n no login\n bind {self.address}\nctrl\n bind {self.address}\n"
            f"hlr\n database {self.database}\n gsup\n  bind ip {self.address}\n"
        )

    def command(self) -> list[str]:
        return ["osmo-hlr", "-c", "osmo-hlr.cfg", "-l", str(self.database)]

    @property
    def database(self) -> Path:
        """The file in which it keeps its subscribers."""
        return self.folder / "hlr.db"
