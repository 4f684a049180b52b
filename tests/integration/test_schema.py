"""The tables have one history, which leads to what `db/tables.py` says, from wherever it starts.

What the accounts of a server must be allowed to do, and what they need not, is tested here, too.
"""

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import psycopg
import pymysql
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from databases import Store
from desk import PASSWORD, Desk
from espf import journal, subscriptions
from espf.crypto import Sealer
from espf.db import home, schema, tables
from espf.db.database import Database
from espf.errors import SettingsError
from house import House
from servers import MariaDB
from webhook import Webhook

FIRST_RELEASE = Path(__file__).with_name("first_release.sql").read_text()


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database.open(url)
    try:
        yield database
    finally:
        database.close()


def set_up(url: str) -> list[str]:
    with opened(url) as database, database.begin() as connection:
        return schema.set_up(connection, database.dialect)


def pending(url: str) -> list[str]:
    with opened(url) as database, database.read() as connection:
        return schema.pending(connection, database.dialect)


def noted(url: str, number: str | None) -> None:
    """Write another number of the last step, or none."""
    with opened(url) as database, database.begin() as connection:
        table = schema._version_table(database.dialect)
        change = (
            f"UPDATE {table} SET version_num = '{number}'" if number else f"DELETE FROM {table}"
        )
        connection.exec_driver_sql(change)


class Cut(Exception):
    """The upgrade was cut off."""


@contextmanager
def cut_off(database: Database, after: int) -> Iterator[None]:
    """The database loses us before the next statement that defines or stores something."""
    left = after

    def executing(_connection, _cursor, statement, *_rest) -> None:
        nonlocal left
        if re.match(r"\s*(CREATE|ALTER|DROP|INSERT|UPDATE|--)", statement):
            if left == 0:
                raise Cut
            left -= 1

    event.listen(database._engine, "before_cursor_execute", executing)
    try:
        yield
    finally:
        event.remove(database._engine, "before_cursor_execute", executing)


def set_up_until_cut_off(url: str, after: int) -> bool:
    """Whether it was cut off before its end."""
    with opened(url) as database:
        try:
            with cut_off(database, after), database.begin() as connection:
                schema.set_up(connection, database.dialect)
        except Cut:
            return True
    return False


def catalogue(url: str) -> list[tuple[object, ...]]:
    """All that the database knows of our tables, in its own words."""
    with opened(url) as database, database.read() as connection:
        kind = connection.dialect.name
        if kind == "mysql":
            names = [f"`{database.dialect.home}`.{name}" for name in tables.metadata.tables]
            ask = connection.exec_driver_sql
            shown = [ask(f"SHOW CREATE TABLE {name}").one()[1] for name in sorted(names)]
            return [of_mariadb(text) for text in shown]
        question = {"sqlite": OF_SQLITE, "postgresql": OF_POSTGRESQL}[kind]
        return [tuple(row) for row in connection.exec_driver_sql(question)]


def of_mariadb(text: str) -> tuple[str, ...]:
    """What SHOW CREATE TABLE says, indexes by name and not by age."""
    every = [line.rstrip(",") for line in re.sub(r"AUTO_INCREMENT=\d+ ", "", text).splitlines()]
    indexes = [line for line in every if line.startswith("  KEY")]
    return (*(line for line in every if line not in indexes), *sorted(indexes))


OF_SQLITE = """
SELECT type, name, replace(sql, 'CREATE TABLE IF NOT EXISTS', 'CREATE TABLE') FROM sqlite_master
WHERE name NOT LIKE '%alembic%' AND type <> 'trigger' ORDER BY 1, 2
"""

