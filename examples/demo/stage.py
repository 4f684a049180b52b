"""The demo's stage: ESPF and the sample application as real processes, and the ways to them."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = ROOT / "examples" / "webhook_receiver" / "application.py"
EVCTL = Path(sys.executable).with_name("evctl")

I_ENV = 3
HANDLER = "EventSender"
NEXT_MONTH = "Custom/NextMonth"

#: This type is answered 503 once, to be tried again.
FAILS_ONCE = "Account/Blocked"

#: The sample application schedules the new month so far ahead.
MONTH_SECONDS = 3

#: How long any one thing may take. Nothing here takes a second but what waits for the clock.
PATIENCE_SECONDS = 15.0

#: Only a folder that holds this file is deleted to make room for a new demo.
MARK = ".espf-demo"

_printing = threading.Lock()


class DemoFailed(Exception):
    """Something did not happen as it should; the text says what."""


def say(text: str = "") -> None:
    """Print whole lines, whoever else prints at the same time."""
    with _printing:
        print(text, flush=True)


@dataclass(frozen=True)
class Arrival:
    """One event that the application took. ``about`` is ``account:1`` or the like."""

    at: datetime
    event_type: str
    about: str


class Arrivals:
    """The application's lines: printed as they come, and what they tell."""

    _LINE = re.compile(
        r"(?P<at>\S+ \S+)  (?P<status>\d{3})  "
        r"(#(?P<i_event>\d+) (?P<type>\S+) i_(?P<noun>account|customer)=(?P<number>\d+))?"
    )

    _DUE = re.compile(r"#(\d+) \S+ is due at (\S+ \S+)$")

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.refused: list[str] = []
        self._taken: dict[int, Arrival] = {}
        self._due: dict[int, datetime] = {}

    def follow(self, lines: Iterable[str]) -> None:
        """Read the application's lines to their end; the work of a thread."""
        for line in lines:
            found = self._LINE.match(line)
            # The day is no news.
            say(f"  >> {(line.partition(' ')[2] if found else line).rstrip()}")
            if found:
                with self.changed:
                    self._note(found, line)
                    self.changed.notify_all()

    def _note(self, found: re.Match[str], line: str) -> None:
        if found["status"].startswith("4"):
            self.refused.append(line.strip())
        if found["status"] == "200" and found["i_event"]:
            arrival = Arrival(
                moment(found["at"]), found["type"], f"{found['noun']}:{found['number']}"
            )
            # An event that comes again was done the first time.
            self._taken.setdefault(int(found["i_event"]), arrival)
            if due := self._DUE.search(line.rstrip()):
                self._due[int(due[1])] = moment(due[2])

    def taken(self) -> dict[int, Arrival]:
        """What the application took, by i_event, in the order in which it did."""
        with self.changed:
            return dict(self._taken)

    def due(self) -> dict[int, datetime]:
        """When the events are due that the application has scheduled, by i_event."""
        with self.changed:
            return dict(self._due)

    def types(self) -> dict[str, list[str]]:
        """The types that the application took, in their order, for each subscriber."""
        types: dict[str, list[str]] = defaultdict(list)
        for arrival in self.taken().values():
            types[arrival.about].append(arrival.event_type)
        return types


