"""The ways by which people are told: a sendmail program, and an address by HTTP."""

import asyncio
import email.policy
import json
import os
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from enum import StrEnum
from typing import BinaryIO

from espf.alerts.messages import Message, test_message
from espf.configuration import Provisioning
from espf.errors import Conflict, HandlerError
from espf.handlers.http import HttpClient, masked, status_line

#: How long a sendmail program may take, and a target to answer.
MAIL_SECONDS = 30.0
HTTP_SECONDS = 10.0

#: Characters of what a program or a target said that are kept.
_LONGEST_SAYING = 1000

#: A subject stays on its line, where every program finds it.
_UNFOLDED = email.policy.default.clone(max_line_length=200)

#: What a sendmail program gets of our environment, which holds passwords.
_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ")


class Channel(StrEnum):
    """A way by which people are told."""

    MAIL = "mail"
    HTTP = "http"

    @property
    def spoken(self) -> str:
        """By what."""
        return "by e-mail" if self is Channel.MAIL else "by HTTP"


@dataclass(frozen=True)
class Receipt:
    """What became of a message; ``fault`` None: it was taken. ``said``: what the other side did."""

    channel: Channel
    fault: str | None
    said: str


def wanted(settings: Provisioning) -> list[Channel]:
    """The channels that are set up."""
    channels = [Channel.MAIL] if settings.alert_recipient else []
    return [*channels, Channel.HTTP] if settings.alert_url else channels


async def send(
    channel: Channel, message: Message, settings: Provisioning, client: HttpClient
) -> Receipt:
    """Send a message once; ``settings`` have their secrets opened. Never raises for a fault."""
    if channel is Channel.MAIL:
        return await _mail(message, settings)
    return await _post(message, settings, client)


async def send_test(settings: Provisioning, who: str) -> list[Receipt]:
    """Send a test message by every channel that is set up. Raises Conflict: there is none."""
    channels = wanted(settings)
    if not channels:
        raise Conflict("neither AlertRecipient nor AlertURL is set: nobody would be told")
    message = test_message(who, settings.console_url, datetime.now(UTC))
    async with HttpClient() as client:
        sent = [send(channel, message, settings, client) for channel in channels]
        return list(await asyncio.gather(*sent))


async def _mail(message: Message, settings: Provisioning) -> Receipt:
    command = [settings.sendmail, *settings.send_arguments, *settings.alert_recipient]
    # Files and not pipes: a program that goes on in the background does not hold us up, and one
    # that reads nothing or says a lot does no harm.
    with tempfile.TemporaryFile() as letter, tempfile.TemporaryFile() as said:
        letter.write(_letter(message, settings))
        letter.seek(0)
        fault = await _run(command, letter, said)
        said.seek(0)
        told = _said(said.read(4 * _LONGEST_SAYING).decode("utf-8", "replace"))
    if fault is None:
        return Receipt(Channel.MAIL, None, told or f"{settings.sendmail} took the message")
    return Receipt(Channel.MAIL, f"{settings.sendmail} {fault}{': ' * bool(told)}{told}", told)


async def _run(command: list[str], stdin: BinaryIO, output: BinaryIO) -> str | None:
    """Run a program to its end; returns what is wrong. One that takes too long is killed."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            # A group of its own: what it has started is killed with it.
            start_new_session=True,
        )
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    try:
        async with asyncio.timeout(MAIL_SECONDS):
            status = await process.wait()
    except TimeoutError:
        return f"did not end within {MAIL_SECONDS:g} s, and was killed"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status < 0:
        return f"was ended by signal {-status}"
    return f"ended with exit code {status}" if status else None


def _letter(message: Message, settings: Provisioning) -> bytes:
    letter = EmailMessage()
    letter["Subject"] = message.subject
    letter["To"] = ", ".join(settings.alert_recipient)
    letter["Date"] = format_datetime(datetime.now(UTC))
    letter["Message-ID"] = make_msgid(domain=socket.gethostname())
    # No one who is away answers this.
    letter["Auto-Submitted"] = "auto-generated"
    letter.set_content(message.text, cte="quoted-printable")
    return letter.as_bytes(policy=_UNFOLDED)


async def _post(message: Message, settings: Provisioning, client: HttpClient) -> Receipt:
    token = settings.alert_token.get_secret_value()
    headers = {
        "Content-Type": "application/json",
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    body = json.dumps(message.content, ensure_ascii=False).encode()
    try:
        reply = await client.post(settings.alert_url, body, headers, HTTP_SECONDS)
    except HandlerError as error:
        return Receipt(Channel.HTTP, str(error), "")
    said = status_line(reply.status)
    if reply.ok:
        return Receipt(Channel.HTTP, None, said)
    text = _said(masked(reply.text, [token]))
    return Receipt(Channel.HTTP, f"{said}: {text}" if text else said, text)


def _said(text: str) -> str:
    """What the other side said, in a line that any database and any terminal takes."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(plain.split())[:_LONGEST_SAYING]
