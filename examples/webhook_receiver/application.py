"""The operator's web application: what stands at the other end of EventSender.

It plays the mobile core of a service provider. Every event is noted; three of them are acted on,
so that a subscriber whose monthly quota is used up is blocked till the next month:

    Account/Service/Netaccess/QuotaExceeded  block the service; schedule Custom/NextMonth
    Custom/NextMonth                         the month has come: unblock it, if there are funds
    Account/Service/QuotaAvailable           the service wallet was topped up: unblock it

Take it as a model for your own, in whatever language. What matters:

1. Check who is calling before anything else: 401.
2. What can never be accepted gets a 4xx, and ESPF does not send it again. What goes wrong for the
   moment gets a 503, and ESPF sends it again, later, in order.
3. An event may come twice, when an answer was lost on its way. ``i_event`` tells.
4. Answer 200 when the work is done and remembered, not before.
"""

import argparse
import base64
import hmac
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
from aiohttp import web

SERVICE = "netaccess"
NEXT_MONTH = "Custom/NextMonth"
TIME = "%Y-%m-%d %H:%M:%S"


class Refused(Exception):
    """The answer is not 200 but ``status``; the text says why, and ESPF shows it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Event:
    """What a POST tells."""

    i_event: int
    event_type: str
    variables: dict[str, Any]

    @property
    def i_account(self) -> int:
        """The account that the event is about. Raises Refused when it is about none."""
        try:
            return int(self.variables["i_account"])
        except (KeyError, TypeError, ValueError):
            raise Refused(400, f"{self.event_type} without an i_account") from None


class Core:
    """The mobile core and the memory of what was done. Both survive a restart.

    The core is a table here. Yours is another system: block and unblock must be such that doing
    them twice is the same as doing them once.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(
            """
            CREATE TABLE IF NOT EXISTS Done (i_event INTEGER PRIMARY KEY, result TEXT NOT NULL);
            CREATE TABLE IF NOT EXISTS Blocked_Services (
              i_account INTEGER, service TEXT, PRIMARY KEY (i_account, service)
            );
            """
        )

    def has_done(self, i_event: int) -> bool:
        """Whether this event was worked off before."""
        query = "SELECT 1 FROM Done WHERE i_event = ?"
        return self._db.execute(query, (i_event,)).fetchone() is not None

    def remember(self, i_event: int, result: str) -> None:
        """Note that an event is worked off."""
        self._db.execute("INSERT OR IGNORE INTO Done VALUES (?, ?)", (i_event, result))

    def block(self, i_account: int) -> None:
        """Refuse the service to an account."""
        self._db.execute(
            "INSERT OR IGNORE INTO Blocked_Services VALUES (?, ?)", (i_account, SERVICE)
        )

    def unblock(self, i_account: int) -> bool:
        """Allow the service to an account; returns whether it was blocked."""
        command = "DELETE FROM Blocked_Services WHERE i_account = ? AND service = ?"
        return self._db.execute(command, (i_account, SERVICE)).rowcount > 0


