"""The ways in which an HTTP request says who sends it, and which words they can be made of.

A receiver takes the authentication header apart at its one space: it always is exactly two
words. What would break that is refused here, when the settings are read.
"""

import base64
import hmac
import re
from datetime import datetime
from email.utils import format_datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, SecretStr

SignatureAlgorithm = Literal["hmac-sha1", "hmac-sha256", "hmac-sha512"]

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*")
_VISIBLE = re.compile(r"[!-~]*")

#: Headers that the request has anyway; a second one would be an invalid request.
_TAKEN = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)


def basic(user: str, key: str) -> str:
    """Basic: user and password, in base64."""
    return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode("ascii")


def custom(scheme: str, credentials: str) -> str:
    """Custom: a word for the method and the credentials, as they are."""
    return f"{scheme} {credentials}"


def signature(key_id: str, key: str, date: str, algorithm: SignatureAlgorithm) -> str:
    """Signature: an HMAC over the Date header, so that the key never goes over the wire."""
    digest = hmac.digest(key.encode(), f"date: {date}".encode(), algorithm.removeprefix("hmac-"))
    signed = base64.b64encode(digest).decode("ascii")
    return f'Signature keyId="{key_id}",algorithm="{algorithm}",signature="{signed}"'


def http_date(moment: datetime) -> str:
    """A moment, in UTC, as the Date header has it: ``Thu, 12 Apr 2018 15:24:00 GMT``."""
    return format_datetime(moment, usegmt=True)


def _header_name(value: str) -> str:
    if not value or not _TOKEN.fullmatch(value):
        raise ValueError(f"{value!r} is not the name of a header")
    if value.lower() in _TAKEN:
        raise ValueError(f"the header {value} has another meaning; choose another name")
    return value


def _scheme(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError("one word of letters, digits and - _ . is expected, such as Bearer")
    return value


def _credentials(value: SecretStr) -> SecretStr:
    if not _VISIBLE.fullmatch(value.get_secret_value()):
        raise ValueError("ASCII characters without blanks and line breaks are expected")
    return value


def _key_id(value: str) -> str:
    if not _VISIBLE.fullmatch(value) or '"' in value or "\\" in value:
        raise ValueError("ASCII characters without blanks, quotes and backslashes are expected")
    return value


def _user(value: str) -> str:
    if ":" in value or not value.isprintable():
        raise ValueError("printable characters without a colon are expected")
    return value


def _password(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().isprintable():
        raise ValueError("printable characters are expected")
    return value


# The types of the options that a header is made of; each may be empty, for "not set".
HeaderName = Annotated[str, AfterValidator(_header_name)]
Scheme = Annotated[str, AfterValidator(_scheme)]
Credentials = Annotated[SecretStr, AfterValidator(_credentials)]
KeyId = Annotated[str, AfterValidator(_key_id)]
User = Annotated[str, AfterValidator(_user)]
Password = Annotated[SecretStr, AfterValidator(_password)]
