# mypy: ignore-errors
"""PGQueuer with its defaults for durability, asyncpg, and batches of 100."""

import json

import asyncpg
from peer import DATABASE_URL, Poster, event, main, queues, trickle
from pgqueuer import AsyncpgPoolDriver, QueueManager
from pgqueuer.models import Job
from pgqueuer.queries import Queries

CHUNK = 5000


async def pool(size: int) -> asyncpg.Pool:
    return await asyncpg.create_pool(DATABASE_URL, min_size=size, max_size=size)


async def setup(events: int, handlers: int) -> None:
    queries = Queries(AsyncpgPoolDriver(await pool(2)))
    await queries.install()
    for name in queues(handlers):
        for start in range(1, events + 1, CHUNK):
            bodies = [
                json.dumps(event(number)).encode()
                for number in range(start, min(start + CHUNK, events + 1))
            ]
            await queries.enqueue([name] * len(bodies), bodies, [0] * len(bodies))


async def work() -> None:
    async with await pool(10) as connections:
        manager = QueueManager(Queries(AsyncpgPoolDriver(connections)))
        post = Poster()

        async def deliver(job: Job) -> None:
            await post(job.payload)

        for name in queues():
            manager.entrypoint(name)(deliver)
        await manager.run(batch_size=100)


async def drip(seconds: int, rate: int) -> None:
    queries = Queries(AsyncpgPoolDriver(await pool(1)))

    async def send(payload: dict[str, object]) -> None:
        await queries.enqueue("post1", json.dumps(payload).encode())

    await trickle(send, seconds, rate)


main(setup=setup, work=work, trickle=drip)
