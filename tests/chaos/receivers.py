"""The applications that hear of events, in a process of their own, so that nothing they heard dies.

``receivers.py LOG SEED NAME:ROUGHNESS ...`` serves each name on a port of its own and prints the
ports as one JSON object. A share ROUGHNESS of the requests is answered badly. What is heard goes to
LOG, a JSON object in a line, as soon as it is heard. On SIGUSR1 all of them answer well from then
on; SIGTERM ends them.
"""

import asyncio
import json
import random
import signal
import sys
from collections.abc import Callable

from webhook import Answer, Request, Webhook

#: An answer that comes too late: the handlers of the storm wait this long, and less.
REQUEST_TIMEOUT_SECONDS = 4
TOO_LATE_SECONDS = 5.0

#: Two answers to one request; the second is nobody's.
_TWICE = {"X-Again": "\r\n\r\nHTTP/1.1 200 Again\r\nContent-Length: 0"}

#: Answers that are no yes, as far as the sender can know.
_REFUSALS: tuple[Answer, ...] = (
    Answer(503),
    Answer(503, {"Retry-After": "1"}),
    Answer(429),
    Answer(fault="close"),
    Answer(delay=0.2, fault="close"),
    Answer(fault="reset"),
    Answer(fault="garbage"),
    # It has done the work, and its yes is lost.
    Answer(body="half of this", fault="half"),
    Answer(delay=TOO_LATE_SECONDS),
)
_ACCEPTANCES: tuple[Answer, ...] = (
    Answer(),
    Answer(delay=0.05),
    Answer(delay=0.5),
    Answer(204),
    Answer(headers=_TWICE),
)
#: So rare, because it costs a whole time-out.
_HANG = Answer(fault="hang")


class Receiver(Webhook):
    """Hears everything, and answers as a share of real applications do."""

    def __init__(self, roughness: float, choice: random.Random, log: Callable[..., None]) -> None:
        super().__init__()
        self._roughness = roughness
        self._choice = choice
        self._log = log
        self.always = self._hear

    def behave(self) -> None:
        """Answer well from now on."""
        self._roughness = 0.0

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._choice.random() < self._roughness / 10:
            writer.close()
        else:
            await super()._connected(reader, writer)

    def _hear(self, request: Request) -> Answer:
        answer = self._answer()
        says_yes = answer.status < 300 and not answer.fault
        in_time = answer.delay < TOO_LATE_SECONDS
        self._log(
            at=request.received_at,
            until=request.received_at + answer.delay,
            body=request.body.decode(),
            accepted=says_yes and in_time,
            late=says_yes and not in_time,
        )
        self.requests.clear()
        return answer

    def _answer(self) -> Answer:
        draw = self._choice.random()
        if draw >= self._roughness:
            return Answer()
        if draw < self._roughness / 40:
            return _HANG
        # Half of them say yes after all, in their own way.
        return self._choice.choice(self._choice.choice((_REFUSALS, _ACCEPTANCES)))


async def _serve(path: str, seed: str, *named: str) -> None:
    receivers: dict[str, Receiver] = {}
    # A line is out before its answer is: the process may be killed at any time.
    with open(path, "a", buffering=1) as log:  # noqa: PTH123
        for one in named:
            name, _, roughness = one.partition(":")

            def write(name: str = name, **fields: object) -> None:
                log.write(json.dumps({"handler": name, **fields}) + "\n")

            receivers[name] = Receiver(float(roughness), random.Random(f"{seed} {name}"), write)
            await receivers[name].start()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(
            signal.SIGUSR1, lambda: [receiver.behave() for receiver in receivers.values()]
        )
        sys.stdout.write(json.dumps({name: one.port for name, one in receivers.items()}) + "\n")
        sys.stdout.flush()
        await stop.wait()
        for receiver in receivers.values():
            await receiver.stop()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
