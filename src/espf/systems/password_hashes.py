"""Passwords as directories store them: whether a stored value is that of a password.

Schemes: RFC 2307 and what OpenLDAP adds to it, as far as they can be computed here.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

_SCHEME = re.compile(rb"\{([A-Za-z0-9-]+)\}(.*)", re.DOTALL)

#: Digests by scheme; with salt after them where the scheme's name begins with another S.
_DIGESTS = {
    "MD5": "md5",
    "SHA": "sha1",
    "SHA256": "sha256",
    "SHA384": "sha384",
    "SHA512": "sha512",
}

_SALT_BYTES = 16


def fits(password: str, stored: bytes) -> bool | None:
    """Whether a value of ``userPassword`` stands for a password; None: nobody can tell.

    A value without a scheme is the password itself.
    """
    found = _SCHEME.fullmatch(stored)
    if found is None:
        return hmac.compare_digest(stored, password.encode())
    scheme, rest = found.group(1).decode().upper(), found.group(2)
    if scheme == "CLEARTEXT":
        return hmac.compare_digest(rest, password.encode())
    if scheme == "ARGON2":
        return _argon2(password, rest)
    name = scheme if scheme in _DIGESTS else scheme.removeprefix("S")
    if name not in _DIGESTS:
        return None
    try:
        raw = base64.b64decode(rest)
    except binascii.Error:
        return False
    size = hashlib.new(_DIGESTS[name], usedforsecurity=False).digest_size
    made = hashlib.new(_DIGESTS[name], password.encode() + raw[size:], usedforsecurity=False)
    return hmac.compare_digest(made.digest(), raw[:size])


def digest(password: str, salt: bytes | None = None) -> str:
    """A password as it may be kept where only we must know it again: slow to guess, with salt."""
    salt = salt or secrets.token_bytes(_SALT_BYTES)
    made = hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)
    return "scrypt$" + base64.b64encode(salt + made).decode()


def is_digest_of(password: str, kept: str) -> bool:
    """Whether ``digest`` has made this of a password."""
    try:
        salt = base64.b64decode(kept.removeprefix("scrypt$"), validate=True)[:_SALT_BYTES]
    except binascii.Error:
        return False
    return bool(salt) and hmac.compare_digest(digest(password, salt), kept)


def _argon2(password: str, kept: bytes) -> bool:
    try:
        return PasswordHasher().verify(kept.decode("ascii", "replace"), password)
    except (Argon2Error, InvalidHashError):
        return False
