"""The versions of the configuration: drafts, what verifying finds, who applies first, effects."""

import socket
import stat
import threading

import pytest
from sqlalchemy import update

from databases import whatever_the_database
from espf import configuration, subscriptions
from espf.configuration import Status
from espf.db.database import Database
from espf.db.tables import configurations
from espf.errors import Conflict, EspfError, InvalidRequest, NotFound, SettingsError
from espf.model import SHARDS
from house import House
from webhook import Answer, Webhook


class Desk:
    """What administrators may do to the configuration, each in a transaction of its own."""

    def __init__(self, database, sealer):
        self.database = database
        self.sealer = sealer

    def active(self):
        with self.database.read() as connection:
            return configuration.active(connection)

    def find(self, number):
        with self.database.read() as connection:
            return configuration.find(connection, number)

    def statuses(self):
        with self.database.read() as connection:
            found = configuration.list_versions(connection)
        return {one.i_configuration: str(one.status) for one in found}

    def clone(self, number=None, who="ann", comment=""):
        with self.database.begin() as connection:
            made = configuration.clone(connection, self.database, who, number, comment)
        return made.i_configuration

    def set(self, number, changes, who="ann"):
        with self.database.begin() as connection:
            return configuration.change(
                connection, self.database, self.sealer, number, changes, who
            )

    def instance(self, number, name, **values):
        with self.database.begin() as connection:
            return configuration.create_instance(
                connection, self.database, self.sealer, number, name, values, "ann"
            )

    def verify(self, number):
        with self.database.read() as connection:
            return configuration.verify(connection, number)

    def findings(self, number):
        return {(one.severity, one.field) for one in self.verify(number).findings}

    def apply(self, number, who="ann", over=None):
        with self.database.begin() as connection:
            return configuration.apply(connection, self.database, number, who, over)

    def roll_back(self, number, who="ann"):
        with self.database.begin() as connection:
            return configuration.roll_back(connection, self.database, number, who)

    def delete(self, number):
        with self.database.begin() as connection:
            configuration.delete(connection, number)

    def put(self, **changes):
        """Apply a draft with these fields of Provisioning."""
        number = self.clone()
        self.set(number, {f"Provisioning.{name}": value for name, value in changes.items()})
        return self.apply(number)


@pytest.fixture
def desk(database, sealer):
    return Desk(database, sealer)


@pytest.fixture
def house(database, sealer, tmp_path):
    return House(database, sealer, tmp_path)


# Versions


def test_there_is_a_configuration_from_the_beginning_and_it_holds_the_defaults(desk):
    first = desk.active()
    assert desk.statuses() == {1: "active"}
    assert first.content == configuration.Configuration()
    assert (first.created_by, first.applied_by) == ("evctl init", "evctl init")


def test_a_draft_becomes_active_and_what_was_is_archived_with_who_did_it_and_when(desk):
    number = desk.clone(who="ann", comment="for the night")
    desk.set(number, {"Provisioning.KeepJournalDays": "30"}, who="bob")
    assert desk.active().i_configuration == 1
    applied = desk.apply(number, who="cy")
    assert desk.statuses() == {1: "archived", 2: "active"}
    assert desk.active() == applied
    assert applied.content.provisioning.keep_journal_days == 30
    assert (applied.created_by, applied.changed_by, applied.applied_by) == ("ann", "bob", "cy")
    assert applied.created_at <= applied.changed_at <= applied.applied_at
    assert (applied.cloned_from, applied.base, applied.comment) == (1, 1, "for the night")
    assert desk.find(1).archived_at == applied.applied_at


@whatever_the_database
def test_what_was_applied_is_not_changed_deleted_or_applied_again(desk):
    desk.put(KeepJournalDays=30)
    for number, status in ((1, "archived"), (2, "active")):
        for act in (
            desk.delete,
            desk.apply,
            lambda n: desk.set(n, {}),
            lambda n: desk.instance(n, "a"),
        ):
            with pytest.raises(Conflict, match=f"configuration {number} is {status}"):
                act(number)
    with pytest.raises(NotFound):
        desk.apply(9)
    assert desk.statuses() == {1: "archived", 2: "active"}


@whatever_the_database
def test_a_draft_that_is_deleted_leaves_its_number_to_nobody(desk):
    desk.delete(desk.clone())
    assert desk.clone() == 3
    with pytest.raises(NotFound):
        desk.find(2)


def test_rolling_back_applies_a_copy(desk):
    desk.put(KeepJournalDays=30)
    desk.put(KeepJournalDays=60)
    applied = desk.roll_back(2, who="bob")
    assert desk.statuses() == {1: "archived", 2: "archived", 3: "archived", 4: "active"}
    assert (applied.cloned_from, applied.base, applied.applied_by) == (2, 3, "bob")
    assert desk.active().content == desk.find(2).content


