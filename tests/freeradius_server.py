"""A real FreeRADIUS over a database, as the how-to sets it up, and an access server that asks."""

import os
import re
import socket
import subprocess
import threading
from pathlib import Path
from typing import Self

import psycopg
from pyrad import packet

from programs import Program
from servers import PostgreSQL

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to" / "provision-freeradius.md"
SECRET = b"change-this-secret"
QUERIES = "/etc/freeradius/3.0/mods-config/sql/main"

#: A second virtual server, which takes Disconnect and CoA as an access server does.
_COA = """
server coa {
  listen {
    type = coa
    ipaddr = 127.0.0.1
    port = 3800
  }
  recv-coa {
    if (&Acct-Session-Id == "unknown") {
      update reply {
        &Error-Cause := 503
      }
      reject
    }
    else {
      update control {
        &Tmp-Integer-0 := 1
      }
    }
  }
}
"""

AUTH, ACCT = 1812, 1813


class FreeRADIUS(Program):
    """A FreeRADIUS; its tables are in the database ``radius`` of a PostgreSQL of its own."""

    ports = ()

    def __init__(self) -> None:
        super().__init__()
        self.postgresql = PostgreSQL()

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
        return self.postgresql.url("radius").replace("espf@", "provisioner@")

    def install(self) -> None:
        url = self.postgresql.empty("radius")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(of_debian("schema.sql"))
            connection.execute("CREATE ROLE provisioner LOGIN")
            connection.execute(_blocks("sql").replace(" TO espf;", " TO provisioner;"))
        (self.folder / "queries.conf").write_text(of_debian("queries.conf"))
        text = _blocks("ini") + _COA
        for ours, theirs in (
            (
                "radius_db = .*",
                f'radius_db = "host={self.postgresql.folder} dbname=radius user=espf"',
            ),
            ("reject_delay = 1", "reject_delay = 0"),
            (r"ipaddr = 127\.0\.0\.1\b", f"ipaddr = {self.address}"),
            ("auth = no", "auth = yes"),
            (r"\$INCLUDE .*", f"$INCLUDE {self.folder}/queries.conf"),
            ("(logdir|run_dir) = .*", rf"\1 = {self.folder}"),
        ):
            text, count = re.subn(ours, theirs, text)
            assert count, f"{ours} is not in the how-to"
        (self.folder / "radiusd.conf").write_text(text)

    def command(self) -> list[str]:
        folder = str(self.folder)
        return ["freeradius", "-d", folder, "-f", "-l", "stdout"]

    def is_ready(self) -> bool:
        return "Ready to process requests" in self.output()

    def rows(self, statement: str, *values: object) -> list[tuple]:
        """What a statement finds, if it finds anything."""
        with psycopg.connect(self.postgresql.url("radius"), autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def clear(self) -> None:
        self.rows("TRUNCATE radcheck, radreply, radusergroup, radacct, radpostauth, nas")


class AccessServer:
    """A NAS: subscribers dial in, and a Disconnect or a CoA reaches those who have.

    ``silent``: it does not answer; ``refuses``: it answers each request with this Error-Cause.
    """

    def __init__(self, radius: FreeRADIUS, port: int = 3799) -> None:
        self.address = radius.address
        self.sessions: dict[bytes, dict[int, list[bytes]]] = {}
        #: What it was asked: the code, and the session.
        self.asked: list[tuple[int, str]] = []
        self.silent = False
        self.refuses: int | None = None
        self._count = 0
        self._listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._listening.bind((self.address, port))
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self._listening.sendto(b"", self._listening.getsockname())
        self._thread.join()
        self._listening.close()

    def ask(self, user: str, password: str) -> packet.Packet:
        """What RADIUS says of somebody who wants in."""
        request = packet.AuthPacket(secret=SECRET, message_authenticator=True)
        request[1] = [user.encode()]
        request[2] = [request.PwCrypt(password)]
        return self._send(request, AUTH)

    def accepts(self, user: str, password: str) -> list[str] | None:
        """The Filter-Ids with which somebody is let in; None: not at all."""
        reply = self.ask(user, password)
        assert reply.code in {packet.AccessAccept, packet.AccessReject}
        if reply.code == packet.AccessReject:
            return None
        return [value.decode() for value in reply.get(11, [])]

    def dial(self, user: str, password: str) -> str:
        """Open a session; its number."""
        reply = self.ask(user, password)
        assert reply.code == packet.AccessAccept
        self._count += 1
        session = f"{user}-{self._count}"
        self.sessions[session.encode()] = {11: reply.get(11, []), 1: [user.encode()]}
        self._account(session.encode(), [user.encode()], 1)
        return session

    def filters(self, session: str) -> list[str] | None:
        """By which filters a session is bound now; None: it is over."""
        found = self.sessions.get(session.encode())
        return None if found is None else [value.decode() for value in found[11]]

    def _account(self, session: bytes, user: list[bytes], status: int) -> None:
        request = packet.AcctPacket(secret=SECRET)
        request[1] = user
        request[4] = [socket.inet_aton(self.address)]
        request[40] = [status.to_bytes(4, "big")]
        request[44] = [session]
        self._send(request, ACCT)

    def _send(self, request: packet.Packet, port: int) -> packet.Packet:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
            ours.bind((self.address, 0))
            ours.settimeout(10)
            data = request.RequestPacket()
            for _ in range(3):
                ours.sendto(data, (self.address, port))
                try:
                    raw = ours.recv(4096)
                except TimeoutError:
                    continue
                reply = request.CreateReply(packet=raw)
                assert request.VerifyReply(reply, raw)
                return reply
        raise AssertionError("FreeRADIUS does not answer")

    def _listen(self) -> None:
        while True:
            raw, sender = self._listening.recvfrom(4096)
            if not raw:
                return
            request = packet.CoAPacket(secret=SECRET, packet=raw)
            # Who does not know the secret is not answered.
            if not request.VerifyCoARequest() or not request.message_authenticator:
                continue
            if not request.verify_message_authenticator() or self.silent:
                continue
            session = request[44][0]
            self.asked.append((request.code, session.decode()))
            ended = None
            if self.refuses is not None:
                cause = self.refuses
            elif session not in self.sessions or request[1] != self.sessions[session][1]:
                cause = 503
            else:
                cause = None
                if request.code == packet.DisconnectRequest:
                    ended = self.sessions.pop(session)
                else:
                    self.sessions[session][11] = request[11]
            reply = request.CreateReply()
            if cause is not None:
                reply.code += 1
                reply[101] = [cause.to_bytes(4, "big")]
            self._listening.sendto(reply.ReplyPacket(), sender)
            if ended is not None:
                self._account(session, ended[1], 2)


def of_debian(name: str, database: str = "postgresql") -> str:
    """A file of the package for a database; only root and FreeRADIUS may read it."""
    as_root = () if os.geteuid() == 0 else ("sudo", "-n")
    return subprocess.run(
        [*as_root, "cat", f"{QUERIES}/{database}/{name}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def _blocks(language: str) -> str:
    """What stands in the how-to in one language."""
    text = HOW_TO.read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return "\n".join(found)
