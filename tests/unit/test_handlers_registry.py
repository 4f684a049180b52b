"""The registry, with real distributions on sys.path."""

import pytest
from pydantic import Field, SecretStr

from espf.errors import InvalidRequest, NotFound, SettingsError
from espf.handlers import registry
from espf.handlers.base import Handler, HandlerSettings
from espf.handlers.event_sender import EventSender

MODULE = '''
from pydantic import Field, SecretStr
from espf import Handler, HandlerSettings

class Greeting(Handler):
    """Greet."""
    supports = ("Account/New", "Customer/*")

    class Settings(HandlerSettings):
        url: str = Field(alias="Greeting.URL", description="Where.")
        api_key: SecretStr | None = Field(default=None, alias="Greeting.Key", description="Key.")
        plain: str = "x"

    async def handle(self, event, context):
        pass

not_a_handler = dict
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install distributions with entry points; returns the function that does."""
    (tmp_path / "acme_greeting.py").write_text(MODULE)
    (tmp_path / "acme_broken.py").write_text("raise RuntimeError('no licence')")

    def install(name, *lines):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("\n".join(["[espf.handlers]", *lines]))
        registry._registered.cache_clear()
        registry._own_defaults.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    registry._registered.cache_clear()
    registry._own_defaults.cache_clear()


def test_the_built_in_type_is_registered():
    assert registry.handler_types()["EventSender"] is EventSender
    assert registry.handler_type("EventSender") is EventSender


def test_an_unknown_type_is_told_with_the_known_ones():
    with pytest.raises(NotFound, match=r"no handler type 'Evnt' \(known: .*EventSender"):
        registry.handler_type("Evnt")


def test_the_type_of_another_package_is_found(installed):
    installed("acme", "Greeting = acme_greeting:Greeting")
    assert registry.handler_type("Greeting").__name__ == "Greeting"
    names = list(registry.handler_types())
    assert {"EventSender", "Greeting"} <= set(names)
    assert names == sorted(names)
    assert registry.secret_options("Greeting") == {"Greeting.Key"}
    assert registry.supported("Greeting", ["Account/New", "Account/Blocked", "Customer/New"]) == [
        "Account/New",
        "Customer/New",
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("Broken = acme_broken:X", "fails to import: RuntimeError: no licence"),
        ("Broken = acme_greeting:Missing", "fails to import: AttributeError"),
        ("Broken = acme_nowhere:X", "fails to import: ModuleNotFoundError"),
        ("Broken = acme_greeting:not_a_handler", "is not a subclass of espf.Handler"),
    ],
)
def test_a_broken_type_is_told_when_used_and_breaks_no_other(installed, line, fault):
    installed("acme", line)
    with pytest.raises(SettingsError, match=fault):
        registry.handler_type("Broken")
    assert registry.handler_type("EventSender") is EventSender
    assert "Broken" not in registry.handler_types()


def test_two_types_of_one_name_are_refused(installed):
    installed("acme", "EventSender = acme_greeting:Greeting")
    with pytest.raises(SettingsError, match="both acme_greeting:Greeting and espf"):
        registry.handler_type("EventSender")
    assert "EventSender" not in registry.handler_types()


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("EventSender.Url", "did you mean EventSender.URL?"),
        ("eventsender.tokenrate", "did you mean EventSender.TokenRate?"),
        ("URL", "did you mean EventSender.URL?"),
        ("EventSender.TokenRat", "did you mean EventSender.TokenRate?"),
        ("concurrency", "did you mean Concurrency?"),
        ("zzz", "known: Concurrency, "),
    ],
)
def test_an_unknown_option_is_told_with_the_nearest_known(option, hint):
    with pytest.raises(InvalidRequest) as caught:
        registry.validate("EventSender", {"EventSender.URL": "x", option: "1"})
    assert f"there is no option {option}" in str(caught.value)
    assert hint in str(caught.value)
    assert caught.value.field == option


def test_a_secret_cannot_slip_in_under_its_python_name():
    with pytest.raises(InvalidRequest, match="there is no option basic_auth_key"):
        registry.validate("EventSender", {"EventSender.URL": "x", "basic_auth_key": "hush"})


def test_every_wrong_option_is_named():
    with pytest.raises(InvalidRequest) as caught:
        registry.validate(
            "EventSender",
            {
                "EventSender.URL": "x",
                "EventSender.AuthMethod": "None",
                "EventSender.TokenRate": 0,
                "RetryDelays": "5 minutes",
            },
        )
    message = str(caught.value)
    assert "EventSender.TokenRate: should be greater than or equal to 1" in message
    assert "RetryDelays: 'minutes' is not a delay" in message
    assert caught.value.field == "RetryDelays"


def test_valid_options_become_settings():
    settings = registry.validate(
        "EventSender", {"EventSender.URL": "x", "EventSender.AuthMethod": "None"}
    )
    assert isinstance(settings, EventSender.Settings)


def test_the_secrets_of_event_sender():
    assert registry.secret_options("EventSender") == {
        "EventSender.BasicAuth.Key",
        "EventSender.CustomAuth.Credentials",
        "EventSender.ProxyAuth.Key",
        "EventSender.SignatureAuth.Key",
    }


def test_options_are_told_for_forms_and_documents():
    options = {option.alias: option for option in registry.options("EventSender")}
    assert next(iter(options)) == "Concurrency"
    assert all(option.description for option in options.values())
    shown = {alias: (option.type, option.default) for alias, option in options.items()}
    assert shown["Concurrency"] == ("number", "1")
    assert shown["RetryDelays"] == ("list", "5s 30s 2m 10m 30m 1hx23 4h 8h 16h 24hx28")
    assert shown["MaxAttempts"] == ("number", "")
    assert shown["OnFailure"] == ("continue | hold", "continue")
    assert shown["EventSender.AllowedTypes"] == ("list", "")
    assert shown["EventSender.APIVersion"] == ("1 | 2", "2")
    assert shown["EventSender.AsyncMode"] == ("on/off", "on")
    assert shown["EventSender.URL"] == ("text", None)
    assert shown["EventSender.BasicAuth.Key"] == ("text", "")
    assert options["EventSender.BasicAuth.Key"].secret
    assert not options["EventSender.BasicAuth.User"].secret


def test_an_option_without_an_alias_goes_by_its_field_name(installed):
    installed("acme", "Greeting = acme_greeting:Greeting")
    options = {option.alias: option for option in registry.options("Greeting")}
    assert options["plain"].default == "x"
    assert options["Greeting.URL"].default is None
    assert registry.validate("Greeting", {"Greeting.URL": "u", "plain": "y"})


def test_secrets_are_found_in_settings_given_directly():
    class Settings(HandlerSettings):
        token: SecretStr = Field(alias="T.Token", min_length=3, description="Token.")

    with pytest.raises(InvalidRequest, match=r"T\.Token: value should have at least 3") as caught:
        registry.read_settings(Settings, {"T.Token": "x1"})
    assert "x1" not in str(caught.value)
    assert isinstance(Handler, type)
