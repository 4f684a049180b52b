"""What a configuration may hold, how it is written, and how two of them differ. No database."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espf.configuration import (
    Configuration,
    Difference,
    Instance,
    Provisioning,
    Status,
    Version,
    differences,
)
from espf.errors import InvalidRequest, NotFound, SettingsError
from espf.handlers import registry
from espf.handlers.base import DEFAULT_RETRY_DELAYS, HandlerSettings, parse_delays
from espf.handlers.registry import read_settings


def version(number=1, **groups):
    """A version that holds these groups."""
    now = datetime.now(UTC)
    return Version(
        *(number, Status.DRAFT, json.dumps(groups), "", None, None, now, "somebody"),
        *(None, None, None, None, None),
    )


# What the fields take


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("AlertRecipient", "a@b.example, c-d@localhost", ("a@b.example", "c-d@localhost")),
        ("AlertRecipient", "", ()),
        ("send_options", "  -f 'a b@c' -i ", "-f 'a b@c' -i"),
        ("sendmail", "/usr/bin/my mail", "/usr/bin/my mail"),
        ("AlertURL", "https://[2001:db8::7]:8443/x", "https://[2001:db8::7]:8443/x"),
        ("AlertURL", "", ""),
        ("AlertOldestWaiting", "2h", 7200),
        ("AlertOldestWaiting", 90, 90),
        ("RetryDelays", "5s 1hx2", (5, 3600, 3600)),
        ("LongTail", "", ()),
        ("MaxAttempts", "", None),
        ("MaxAttempts", "7", 7),
        ("Maintenance", "on", True),
    ],
)
def test_a_field_reads_what_people_write(name, written, read):
    group = read_settings(Provisioning, {name: written})
    fields = {field.alias: key for key, field in Provisioning.model_fields.items()}
    assert getattr(group, fields[name]) == read


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("AlertRecipient", "nobody"),
        ("AlertRecipient", "-oQ/tmp@x.example"),
        ("AlertRecipient", "a@b, c d"),
        ("send_options", "-f 'a"),
        ("send_options", "-i\n-f x"),
        ("sendmail", "sendmail"),
        ("sendmail", "/bin/x\0"),
        ("AlertURL", "ftp://x.example"),
        ("AlertURL", "https://"),
        ("AlertURL", "http://x.example:99999"),
        ("AlertURL", "x.example"),
        ("AlertOldestWaiting", "1m 2m"),
        ("AlertOldestWaiting", "soon"),
        ("AlertOldestWaiting", 9),
        ("AlertWorkerLost", "25h"),
        ("RetryDelays", ""),
        ("RetryDelays", "1sx501"),
        ("LongTail", "32d"),
        ("RetryJitter", "nan"),
        ("MaxAttempts", 0),
        ("KeepJournalDays", 0),
        ("Maintenance", "perhaps"),
    ],
)
def test_what_a_field_cannot_take_is_refused_by_its_name(name, written):
    with pytest.raises(InvalidRequest) as caught:
        read_settings(Provisioning, {name: written})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("server", "a b"),
        ("server", "-x"),
        ("address", "localhost"),
        ("address", "300.1.1.1"),
        ("port", 0),
        ("port", 65536),
        ("handlers", "EventSender"),
        ("handlers", "EventSender@0"),
        ("handlers", "EventSender@2147483648"),
        ("handlers", "@3"),
        ("handlers", "[1, 2]"),
        ("handlers", "[oops"),
    ],
)
def test_what_an_instance_cannot_have_is_refused_by_its_name(name, written):
    with pytest.raises(InvalidRequest) as caught:
        read_settings(Instance, {name: written})
    assert caught.value.field == name


names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=64)
handlers = st.builds(lambda name, i_env: f"{name}@{i_env}", names, st.integers(1, 2**31 - 1))


@given(st.lists(handlers, max_size=5))
def test_whatever_a_handlers_name_is_what_is_shown_can_be_written(some):
    once = Instance(handlers=some)
    shown = once.model_dump(by_alias=True)["handlers"]
    assert isinstance(shown, str)
    assert Instance(handlers=shown) == once
    assert once.handlers == tuple(sorted(set(some)))


@pytest.mark.parametrize("kind", [Provisioning, Instance])
def test_a_form_can_be_drawn_from_the_schema_and_its_defaults_can_be_sent_back(kind):
    schema = kind.model_json_schema()
    for name, field in schema["properties"].items():
        assert field["title"], name
        assert field["description"].endswith("."), name
    defaults = {name: field["default"] for name, field in schema["properties"].items()}
    assert read_settings(kind, defaults) == kind()
    assert all(
        isinstance(defaults[name], str)
        for name, field in schema["properties"].items()
        if field.get("type") == "string"
    )


# Retries that handlers inherit


def test_the_default_retries_are_those_that_a_handler_has_anyway():
    assert Provisioning().retries() == {
        "RetryDelays": parse_delays(DEFAULT_RETRY_DELAYS),
        "RetryJitter": HandlerSettings().retry_jitter,
        "MaxAttempts": HandlerSettings().max_attempts,
    }


def test_the_long_tail_follows_the_delays():
    assert Provisioning(RetryDelays="1s 2s", LongTail="1h").retries()["RetryDelays"] == (1, 2, 3600)


@pytest.mark.parametrize(
    ("handler_type", "own", "inherited"),
    [
        ("EventSender", {}, {"RetryDelays", "RetryJitter", "MaxAttempts"}),
        ("EventSender", {"RetryJitter": 0}, {"RetryDelays", "MaxAttempts"}),
        ("EventSender", {"MaxAttempts": 3}, {"RetryDelays", "RetryJitter"}),
        ("EventSender", {"RetryDelays": "1s"}, {"RetryJitter"}),
        ("ConnectorSender", {}, {"RetryJitter"}),
        ("NoSuchType", {}, set()),
    ],
)
def test_a_handler_inherits_what_neither_it_nor_its_type_has(handler_type, own, inherited):
    found = registry.inherited(handler_type, own, Provisioning().retries())
    assert found.keys() == inherited


# Who works for what


def test_an_instance_serves_what_it_names_or_all_and_nothing_while_it_is_disabled():
    some = {
        "all": Instance(),
        "one": Instance(handlers="A@3"),
        "off": Instance(handlers="A@3", enabled=False),
    }
    content = Configuration(instances=some)

    def served(instance):
        known = [(3, "A"), (4, "A"), (3, "B")]
        return [one for one in known if content.serves(instance, *one)]

    assert served("") == served("all") == [(3, "A"), (4, "A"), (3, "B")]
    assert served("one") == [(3, "A")]
    assert served("off") == served("gone") == []


def test_an_instance_listens_where_it_says_else_where_the_settings_say():
    assert Instance().place(("127.0.0.1", 8080)) == ("127.0.0.1", 8080)
    assert Instance(address="::1").place(("127.0.0.1", 8080)) == ("::1", 8080)
    assert Instance(address="192.0.2.7", port=1).place(("::", 8080)) == ("192.0.2.7", 1)


def test_an_instance_that_is_not_there_is_told_with_those_that_are():
    content = Configuration(instances={"a": Instance(), "b": Instance()})
    with pytest.raises(NotFound, match=r"no instance 'c' .*known: a, b"):
        content.instance("c")


# Versions


def test_versions_differ_in_what_holds_not_in_what_was_set():
    default = version(Provisioning={"KeepJournalDays": 90, "LongTail": "4h 8h 16h 24hx28"})
    assert differences(version(), default) == []


def test_a_difference_has_the_field_and_both_values_as_people_see_them():
    old = version(Provisioning={"MaxAttempts": 3}, ESPF={"a": {"port": 1}})
    new = version(Provisioning={"Maintenance": True}, ESPF={"a": {"port": 2}})
    assert differences(old, new) == [
        Difference("Provisioning.MaxAttempts", "3", ""),
        Difference("Provisioning.Maintenance", "off", "on"),
        Difference("ESPF.a.port", "1", "2"),
    ]


def test_an_instance_that_comes_or_goes_differs_in_all_its_fields():
    with_one = version(ESPF={"a": {"handlers": "A@3"}})
    fields = ["server", "address", "port", "enabled", "handlers"]
    came, went = differences(version(), with_one), differences(with_one, version())
    assert [one.field for one in came] == [f"ESPF.a.{name}" for name in fields]
    assert [one.old for one in came] == [one.new for one in went] == [None] * 5
    assert came[-1].new == went[-1].old == "A@3"


def test_a_secret_that_was_set_anew_differs_and_is_not_shown():
    old, new = (version(Provisioning={"AlertToken": text}) for text in ("gA1", "gA2"))
    (one,) = differences(old, new)
    assert (one.field, one.old, one.new) == ("Provisioning.AlertToken", "••••••••", "••••••••")
    assert new.settings()["Provisioning.AlertToken"] == "••••••••"
    assert "gA2" not in repr(new.content)


@pytest.mark.parametrize("stored", ["", "[]", '{"Provisioning": 1}', '{"Provisioning": {"X": 1}}'])
def test_a_damaged_version_says_which_it_is(stored):
    damaged = version(7)
    object.__setattr__(damaged, "stored", stored)
    with pytest.raises(SettingsError, match="configuration 7 "):
        _ = damaged.content