OF_POSTGRESQL = """
WITH ours AS (
    SELECT oid, relname, relkind, relpersistence, reloptions FROM pg_class
    WHERE relnamespace = current_schema::regnamespace AND relname !~ 'alembic|worker_sleeps'
)
SELECT relname::text, relkind::text, relpersistence::text, reloptions::text FROM ours
UNION ALL
SELECT relname, attname, format_type(atttypid, atttypmod), concat_ws(
    ' ', attnum, attnotnull, attidentity, attcollation::regcollation, attstorage,
    pg_get_expr(adbin, adrelid))
FROM ours JOIN pg_attribute a ON attrelid = ours.oid LEFT JOIN pg_attrdef d
ON adrelid = attrelid AND adnum = attnum WHERE relkind IN ('r', 'p') AND attnum > 0
UNION ALL
SELECT relname, conname, contype::text, pg_get_constraintdef(c.oid)
FROM ours JOIN pg_constraint c ON conrelid = ours.oid
UNION ALL
SELECT relname, '', '', pg_get_indexdef(oid) FROM ours WHERE relkind IN ('i', 'I')
UNION ALL
SELECT relname, seqtypid::regtype::text, '', concat_ws(' ', seqstart, seqmax, seqcache, seqcycle)
FROM ours JOIN pg_sequence ON seqrelid = oid
ORDER BY 1, 2, 3, 4
"""


@pytest.fixture(scope="session")
def said(stores: Callable[[str], Store]) -> Callable[[str], list[tuple[object, ...]]]:
    """The catalogue of what `db/tables.py` says, by database."""

    @cache
    def catalogue_of(kind: str) -> list[tuple[object, ...]]:
        url = stores(kind).empty("said")
        with opened(url) as database, database.begin() as connection:
            home.make(connection, database.dialect.home)
            tables.metadata.create_all(connection, checkfirst=False)
        return catalogue(url)

    return catalogue_of


@pytest.fixture
def expected(
    said: Callable[[str], list[tuple[object, ...]]], database_kind: str
) -> list[tuple[object, ...]]:
    return said(database_kind)


def lines(found: list[tuple[object, ...]]) -> list[str]:
    return ["\n".join(map(str, row)) for row in found]


# One history


def test_the_history_is_one_line_that_ends_with_this_release():
    history = ScriptDirectory(schema._HISTORY)
    steps = [step.revision for step in history.walk_revisions()]
    assert steps[0] == schema.REVISION == history.get_current_head()
    assert steps == sorted(steps, reverse=True)
    assert len(history.get_bases()) == 1


def test_all_steps_together_make_what_the_tables_are_said_to_be(store, expected):
    url = store.empty()
    assert [step[:4] for step in set_up(url)] == ["0001"]
    assert len(expected) >= len(tables.metadata.tables)
    assert lines(catalogue(url)) == lines(expected)


def test_setting_up_again_does_nothing(database_url):
    assert set_up(database_url)
    before = catalogue(database_url)
    assert set_up(database_url) == []
    assert pending(database_url) == []
    assert catalogue(database_url) == before


def test_of_many_at_the_same_time_one_sets_up_and_the_others_wait(database_url, expected):
    together = threading.Barrier(4)

    def one() -> list[str]:
        with opened(database_url) as database:
            # Also a connection that was made before there was anything.
            with database.read() as connection:
                assert schema.pending(connection, database.dialect)
                together.wait()
            with database.begin() as connection:
                done = schema.set_up(connection, database.dialect)
                subscriptions.add_catalogue(connection)
                return done

    with ThreadPoolExecutor(4) as threads:
        done = [future.result() for future in [threads.submit(one) for _ in range(4)]]
    assert sorted(map(len, done)) == [0, 0, 0, 1]
    assert lines(catalogue(database_url)) == lines(expected)


@pytest.mark.parametrize("after", [1, 9, 17])
def test_what_was_cut_off_is_completed_by_another_call(database_url, expected, after):
    assert set_up_until_cut_off(database_url, after)
    with opened(database_url) as database, database.read() as connection:
        with pytest.raises(SettingsError, match="evctl init"):
            schema.require_current(connection, database.dialect)
        if connection.dialect.name != "mysql":
            assert not schema.is_set_up(connection, database.dialect)
    assert set_up(database_url)
    assert lines(catalogue(database_url)) == lines(expected)


