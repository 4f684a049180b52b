"""A real ejabberd: who may log in, and whose session stands, is what a chat client sees."""

import base64
import json
import os
import urllib.error
import urllib.request
from contextlib import suppress

from programs import Program
from xmpp import Client

HOST = "chat.example.org"
ADMIN, PASSWORD = f"admin@{HOST}", "correct-horse"

_CONFIGURATION = """
hosts: ["{host}"]
loglevel: warning
listen:
  - {{port: 5222, ip: "{address}", module: ejabberd_c2s, access: c2s}}
  - port: 5280
    ip: "{address}"
    module: ejabberd_http
    request_handlers: {{/api: mod_http_api}}
auth_password_format: scram
acl: {{admin: {{user: ["{admin}"]}}}}
access_rules: {{c2s: {{allow: all}}}}
api_permissions:
  "the first administrator":
    from: mod_http_api
    who: {{ip: 127.0.0.0/8}}
    what: register
  "administrators":
    from: mod_http_api
    who: {{access: {{allow: {{acl: admin}}}}}}
    what: "*"
modules: {{mod_admin_extra: {{}}, mod_http_api: {{}}, mod_roster: {{}}, mod_stream_mgmt: {{}}}}
"""


class Ejabberd(Program):
    """A server of one host, with its administrator. It needs no daemon of Erlang's."""

    ports = (5222, 5280)

    def install(self) -> None:
        (self.folder / "data").mkdir()
        text = _CONFIGURATION.format(host=HOST, address=self.address, admin=ADMIN)
        (self.folder / "ejabberd.yml").write_text(text)

    def command(self) -> list[str]:
        data = f'"{self.folder / "data"}"'
        scheduling = ["+S", "1:1", "+sbwt", "none"]
        return ["erl", *scheduling, "-noinput", "-mnesia", "dir", data, "-s", "ejabberd"]

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "EJABBERD_CONFIG_PATH": str(self.folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.folder / "ejabberd.log"),
            "ERL_LIBS": "/usr/lib/x86_64-linux-gnu",
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
