"""The database of an external system: what goes wrong there becomes the right verdict."""

import asyncio
import ipaddress
import sqlite3
import threading
import time
from pathlib import Path

import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from pydantic import SecretStr, TypeAdapter, ValidationError

from espf.errors import Misconfigured, Rejected, TryLater, Unreachable
from espf.handlers.base import Context
from espf.handlers.http import Http, HttpClient
from espf.handlers.networks import Networks
from espf.systems.sql import DatabaseUrl, SqlDatabase
from espf.testing import FakeBilling, FakeOutlet
from servers import MariaDB, PostgreSQL

SECRET = "what-nobody-may-see"
SECONDS = 1.0

#: A file is written by one at a time, and nobody serves it.
of_servers = pytest.mark.parametrize("kind", ["postgresql", "mariadb"], indirect=True)


@pytest.fixture(scope="module")
def servers():
    with PostgreSQL(tcp=True) as postgresql, MariaDB(tcp=True) as mariadb:
        yield {"postgresql": postgresql, "mariadb": mariadb}


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def kind(request):
    return request.param


@pytest.fixture
def url(kind, servers, tmp_path):
    """A database with one small table."""
    if kind == "sqlite":
        made = f"sqlite:///{tmp_path / 'system.db'}"
        (tmp_path / "system.db").touch()
    else:
        made = servers[kind].empty("system").partition("?")[0]
    run_by_hand(kind, made, "CREATE TABLE users (name VARCHAR(8) NOT NULL UNIQUE)")
    return made


def by_hand(kind, url):
    parts = sa.make_url(url)
    if kind == "sqlite":
        return sqlite3.connect(parts.database)
    if kind == "postgresql":
        return psycopg.connect(url)
    return pymysql.connect(
        host=parts.host, port=parts.port, user="root", database=parts.database, ssl_disabled=True
    )


def run_by_hand(kind, url, *statements):
    connection = by_hand(kind, url)
    for statement in statements:
        connection.cursor().execute(statement)
    connection.commit()
    connection.close()


@pytest.fixture
async def context():
    async with HttpClient() as client:
        yield Context(Http(client, []), FakeBilling(), 1, FakeOutlet())


@pytest.fixture
async def database(url):
    opened = SqlDatabase(SecretStr(url), SECONDS, 2)
    yield opened
    await opened.close()


def is_frozen(server):
    """Whether all threads of the server have stopped, which takes a moment."""
    tasks = Path(f"/proc/{server._process.pid}/task").glob("*/stat")
    return all(task.read_text().rpartition(") ")[2].startswith("T") for task in tasks)


def insert(name):
    statement = sa.text("INSERT INTO users (name) VALUES (:name)").bindparams(name=name)
    return lambda connection: connection.execute(statement)


def names(connection):
    return list(connection.scalars(sa.text("SELECT name FROM users ORDER BY name")))


async def test_a_transaction_is_done_whole_or_not_at_all(database, context):
    await database.run(context, insert("a"), writes=True)

    def fails(connection):
        insert("b")(connection)
        raise Rejected("no")

    with pytest.raises(Rejected, match=r"^no$"):
        await database.run(context, fails, writes=True)
    assert await database.run(context, names) == ["a"]


async def test_what_a_fault_means(database, context, kind):
    def does(statement):
        return lambda connection: connection.execute(sa.text(statement))

    with pytest.raises(Misconfigured, match=r"nowhere"):
        await database.run(context, does("SELECT 1 FROM nowhere"))
    with pytest.raises(Misconfigured):
        await database.run(context, does("SELECT nothing FROM users"))
    await database.run(context, insert("secret"), writes=True)
    # Somebody else was quicker: what there is to do is compared anew.
    with pytest.raises(TryLater) as caught:
        await database.run(context, insert("secret"), writes=True)
    assert "secret" not in str(caught.value)
    with pytest.raises(Rejected) as caught:
        await database.run(context, insert(None), writes=True)
    assert "the data are refused" in str(caught.value)
    if kind == "postgresql":
        with pytest.raises(Rejected, match="the data are refused"):
            await database.run(context, insert("\0"), writes=True)
    if kind != "sqlite":
        with pytest.raises(Rejected, match=r"too long.* \((22001|1406)\)") as caught:
            await database.run(context, insert(SECRET), writes=True)
        assert SECRET not in str(caught.value)


