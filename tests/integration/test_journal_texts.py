"""What was said and heard: stored once, in parts that many have in common, and read as it was."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from espf import journal, subscriptions
from espf.backlog import Backlog, Start, Wanted
from espf.errors import InvalidRequest
from espf.journal import LONGEST_BODY
from espf.leases import Leases
from espf.model import SHARDS, Decision, Status, compact
from espf.queue import Queue, Result
from house import House
from webhook import Answer, Webhook

DONE = Decision(Status.FINISHED)


class Desk:
    """Events of one handler, and what their attempts said and heard."""

    def __init__(self, database, sealer):
        self.database = database
        self.queue = Queue(database)
        self.backlog = Backlog(database)
        settings_ = {"EventSender.URL": "http://127.0.0.1:1", "EventSender.AuthMethod": "None"}
        with database.begin() as connection:
            self.handler = subscriptions.create_handler(
                connection, sealer, 1, "A", "EventSender", settings_
            )
            leases = Leases(database)
            leases.sign_of_life(connection, "w", 600)
            places = [(self.handler.i_event_handler, shard) for shard in range(SHARDS)]
            leases.acquire(connection, "w", places)

    def event(self, variables):
        with self.database.begin() as connection:
            return self.queue.create_event(connection, 1, "Account/Blocked", variables)

    def notifications(self):
        wanted = Wanted(self.handler.i_event_handler, (1 << SHARDS) - 1, Start(0), 1000, 1000)
        with self.database.read() as connection:
            (found,) = self.backlog.read(connection, [wanted])
        return {n.event.i_event: n for n, _ in found.new}

    def settle(self, *said):
        """Store attempts: notification, request, response."""
        results = [Result(n, "A", 1, DONE, 1, request, response) for n, request, response in said]
        texts = {}
        with self.database.begin() as connection:
            assert all(one.applied for one in self.queue.settle(connection, results, texts))
        self.queue.journal.committed(texts)

    def said(self, i_event):
        with self.database.read() as connection:
            (entry,) = journal.of_event(connection, i_event)
        return entry.request, entry.response

    def texts(self):
        with self.database.read() as connection:
            rows = connection.exec_driver_sql("SELECT content FROM Provisioning_Log_Texts")
            return list(rows.scalars())


@pytest.fixture
def desk(database, sealer):
    return Desk(database, sealer)


letters = st.characters(exclude_categories=["Cs", "Cc"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(letters, max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=4,
)
variables = st.dictionaries(
    st.sampled_from(["i_account", "id", "note", "nested"]), values, max_size=3
)
# What an event is made of, whole and in part, and anything else.
pieces = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *("{payload}", "{inner}", "{inner}", '"i_event":{n}', '"i_event":{n}0', "{n}"),
                *('{{"i_event":{n}}}', '{inner},"i_event":{n}', "\n\n", "\t", "Date", "\x7f"),
            ]
        ),
        st.text(letters, max_size=10).map(lambda t: t.replace("{", "{{").replace("}", "}}")),
    ),
    max_size=8,
)


def rendered(some, notification):
    payload = notification.event.payload
    names = {"payload": payload, "inner": payload[1:-1], "n": notification.event.i_event}
    return "".join(some).format(**names)


@settings(max_examples=60)
@given(variables, pieces, pieces, pieces)
def test_what_was_said_is_read_as_it_was(desk, some, head, body, answer):
    try:
        i_event = desk.event(some)
    except InvalidRequest:
        return
    notification = desk.notifications()[i_event]
    request = (rendered(head, notification), rendered(body, notification))
    response = rendered(answer, notification)
    desk.settle((notification, request, response or None))
    assert desk.said(i_event) == ("\n\n".join(request), response or None)


def test_what_is_the_events_own_makes_no_new_text(desk):
    made = [desk.event({"i_account": account, "note": "ü" * account}) for account in range(20)]
    notifications = desk.notifications()
    for batch in (made[:10], made[10:]):
        desk.settle(
            *(
                (
                    notifications[i_event],
                    (
                        "POST http://127.0.0.1/",
                        (
                            f'{{"variables":{{{notifications[i_event].event.payload[1:-1]},'
                            f'"i_event":{i_event}}}}}'
                        ),
                    ),
                    ("HTTP 200 OK", ""),
                )
                for i_event in batch
            )
        )
    assert len(desk.texts()) == 2
    request, response = desk.said(made[7])
    assert '"note":"üüüüüüü"' in request
    assert f'"i_event":{made[7]}}}' in request
    assert response.startswith("HTTP 200 OK")


def test_another_process_finds_the_texts_that_are_there(desk):
    for _ in range(2):
        i_event = desk.event({"i_account": 1})
        # A queue of its own remembers nothing.
        desk.queue = Queue(desk.database)
        desk.settle((desk.notifications()[i_event], "the same request", "the same answer"))
        assert desk.said(i_event) == ("the same request", "the same answer")
    assert sorted(desk.texts()) == ["the same answer", "the same request"]


def test_a_text_that_is_known_is_not_written_again(desk):
    made = [desk.event({"i_account": account}) for account in range(3)]
    notifications = desk.notifications()
    written = []

    @event.listens_for(desk.database._engine, "before_cursor_execute")
    def executed(_connection, _cursor, statement, *_rest):
        written.append("Provisioning_Log_Texts" in statement)

    for i_event, times in ((made[0], 1), (made[1], 0), (made[2], 0)):
        written.clear()
        desk.settle((notifications[i_event], "request", "reply"))
        assert sum(written) == times


def test_texts_of_a_batch_that_was_rolled_back_are_stored_with_the_next(desk):
    first, second = desk.event({"i_account": 1}), desk.event({"i_account": 2})
    notifications = desk.notifications()
    with suppress(InterruptedError), desk.database.begin() as connection:
        desk.queue.settle(connection, [Result(notifications[first], "A", 1, DONE, 1, "said")], {})
        raise InterruptedError
    desk.settle((notifications[second], "said", None))
    assert desk.said(second) == ("said", None)


@pytest.mark.parametrize(
    ("form", "whole"),
    [(str, str), (lambda text: ("HEAD", text), lambda text: f"HEAD\n\n{text}")],
)
def test_what_no_text_may_hold_is_replaced_and_what_is_too_long_is_cut(desk, form, whole):
    bad = "\x00\x01\x02\x1f"
    made = {
        desk.event({"i_account": 1}): (f"a{bad}z", "a" + "\N{REPLACEMENT CHARACTER}" * 4 + "z"),
        desk.event({"i_account": 2}): (
            "ü" * (LONGEST_BODY + 5),
            "ü" * LONGEST_BODY + "… (5 more characters)",
        ),
        desk.event({"i_account": 3}): ("ü" * LONGEST_BODY, "ü" * LONGEST_BODY),
    }
    notifications = desk.notifications()
    desk.settle(*((notifications[i], form(text), None) for i, (text, _) in made.items()))
    for i_event, (_, expected) in made.items():
        assert desk.said(i_event)[0] == whole(expected)


def test_the_time_of_a_reply_makes_no_new_text(desk):
    made = [desk.event({"i_account": account}) for account in range(3)]
    notifications = desk.notifications()
    desk.settle(
        *(
            (notifications[i], None, (f"HTTP 200 OK\ndate: day {i}\nserver: x", "Date: kept"))
            for i in made
        )
    )
    assert len(desk.texts()) == 1
    assert desk.said(made[0])[1] == "HTTP 200 OK\nserver: x\n\nDate: kept"


async def test_a_worker_stores_little_that_is_new(database, sealer, tmp_path):
    house = House(database, sealer, tmp_path)
    async with Webhook() as hook:
        hook.always = Answer(headers={"Server": "x"}, body="thanks")
        house.handler(hook.url)
        made = [house.event(i_account=1000 + n) for n in range(40)]
        async with house.working():
            await house.until("finished")
    # A number with one more digit makes the body, and its length in the head, another one.
    assert len(house.rows("Provisioning_Log_Texts")) <= 2 + 1
    for i_event, request in zip(made, sorted(hook.requests, key=lambda r: r.i_event), strict=True):
        with database.read() as connection:
            (entry,) = journal.of_event(connection, i_event)
        assert entry.request.endswith(request.body.decode())
        assert entry.response.endswith("thanks")
        assert compact(request.json["variables"]) in entry.request
