"""What the rest of ESPF relies on, whatever the database: one suite, three dialects."""

import asyncio
import gc
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone
from threading import Barrier

import psycopg
import pymysql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, insert, make_url, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from espf.db import mariadb, postgresql, schema, sqlite
from espf.db.bulk import execute_rows
from espf.db.database import Database
from espf.db.dialect import Moment, Noticed, to_moment
from espf.db.tables import (
    LongText,
    event_handlers,
    event_queue,
    provisioning_log_texts,
    system_settings,
)
from espf.errors import DatabaseUnavailable, SettingsError
from servers import MariaDB, PostgreSQL


def servers(test):
    """Run a test with each kind of server, each its own."""
    # A driver forgets to close a socket that was refused, and a pool a connection that was in use
    # when all others were closed.
    forgetful = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    return pytest.mark.parametrize("kind", [PostgreSQL, MariaDB])(forgetful(test))


BOTH_SERVERS = pytest.mark.databases("postgresql", "mariadb")


class Interrupted(Exception):
    """Something went wrong in the middle of a transaction."""


def put(connection, name, value="on"):
    connection.execute(insert(system_settings).values(name=name, value=value))


def names(connection):
    return list(connection.execute(select(system_settings.c.name)).scalars())


@contextmanager
def another(database):
    """A second way to the same database, as another process has it."""
    url = database._engine.url.render_as_string(hide_password=False)
    opened = Database.open(url)
    yield opened
    opened.close()


@contextmanager
def private(kind, **options):
    """A server that only this test uses, with ESPF's tables."""
    with kind(**options) as server:
        database = Database.open(server.empty())
        with database.begin() as connection:
            schema.set_up(connection, database.dialect)
        yield server, database
        database.close()
    gc.collect()


# Transactions


def test_a_transaction_is_committed_at_its_end_and_rolled_back_by_an_exception(database):
    with database.begin() as connection:
        put(connection, "kept")
    with suppress(Interrupted), database.begin() as connection:
        put(connection, "gone")
        raise Interrupted
    with database.read() as connection:
        assert names(connection) == ["kept"]


def test_what_is_not_committed_is_seen_by_nobody_and_holds_up_no_reader(database):
    with database.begin() as connection:
        put(connection, "new")
        with database.read() as beside:
            assert names(beside) == []
    with database.read() as connection:
        assert names(connection) == ["new"]


def test_a_read_is_one_picture_whatever_is_committed_meanwhile(database):
    with database.read() as connection:
        assert names(connection) == []
        with database.begin() as beside:
            put(beside, "later")
        assert names(connection) == []
    with database.read() as connection:
        assert names(connection) == ["later"]


def test_a_writer_sees_what_was_committed_while_it_waited_for_a_lock(database):
    with database.begin() as connection:
        put(connection, "count", "0")
    start = Barrier(2)

    def count(_):
        start.wait()
        for _ in range(20):
            with database.begin() as connection:
                value = connection.execute(
                    select(system_settings.c.value).with_for_update()
                ).scalar_one()
                connection.execute(update(system_settings).values(value=str(int(value) + 1)))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(count, range(2)))
    with database.read() as connection:
        assert connection.execute(select(system_settings.c.value)).scalar_one() == "40"


async def test_a_transaction_in_a_thread_gives_back_its_result_or_its_exception(database):
    assert await database.write(lambda connection, n: put(connection, "x") or n, 5) == 5
    assert await database.fetch(names) == ["x"]
    with pytest.raises(ZeroDivisionError):
        await database.write(lambda _: 1 / 0)


# The clock


def test_the_clock_is_right_aware_and_goes_on_within_a_transaction(database):
    with database.begin() as connection:
        first = database.now(connection)
        assert abs(datetime.now(UTC) - first) < timedelta(minutes=1)
        assert first.tzinfo == UTC
        time.sleep(0.02)
        assert timedelta(milliseconds=15) < database.now(connection) - first < timedelta(minutes=1)


