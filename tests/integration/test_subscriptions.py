"""Who hears what: what a new handler hears, and choices that outlive every switch."""

import json

import pytest
from sqlalchemy import delete, insert

from databases import whatever_the_database
from espf import depth, overview, sources, subscriptions
from espf.catalogue import catalogue, is_custom
from espf.crypto import Sealer
from espf.db.tables import event_handlers, event_subscriptions, event_types
from espf.errors import Conflict, InvalidRequest, NotFound, SettingsError
from espf.handlers import registry
from espf.handlers.base import Handler
from espf.queue import Queue

OPTIONS = {"EventSender.URL": "http://127.0.0.1:9", "EventSender.AuthMethod": "None"}


class Greeting(Handler):
    """Says hello to new accounts."""

    supports = ("Account/New", "Customer/*")

    async def handle(self, event, context):
        """Do nothing."""


@pytest.fixture
def greeting(monkeypatch):
    """A handler type of somebody else, with a narrow interest."""
    known = {**registry.handler_types(), "Greeting": Greeting}
    monkeypatch.setattr(registry, "_registered", lambda: (known, {}))


@pytest.fixture
def connection(database):
    with database.begin() as opened:
        yield opened


def sender(connection, sealer, name="Sender", i_env=3, **kwargs):
    return subscriptions.create_handler(
        connection, sealer, i_env, name, "EventSender", OPTIONS, **kwargs
    )


def heard(connection, database, handler, event_type="Account/Blocked"):
    """Whether an event of this type becomes work for the handler."""
    before = depth.counts(connection, handler.i_event_handler)["waiting"]
    Queue(database).create_event(connection, handler.i_env, event_type, {})
    return depth.counts(connection, handler.i_event_handler)["waiting"] > before


def again(connection, handler):
    return subscriptions.require_handler(connection, handler.i_env, handler.name)


def test_a_new_handler_hears_the_whole_catalogue_and_no_custom_type(connection, sealer):
    subscriptions.create_type(connection, "Custom/NextMonth")
    handler = sender(connection, sealer)
    heard_of = [name for name in sorted(catalogue()) if not is_custom(name)]
    assert subscriptions.subscriptions(connection, handler) == heard_of
    assert "Custom/NextMonth" in subscriptions.supported_types(connection, handler)


def test_a_new_custom_type_is_heard_by_nobody_until_somebody_subscribes(
    connection, database, sealer
):
    handler = sender(connection, sealer)
    subscriptions.create_type(connection, "Custom/NextMonth")
    assert not heard(connection, database, handler, "Custom/NextMonth")
    subscriptions.subscribe(connection, handler, "Custom/NextMonth")
    assert heard(connection, database, handler, "Custom/NextMonth")


def test_a_handler_hears_only_what_its_type_supports(connection, sealer, greeting):
    handler = subscriptions.create_handler(connection, sealer, 3, "Hello", "Greeting", {})
    names = subscriptions.subscriptions(connection, handler)
    assert "Account/New" in names
    assert all(name == "Account/New" or name.startswith("Customer/") for name in names)
    assert len(names) > 5
    with pytest.raises(InvalidRequest, match="do not support Account/Blocked"):
        subscriptions.subscribe(connection, handler, "Account/Blocked")


def test_environments_do_not_hear_each_other(connection, database, sealer):
    mine, other = sender(connection, sealer), sender(connection, sealer, i_env=4)
    assert heard(connection, database, mine)
    assert depth.counts(connection, other.i_event_handler)["waiting"] == 0


def test_disabling_takes_nothing_new_and_keeps_work_and_choice(connection, database, sealer):
    handler = sender(connection, sealer)
    subscriptions.unsubscribe(connection, handler, "Account/New")
    assert heard(connection, database, handler)
    choice = subscriptions.subscriptions(connection, handler)
    subscriptions.set_handler_enabled(connection, handler, enabled=False)
    assert not heard(connection, database, handler)
    assert subscriptions.subscriptions(connection, handler) == choice
    assert depth.counts(connection, handler.i_event_handler)["waiting"] == 1
    subscriptions.set_handler_enabled(connection, handler, enabled=True)
    assert heard(connection, database, handler)
    assert not heard(connection, database, handler, "Account/New")
    assert subscriptions.subscriptions(connection, handler) == choice


