"""A real slapd with its password policy: who may bind is what the network sees of a subscriber."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ldap3

from certificates import Authority
from programs import Program

SUFFIX = "dc=example,dc=org"
PEOPLE = f"ou=people,{SUFFIX}"
GROUPS = f"ou=groups,{SUFFIX}"
GOLD, BARRED = f"cn=gold,{GROUPS}", f"cn=barred,{GROUPS}"

#: Who provisions; who does and may not read passwords; and who may do anything.
ADMIN, BLIND, ROOT = (f"cn={name},{SUFFIX}" for name in ("espf", "blind", "root"))
PASSWORD = "correct-horse"

#: After so many failed binds, the policy locks an entry.
FAILURES = 3

_CONFIGURATION = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
TLSCACertificateFile {folder}/authority.pem
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.key
access to attrs=userPassword
  by dn.exact="{admin}" write by dn.exact="{blind}" =w by anonymous auth by * none
access to * by dn.exact="{admin}" write by dn.exact="{blind}" write by anonymous auth by * read
database mdb
suffix "{suffix}"
rootdn "{root}"
rootpw {password}
directory {folder}/data
dbnosync
index objectClass,uid,employeeNumber eq
limits dn.exact="{admin}" size.prtotal=unlimited
overlay ppolicy
ppolicy_default "cn=policy,{suffix}"
ppolicy_hash_cleartext
"""

_DATA = f"""
dn: {SUFFIX}
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: {PEOPLE}
objectClass: organizationalUnit
ou: people

dn: {GROUPS}
objectClass: organizationalUnit
ou: groups

dn: cn=policy,{SUFFIX}
objectClass: device
objectClass: pwdPolicy
cn: policy
pwdAttribute: userPassword
pwdLockout: TRUE
pwdMaxFailure: {FAILURES}
"""


class Slapd(Program):
    """A directory with people, two groups, and those who provision."""

    ports = (1389, 1636)

    def install(self) -> None:
        (self.folder / "data").mkdir()
        self._certify()
        self.configure()
        accounts = "".join(
            f"\ndn: {dn}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\n"
            f"cn: {dn[3:].partition(',')[0]}\nuserPassword: {PASSWORD}\n"
            for dn in (ADMIN, BLIND)
        )
        command = ["slapadd", "-f", "slapd.conf"]
        subprocess.run(command, cwd=self.folder, input=(_DATA + accounts).encode(), check=True)

    def configure(self, *more: str) -> None:
        """Write the configuration, with more lines for the database."""
        text = _CONFIGURATION.format(
            folder=self.folder,
            suffix=SUFFIX,
            admin=ADMIN,
            blind=BLIND,
            root=ROOT,
            password=PASSWORD,
        )
        text = text.replace("\ndbnosync\n", "\n".join(["\ndbnosync", *more, ""]))
        (self.folder / "slapd.conf").write_text(text)

    def command(self) -> list[str]:
        urls = f"ldap://{self.address}:1389/ ldaps://{self.address}:1636/"
        return ["slapd", "-f", "slapd.conf", "-h", urls, "-d", "0"]

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

    def _certify(self) -> None:
        authority = Authority()
        authority.write(self.authority)
        authority.certify(self.address, self.folder / "server.pem", self.folder / "server.key")
