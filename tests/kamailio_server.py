"""A real Kamailio over a database, as the how-to sets it up, and a phone that registers there."""

import hashlib
import json
import os
import re
import signal
import socket
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Self

import psycopg

from programs import Program
from servers import PostgreSQL

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to" / "provision-kamailio.md"
TABLES = Path("/usr/share/kamailio/postgres")
DOMAIN = "sip.example.net"


class Kamailio(Program):
    """A Kamailio; its tables are in the database ``kamailio`` of a PostgreSQL of its own."""

    ports = (5060,)

    def __init__(self) -> None:
        super().__init__()
        self.postgresql = PostgreSQL(tcp=True)

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException:
            self.postgresql.close()
            raise

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.postgresql.close()

    @property
    def url(self) -> str:
        """The URL of the tables, with the rights that the how-to gives."""
        return self.postgresql.url("kamailio").replace("espf@", "provisioner@")

    @property
    def rpc(self) -> str:
        """The URL of JSON-RPC."""
        return f"http://{self.address}:5060/RPC"

    def install(self) -> None:
        text, grants = (_block(language) for language in ("cfg", "sql"))
        url = self.postgresql.empty("kamailio")
        with psycopg.connect(url, autocommit=True) as connection:
            for name in ("standard", "auth_db", "usrloc", "htable"):
                connection.execute((TABLES / f"{name}-create.sql").read_text())
            connection.execute("CREATE ROLE provisioner LOGIN")
            connection.execute(grants.replace(" TO espf;", " TO provisioner;"))
        for ours, theirs in (
            (r"postgres://kamailio:PASSWORD@127\.0\.0\.1/", self._database()),
            (r"(listen=\w+):127\.0\.0\.1", rf"\1:{self.address}"),
            (r"src_ip != 127\.0\.0\.1", "src_ip != 127.0.0.0/8"),
            ("log_stderror=no", "log_stderror=yes"),
        ):
            text, count = re.subn(ours, theirs, text)
            assert count, f"{ours} is not in the how-to"
        (self.folder / "kamailio.cfg").write_text(text)

    def command(self) -> list[str]:
        folder = str(self.folder)
        memory = ["-m", "32", "-M", "4"]
        command = ["kamailio", "-f", f"{folder}/kamailio.cfg", "-DD", "-E", *memory, "-Y", folder]
        # Asked to end, it ends its processes as well; killed, it could not.
        return ["setpriv", "--pdeathsig", "TERM", "--", *command]

    def kill(self) -> None:
        """End all of its processes at once."""
        processes = self._processes()
        super().kill()
        _tell(processes, signal.SIGKILL)

    def pause(self) -> None:
        """Freeze all of its processes."""
        _tell(self._processes(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        _tell(self._processes(), signal.SIGCONT)

    def _processes(self) -> list[int]:
        assert self._process is not None
        number = self._process.pid
        children = Path(f"/proc/{number}/task/{number}/children")
        return [number, *map(int, children.read_text().split() if children.exists() else [])]

    def rows(self, statement: str, *values: object) -> list[tuple]:
        """What a statement finds, if it finds anything."""
        with psycopg.connect(self.postgresql.url("kamailio"), autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def ask(self, method: str, *params: str) -> object:
        """What JSON-RPC answers."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.rpc, body.encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["result"]

    def clear(self) -> None:
        """Forget everybody, also in memory."""
        for (user,) in self.rows("SELECT DISTINCT username FROM location"):
            self.ask("ul.rm", "location", user)
        self.ask("htable.flush", "blocked")
        self.rows("TRUNCATE subscriber, htable, location")

    def _database(self) -> str:
        return f"postgres://espf@127.0.0.1:{self.postgresql.port}/"


def _tell(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


class Phone:
    """Registers by SIP over UDP, with a digest (RFC 2617 without qop)."""

    def __init__(self, kamailio: Kamailio) -> None:
        self._at = (kamailio.address, 5060)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((kamailio.address, 0))
        self._socket.settimeout(5)
        self._port = self._socket.getsockname()[1]
        self._number = 0

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self._socket.close()

    def register(self, user: str, password: str) -> int:
        """The last status: 200 registered, 401 who is that, 403 barred."""
        status, nonce = self._send(user, "")
        if status != 401:
            return status
        uri = f"sip:{DOMAIN}"
        a1 = _md5(f"{user}:{DOMAIN}:{password}")
        response = _md5(f"{a1}:{nonce}:{_md5(f'REGISTER:{uri}')}")
        credentials = (
            f'Authorization: Digest username="{user}", realm="{DOMAIN}", nonce="{nonce}", '
            f'uri="{uri}", response="{response}"\r\n'
        )
        return self._send(user, credentials)[0]

    def _send(self, user: str, credentials: str) -> tuple[int, str]:
        self._number += 1
        host, number = self._at[0], self._number
        request = (
            f"REGISTER sip:{DOMAIN} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {host}:{self._port};branch=z9hG4bK{self._port}x{number}\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:{user}@{DOMAIN}>;tag={number}\r\n"
            f"To: <sip:{user}@{DOMAIN}>\r\nCall-ID: {self._port}-{user}-{number}\r\n"
            f"CSeq: {number} REGISTER\r\nContact: <sip:{user}@{host}:{self._port}>\r\n"
            f"Expires: 600\r\n{credentials}Content-Length: 0\r\n\r\n"
        ).encode()
        for _ in range(3):
            self._socket.sendto(request, self._at)
            try:
                answer = self._socket.recv(4096).decode()
            except TimeoutError:
                continue
            nonce = re.search(r'nonce="([^"]+)"', answer)
            return int(answer.split(" ", 2)[1]), nonce[1] if nonce else ""
        raise AssertionError("Kamailio does not answer")


def _block(language: str) -> str:
    """What stands in the how-to in one language, once."""
    text = HOW_TO.read_text()
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return found


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