@whatever_the_database
@pytest.mark.parametrize("status", ["draft", "active"])
def test_there_is_no_way_back_to_what_was_not_active_before(desk, status):
    number = desk.clone() if status == "draft" else 1
    with pytest.raises(Conflict, match=status):
        desk.roll_back(number)


# Fields


def test_fields_are_set_all_or_none_and_go_back_to_their_defaults(desk):
    number = desk.clone()
    desk.set(number, {"Provisioning.AlertRecepient": "a@b.example", "Provisioning.MaxAttempts": 3})
    with pytest.raises(InvalidRequest) as caught:
        desk.set(number, {"Provisioning.KeepJournalDays": 30, "Provisioning.RetryDelays": "x"})
    assert caught.value.field == "Provisioning.RetryDelays"
    changed = desk.set(number, {"Provisioning.MaxAttempts": None})
    assert changed.content.provisioning.alert_recipient == ("a@b.example",)
    assert [one.field for one in desk.verify(number).differences] == ["Provisioning.AlertRecipient"]


@whatever_the_database
@pytest.mark.parametrize(
    "place", ["AlertRecipient", "Provisioning.Alert", "Provisioning", "ESPF.a.port", "Other.x", ""]
)
def test_a_field_that_there_is_not_is_refused_by_its_place(desk, place):
    with pytest.raises(InvalidRequest) as caught:
        desk.set(desk.clone(), {place: 1})
    assert caught.value.field == place


@whatever_the_database
def test_one_field_by_both_its_spellings_is_refused(desk):
    both = {"Provisioning.AlertRecepient": "a@b", "Provisioning.AlertRecipient": "c@d"}
    with pytest.raises(InvalidRequest, match="set twice"):
        desk.set(desk.clone(), both)


def test_a_secret_is_sealed_opened_kept_by_its_dots_and_taken_away(desk):
    number = desk.clone()
    place = "Provisioning.AlertToken"
    desk.set(number, {place: "tops3cret"})
    desk.set(number, {place: "••••••••", "Provisioning.AlertURL": "https://x.example"})
    version = desk.find(number)
    assert "tops3cret" not in version.stored
    assert version.opened(desk.sealer).provisioning.alert_token.get_secret_value() == "tops3cret"
    assert desk.set(number, {place: ""}).content.provisioning.alert_token.get_secret_value() == ""
    with pytest.raises(InvalidRequest) as caught:
        desk.set(number, {place: "two\nlines"})
    assert caught.value.field == place


@whatever_the_database
def test_instances_are_created_changed_and_deleted_by_name(desk):
    number = desk.clone()
    desk.instance(number, "hss", server="espf2", handlers="A@1")
    with pytest.raises(Conflict):
        desk.instance(number, "hss")
    for wrong in ("", "a.b", "a b", "x" * 33):
        with pytest.raises(InvalidRequest):
            desk.instance(number, wrong)
    changed = desk.set(number, {"ESPF.hss.port": "8081"})
    found = changed.content.instance("hss")
    assert (found.server, found.port, found.handlers) == ("espf2", 8081, ("A@1",))
    with desk.database.begin() as connection:
        configuration.delete_instance(connection, desk.database, number, "hss", "ann")
        with pytest.raises(NotFound):
            configuration.delete_instance(connection, desk.database, number, "hss", "ann")
    assert desk.find(number).content.instances == {}


# Verifying


@whatever_the_database
def test_the_program_that_sends_e_mail_must_be_there_and_executable(desk, tmp_path):
    program = tmp_path / "sendmail"
    number = desk.clone()
    wrong = ("error", "Provisioning.sendmail")
    desk.set(number, {"Provisioning.sendmail": str(program)})
    assert wrong not in desk.findings(number), "nobody is to get any"
    desk.set(number, {"Provisioning.AlertRecipient": "a@b.example"})
    assert wrong in desk.findings(number)
    program.write_text("#!/bin/sh\n")
    assert wrong in desk.findings(number)
    with pytest.raises(InvalidRequest, match="not executable") as caught:
        desk.apply(number)
    assert caught.value.field == "Provisioning.sendmail"
    assert desk.statuses()[number] == "draft"
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert desk.findings(number) == set()
    desk.apply(number)


@whatever_the_database
def test_what_is_worth_knowing_does_not_stand_in_the_way(desk):
    number = desk.clone()
    desk.set(
        number,
        {
            "Provisioning.AlertURL": "http://x.example",
            "Provisioning.AlertToken": "abc",
            "Provisioning.Maintenance": True,
        },
    )
    assert desk.findings(number) == {
        ("warning", "Provisioning.AlertToken"),
        ("warning", "Provisioning.Maintenance"),
    }
    assert desk.apply(number).status == Status.ACTIVE
    assert desk.findings(desk.clone(1)) == {("warning", "Provisioning.AlertRecipient")}