class Espf:
    """The two APIs that an application calls: the ESPF API and the billing API."""

    def __init__(self, http: aiohttp.ClientSession, url: str, login: str, password: str) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._login = login
        self._password = password
        self._token: str | None = None

    async def create_event(
        self, event_type: str, variables: dict[str, Any], start_time: datetime
    ) -> int:
        """Put an event into ESPF's queue, to come back at ``start_time``; returns its number."""
        body = {
            "event_type": event_type,
            "variables": variables,
            "start_time": f"{start_time.astimezone(UTC):{TIME}}",
        }
        answer = await self._post("/espf/v1/event/create", body, basic(self._login, self._password))
        return int(answer["i_event"])

    async def get_account_info(self, i_account: int) -> dict[str, Any]:
        """The details of an account. A session is opened once and used until it has expired."""
        body = {"params": {"i_account": i_account}}
        if self._token is not None:
            answer = await self._post("/rest/Account/get_account_info", body, self._token)
            if ".check_auth." not in answer.get("faultcode", ""):
                return account_info(answer)
        who = {"params": {"login": self._login, "password": self._password}}
        session = await self._post("/rest/Session/login", who)
        if "access_token" not in session:
            raise Refused(503, f"cannot log in to the billing: {session.get('faultstring')}")
        self._token = f"Bearer {session['access_token']}"
        return account_info(await self._post("/rest/Account/get_account_info", body, self._token))

    async def _post(
        self, path: str, body: dict[str, Any], authorization: str | None = None
    ) -> dict[str, Any]:
        """POST JSON, read JSON; a fault of the billing API (500) is an answer like any other."""
        headers = {"Authorization": authorization} if authorization else {}
        try:
            async with self._http.post(self._url + path, json=body, headers=headers) as reply:
                # Money is read digit by digit, not as a binary fraction.
                answer: dict[str, Any] = json.loads(await reply.text(), parse_float=Decimal)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Refused(503, f"{path} is away: {error}") from None
        if reply.status >= 400 and "faultcode" not in answer:
            raise Refused(503, f"{path} answered {reply.status}: {answer.get('error')}")
        return answer


class Application:
    """Receives events and works them off."""

    def __init__(
        self,
        core: Core,
        authorization: str,
        month: timedelta | None,
        fail_first: dict[str, int],
    ) -> None:
        self._core = core
        self._authorization = authorization
        self._month = month
        self._fail_first = fail_first

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one POST and print a line about it."""
        event = None
        try:
            self._check_sender(request)
            event = await read_event(request)
            status, result = 200, await self._work_off(event, request.app[ESPF])
        except Refused as refusal:
            status, result = refusal.status, str(refusal)
        report(event, status, result)
        headers = {"WWW-Authenticate": 'Basic realm="provisioning"'} if status == 401 else None
        return web.Response(status=status, text=f"{result}\n", headers=headers)

    def _check_sender(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, self._authorization.encode()):
            raise Refused(401, "wrong user or key")

    async def _work_off(self, event: Event, espf: Espf) -> str:
        if self._fail_first.get(event.event_type, 0) > 0:
            self._fail_first[event.event_type] -= 1
            raise Refused(503, "the core is busy (made to fail, to be tried again)")
        if self._core.has_done(event.i_event):
            return "done before; nothing to do"
        # First the work, then the memory of it. After a crash in between the event comes again and
        # is done again; the other way round it would be lost.
        result = await self._act(event, espf)
        self._core.remember(event.i_event, result)
        return result

    async def _act(self, event: Event, espf: Espf) -> str:
        match event.event_type:
            case "Account/Service/Netaccess/QuotaExceeded":
                return await self._block_till_next_month(event.i_account, espf)
            case "Custom/NextMonth":
                return await self._unblock_if_funded(event.i_account, espf)
            case "Account/Service/QuotaAvailable":
                return "unblocked" if self._core.unblock(event.i_account) else "was not blocked"
            case _:
                return "noted"

    async def _block_till_next_month(self, i_account: int, espf: Espf) -> str:
        account = await espf.get_account_info(i_account)
        self._core.block(i_account)
        if self._month is not None:
            start = datetime.now(UTC) + self._month
        else:
            start = next_month(datetime.now(UTC), account["time_zone_name"])
        number = await espf.create_event(NEXT_MONTH, {"i_account": i_account}, start)
        return f"blocked; #{number} {NEXT_MONTH} is due at {start.astimezone(UTC):{TIME}}"

    async def _unblock_if_funded(self, i_account: int, espf: Espf) -> str:
        account = await espf.get_account_info(i_account)
        funds = account["available_funds"]  # None: unlimited
        if funds is not None and funds <= 0:
            return f"available funds {funds}: stays blocked until a top-up"
        shown = "unlimited" if funds is None else funds
        state = "unblocked" if self._core.unblock(i_account) else "was not blocked"
        return f"available funds {shown}: {state}"


ESPF = web.AppKey("espf", Espf)


async def read_event(request: web.Request) -> Event:
    """Read a POST. Raises Refused when it is not in EventSender's wire format."""
    if request.content_type != "application/json":
        raise Refused(400, "Content-Type: application/json is expected")
    try:
        (date,) = request.headers.getall("Date", [])
        parsedate_to_datetime(date)
        body = json.loads(await request.read(), parse_float=Decimal)
        event_type, variables = body["event_type"], dict(body["variables"])
        # Without EventSender.WithUniqueID a repeated event could not be told from a new one.
        return Event(int(variables.pop("i_event")), str(event_type), variables)
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(400, f"not an event of ESPF: {error!r}") from None


