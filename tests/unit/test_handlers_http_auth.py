"""Authentication headers: the documented samples, and nothing but two words."""

import hashlib
import hmac
from base64 import b64decode, b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from espf.handlers import http_auth

DATE = "Thu, 12 Apr 2018 15:24:00 GMT"


def check(kind, value):
    return TypeAdapter(kind).validate_python(value)


def test_basic_is_the_documented_sample():
    assert http_auth.basic("username", "secret") == "Basic dXNlcm5hbWU6c2VjcmV0"


def test_basic_speaks_utf_8():
    assert b64decode(http_auth.basic("José", "пароль").split(" ")[1]).decode() == "José:пароль"


def test_custom_is_the_documented_sample():
    assert http_auth.custom("Plain", "passexample") == "Plain passexample"


def test_signature_is_the_known_answer():
    assert http_auth.signature("test", "signature", DATE, "hmac-sha1") == (
        'Signature keyId="test",algorithm="hmac-sha1",signature="FHkFy/8bwxnoZGvTkmt8VqSBeSA="'
    )


@pytest.mark.parametrize(
    ("algorithm", "digest"), [("hmac-sha256", hashlib.sha256), ("hmac-sha512", hashlib.sha512)]
)
def test_signature_with_other_algorithms(algorithm, digest):
    expected = b64encode(hmac.new(b"signature", f"date: {DATE}".encode(), digest).digest())
    assert http_auth.signature("test", "signature", DATE, algorithm) == (
        f'Signature keyId="test",algorithm="{algorithm}",signature="{expected.decode()}"'
    )


def test_a_date_is_written_as_the_header_has_it():
    assert http_auth.http_date(datetime(2018, 4, 12, 15, 24, tzinfo=UTC)) == DATE


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (http_auth.HeaderName, ""),
        (http_auth.HeaderName, "X Auth"),
        (http_auth.HeaderName, "X-Auth:"),
        (http_auth.HeaderName, "X-Auth\n"),
        (http_auth.HeaderName, "Héader"),
        (http_auth.HeaderName, "Date"),
        (http_auth.HeaderName, "content-type"),
        (http_auth.HeaderName, "HOST"),
        (http_auth.Scheme, "Bearer token"),
        (http_auth.Scheme, "Bearer\n"),
        (http_auth.Scheme, '"Bearer"'),
        (http_auth.Credentials, "two words"),
        (http_auth.Credentials, "line\nbreak"),
        (http_auth.Credentials, "line\r"),
        (http_auth.Credentials, "nul\0"),
        (http_auth.Credentials, "clé"),
        (http_auth.KeyId, "two words"),
        (http_auth.KeyId, 'quo"te'),
        (http_auth.KeyId, "back\\slash"),
        (http_auth.KeyId, "line\n"),
        (http_auth.User, "with:colon"),
        (http_auth.User, "line\n"),
        (http_auth.Password, "line\n"),
    ],
)
def test_values_that_would_break_the_header_are_refused(kind, value):
    with pytest.raises(ValidationError):
        check(kind, value)


VISIBLE = st.text(st.characters(min_codepoint=0, max_codepoint=0x2FF), max_size=20)


def accepted(kind, value):
    try:
        return check(kind, value)
    except ValidationError:
        return None


@given(VISIBLE, VISIBLE)
def test_every_accepted_custom_header_is_two_words(scheme, credentials):
    scheme, credentials = (
        accepted(http_auth.Scheme, scheme),
        accepted(http_auth.Credentials, credentials),
    )
    if scheme and credentials and credentials.get_secret_value():
        header = http_auth.custom(scheme, credentials.get_secret_value())
        assert header.split() == header.split(" ")
        assert len(header.split(" ")) == 2
        assert header.isascii()
        assert header.isprintable()


@given(VISIBLE, VISIBLE)
def test_every_accepted_signature_and_basic_header_is_two_words(name, key):
    key_id, user = accepted(http_auth.KeyId, name), accepted(http_auth.User, name)
    headers = []
    if key_id:
        headers.append(http_auth.signature(key_id, key, DATE, "hmac-sha1"))
    if user:
        headers.append(http_auth.basic(user, key))
    for header in headers:
        assert len(header.split()) == len(header.split(" ")) == 2
        assert header.isascii()
        assert header.isprintable()