async def test_a_row_that_somebody_else_holds_is_tried_later(database, context, kind, url):
    holding = by_hand(kind, url)
    try:
        holding.cursor().execute("BEGIN IMMEDIATE" if kind == "sqlite" else "BEGIN")
        holding.cursor().execute("INSERT INTO users (name) VALUES ('a')")
        with pytest.raises(TryLater) as caught:
            await database.run(context, insert("a"), writes=True)
        assert not isinstance(caught.value, Unreachable)
    finally:
        holding.rollback()
        holding.close()
    # What was tried later may have been done by now, after all.
    await database.run(context, insert("b"), writes=True)


@of_servers
async def test_two_who_wait_for_one_another_do_not_wait_for_ever(context, kind, url):
    """One of them is sent away, to be done again."""
    database = SqlDatabase(SecretStr(url), 10 * SECONDS, 2)
    run_by_hand(kind, url, "INSERT INTO users (name) VALUES ('a'), ('b')")
    both = threading.Barrier(2)

    def changes(first, second):
        def work(connection):
            statement = sa.text("UPDATE users SET name = name WHERE name = :name")
            connection.execute(statement, {"name": first})
            both.wait(10)
            connection.execute(statement, {"name": second})

        return work

    results = await asyncio.gather(
        database.run(context, changes("a", "b"), writes=True),
        database.run(context, changes("b", "a"), writes=True),
        return_exceptions=True,
    )
    await database.close()
    failed = [one for one in results if one is not None]
    assert len(failed) == 1
    assert type(failed[0]) is TryLater


@of_servers
async def test_a_server_that_was_restarted_is_used_again_at_once(database, context, kind, servers):
    await database.run(context, insert("a"), writes=True)
    servers[kind].stop()
    try:
        with pytest.raises(Unreachable):
            await database.run(context, names)
    finally:
        servers[kind].start()
    await database.run(context, names)
    servers[kind].stop()
    servers[kind].start()
    # The connection that was kept is broken, and nobody has noticed it.
    assert await database.run(context, names) == ["a"]


@of_servers
async def test_a_server_that_is_frozen_holds_up_nobody(database, context, kind, servers):
    """Neither the handler nor, when it hangs up, its threads."""
    await database.run(context, names)
    with servers[kind].paused():
        while not is_frozen(servers[kind]):
            await asyncio.sleep(0.01)
        with pytest.raises(TryLater):
            await database.run(context, names)
        waiting = asyncio.create_task(database.run(context, names))
        await asyncio.sleep(0.1)
        waiting.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await database.close()
        assert time.monotonic() - began < 10 * SECONDS
    assert await database.run(context, names) == []


async def test_a_wrong_log_in_is_a_matter_of_the_settings(context, servers):
    postgresql, mariadb = servers["postgresql"], servers["mariadb"]
    postgresql.empty("system")
    run_by_hand("postgresql", postgresql.url("system"), "CREATE ROLE named LOGIN PASSWORD 'x'")
    mariadb.empty("system")
    entry = postgresql.folder / "data" / "pg_hba.conf"
    before = entry.read_text()
    entry.write_text(f"host all named 127.0.0.1/32 scram-sha-256\n{before}")
    try:
        run_by_hand("postgresql", postgresql.url("system"), "SELECT pg_reload_conf()")
        for url in (
            f"postgresql://named:{SECRET}@127.0.0.1:{postgresql.port}/system",
            f"postgresql://nobody:{SECRET}@127.0.0.1:{postgresql.port}/system",
            f"postgresql://espf@127.0.0.1:{postgresql.port}/nowhere",
            f"mariadb://nobody:{SECRET}@127.0.0.1:{mariadb.port}/system",
            f"mysql://root@127.0.0.1:{mariadb.port}/nowhere",
        ):
            database = SqlDatabase(SecretStr(url), SECONDS, 1)
            with pytest.raises(Misconfigured) as caught:
                await database.run(context, names)
            assert SECRET not in str(caught.value)
            assert SECRET not in repr(vars(database))
            await database.close()
    finally:
        entry.write_text(before)
        run_by_hand(
            "postgresql", postgresql.url("system"), "SELECT pg_reload_conf()", "DROP ROLE named"
        )