def test_a_database_of_a_newer_release_is_refused_by_everybody(database_url):
    set_up(database_url)
    noted(database_url, "9999")
    before = catalogue(database_url)
    with opened(database_url) as database:
        for work in (schema.require_current, schema.pending, schema.set_up):
            with (
                pytest.raises(SettingsError, match=r"newer ESPF has made this.*revision 9999"),
                database.begin() as connection,
            ):
                work(connection, database.dialect)
    assert catalogue(database_url) == before


def test_a_database_without_tables_is_refused_until_it_is_set_up(database_url):
    with opened(database_url) as database:
        with (
            database.read() as connection,
            pytest.raises(SettingsError, match="has not been set up; run 'evctl init' first"),
        ):
            schema.require_current(connection, database.dialect)
        with database.begin() as connection:
            schema.set_up(connection, database.dialect)
        with database.read() as connection:
            schema.require_current(connection, database.dialect)


def test_tables_of_somebody_else_are_not_taken_for_ours(store, database_url):
    with opened(database_url) as database:
        with database.begin() as connection:
            home.make(connection, database.dialect.home)
            connection.exec_driver_sql("CREATE TABLE Users (name VARCHAR(9))")
            connection.exec_driver_sql("INSERT INTO Users VALUES ('billing')")
        with (
            pytest.raises(SettingsError, match=r"tables of other origin .*: [Uu]sers$"),
            database.begin() as connection,
        ):
            schema.set_up(connection, database.dialect)
        with database.read() as connection:
            assert not schema.is_set_up(connection, database.dialect)
            assert connection.exec_driver_sql("SELECT * FROM Users").scalars().all() == ["billing"]


def test_the_billings_own_alembic_is_left_alone(store, database_url):
    with opened(database_url) as database, database.begin() as connection:
        billing = f"{database.dialect.billing_schema}." if database.dialect.billing_schema else ""
        connection.exec_driver_sql(
            f"CREATE TABLE {billing}alembic_version (version_num VARCHAR(12))"
        )
        connection.exec_driver_sql(f"INSERT INTO {billing}alembic_version VALUES ('b1')")
    set_up(database_url)
    with opened(database_url) as database, database.read() as connection:
        version = connection.exec_driver_sql(f"SELECT version_num FROM {billing}alembic_version")
        assert version.scalars().all() == ["b1"]
        schema.require_current(connection, database.dialect)


# PostgreSQL's own


@pytest.mark.databases("postgresql")
def test_the_live_tables_are_vacuumed_by_count_and_without_long_pauses(database_url):
    set_up(database_url)
    with opened(database_url) as database, database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT relname, reloptions FROM pg_class WHERE relname LIKE 'event_%%' "
            "AND reloptions::text LIKE '%%vacuum%%' "
            "AND relnamespace = 'espf'::regnamespace ORDER BY 1"
        ).all()
    wanted = sorted(f"{name}={value}" for name, value in tables.LIVE.items())
    assert [name for name, _ in found] == ["event_notifications", "event_queue"]
    assert [sorted(options) for _, options in found] == [wanted, wanted]


@pytest.mark.databases("postgresql")
def test_the_subscribers_of_an_event_are_looked_up_not_searched_for(database_url):
    set_up(database_url)
    with opened(database_url) as database, database.begin() as connection:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = on")
        connection.exec_driver_sql(
            "INSERT INTO event_subscriptions "
            "SELECT 3, 'Custom/' || n, 1, 1 FROM generate_series(1, 120) AS n"
        )
        connection.exec_driver_sql("ANALYZE event_subscriptions")
        plan = connection.exec_driver_sql(
            "EXPLAIN SELECT i_event_handler FROM event_subscriptions "
            "WHERE i_env = 3 AND event_type = 'Custom/60' AND active = 1"
        ).scalars()
        assert "Seq Scan" not in "".join(plan)


