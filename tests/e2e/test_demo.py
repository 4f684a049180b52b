"""The demo, as a new user runs it: child processes, a fresh folder, ports of its own."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from espf import subscriptions
from espf.crypto import Sealer
from espf.db.database import Database

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo" / "demo.py"

TYPES = {
    "Account/New",
    "Account/SIMCardAssignment",
    "Account/ServicePassword/Changed",
    "Account/Password/Changed",
    "Account/ID/Changed",
    "Account/ZeroAvailableFunds",
    "Account/AvailableFundsAppear",
    "Account/Product/Changed",
    "Account/Blocked",
    "Account/Unblocked",
    "Customer/ZeroAvailableFunds",
    "Customer/AvailableFundsAppear",
    "Customer/Blocked",
    "Customer/Unblocked",
    "Account/Service/Netaccess/QuotaExceeded",
    "Account/Service/QuotaAvailable",
    "Custom/NextMonth",
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Demo:
    """A demo under way, and what it has printed so far."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port, self.app_port = free_port(), free_port()
        self.output = ""
        self._printed = threading.Condition()
        ports = ("--port", str(self.port), "--app-port", str(self.app_port))
        self.process = subprocess.Popen(
            [sys.executable, DEMO, "--folder", folder, *ports, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Whoever is started in the background by a shell is deaf to Ctrl-C otherwise.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._printed:
                self.output += line
                self._printed.notify_all()

    def until(self, pattern: str, timeout: float = 120.0) -> re.Match[str]:
        """Wait until a line matches."""
        with self._printed:
            assert self._printed.wait_for(
                lambda: re.search(pattern, self.output, re.MULTILINE), timeout
            ), self.output
        found = re.search(pattern, self.output, re.MULTILINE)
        assert found is not None
        return found

    def exit_code(self, timeout: float = 120.0) -> int:
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)
        self._reader.join(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def has_left_nothing_running(self) -> bool:
        """Whether both ports can be taken again."""
        for port in (self.port, self.app_port):
            socket.create_server(("127.0.0.1", port)).close()
        return True


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[Demo]:
    under_way = Demo(folder, *options)
    try:
        yield under_way
    finally:
        under_way.close()


def arrivals(output: str) -> list[tuple[str, int, int, str]]:
    """(time, status, i_event, event type) of every POST, in the order of their arrival."""
    lines = re.findall(r"^  >> (\S+)  (\d{3})  #(\d+) (\S+) ", output, re.MULTILINE)
    return [(at, int(status), int(number), name) for at, status, number, name in lines]


def test_every_event_of_the_demo_is_delivered(tmp_path: Path) -> None:
    with demo(tmp_path / "demo", "--once") as played:
        code = played.exit_code()
        output = played.output
    assert code == 0, output
    assert "Created event type #10001 Custom/NextMonth" in output
    assert "Handler EventSender is subscribed to Custom/NextMonth" in output
    row = r"^ +(\d+)  (\S+) +(account:\d|customer:\d) +(\d+)  (\S+) +([\d:.]+)$"
    table = re.findall(row, output, re.MULTILINE)
    assert {name for _, name, *_ in table} == TYPES
    assert {verdict for *_, verdict, _ in table} == {"finished"}
    assert "20 events of 3 subscribers: all finished" in output

    came = arrivals(output)
    assert sorted(int(number) for number, *_ in table) == sorted(
        number for _, status, number, _ in came if status == 200
    )
    # The retry: refused once, taken later; the next event of the account waited.
    (blocked,) = [number for _, status, number, _ in came if status == 503]
    order = [(status, number, name) for _, status, number, name in came]
    refused, taken = (
        order.index((503, blocked, "Account/Blocked")),
        order.index((200, blocked, "Account/Blocked")),
    )
    assert refused < taken < order.index((200, blocked + 1, "Account/Unblocked"))
    assert (200, blocked + 2, "Account/New") in order

    # The quota: blocked, and unblocked by the new month, or without funds by a top-up.
    for what in (
        r"QuotaExceeded i_account=1 .*: blocked; #\d+ Custom/NextMonth is due at",
        r"QuotaExceeded i_account=2 .*: blocked; #\d+ Custom/NextMonth is due at",
        r"Custom/NextMonth i_account=1: available funds 1000.0: unblocked$",
        r"Custom/NextMonth i_account=2: available funds 0.0: stays blocked until a top-up$",
        r"Service/QuotaAvailable i_account=2 .*: unblocked$",
        r'\{"authorised": "Y", "remaining": 20000000000\}\n(?s:.*)"remaining": 20000000000\}$',
    ):
        assert len(re.findall(what, output, re.MULTILINE)) == 1, what

    # The scheduled events: not before their time, nor much later.
    due = dict(re.findall(r"#(\d+) Custom/NextMonth is due at \S+ (\S+)", output))
    months = {str(number): at for at, _, number, name in came if name == "Custom/NextMonth"}
    assert due.keys() == months.keys()
    assert len(due) == 2
    for number, at in months.items():
        assert 0 <= seconds(at) - seconds(due[number]) < 30 or seconds(due[number]) > 86_390
    assert played.has_left_nothing_running()


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def test_a_real_hlr_lets_a_phone_attach_when_the_billing_wants_it(tmp_path: Path) -> None:
    number = os.getpid()
    address = f"127.72.{number >> 8 & 255}.{number & 255}"
    with demo(tmp_path / "demo", "--hlr", "--once", "--hlr-address", address) as played:
        code = played.exit_code()
        output = played.output
    assert code == 0, output
    said = re.findall(r"asks to attach: (yes|no: .*)$", output, re.MULTILINE)
    barred = "no: the network is not allowed"
    assert said == ["no: the IMSI is unknown", "yes", barred, barred, "yes"]
    assert 'provisioning statuses of the account: {"HSS": "OK"}' in output
    assert played.has_left_nothing_running()
    for port in (4222, 4258, 4259):
        socket.create_server((address, port)).close()


def test_while_the_demo_stays_up_what_it_suggests_works_until_ctrl_c(tmp_path: Path) -> None:
    with demo(tmp_path / "demo") as staying:
        password = staying.until(r"curl -u admin:(\S+)")[1]
        staying.until(r"UPDATE Accounts SET blocked = 'Y' WHERE i_account = 1")
        with closing(sqlite3.connect(staying.folder / "espf.db", timeout=60)) as billing, billing:
            billing.execute("UPDATE Accounts SET blocked = 'Y' WHERE i_account = 1")
        staying.until(r"(?s)stay up until.*^  >> \S+  200  #\d+ Account/Blocked i_account=1 ")
        i_event = create_event(staying.port, password, i_account=1)
        staying.until(rf"200  #{i_event} Custom/NextMonth i_account=1: .*was not blocked")
        staying.process.send_signal(signal.SIGINT)
        code = staying.exit_code()
    assert code == 0, staying.output
    assert staying.has_left_nothing_running()


def create_event(port: int, password: str, **variables: int) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/espf/v1/event/create",
        json.dumps({"event_type": "Custom/NextMonth", "variables": variables}).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Basic {b64encode(f'admin:{password}'.encode()).decode()}",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)["i_event"]


def test_an_application_that_refuses_the_key_fails_the_demo_at_once(tmp_path: Path) -> None:
    with demo(tmp_path / "demo", "--once") as broken:
        broken.until(r"^\$ evctl type create")
        with closing(Database.open(f"sqlite:///{broken.folder / 'espf.db'}")) as database:
            sealer = Sealer.open(broken.folder / "espf.key")
            with database.begin() as connection:
                handler = subscriptions.require_handler(connection, 3, "EventSender")
                wrong = {"EventSender.BasicAuth.Key": "wrong"}
                subscriptions.set_options(connection, sealer, handler, wrong)
        broken.until(r"^  >> .*  401  ")
        refused_at = time.monotonic()
        code = broken.exit_code()
    assert code == 1, broken.output
    assert time.monotonic() - refused_at < 45
    assert "The demo failed: the application refuses: " in broken.output
    assert "401" in broken.output
    assert broken.has_left_nothing_running()


def test_an_application_that_dies_fails_the_demo_at_once(tmp_path: Path) -> None:
    with demo(tmp_path / "demo", "--once") as broken:
        pid = int(broken.until(r"The sample application: process (\d+)")[1])
        broken.until(r"200  #1 Account/New")
        os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        code = broken.exit_code()
    assert code == 1, broken.output
    assert time.monotonic() - killed_at < 45
    assert "The demo failed: the application has ended" in broken.output
    assert broken.has_left_nothing_running()


def test_a_port_in_use_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with demo(folder, "--once", "--app-port", port) as refused:
            assert refused.exit_code() == 1
    assert f"port {port} of 127.0.0.1 cannot be used" in refused.output
    assert not folder.exists()


def test_a_folder_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with demo(tmp_path, "--once") as refused:
        assert refused.exit_code() == 1
    assert "is not a demo's folder" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
