"""Secrets: sealed at rest, hashed where nobody needs to read them again.

The key file lies outside the database, so that a copy of the database alone reveals nothing.
"""

import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from espf.errors import SettingsError

_hasher = PasswordHasher()


class Sealer:
    """Seals and opens short texts with the keys of one key file.

    The file holds one Fernet key a line; the first one seals, all of them open, so that a key
    is changed by putting a new one on top.
    """

    def __init__(self, keys: list[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._root = keys[-1].encode()

    @classmethod
    def open(cls, path: Path) -> "Sealer":
        """Read a key file. Raises SettingsError when it is missing or damaged."""
        try:
            keys = [line.strip() for line in path.read_text().splitlines() if line.strip()]
            return cls(keys)
        except FileNotFoundError:
            raise SettingsError(
                f"ESPF_KEY_FILE: {path} does not exist; run 'evctl init' to make it"
            ) from None
        except (OSError, ValueError) as error:
            raise SettingsError(f"ESPF_KEY_FILE: {path} cannot be used: {error}") from None

    @classmethod
    def create(cls, path: Path) -> "Sealer":
        """Open a key file, making it first (mode 0600) when it does not exist.

        Raises SettingsError when it cannot be made or is damaged.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(Fernet.generate_key().decode() + "\n")
        except FileExistsError:
            pass
        except OSError as error:
            raise SettingsError(f"ESPF_KEY_FILE: {path} cannot be made: {error}") from None
        return cls.open(path)

    def seal(self, text: str) -> str:
        """Encrypt; the result differs each time."""
        return self._fernet.encrypt(text.encode()).decode()

    def unseal(self, sealed: str) -> str:
        """Decrypt. Raises SettingsError when none of the keys fits."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise SettingsError(
                "a stored secret does not open with the keys in ESPF_KEY_FILE; "
                "restore the key file that belongs to this database"
            ) from None

    def derive(self, purpose: str) -> str:
        """A secret that follows from the oldest key and is the same on every call."""
        return hmac.new(self._root, purpose.encode(), hashlib.sha256).hexdigest()


def hash_password(password: str) -> str:
    """Hash a password with argon2id; takes about 0.1-0.2 s by design."""
    return _hasher.hash(password)


def random_password() -> str:
    """A password that is hard to guess and can be typed."""
    return secrets.token_urlsafe(12)


class PasswordCheck:
    """Verifies passwords, and remembers success for a while: argon2 is too slow for each request.

    What is remembered is a keyed digest over hash and password, never the password; a changed
    hash is another key, so that a changed password takes effect at once.
    """

    REMEMBER_SECONDS = 300.0
    CAPACITY = 1024

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, float] = {}

    def __call__(self, password: str, password_hash: str) -> bool:
        """Whether the password belongs to the hash."""
        now = time.monotonic()
        digest = hmac.digest(self._key, f"{password_hash}\0{password}".encode(), "sha256")
        if self._known.get(digest, 0.0) > now:
            return True
        try:
            _hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False
        if len(self._known) >= self.CAPACITY:
            self._known.clear()
        self._known[digest] = now + self.REMEMBER_SECONDS
        return True
