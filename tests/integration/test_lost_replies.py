"""A commit whose reply is lost: what is stored is not stored again.

Between ESPF and the database stands a forwarder, which swallows the reply to a commit and cuts the
connection.
"""

import asyncio
import threading
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy.engine import make_url

from house import House
from webhook import Answer, Webhook

pytestmark = pytest.mark.databases("postgresql", "mariadb")


class Swallower:
    """Forwards connections to a database's socket; of commits that store results, it swallows
    the replies to so many.
    """

    def __init__(self, folder, url):
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            name = f".s.PGSQL.{parsed.query.get('port', parsed.port or 5432)}"
            self._behind = f"{parsed.query['host']}/{name}"
            self._socket = folder / name
            parsed = parsed.update_query_dict({"host": str(folder)})
        else:
            self._behind = parsed.query["unix_socket"]
            self._socket = folder / "swallower.sock"
            parsed = parsed.update_query_dict({"unix_socket": str(self._socket)})
        self.url = parsed.render_as_string(hide_password=False)
        self.to_swallow = 0
        self._tasks = set()

    @contextmanager
    def running(self):
        """In a thread of its own: the loop of a test may wait for the database."""
        ready, end = threading.Event(), []
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready, end)))
        thread.start()
        ready.wait()
        try:
            yield self
        finally:
            loop, stop = end
            loop.call_soon_threadsafe(stop.set)
            thread.join()

    async def _serve(self, ready, end):
        stop = asyncio.Event()
        end += [asyncio.get_running_loop(), stop]
        server = await asyncio.start_unix_server(self._connected, self._socket)
        ready.set()
        await stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        database, into = await asyncio.open_unix_connection(self._behind)
        swallow = asyncio.Event()
        there = asyncio.create_task(self._ask(reader, into, swallow))
        back = asyncio.create_task(self._answer(database, writer, swallow))
        try:
            await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (there, back):
                each.cancel()
            for each in (into, writer):
                each.close()

    async def _ask(self, reader, into, swallow):
        stores = False
        with suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                stores = stores or b"provisioning_log" in data.lower()
                if b"COMMIT" in data:
                    if stores and self.to_swallow:
                        self.to_swallow -= 1
                        swallow.set()
                    stores = False
                into.write(data)

    async def _answer(self, database, writer, swallow):
        """Until there is nothing more, or the reply to a commit."""
        with suppress(ConnectionError):
            while data := await database.read(1 << 20):
                if swallow.is_set():
                    return
                writer.write(data)


@pytest.fixture
def house(database, sealer, tmp_path) -> House:
    return House(database, sealer, tmp_path)


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize(
    ("answer", "status"), [(200, "finished"), (503, "retrying"), (401, "retrying")]
)
async def test_results_are_journalled_once_although_the_commit_was_not_confirmed(
    house, tmp_path, answer, status, lost
):
    with Swallower(tmp_path, house.url).running() as swallower:
        async with Webhook() as hook:
            hook.always = Answer(answer)
            house.handler(hook.url, RetryDelays="1h", RetryJitter=0)
            house.url = swallower.url
            swallower.to_swallow = lost
            made = [house.event(i_account=n) for n in range(3)]
            async with house.working():
                # Told only after what is stored is known to be stored.
                await house.come_true(lambda: len(house.log_lines()) >= len(made), 30)
    assert swallower.to_swallow == 0
    assert set(house.statuses().values()) == {status}
    assert sorted(row["i_event"] for row in house.rows("Provisioning_Log")) == made
    assert sorted(request.i_event for request in hook.requests) == made
    assert house.live_rows() == ((0, 0) if status == "finished" else (3, 3))
