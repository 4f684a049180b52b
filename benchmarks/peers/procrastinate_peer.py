# mypy: ignore-errors
"""procrastinate with 50 jobs at a time, deleting what succeeded."""

import json

from peer import DATABASE_URL, Poster, event, main, queues, trickle
from procrastinate import App, PsycopgConnector
from procrastinate.tasks import Task

CHUNK = 5000

app = App(connector=PsycopgConnector(conninfo=DATABASE_URL, min_size=20, max_size=20))
posters = []


def deliverer(name: str) -> Task:
    @app.task(name=name, queue=name)
    async def deliver(payload: dict[str, object]) -> None:
        await posters[0](json.dumps(payload))

    return deliver


tasks = {name: deliverer(name) for name in queues()}


async def setup(events: int, handlers: int) -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for name in queues(handlers):
            for start in range(1, events + 1, CHUNK):
                numbers = range(start, min(start + CHUNK, events + 1))
                await tasks[name].batch_defer_async(
                    *({"payload": event(number)} for number in numbers)
                )


async def work() -> None:
    async with app.open_async():
        posters.append(Poster())
        await app.run_worker_async(concurrency=50, delete_jobs="successful")


async def drip(seconds: int, rate: int) -> None:
    async with app.open_async():
        await trickle(lambda payload: tasks["post1"].defer_async(payload=payload), seconds, rate)


main(setup=setup, work=work, trickle=drip)
