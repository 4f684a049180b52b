"""Settings: the file, the environment over it, and a default file that tells the truth."""

import re
import tomllib
from pathlib import Path

import pytest

from espf import settings
from espf.errors import SettingsError
from espf.settings import Settings

DEFAULT_FILE = Path(__file__).parents[2] / "espf.default.toml"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory and an environment in which nothing is set."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ESPF_{name.upper()}", raising=False)
    monkeypatch.delenv("ESPF_SETTINGS", raising=False)
    return tmp_path


def test_the_default_file_names_every_setting_with_its_default():
    text = DEFAULT_FILE.read_text()
    set_ = tomllib.loads(text)
    unset = set(re.findall(r"^# (\w+) = ", text, re.MULTILINE))
    assert set_.keys() | unset == Settings.model_fields.keys()
    assert not set_.keys() & unset
    defaults = Settings().model_dump(mode="json")
    assert set_ == {name: defaults[name] for name in set_}
    assert {defaults[name] for name in unset} == {None}


def test_the_default_file_can_be_used_as_it_is(folder):
    (folder / "espf.toml").write_text(DEFAULT_FILE.read_text())
    assert settings.load() == Settings()


def test_every_example_in_the_default_file_is_valid(folder):
    text = re.sub(r"^# (\w+ = )", r"\1", DEFAULT_FILE.read_text(), flags=re.MULTILINE)
    (folder / "espf.toml").write_text(text)
    assert None not in settings.load().model_dump().values()


def test_the_environment_wins_over_the_file(folder, monkeypatch):
    (folder / "espf.toml").write_text('listen = "127.0.0.1:1"\nstop_grace = 5\n')
    monkeypatch.setenv("ESPF_LISTEN", "127.0.0.1:2")
    loaded = settings.load()
    assert (loaded.listen, loaded.stop_grace) == ("127.0.0.1:2", 5.0)
    assert loaded.address == ("127.0.0.1", 2)


def test_an_empty_variable_sets_nothing(folder, monkeypatch):
    (folder / "espf.toml").write_text('listen = "127.0.0.1:1"\n')
    monkeypatch.setenv("ESPF_LISTEN", "")
    monkeypatch.setenv("ESPF_RULES", "")
    assert (settings.load().listen, settings.load().rules) == ("127.0.0.1:1", None)


def test_another_file_may_be_named(folder, monkeypatch):
    (folder / "espf.toml").write_text('listen = "127.0.0.1:1"\n')
    (folder / "other.toml").write_text('listen = "127.0.0.1:2"\n')
    monkeypatch.setenv("ESPF_SETTINGS", str(folder / "other.toml"))
    assert settings.load().listen == "127.0.0.1:2"


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:8080", ("::1", 8080)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses(monkeypatch, listen, address):
    monkeypatch.setenv("ESPF_LISTEN", listen)
    assert settings.load().address == address


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "8080"),
        ("listen", ":8080"),
        ("listen", "127.0.0.1:99999"),
        ("listen", "127.0.0.1:http"),
        ("listen", "127.0.0.1:²"),
        ("metrics_listen", "on"),
        ("log_format", "xml"),
        ("stop_grace", "-1"),
        ("stop_grace", "inf"),
        ("stop_grace", "nan"),
        ("stop_grace", "soon"),
        ("billing_url", "billing.example.net"),
    ],
)
def test_a_wrong_value_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(f"ESPF_{name.upper()}", value)
    with pytest.raises(SettingsError, match=f" {name}: "):
        settings.load()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'lisen = "127.0.0.1:1"', "lisen"),
        (b"admin_password = 5", "admin_password"),
        (b"listen = ", "espf.toml"),
        (b"\xff", "espf.toml"),
    ],
)
def test_a_wrong_file_is_refused_by_name(folder, content, named):
    (folder / "espf.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=named):
        settings.load()


def test_a_file_that_is_asked_for_must_be_there(monkeypatch, folder):
    for path in ("nowhere.toml", str(folder)):
        monkeypatch.setenv("ESPF_SETTINGS", path)
        with pytest.raises(SettingsError, match="ESPF_SETTINGS: there is no file"):
            settings.load()


def test_a_secret_is_not_shown_with_the_settings(monkeypatch):
    monkeypatch.setenv("ESPF_ADMIN_PASSWORD", "tops3cret")
    assert "tops3cret" not in repr(settings.load())


def test_a_billing_elsewhere_is_never_sent_the_password_of_our_own(monkeypatch):
    monkeypatch.setenv("ESPF_BILLING_URL", "http://127.0.0.1:1")
    with pytest.raises(SettingsError, match="billing_url needs billing_login and billing_password"):
        settings.load()
    monkeypatch.setenv("ESPF_BILLING_LOGIN", "espf")
    monkeypatch.setenv("ESPF_BILLING_PASSWORD", "a-password")
    assert settings.load().billing_url == "http://127.0.0.1:1"
