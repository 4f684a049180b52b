"""The options of the handlers of directories and chat servers: what is wrong is refused by name."""

import pytest

from espf.errors import InvalidRequest
from espf.handlers.registry import read_settings
from espf.systems.ejabberd import EjabberdSettings
from espf.systems.ldap_directory import LdapSettings, _filled

LDAP = {
    "LDAP.Address": "127.0.0.1",
    "LDAP.BindDN": "cn=espf,dc=example",
    "LDAP.BindPassword": "x",
    "LDAP.BaseDN": "dc=example",
}
CHAT = {
    "Ejabberd.URL": "http://127.0.0.1:5280/api",
    "Ejabberd.User": "admin@chat.example.org",
    "Ejabberd.Password": "x",
    "Ejabberd.Host": "chat.example.org",
}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("LDAP.BaseDN", "people", "is not a name in the directory"),
        ("LDAP.NamingAttribute", "uid=x", "is not the name of an attribute"),
        ("LDAP.ObjectClasses", "person;top", "is not the name of an attribute"),
        ("LDAP.Attributes", "sn", "is not NAME=VALUE"),
        ("LDAP.Attributes", "sn={h323_password}", "is a secret"),
        ("LDAP.Attributes", "sn={Last Name}", "are written {firstname}"),
        ("LDAP.Attributes", "sn={lastname", "are written {firstname}"),
        ("LDAP.Attributes", "sn=1; sn=2", "stands there twice"),
        ("LDAP.Attributes", "userPassword={id}", "more than one meaning"),
        ("LDAP.Attributes", "UID={id}", "more than one meaning"),
        ("LDAP.DigestAttribute", "employeeNumber", "more than one meaning"),
        ("LDAP.Groups", "Gold=gold", "is not a name in the directory"),
        ("LDAP.BarAttribute", "", "what becomes of whoever is barred"),
    ],
)
def test_options_of_a_directory(option, value, says):
    with pytest.raises(InvalidRequest, match=says):
        read_settings(LdapSettings, LDAP | {option: value})


def test_whom_nobody_bars_needs_no_way_to_be_barred():
    read_settings(LdapSettings, LDAP | {"LDAP.BarAttribute": "", "BarredBy": ""})


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("Ejabberd.URL", "http://admin:secret@127.0.0.1/api", "credentials do not belong here"),
        ("Ejabberd.User", "admin", "is not USER@HOST"),
        ("Ejabberd.Host", "chat example", "is not the name of a host"),
        ("Ejabberd.Access", "Gold=yes", "on or off is expected"),
    ],
)
def test_options_of_a_chat_server(option, value, says):
    with pytest.raises(InvalidRequest, match=says):
        read_settings(EjabberdSettings, CHAT | {option: value})


def test_the_first_template_of_which_every_field_is_known_counts():
    known = {"firstname": "Ada", "lastname": "", "id": 7, "card": {"imsi": "1"}, "is_new": True}
    assert _filled("{firstname} {lastname} | {firstname} | {id}", known) == "Ada"
    assert _filled("{lastname} | no. {id}", known) == "no. 7"
    assert _filled("{lastname} | {nothing}", known) == ""
    assert _filled("{card} | {is_new} | plain", known) == "plain"
    # What a field holds is data, whatever it looks like.
    assert _filled("{firstname}", {"firstname": "{id} | x", "id": "1"}) == "{id} | x"
