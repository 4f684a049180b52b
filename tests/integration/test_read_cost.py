"""What a read costs does not grow with what waits: in what the database does, not in time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from databases import DATABASES, rows_read
from espf.backlog import Found, Start, Wanted
from espf.db.tables import event_notifications
from espf.leases import Leases
from espf.model import SHARDS, Decision, Result, Status
from house import House

# Its machine takes the same steps each time, and it is quickly filled.
pytestmark = pytest.mark.databases("sqlite")

KEY = "account:7"
ALL = (1 << SHARDS) - 1


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


def fill(house: House, handler: int, rows: int) -> None:
    """Notifications of one lane waiting behind a retry, and as many of other lanes."""
    with house.database.begin() as connection:
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO Event_Queue (i_env, event_type, ordering_key, variables, created_at) "
            "SELECT 1, 'Account/Blocked', CASE i % 2 WHEN 1 THEN 'account:7' "
            "ELSE 'account:' || (1000 + i) END, '{}', '2026-01-01 00:00:00.000' FROM n",
            (2 * rows,),
        )
        connection.exec_driver_sql(
            "INSERT INTO Event_Notifications (i_event_handler, position, i_event) "
            "SELECT ?, i_event, i_event FROM Event_Queue",
            (handler,),
        )
        # The head of the long lane waits, and so do many others, whose time has not come.
        connection.exec_driver_sql(
            "UPDATE Event_Notifications SET next_attempt_at = '2999-01-01 00:00:00.000', "
            "ordering_key = (SELECT q.ordering_key FROM Event_Queue q "
            "WHERE q.i_event = Event_Notifications.i_event) WHERE i_event % 10 = 0 "
            "OR position = (SELECT min(position) FROM Event_Notifications)"
        )


def cost(house: House, work) -> int:
    """What it costs the second time."""
    with house.database.begin() as connection:
        work(connection)
        return rows_read(connection, lambda: work(connection))


def read(house: House, wanted: Wanted) -> Found:
    with house.database.read() as connection:
        (found,) = house.backlog.read(connection, [wanted])
    return found


def cost_of_read(house: House, wanted: Wanted) -> int:
    return cost(house, lambda connection: house.backlog.read(connection, [wanted]))


def empty(house: House) -> None:
    with house.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM Event_Notifications")
        connection.exec_driver_sql("DELETE FROM Event_Queue")


@pytest.mark.parametrize(
    "share",
    [0.0, 0.5, 0.9],
    ids=["at the start", "in the middle", "near the end"],
)
@pytest.mark.parametrize("what", ["new", "lane"])
def test_a_read_costs_the_same_whatever_waits(house, what, share):
    handler = house.handler("http://127.0.0.1:1").i_event_handler
    costs = []
    for rows in (1000, 20_000):
        fill(house, handler, rows)
        with house.database.read() as connection:
            first = connection.exec_driver_sql("SELECT min(i_event) FROM Event_Queue").scalar_one()
        after = first - 1 + int(2 * rows * share)
        if what == "new":
            wanted = Wanted(handler, ALL, Start(after), room=100, due_room=100)
        else:
            positions = [after + n for n in range(1, 200, 2)]
            wanted = Wanted(handler, ALL, Start(0), 0, 0, refill=[(KEY, positions)])
        costs.append(cost_of_read(house, wanted))
        empty(house)
    few, many = costs
    assert few > 10, "the read does something"
    assert many <= few * 1.3 + 50


def restart_all(house: House, lanes: int) -> None:
    """All of them have been restarted, a few hundred at a time; there are so many lanes."""
    with house.database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE Event_Queue SET ordering_key = 'account:' || (i_event % ?)", (lanes,)
        )
        connection.exec_driver_sql(
            "UPDATE Event_Notifications SET next_attempt_at = strftime('%Y-%m-%d %H:%M:%f', "
            "'2026-01-01', '+' || (position / 200) || ' seconds'), "
            "ordering_key = 'account:' || (position % ?)",
            (lanes,),
        )


@pytest.mark.parametrize("where", ["at the start", "further on", "by lane"])
def test_what_is_due_costs_the_same_however_many_have_been_restarted(house, where):
    handler = house.handler("http://127.0.0.1:1").i_event_handler
    costs = []
    # Both times more than one look goes over.
    for rows in (2000, 20_000):
        fill(house, handler, rows)
        restart_all(house, lanes=5)
        first = Wanted(handler, ALL, Start(0), 0, due_room=100)
        found = read(house, first)
        heads = [one.event.ordering_key for one in found.due]
        assert len(heads) == 5
        assert found.followed == set(heads)
        assert found.due_upto is not None
        wanted = {
            "at the start": first,
            "further on": replace(first, due_after=found.due_upto),
            "by lane": replace(first, due_room=None, follow=heads, follow_room=100),
        }[where]
        costs.append(cost_of_read(house, wanted))
        empty(house)
    few, many = costs
    assert few > 10, "the read does something"
    assert many <= few * 1.3 + 50


LONG_AGO, SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)


@pytest.mark.databases(*DATABASES)
@pytest.mark.parametrize(
    ("accounts", "due_from"),
    [(100_000, None), (5, LONG_AGO), (100_000, SOME_DAY)],
    ids=["new", "restarted", "to be tried later"],
)
def test_a_retry_is_found_by_the_first_look_after_its_time_whatever_waits(
    house, accounts, due_from
):
    handler = house.handler("http://127.0.0.1:1")
    retry, lane = house.event(i_account=1_000_000), "account:1000000"
    house.event(i_account=1_000_000)
    with house.database.begin() as connection:
        due = house.database.now(connection) - timedelta(seconds=1)
        tried = {"attempts": 1, "next_attempt_at": due, "ordering_key": lane}
        n = event_notifications.c
        connection.execute(update(event_notifications).where(n.position == retry).values(**tried))
    wanted = Wanted(handler.i_event_handler, ALL, Start(0), room=0, due_room=1500)
    by_lane = replace(wanted, due_room=None, follow=[lane], follow_room=9, tried=[lane])
    costs = []
    # Both times more than one look goes over.
    for more in (2000, 10_000):
        house.flood(handler, more, accounts, due_from)
        assert retry in {one.event.i_event for one in read(house, wanted).due}
        found = read(house, by_lane)
        assert [one.event.i_event for one in found.followers[0][1]] == [retry]
        assert [one.event.i_event for one, _ in found.tried] == [retry]
        costs.append(cost_of_read(house, wanted) + cost_of_read(house, by_lane))
    few, many = costs
    assert few > 0, "the read does something"
    assert many <= few * 1.3 + 50


@pytest.mark.parametrize("notified", [1, 2])
def test_settling_and_looking_for_scheduled_events_cost_the_same_whatever_waits(house, notified):
    handler = house.handler("http://127.0.0.1:1").i_event_handler
    other = house.handler("http://127.0.0.1:1", "Other").i_event_handler
    queue = house.queue
    costs = []
    for rows in (1000, 20_000):
        fill(house, handler, rows)
        with house.database.begin() as connection:
            connection.exec_driver_sql(f"UPDATE Event_Queue SET notified = {notified}")
            # The other handler has not even begun.
            connection.exec_driver_sql(
                "INSERT INTO Event_Notifications (i_event_handler, position, i_event) "
                "SELECT ?, i_event, i_event FROM Event_Queue WHERE notified = 2",
                (other,),
            )
            leases = Leases(house.database)
            leases.sign_of_life(connection, "w", 60)
            places = [(handler, shard) for shard in range(SHARDS)]
            taken = leases.acquire(connection, "w", places, {"w"})
            everything = Wanted(handler, ALL, Start(0), 2000, 100)
            (found,) = house.backlog.read(connection, [everything])
        ready = [one for one, behind in found.new if not behind][:20]
        epoch = taken[0].epoch
        results = [Result(one, "Sender", epoch, Decision(Status.FINISHED), 1) for one in ready]
        batches = iter([results[:10], results[10:]])

        def work(connection, batches=batches):
            queue.seconds_to_next_scheduled(connection)
            queue.settle(connection, next(batches), {})

        costs.append(cost(house, work))
        empty(house)
    few, many = costs
    assert few > 10, "something is settled"
    assert many <= few * 1.3 + 50
