"""A connector: what stands between ConnectorSender and a home subscriber server (HSS).

It keeps the HSS as the billing says: a card that an account holds is a subscriber there, served or
barred; a card that nobody holds is none. All that it needs is in the event. The HSS here is a
dictionary; put yours in its place.

Only Python's own library is used. Start it with CONNECTOR_TOKEN=… python connector.py --port 8000.
"""

import argparse
import hmac
import json
import os
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/process-event"
LONGEST_BODY = 2 * 1024 * 1024
DEFAULT_PROFILE = "default"

Json = dict[str, Any]


class ConnectorError(Exception):
    """Why an event was not taken: a status, and the type of the error for the sender."""

    def __init__(self, status: int, kind: str, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.kind = kind


class Hss:
    """Subscribers by IMSI. ``down``: for demonstrations, it cannot be reached."""

    def __init__(self, *, down: bool = False) -> None:
        self.subscribers: dict[str, Json] = {}
        self._down = down

    def put(self, imsi: str, subscriber: Json) -> None:
        """Make a subscriber, or change it to this."""
        self._reach()
        self.subscribers[imsi] = subscriber

    def remove(self, imsi: str) -> None:
        """Take a subscriber away, if it is there."""
        self._reach()
        self.subscribers.pop(imsi, None)

    def _reach(self) -> None:
        if self._down:
            # The event is not to blame: ConnectorSender sends it again.
            raise ConnectorError(503, "CONNECTION_ERROR", "no connection to the HSS")


def process(event: Json, hss: Hss) -> str:
    """Bring the HSS to what an enriched event says; returns what was done.

    It may be called again for the same event: the result is the same.
    """
    try:
        event_type = event["data"]["event_type"]
        pb_data = event.get("pb_data") or {}
        card, before = pb_data.get("sim_info") or {}, pb_data.get("prev_sim_info") or {}
        imsi, previous = card.get("imsi"), before.get("imsi")
    except (KeyError, TypeError, AttributeError) as error:
        raise ConnectorError(422, "VALIDATION_ERROR", f"not an enriched event: {error!r}") from None
    done = []
    if previous and previous != imsi:
        hss.remove(previous)
        done.append(f"{previous} removed")
    if imsi and (event_type == "SIM/Deleted" or card.get("i_account") is None):
        hss.remove(imsi)
        done.append(f"{imsi} removed")
    elif imsi and "account_info" in pb_data:
        subscriber = wanted(pb_data)
        hss.put(imsi, subscriber)
        done.append(f"{imsi} {subscriber['subscriber_status']}")
    return ", ".join(done) or "ignored: it names no IMSI"


def wanted(pb_data: Json) -> Json:
    """The subscriber as the HSS is to have it."""
    account = pb_data["account_info"]
    is_open = account["bill_status"] == "open"
    served = is_open and not account["blocked"]
    attributes = (pb_data.get("access_policy_info") or {}).get("attributes", [])
    profiles = {each["name"]: each.get("value") for each in attributes}
    return {
        "subscriber_status": "serviceGranted" if served else "operatorDeterminedBarring",
        "msisdn": [account["id"]] if is_open else [],
        "cs_profile": profiles.get("cs_profile", DEFAULT_PROFILE),
        "eps_profile": profiles.get("eps_profile", DEFAULT_PROFILE),
    }


class Connector(ThreadingHTTPServer):
    """The web service. Two events of one subscriber never come at the same time."""

    daemon_threads = True

    def __init__(self, port: int, token: str, hss: Hss) -> None:
        super().__init__(("127.0.0.1", port), Requests)
        self.authorization = f"Bearer {token}"
        self.hss = hss


class Requests(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Connector

    def do_GET(self) -> None:
        """GET /health: the connector is there."""
        if self.path == "/health":
            self._answer(200, {"message": "OK"})
        else:
            self._answer(404, {"message": "there is no such page"})

    def do_POST(self) -> None:
        """POST /process-event."""
        event: Json = {}
        try:
            event = self._event()
            status, said = 202, {"message": process(event, self.server.hss)}
        except ConnectorError as error:
            status = error.status
            said = {"message": "not processed", "error": str(error), "type": error.kind}
        self._log(event, status, said)
        self._answer(status, said)

    def _event(self) -> Json:
        # Read first: what is left of a body would be taken for the next request.
        length = int(self.headers.get("Content-Length") or 0)
        if length > LONGEST_BODY:
            self.close_connection = True
            raise ConnectorError(413, "VALIDATION_ERROR", f"at most {LONGEST_BODY} bytes are taken")
        body = self.rfile.read(length)
        if self.path != PATH:
            raise ConnectorError(404, "VALIDATION_ERROR", f"events go to {PATH}")
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), self.server.authorization.encode()):
            raise ConnectorError(401, "AUTHENTICATION_ERROR", "wrong token")
        try:
            event = json.loads(body)
        except ValueError as error:
            raise ConnectorError(400, "VALIDATION_ERROR", f"not JSON: {error}") from None
        if not isinstance(event, dict):
            raise ConnectorError(422, "VALIDATION_ERROR", "a JSON object is expected")
        return event

    def _answer(self, status: int, said: Json) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _log(self, event: Json, status: int, said: Json) -> None:
        """A line of JSON, with the ids under which ESPF's journal knows this attempt."""
        line = {
            "request_id": self.headers.get("x-request-id") or str(uuid.uuid4()),
            "unique_id": self.headers.get("x-b3-traceid") or uuid.uuid4().hex,
            "event_id": event.get("event_id"),
            "status": status,
            **said,
        }
        print(json.dumps(line), flush=True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's)
        """The base class's own lines are not needed."""


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        description="A connector for ConnectorSender, with a toy HSS behind it.",
        epilog="From the environment: CONNECTOR_TOKEN, which is ConnectorSender.Token in ESPF.",
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--hss-down", action="store_true", help="as if the HSS could not be reached"
    )
    options = parser.parse_args()
    token = os.environ.get("CONNECTOR_TOKEN")
    if not token:
        sys.exit("CONNECTOR_TOKEN is not set in the environment; see --help")
    with Connector(options.port, token, Hss(down=options.hss_down)) as connector:
        print(f"waiting for events on http://127.0.0.1:{connector.server_port}{PATH}", flush=True)
        try:
            connector.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
