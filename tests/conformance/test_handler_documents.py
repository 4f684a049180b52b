"""The documents about handlers are true: their code runs, their tables are complete."""

import re
from pathlib import Path

import pytest

from espf.handlers import registry
from espf.handlers.http_auth import signature

DOCS = Path(__file__).parents[2] / "docs"


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", (DOCS / path).read_text(), re.DOTALL)


def test_the_handler_of_the_documents_has_12_lines_of_code():
    lines = python_blocks("how-to/write-a-handler.md")[0].splitlines()
    assert len([line for line in lines if line and '"""' not in line]) == 12


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_the_handler_of_the_documents_passes_its_own_tests(number):
    room = {}
    for block in python_blocks("how-to/write-a-handler.md"):
        exec(block, room)
    tests = [value for name, value in room.items() if name.startswith("test_")]
    assert len(tests) == 3
    await tests[number]()


@pytest.mark.parametrize(
    ("handler_type", "page"),
    [
        ("EventSender", "event-sender.md"),
        ("ConnectorSender", "connector-sender.md"),
        ("OsmoHLR", "osmo-hlr.md"),
        ("AricentHSS", "aricent-hss.md"),
        ("PyHSS", "pyhss.md"),
        ("YateHSS", "yate-hss.md"),
        ("Ministra", "ministra.md"),
        ("TemplateHTTP", "template-http.md"),
        ("FreeRADIUS", "free-radius.md"),
        ("Kamailio", "kamailio.md"),
        ("NatsSender", "nats-sender.md"),
        ("TMF640", "tmf640.md"),
    ],
)
def test_every_option_is_documented_with_its_default(handler_type, page):
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.+?) \|", (DOCS / "reference" / page).read_text(), re.MULTILINE
    )
    documented = {name: default.replace("`", "") for name, default in rows if name[0].isupper()}
    actual = {
        option.alias: "mandatory"
        if option.default is None
        else (option.default or "empty") + (", secret" if option.secret else "")
        for option in registry.options(handler_type)
    }
    assert {name: documented.get(name) for name in actual} == actual


def test_the_receiver_of_the_documents_knows_a_genuine_request():
    room = {}
    exec(python_blocks("reference/event-sender.md")[0], room)
    date = "Thu, 12 Apr 2018 15:24:00 GMT"
    header = signature("test", "signature", date, "hmac-sha1")
    assert header in (DOCS / "reference/event-sender.md").read_text()
    assert room["is_genuine"](date, header, {"test": b"signature"})
    assert not room["is_genuine"](date, header, {"test": b"another"})
