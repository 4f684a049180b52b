"""Passwords as directories store them are known again, and no other one is taken for them."""

import base64
import hashlib

import pytest
from argon2 import PasswordHasher

from espf.systems.password_hashes import digest, fits, is_digest_of

PASSWORD, SALT = "äpple-pie", b"12345678"


def hashed(scheme, algorithm, salt):
    made = hashlib.new(algorithm, PASSWORD.encode() + salt).digest() + salt
    return f"{{{scheme}}}".encode() + base64.b64encode(made)


STORED = [
    PASSWORD.encode(),
    b"{CLEARTEXT}" + PASSWORD.encode(),
    hashed("MD5", "md5", b""),
    hashed("SMD5", "md5", SALT),
    hashed("SHA", "sha1", b""),
    hashed("ssha", "sha1", SALT),
    hashed("SHA256", "sha256", b""),
    hashed("SSHA256", "sha256", SALT),
    hashed("SSHA384", "sha384", SALT),
    hashed("SSHA512", "sha512", SALT),
    b"{ARGON2}" + PasswordHasher(time_cost=1, memory_cost=64).hash(PASSWORD).encode(),
]


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: stored[:9].decode("ascii", "ignore"))
def test_a_stored_password_is_known_again(stored):
    assert fits(PASSWORD, stored) is True
    assert fits("cherry-pie", stored) is False


@pytest.mark.parametrize("stored", [b"{SSHA}", b"{SSHA}not base64", b"{ARGON2}nothing", b""])
def test_what_is_broken_is_no_password(stored):
    assert fits(PASSWORD, stored) is False


@pytest.mark.parametrize("stored", [b"{CRYPT}$6$x$y", b"{SASL}somebody", b"{PBKDF2-SHA256}1$a$b"])
def test_of_what_cannot_be_computed_nobody_can_tell(stored):
    assert fits(PASSWORD, stored) is None


def test_a_digest_has_salt_and_is_known_again():
    kept = digest(PASSWORD)
    assert kept != digest(PASSWORD)
    assert is_digest_of(PASSWORD, kept)
    assert not is_digest_of("cherry-pie", kept)
    assert not is_digest_of(PASSWORD, "scrypt$")
    assert not is_digest_of(PASSWORD, "somebody's own text")