def test_a_handler_that_is_made_disabled_hears_nothing_until_it_is_enabled(
    connection, database, sealer
):
    handler = sender(connection, sealer, enabled=False)
    assert not heard(connection, database, handler)
    # A choice that is made meanwhile counts from then on, too.
    subscriptions.create_type(connection, "Custom/NextMonth")
    subscriptions.subscribe(connection, handler, "Custom/NextMonth")
    assert not heard(connection, database, handler, "Custom/NextMonth")
    subscriptions.set_handler_enabled(connection, handler, enabled=True)
    assert heard(connection, database, handler)
    assert heard(connection, database, handler, "Custom/NextMonth")


def test_a_type_that_an_upgrade_adds_is_heard_by_those_who_hear_everything(
    connection, database, sealer, greeting
):
    everything, choosy = sender(connection, sealer, "All"), sender(connection, sealer, "Some")
    narrow = subscriptions.create_handler(connection, sealer, 3, "Hello", "Greeting", {})
    subscriptions.unsubscribe(connection, choosy, "Account/New")
    # As if the catalogue had not had it before.
    for table, column in (
        (event_types, event_types.c.name),
        (event_subscriptions, event_subscriptions.c.event_type),
    ):
        connection.execute(delete(table).where(column.in_(["Account/Blocked", "Customer/New"])))
    subscriptions.add_catalogue(connection)
    assert heard(connection, database, everything)
    assert not heard(connection, database, choosy)
    assert not heard(connection, database, narrow)
    known = {row.name for row in subscriptions.list_types(connection)}
    assert "Account/Blocked" in known


def test_an_upgrade_changes_no_choice(connection, sealer):
    handler = sender(connection, sealer)
    subscriptions.unsubscribe(connection, handler, "Account/New")
    subscriptions.set_type_enabled(connection, "Account/Blocked", enabled=False)
    before = subscriptions.subscriptions(connection, handler)
    types = subscriptions.list_types(connection)
    subscriptions.add_catalogue(connection)
    assert subscriptions.subscriptions(connection, handler) == before
    assert subscriptions.list_types(connection) == types


def test_choices_are_made_once(connection, sealer):
    handler = sender(connection, sealer)
    with pytest.raises(Conflict):
        subscriptions.subscribe(connection, handler, "Account/New")
    subscriptions.unsubscribe(connection, handler, "Account/New")
    with pytest.raises(Conflict):
        subscriptions.unsubscribe(connection, handler, "Account/New")
    with pytest.raises(NotFound):
        subscriptions.subscribe(connection, handler, "Account/Nope")


def test_options_change_all_or_none_and_are_counted(connection, sealer):
    handler = sender(connection, sealer)
    with pytest.raises(InvalidRequest):
        subscriptions.set_options(connection, sealer, handler, {"Concurrency": 2, "RetryJitter": 9})
    assert again(connection, handler) == handler
    subscriptions.set_options(connection, sealer, handler, {"Concurrency": 2, "RetryJitter": 0.5})
    changed = again(connection, handler)
    assert (changed.options["Concurrency"], changed.version) == (2, handler.version + 1)
    subscriptions.set_options(connection, sealer, changed, {"Concurrency": None})
    assert again(connection, handler).shown()["Concurrency"] == "1"
    with pytest.raises(InvalidRequest, match="there is no option Nope"):
        subscriptions.set_options(connection, sealer, changed, {"Nope": None})


@whatever_the_database
def test_an_option_that_the_type_no_longer_has_can_be_taken_away(connection, sealer):
    handler = sender(connection, sealer)
    stored = json.dumps({**OPTIONS, "EventSender.Old": "1"})
    connection.execute(event_handlers.update().values(settings=stored))
    old = again(connection, handler)
    with pytest.raises(InvalidRequest, match=r"there is no option EventSender\.Old"):
        old.build(sealer)
    subscriptions.set_options(connection, sealer, old, {"EventSender.Old": None})
    again(connection, handler).build(sealer)


def test_secrets_are_sealed_shown_as_dots_and_opened_for_the_handler(connection, sealer, tmp_path):
    options = {**OPTIONS, "EventSender.BasicAuth.Key": "tops3cret"}
    handler = subscriptions.create_handler(connection, sealer, 3, "S", "EventSender", options)
    assert "tops3cret" not in handler.stored
    assert "tops3cret" not in repr(handler)
    assert handler.shown()["EventSender.BasicAuth.Key"] == "••••••••"
    assert handler.build(sealer).settings.basic_auth_key.get_secret_value() == "tops3cret"
    with pytest.raises(SettingsError, match="restore the key file"):
        handler.build(Sealer.create(tmp_path / "other.key"))


BADLY_SEALED = '{"EventSender.BasicAuth.Key": {"sealed": 5}}'


