"""The catalogue of event types and its patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espf.catalogue import (
    VERSION_2_VARIABLES,
    aliases,
    canonical,
    catalogue,
    facts,
    fits_any,
    is_custom,
    is_well_formed,
    matches,
    spellings,
    version_2,
)

CHECKLIST = [
    "Account/New",
    "Account/SIMCardAssignment",
    "Account/ServicePassword/Changed",
    "Account/Password/Changed",
    "Account/ID/Changed",
    "Account/ZeroAvailableFunds",
    "Account/AvailableFundsAppear",
    "Account/Product/Changed",
    "Account/Blocked",
    "Account/Unblocked",
    "Customer/ZeroAvailableFunds",
    "Customer/AvailableFundsAppear",
    "Customer/Blocked",
    "Customer/Unblocked",
]

SOURCES = {"handbook", "vendor docs", "observed", "inferred"}
WORD = st.text("abcXYZ019_", min_size=1, max_size=8)
NAMES = st.lists(WORD, min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize("name", CHECKLIST)
def test_the_handbooks_types_have_a_simplified_form(name):
    assert version_2(name) in {"Subscriber/Created", "Subscriber/Updated", "Customer/Updated"}


def test_every_entry_is_complete():
    for name, entry in catalogue().items():
        assert entry.name == name
        assert is_well_formed(name)
        assert entry.variables or is_custom(name)
        assert entry.description.endswith(".")
        assert entry.entity
        assert entry.source in SOURCES, name


def test_a_type_has_one_entry_whatever_it_is_called():
    assert canonical("Account/Id/Changed") == "Account/ID/Changed"
    assert canonical("Account/Status/Suspend") == "Account/Status/Suspended"
    assert canonical("Account/Status/Unsuspend") == "Account/Status/SuspensionRemoved"
    assert canonical("Customer/Status/Suspend") == "Customer/Status/Suspended"
    assert not aliases().keys() & catalogue().keys()
    assert set(aliases().values()) <= catalogue().keys()
    for name in (*catalogue(), "Custom/NextMonth", "Nothing/Known"):
        assert canonical(name) == name


def test_an_alias_has_the_facts_of_its_type():
    for alias, name in aliases().items():
        assert version_2(alias) == version_2(name)
        assert facts(alias) == facts(name)


def test_a_type_fits_a_pattern_by_any_of_its_names():
    for name in spellings("Account/Status/Suspend"):
        assert fits_any(name, ["Customer/*", "Account/Status/Suspend"])
        assert fits_any(name, ["Account/Status/Suspended"])
        assert not fits_any(name, ["Account/Status/Closed"])
    assert spellings("Custom/NextMonth") == ("Custom/NextMonth",)


def test_only_events_of_accounts_are_inherited_from_the_customer():
    inherited = {name for name, entry in catalogue().items() if entry.inherited}
    assert {catalogue()[name].entity for name in inherited} == {"account"}
    # As the vendor's documents have it.
    assert inherited >= {
        "Account/ServiceAttribute/Changed",
        "Account/Status/Suspended",
        "Account/Status/SuspensionRemoved",
    }
    assert not inherited & {"Account/Blocked", "Account/Unblocked", "Account/Product/Changed"}


def test_latest_only_types_are_those_of_the_vendors_documents():
    services = ("Account/Service", "Account/Service/Msg", "Account/Service/Netaccess")
    assert {name for name, entry in catalogue().items() if entry.latest_only} == {
        "Account/ProductAddon/Changed",
        "Account/ProductAddon/Deleted",
        "Customer/Status/Limited",
        "Customer/Status/Suspended",
        *(f"{service}/Quota{end}" for service in services for end in ("Exceeded", "Expired")),
    }


def test_every_simplified_name_has_known_variables_or_is_its_own():
    for name, entry in catalogue().items():
        if entry.version_2 is not None:
            assert entry.version_2.split("/")[0] in VERSION_2_VARIABLES or entry.version_2 == name


def test_a_custom_type_is_its_own_simplified_form():
    assert version_2("Custom/NextMonth") == "Custom/NextMonth"


def test_an_unknown_type_has_no_simplified_form():
    assert version_2("Nothing/Known") is None
    assert version_2("Product/Changed") is None


@pytest.mark.parametrize(
    ("event_type", "pattern", "expected"),
    [
        ("Account/Blocked", "Account/Blocked", True),
        ("Account/Blocked", "Account/Block", False),
        ("Account/Blocked", "account/blocked", False),
        ("Account/Blocked", "*", True),
        ("Account/Status/Closed", "*", True),
        ("Account/Status/Closed", "Account/*", True),
        ("Account/Status/Closed", "Account/*/Closed", True),
        ("Account/Status/Closed", "*/Closed", False),
        ("Account/ID/Changed", "*/*/Changed", True),
        ("Account/ID/Changed", "Account/*Changed", False),
        ("Account/IDChanged", "Account/*Changed", True),
        ("Customer/Blocked", "Account/*", False),
        ("AccountX/Blocked", "Account/*", False),
        ("Account", "Account/*", False),
        ("Account/Blocked", "", False),
        ("Account/Blocked", "Account.Blocked", False),
    ],
)
def test_patterns(event_type, pattern, expected):
    assert matches(event_type, pattern) is expected


@given(NAMES)
def test_a_name_fits_itself_and_the_patterns_above_it(name):
    assert matches(name, name)
    assert matches(name, "*")
    words = name.split("/")
    for depth in range(1, len(words)):
        assert matches(name, "/".join(words[:depth]) + "/*")


@given(NAMES, NAMES)
def test_a_name_without_a_star_fits_only_itself(name, other):
    assert matches(name, other) == (name == other)


@pytest.mark.parametrize(
    "name", ["", "/", "Custom/", "/Custom", "Custom//X", "Custom/a b", "Custom/é", "a\n", "x" * 129]
)
def test_badly_formed_names(name):
    assert not is_well_formed(name)
