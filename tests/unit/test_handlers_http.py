"""What is shown of requests and replies: no secret, and not too much."""

import pytest

from espf.handlers.http import masked, masked_url, status_line


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:5000/hook", "http://host:5000/hook"),
        ("http://user:pw@host/", "http://***@host/"),
        ("http://token@host", "http://***@host"),
        ("https://host/x?token=abc&v=1", "https://host/x?token=***&v=***"),
        ("https://host/x?justasecret", "https://host/x?justasecret=***"),
        ("http://host/#fragment", "http://host/"),
        ("http://[::1]:80/", "http://[::1]:80/"),
        ("http://[::1", "(malformed URL)"),
    ],
)
def test_a_url_is_shown_without_credentials_and_query_values(url, shown):
    assert masked_url(url) == shown


def test_the_longer_of_two_secrets_is_masked_whole():
    assert masked("key=abcdef, abc", ["abc", "abcdef"]) == "key=***, ***"


def test_an_empty_secret_masks_nothing():
    assert masked("text", [""]) == "text"


def test_a_status_is_told_in_words():
    assert status_line(503) == "HTTP 503 Service Unavailable"
    assert status_line(599) == "HTTP 599"
