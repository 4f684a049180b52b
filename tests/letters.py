"""E-mail for the test suites: a real sendmail program that delivers into a folder."""

import email
import email.message
import email.policy
from pathlib import Path


class Mailbox:
    """A real sendmail program that delivers here, and programs that do not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mail"
        self.folder.mkdir()
        settings = folder / "esmtprc"
        # The program that delivers locally gets a letter on its standard input; each has a file.
        settings.write_text(
            f"mda = \"/bin/sh -c 'cat > {self.folder}/.$$; mv {self.folder}/.$$ "
            f"{self.folder}/$(date +%s%N)'\"\n"
            'force_mda = "noc"\n'
        )
        self.options = f"-C {settings} -i"
        self.sendmail = "/usr/bin/esmtp"
        self._broken = folder / "broken"

    def letters(self) -> list[email.message.EmailMessage]:
        """What was delivered, in order."""
        return [
            email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            for path in sorted(self.folder.glob("[0-9]*"))
        ]

    def subjects(self) -> list[str]:
        return [one["subject"] for one in self.letters()]

    def broken(self, script: str) -> str:
        """A sendmail program that does what a shell script says."""
        self._broken.write_text(f"#!/bin/sh\n{script}\n")
        self._broken.chmod(0o755)
        return str(self._broken)