def test_handlers_that_are_named_must_exist_and_those_that_are_not_are_told(desk, house):
    house.handler("http://127.0.0.1:9", "A", 1)
    house.handler("http://127.0.0.1:9", "B", 2)
    number = desk.clone()
    desk.instance(number, "hss", handlers="A@1, B@1")
    found = desk.verify(number).findings
    assert [one.message for one in found if one.field == "ESPF.hss.handlers"] == [
        "there is no handler B@1"
    ]
    (left,) = [one for one in found if one.field == "ESPF"]
    assert left.severity == "warning"
    assert "B@2" in left.message
    assert "A@1" not in left.message


@whatever_the_database
def test_an_address_is_had_by_one_and_must_be_free_and_of_this_machine(desk):
    number = desk.clone()
    desk.instance(number, "a", port=8081, server="elsewhere")
    desk.instance(number, "b", port=8081, server="elsewhere", address="127.0.0.1")
    twice = {("error", "ESPF.a.port"), ("error", "ESPF.b.port")}
    assert twice <= desk.findings(number)
    desk.set(number, {"ESPF.b.address": "192.0.2.7"})
    assert not twice & desk.findings(number)
    foreign = ("error", "ESPF.b.address")
    assert foreign not in desk.findings(number), "who knows the addresses of other machines"
    desk.set(number, {"ESPF.b.server": f"{socket.gethostname()}.example.net"})
    assert foreign in desk.findings(number)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        desk.set(number, {"ESPF.b.address": "127.0.0.1", "ESPF.b.port": port})
        assert ("warning", "ESPF.b.port") in desk.findings(number)
        desk.apply(number)
        assert ("warning", "ESPF.b.port") not in desk.findings(desk.clone()), "it is its own"


@whatever_the_database
def test_a_damaged_draft_is_an_error_and_not_the_end(desk):
    number = desk.clone()
    with desk.database.begin() as connection:
        broken = configurations.c.i_configuration == number
        connection.execute(update(configurations).where(broken).values(content='{"ESPF": 1}'))
    assert desk.findings(number) == {("error", None)}
    with pytest.raises(InvalidRequest):
        desk.apply(number)
    with pytest.raises(SettingsError):
        desk.set(number, {"Provisioning.MaxAttempts": 1})


# Who comes second


def test_a_draft_does_not_undo_what_was_applied_since_it_was_made(desk):
    mine, theirs = desk.clone(), desk.clone()
    desk.set(theirs, {"Provisioning.KeepJournalDays": 30})
    desk.apply(theirs)
    desk.set(mine, {"Provisioning.MaxAttempts": 3})
    with pytest.raises(Conflict, match=f"configuration {theirs} is active now, not 1"):
        desk.apply(mine)
    with pytest.raises(Conflict):
        desk.apply(mine, over=1)
    verdict = desk.verify(mine)
    assert verdict.active == theirs
    assert {one.field for one in verdict.differences} == {
        "Provisioning.KeepJournalDays",
        "Provisioning.MaxAttempts",
    }
    assert desk.apply(mine, over=verdict.active).status == Status.ACTIVE


def test_of_those_who_apply_at_the_same_time_one_does_and_the_others_are_told(desk, house):
    count = 4
    together = threading.Barrier(count)
    drafts = [desk.clone() for _ in range(count)]
    said = []

    def apply(number):
        own = Database.open(house.url)
        try:
            together.wait(60)
            with own.begin() as connection:
                configuration.apply(connection, own, number, "ann")
            said.append(None)
        except EspfError as error:
            said.append(type(error))
        finally:
            own.close()

    threads = [threading.Thread(target=apply, args=(number,)) for number in drafts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said, key=str) == sorted([None, *[Conflict] * (count - 1)], key=str)
    assert sorted(desk.statuses().values()) == ["active", "archived", *["draft"] * (count - 1)]