@whatever_the_database
@pytest.mark.parametrize("stored", ["", "{", "[]", "null", '"x"', BADLY_SEALED])
def test_one_damaged_handler_is_no_obstacle_for_the_others(connection, sealer, stored):
    handler, other = sender(connection, sealer), sender(connection, sealer, "Other")
    connection.execute(
        event_handlers.update().where(event_handlers.c.name == "Sender").values(settings=stored)
    )
    damaged = again(connection, handler)
    with pytest.raises(SettingsError):
        damaged.build(sealer)
    assert [one.name for one in subscriptions.list_handlers(connection)] == ["Other", "Sender"]
    again(connection, other).build(sealer)


@whatever_the_database
@pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "x" * 65, "\udcff"])
def test_a_name_that_will_not_do_is_refused(connection, sealer, name):
    with pytest.raises(InvalidRequest) as refused:
        sender(connection, sealer, name)
    assert refused.value.field == "name"


def test_names_are_unique_in_their_environment(connection, sealer):
    sender(connection, sealer)
    sender(connection, sealer, i_env=4)
    with pytest.raises(Conflict):
        sender(connection, sealer)
    with pytest.raises(NotFound, match="known: Sender"):
        subscriptions.require_handler(connection, 3, "sender")


def test_custom_types_count_up_and_their_numbers_are_apart(connection):
    assert subscriptions.create_type(connection, "Custom/A") == 10_001
    assert subscriptions.create_type(connection, "Custom/B") == 10_002
    # New types of the catalogue do not run into them.
    connection.execute(delete(event_types).where(event_types.c.name == "Account/New"))
    subscriptions.add_catalogue(connection)
    numbers = {row.name: row.i_event_type for row in subscriptions.list_types(connection)}
    assert numbers["Account/New"] < 10_001
    assert len(set(numbers.values())) == len(numbers)


# --- Types with several names ---


OLD, NEW = "Account/Status/Suspend", "Account/Status/Suspended"


def test_every_name_of_a_type_is_the_same_subscription(connection, database, sealer):
    handler = sender(connection, sealer)
    subscriptions.unsubscribe(connection, handler, OLD)
    assert NEW not in subscriptions.subscriptions(connection, handler)
    assert not heard(connection, database, handler, OLD)
    subscriptions.subscribe(connection, handler, OLD)
    assert heard(connection, database, handler, NEW)
    assert heard(connection, database, handler, OLD)
    with pytest.raises(Conflict, match="is subscribed to Account/Status/Suspend already"):
        subscriptions.subscribe(connection, again(connection, handler), OLD)
    found = overview.search(connection, sources.Filter(event_type=OLD), 10)
    assert [one.event_type for one in found] == [NEW, NEW, NEW]


def test_a_handler_is_built_with_the_names_that_it_was_subscribed_by(connection, sealer):
    handler = sender(connection, sealer)
    subscriptions.subscribe(connection, handler, OLD)
    changed = again(connection, handler)
    assert changed.version > handler.version
    assert changed.build(sealer).spellings == {NEW: OLD}
    subscriptions.subscribe(connection, changed, NEW)
    assert again(connection, handler).build(sealer).spellings == {}


def test_a_type_is_switched_off_by_any_of_its_names(connection):
    subscriptions.set_type_enabled(connection, "Account/Id/Changed", enabled=False)
    (row,) = [row for row in subscriptions.list_types(connection) if not row.enabled]
    assert row.name == "Account/ID/Changed"


def test_a_misspelt_name_is_refused_with_the_near_one(connection):
    with pytest.raises(NotFound, match="did you mean Account/Status/Suspend"):
        subscriptions.require_type(connection, "account/status/suspend")


def test_what_was_two_types_before_becomes_one_and_nobody_loses_events(
    connection, database, sealer
):
    both, old, neither = (sender(connection, sealer, name) for name in ("B", "O", "N"))
    for handler in (old, neither):
        subscriptions.unsubscribe(connection, handler, NEW)
    # As databases of the first release have it.
    connection.execute(insert(event_types).values(i_event_type=9000, name=OLD))
    for handler in (both, old):
        row = {"i_env": 3, "event_type": OLD, "i_event_handler": handler.i_event_handler}
        connection.execute(insert(event_subscriptions).values(**row, active=1))
    subscriptions.add_catalogue(connection)
    assert [heard(connection, database, handler, NEW) for handler in (both, old, neither)] == [
        True,
        True,
        False,
    ]
    assert again(connection, old).spellings == {NEW: OLD}
    assert again(connection, both).spellings == {}
    assert OLD not in {row.name for row in subscriptions.list_types(connection)}
