"""The sample application by itself: what it insists on, and what it remembers."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

APPLICATION = (
    Path(__file__).resolve().parents[2] / "examples" / "webhook_receiver" / "application.py"
)
KEY = "Basic " + b64encode(b"espf:the key").decode()
EVENT = {
    "event_type": "Account/New",
    "variables": {"i_env": 3, "i_account": 541, "i_customer": 7, "i_event": 5},
}


@contextmanager
def application(memory: Path) -> Iterator[int]:
    """The application as a process; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [
            *(sys.executable, APPLICATION, "--port", str(port), "--memory", memory),
            # Nobody listens there.
            *("--espf-url", "http://127.0.0.1:1"),
        ],
        env={
            **os.environ,
            "APPLICATION_USER": "espf",
            "APPLICATION_KEY": "the key",
            "BILLING_LOGIN": "admin",
            "BILLING_PASSWORD": "not needed",
        },
        stdout=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)
        yield port
    finally:
        child.terminate()
        child.wait(15)


def post(port: int, body: object = EVENT, **changed: str | None) -> tuple[int, str]:
    """POST as EventSender does, but for some headers; gives the status and the answer."""
    headers: dict[str, str | None] = {
        "Date": "Thu, 12 Apr 2018 15:24:00 GMT",
        "Content-Type": "application/json",
        "Authorization": KEY,
    }
    headers.update({name.replace("_", "-"): value for name, value in changed.items()})
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    sent = {name: value for name, value in headers.items() if value is not None}
    connection.request("POST", "/", json.dumps(body), sent)
    reply = connection.getresponse()
    answer = reply.status, reply.read().decode().strip()
    connection.close()
    return answer


def test_a_repeated_event_is_done_once_even_after_a_restart(tmp_path: Path) -> None:
    with application(tmp_path / "memory.db") as port:
        assert post(port) == (200, "noted")
        assert post(port) == (200, "done before; nothing to do")
    with application(tmp_path / "memory.db") as port:
        assert post(port) == (200, "done before; nothing to do")


def test_only_espf_gets_in_and_only_in_its_wire_format(tmp_path: Path) -> None:
    with application(tmp_path / "memory.db") as port:
        assert post(port, Authorization="Basic d3Jvbmc6a2V5")[0] == 401
        assert post(port, Authorization=None)[0] == 401
        assert post(port, Date=None)[0] == 400
        assert post(port, Date="yesterday")[0] == 400
        assert post(port, Content_Type="text/plain")[0] == 400
        assert post(port, {"event_type": "Account/New"})[0] == 400
        assert post(port, {"event_type": "Account/New", "variables": {"i_account": 1}})[0] == 400
        assert post(port, ["not", "an", "event"])[0] == 400
        assert post(port) == (200, "noted"), "nothing of the above was noted as done"


def test_work_that_cannot_be_done_now_is_asked_for_again(tmp_path: Path) -> None:
    variables = {"i_account": 541, "service": "netaccess", "i_event": 6}
    exceeded = {
        "event_type": "Account/Service/Netaccess/QuotaExceeded",
        "variables": variables,
    }
    with application(tmp_path / "memory.db") as port:
        for _ in range(2):
            status, reason = post(port, exceeded)
            assert status == 503
            assert "is away" in reason


def test_the_new_month_starts_at_midnight_where_the_subscriber_lives() -> None:
    spec = importlib.util.spec_from_file_location("application", APPLICATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    last_evening = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    assert module.next_month(last_evening, "UTC") == datetime(2027, 1, 1, tzinfo=UTC)
    # There it is January already, and February starts two hours before it does in UTC.
    in_kyiv = module.next_month(last_evening, "Europe/Kyiv")
    assert in_kyiv == datetime(2027, 1, 31, 22, tzinfo=UTC)
    # The clocks are put forward in between.
    in_march = datetime(2026, 3, 20, 12, tzinfo=UTC)
    assert module.next_month(in_march, "Europe/Kyiv") == datetime(2026, 3, 31, 21, tzinfo=UTC)
