"""Secrets: what is sealed opens with the right keys only, and passwords are hashed."""

import os
import stat
import subprocess
import sys

import pytest
from cryptography.fernet import Fernet

from espf import crypto
from espf.crypto import PasswordCheck, Sealer, hash_password, random_password
from espf.errors import SettingsError


def test_the_key_file_is_for_its_owner_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        Sealer.create(tmp_path / "var" / "espf.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "var" / "espf.key").stat().st_mode) == 0o600


def test_an_existing_key_file_is_used_and_not_replaced(tmp_path):
    path = tmp_path / "espf.key"
    sealed = Sealer.create(path).seal("ki")
    content = path.read_text()
    assert Sealer.create(path).unseal(sealed) == "ki"
    assert path.read_text() == content


@pytest.mark.parametrize("text", ["", "0123456789abcdef", "pässwörd ☎ \n\0"])
def test_what_was_sealed_is_opened(sealer, text):
    sealed = sealer.seal(text)
    assert sealer.unseal(sealed) == text
    assert sealed.isascii()
    if text:
        assert text not in sealed
    assert sealer.seal(text) != sealed


def test_a_new_key_on_top_seals_and_the_old_one_still_opens(tmp_path):
    path = tmp_path / "espf.key"
    old = Sealer.create(path)
    sealed, service = old.seal("ki"), old.derive("service")
    path.write_text(f"{Fernet.generate_key().decode()}\n\n{path.read_text()}")
    rotated = Sealer.open(path)
    assert rotated.unseal(sealed) == "ki"
    # What is derived follows the oldest key: the handlers' account goes on working.
    assert rotated.derive("service") == service
    with pytest.raises(SettingsError, match="restore the key file"):
        old.unseal(rotated.seal("ki"))


def test_what_is_derived_depends_on_its_purpose_and_the_key(tmp_path):
    one, other = (Sealer.create(tmp_path / name) for name in ("a", "b"))
    assert one.derive("x") == one.derive("x")
    assert len({one.derive("x"), one.derive("y"), other.derive("x")}) == 3


@pytest.mark.parametrize("damaged", ["", "x", "ü", "gAAAAA=="])
def test_what_was_not_sealed_by_us_does_not_open(sealer, damaged):
    with pytest.raises(SettingsError):
        sealer.unseal(damaged)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"no key\n", b"\xff\xff", b"QUJD\n"])
def test_a_damaged_key_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "espf.key").write_bytes(content)
    with pytest.raises(SettingsError, match="ESPF_KEY_FILE") as refused:
        Sealer.open(tmp_path / "espf.key")
    assert "QUJD" not in str(refused.value)


def test_a_key_file_that_is_not_there_or_cannot_be_made(tmp_path):
    with pytest.raises(SettingsError, match="does not exist; run 'evctl init'"):
        Sealer.open(tmp_path / "espf.key")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "espf.key", tmp_path / "file" / "folder" / "espf.key"):
        with pytest.raises(SettingsError, match=r"ESPF_KEY_FILE: .*Not a directory"):
            Sealer.create(path)


class Hasher:
    """argon2, counted."""

    def __init__(self):
        self.real = crypto._hasher
        self.verified = 0

    def verify(self, password_hash, password):
        self.verified += 1
        return self.real.verify(password_hash, password)


@pytest.fixture
def hasher(monkeypatch):
    counting = Hasher()
    monkeypatch.setattr(crypto, "_hasher", counting)
    return counting


PASSWORD_HASH = hash_password("correct horse")


def test_a_good_password_is_remembered_and_a_wrong_one_is_not(hasher):
    check = PasswordCheck()
    assert [check("correct horse", PASSWORD_HASH) for _ in range(3)] == [True] * 3
    assert hasher.verified == 1
    assert [check("correct", PASSWORD_HASH) for _ in range(2)] == [False] * 2
    assert hasher.verified == 3


def test_a_new_hash_is_not_answered_from_memory(hasher):
    check = PasswordCheck()
    assert check("correct horse", PASSWORD_HASH)
    assert not check("correct horse", hash_password_of("another", hasher))
    assert hasher.verified == 2


def hash_password_of(password, hasher):
    return hasher.real.hash(password)


def test_memory_has_an_end(hasher, monkeypatch):
    monkeypatch.setattr(PasswordCheck, "CAPACITY", 1)
    check = PasswordCheck()
    other = hasher.real.hash("other")
    assert check("correct horse", PASSWORD_HASH)
    assert check("other", other)
    assert check("correct horse", PASSWORD_HASH)
    assert hasher.verified == 3
    assert len(check._known) == 1


def test_what_is_remembered_is_not_the_password():
    check = PasswordCheck()
    check("correct horse", PASSWORD_HASH)
    assert b"correct horse" not in repr(check.__dict__).encode()


def test_a_hash_that_is_none_fits_no_password():
    assert not PasswordCheck()("", "")
    assert not PasswordCheck()("x", "plain text")


def test_a_password_costs_64_megabytes_and_three_rounds_to_try():
    """In a process of its own: in this one the tests make it cheap."""
    words = "from espf.crypto import hash_password; print(hash_password('correct horse'))"
    made = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert "$m=65536,t=3,p=4$" in made.stdout


def test_passwords_are_hashed_with_argon2id_and_salt():
    assert PASSWORD_HASH.startswith("$argon2id$")
    assert hash_password("correct horse") != PASSWORD_HASH


def test_random_passwords_differ_and_can_be_typed():
    assert len({random_password() for _ in range(100)}) == 100
    assert len(random_password()) >= 16
    assert random_password().isascii()