@settings(max_examples=30)
@given(
    st.lists(
        st.datetimes(
            datetime(1971, 1, 1),
            datetime(2999, 1, 1),
            timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda moment: moment.timestamp(),
    )
)
def test_a_moment_comes_back_to_the_millisecond_and_sorts_as_moments_do(database, moments):
    moments = [moment.replace(microsecond=moment.microsecond // 1000 * 1000) for moment in moments]
    table = provisioning_log_texts
    with database.begin() as connection:
        connection.execute(table.delete())
        rows = [{"i_text": i, "content": "", "used_on": m} for i, m in enumerate(moments)]
        connection.execute(insert(table), rows)
        found = connection.execute(select(table.c.used_on).order_by(table.c.used_on)).scalars()
        assert list(found) == sorted(moments)
        earlier = connection.execute(select(table).where(table.c.used_on < moments[0])).all()
    assert len(earlier) == sum(moment < moments[0] for moment in moments)


# Many at once


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
            st.none() | st.datetimes(datetime(1971, 1, 1), datetime(2999, 1, 1)),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_rows_of_values_become_a_table_as_they_are(database, rows):
    columns = {"i": BigInteger(), "t": LongText, "m": Moment()}
    rows = [
        (i, t, m and m.replace(microsecond=m.microsecond // 1000 * 1000, tzinfo=UTC, fold=0))
        for i, t, m in rows
    ]
    with database.begin() as connection:
        values = [
            [kind.bind_processor(connection.dialect)(v) for v in column]
            if kind.bind_processor(connection.dialect)
            else list(column)
            for kind, column in zip(columns.values(), zip(*rows, strict=True), strict=True)
        ]
        table, parameters = database.dialect.rows(columns, values)
        found = connection.exec_driver_sql(f"SELECT r.i, r.t, r.m FROM {table}", parameters)
        assert sorted(map(repr, ((i, t, to_moment(m)) for i, t, m in found))) == sorted(
            map(repr, rows)
        )


def test_more_rows_than_one_statement_takes_are_all_stored(database):
    columns = {"i_text": BigInteger(), "content": LongText, "used_on": Moment()}
    count = 2500
    with database.begin() as connection:
        execute_rows(
            connection,
            database.dialect,
            "INSERT INTO Provisioning_Log_Texts (i_text, content, used_on) "
            "SELECT r.i_text, r.content, r.used_on FROM {rows}",
            columns,
            [list(range(count)), ["ü%s %(x)s :y ?"] * count, [datetime.now(UTC)] * count],
        )
        stored = connection.execute(select(provisioning_log_texts.c.content)).scalars().all()
    assert stored == ["ü%s %(x)s :y ?"] * count


def test_a_conflict_sets_one_column_and_leaves_the_others(database):
    columns = {"i_text": BigInteger(), "content": LongText, "used_on": Moment()}
    statement = (
        "INSERT INTO Provisioning_Log_Texts (i_text, content, used_on) "
        "SELECT r.i_text, r.content, r.used_on FROM {rows} WHERE 1 = 1"
        + database.dialect.on_conflict("i_text", "used_on")
    )
    old, new = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
    with database.begin() as connection:
        for numbers, content, day in (([1, 2], "first", old), ([2, 3], "second", new)):
            values = [numbers, [content] * 2, [day] * 2]
            execute_rows(connection, database.dialect, statement, columns, values)
        found = connection.execute(
            select(provisioning_log_texts).order_by(provisioning_log_texts.c.i_text)
        ).all()
    assert [tuple(row) for row in found] == [
        (1, "first", old),
        (2, "first", new),
        (3, "second", new),
    ]


@pytest.mark.parametrize("limit", [" LIMIT {room}", ""])
@pytest.mark.parametrize("times", [1, 10])
def test_a_select_is_run_for_each_of_many_and_the_rows_keep_their_order(database, limit, times):
    day = datetime(2026, 3, 1, tzinfo=UTC)
    with database.begin() as connection:
        connection.execute(
            insert(provisioning_log_texts),
            [
                {"i_text": i, "content": f"{i % 3}", "used_on": day + timedelta(days=i)}
                for i in range(12)
            ],
        )
    query = (
        "SELECT t.i_text, t.content FROM Provisioning_Log_Texts t WHERE t.i_text >= {low} "
        f"AND t.used_on < {{until}} ORDER BY t.i_text DESC{limit}"
    )
    names_ = {"low": "bigint", "until": "timestamptz", "room": "int"}
    items = [
        (2, day + timedelta(days=6), 2),
        (50, day, 5),
        (0, day + timedelta(days=3), 10),
        (2, day + timedelta(days=6), 2),
    ]
    with database.read() as connection:
        found = database.dialect.for_each(connection, query, names_, items * times)
        one = database.dialect.for_each(connection, query, names_, items[:1])
    numbers = [[row[0] for row in rows] for rows in found]
    first = [5, 4] if limit else [5, 4, 3, 2]
    assert numbers == [first, [], [2, 1, 0], first] * times
    assert [[row[0] for row in rows] for rows in one] == [first]


# Numbers


def test_a_position_is_a_number_that_no_event_gets_and_later_than_all_that_were_given(database):
    given_, taken = [], []
    for _ in range(5):
        with database.begin() as connection:
            result = connection.execute(insert(event_queue).values(variables="{}"))
            given_.append(result.inserted_primary_key[0])
        with database.begin() as connection:
            taken.append(database.dialect.next_position(connection))
    both = [number for pair in zip(given_, taken, strict=True) for number in pair]
    assert both == sorted(set(both))
    with database.read() as connection:
        assert list(connection.execute(select(event_queue.c.i_event)).scalars()) == given_


def test_positions_taken_side_by_side_differ(database):
    start = Barrier(2)

    def take(_):
        start.wait()
        taken = []
        for _ in range(30):
            with database.begin() as connection:
                taken.append(database.dialect.next_position(connection))
        return taken

    with database.begin() as connection:
        # Where numbers are counted in a row, there has to be one.
        connection.execute(insert(event_queue).values(variables="{}"))
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(take, range(2))
    assert len({*first, *second}) == 60
    assert first == sorted(first)


# Waiting


async def quiet(database):
    """Wait until nothing wakes us any more; so it is shown that a wait ends at its time."""
    async with asyncio.timeout(60):
        while await database.wait_for_work(0.3) is not Noticed.NOTHING:
            pass


async def wakes(database):
    """Whether something is noticed."""
    return await database.wait_for_work(60.0) is not Noticed.NOTHING


def event(database, *, announce=True):
    with database.begin() as connection:
        connection.execute(insert(event_queue).values(variables="{}"))
        if announce:
            database.announce(connection)


async def test_a_commit_of_another_process_ends_the_wait_and_a_rollback_does_not(database):
    with another(database) as worker:
        await quiet(worker)
        for _ in range(3):
            event(database)
            assert await wakes(worker)
            await quiet(worker)
        with suppress(Interrupted), database.begin() as connection:
            connection.execute(insert(event_queue).values(variables="{}"))
            database.announce(connection)
            raise Interrupted
        assert await worker.wait_for_work(0.3) is Noticed.NOTHING


async def test_every_worker_is_woken(database):
    with another(database) as first, another(database) as second:
        for worker in (first, second):
            await quiet(worker)
        woken = asyncio.gather(wakes(first), wakes(second))
        await asyncio.sleep(0.1)
        event(database)
        assert await woken == [True, True]


async def test_traffic_is_noticed_soon_for_as_long_as_it_lasts(database):
    """Where calls are so many that looking is cheaper, nobody is called, and nobody waits."""
    with another(database) as worker:
        await quiet(worker)
        for _ in range(100):
            event(database)
            assert await wakes(worker)
        await quiet(worker)
        event(database)
        assert await wakes(worker), "it sleeps again, and is called"


@pytest.mark.databases("postgresql")
async def test_new_events_are_told_from_what_somebody_announces(database):
    """Whoever is called for new events need not look for what has been restarted."""
    with another(database) as worker:
        await quiet(worker)
        with database.begin() as connection:
            connection.exec_driver_sql("NOTIFY espf")  # as a trigger calls
        assert await worker.wait_for_work(60.0) is Noticed.EVENTS
        await quiet(worker)
        with database.begin() as connection:
            connection.exec_driver_sql("NOTIFY espf")
            database.announce(connection)
        assert await worker.wait_for_work(60.0) is Noticed.ANYTHING


def sleeps(database):
    """What a trigger sees: whether anybody wants to be called."""
    with database.read() as connection:
        flag = connection.exec_driver_sql("SELECT last_value FROM worker_sleeps").scalar_one()
    return flag == 2


@pytest.mark.databases("postgresql")
async def test_a_trigger_has_to_call_only_while_a_worker_sleeps(database):
    assert not sleeps(database), "nobody is there"
    with another(database) as worker:
        await quiet(worker)
        assert sleeps(database)
        for _ in range(200):
            event(database)
            await worker.wait_for_work(1.0)
            if not sleeps(database):
                break
        else:
            pytest.fail("it is called however often")
        # Nobody calls, and yet it is noticed.
        event(database, announce=False)
        assert await wakes(worker)
        await quiet(worker)
        assert sleeps(database)


@pytest.mark.databases("postgresql")
async def test_when_one_worker_has_the_calls_stopped_the_others_do_not_sleep_on(database):
    with another(database) as first, another(database) as second:
        await quiet(first)
        await quiet(second)
        waiting = asyncio.create_task(wakes(second))
        await asyncio.sleep(0.1)
        await first.dialect._say(first.dialect._wake_up)
        assert await waiting
        event(database, announce=False)
        assert await wakes(second)


@servers
async def test_a_wait_outlives_the_server(kind):
    with private(kind) as (server, database):
        await quiet(database)
        server.stop()
        for _ in range(2):
            await asyncio.wait_for(database.wait_for_work(0.2), 30.0)
        server.start()
        await quiet(database)
        with another(database) as billing:
            event(billing)
        assert await wakes(database)


# What goes wrong


def is_fine(database):
    with database.begin() as connection:
        names(connection)


def test_a_statement_that_is_wrong_is_no_fault_of_the_database(database):
    with pytest.raises(DBAPIError), database.begin() as connection:
        connection.execute(text("SELECT nonsense FROM Event_Queue"))
    with database.begin() as connection:
        put(connection, "once")
    with pytest.raises(IntegrityError), database.begin() as connection:
        put(connection, "once")
    with pytest.raises(DBAPIError) as raised, database.begin() as connection:
        connection.execute(insert(event_handlers).values(name="x" * 100))
    assert "xxx" not in str(raised.value), "what a statement was given is shown to nobody"
    is_fine(database)


@servers
def test_a_server_that_is_away_is_unavailable_and_is_used_again_when_it_is_back(kind):
    with private(kind) as (server, database):
        for end in (server.stop, server.kill):
            end()
            with pytest.raises(DatabaseUnavailable):
                is_fine(database)
            server.start()
            is_fine(database)


@servers
def test_a_server_that_dies_in_the_middle_of_a_transaction_is_unavailable(kind):
    with private(kind) as (server, database):

        def interrupted():
            with database.begin() as connection:
                put(connection, "lost")
                server.kill()
                put(connection, "more")

        with pytest.raises(DatabaseUnavailable):
            interrupted()
        server.start()
        with database.read() as connection:
            assert names(connection) == []


@BOTH_SERVERS
def test_a_connection_that_was_killed_is_unavailable_once(database):
    own = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
    end = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}

    def killed():
        with database.begin() as connection:
            kind = connection.dialect.name
            number = connection.exec_driver_sql(own[kind]).scalar_one()
            with database.begin() as beside:
                beside.exec_driver_sql(end[kind].format(number))
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        killed()
    is_fine(database)


@pytest.fixture
def impatient(monkeypatch):
    """Nobody waits long for a lock."""
    for module in (postgresql, mariadb):
        monkeypatch.setattr(module, "LOCK_SECONDS", 1)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)


def test_a_lock_that_does_not_come_free_is_unavailable(impatient, database):
    with database.begin() as connection:
        put(connection, "mine")
    with another(database) as beside, database.begin() as connection:
        connection.execute(update(system_settings).values(value="off"))
        with pytest.raises(DatabaseUnavailable), beside.begin() as other:
            other.execute(update(system_settings).values(value="no"))
    is_fine(database)


@BOTH_SERVERS
def test_of_two_that_wait_for_each_other_one_is_unavailable_and_the_other_goes_on(database):
    with database.begin() as connection:
        put(connection, "a")
        put(connection, "b")
    start = Barrier(2)

    def cross(order):
        try:
            with database.begin() as connection:
                for name in order:
                    connection.execute(
                        update(system_settings)
                        .where(system_settings.c.name == name)
                        .values(value=order)
                    )
                    if name == order[0]:
                        start.wait()
        except DatabaseUnavailable:
            return None
        return order

    with ThreadPoolExecutor(2) as threads:
        done = [order for order in threads.map(cross, ("ab", "ba")) if order]
    assert len(done) == 1
    with database.read() as connection:
        values = connection.execute(select(system_settings.c.value)).scalars()
        assert set(values) == set(done)


@BOTH_SERVERS
def test_nothing_is_written_in_a_read_transaction(database):
    with pytest.raises(DatabaseUnavailable), database.read() as connection:
        put(connection, "x")
    is_fine(database)


def connected(server, user):
    """A connection beside the pool, by the driver alone."""
    if isinstance(server, PostgreSQL):
        return psycopg.connect(host=server.folder, user=user, dbname="billing", autocommit=True)
    return pymysql.connect(unix_socket=str(server._socket), user=user, autocommit=True)


def administer(server, *statements):
    name = "espf" if isinstance(server, PostgreSQL) else "root"
    with connected(server, name) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@contextmanager
def clerk(server):
    """Another user of the server, who is no superuser: a Database for it."""
    if isinstance(server, PostgreSQL):
        administer(
            server,
            "CREATE ROLE clerk LOGIN",
            "GRANT ALL ON SCHEMA espf TO clerk",
            "GRANT ALL ON ALL TABLES IN SCHEMA espf TO clerk",
        )
    else:
        administer(
            server,
            "CREATE USER clerk@localhost",
            "GRANT ALL ON espf.* TO clerk@localhost",
            "GRANT ALL ON billing.* TO clerk@localhost",
        )
    opened = Database.open(re.sub("//(espf|root)@", "//clerk@", server.url()))
    yield opened
    opened.close()


@servers
def test_a_server_that_takes_no_writes_since_a_failover_is_unavailable(kind):
    read_only = {
        PostgreSQL: "ALTER DATABASE billing SET default_transaction_read_only = on",
        MariaDB: "SET GLOBAL read_only = 1",
    }
    with private(kind) as (server, _), clerk(server) as database:
        administer(server, read_only[kind])
        with pytest.raises(DatabaseUnavailable), database.begin() as connection:
            put(connection, "x")


@servers
def test_too_many_connections_are_unavailable_and_no_fault_of_the_settings(kind):
    few = {
        PostgreSQL: "ALTER ROLE clerk CONNECTION LIMIT 1",
        MariaDB: "SET GLOBAL max_connections = 10",
    }
    with private(kind) as (server, _), clerk(server) as database:
        administer(server, few[kind])
        with ExitStack() as held:
            with suppress(psycopg.OperationalError, pymysql.OperationalError):
                for _ in range(12):
                    held.enter_context(connected(server, "clerk"))
            with pytest.raises(DatabaseUnavailable):
                is_fine(database)

        # The server takes a moment to see that the others have gone.
        deadline = time.monotonic() + 60
        while True:
            try:
                is_fine(database)
                break
            except DatabaseUnavailable:
                assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("where", "plain"),
    [
        ("localhost/billing?unix_socket=/run/mysqld.sock", True),
        ("localhost/billing?unix_socket=/run/mysqld.sock&ssl_ca=/etc/ca.pem", False),
        ("127.0.0.1/billing", False),
    ],
)
def test_only_what_stays_on_the_machine_is_not_encrypted(where, plain):
    dialect = mariadb.MariadbDialect(make_url(f"mysql://espf@{where}"))
    engine = dialect.engine()
    _, options = engine.dialect.create_connect_args(engine.url)
    assert bool(options.get("ssl_disabled")) is plain
    dialect.close()


@servers
def test_a_wrong_password_user_or_database_is_a_fault_of_the_settings(kind):
    with private(kind, tcp=True) as (server, _):
        if kind is PostgreSQL:
            trusted = "local all all trust\nhost all espf 127.0.0.1/32 trust\n"
            access = f"{trusted}host all all 127.0.0.1/32 scram-sha-256\n"
            (server.folder / "data" / "pg_hba.conf").write_text(access)
            server._execute("CREATE ROLE clerk LOGIN PASSWORD 'right'", "SELECT pg_reload_conf()")
        else:
            administer(server, "CREATE USER clerk@'127.0.0.1' IDENTIFIED BY 'right'")
        url = server.url()
        scheme, _, rest = url.partition("://")
        place = rest.partition("@")[2]
        for wrong in (
            f"{scheme}://clerk:wrong@{place}",
            f"{scheme}://nobody:x@{place}",
            server.url("nowhere") if kind is PostgreSQL else f"{scheme}://clerk:wrong@{place}",
        ):
            database = Database.open(wrong)
            with pytest.raises(SettingsError, match="refuses") as raised:
                is_fine(database)
            assert "wrong@" not in str(raised.value)
            database.close()


@pytest.mark.databases("sqlite")
def test_a_file_that_is_no_database_is_unavailable(database, tmp_path):
    (tmp_path / "odd.db").write_bytes(b"This is no database, however long it is." * 100)
    odd = Database.open(f"sqlite:///{tmp_path / 'odd.db'}")
    with pytest.raises(DatabaseUnavailable), odd.read() as connection:
        names(connection)
    odd.close()