def test_two_who_change_a_draft_at_the_same_time_both_have_their_way(desk, house):
    number = desk.clone()
    together = threading.Barrier(2)

    def change(place, values):
        own = Database.open(house.url)
        together.wait(60)
        for value in values:
            with own.begin() as connection:
                configuration.change(
                    connection, own, desk.sealer, number, {f"Provisioning.{place}": value}, place
                )
        own.close()

    places = ("MaxAttempts", "KeepJournalDays")
    threads = [threading.Thread(target=change, args=(place, range(1, 11))) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = desk.find(number).content.provisioning
    assert (found.max_attempts, found.keep_journal_days) == (10, 10)


# What takes effect


async def test_retries_that_are_applied_hold_at_once_for_who_has_none_of_their_own(desk, house):
    async with Webhook() as hook:
        hook.always = Answer(503)
        house.handler(hook.url, "Plain")
        house.handler(hook.url, "Own", RetryDelays="7s")
        async with house.working() as worker:
            await house.come_true(lambda: len(house.owners()) == 2 * SHARDS)
            runners = {one.configured.name: one for one in worker._runners.values()}
            built = {name: one._handler for name, one in runners.items()}
            desk.put(AlertURL="http://127.0.0.1:9")
            desk.put(RetryDelays="2h", LongTail="", RetryJitter=0, MaxAttempts=9)
            await house.come_true(lambda: runners["Plain"]._policy.delays == (7200,))
            assert runners["Plain"]._policy.max_attempts == 9
            await house.come_true(lambda: runners["Own"]._policy.jitter == 0)
            assert runners["Own"]._policy.delays == (7,)
            assert runners["Own"]._policy.max_attempts == 2
            new = {name: one._handler for name, one in runners.items()}
            desk.put(KeepJournalDays=30)
            i_event = house.event(i_account=7)
            await hook.wait_for(2)
            await house.come_true(lambda: all(row["attempts"] for row in waiting(house)))
            assert built != new == {name: one._handler for name, one in runners.items()}
    (row,) = [row for row in house.rows("Provisioning_Log") if row["handler"] == "Plain"]
    assert row["i_event"] == i_event
    with house.database.read() as connection:
        shown = subscriptions.require_handler(connection, 1, "Plain").shown()
    assert (shown["RetryDelays"], shown["MaxAttempts"]) == ("2h", "9")


def waiting(house):
    return house.rows("Event_Notifications")


async def test_an_instance_delivers_for_its_handlers_and_another_takes_the_rest(desk, house):
    async with Webhook() as hook:
        for name in ("A", "B", "C"):
            house.handler(f"{hook.url}/{name}", name, EventSender__TokenBurstiness=100)
        number = desk.clone()
        desk.instance(number, "one", handlers="A@1")
        desk.instance(number, "two", handlers="B@1, C@1")
        desk.apply(number)
        house.event(i_account=7)
        async with house.working("w1", instance="one"):
            await house.come_true(lambda: set(house.owners().values()) == {"w1"})
            await house.come_true(lambda: [r.path for r in hook.requests] == ["/A"])
            assert owned(house) == {"w1": {"A"}}
            async with house.working("w2", instance="two"):
                await hook.wait_for(3)
                await house.until("finished")
                assert owned(house) == {"w1": {"A"}, "w2": {"B", "C"}}
                number = desk.clone()
                desk.set(number, {"ESPF.one.handlers": "A@1, B@1", "ESPF.two.handlers": "C@1"})
                desk.apply(number)
                await house.come_true(lambda: owned(house) == {"w1": {"A", "B"}, "w2": {"C"}})
                async with house.working("w3"):
                    await house.come_true(lambda: owned(house).get("w3") == {"A", "B", "C"})
                    assert owned(house)["w1"] == {"A", "B"}, "one without an instance shares"
    assert sorted(r.path for r in hook.requests) == ["/A", "/B", "/C"]


def owned(house):
    """The handlers that each worker has shards of."""
    with house.database.read() as connection:
        names = {one.i_event_handler: one.name for one in subscriptions.list_handlers(connection)}
    found = {}
    for (i_event_handler, _), worker in house.owners().items():
        found.setdefault(worker, set()).add(names[i_event_handler])
    return found


@whatever_the_database
async def test_a_worker_of_an_instance_that_is_disabled_or_gone_waits_and_says_so(
    desk, house, caplog
):
    async with Webhook() as hook:
        house.handler(hook.url)
        number = desk.clone()
        desk.instance(number, "one")
        desk.apply(number)

        def then(changes=None):
            number = desk.clone()
            if changes is None:
                with desk.database.begin() as connection:
                    configuration.delete_instance(connection, desk.database, number, "one", "ann")
            else:
                desk.set(number, changes)
            desk.apply(number)

        async with house.working(instance="one"):
            await house.come_true(lambda: len(house.owners()) == SHARDS)
            then({"ESPF.one.enabled": "off"})
            await house.come_true(lambda: house.owners() == {})
            house.event(i_account=7)
            then({"ESPF.one.enabled": "on"})
            await hook.wait_for(1)
            then()
            await house.come_true(lambda: house.owners() == {})
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("instance one ")]
    assert said == [
        "instance one is disabled: it waits",
        "instance one is enabled: it works",
        "instance one is not in the active configuration any more: it waits",
    ]
