"""What becomes of an account's events is reported under the service group of the handler."""

import logging
from datetime import timedelta

import pytest
from sqlalchemy import event as database_event

from espf import statuses, subscriptions
from espf.backlog import Start, Wanted
from espf.errors import InvalidRequest
from espf.leases import Leases
from espf.model import SHARDS, Decision, Result, Status
from house import House

FINISHED = Decision(Status.FINISHED)
SOON = timedelta(minutes=5)
RETRY = Decision(Status.QUEUED, "no connection", delay=SOON)
NOT_COUNTED = Decision(Status.QUEUED, "the settings are refused", delay=SOON, spent=False)
BEGUN = Decision(Status.QUEUED, "it is at it", delay=SOON, spent=False, begun=True)
FAILED = Decision(Status.FAILED, "gave up after 3 attempts: " + "x" * 5000)
REJECTED = Decision(Status.REJECTED, "no such number")
SKIPPED = Decision(Status.SKIPPED, "shadow mode, not done")


class Town(House):
    """A house in which results are settled by hand, and what they say of accounts is seen."""

    def settle(self, *said, group="HSS", i_env=1, epoch=None):
        """Settle one event each of these decisions; returns the accounts, 1, 2, ..."""
        handler = self.handler("http://127.0.0.1:1", f"H{len(self.rows('Event_Handlers'))}", i_env)
        places = [(handler.i_event_handler, shard) for shard in range(SHARDS)]
        with self.database.begin() as connection:
            Leases(self.database).sign_of_life(connection, "w", 60)
            lease, *_ = Leases(self.database).acquire(connection, "w", places, ())
        for number, _ in enumerate(said, 1):
            self.event(i_env=i_env, i_account=number)
        wanted = Wanted(handler.i_event_handler, (1 << SHARDS) - 1, Start(0), 100, 100, ())
        with self.database.read() as connection:
            (found,) = self.backlog.read(connection, [wanted])
        waiting = [notification for notification, _ in found.new]
        assert len(waiting) == len(said)
        results = [
            Result(one, handler.name, epoch or lease.epoch, decision, 1, group=group)
            for one, decision in zip(waiting, said, strict=True)
        ]
        with self.database.begin() as connection:
            self.queue.settle(connection, results, {})

    def told(self, i_account=1, i_env=1):
        """(group, status, message) of an account."""
        with self.database.read() as connection:
            return [
                (one.group.name, one.status, one.message)
                for one in statuses.of_account(connection, i_env, i_account)
            ]


@pytest.fixture
def town(database, sealer, tmp_path):
    return Town(database, sealer, tmp_path)


def test_each_verdict_is_reported_as_the_status_api_does(town):
    verdicts = (FINISHED, RETRY, NOT_COUNTED, BEGUN, FAILED, REJECTED, SKIPPED)
    town.settle(*verdicts)
    assert [town.told(i_account) for i_account in range(1, 8)] == [
        [("HSS", "OK", None)],
        [("HSS", "RETRY", "no connection")],
        [("HSS", "RETRY", "the settings are refused")],
        [("HSS", "IN_PROGRESS", "it is at it")],
        [("HSS", "FAILED", FAILED.reason[:4000])],
        [("HSS", "FAILED", "no such number")],
        [],
    ]


def test_the_last_report_of_each_group_counts(town):
    with town.database.begin() as connection:
        statuses.create_group(connection, 1, "IOT")
    town.settle(RETRY, REJECTED)
    town.settle(FINISHED, SKIPPED)
    town.settle(BEGUN, group="IOT")
    assert town.told(1) == [("HSS", "OK", None), ("IOT", "IN_PROGRESS", "it is at it")]
    assert town.told(2) == [("HSS", "FAILED", "no such number")]


def test_a_result_that_came_too_late_reports_nothing(town):
    town.settle(FINISHED, epoch=77)
    assert town.told() == []


def test_an_unknown_group_does_not_stop_a_result_and_is_said_once(town, caplog):
    """So does a group of another environment."""
    with town.database.begin() as connection:
        statuses.create_group(connection, 2, "IOT")
    with caplog.at_level(logging.ERROR):
        town.settle(FINISHED, group="IOT")
        assert town.live_rows() == (0, 0)
        town.settle(FINISHED, group="IOT")
    assert town.told() == []
    assert caplog.messages == ["environment 1 has no service group 'IOT': no status is reported"]