def moment(text: str) -> datetime:
    """Read a time of the application's lines, which are in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def differences(
    expected: dict[str, list[str]], found: dict[str, list[str]], *, so_far: bool = False
) -> list[str]:
    """Where the events of a subscriber are not the expected ones in the expected order.

    ``so_far``: more events than expected may have come.
    """
    wrong = []
    for about in sorted({*expected, *found}):
        wanted, got = expected.get(about, []), found.get(about, [])
        if (got[: len(wanted)] if so_far else got) != wanted:
            missing = [name for name in wanted if name not in got]
            what = f"{', '.join(missing)} missing" if missing else f"{', '.join(got)} arrived"
            wrong.append(f"{about}: {what}")
    return wrong


class Stage:
    """A fresh folder, ESPF and the sample application in it. ``close`` stops what was started."""

    def __init__(self, folder: Path, port: int, app_port: int) -> None:
        self.folder = folder.resolve()
        self.port = port
        self.app_port = app_port
        self.arrivals = Arrivals()
        self.password = secrets.token_urlsafe(9)
        self._children: dict[str, subprocess.Popen[str]] = {}

    @property
    def url(self) -> str:
        """Where ESPF serves its APIs."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Path:
        """The settings file of this demo."""
        return self._named("espf.toml")

    @property
    def database(self) -> Path:
        """The database, ESPF's and the billing's."""
        return self._named("espf.db")

    @property
    def log(self) -> Path:
        """ESPF's text log."""
        return self._named("provisioning.log")

    def set_up(self) -> None:
        """Make the folder anew, and in it a database, an administrator, a configured handler."""
        self.install({"--port": self.port, "--app-port": self.app_port})
        key_file = self._named("application.key")
        key = secrets.token_urlsafe(18)
        (ROOT / key_file).touch(mode=0o600)
        (ROOT / key_file).write_text(key)
        self.evctl(
            *("handler", "set", str(I_ENV), HANDLER, "RetryDelays=1s 2s 5s", "RetryJitter=0"),
            f"EventSender.URL=http://127.0.0.1:{self.app_port}",
            *("--set-file", f"EventSender.BasicAuth.Key={key_file}"),
        )
        self.evctl("type", "create", NEXT_MONTH)
        self.evctl("handler", "subscribe", str(I_ENV), HANDLER, NEXT_MONTH)
        self._start_application(key)
        self.start_espf()

    def install(self, ports: dict[str, int]) -> None:
        """Make the folder anew, and in it a database and an administrator.

        ``ports`` are those that must be free, by the option that chooses another.
        """
        if not EVCTL.exists():
            raise DemoFailed(f"there is no evctl beside {sys.executable}; run 'make install'")
        self._require_free_ports(ports)
        self._clear_folder()
        self._write_settings()
        self.evctl("init", "--demo", ESPF_ADMIN_PASSWORD=self.password)

    def evctl(
        self, *words: str, show: bool = True, stdin: str = "", code: int = 0, **environment: str
    ) -> str:
        """Run evctl as an administrator does; returns what it prints. Its exit code is ``code``."""
        if show:
            say("$ evctl " + " ".join(f"'{word}'" if " " in word else word for word in words))
        try:
            ran = subprocess.run(
                [EVCTL, *words],
                cwd=ROOT,
                env=self._environment(**environment),
                input=stdin,
                capture_output=True,
                text=True,
                timeout=2 * PATIENCE_SECONDS,
                check=False,
            )
            if ran.returncode != code:
                raise subprocess.CalledProcessError(
                    ran.returncode, ran.args, ran.stdout, ran.stderr
                )
        except subprocess.SubprocessError as error:
            told = getattr(error, "stderr", None) or ""
            raise DemoFailed(f"evctl {words[0]}: {error}. {told}".strip()) from None
        if show:
            say("".join(f"  {line}\n" for line in ran.stdout.splitlines()))
        return ran.stdout

    def wait_for(self, expected: dict[str, list[str]]) -> None:
        """Wait until each subscriber's events have come. Raises DemoFailed when they won't."""
        end = time.monotonic() + PATIENCE_SECONDS
        arrivals = self.arrivals
        with arrivals.changed:
            while missing := differences(expected, arrivals.types(), so_far=True):
                if arrivals.refused:
                    raise DemoFailed(f"the application refuses: {arrivals.refused[0]}")
                if time.monotonic() > end:
                    raise DemoFailed(f"after {PATIENCE_SECONDS:.0f} s: {'; '.join(missing)}")
                self.check_alive()
                arrivals.changed.wait(0.2)

    def check_alive(self) -> None:
        """Raise DemoFailed when ESPF or the application has ended."""
        for name, child in self._children.items():
            if child.poll() is not None:
                output = self.folder / ("espf.out" if name == "ESPF" else f"{name}.out")
                told = output.read_text().strip() if output.exists() else ""
                raise DemoFailed(f"{name} has ended, exit code {child.returncode}. {told}".strip())

    def log_lines(self) -> list[str]:
        """What ESPF's text log holds."""
        return (ROOT / self.log).read_text().splitlines()

    def live_rows(self) -> dict[str, int]:
        """How many rows the two live tables hold."""
        uri = f"{(ROOT / self.database).as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=5)) as database:
            return {
                table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("Event_Queue", "Event_Notifications")
            }

    def close(self) -> None:
        """Stop what was started, ESPF first, so that it has somebody to finish with."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for child in reversed(self._children.values()):
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _named(self, file: str) -> Path:
        """A file of the demo, named as seen from the project's folder if it is in there."""
        path = self.folder / file
        return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path

    def _write_settings(self) -> None:
        settings = {
            "database_url": f"sqlite:///{self.database}",
            "key_file": str(self._named("espf.key")),
            "log": str(self.log),
            "listen": f"127.0.0.1:{self.port}",
        }
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
        (ROOT / self.settings).write_text("".join(lines))

    def _environment(self, **more: str) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("ESPF_")}
        return {**mine, "ESPF_SETTINGS": str(self.settings), **more}

    def _require_free_ports(self, ports: dict[str, int]) -> None:
        for option, port in ports.items():
            try:
                socket.create_server(("127.0.0.1", port)).close()
            except OSError as error:
                raise DemoFailed(
                    f"port {port} of 127.0.0.1 cannot be used: {error.strerror}. "
                    f"Give another one with {option}: make demo ARGS='{option} {port + 1}'"
                ) from None

    def _clear_folder(self) -> None:
        if self.folder.exists():
            if not (self.folder / MARK).exists():
                raise DemoFailed(f"{self.folder} is not a demo's folder; it is left alone")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        (self.folder / MARK).touch()

    def _start_application(self, key: str) -> None:
        child = subprocess.Popen(
            [
                *(sys.executable, str(APPLICATION)),
                *("--port", str(self.app_port), "--espf-url", self.url),
                *("--memory", str(self.folder / "application.db")),
                *("--next-month-in", str(MONTH_SECONDS), "--fail-first", "1", FAILS_ONCE),
            ],
            env=self._environment(
                APPLICATION_USER="espf",
                APPLICATION_KEY=key,
                BILLING_LOGIN="admin",
                BILLING_PASSWORD=self.password,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; we stop our children in order.
        )
        self._children["the application"] = child
        assert child.stdout is not None
        threading.Thread(target=self.arrivals.follow, args=(child.stdout,), daemon=True).start()
        say(f"The sample application: process {child.pid}, a line with >> for each POST")
        self._wait_for_port(self.app_port)

    def start(self, name: str, *command: str, address: str, ports: Sequence[int]) -> None:
        """Start a program of somebody else, in the demo's folder; return when it listens."""
        with (self.folder / f"{name}.out").open("w") as output:
            self._children[name] = child = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        say(f"$ {' '.join(command)}\n  process {child.pid}, at {address}")
        for port in ports:
            self._wait_for_port(port, address)

    def start_espf(self) -> None:
        """Start ESPF; return when it serves."""
        with (self.folder / "espf.out").open("w") as output:
            self._children["ESPF"] = child = subprocess.Popen(
                [EVCTL, "run"],
                cwd=ROOT,
                env=self._environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        say(f"$ evctl run\n  process {child.pid}, {self.url}")
        self._wait_for_port(self.port)

    def _wait_for_port(self, port: int, address: str = "127.0.0.1") -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            self.check_alive()
            with suppress(OSError), socket.create_connection((address, port), 1):
                return
            time.sleep(0.05)
        raise DemoFailed(f"nobody listens on {address}:{port} after {PATIENCE_SECONDS:.0f} s")


class Billing:
    """The billing API, as an administrator's or a network's program calls it."""

    def __init__(self, url: str, password: str) -> None:
        # Whatever proxy the environment names, this goes to our own machine.
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._url = url
        self._token = ""
        self._token = self.call("Session/login", login="admin", password=password)["access_token"]

    def call(self, method: str, **params: Any) -> Any:
        """Call ``/rest/<method>`` and say so. Raises DemoFailed when the answer is a fault."""
        say(f"  POST /rest/{method} {hidden(params)}")
        request = urllib.request.Request(
            f"{self._url}/rest/{method}",
            json.dumps({"params": params}).encode(),
            {"Content-Type": "application/json"},
        )
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._http.open(request, timeout=PATIENCE_SECONDS) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise DemoFailed(f"{method}: {error.read().decode()}") from None
        except OSError as error:
            raise DemoFailed(f"{method}: {error}") from None


def hidden(params: dict[str, Any]) -> str:
    """Parameters as JSON, without the passwords in them."""
    return re.sub(r'(password": )"[^"]*"', r'\1"..."', json.dumps(params))
