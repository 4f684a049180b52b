"""The servers of the test suites keep what they promise, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

import servers
from servers import MariaDB, PostgreSQL

KINDS = pytest.mark.parametrize("kind", [PostgreSQL, MariaDB])


def execute(url, *statements):
    """Run statements as a billing would; returns the rows of the last."""
    driver = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
    known = make_url(url).difference_update_query(["espf_schema"])
    engine = create_engine(known.set(drivername=driver[known.drivername]), poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else []


def gone(folder):
    """Whether the folder goes away, and whoever works in it or has it in his command."""
    deadline = time.monotonic() + 60
    while folder.exists() or any(str(folder) in trace for trace in traces()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def traces():
    """The commands of all processes, and where they work."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield (process / "cmdline").read_text(errors="replace")
            yield str((process / "cwd").readlink())


@KINDS
def test_a_server_is_stopped_killed_frozen_and_goes_on(kind):
    with kind(tcp=True) as server:
        url = server.empty()
        execute(url, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)")
        server.stop()
        server.start()
        execute(url, "INSERT INTO t VALUES (2)")
        server.kill()
        server.start()
        answered = threading.Event()

        def ask():
            execute(url, "INSERT INTO t VALUES (3)")
            answered.set()

        asking = threading.Thread(target=ask)
        with server.paused():
            asking.start()
            assert not answered.wait(0.1)
        asking.join()
        assert execute(url, "SELECT n FROM t ORDER BY n") == [(1,), (2,), (3,)]
    assert gone(server.folder)


@KINDS
def test_a_database_is_again_as_it_was_kept(kind, stores):
    server = stores(kind.__name__.lower())
    url = server.empty("kept")
    execute(url, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)")
    server.keep("one", "kept")
    execute(url, "INSERT INTO t VALUES (2)", "CREATE TABLE other (n int)")
    assert server.restore("one", "kept") == url
    assert execute(url, "SELECT n FROM t") == [(1,)]
    execute(url, "CREATE TABLE other (n int)")
    server.empty("kept")
    execute(url, "CREATE TABLE t (n int)")


ABANDON = """
import sys, time
from servers import MariaDB, PostgreSQL
running = [PostgreSQL(), MariaDB()]
running[0].pause()
print(*(server.folder for server in running), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_test_run_that_is_interrupted(how):
    tests = str(Path(servers.__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", ABANDON],
        env={**os.environ, "PYTHONPATH": tests},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        folders = [Path(word) for word in run.stdout.readline().split()]
        assert len(folders) == 2
        run.send_signal(how)
    assert all(gone(folder) for folder in folders)


def test_a_program_that_is_missing_is_named_with_its_packages():
    with pytest.raises(RuntimeError, match=r"no mariadbx.*postgresql, mariadb-server"):
        servers._binary("mariadbx")
