"""A real slapd with its password policy: who may bind is what the network sees of a subscriber."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ldap3

from certificates import Authority
from guides import block
from programs import Program

SUFFIX = "dc=example,dc=org"
PEOPLE = f"ou=people,{SUFFIX}"
GROUPS = f"ou=groups,{SUFFIX}"
GOLD, BARRED = f"cn=gold,{GROUPS}", f"cn=barred,{GROUPS}"

#: Who provisions; who does and may not read passwords; and who may do anything.
ADMIN, BLIND, ROOT = (f"cn={name},{SUFFIX}" for name in ("espf", "blind", "root"))
PASSWORD = "change-this-password"

#: After so many failed binds, the policy locks an entry.
FAILURES = 5

_CONFIGURATION = block("provision-ldap.md", "ini")
_DATA = block("provision-ldap.md", "ldif")

_TLS = """
TLSCACertificateFile {folder}/authority.pem
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.key
"""

#: Who may write, and may not read what has been written of passwords.
_MORE_DATA = f"""
dn: {BLIND}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: blind
userPassword: {PASSWORD}
"""


class Slapd(Program):
    """A directory with people, two groups, and those who provision."""

    ports = (1389, 1636)

    def install(self) -> None:
        (self.folder / "data").mkdir()
        authority = Authority()
        authority.write(self.authority)
        authority.certify(self.address, self.folder / "server.pem", self.folder / "server.key")
        self.configure()
        subprocess.run(
            ["/usr/sbin/slapadd", "-f", "slapd.conf"],
            cwd=self.folder,
            input=f"{_DATA}{_MORE_DATA}".encode(),
            check=True,
        )

    def configure(self, *more: str) -> None:
        """Write the configuration of the guide, with more lines for the database."""
        text = _CONFIGURATION.replace("/var/lib/ldap/subscribers", f"{self.folder}/data")
        text = re.sub("pidfile .*\n", _TLS.format(folder=self.folder), text)
        of_passwords, mark, of_the_rest = text.partition("access to *")
        writes = f'  by dn.exact="{ADMIN}" write\n'
        text = "".join(
            rules.replace(writes, f'{writes}  by dn.exact="{BLIND}" {right}\n')
            for rules, right in ((of_passwords, "=w"), (mark + of_the_rest, "write"))
        )
        text = text.replace("overlay ppolicy", "\n".join(["dbnosync", *more, "overlay ppolicy"]))
        (self.folder / "slapd.conf").write_text(text)

    def command(self) -> list[str]:
        urls = f"ldap://{self.address}:1389/ ldaps://{self.address}:1636/"
        return ["/usr/sbin/slapd", "-f", "slapd.conf", "-h", urls, "-d", "0"]

    @property
    def authority(self) -> Path:
        """The certificate of whoever signed the server's."""
        return self.folder / "authority.pem"

    def empty(self) -> None:
        """Without people, and with groups that have but the member that stays."""
        with self.as_root() as root:
            for dn in self.people():
                root.delete(dn)
            for group in (GOLD, BARRED):
                root.delete(group)
                root.add(group, "groupOfNames", {"member": group})

    def people(self) -> list[str]:
        """The names of all entries of subscribers."""
        with self.as_root() as root:
            root.search(PEOPLE, "(objectClass=*)", ldap3.LEVEL, attributes=[])
            return [one["dn"] for one in root.response]

    def entry(self, dn: str) -> dict[str, list[str]] | None:
        """All that an entry holds."""
        with self.as_root() as root:
            root.search(dn, "(objectClass=*)", ldap3.BASE, attributes=["*", "+"])
            if not root.response:
                return None
            raw = root.response[0]["raw_attributes"]
            return {name: [one.decode() for one in values] for name, values in raw.items()}

    def members(self, group: str) -> set[str]:
        """Who is in a group, but the member that stays."""
        found = self.entry(group)
        assert found is not None
        return set(found["member"]) - {group}

    def admits(self, dn: str, password: str) -> bool:
        """Whether somebody can log in, as a portal or a mail server would find out."""
        connection = ldap3.Connection(self._server(), dn, password)
        try:
            return bool(connection.bind())
        finally:
            connection.unbind()

    @contextmanager
    def as_root(self) -> Iterator[ldap3.Connection]:
        """Somebody else who changes the directory."""
        with ldap3.Connection(self._server(), ROOT, PASSWORD, check_names=False) as connection:
            yield connection

    def _server(self) -> ldap3.Server:
        return ldap3.Server(self.address, 1389, get_info=ldap3.NONE)
