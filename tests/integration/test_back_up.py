"""What docs/how-to/back-up-and-restore.md says, done: back up, lose everything, restore, go on."""

import shutil
import subprocess
from contextlib import closing

from sqlalchemy import select, update

from espf.billing.tables import customers
from house import House
from webhook import Webhook


def back_up(store, kind, folder):
    """As the page says, while others work with the database."""
    match kind:
        case "sqlite":
            run("sqlite3", store._file("billing"), f".backup {folder / 'copy.db'}")
        case "postgresql":
            dump = f"--file={folder / 'billing.dump'}"
            run("pg_dump", "--format=custom", dump, f"--dbname={store.url()}")
        case "mariadb":
            both = ("--single-transaction", "--databases", "billing", "espf")
            dump = run("mariadb-dump", *store._client, *both)
            (folder / "both.sql").write_bytes(dump)


def restore(store, kind, folder):
    """As the page says, in place of a database of which nothing is left."""
    store.empty()
    match kind:
        case "sqlite":
            shutil.copyfile(folder / "copy.db", store._file("billing"))
        case "postgresql":
            run("pg_restore", "--exit-on-error", f"--dbname={store.url()}", folder / "billing.dump")
        case "mariadb":
            run("mariadb", *store._client, stdin=(folder / "both.sql").read_bytes())


def run(*command, stdin=None):
    done = subprocess.run(
        [str(word) for word in command], input=stdin, capture_output=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def turn(database, i_customer):
    """Block a customer, or unblock one, as any program might."""
    with database.begin() as connection:
        one = customers.c.i_customer == i_customer
        was = connection.execute(select(customers.c.blocked).where(one)).scalar_one()
        now = "N" if was == "Y" else "Y"
        connection.execute(update(customers).where(one).values(blocked=now))


async def test_after_a_restore_it_goes_on_with_what_the_page_says(
    desk, store, database_kind, tmp_path
):
    with closing(desk.database()) as database:
        i_customer = desk.execute(select(customers.c.i_customer))[0][0]
        async with Webhook() as hook:
            desk(
                *("handler", "set", 3, "EventSender", f"EventSender.URL={hook.url}"),
                *("EventSender.AuthMethod=None", "--unset", "EventSender.BasicAuth.Key"),
            )
            house = House(database, desk.sealer(), tmp_path)
            turn(database, i_customer)
            async with house.working():
                await hook.wait_for(1)
                await house.until("finished")
            # Waits at the time of the back-up, and is delivered after it.
            turn(database, i_customer)
            turn(database, i_customer)
            back_up(store, database_kind, tmp_path)
            async with house.working():
                await hook.wait_for(3)
                await house.until("finished")
            # Made after the back-up: it is lost, with the change of the billing that made it.
            turn(database, i_customer)
            before = [request.i_event for request in hook.requests]

    restore(store, database_kind, tmp_path)
    assert "installed as compiled" in desk("capture", "verify")
    with closing(desk.database()) as database:
        house = House(database, desk.sealer(), tmp_path)
        async with Webhook() as hook:
            desk("handler", "set", 3, "EventSender", f"EventSender.URL={hook.url}")
            async with house.working():
                await hook.wait_for(2)
                turn(database, i_customer)
                await hook.wait_for(3)
                await house.until("finished")
            after = [request.i_event for request in hook.requests]
    # Again, under the same numbers, what was delivered since; nothing that was done before it.
    assert len(before) == 3
    assert after[:2] == before[1:]
    assert len(after) == 3
    assert after[2] > before[2]
