"""An adapter that keeps the contract of AricentHSS, with an HSS behind it that is a dictionary."""

from typing import Any

from contracts import Asked, Contract, Said


class Adapter(Contract):
    """``entries`` is what the HSS holds, with keys; ``events`` the events that changes named.

    With ``slow`` a change is accepted first, and done when the next request comes.
    """

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token
        self.clear()

    def clear(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.events: list[str | None] = []
        self.slow = False
        self._begun: Asked | None = None

    def attach(self, imsi: str) -> dict[str, Any] | str:
        """What the network is told of a phone, or why it is not let in."""
        entry = self.entries.get(imsi)
        if entry is None:
            return "unknown"
        return entry if entry["state"] == "granted" else "barred"

    def answer(self, asked: Asked) -> Said:
        if asked.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"reason": "who are you?"}
        if self._begun is not None:
            begun, self._begun = self._begun, None
            self._do(begun)
        if asked.path == "/v1/subscribers" and asked.method == "GET":
            after = asked.query.get("after", "")
            found = sorted(imsi for imsi in self.entries if imsi > after)
            return 200, {"imsis": found[: int(asked.query["limit"])]}
        if not asked.path.startswith("/v1/subscribers/"):
            return 404, "<h1>Not Found</h1>"
        if asked.method == "GET":
            return self._told(asked.path.rpartition("/")[2])
        self.events.append(asked.headers.get("x-event-id"))
        if self.slow:
            self._begun = asked
            return 202, {}
        return self._do(asked)

    def _told(self, imsi: str) -> Said:
        entry = self.entries.get(imsi)
        if entry is None:
            return 404, {"reason": "no such subscriber"}
        return 200, {name: value for name, value in entry.items() if name != "keys"}

    def _do(self, asked: Asked) -> Said:
        imsi = asked.path.rpartition("/")[2]
        if asked.method == "DELETE":
            there = self.entries.pop(imsi, None) is not None
            return (204, "") if there else (404, {"reason": "no such subscriber"})
        entry = asked.value
        held = self.entries.get(imsi, {})
        if "keys" not in entry and "keys" not in held:
            return 422, {"reason": f"a new subscriber needs keys: {entry}"}
        kept = {name: held[name] for name in ("keys", "key_check") if name in held}
        self.entries[imsi] = {**kept, **entry}
        return (200 if held else 201), {}