@pytest.mark.databases("postgresql", "mariadb")
def test_an_application_that_reports_at_the_same_moment_stops_no_result(town):
    """SQLite has one writer at a time."""
    engine = town.database._engine
    reported = []

    def meanwhile(connection, cursor, statement, *rest):
        if "INSERT INTO" in statement and "Account_Statuses" in statement and not reported:
            reported.append(statement)
            with town.database.begin() as another:
                now = town.database.now(another)
                said = (statuses.AccountStatus.IN_PROGRESS, "mine", now)
                statuses.report(another, 1, 2, "HSS", *said)

    database_event.listen(engine, "before_cursor_execute", meanwhile)
    town.settle(FINISHED, REJECTED, FINISHED)
    database_event.remove(engine, "before_cursor_execute", meanwhile)
    assert reported
    assert [town.told(n)[0][1] for n in (1, 2, 3)] == ["OK", "FAILED", "OK"]
    assert town.live_rows() == (0, 0)


@pytest.mark.databases("sqlite")
def test_without_a_group_nothing_is_asked_and_nothing_is_stored(town):
    town.settle(FINISHED)  # the first results of all read what the next ones need not
    counts = []
    for group in ("", "HSS"):
        said = []

        def note(connection, cursor, statement, *rest, said=said):
            said.append(statement)

        database_event.listen(town.database._engine, "before_cursor_execute", note)
        town.settle(FINISHED, FINISHED, group=group)
        database_event.remove(town.database._engine, "before_cursor_execute", note)
        counts.append(sum("Account_Statuses" in statement for statement in said))
        counts.append(sum("Service_Groups" in statement for statement in said))
    without, without_groups, with_one, with_groups = counts
    assert (without, without_groups, with_groups) == (0, 0, 1)
    assert with_one >= 2


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("i_account", [None, "541", True, -1, 2**63, [1]])
def test_an_event_without_an_account_reports_nothing(town, i_account):
    """An application may put anything into its events."""
    handler = town.handler("http://127.0.0.1:1")
    town.event(i_account=i_account)
    wanted = Wanted(handler.i_event_handler, (1 << SHARDS) - 1, Start(0), 100, 100, ())
    with town.database.read() as connection:
        (found,) = town.backlog.read(connection, [wanted])
    ((notification, _),) = found.new
    result = Result(notification, "Sender", 0, FINISHED, 1, group="HSS")
    with town.database.begin() as connection:
        assert statuses.report_results(connection, [result], town.database.now(connection)) == set()
    assert town.rows("Account_Statuses") == []


@pytest.mark.databases("sqlite")
async def test_a_worker_reports_under_the_group_of_its_handler(town):
    """The billing is away, so that the first attempt is not the last."""
    options = {"OsmoHLR.Address": "127.0.0.1"}
    with town.database.begin() as connection:
        subscriptions.create_handler(connection, town.sealer, 1, "HLR", "OsmoHLR", options)
    town.event(i_account=541)
    async with town.working():
        await town.come_true(lambda: town.told(541) != [])
    ((group, status, message),) = town.told(541)
    assert (group, status) == ("HSS", "RETRY")
    assert "127.0.0.1:1" in message


def test_a_group_that_there_is_not_is_refused_where_it_is_set(town):
    with town.database.begin() as connection:
        statuses.create_group(connection, 2, "IOT")
    address = {"OsmoHLR.Address": "127.0.0.1"}
    wrong = {**address, "ServiceGroup": "IOT"}
    refused = r"ServiceGroup: there is no service group 'IOT' \(known: VoIP, HSS, "
    with pytest.raises(InvalidRequest, match=refused), town.database.begin() as connection:
        subscriptions.create_handler(connection, town.sealer, 1, "A", "OsmoHLR", wrong)
    with town.database.begin() as connection:
        made = subscriptions.create_handler(
            connection, town.sealer, 1, "B", "OsmoHLR", {**address, "ServiceGroup": "HSS"}
        )
    for options in ({"ServiceGroup": "IOT"}, {"ServiceGroup": "hss", "Mode": "shadow"}):
        with pytest.raises(InvalidRequest) as error, town.database.begin() as connection:
            subscriptions.set_options(connection, town.sealer, made, options)
        assert error.value.field == "ServiceGroup"
    with town.database.begin() as connection:
        subscriptions.set_options(connection, town.sealer, made, {"ServiceGroup": None})
        statuses.create_group(connection, 1, "IOT")
        subscriptions.set_options(connection, town.sealer, made, {"ServiceGroup": "IOT"})
