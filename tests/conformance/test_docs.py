"""The documents are complete and their links lead somewhere."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from desk import members
from espf.capture.rules import shipped_rules
from espf.catalogue import Way, catalogue
from espf.cli import main
from espf.cli.support import page
from espf.db.tables import metadata
from espf.handlers.registry import handler_types
from espf.journal import LONGEST_BODY, LONGEST_REASON
from espf.queue import MAX_VARIABLES
from espf.settings import Settings
from espf.telemetry import LONGEST_VALUE
from espf.web import (
    alerts_api,
    configuration_api,
    espf_api,
    events_api,
    handlers_api,
    reconciliation_api,
)
from espf.web.contract import MAX_BODY
from espf.web.espf_api import NewEvent
from espf.web.methods import METHODS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)


def name_of(page):
    return str(page.relative_to(ROOT))


def sections(text, mark):
    """Heading -> what stands under it, for headings of one level."""
    parts = re.split(rf"^{mark} (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(command=main, words=("evctl",)):
    """Every command that does something, with its words."""
    if isinstance(command, click.Group):
        if command.invoke_without_command:
            yield " ".join(words), command
        for name, member in members(command):
            yield from commands(member, (*words, name))
    else:
        yield " ".join(words), command


def test_every_command_has_its_section_and_no_section_is_about_nothing():
    documented = sections((REFERENCE / "evctl.md").read_text(), "###")
    assert {heading.strip("`") for heading in documented} == {words for words, _ in commands()}


@pytest.mark.parametrize(("words", "command"), list(commands()), ids=str)
def test_every_option_of_a_command_is_documented(words, command):
    text = (REFERENCE / "evctl.md").read_text()
    section = re.split(r"^#", sections(text, "###")[f"`{words}`"], flags=re.MULTILINE)[0]
    if words.startswith("evctl capture"):
        section += sections(text, "##")["Capture"]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in section, parameter.opts


def test_every_exit_code_is_documented():
    text = (REFERENCE / "evctl.md").read_text()
    assert re.findall(r"^\| (\d) \|", text, re.MULTILINE) == ["0", "1", "2", "3", "4", "6", "7"]


def test_every_setting_is_documented_with_its_default():
    text = (REFERENCE / "settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.+?) \|", text, re.MULTILINE)
    documented = {name: (variable, default.strip("`")) for name, variable, default in rows}
    assert documented == {
        name: (
            f"ESPF_{name.upper()}",
            "not set" if field.default is None else str(field.default),
        )
        for name, field in Settings.model_fields.items()
    }


def test_every_table_and_column_is_documented():
    documented = {
        table: re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)))
        for table, text in sections((REFERENCE / "tables.md").read_text(), "##").items()
    }
    assert documented == {
        name: [column.name for column in table.columns] for name, table in metadata.tables.items()
    }


def test_the_page_of_event_types_is_what_the_command_prints():
    printed = CliRunner().invoke(main, ["type", "list", "--markdown"])
    assert (REFERENCE / "event-types.md").read_text() == printed.output


def test_the_page_of_event_types_says_how_each_type_comes_about():
    text = (REFERENCE / "event-types.md").read_text().partition("## How they come about")[2]
    row = r"^\| `([\w/]+)` \| `(.+)` \| `(.+)` \| (.+) \|$"
    assert [
        (name, Way(by_api, by_sql, tuple(re.findall(r"`(.+?)`", events))))
        for name, by_api, by_sql, events in re.findall(row, text, re.MULTILINE)
    ] == [(name, way) for name, entry in catalogue().items() for way in entry.ways]


def test_the_page_of_event_types_says_what_the_catalogue_says():
    text = (REFERENCE / "event-types.md").read_text().partition("## How they come about")[0]
    rows = re.findall(r"^\| `([\w/]+)` \| (.+) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(catalogue())
    for name, row in rows:
        entry = catalogue()[name]
        description, variables, version_2, notes, source = row.split(" | ")
        assert description == entry.description
        assert tuple(re.findall(r"`(\w+)`", variables)) == entry.variables
        assert version_2.strip("` ") == (entry.version_2 or "")
        assert re.findall(r"`(\S+)`", notes) == list(entry.aliases)
        assert ("latest only" in notes, "inherited" in notes) == (
            entry.latest_only,
            entry.inherited,
        )
        assert source == entry.source


def test_every_rule_of_the_reference_billing_has_the_catalogues_variables():
    for rule in shipped_rules():
        names = tuple(name for name, _ in rule.capture().variables)
        assert names == catalogue()[rule.event].variables, rule.event


def test_the_page_about_what_handlers_support_is_the_one_that_is_made():
    ours = [name for name, each in handler_types().items() if each.__module__.startswith("espf.")]
    made = (REFERENCE / "events-that-handlers-support.md").read_text()
    assert made == page(ours), "make it anew with evctl handler types --markdown"


def test_the_page_about_the_configuration_is_what_the_command_prints():
    printed = CliRunner().invoke(main, ["config", "fields", "--markdown"])
    assert (REFERENCE / "configuration.md").read_text() == printed.output


def test_the_page_of_metrics_is_what_the_command_prints():
    printed = CliRunner().invoke(main, ["metrics", "--markdown"])
    assert (REFERENCE / "metrics.md").read_text() == printed.output


def test_every_member_of_a_request_is_documented():
    documented = sections((REFERENCE / "espf-api.md").read_text(), "##")
    section = documented["`POST /espf/v1/event/create`"]
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert names == list(NewEvent.model_fields)


def test_every_route_is_documented_and_no_other():
    text = (REFERENCE / "espf-api.md").read_text()
    documented = re.findall(r"^(?:\| |## )`([A-Z]+ /espf/[^`]+)`", text, re.MULTILINE)
    parts = (
        *(espf_api, events_api, handlers_api),
        *(reconciliation_api, configuration_api, alerts_api),
    )
    routes = [route for part in parts for route in part.api.routes]
    known = [f"{method} {route.path_format}" for route in routes for method in route.methods]
    assert sorted(documented) == sorted(known)


def test_the_limits_in_the_documents_are_those_of_the_code():
    api, log = ((REFERENCE / page).read_text() for page in ("espf-api.md", "log.md"))
    assert f"at most {MAX_BODY // 1024} KiB" in api
    assert f"at most {MAX_VARIABLES // 1024} K characters" in api
    assert f"{LONGEST_BODY // 1024} Ki characters are kept, of a reason {LONGEST_REASON};" in log
    assert f"at most {LONGEST_VALUE} characters" in log


def test_every_method_of_the_billing_api_is_documented_with_its_service():
    by_service = sections((REFERENCE / "rest-api.md").read_text(), "##")
    sessions = ("login", "refresh_access_token", "ping", "logout")
    for method in (*METHODS, *(f"Session/{name}" for name in sessions)):
        service, _, name = method.partition("/")
        places = [text for heading, text in by_service.items() if heading.split()[0] == service]
        there = any(f"`{name}`" in text or f"### {name}\n" in text for text in places)
        # What several services have in common stands in one place, named in full.
        assert there or any(f"`{method}`" in text for text in by_service.values()), method


def anchors(page):
    """The places in a page that a link can lead to, as forges name them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_knows_the_machine_that_it_was_written_on(page):
    text = page.read_text()
    assert str(ROOT) not in text
    assert not re.search(r"/(root|work|tmp/\w|home/(?!provisioning-framework))\b", text)


def test_there_are_pages():
    assert len(PAGES) > 10
