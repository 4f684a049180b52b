"""A real ejabberd: who may log in, and whose session stands, is what a chat client sees."""

import base64
import json
import os
import re
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from guides import block
from programs import Program
from xmpp import Client

HOST = "chat.example.org"
ADMIN, PASSWORD = f"admin@{HOST}", "change-this-password"

#: What the guide shows; but chat without TLS, and the first user is made without Erlang's tools.
_CONFIGURATION = (
    block("provision-ejabberd.md", "yaml")
    .replace("certfiles:\n  - /etc/ejabberd/ejabberd.pem\n", "")
    .replace("    starttls_required: true\n", "")
    .replace(
        "api_permissions:\n",
        'api_permissions:\n  "the first one":\n    from: mod_http_api\n'
        "    who: {ip: 127.0.0.0/8}\n    what: register\n",
    )
)


class Ejabberd(Program):
    """A server of one host, with its administrator. It needs no daemon of Erlang's."""

    ports = (5222, 5280)

    def install(self) -> None:
        (self.folder / "data").mkdir()
        text = re.sub(r'ip: "[0-9.]+"', f'ip: "{self.address}"', _CONFIGURATION)
        (self.folder / "ejabberd.yml").write_text(text)

    def command(self) -> list[str]:
        data = f'"{self.folder / "data"}"'
        scheduling = ["+S", "1:1", "+sbwt", "none"]
        return ["erl", *scheduling, "-noinput", "-mnesia", "dir", data, "-s", "ejabberd"]

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "EJABBERD_CONFIG_PATH": str(self.folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.folder / "ejabberd.log"),
            "ERL_LIBS": str(_libraries()),
            "HOME": str(self.folder),
        }

    def start(self) -> None:
        super().start()
        user, _, _ = ADMIN.partition("@")
        with suppress(urllib.error.HTTPError):  # when it was started before
            self.ask("register", user=user, password=PASSWORD)

    @property
    def url(self) -> str:
        return f"http://{self.address}:5280/api"

    def ask(self, command: str, **arguments: str) -> object:
        """What somebody else asks of it, an administrator once there is one."""
        body = json.dumps({"host": HOST, **arguments}).encode()
        request = urllib.request.Request(f"{self.url}/{command}", body)
        request.add_header("Content-Type", "application/json")
        if command != "register":
            key = base64.b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
            request.add_header("Authorization", f"Basic {key}")
        with urllib.request.urlopen(request, timeout=20) as reply:
            return json.loads(reply.read())

    def users(self) -> set[str]:
        """All but the administrator."""
        found = self.ask("registered_users")
        assert isinstance(found, list)
        return set(found) - {"admin"}

    def empty(self) -> None:
        """Without subscribers."""
        for user in self.users():
            self.ask("unregister", user=user)

    def log_in(self, user: str, password: str) -> Client:
        """A session; raises xmpp.Refused when it does not come about."""
        return Client(self.address, HOST, user, password)


def _libraries() -> Path:
    """The folder of Debian's libraries of Erlang, which is named after the machine's kind."""
    found = sorted(Path("/usr/lib").glob("*-linux-gnu/ejabberd-*"))
    assert found, "the package ejabberd is not installed"
    return found[0].parent
