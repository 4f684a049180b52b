"""evctl: the exact words, the exit codes, and one clear line for whatever is wrong."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import insert, inspect, select, update

from databases import whatever_the_database
from desk import PASSWORD, Desk, members, one_line
from espf import overview
from espf.billing import tables as billing
from espf.capture.rules import shipped_rules
from espf.capture.triggers import compile_rules
from espf.catalogue import catalogue, fits_any
from espf.cli import main
from espf.cli.support import DOCUMENTED
from espf.crypto import Sealer
from espf.db import schema, tables
from espf.db import sqlite as sqlite_dialect
from espf.db.tables import event_notifications as notifications
from espf.errors import Denied
from espf.sources import Filter
from espf.systems.osmo_hlr import OsmoHLR
from espf.users import SERVICE_LOGIN, Users, service_password

#: On the tables of the reference billing.
TRIGGERS = len(compile_rules(shipped_rules()))

URL = "http://127.0.0.1:9"

#: A change that is an event.
BLOCK = update(billing.customers).values(blocked="Y")


def all_commands():
    """Every command of evctl with its words."""

    def walk(command, words):
        yield words, command
        if isinstance(command, click.Group):
            for name, member in members(command):
                yield from walk(member, (*words, name))

    return dict(walk(main, ()))


COMMANDS = all_commands()


def test_a_command_imports_none_of_the_others():
    """Most take longer to import than to run."""
    said = (
        "import sys; from espf.cli import main; main(['type', '--help'], standalone_mode=False); "
        "print(sorted(name for name in sys.modules if name.startswith('espf.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['espf.cli.group', 'espf.cli.types']"


@pytest.fixture
def bare(tmp_path, monkeypatch, database_kind, store):
    """A folder in which nothing has been set up."""
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, None if database_kind == "sqlite" else store.empty())


# The exact words


def test_the_scheduling_scenario_in_the_vendors_words(desk):
    done = desk.child("type", "create", "Custom/NextMonth", name="evctl-old.pl")
    assert done.stdout == "Created event type #10001 Custom/NextMonth\n"
    assert (done.returncode, done.stderr) == (0, "")
    done = desk.child(
        "handler", "subscribe", "3", "EventSender", "Custom/NextMonth", name="evctl.pl"
    )
    assert done.stdout == "Handler EventSender is subscribed to Custom/NextMonth\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "evctl")
def test_every_command_explains_itself(words):
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    command = COMMANDS[words]
    assert len(command.help.split("\n\n")[0].split()) >= 4
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help, f"{words}: {parameter.name}"
            assert max(parameter.opts, key=len) in result.stdout


def test_the_commands_are_those_that_were_promised():
    promised = """init; run; type create; type list; type enable; type disable; handler create;
        handler set; handler show; handler list; handler enable; handler disable; handler delete;
        handler subscribe; handler unsubscribe; handler subscriptions; event create; event list;
        event show; event restart; event cancel; capture plan; capture apply; capture verify;
        capture sql; user create; user list; user password; worker; worker list; web;
        maintenance on; maintenance off; maintenance status; handler pause; handler resume;
        event skip; journal prune; config list; config show; config clone; config set; config diff;
        config verify; config apply; config rollback; config delete"""
    assert {tuple(words.split()) for words in promised.split(";")} <= COMMANDS.keys()


@whatever_the_database
def test_no_command_is_a_usage_error(desk):
    assert desk.run().exit_code == 2
    assert desk.run("handler").exit_code == 2


# Exit codes


@whatever_the_database
def test_the_exit_codes(desk):
    desk.fails(2, "type", "create", "Account/Mine")
    desk.fails(3, "handler", "show", 3, "Nobody")
    done = desk.child("handler", "create", "3", "EventSender", "--type", "EventSender")
    assert (done.returncode, done.stdout) == (4, "")
    one_line(done.stderr)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    "words",
    [
        "handler show 2147483648 Sender",
        "handler list 2147483648",
        "event list --env 2147483648",
        "user create clerk --env 2147483648",
        "init --env 9223372036854775807",
    ],
)
def test_an_environment_that_no_database_can_hold_is_a_usage_error(desk, words):
    result = desk.run(*words.split())
    assert result.exit_code == 2
    assert "at most 2147483647" in result.output


@pytest.mark.databases("sqlite")
def test_a_database_that_is_locked_for_good_is_told(desk, monkeypatch):
    monkeypatch.setattr(sqlite_dialect, "BUSY_SECONDS", 0)
    database = desk.database()
    with database.begin():
        assert "locked" in desk.fails(6, "type", "create", "Custom/A")
    database.close()


# init


def test_init_shows_a_random_password_once(bare):
    first = bare("init")
    assert (words := first.split("password ")[1].split())[1:4] == ["(shown", "only", "now)"]
    database = bare.database()
    assert Users(database, bare.sealer()).by_password("admin", words[0]).i_env == 1
    database.close()
    again = bare("init")
    assert words[0] not in again
    assert "password" not in again.replace("its password stays as it is", "")


@whatever_the_database
def test_init_uses_the_password_of_the_environment_once(desk):
    said = desk("init", "--demo", ESPF_ADMIN_PASSWORD="another password")
    assert "its password stays as it is" in said
    database = desk.database()
    users = Users(database, desk.sealer())
    assert users.by_password("admin", PASSWORD).superuser
    with pytest.raises(Denied):
        users.by_password("admin", "another password")
    database.close()


def test_init_a_second_time_changes_nothing(desk):
    def everything():
        known = (*tables.metadata.sorted_tables, *billing.metadata.sorted_tables)
        return {table.name: desk.execute(select(table)) for table in known}

    before, keys = everything(), desk.key_file.read_text()
    desk("init", "--demo")
    assert everything() == before
    assert desk.key_file.read_text() == keys


def test_init_alone_adds_nothing_of_the_reference_billing(bare):
    bare("init", "--env", 7, ESPF_ADMIN_PASSWORD=PASSWORD)
    database = bare.database()
    with database.read() as connection:
        assert schema.is_set_up(connection, database.dialect)
        there = inspect(connection).get_table_names(schema=database.dialect.billing_schema)
        assert not database.dialect.triggers.installed(connection)
    database.close()
    assert not set(there) & {"Accounts", "Customers", "Products", "SIM_Cards"}
    assert [row["i_env"] for row in bare.json("user", "list")] == [7, 7]


def test_init_with_the_reference_billing_leaves_it_empty(bare):
    assert f"{TRIGGERS} triggers" in bare(
        "init", "--reference-billing", ESPF_ADMIN_PASSWORD=PASSWORD
    )
    assert bare.execute(select(billing.customers)) == []
    assert "installed as compiled" in bare("capture", "verify")


def test_the_demo_is_the_handbooks(desk):
    options = desk.json("handler", "show", 3, "EventSender")["options"]
    assert options["EventSender.APIVersion"] == "1"
    rows = desk.json("handler", "subscriptions", 3, "EventSender")
    assert {row["event_type"] for row in rows if row["subscribed"]} == set(DOCUMENTED)
    assert len(DOCUMENTED) == 16


@whatever_the_database
def test_the_key_file_is_for_its_owner_alone(desk):
    assert stat.S_IMODE(desk.key_file.stat().st_mode) == 0o600


@whatever_the_database
def test_init_does_not_make_new_keys_for_old_secrets(desk):
    desk.key_file.unlink()
    assert "restore it" in desk.fails(2, "init", "--demo")
    assert not desk.key_file.exists()


def test_a_password_that_is_too_short_stops_init_before_anything_is_stored(bare):
    said = bare.fails(2, "init", ESPF_ADMIN_PASSWORD="short")
    assert "ESPF_ADMIN_PASSWORD" in said
    database = bare.database()
    with database.read() as connection:
        assert not schema.is_set_up(connection, database.dialect)
    database.close()


def test_the_handlers_may_log_in_after_init(desk):
    database = desk.database()
    user = Users(database, desk.sealer()).by_password(
        SERVICE_LOGIN, service_password(desk.sealer())
    )
    database.close()
    assert user.rights == {"sim.keys"}


# Settings


def test_without_init_there_is_one_clear_line_and_nothing_is_made(bare):
    assert "run 'evctl init'" in bare.fails(2, "handler", "list")
    assert list(bare.folder.iterdir()) == []
    done = bare.child("run")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "run 'evctl init'" in done.stderr.splitlines()[-1]


@whatever_the_database
@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ('listen = "nowhere"', "listen"),
        ('lisen = "127.0.0.1:8080"', "lisen"),
        ("stop_grace = -1", "stop_grace"),
        ('database_url = "oracle://x"', "ESPF_DATABASE_URL"),
        ('database_url = "mysql://x"', "ESPF_DATABASE_URL"),
        ('database_url = "sqlite://"', "ESPF_DATABASE_URL"),
        ("listen = ", "espf.toml"),
        (b"\xff\xfe", "espf.toml"),
    ],
)
def test_a_wrong_settings_file_is_told_by_name(desk, monkeypatch, toml, named):
    text = toml.encode() if isinstance(toml, str) else toml
    (desk.folder / "espf.toml").write_bytes(text)
    if named == "ESPF_DATABASE_URL":
        del desk.environment["ESPF_DATABASE_URL"]
    monkeypatch.delenv("ESPF_LISTEN", raising=False)
    del desk.environment["ESPF_LISTEN"]
    assert named in desk.fails(2, "handler", "list")


@whatever_the_database
@pytest.mark.parametrize("where", ["missing.toml", "var"])
def test_a_settings_file_that_is_asked_for_must_be_there(desk, where):
    assert "ESPF_SETTINGS" in desk.fails(2, "handler", "list", ESPF_SETTINGS=where)


@pytest.mark.databases("sqlite")
def test_a_database_that_is_none_is_one_clear_line(desk):
    desk.database_file.write_bytes(b"This is a letter to somebody. " * 100)
    assert "not a database" in desk.fails(6, "handler", "list")


@whatever_the_database
def test_a_folder_that_cannot_be_written_is_one_clear_line(bare):
    (bare.folder / "file").write_text("no folder")
    inside = str(bare.folder / "file" / "x")
    assert "ESPF_DATABASE_URL" in bare.fails(2, "init", ESPF_DATABASE_URL=f"sqlite:///{inside}")
    assert "ESPF_KEY_FILE" in bare.fails(2, "init", ESPF_KEY_FILE=inside)


@whatever_the_database
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_clear_line(bare):  # pragma: no cover
    bare.folder.chmod(0o500)
    bare.fails(2, "init")
    bare.folder.chmod(0o700)


@whatever_the_database
@pytest.mark.parametrize("keys", ["", "not a key\n", "\xff\xff"])
def test_a_damaged_key_file_is_one_clear_line(desk, keys):
    desk.key_file.write_text(keys, encoding="latin-1")
    assert "ESPF_KEY_FILE" in desk.fails(2, "handler", "set", 3, "EventSender", "Concurrency=2")
    desk.key_file.unlink()
    assert "ESPF_KEY_FILE" in desk.fails(2, "handler", "set", 3, "EventSender", "Concurrency=2")


@whatever_the_database
def test_the_wrong_key_file_is_one_clear_line(desk):
    desk.key_file.unlink()
    Sealer.create(desk.key_file)
    said = desk.fails(2, "handler", "set", 3, "EventSender", "Concurrency=2")
    assert "restore the key file" in said


@whatever_the_database
def test_an_argument_that_is_no_text_is_a_usage_error(desk):
    assert "not valid UTF-8" in desk.fails(2, "type", "create", "Custom/\udcff")


@whatever_the_database
@pytest.mark.parametrize("number", ["0", "-3", "9" * 30, "x"])
def test_a_number_that_no_column_holds_is_a_usage_error(desk, number):
    desk.fails(2, "handler", "list", "--", number)
    desk.fails(2, "event", "show", "--", number)


@whatever_the_database
def test_the_event_types_are_those_of_the_catalogue(desk):
    listed = {row["name"]: row for row in desk.json("type", "list")}
    assert listed.keys() == catalogue().keys()
    for name, entry in catalogue().items():
        assert listed[name] == {**listed[name], **entry.facts()}


# run


@whatever_the_database
def test_run_without_its_port_says_so(desk):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = desk.child("run", ESPF_LISTEN=address)
    assert done.returncode == 2
    assert f"ESPF_LISTEN: cannot listen on {address}" in one_line(done.stderr)


@whatever_the_database
def test_run_without_its_log_says_so(desk):
    done = desk.child("run", ESPF_LOG=str(desk.key_file / "log"))
    assert done.returncode == 2
    assert "ESPF_LOG" in one_line(done.stderr)


# type


def test_custom_types_are_numbered_from_10001(desk):
    assert desk("type", "create", "Custom/NextMonth").startswith("Created event type #10001 ")
    assert desk("type", "create", "Custom/A/b_2") == "Created event type #10002 Custom/A/b_2\n"
    listed = {row["name"]: row["number"] for row in desk.json("type", "list")}
    assert listed["Custom/NextMonth"] == 10001
    assert max(number for name, number in listed.items() if not name.startswith("Custom/")) < 10001


WRONG_NAMES = "NextMonth custom/NextMonth Account/Mine Custom/ Custom Custom/ä Custom//x Custom/x/"


@whatever_the_database
@pytest.mark.parametrize(
    "name", [*WRONG_NAMES.split(), "", "Custom/a b", "Custom/a\nb", f"Custom/{'x' * 200}"]
)
def test_a_name_that_is_no_custom_one_is_refused_with_the_reason(desk, name):
    assert "must start with 'Custom/'" in desk.fails(2, "type", "create", name)
    assert not any(row["number"] >= 10001 for row in desk.json("type", "list"))


def test_a_type_is_created_once(desk):
    desk("type", "create", "Custom/NextMonth")
    desk.fails(4, "type", "create", "Custom/NextMonth")
    assert desk("type", "create", "Custom/Other").startswith("Created event type #10002 ")


def test_a_disabled_type_leaves_the_triggers_and_comes_back(desk):
    def events_of_a_change(blocked):
        before = desk.json("event", "list")
        desk.execute(update(billing.customers).values(blocked=blocked))
        return [row["event_type"] for row in desk.json("event", "list")[: -len(before) or None]]

    assert events_of_a_change("Y") == ["Customer/Blocked"]
    assert desk("type", "disable", "Customer/Unblocked").startswith("Event type Customer/Unblocked")
    assert events_of_a_change("N") == []
    assert "installed as compiled" in desk("capture", "verify")
    assert "Customer/Unblocked" not in desk("capture", "sql")
    desk("type", "enable", "Customer/Unblocked")
    assert events_of_a_change("Y") == ["Customer/Blocked"]
    assert events_of_a_change("N") == ["Customer/Unblocked"]
    desk.fails(3, "type", "disable", "Customer/Nope")


# handler


def test_a_handler_from_its_making_to_its_end(desk):
    said = desk(
        *("handler", "create", 3, "Mine", "--type", "EventSender", "--disabled"),
        *("--set", f"EventSender.URL={URL}", "--set", "EventSender.AuthMethod=None"),
    )
    assert said.startswith("Handler Mine is created, disabled, subscribed to ")
    desk("handler", "set", 3, "Mine", "Concurrency=4", "--set", "RetryJitter=0.5")
    shown = desk.json("handler", "show", 3, "Mine")
    assert (shown["enabled"], shown["options"]["Concurrency"]) == (False, "4")
    assert shown["options"]["RetryJitter"] == "0.5"
    desk("handler", "set", 3, "Mine", "--unset", "Concurrency")
    assert desk.json("handler", "show", 3, "Mine")["options"]["Concurrency"] == "1"
    desk("handler", "enable", 3, "Mine")
    listed = {row["name"]: row["enabled"] for row in desk.json("handler", "list", 3)}
    assert listed == {"EventSender": True, "Mine": True}
    disabled = desk.run("handler", "disable", 3, "Mine")
    assert disabled.stdout == "Handler Mine is disabled\n"
    assert "is not recorded for it" in disabled.stderr
    assert desk("handler", "delete", 3, "Mine").startswith("Handler Mine is deleted")
    assert [row["name"] for row in desk.json("handler", "list")] == ["EventSender"]
    desk.fails(3, "handler", "delete", 3, "Mine")


@whatever_the_database
def test_a_handler_that_is_not_configured_yet_says_what_is_missing(desk):
    made = desk.run("handler", "create", 3, "Later", "--type", "EventSender")
    assert made.exit_code == 0
    assert "EventSender.URL: is mandatory" in made.stderr
    # The choice of types does not wait for the rest.
    desk("type", "create", "Custom/NextMonth")
    desk("handler", "subscribe", 3, "Later", "Custom/NextMonth")


@whatever_the_database
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--set", "EventSender.Url=x"], "did you mean EventSender.URL"),
        (["--set", "Concurrency=0"], "Concurrency"),
        (["--set", "Concurrency"], "expected OPTION=VALUE"),
        (["--set", "EventSender.URL=ftp://x"], "EventSender.URL"),
        (["--set-file", "EventSender.BasicAuth.Key=nowhere"], "cannot read nowhere"),
        (["--set-file", "EventSender.BasicAuth.Key=."], "cannot read ."),
    ],
)
def test_a_wrong_option_is_told_and_no_handler_is_made(desk, words, named):
    said = desk.fails(2, "handler", "create", 3, "New", "--type", "EventSender", *words)
    assert named in said
    assert len(desk.json("handler", "list")) == 1
    said = desk.fails(2, "handler", "set", 3, "EventSender", "RetryJitter=1", *words)
    assert named in said
    assert desk.json("handler", "show", 3, "EventSender")["options"]["RetryJitter"] == "0.2"


@whatever_the_database
def test_what_is_not_there_or_there_already(desk):
    desk.fails(3, "handler", "create", 3, "New", "--type", "Nope")
    desk.fails(4, "handler", "create", 3, "EventSender", "--type", "EventSender")
    desk.fails(3, "handler", "show", 4, "EventSender")
    desk.fails(3, "handler", "subscribe", 3, "EventSender", "Custom/NextMonth")
    desk.fails(4, "handler", "subscribe", 3, "EventSender", "Account/New")
    desk.fails(4, "handler", "unsubscribe", 3, "EventSender", "SIM/Updated")
    desk.fails(2, "handler", "set", 3, "EventSender")
    desk.fails(2, "handler", "set", 3, "EventSender", "--unset", "Nope")
    desk.fails(2, "handler", "create", 3, " padded ", "--type", "EventSender")
    desk("handler", "create", 4, "EventSender", "--type", "EventSender")


@whatever_the_database
def test_a_handler_hears_the_usual_types_of_its_kind_and_no_others_if_so_wished(desk):
    words = ("handler", "create", 3, "HLR", "--type", "OsmoHLR", "--usual")
    said = desk(*words, "--set", "OsmoHLR.Address=127.0.0.1")
    heard = {
        row["event_type"]
        for row in desk.json("handler", "subscriptions", 3, "HLR")
        if row["subscribed"]
    }
    assert f"subscribed to {len(heard)} event types" in said
    assert heard == {name for name in catalogue() if fits_any(name, OsmoHLR.usual)}
    assert {"Account/Blocked", "Account/Status/Suspended"} <= heard
    assert "SIM/Updated" not in heard
    # A type that says nothing of what is usual hears all that it supports.
    all_of_them = desk("handler", "create", 3, "All", "--type", "EventSender").partition("to")[2]
    said = desk("handler", "create", 3, "Usual", "--type", "EventSender", "--usual")
    assert said.partition("to")[2] == all_of_them
    wrong = desk.fails(2, "handler", "set", 3, "HLR", "ServiceGroup=Nope")
    assert "ServiceGroup: there is no service group 'Nope' (known: VoIP," in wrong


@whatever_the_database
def test_a_misspelt_type_is_told_its_right_spelling(desk):
    said = desk.fails(3, "handler", "subscribe", 3, "EventSender", "account/blocked")
    assert "did you mean Account/Blocked?" in said


def test_subscriptions_are_single_choices(desk):
    said = desk("handler", "unsubscribe", 3, "EventSender", "Account/New")
    assert said == "Handler EventSender is unsubscribed from Account/New\n"
    rows = {
        r["event_type"]: r["subscribed"]
        for r in desk.json("handler", "subscriptions", 3, "EventSender")
    }
    assert (rows["Account/New"], rows["Account/Blocked"]) == (False, True)
    assert "Account/New" in desk("handler", "subscriptions", 3, "EventSender")


@whatever_the_database
def test_subscribing_to_what_will_be_skipped_says_so(desk):
    desk("handler", "set", 3, "EventSender", "EventSender.APIVersion=2")
    done = desk.run("handler", "subscribe", 3, "EventSender", "Accessibility/Deleted")
    assert done.stdout == "Handler EventSender is subscribed to Accessibility/Deleted\n"
    assert "Accessibility/Deleted has no version 2 form" in done.stderr
    desk("type", "create", "Custom/NextMonth")
    assert desk.run("handler", "subscribe", 3, "EventSender", "Custom/NextMonth").stderr == ""
    desk("handler", "set", 3, "EventSender", "EventSender.AllowedTypes=Customer/*")
    done = desk.run("handler", "subscribe", 3, "EventSender", "Account/ExpirationDate/Changed")
    assert "AllowedTypes does not name Account/ExpirationDate/Changed" in done.stderr


@whatever_the_database
def test_the_handler_types_and_what_they_support(desk):
    table = desk("handler", "types")
    assert re.search(r"^EventSender +\d+ +Send events to a web app", table, re.MULTILINE)
    assert "Account/New" in desk.json("handler", "types")["ConnectorSender"]
    assert desk("handler", "types", "--markdown").startswith("# Events that handlers support\n")


@whatever_the_database
def test_making_a_handler_that_will_skip_some_of_its_types_says_so(desk):
    url = "EventSender.URL=http://127.0.0.1:1"
    words = ("handler", "create", 3, "Second", "--type", "EventSender", "--set", url)
    done = desk.run(*words, "--set", "EventSender.AuthMethod=None")
    assert "it is subscribed to AccessPolicy/Changed, but its events will be skipped" in done.stderr
    assert "APIVersion 1 sends it, and the like of" in done.stderr
    rows = {r["event_type"]: r["note"] for r in desk.json("handler", "subscriptions", 3, "Second")}
    assert rows["Account/New"] is None
    assert "no version 2 form" in rows["PaymentTransaction/New"]

    def change(option):
        return desk.run("handler", "set", 3, "Second", option).stderr

    assert change("EventSender.APIVersion=1") == ""
    assert "it is subscribed to AccessPolicy/Changed" in change("EventSender.APIVersion=2")
    assert change("Concurrency=2") == "", "it was said before"


@whatever_the_database
def test_secrets_are_never_printed_and_sealed_at_rest(desk):
    secret = "tops3cret-of-the-receiver"
    (desk.folder / "key").write_text(f"{secret}\n")
    desk("handler", "set", 3, "EventSender", "--set-file", "EventSender.BasicAuth.Key=key")
    desk(
        *("handler", "set", 3, "EventSender", "--set-file", "EventSender.CustomAuth.Credentials=-"),
        stdin=f"{secret}\n",
    )
    table = desk("handler", "show", 3, "EventSender")
    assert secret not in table
    assert "••••••••" in table
    assert secret not in json.dumps(desk.json("handler", "show", 3, "EventSender"))
    ((stored,),) = desk.execute(select(tables.event_handlers.c.settings))
    assert secret not in stored
    sealed = json.loads(stored)["EventSender.BasicAuth.Key"]["sealed"]
    assert desk.sealer().unseal(sealed) == secret
    # What is not changed stays as it was.
    desk("handler", "set", 3, "EventSender", "Concurrency=2")
    ((stored,),) = desk.execute(select(tables.event_handlers.c.settings))
    sealed = json.loads(stored)["EventSender.CustomAuth.Credentials"]["sealed"]
    assert desk.sealer().unseal(sealed) == secret


@whatever_the_database
@pytest.mark.parametrize("settings", ["{damaged", "[]", "null", '{"EventSender.URL": 5}'])
def test_damaged_settings_of_a_handler_are_one_clear_line(desk, settings):
    desk("handler", "create", 3, "Other", "--type", "EventSender")
    sender = tables.event_handlers.c.name == "EventSender"
    desk.execute(update(tables.event_handlers).where(sender).values(settings=settings))
    said = desk.fails(2, "handler", "set", 3, "EventSender", "Concurrency=2")
    assert "EventSender" in said
    # One that is damaged is no obstacle for the others, and can be replaced.
    assert len(desk.json("handler", "list")) == 2
    desk("handler", "set", 3, "Other", "Concurrency=2")
    desk("handler", "delete", 3, "EventSender")


def test_a_handler_with_work_is_deleted_only_by_force(desk):
    desk.execute(BLOCK)
    assert "1 notifications waiting" in desk.fails(4, "handler", "delete", 3, "EventSender")
    said = desk("handler", "delete", 3, "EventSender", "--force")
    assert said == "Handler EventSender is deleted; 1 notifications cancelled\n"
    assert [row["status"] for row in desk.json("event", "list")] == ["cancelled"]


# event


def test_an_event_from_its_making_to_its_cancelling(desk):
    desk("type", "create", "Custom/NextMonth")
    desk("handler", "subscribe", 3, "EventSender", "Custom/NextMonth")
    said = desk(
        *("event", "create", 3, "Custom/NextMonth", "--var", "i_customer=1", "--var", "note=a=b"),
        *("--var", "ok=true", "--var", "x=NaN", "--start-time", "2037-03-01T02:00:00+02:00"),
    )
    assert said == "Created event 1\n"
    (row,) = desk.json("event", "list", "--status", "scheduled")
    assert (row["i_event"], row["start_time"]) == (1, "2037-03-01 00:00:00")
    shown = desk.json("event", "show", 1)
    variables = {"i_customer": 1, "note": "a=b", "ok": True, "x": "NaN"}
    assert json.loads(shown["variables"]) == variables
    assert shown["key"] == "customer:1"
    assert desk("event", "cancel", 1) == "Event 1 is cancelled\n"
    assert [row["status"] for row in desk.json("event", "list")] == ["cancelled"]
    desk.fails(4, "event", "cancel", 1)
    desk.fails(3, "event", "cancel", 2)


def test_a_failed_event_is_shown_and_restarted(desk):
    desk.execute(BLOCK)
    failed = {"status": "failed", "attempts": 9, "last_error": "503"}
    desk.execute(update(notifications).values(**failed))
    (row,) = desk.json("event", "list", "--status", "failed", "--handler", "EventSender")
    assert (row["attempts"], row["reason"]) == (9, "503")
    table = desk("event", "show", 1)
    assert "Customer/Blocked" in table
    assert "failed" in table
    assert desk("event", "restart", 1) == "Event 1 is restarted for EventSender\n"
    query = select(notifications.c.status, notifications.c.attempts)
    assert desk.execute(query) == [("queued", 0)]
    desk.fails(3, "event", "restart", 99)
    desk.fails(3, "event", "restart", 1, "--handler", "Nobody")
    desk.fails(3, "event", "show", 99)


@whatever_the_database
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--var", "i_account"], "expected NAME=VALUE"),
        (["--var", "i_account=541"], "there is no i_account 541"),
        (["--var", "i_account=abc"], "i_account"),
        (["--var", "i_event=5"], "i_event"),
        (["--var", "i_env=4"], "i_env"),
        (["--var", "x=1e999"], "not finite"),
        (["--var", f"x={'9' * 5000}"], None),
        (["--var", f"x={'[' * 100_000}"], "at most"),
        (["--start-time", "tomorrow"], "start_time"),
        (["--start-time", "9999-12-31T23:59:59-05:00"], "start_time"),
        (["--start-time", "0001-01-01 00:00:00"], "start_time"),
    ],
)
def test_an_event_that_cannot_be_is_refused(desk, words, named):
    desk("type", "create", "Custom/NextMonth")
    if named is None:
        desk("event", "create", 3, "Custom/NextMonth", *words)
        ((stored,),) = desk.execute(select(tables.provisioning_log.c.variables))
        assert json.loads(stored) == {"x": "9" * 5000}
        return
    assert named in desk.fails(2, "event", "create", 3, "Custom/NextMonth", *words)
    assert desk.json("event", "list") == []


@whatever_the_database
def test_an_event_of_a_type_or_a_place_that_is_not_there_is_refused(desk):
    desk.fails(3, "event", "create", 3, "Custom/Nope")
    assert "no environment 9" in desk.fails(2, "event", "create", 9, "Account/New")
    desk.fails(2, "event", "list", "--status", "nonsense")


def test_events_are_filtered(desk):
    for name in ("Custom/A", "Custom/B"):
        desk("type", "create", name)
        desk("event", "create", 3, name)
    assert [row["event_type"] for row in desk.json("event", "list")] == ["Custom/B", "Custom/A"]
    assert len(desk.json("event", "list", "--type", "Custom/A")) == 1
    assert len(desk.json("event", "list", "--limit", 1)) == 1
    assert desk.json("event", "list", "--env", 4) == []
    assert desk.json("event", "list", "--account", 5) == []
    assert "no subscriber" in desk("event", "list")


@whatever_the_database
def test_what_a_server_said_cannot_break_the_table(desk):
    desk.execute(BLOCK)
    desk.execute(update(notifications).values(last_error="\x1b[2J\nEvil"))
    said = desk("event", "list")
    assert "\x1b" not in said
    assert len(said.splitlines()) == 2


# capture


# MariaDB replaces one in the same statement, so that a table is never without.
CREATES = re.compile(r"CREATE (OR REPLACE )?(DEFINER = \S+ )?TRIGGER")


def test_capture_from_plan_to_verify(desk):
    removed = desk("capture", "remove")
    assert removed == f"{TRIGGERS} triggers dropped\n"
    assert desk("capture", "plan").count("create  ") == TRIGGERS
    verify = desk.run("capture", "verify")
    assert (verify.exit_code, verify.stdout.count("is missing")) == (1, TRIGGERS)
    assert desk("capture", "apply").count("create ") == TRIGGERS
    assert desk("capture", "verify") == f"{TRIGGERS} triggers are installed as compiled\n"
    assert desk("capture", "plan").count("keep  ") == TRIGGERS
    assert len(CREATES.findall(desk("capture", "sql"))) == TRIGGERS


def test_capture_plan_shows_the_statements_and_what_they_cost(desk):
    desk("capture", "remove")
    planned = json.loads(desk("capture", "plan", "--measure", "--json"))
    assert all(CREATES.search(each["ddl"]) for each in planned["triggers"])
    costs = {(each["table"], each["operation"]): each for each in planned["costs"]}
    measured = [each for each in costs.values() if each["reason"] is None]
    assert costs
    assert all(each["captured_us"] > 0 for each in measured)
    assert "CAPTURED_US" in desk("capture", "plan", "--measure")
    assert desk("capture", "remove") == "0 triggers dropped\n"
    assert "cc_card" in desk.run("capture", "plan", "--rules", "a2billing").stderr


ELSEWHERE = """
[[rule]]
event = "Account/New"
table = "Nowhere"
on = "insert"
variables = ["i_account"]
"""


def test_rules_of_ones_own(desk):
    rules = desk.folder / "my.toml"
    rules.write_text(ELSEWHERE)
    plan = desk.run("capture", "plan", "--rules", rules)
    assert (plan.exit_code, plan.stderr.startswith("problem: ")) == (2, True)
    rules.write_text(ELSEWHERE.replace('"insert"', '"sometimes"'))
    assert "my.toml: rule 1" in desk.fails(2, "capture", "plan", ESPF_RULES=str(rules))
    desk.fails(2, "capture", "plan", "--rules", "nowhere.toml")


def test_rules_that_do_not_apply_change_nothing(desk):
    rules = desk.folder / "my.toml"
    rules.write_text(ELSEWHERE)
    desk.fails(2, "capture", "apply", "--rules", rules)
    assert desk("capture", "verify") == f"{TRIGGERS} triggers are installed as compiled\n"


# user


def test_an_administrator_from_making_to_a_new_password(desk):
    said = desk("user", "create", "jane", "--env", 3, stdin="a good password\nmore\n")
    assert said == "User jane is created in environment 3\n"
    desk(
        "user", "create", "boss", "--env", 4, "--superuser", "--right", "sim.keys", stdin="12345678"
    )
    listed = {row["login"]: row for row in desk.json("user", "list")}
    assert listed["jane"] | {"i_user": 0} == {
        "i_user": 0,
        "login": "jane",
        "i_env": 3,
        "superuser": False,
        "role": "administrator",
        "rights": "",
        "enabled": True,
    }
    assert (listed["boss"]["superuser"], listed["boss"]["rights"]) == (True, "sim.keys")
    assert desk("user", "password", "jane", stdin="a new password\n").startswith("The password of")
    database = desk.database()
    assert Users(database, desk.sealer()).by_password("jane", "a new password").i_env == 3
    with pytest.raises(Denied):
        Users(database, desk.sealer()).by_password("jane", "a good password")
    database.close()


@whatever_the_database
@pytest.mark.parametrize(
    ("login", "stdin"),
    [
        ("jane", ""),
        ("jane", "short\n"),
        ("jane", b"\xff\xff\xff\xff\xff\xff\xff\xff\n"),
        ("jane", "tab\ttab\ttab\n"),
        ("with space", "a good password"),
        ("with:colon", "a good password"),
        ("", "a good password"),
    ],
)
def test_a_login_or_a_password_that_cannot_be_is_refused(desk, login, stdin):
    desk.fails(2, "user", "create", login, "--env", 3, stdin=stdin)
    assert len(desk.json("user", "list")) == 2


def test_users_that_are_there_or_not(desk):
    desk.fails(4, "user", "create", "admin", "--env", 3, stdin="a good password")
    desk.fails(3, "user", "password", "nobody", stdin="a good password")
    desk.fails(2, "user", "create", "x", "--env", 3, "--right", "root", stdin="a good password")


# config


def test_a_configuration_from_its_draft_to_the_way_back(desk):
    (first,) = desk.json("config", "list")
    assert (first["i_configuration"], first["status"]) == (1, "active")
    draft = desk.json("config", "clone", "--comment", "retries")
    assert (draft["i_configuration"], draft["status"], draft["cloned_from"]) == (2, "draft", 1)
    (desk.folder / "token").write_text("tops3cret\n")
    said = desk(
        *("config", "set", 2, "Provisioning.RetryDelays=1s 2s", "Provisioning.LongTail="),
        *("--set-file", f"Provisioning.AlertToken={desk.folder / 'token'}"),
        *("--create-instance", "hss", "ESPF.hss.handlers=EventSender@3"),
    )
    assert said == "Configuration 2 is changed\n"
    changed = {one["field"]: (one["old"], one["new"]) for one in desk.json("config", "diff", 2)}
    assert changed["Provisioning.LongTail"] == ("4h 8h 16h 24hx28", "")
    assert changed["Provisioning.AlertToken"] == ("", "••••••••")
    assert changed["ESPF.hss.enabled"] == (None, "on")
    verified = desk("config", "verify", 2)
    assert "Provisioning.RetryDelays" in verified
    assert verified.endswith("Configuration 2 can be applied over 1\n")
    assert desk.json("config", "verify", 2)["active"] == 1
    applied = desk.run("config", "apply", 2)
    assert applied.stdout == "Configuration 2 is active\n"
    assert "Note: Provisioning.AlertRecipient: " in applied.stderr
    shown = desk.json("config", "show")
    assert shown["settings"]["Provisioning.RetryDelays"] == "1s 2s"
    assert shown["applied_by"].endswith("(evctl)")
    assert "tops3cret" not in desk("config", "show") + str(desk.json("config", "show", 2))
    handler = desk.json("handler", "show", 3, "EventSender")["options"]
    assert (handler["RetryDelays"], handler["MaxAttempts"]) == ("1s 2s", "")
    assert desk.json("config", "rollback", 1)["cloned_from"] == 1
    assert desk.json("config", "show")["i_configuration"] == 3
    assert desk.json("config", "diff", 1, 3) == []
    states = {one["i_configuration"]: one["status"] for one in desk.json("config", "list")}
    assert states == {1: "archived", 2: "archived", 3: "active"}


def test_a_draft_that_is_wrong_or_late_is_not_applied(desk):
    for _ in range(3):
        desk("config", "clone")
    desk("config", "set", 2, "--create-instance", "a", "ESPF.a.handlers=Nobody@3")
    verdict = desk.run("config", "verify", 2)
    assert (verdict.exit_code, "no handler Nobody@3" in verdict.stdout) == (1, True)
    assert "Nobody@3" in desk.fails(2, "config", "apply", 2)
    desk("config", "set", 2, "--delete-instance", "a")
    desk("config", "apply", 2)
    assert "configuration 2 is active now, not 1" in desk.fails(4, "config", "apply", 3)
    assert desk("config", "apply", 3, "--over", 2) == "Configuration 3 is active\n"
    assert desk("config", "delete", 4) == "Configuration 4 is deleted\n"
    desk("maintenance", "on")
    assert desk.json("config", "show")["comment"] == "maintenance on"
    assert desk.json("config", "show")["settings"]["Provisioning.Maintenance"] is True


@whatever_the_database
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, "set 2"),
        (2, "set 2 Provisioning.MaxAttempts=0"),
        (2, "set 2 Provisioning.Nothing=1"),
        (2, "set 2 --unset Provisioning.Nothing"),
        (2, "set 2 ESPF.hss.port=1"),
        (2, "set 2 --create-instance a.b"),
        (3, "set 2 --delete-instance a"),
        (3, "set 9 Provisioning.MaxAttempts=3"),
        (3, "show 9"),
        (3, "diff 2 9"),
        (3, "clone 9"),
        (2, "show 2147483648"),
        (4, "set 1 Provisioning.MaxAttempts=3"),
        (4, "delete 1"),
        (4, "rollback 2"),
        (4, "apply 1"),
    ],
)
def test_what_cannot_be_done_to_a_configuration_is_told(desk, code, words):
    desk("config", "clone")
    before = desk.json("config", "show", 2)
    desk.fails(code, "config", *words.split())
    assert desk.json("config", "show", 2) == before


@whatever_the_database
@pytest.mark.parametrize("command", ["run", "worker"])
def test_an_instance_that_there_is_not_is_an_error_at_the_start(desk, command):
    ended = desk.child(command, "--instance", "hss")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "there is no instance 'hss'" in ended.stderr


# Lists


@whatever_the_database
@pytest.mark.parametrize(
    "words",
    [
        w
        for w, c in COMMANDS.items()
        if any(p.name == "as_json" for p in c.params)
        # Most of them are about a draft.
        if w[0] != "config"
        # What is tried out, or compared, needs somebody who takes it.
        if w[-1] not in {"test", "reconcile"}
    ],
    ids=" ".join,
)
def test_every_list_is_also_json(desk, words):
    desk.execute(BLOCK)
    arguments = {"handler": ["3", "EventSender"], "event": ["1"]}
    given = arguments[words[0]] if words[-1] in {"show", "subscriptions"} else []
    if words == ("event", "timeline"):
        given = ["3", "account:1"]
    # There is no worker, nothing is planned or held, and nothing is wrong.
    empty = {("worker", "list"), ("event", "planned"), ("event", "held"), ("alert", "list")}
    assert desk.json(*words, *given) or words in empty
    assert desk(*words, *given)


def test_lists_take_json():
    listing = {words for words in COMMANDS if words and words[-1] in {"list", "show"}}
    with_json = {w for w, c in COMMANDS.items() if any(p.name == "as_json" for p in c.params)}
    assert listing <= with_json


def test_the_queue_is_as_it_was_after_a_refusal(desk):
    """A guard for the helper above: what `event list` shows is what the queue holds."""
    database = desk.database()
    with database.read() as connection:
        assert overview.search(connection, Filter(), 10) == []
    database.close()
    assert desk.json("event", "list") == []


def test_the_billing_clock_can_be_told_to_tick(desk):
    account = {"i_env": 3, "i_customer": 1, "i_product": 1, "id": "a", "billing_model": 1}
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    dates = {"bill_status": "I", "activation_date": begun.date(), "issue_date": begun}
    desk.execute(insert(billing.accounts).values(**account, **dates))
    rest = "0 add-on products begun, 0 ended; 0 quotas ended\n"
    assert desk("billing", "tick") == f"1 accounts activated, 0 expired; {rest}"
    assert desk("billing", "tick") == f"0 accounts activated, 0 expired; {rest}"
    assert desk.execute(select(billing.accounts.c.bill_status)) == [("O",)]


def test_keys_are_listed_and_rotated(desk):
    (first,) = desk.json("key", "list")
    assert first["public_key"].startswith("-----BEGIN PUBLIC KEY-----")
    assert "private" not in str(first).lower()
    said = desk("key", "rotate")
    second, old = desk.json("key", "list")
    assert second["kid"] in said
    assert (old["kid"], second["retired_at"]) == (first["kid"], None)
    assert old["retired_at"] is not None
    desk("key", "rotate", "--end-tokens")
    (only,) = desk.json("key", "list")
    assert only["kid"] not in {old["kid"], second["kid"]}


def test_an_event_is_planned_in_a_zone_under_a_key(desk):
    create = ("event", "create", 3, "Account/Blocked", "--key", "a")
    desk(*create, "--start-time", "2037-03-01 00:00:00", "--time-zone", "Europe/Prague")
    (one,) = desk.json("event", "planned", "--env", 3)
    assert (one["start_time"], one["key"]) == ("2037-02-28 23:00:00", "a")
    result = desk.run(*create, "--start-time", "2037-04-01 00:00:00")
    assert result.stderr == "Event 1 is cancelled\n"
    assert [one["i_event"] for one in desk.json("event", "planned")] == [2]
    assert "no event is scheduled" in desk.fails(3, "event", "cancel", "--env", 4, "--key", "a")
    assert desk("event", "cancel", "--env", 3, "--key", "a") == "Event 2 is cancelled\n"
    assert "no zone" in desk.fails(
        2, *create, "--start-time", "2037-03-01 00:00:00", "--time-zone", "Mars"
    )
    for words in ((), ("5", "--key", "a", "--env", 3), ("--key", "a"), ("--env", 3)):
        desk.fails(2, "event", "cancel", *words)


@whatever_the_database
def test_a_handler_is_tried_out(desk):
    def tried(*words, code):
        result = desk.run("handler", "test", 3, "EventSender", *words)
        assert result.exit_code == code, result.output
        return result.stdout

    got = []

    class Application(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    desk("handler", "set", 3, "EventSender", f"EventSender.URL={URL}")
    assert f"no connection to {URL}" in tried(code=1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Application) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        desk("handler", "set", 3, "EventSender", f"EventSender.URL={url}")
        said = json.loads(
            tried("--json", "--type", "Customer/Blocked", "--var", "i_customer=1", code=0)
        )
        assert said["reached"] is True
        assert said["sent"]["verdict"] == "finished"
        assert "verdict" not in tried("--check", code=0)
        text = tried("--var", "x=[1]", "--type", "Custom/Any", code=0)
        server.shutdown()
    assert re.search(r"^verdict +finished$", text, re.MULTILINE)
    assert f"    > POST {url}" in text
    assert "    < HTTP 200 OK" in text
    first, second = (each["variables"] for each in got)
    assert (first["i_env"], first["i_customer"], first["i_event"]) == (3, 1, 0)
    assert second == {"x": [1], "i_event": 0}
    assert "no handler" in desk.fails(3, "handler", "test", 3, "Nobody")
    wrong = ("handler", "test", 3, "EventSender")
    assert "Account/Nope" in desk.fails(3, *wrong, "--type", "Account/Nope")
    assert "i_account" in desk.fails(2, *wrong, "--var", "i_account=77")
