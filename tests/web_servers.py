"""Web servers and proxies for the tests: the real programs, each a child process.

One that is not installed is a failure, not a skip.
"""

import socket
import subprocess
import time
from contextlib import contextmanager, suppress

import pytest


@contextmanager
def running(folder, command):
    """A server, its command being a function of the port; gives its URL."""
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(command(port), stdout=output, stderr=output, cwd=folder)
        try:
            if listens(process, port):
                yield f"http://127.0.0.1:{port}"
                return
        finally:
            process.kill()
            process.wait()
    pytest.fail((folder / "output").read_text("utf-8", "replace"))


def listens(process, port):
    """Whether it does, and not another process that got the port in between."""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        if process.poll() is not None:
            return False
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process.poll() is None
        time.sleep(0.02)
    return False