@pytest.mark.databases("postgresql")
def test_no_session_keeps_numbers_back(database_url):
    """A number that a session has in its pocket would come out of the order of commits."""
    set_up(database_url)
    with opened(database_url) as database, database.read() as connection:
        sequences = connection.exec_driver_sql(
            "SELECT sequencename, cache_size FROM pg_sequences WHERE schemaname = 'espf'"
        ).all()
    assert {"event_queue_i_event_seq", "worker_sleeps"} <= {name for name, _ in sequences}
    assert {cache for _, cache in sequences} == {1}


# The first release


@pytest.fixture
def first_release(tmp_path: Path) -> Path:
    """A database of the first release with work in it."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST_RELEASE)
        connection.execute("PRAGMA journal_mode = WAL")
    return path


def dumped(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def rows(path: Path, question: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(question).fetchall()


@pytest.mark.databases("sqlite")
def test_a_database_of_the_first_release_gets_the_same_tables(first_release, expected):
    set_up(f"sqlite:///{first_release}")
    now = [row for row in catalogue(f"sqlite:///{first_release}") if row[1] != "Subscribers"]
    assert lines(now) == lines(expected)
    assert rows(first_release, "PRAGMA foreign_key_check") == []
    assert rows(first_release, "PRAGMA integrity_check") == [("ok",)]


def test_what_waits_in_the_first_release_goes_on_to_wait(first_release):
    set_up(f"sqlite:///{first_release}")
    assert rows(
        first_release,
        "SELECT i_event, event_type, ordering_key, start_time, notified, position "
        "FROM Event_Queue ORDER BY 1",
    ) == [
        (4, "Account/Blocked", "account:541", None, 1, None),
        (5, "Account/ID/Changed", "account:541", None, 1, None),
        (7, "Custom/X", None, "2026-11-23 01:46:44.000", 0, None),
        (8, "Account/ID/Changed", "account:542", None, 1, None),
        (9, "Account/ID/Changed", "account:541", None, 1, None),
        (10, "Custom/X", "k:10", "2026-11-22 01:30:00.000", 1, 12),
    ]
    assert rows(
        first_release,
        "SELECT i_event_handler, position, i_event, shard, status, attempts, ordering_key, "
        "next_attempt_at FROM Event_Notifications ORDER BY 1, 2",
    ) == [
        (1, 4, 4, 13, "queued", 1, "account:541", "2026-11-22 01:46:49.625"),
        (1, 5, 5, 13, "queued", 0, None, None),
        (1, 8, 8, 14, "queued", 0, None, None),
        (1, 9, 9, 13, "queued", 0, None, None),
        (1, 12, 10, 7, "failed", 3, "k:10", "2026-11-22 01:31:00.000"),
    ]


def test_no_number_of_the_first_release_is_given_out_again(first_release):
    with closing(sqlite3.connect(first_release)) as connection, connection:
        for table in ("Event_Queue", "Event_Notifications", "Event_Handlers"):
            connection.execute(f"DELETE FROM {table}")
    set_up(f"sqlite:///{first_release}")
    assert sorted(rows(first_release, "SELECT name, seq FROM sqlite_sequence")) == [
        ("Configurations", 1),
        ("Event_Handlers", 1),
        ("Event_Queue", 12),
    ]


def test_a_result_of_a_worker_of_the_first_release_comes_under_an_old_epoch(first_release):
    set_up(f"sqlite:///{first_release}")
    assert rows(first_release, "SELECT i_event_handler, worker, epoch FROM Handler_Leases") == [
        (1, "", 2)
    ] * len(range(16))
    shards = rows(first_release, "SELECT shard FROM Handler_Leases ORDER BY 1")
    assert shards == [(shard,) for shard in range(16)]


def test_the_journal_of_the_first_release_can_be_read_with_what_was_said(first_release):
    before = dict(
        rows(first_release, "SELECT i_log, request FROM Provisioning_Log_Bodies WHERE i_log < 5")
    )
    set_up(f"sqlite:///{first_release}")
    with opened(f"sqlite:///{first_release}") as database, database.read() as connection:
        (delivered,) = journal.of_event(connection, 2)
        (retried,) = journal.of_event(connection, 4)
        (orphan,) = journal.of_event(connection, 6)
    assert delivered.variables
    assert '"i_account":542' in delivered.variables
    # Two characters have got a meaning since.
    assert "\x01\x02" in before[1]
    assert delivered.request == before[1].replace("\x01\x02", "\N{REPLACEMENT CHARACTER}" * 2)
    assert retried.request == before[4]
    assert retried.response
    assert retried.response.startswith("HTTP 503 Service Unavailable")
    assert (orphan.variables, orphan.request, orphan.response) == ('{"a":1}', None, None)


def test_administrators_handlers_and_logins_of_the_first_release_stay(first_release):
    set_up(f"sqlite:///{first_release}")
    users = rows(first_release, "SELECT i_user, login, password_hash, rights FROM Users")
    assert users == [
        (1, "admin", "argon2 admin", ""),
        (2, "espf-handlers", "argon2 espf-handlers", "sim.keys"),
    ]
    assert rows(first_release, "SELECT hex(digest), i_user FROM Access_Tokens") == [("01020304", 1)]
    assert rows(first_release, "SELECT name, enabled, paused FROM Event_Handlers") == [
        ("EventSender", 1, 0)
    ]
    assert rows(first_release, "SELECT count(*) FROM Event_Subscriptions") == [(3,)]
    assert rows(first_release, "SELECT name FROM Event_Types WHERE i_event_type > 10000") == [
        ("Custom/X",)
    ]


def test_a_view_of_somebody_else_goes_on_to_see_the_tables(first_release):
    with closing(sqlite3.connect(first_release)) as connection:
        connection.execute("CREATE VIEW Waiting AS SELECT i_event FROM Event_Queue")
    set_up(f"sqlite:///{first_release}")
    assert len(rows(first_release, "SELECT * FROM Waiting")) == 6


def test_an_upgrade_that_is_cut_off_anywhere_leaves_the_first_release_as_it_was(first_release):
    before = dumped(first_release)
    after = 0
    while set_up_until_cut_off(f"sqlite:///{first_release}", after):
        assert dumped(first_release) == before
        after += 7
    assert after > 60
    assert pending(f"sqlite:///{first_release}") == []


RULE = """
[[rule]]
event = "Account/ID/Changed"
table = "Subscribers"
on = "update"
changed = ["name"]
key = { column = "i_subscriber", prefix = "account" }
variables = [{ name = "i_account", column = "i_subscriber" }]
"""


@pytest.fixture
def old_desk(tmp_path: Path, first_release: Path) -> Desk:
    """evctl over an installation of the first release, with a rule and its trigger."""
    desk = Desk(tmp_path)
    desk.database_file.parent.mkdir()
    first_release.rename(desk.database_file)
    Sealer.create(desk.key_file)
    rules = tmp_path / "rules.toml"
    rules.write_text(RULE)
    desk.environment["ESPF_RULES"] = str(rules)
    return desk


def test_nothing_works_with_the_tables_of_the_first_release(old_desk):
    for words in (["event", "list"], ["run"], ["capture", "verify"], ["handler", "list"]):
        assert "made by an older ESPF" in old_desk.fails(2, *words)


def test_init_upgrades_and_compiles_the_triggers_anew(old_desk):
    assert "Tables: 0001" in old_desk("init")
    assert "1 triggers are installed as compiled" in old_desk("capture", "verify")
    old_desk.sql("UPDATE Subscribers SET name = 'n4'")
    assert old_desk.sql(
        "SELECT i_event, ordering_key, notified FROM Event_Queue WHERE i_event > 10"
    ) == [(13, "account:541", 1)]


def test_triggers_that_cannot_be_compiled_leave_everything_as_it_was(old_desk):
    old_desk.sql("ALTER TABLE Subscribers RENAME COLUMN name TO title")
    before = dumped(old_desk.database_file)
    assert "name" in old_desk.run("init").stderr
    assert dumped(old_desk.database_file) == before


# evctl init --check


def test_check_says_what_is_pending_and_changes_nothing(old_desk):
    before = dumped(old_desk.database_file)
    checked = old_desk.run("init", "--check")
    assert checked.exit_code == 1
    assert checked.stdout.startswith("pending  0001  ")
    assert dumped(old_desk.database_file) == before
    old_desk("init")
    assert "(revision 0001)" in old_desk("init", "--check")


def test_check_makes_no_database(tmp_path):
    desk = Desk(tmp_path)
    assert "run 'evctl init' to make it" in desk.fails(2, "init", "--check")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.databases("sqlite")
def test_check_is_refused_for_a_newer_database(desk):
    noted(desk.environment["ESPF_DATABASE_URL"], "9999")
    assert "install the newer one" in desk.fails(2, "init", "--check")


# Accounts


Say = Callable[..., None]


@pytest.fixture
def administrator(store: Store, database_url: str, database_kind: str) -> Iterator[Say]:
    """A database administrator, who runs statements in the billing database.

    There are the accounts `installer`, `runner` and `app`, which may not do anything yet, and one
    billing table.
    """
    accounts = ("installer", "runner", "app")
    if database_kind == "postgresql":
        with psycopg.connect(database_url, autocommit=True) as connection:
            for name in accounts:
                there = "SELECT 1 FROM pg_roles WHERE rolname = %s"
                if not connection.execute(there, [name]).fetchone():
                    connection.execute(f"CREATE ROLE {name} LOGIN")
            connection.execute(
                "CREATE TABLE subscribers (id int PRIMARY KEY, i_env int, name text)"
            )
            yield lambda *all: [connection.execute(each) for each in all]
        return
    assert isinstance(store, MariaDB)
    with store._connect() as connection, connection.cursor() as cursor:
        for name in accounts:
            cursor.execute(f"CREATE OR REPLACE USER '{name}'@'localhost'")
        cursor.execute("USE billing")
        cursor.execute("CREATE TABLE subscribers (id int PRIMARY KEY, i_env int, name text)")
        cursor.execute("INSERT INTO subscribers VALUES (1, 1, 'old')")
        yield lambda *all: [cursor.execute(each) for each in all]
        for name in accounts:
            cursor.execute(f"DROP USER '{name}'@'localhost'")


def as_account(url: str, name: str) -> str:
    return make_url(url).set(username=name).render_as_string(hide_password=False)


#: What the how-to pages tell a database administrator to run.
PAGES = Path(__file__).parents[2] / "docs/how-to"


def told(kind: str, heading: str) -> list[str]:
    """The statements in the first block of SQL under a heading of the page."""
    page = (PAGES / f"install-on-{kind}.md").read_text()
    block = page.partition(f"# {heading}\n")[2].partition("```sql\n")[2].partition("```")[0]
    statements = re.sub(r"--.*", "", block).split(";")
    assert len(statements) > 1, heading
    return [one.strip() for one in statements if one.strip()]


@pytest.mark.databases("postgresql", "mariadb")
def test_an_installer_without_rights_is_told_what_an_administrator_has_to_run(
    administrator, database_url, database_kind
):
    if database_kind == "mariadb":
        administrator("GRANT SELECT ON billing.* TO 'installer'@'localhost'")
    url = as_account(database_url, "installer")
    with pytest.raises(SettingsError, match="administrator run: CREATE") as refused:
        set_up(url)
    administrator(*str(refused.value).partition("administrator run: ")[2].split("; "))
    assert set_up(url)
    assert pending(url) == []


@pytest.mark.databases("postgresql")
def test_an_installer_never_makes_tables_among_the_billings(administrator, database_url):
    administrator("CREATE SCHEMA espf", "GRANT CREATE ON SCHEMA public TO installer")
    with pytest.raises(SettingsError, match="ALTER SCHEMA espf OWNER TO installer"):
        set_up(as_account(database_url, "installer"))
    with opened(database_url) as database, database.read() as connection:
        count = "SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'espf')"
        assert connection.exec_driver_sql(count).scalar_one() == 1


@pytest.mark.databases("postgresql", "mariadb")
async def test_the_rights_of_the_how_to_are_enough_to_run_and_no_more(
    administrator, database_url, database_kind, tmp_path
):
    administrator(*told(database_kind, "One account to install"))
    set_up(as_account(database_url, "installer"))
    administrator(*told(database_kind, "Another account to run"))
    with opened(as_account(database_url, "runner")) as database:
        with database.begin() as connection:
            schema.require_current(connection, database.dialect)
            subscriptions.add_catalogue(connection)
        house = House(database, Sealer.create(tmp_path / "espf.key"), tmp_path)
        async with Webhook() as webhook:
            house.handler(webhook.url)
            house.event(i_account=1)
            async with house.working():
                await house.until("finished")
        for statement in (
            f"CREATE TABLE {database.dialect.home}.more (a int)",
            "ALTER TABLE Event_Queue ADD COLUMN more int",
            "DROP TABLE Event_Queue",
            "UPDATE billing.subscribers SET name = 'x'"
            if database_kind == "mariadb"
            else "UPDATE subscribers SET name = 'x'",
        ):
            with (
                pytest.raises((DBAPIError, SettingsError)) as refused,
                database.begin() as connection,
            ):
                connection.exec_driver_sql(statement)
            assert re.search("denied|must be owner", str(refused.value)), statement


@pytest.mark.databases("postgresql", "mariadb")
def test_an_upgrade_by_the_account_that_only_runs_is_refused(
    administrator, database_url, database_kind
):
    administrator(*told(database_kind, "One account to install"))
    set_up(as_account(database_url, "installer"))
    administrator(*told(database_kind, "Another account to run"))
    runner = as_account(database_url, "runner")
    assert set_up(runner) == []
    noted(database_url, None)
    with pytest.raises(
        SettingsError, match=r"belongs to installer; run|account that installed them may"
    ):
        set_up(runner)


@pytest.mark.databases("postgresql", "mariadb")
def test_a_billing_program_needs_no_rights_on_our_tables(
    administrator, database_url, database_kind, tmp_path
):
    administrator(*told(database_kind, "One account to install"))
    app = "app" if database_kind == "postgresql" else "'app'@'localhost'"
    administrator(f"GRANT SELECT, INSERT, UPDATE, DELETE ON subscribers TO {app}")
    desk = Desk(tmp_path)
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rule]]\nevent = "Account/ID/Changed"\ntable = "subscribers"\non = "insert"\n'
        'key = { column = "id", prefix = "account" }\n'
        'variables = [{ name = "i_account", column = "id" }]\n'
    )
    desk.environment |= {
        "ESPF_DATABASE_URL": as_account(database_url, "installer"),
        "ESPF_RULES": str(rules),
    }
    desk("init", ESPF_ADMIN_PASSWORD=PASSWORD)
    desk("handler", "create", "1", "Sender", "--type", "EventSender", "--set",
         "EventSender.URL=http://127.0.0.1:1")  # fmt: skip
    desk("capture", "apply")
    insert = "INSERT INTO subscribers (id, i_env, name) VALUES (541, 1, 'new')"
    look = "SELECT count(*) FROM espf.event_queue"
    if database_kind == "postgresql":
        with psycopg.connect(as_account(database_url, "app"), autocommit=True) as connection:
            connection.execute(insert)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(look)
    else:
        socket = str(make_url(database_url).query["unix_socket"])
        with (
            pymysql.connect(
                unix_socket=socket, user="app", database="billing", autocommit=True
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(insert)
            with pytest.raises(pymysql.err.OperationalError, match="denied"):
                cursor.execute(look.replace("event_queue", "Event_Queue"))
    assert [event["key"] for event in desk.json("event", "list")] == ["account:541"]
