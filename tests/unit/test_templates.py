"""Templates always end and write safely; replies are read without surprises."""

import pytest

from espf.handlers.base import Reply
from espf.systems.replies import NotRead, Said, place
from espf.systems.templates import Template, TemplateFault

NAMES = {"key": None, "list": None, "wanted": {"a", "b"}, "secret": {"a"}}
SECRET = 'hu"sh&'


def rendered(source, kind="text", secrets=None, **values):
    known = {"key": "k", "list": ["p", "q"], "wanted": {"a": 'x"<&>'}, "secret": {"a": SECRET}}
    return Template(source, kind, NAMES).render(known | values, [] if secrets is None else secrets)


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("{{ wanted.a }}", "text", 'x"<&>'),
        ("{{ wanted.a }}", "json", '"x\\"<&>"'),
        ("{{ wanted.a }}", "xml", "x&quot;&lt;&amp;&gt;"),
        ("/a/{{ wanted.a }}", "path", "/a/x%22%3C%26%3E"),
        ("{{ wanted.a | json }} {{ wanted.a | xml }} {{ wanted.a | url }}", "text",
         '"x\\"<&>" x&quot;&lt;&amp;&gt; x%22%3C%26%3E'),
        ("{{ wanted.a | xml }}", "xml", "x&quot;&lt;&amp;&gt;"),
        ("{{ key | raw }}", "json", "k"),
        ("{{ list }}{{ key == 'k' }}{{ none }}", "json", '["p", "q"]truenull'),
        ("{% for one in list %}{{ one }}{% if not loop.last %};{% endif %}{% endfor %}", "text",
         "p;q"),
        ("{{ wanted.b | default('-') }}{{ list | join('+') }}{{ key[1:] }}", "text", "-p+q"),
        ("{{ ('a,b' | split(','))[1] | upper }}{{ list | length }}", "text", "B2"),
        ("{{ 'a' | md5 }}", "text", "0cc175b9c0f1b6a831c399e269772661"),
        ("{{ 'u:p' | base64 }}", "header", "dTpw"),
    ],
)  # fmt: skip
def test_a_value_is_written_as_its_place_wants_it(source, kind, text):
    assert rendered(source, kind) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ key.upper() }}",
        "{{ key * 1000000000 }}",
        "{{ '%999999999d' % 1 }}",
        "{% set key = key ~ key %}",
        "{% for a in list %}{% for b in list %}{% endfor %}{% endfor %}",
        "{% for a in list recursive %}{% endfor %}",
        "{% macro m() %}{% endmacro %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% filter upper %}{% endfilter %}",
        "{{ range }}",
        "{{ lipsum }}",
        "{{ key | format(1) }}",
        "{{ key | attr('__class__') }}",
        "{{ wanted.c }}",
        "{{ wanted['c'] }}",
        "{{ secret.b }}",
        "{{ 'a' }",
        "{{ " + "(" * 30_000,
        "x" * 70_000,
    ],
)  # fmt: skip
def test_what_might_not_end_or_can_have_no_value_is_refused_beforehand(source):
    with pytest.raises(TemplateFault):
        Template(source, "text", NAMES)


@pytest.mark.parametrize(
    ("source", "kind", "values", "told"),
    [
        ("{{ wanted.b }}", "text", {}, "there is no b"),
        ("{{ key }}", "text", {"key": None}, "a value is missing"),
        ("{{ list }}", "text", {}, "a list is no text"),
        ("{{ key.upper }}", "text", {}, "is no text"),
        ("{{ key.__class__.__mro__ }}", "text", {}, "no __class__"),
        ("/{{ key }}", "path", {"key": ""}, "cannot stand in a path"),
        ("/{{ key }}", "path", {"key": ".."}, "cannot stand in a path"),
        ("{{ key }}", "header", {"key": "a\r\nb: c"}, "line break"),
        ("{{ key }}", "xml", {"key": "\0"}, "control character"),
        ("{{ key | replace('k', '" + "x" * 999 + "') }}", "text", {"key": "k" * 999}, "more than"),
        ("{{ list | join('" + "x" * 9999 + "') }}", "text", {"list": ["a"] * 99}, "more than"),
        ("{% for one in list %}" + "x" * 999 + "{% endfor %}", "text", {"list": ["a"] * 99},
         "more than"),
        ("{% for one in list %}{{ '' }}{% endfor %}", "text", {"list": range(10**8)},
         "takes longer"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused(source, kind, values, told):
    with pytest.raises(TemplateFault, match=told):
        rendered(source, kind, **values)


@pytest.mark.parametrize(
    ("source", "kind", "form"),
    [
        ("{{ secret.a }}", "json", '"hu\\"sh&"'),
        ("{{ secret.a }}", "xml", "hu&quot;sh&amp;"),
        ("/{{ secret.a }}", "path", "hu%22sh%26"),
        ("{{ ('user:' ~ secret.a) | base64 }}", "header", "dXNlcjpodSJzaCY="),
    ],
)
def test_a_secret_is_one_in_every_form(source, kind, form):
    secrets = [SECRET]
    assert form in rendered(source, kind, secrets)
    assert form in secrets


def test_what_is_no_secret_does_not_become_one():
    secrets = [SECRET, ""]
    rendered("{{ wanted.a | base64 }}", "json", secrets)
    assert secrets == [SECRET, ""]


def found(words, text, **headers):
    return place(words).found(Said(Reply(200, headers, text)))


@pytest.mark.parametrize(
    ("words", "text", "values"),
    [
        ("json:/a/b", '{"a": {"b": true}}', ["true"]),
        ("json:/a/*/id", '{"a": [{"id": 1}, {"id": "x"}, {"id": null}, {}]}', ["1", "x"]),
        ("json:/a~1b/1", '{"a/b": [0, 1.5]}', ["1.5"]),
        ("json:", '{"a": 1}', ['{"a":1}']),
        ("xml:a/b/@c", '<n:a xmlns:n="u"><n:b c="1"/><b c="2"/><b/></n:a>', ["1", "2"]),
        ("xml:a/*", "<a><b> t&lt; </b><c/></a>", ["t<", ""]),
        ("regex:ID=([0-9]+)", "an ID=17;", ["17"]),
        ("regex:ID", "an ID=17;", ["ID"]),
        ("regex:ID=x", "an ID=17;", []),
    ],
)
def test_what_stands_at_a_place(words, text, values):
    assert found(words, text) == values


def test_what_stands_in_a_header():
    assert found("header:Location", "", location="/users/7") == ["/users/7"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("json:/a", "<a/>"),
        ("json:/a", "[" * 50_000),
        ("json:/a", '{"a": NaN}'),
        ("xml:a", "{}"),
        ("xml:a", "<a>"),
        ("xml:a", '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'),
        ("xml:a", '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>'),
        ("xml:a", "<a>" * 1000 + "</a>" * 1000),
        ("regex:(.*)(.*)(.*)(.*)x[0-9]", "a" * 60_000 + "x"),
    ],
)
def test_what_cannot_be_read_or_would_take_too_long_is_refused(words, text):
    with pytest.raises(NotRead):
        found(words, text)
