"""EventSender's settings, and the parts that need no server."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espf.errors import InvalidRequest
from espf.handlers.base import Pacing
from espf.handlers.event_sender import EventSender, retry_after
from espf.handlers.registry import read_settings

URL = {"EventSender.URL": "http://127.0.0.1:5000"}
OPEN = {**URL, "EventSender.AuthMethod": "None"}
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def settings(**options):
    """Settings without authentication; options are given without their prefix."""
    return read_settings(
        EventSender.Settings,
        {**OPEN, **{f"EventSender.{name}": value for name, value in options.items()}},
    )


def problem(options):
    with pytest.raises(InvalidRequest) as caught:
        read_settings(EventSender.Settings, options)
    return caught.value


def test_the_defaults_are_the_handbooks():
    basic = {"EventSender.BasicAuth.User": "u", "EventSender.BasicAuth.Key": "k"}
    got = read_settings(EventSender.Settings, {**URL, **basic}).model_dump(by_alias=True)
    own = {name.removeprefix("EventSender."): v for name, v in got.items() if "EventSender" in name}
    assert got["Concurrency"] == 1
    assert own.pop("BasicAuth.Key").get_secret_value() == "k"
    assert own.pop("CustomAuth.Credentials").get_secret_value() == ""
    assert own.pop("SignatureAuth.Key").get_secret_value() == ""
    # These are none of the handbook's, and do nothing by default.
    ours = ("CAFile", "Proxy", "ProxyAuth.User")
    assert [own.pop(name) for name in ours] == ["", "", ""]
    assert own.pop("ProxyAuth.Key").get_secret_value() == ""
    assert own == {
        "AllowedTypes": "",
        "APIVersion": 2,
        "AsyncMode": True,
        "AuthHeader": "Authorization",
        "AuthMethod": "Basic",
        "BasicAuth.User": "u",
        "CustomAuth.Type": "",
        "MaxWaitTime": 600,
        "RequestTimeout": 300,
        "SignatureAuth.KeyId": "",
        "SignatureAuth.Algorithm": "hmac-sha1",
        "TokenBurstiness": 100,
        "TokenRate": 10,
        "URL": "http://127.0.0.1:5000",
        "WithUniqueID": True,
    }


@pytest.mark.parametrize(
    "proxy", ["https://10.0.0.1:3128", "socks5://10.0.0.1", "http://a b", "http://u:p@h", "h/x"]
)
def test_a_proxy_that_is_none_is_refused(proxy):
    assert problem({**OPEN, "EventSender.Proxy": proxy}).field == "EventSender.Proxy"


def test_a_password_for_the_proxy_needs_a_user():
    error = problem({**OPEN, "EventSender.ProxyAuth.Key": "k"})
    assert str(error) == "EventSender.ProxyAuth.Key: needs EventSender.ProxyAuth.User, too"


def test_the_url_is_mandatory():
    error = problem({"EventSender.AuthMethod": "None"})
    assert str(error) == "EventSender.URL: is mandatory"
    assert error.field == "EventSender.URL"


@pytest.mark.parametrize(
    ("method", "option", "other"),
    [
        ("Basic", "BasicAuth.User", "BasicAuth.Key"),
        ("Basic", "BasicAuth.Key", "BasicAuth.User"),
        ("Custom", "CustomAuth.Type", "CustomAuth.Credentials"),
        ("Custom", "CustomAuth.Credentials", "CustomAuth.Type"),
        ("Signature", "SignatureAuth.Key", "SignatureAuth.KeyId"),
        ("Signature", "SignatureAuth.KeyId", "SignatureAuth.Key"),
    ],
)
def test_the_credentials_of_the_chosen_method_are_mandatory(method, option, other):
    given = {**URL, "EventSender.AuthMethod": method, f"EventSender.{other}": "word"}
    error = problem(given)
    assert str(error) == f"EventSender.{option}: is mandatory with AuthMethod {method}"
    assert error.field == f"EventSender.{option}"
    assert read_settings(EventSender.Settings, {**given, f"EventSender.{option}": "word"})


def test_basic_is_the_method_unless_another_is_chosen():
    message = str(problem(URL))
    assert "EventSender.BasicAuth.Key: is mandatory with AuthMethod Basic" in message
    assert "EventSender.BasicAuth.User: is mandatory with AuthMethod Basic" in message


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("app.example.net/hook", "http://app.example.net/hook"),
        ("app.example.net/?back=http://x", "http://app.example.net/?back=http://x"),
        (" http://host ", "http://host"),
        ("HTTPS://host/x", "HTTPS://host/x"),
        ("http://[::1]:5000/", "http://[::1]:5000/"),
        ("http://Häuser.example.net./", "http://Häuser.example.net./"),
    ],
)
def test_urls(given, meant):
    assert settings(URL=given).url == meant


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "http:///path",
        "http://:5000",
        "ftp://host",
        "javascript:alert(1)",
        "http://host:99999",
        "http://host:0",
        "http://host:port",
        "http://[::1",
        "http://ho st/",
        "http://host/\nX: y",
        "http://host/\r\n",
        "http://host\0/",
        "http://ho<st>/",
        "http://a..b/",
        "http://.host/",
        "http://" + "a" * 64 + ".net/",
        "http://user:pw@host/",
        "http://host/" + "x" * 2048,
    ],
)
def test_what_is_no_url_is_refused(url):
    assert problem({**OPEN, "EventSender.URL": url}).field == "EventSender.URL"


@pytest.mark.parametrize(
    ("option", "most"),
    [
        ("MaxWaitTime", 86_400),
        ("RequestTimeout", 3600),
        ("TokenBurstiness", 10_000),
        ("TokenRate", 10_000),
    ],
)
def test_numbers_have_bounds(option, most):
    alias = f"EventSender.{option}"
    for value in (1, str(most)):
        assert settings(**{option: value})
    for value in (0, -1, most + 1, "", "many", 1.5):
        assert problem({**OPEN, alias: value}).field == alias


@pytest.mark.parametrize("option", ["AsyncMode", "WithUniqueID"])
def test_toggles_are_spelt_in_many_ways(option):
    python_name = {"AsyncMode": "async_mode", "WithUniqueID": "with_unique_id"}[option]
    for on in ("on", "Y", "y", "true", "True", True, "1", "yes"):
        assert getattr(settings(**{option: on}), python_name) is True
    for off in ("off", "N", "n", "false", "OFF", False, "0", "no"):
        assert getattr(settings(**{option: off}), python_name) is False
    assert problem({**OPEN, f"EventSender.{option}": "maybe"}).field == f"EventSender.{option}"


@pytest.mark.parametrize("value", [1, "1", 2, "2"])
def test_the_version_is_1_or_2(value):
    assert settings(APIVersion=value).api_version == int(value)


@pytest.mark.parametrize("value", [0, 3, "v1", "", None])
def test_there_is_no_other_version(value):
    assert problem({**OPEN, "EventSender.APIVersion": value}).field == "EventSender.APIVersion"


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("", ()),
        ("Account/Blocked", ("Account/Blocked",)),
        ("Account/*, Customer/*", ("Account/*", "Customer/*")),
        ("Account/*\nCustomer/New Custom/*\r\n", ("Account/*", "Customer/New", "Custom/*")),
        (["*"], ("*",)),
    ],
)
def test_allowed_types_are_separated_by_commas_blanks_or_lines(text, patterns):
    assert settings(AllowedTypes=text).allowed_types == patterns


@pytest.mark.parametrize("text", ["Account/", "/Account", "Account//New", "Account/N.w", "a;b"])
def test_what_is_no_pattern_is_refused(text):
    error = problem({**OPEN, "EventSender.AllowedTypes": text})
    assert error.field == "EventSender.AllowedTypes"
    assert repr(text) in str(error)


@pytest.mark.parametrize("method", ["basic", "Digest", ""])
def test_other_methods_are_refused(method):
    assert problem({**OPEN, "EventSender.AuthMethod": method}).field == "EventSender.AuthMethod"


def test_a_wrong_secret_is_not_repeated_in_the_message():
    error = problem({**OPEN, "EventSender.CustomAuth.Credentials": "hush hush"})
    assert error.field == "EventSender.CustomAuth.Credentials"
    assert "hush" not in str(error)


def test_async_mode_is_paced_by_the_bucket():
    handler = EventSender(settings(TokenRate=7, TokenBurstiness=20, MaxWaitTime=60))
    assert handler.pacing() == Pacing(1, rate=7, burst=20, max_wait=timedelta(seconds=60))


def test_sync_mode_is_paced_by_concurrency():
    options = {**OPEN, "EventSender.AsyncMode": "off", "Concurrency": 3}
    handler = EventSender(read_settings(EventSender.Settings, options))
    assert handler.pacing() == Pacing(concurrency=3)


def test_the_time_limit_leaves_the_request_its_time():
    assert 300 < EventSender(settings()).time_limit_seconds() < 330
    assert 20 < EventSender(settings(RequestTimeout=20)).time_limit_seconds() < 50


def test_the_password_is_secret_in_the_form_in_which_it_is_sent_too():
    options = {"BasicAuth.User": "username", "BasicAuth.Key": "secret", "AuthMethod": "Basic"}
    assert set(EventSender(settings(**options)).secrets()) == {"secret", "dXNlcm5hbWU6c2VjcmV0"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("0", timedelta(0)),
        ("120", timedelta(seconds=120)),
        (" 7 ", timedelta(seconds=7)),
        ("86400", timedelta(hours=24)),
        ("86401", timedelta(hours=24)),
        ("9" * 8000, timedelta(hours=24)),
        ("Sun, 01 Mar 2026 12:05:00 GMT", timedelta(minutes=5)),
        ("Sun, 01 Mar 2026 12:05:00 -0000", timedelta(minutes=5)),
        ("Sun, 01 Mar 2026 11:00:00 GMT", timedelta(0)),
        ("Tue, 01 Mar 2033 11:00:00 GMT", timedelta(hours=24)),
    ],
)
def test_retry_after(value, expected):
    assert retry_after(value, NOW) == expected


@given(st.text() | st.datetimes(timezones=st.just(UTC)).map(format_datetime))
def test_no_retry_after_breaks_the_reader(value):
    delay = retry_after(value, NOW)
    assert delay is None or timedelta(0) <= delay <= timedelta(hours=24)