async def test_rights_that_are_missing_are_a_matter_of_the_settings(context, servers):
    for kind, server in servers.items():
        url = server.empty("system").partition("?")[0]
        name = "espf" if kind == "postgresql" else "root"
        statements = ["CREATE TABLE users (name VARCHAR(8))", "CREATE ROLE reader LOGIN"]
        if kind == "mariadb":
            statements = [statements[0], "CREATE USER reader", "GRANT SELECT ON users TO reader"]
        run_by_hand(kind, url, *statements)
        database = SqlDatabase(SecretStr(url.replace(f"{name}@", "reader@")), SECONDS, 1)
        try:
            with pytest.raises(Misconfigured, match="denied"):
                await database.run(context, insert("a"), writes=True)
        finally:
            await database.close()
            run_by_hand(kind, url, "DROP ROLE reader" if name == "espf" else "DROP USER reader")


async def test_a_file_that_is_missing_is_not_made(context, tmp_path):
    database = SqlDatabase(SecretStr(f"sqlite:///{tmp_path / 'mistyped.db'}"), SECONDS, 1)
    with pytest.raises(Misconfigured, match="CANTOPEN"):
        await database.run(context, names)
    assert not (tmp_path / "mistyped.db").exists()
    (tmp_path / "mistyped.db").write_text("this is no database, but a text" * 100)
    with pytest.raises(Misconfigured, match="NOTADB"):
        await database.run(context, names)
    await database.close()


async def test_networks_hold_for_databases_as_well(url, kind):
    """What is on this machine, such as a file, is where 127.0.0.1 is."""
    async with HttpClient() as client:
        client._gate.confine(Networks(()))
        database = SqlDatabase(SecretStr(url), SECONDS, 1)
        context = Context(Http(client, []), FakeBilling(), 1, FakeOutlet())
        with pytest.raises(Misconfigured, match="in no network"):
            await database.run(context, names)
        await database.close()


async def test_a_socket_is_here_whatever_host_is_named_beside_it():
    async with HttpClient() as client:
        client._gate.confine(Networks((ipaddress.IPv4Network("192.0.2.0/24"),)))
        context = Context(Http(client, []), FakeBilling(), 1, FakeOutlet())
        for url in (
            "postgresql://espf@192.0.2.1/system?host=/run/postgresql",
            "mariadb://espf@192.0.2.1/system?unix_socket=/run/mysqld/mysqld.sock",
        ):
            database = SqlDatabase(SecretStr(url), SECONDS, 1)
            with pytest.raises(Misconfigured, match=r"127\.0\.0\.1 is in no network"):
                await database.run(context, names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"postgres://user:{SECRET}@host/name", "it is not postgresql://"),
        (f"{SECRET}", "it is not postgresql://"),
        (f"postgresql://user:{SECRET}@host:port/name", "it is not postgresql://"),
        (f"oracle://user:{SECRET}@host/name", "it is not postgresql://"),
        (f"postgresql://user:{SECRET}@/name", "the host is missing"),
        (f"postgresql://user:{SECRET}@host/name?hostaddr=169.254.169.254", "not understood"),
        (f"postgresql://user:{SECRET}@host/name?host=other", "by its whole path"),
        (f"postgresql://user:{SECRET}@host/name?service=other", "not understood"),
        (f"mariadb://user:{SECRET}@host/name?local_infile=1", "not understood"),
        ("sqlite://", "the file is missing"),
        ("sqlite:///:memory:", "the file is missing"),
    ],
)
def test_a_url_that_leads_nowhere_or_elsewhere_is_refused(text, said):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(DatabaseUrl).validate_python(text)
    told = str(caught.value.errors(include_input=False, include_context=False)[0]["msg"])
    assert said in told
    assert SECRET not in told