def account_info(answer: dict[str, Any]) -> dict[str, Any]:
    """The account of a reply. A fault is a reason to be asked again later."""
    if "account_info" not in answer:
        raise Refused(503, f"the billing says {answer.get('faultcode')}")
    info: dict[str, Any] = answer["account_info"]
    return info


def next_month(now: datetime, time_zone_name: str) -> datetime:
    """Midnight of the first of the next month where the subscriber lives."""
    here = now.astimezone(ZoneInfo(time_zone_name))
    in_it = here.replace(day=1) + timedelta(days=32)
    return in_it.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def basic(user: str, key: str) -> str:
    """The Authorization header of the Basic method."""
    return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()


def report(event: Event | None, status: int, result: str) -> None:
    """Print a line: when, the status answered, which event, about whom, what was done."""
    now = datetime.now(UTC).isoformat(" ", "milliseconds").removesuffix("+00:00")
    what = "-"
    if event is not None:
        # i_env and event_time are in every event of ESPF; they would fill the line.
        shown = {k: v for k, v in event.variables.items() if k not in {"i_env", "event_time"}}
        about = " ".join(f"{name}={value}" for name, value in shown.items())
        what = f"#{event.i_event} {event.event_type} {about}"
    print(f"{now}  {status}  {what}: {result}", flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="A web application that receives ESPF's events.",
        epilog="From the environment: APPLICATION_USER and APPLICATION_KEY, with which ESPF calls "
        "this application; BILLING_LOGIN and BILLING_PASSWORD, with which it calls ESPF.",
    )
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--espf-url", default="http://127.0.0.1:8080", metavar="URL")
    parser.add_argument("--memory", type=Path, default=Path("application.db"), metavar="FILE")
    parser.add_argument(
        "--next-month-in",
        type=float,
        metavar="SECONDS",
        help="for demonstrations: schedule Custom/NextMonth so soon instead of for the first",
    )
    parser.add_argument(
        "--fail-first",
        nargs=2,
        action="append",
        default=[],
        metavar=("N", "TYPE"),
        help="for demonstrations: answer 503 to the first N events of a type; repeatable",
    )
    return parser.parse_args()


def main() -> None:
    """Serve until interrupted."""
    options = arguments()
    try:
        authorization = basic(os.environ["APPLICATION_USER"], os.environ["APPLICATION_KEY"])
        login, password = os.environ["BILLING_LOGIN"], os.environ["BILLING_PASSWORD"]
    except KeyError as missing:
        sys.exit(f"{missing.args[0]} is not set in the environment; see --help")
    month = None if options.next_month_in is None else timedelta(seconds=options.next_month_in)
    fail_first = {event_type: int(times) for times, event_type in options.fail_first}
    application = Application(Core(options.memory), authorization, month, fail_first)

    async def connection_to_espf(app: web.Application) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            app[ESPF] = Espf(http, options.espf_url, login, password)
            yield

    app = web.Application()
    app.cleanup_ctx.append(connection_to_espf)
    app.router.add_post("/", application.receive)
    print(f"waiting for events on http://127.0.0.1:{options.port}", flush=True)
    try:
        web.run_app(app, host="127.0.0.1", port=options.port, print=None, access_log=None)
    except OSError as error:
        sys.exit(f"cannot listen on port {options.port}: {error.strerror}")


if __name__ == "__main__":
    main()
