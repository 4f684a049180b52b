"""People are told of failures once, and of their end once, whatever happens to the messenger."""

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, update

from console import PASSWORD, console
from databases import whatever_the_database
from espf import alerts, configuration, restarts, subscriptions
from espf.alerts import Kind
from espf.db.database import Database
from espf.db.tables import (
    event_notifications,
    event_queue,
    handler_breakers,
    handler_statistics,
    workers,
)
from espf.handlers.http import HttpClient
from espf.statistics import Step
from house import House
from letters import Mailbox
from webhook import Answer, Webhook

NOBODY = "http://127.0.0.1:1"
LONG = timedelta(days=3650)


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    """The same in less time."""
    monkeypatch.setattr("espf.alerts.watch.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("espf.alerts.watch.AWAY_LOOK_SECONDS", 0.05)
    monkeypatch.setattr("espf.alerts.watch.DRIFT_SECONDS", 0.0)
    monkeypatch.setattr("espf.alerts.book.OVER_SECONDS", 0.2)


class Post:
    """An installation whose alerts go to a mailbox, and what can be wrong with it."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house = house
        self.box = Mailbox(folder)
        self.rules = folder / "rules.toml"
        self.rules.write_text("")
        self.configure(
            AlertRecipient="noc@example.net",
            sendmail=self.box.sendmail,
            send_options=self.box.options,
            ConsoleURL="https://espf.example.net/",
        )

    def configure(self, **fields: object) -> None:
        database = self.house.database
        changes = {f"Provisioning.{name}": value for name, value in fields.items()}
        with database.begin() as connection:
            draft = configuration.clone(connection, database, "test").i_configuration
            configuration.change(connection, database, self.house.sealer, draft, changes, "test")
            configuration.apply(connection, database, draft, "test")

    def execute(self, statement) -> None:
        with self.house.database.begin() as connection:
            connection.execute(statement)

    def now(self):
        with self.house.database.read() as connection:
            return self.house.database.now(connection)

    def kinds(self):
        """What is shown as wrong now."""
        with self.house.database.read() as connection:
            return [str(one.kind) for one in alerts.list_alerts(connection)]

    @asynccontextmanager
    async def watched(self, count: int = 1):
        """While the block lasts, processes watch."""
        async with HttpClient() as client:
            databases = [Database.open(self.house.url) for _ in range(count)]
            watches = [
                alerts.Watch(one, self.house.sealer, client, self.rules) for one in databases
            ]
            tasks = [asyncio.create_task(one.run()) for one in watches]
            try:
                yield watches
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for one in databases:
                    one.close()

    async def told(self, count: int) -> list[str]:
        """Wait for so many letters; there must not be more."""
        await self.house.come_true(lambda: len(self.box.subjects()) >= count)
        subjects = self.box.subjects()
        assert len(subjects) == count, subjects
        return subjects

    async def noted(self) -> None:
        """Wait until the database knows that all was told."""
        await self.house.come_true(
            lambda: all(row["mailed_at"] is not None for row in self.house.rows("Alerts"))
        )


@pytest.fixture
def post(database, sealer, tmp_path) -> Post:
    return Post(House(database, sealer, tmp_path), tmp_path)


# What can be wrong: how it begins, and how it ends


def failing(post: Post, handler) -> Callable[[], None]:
    event = post.house.event(i_env=handler.i_env)
    n = event_notifications
    mine = (n.c.i_event == event) & (n.c.i_event_handler == handler.i_event_handler)
    later = {"next_attempt_at": post.now() + LONG, "last_error": "HTTP 503 busy", "attempts": 1}
    post.execute(update(n).where(mine).values(**later))
    return lambda: post.execute(delete(n).where(mine))


def failed(post: Post, handler) -> Callable[[], None]:
    event = post.house.event()
    mine = event_notifications.c.i_event == event
    given_up = {"status": "failed", "last_error": "HTTP 400 no such subscriber"}
    post.execute(update(event_notifications).where(mine).values(**given_up))
    return lambda: post.execute(delete(event_notifications).where(mine))


def rejected(post: Post, handler) -> Callable[[], None]:
    count(post, handler, rejected=3)
    return lambda: post.execute(delete(handler_statistics))


def broken(post: Post, handler) -> Callable[[], None]:
    now = post.now()
    lives = {"worker": "here/1/1", "started_at": now, "expires_at": now + LONG}
    post.execute(insert(workers).values(lives))
    rests = {"state": "open", "since": now, "reason": "connection refused"}
    post.execute(
        insert(handler_breakers).values(
            i_event_handler=handler.i_event_handler, worker="here/1/1", **rests
        )
    )
    return lambda: post.execute(delete(handler_breakers))


def waiting(post: Post, handler) -> Callable[[], None]:
    event = post.house.event()
    q = event_queue
    post.execute(update(q).where(q.c.i_event == event).values(created_at=post.now() - LONG))
    mine = event_notifications.c.i_event == event
    return lambda: post.execute(delete(event_notifications).where(mine))


def lost(post: Post, handler) -> Callable[[], None]:
    now = post.now()
    gone = {"worker": "here/1/1", "started_at": now - LONG, "expires_at": now - 2 * LONG / 3}
    post.execute(insert(workers).values(gone))
    heir = {"worker": "here/2/1", "started_at": now, "expires_at": now + LONG}
    return lambda: post.execute(insert(workers).values(heir))


def count(post: Post, handler, **counts: int) -> None:
    """Have a worker count results in this minute."""
    others = {
        column.name: 0
        for column in handler_statistics.c
        if column.name not in {"step", "began_at", "i_event_handler"}
    }
    post.execute(
        insert(handler_statistics).values(
            step=60,
            began_at=Step.MINUTE.start(post.now()),
            i_event_handler=handler.i_event_handler,
            **{**others, **counts},
        )
    )


@pytest.mark.parametrize(
    ("begin", "kind", "headline", "said", "link"),
    [
        (failing, "failing", "Deliveries of Sender fail", "HTTP 503 busy", "/env/1/handlers/1"),
        (failed, "failed", "Events of Sender have failed", "no such subscriber", "status=failed"),
        (rejected, "failed", "Events of Sender have failed", "3 events", "status=failed"),
        (broken, "breaker", "Sender rests", "connection refused", "/env/1/handlers/1"),
        (waiting, "waiting", "Events for Sender wait", "About 1 event", "/env/1/handlers/1"),
        (lost, "worker", "The worker here/1 is gone", "no worker is there", "/system/workers"),
    ],
)
async def test_what_goes_wrong_is_told_once_when_it_begins_and_once_when_it_is_over(
    post, begin, kind, headline, said, link
):
    handler = post.house.handler(NOBODY)
    async with post.watched():
        await post.house.come_true(lambda: bool(post.house.rows("System_Settings")))
        assert post.box.letters() == []
        end = begin(post, handler)
        (subject,) = await post.told(1)
        assert subject.startswith(f"[ESPF] {headline}")
        assert post.kinds() == [kind]
        (letter,) = post.box.letters()
        text = " ".join(letter.get_content().split())
        assert said in text
        assert "What to do: " in text
        assert (kind == "worker") or "(environment 1)" in text
        assert (kind == "worker") or f"The system: {NOBODY}" in text
        assert "https://espf.example.net/" in text
        assert link in text
        assert letter["to"] == "noc@example.net"
        end()
        _, over = await post.told(2)
        assert over.startswith("[ESPF] Over: ")
        await post.house.come_true(lambda: not post.house.rows("Alerts"))
    assert len(post.box.letters()) == 2


@whatever_the_database
async def test_triggers_that_are_gone_are_told_of_until_they_are_back(desk, tmp_path):
    database = desk.database()
    post = Post(House(database, desk.sealer(), tmp_path), tmp_path)
    post.rules = None
    desk("capture", "remove")
    async with post.watched():
        (subject,) = await post.told(1)
        assert "Triggers on the billing tables" in subject
        desk("capture", "apply")
        _, over = await post.told(2)
        assert over.startswith("[ESPF] Over: The triggers")
    database.close()


async def test_a_real_failure_and_its_end_are_told(post, monkeypatch):
    async with Webhook() as hook:
        hook.always = Answer(503)
        post.house.handler(hook.url, RetryDelays="0s 0s 0s 1h", RetryJitter=0)
        post.house.event()
        async with post.house.working(), post.watched():
            await post.house.come_true(lambda: "failing" in post.kinds())
            await post.told(1)
            hook.always = Answer()
            with post.house.database.begin() as connection:
                (one,) = subscriptions.list_handlers(connection)
                (event,) = post.house.events()
                restarts.restart(connection, post.house.database, event.i_event, one)
            await post.house.until("finished")
            _, over = await post.told(2)
    assert "Nothing of Sender waits for a retry any more" in over


# Once, and together


async def test_what_begins_at_the_same_time_is_told_in_one_message_and_never_again(post):
    handlers = [post.house.handler(NOBODY, f"Sender{n}") for n in range(4)]
    for one in handlers:
        failing(post, one)
    async with post.watched():
        (subject,) = await post.told(1)
        assert subject.endswith("(and 3 more)")
        text = post.box.letters()[0].get_content()
        assert text.count("\n* ") == text.count("Since ") == 4
        # What is told next says nothing of those.
        count(post, handlers[0], failed=1)
        _, second = await post.told(2)
    assert second == "[ESPF] Events of Sender0 have failed"
    assert "fail and are tried again" not in post.box.letters()[1].get_content()


@whatever_the_database
async def test_more_failures_are_told_once_an_hour_at_most(post, monkeypatch):
    handler = post.house.handler(NOBODY)
    end = failed(post, handler)
    count(post, handler, failed=1)
    async with post.watched():
        await post.told(1)
        post.execute(update(handler_statistics).values(failed=7))
        # What is told next says nothing of it: the hour is not over.
        failing(post, handler)
        await post.told(2)
        assert "More of it" not in post.box.letters()[1].get_content()
        # An hour passes.
        monkeypatch.setattr("espf.alerts.book.AGAIN", timedelta(0))
        await post.house.come_true(lambda: len(post.box.letters()) > 2)
        text = post.box.letters()[2].get_content()
        assert text.startswith("More of it:")
        assert "7 events given up or rejected within the last hour" in " ".join(text.split())
    end()


@whatever_the_database
async def test_what_comes_back_within_the_minute_is_not_told_as_over(post, monkeypatch):
    monkeypatch.setattr("espf.alerts.book.OVER_SECONDS", 60.0)
    handler = post.house.handler(NOBODY)
    async with post.watched():
        end = failed(post, handler)
        await post.told(1)
        end()
        await post.house.come_true(lambda: post.kinds() == [])
        failed(post, handler)
        await post.house.come_true(lambda: post.kinds() == ["failed"])
        failing(post, handler)
        _, second = await post.told(2)
    assert second == "[ESPF] Deliveries of Sender fail and are tried again"


@whatever_the_database
@pytest.mark.parametrize("how", ["paused", "disabled", "maintenance"])
async def test_what_waits_because_somebody_wants_it_is_no_failure(post, how):
    handler = post.house.handler(NOBODY)
    waiting(post, handler)
    if how == "maintenance":
        post.configure(Maintenance=True)
    else:
        with post.house.database.begin() as connection:
            if how == "paused":
                subscriptions.set_handler_paused(connection, handler, paused=True)
            else:
                subscriptions.set_handler_enabled(connection, handler, enabled=False)
    other = post.house.handler(NOBODY, "Other")
    async with post.watched():
        failing(post, other)
        (subject,) = await post.told(1)
    assert subject.startswith("[ESPF] Deliveries of Other fail")
    assert "wait too long" not in post.box.letters()[0].get_content()


async def test_of_several_processes_one_tells(post):
    # Slow enough for the others to look meanwhile.
    post.configure(sendmail=post.box.broken(f'sleep 0.3; exec {post.box.sendmail} "$@"'))
    handler = post.house.handler(NOBODY)
    end = failed(post, handler)
    # They begin at the same time, when it is nobody's turn.
    async with post.watched(3):
        await post.told(1)
        end()
        await post.house.come_true(lambda: not post.house.rows("Alerts"))
        failing(post, handler)
        await post.house.come_true(lambda: post.kinds() == ["failing"])
        await post.noted()
    assert post.box.subjects() == [
        "[ESPF] Events of Sender have failed",
        "[ESPF] Over: No failed event of Sender is left, and none has failed within the hour",
        "[ESPF] Deliveries of Sender fail and are tried again",
    ]


async def test_when_the_process_that_tells_is_gone_another_takes_its_turn(post, monkeypatch):
    monkeypatch.setattr("espf.alerts.watch.TURN_SECONDS", 1.0)
    handler = post.house.handler(NOBODY)
    async with post.watched():
        failed(post, handler)
        await post.told(1)
        await post.noted()
    async with post.watched():
        failing(post, handler)
        await post.told(2)


# When it cannot be sent


def alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


@whatever_the_database
async def test_a_sendmail_that_hangs_is_killed_and_shown_and_what_it_had_is_sent_later(
    post, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("espf.alerts.channels.MAIL_SECONDS", 0.5)
    pids = tmp_path / "pids"
    hangs = post.box.broken(f"echo no route >&2\nsleep 1000 &\necho $$ $! > {pids}\nwait")
    post.configure(sendmail=hangs)
    failed(post, post.house.handler(NOBODY))
    async with post.watched():
        await post.house.come_true(lambda: "sending" in post.kinds())
        with post.house.database.read() as connection:
            (fault,) = [
                one.text for one in alerts.list_alerts(connection) if one.kind is Kind.SENDING
            ]
        assert fault == f"{hangs} did not end within 0.5 s, and was killed: no route"
        assert "alerts cannot be sent by e-mail" in caplog.text
        monkeypatch.setattr("espf.alerts.channels.MAIL_SECONDS", 30.0)
        post.configure(sendmail=post.box.sendmail)
        await post.house.come_true(lambda: bool(post.box.letters()))
        for pid in pids.read_text().split():
            await post.house.come_true(lambda pid=pid: not alive(pid))
        _, over = await post.told(2)
    text = post.box.letters()[0].get_content()
    assert "Events of Sender have failed" in text
    assert "no route" in text
    assert over == "[ESPF] Over: Alerts are sent by e-mail again"


@whatever_the_database
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("cat > /dev/null; echo no such user >&2; exit 67", "ended with exit code 67: no such us"),
        ("kill -9 $$", "was ended by signal 9"),
        (None, "cannot be run: No such file or directory"),
    ],
)
async def test_what_a_sendmail_that_fails_says_is_kept(post, script, said):
    failed(post, post.house.handler(NOBODY))
    program = post.box.broken(script or "")
    post.configure(sendmail=program)
    if script is None:
        Path(program).unlink()
    async with post.watched():
        await post.house.come_true(lambda: "sending" in post.kinds())
    with post.house.database.read() as connection:
        texts = [one.text for one in alerts.list_alerts(connection) if one.kind is Kind.SENDING]
    assert texts[0].startswith(f"{program} {said}")


@whatever_the_database
async def test_the_program_is_run_without_a_shell_and_without_our_secrets(
    post, tmp_path, monkeypatch
):
    monkeypatch.setenv("ESPF_BILLING_PASSWORD", "geheim")
    seen = tmp_path / "seen"
    program = post.box.broken(f'cat > /dev/null; printf "%s|" "$@" > {seen}; env >> {seen}')
    post.configure(sendmail=program, send_options="-i '-f $(id)'")
    with post.house.database.read() as connection:
        settings = configuration.active(connection).opened(post.house.sealer).provisioning
    (receipt,) = await alerts.send_test(settings, "tester")
    assert receipt.fault is None
    arguments, _, environment = seen.read_text().rpartition("|")
    assert arguments.split("|") == ["-i", "-f $(id)", "noc@example.net"]
    assert "geheim" not in environment


@whatever_the_database
async def test_a_target_that_fails_is_told_later_and_the_mail_is_not_repeated(post):
    async with Webhook() as hook:
        hook.always = Answer(500, body="out of order")
        post.configure(AlertURL=hook.url, AlertToken="t0ken")
        handler = post.house.handler(NOBODY)
        failed(post, handler)
        async with post.watched():
            await post.told(2)
            assert "Alerts cannot be sent by HTTP" in post.box.letters()[1].get_content()
            hook.always = Answer()
            await post.house.come_true(lambda: "sending" not in post.kinds())
            third = (await post.told(3))[2]
            assert third == "[ESPF] Over: Alerts are sent by HTTP again"
        taken = hook.requests[-1].json if len(hook.requests) < 3 else None
        taken = taken or next(
            one.json for one in hook.requests[1:] if one.json["alerts"][0]["state"] == "raised"
        )
    assert {one.headers["authorization"] for one in hook.requests} == {"Bearer t0ken"}
    alert = next(one for one in taken["alerts"] if one["kind"] == "failed")
    assert (alert["state"], alert["i_env"], alert["subject"]) == ("raised", 1, "Sender")
    assert alert["link"] == "https://espf.example.net/env/1/events?status=failed"
    assert taken["test"] is False


# The database


@pytest.mark.databases("postgresql", "mariadb")
async def test_a_database_that_is_away_is_told_of_once_by_one_process_and_once_when_it_is_back(
    post, store, monkeypatch
):
    monkeypatch.setattr("espf.alerts.watch.AWAY_SECONDS", 1.0)
    failed(post, post.house.handler(NOBODY))
    async with post.watched(2):
        await post.told(1)
        store.stop()
        try:
            _, lost = await post.told(2)
        finally:
            store.start()
        _, _, back = await post.told(3)
    assert lost.startswith("[ESPF] The database does not answer")
    assert back.startswith("[ESPF] Over: The database answers")
    assert len(post.box.letters()) == 3


# To see and to try


@whatever_the_database
async def test_alerts_are_shown_on_the_dashboard_and_in_the_api_to_whom_they_concern(
    post, database, sealer
):
    handler = post.house.handler(NOBODY, "HSS", i_env=3)
    failing(post, handler)
    lost(post, handler)
    async with post.watched():
        await post.told(1)
        await post.noted()
    with console(database, sealer) as desk:
        pages = {
            login: desk.as_(login).get(f"/env/{i}/dashboard").text
            for login, i in (("root", 3), ("rita", 3), ("carl", 4))
        }
        replies = {
            login: desk.client.get("/espf/v1/alerts", auth=(login, PASSWORD)).json()["alert_list"]
            for login in ("root", "rita", "carl")
        }
    kinds = {who: sorted(one["kind"] for one in some) for who, some in replies.items()}
    assert kinds == {"root": ["failing", "worker"], "rita": ["failing"], "carl": []}
    (alert,) = replies["rita"]
    assert (alert["subject"], alert["i_env"], alert["posted_at"]) == ("HSS", 3, None)
    assert alert["mailed_at"] >= alert["since"]
    said = ("Deliveries of HSS fail and are tried again", "The worker here/1 is gone")
    assert [[one in pages[who] for one in said] for who in ("root", "rita", "carl")] == [
        [True, True],
        [True, False],
        [False, False],
    ]


@whatever_the_database
def test_a_test_alert_is_sent_from_the_page_of_a_configuration(post, database, sealer):
    with console(database, sealer) as desk:
        root = desk.as_("root")
        page = root.get("/system/configurations/2/provisioning")
        assert "Send a test alert" in page.text
        page = root.does("/system/configurations/2/provisioning/test")
        assert "sent by e-mail: /usr/bin/esmtp took the message" in page.text
        assert desk.as_("adam").post("/system/configurations/2/provisioning/test").status == 403
        # Configuration 1 has nobody to tell.
        assert root.post("/system/configurations/1/provisioning/test").status == 409
        entry = desk.audit()[0]
    assert post.box.subjects() == ["[ESPF] Test alert"]
    assert (entry.action, entry.subject) == ("alert.test", "configuration 2")
    assert entry.after == {"mail": "taken"}


@whatever_the_database
def test_evctl_lists_alerts_and_sends_a_test(desk, tmp_path):
    said = desk.fails(4, "alert", "test")
    assert "neither AlertRecipient nor AlertURL is set" in said
    database = desk.database()
    post = Post(House(database, desk.sealer(), tmp_path), tmp_path)
    (row,) = desk.json("alert", "test")
    assert (row["channel"], row["taken"]) == ("mail", True)
    assert post.box.subjects() == ["[ESPF] Test alert"]
    assert desk.json("alert", "list") == []
    program = post.box.broken("cat > /dev/null; echo mailbox full >&2; exit 75")
    post.configure(sendmail=program)
    result = desk.run("alert", "test", "--json")
    assert result.exit_code == 1
    assert "exit code 75: mailbox full" in json.loads(result.stdout)[0]["said"]
    database.close()
