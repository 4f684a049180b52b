"""A YateHSS as its vendor's documents describe its JSON API, for there is no real one here.

Documented are the address, the header, ``code`` and ``message``, ``get_node_type``,
``set_sim_range``, ``set_sim``, ``del_sim``, ``set_subscriber``, the filters of ``get_subscriber``,
and that a phone is cut when its service is switched off. The rest is made up in the same manner.
"""

from typing import Any

from contracts import Asked, Contract, Said

_SWITCHES = ("cs_active", "ps_active", "lte_active")

Params = dict[str, Any]


class _FailedError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class YateHSS(Contract):
    """``tells`` are the members of a subscriber that it tells, None: all.

    With ``says_absent`` what is not there is a failure, else an empty answer. ``cut`` are the
    IMSIs that were taken off the network, each with the switch.
    """

    def __init__(self, secret: str) -> None:
        super().__init__()
        self.secret = secret
        self.clear()

    def clear(self) -> None:
        self.sims: dict[str, Params] = {}
        self.subscribers: dict[int, Params] = {}
        self.registered: set[str] = set()
        self.cut: list[tuple[str, str]] = []
        self.tells: set[str] | None = None
        self.says_absent = False
        self.profiles = {"SIMs"}
        self._last = 890

    def attach(self, imsi: str, switch: str) -> Params | str:
        """What a phone's network is told, or why it is not let in."""
        sim = self.sims.get(imsi, {})
        users = [each for each in self.subscribers.values() if each.get("imsi") == imsi]
        if not sim.get(switch) or not users:
            return "unknownSubscriber"
        self.registered.add(imsi)
        return users[0]

    def answer(self, asked: Asked) -> Said:
        if asked.path != "/api.php" or asked.method != "POST":
            return 404, "<h1>Not Found</h1>"
        if asked.headers.get("x-authentication", "") != self.secret:
            return 403, {"code": 403, "message": "Forbidden"}
        serve = getattr(self, f"_{asked.value['request']}", None)
        if serve is None:
            return 200, {"code": 201, "message": f"Unknown request {asked.value['request']}"}
        try:
            return 200, {"code": 0, **serve(asked.value.get("params", {}))}
        except _FailedError as failed:
            return 200, {"code": failed.code, "message": str(failed)}

    def _get_node_type(self, _params: Params) -> Params:
        return {"node_type": [{"type": "hss", "version": "1.3"}]}

    def _set_sim_range(self, params: Params) -> Params:
        if params["sim_profile"] not in self.profiles:
            raise _FailedError(402, f"no profile {params['sim_profile']}, sims: {params['sims']}")
        numbers = {}
        for sim in params["sims"]:
            if sim["imsi"] in self.sims:
                raise _FailedError(409, f"SIM {sim['imsi']} is there already")
            self._last += 1
            numbers[sim["imsi"]] = self._last
            on = {name: params.get(name, False) for name in _SWITCHES}
            self.sims[sim["imsi"]] = {**sim, **on, "sim_id": self._last}
        return {"sim_range": {"count": len(numbers), "sim_ids": numbers}}

    def _set_sim(self, params: Params) -> Params:
        sim = self.sims.get(params["imsi"])
        if sim is None:
            raise _FailedError(404, f"SIM with IMSI {params['imsi']} not found")
        for name in _SWITCHES:
            if sim[name] and params.get(name) is False and sim["imsi"] in self.registered:
                self.cut.append((sim["imsi"], name))
        sim |= params
        return {}

    def _del_sim(self, params: Params) -> Params:
        if any(each.get("imsi") == params["imsi"] for each in self.subscribers.values()):
            raise _FailedError(410, "a subscriber uses the SIM")
        if self.sims.pop(params["imsi"], None) is None:
            raise _FailedError(404, f"SIM with IMSI {params['imsi']} not found")
        return {}

    def _get_sim(self, params: Params) -> Params:
        rows = [
            {name: value for name, value in sim.items() if name not in {"ki", "op"}}
            for sim in self.sims.values()
        ]
        return self._listed("sim", rows, params)

    def _set_subscriber(self, params: Params) -> Params:
        number = params.get("subscriber_id")
        if number is not None and number not in self.subscribers:
            raise _FailedError(404, "subscriber not found")
        for key, other in self.subscribers.items():
            for name in ("msisdn", "imsi"):
                if key != number and params.get(name) and other.get(name) == params[name]:
                    raise _FailedError(411, f"{name} {params[name]} is in use")
        if params.get("imsi") and params["imsi"] not in self.sims:
            raise _FailedError(412, f"no SIM with IMSI {params['imsi']} to use")
        if number is None:
            self._last += 1
            number = self._last
        self.subscribers[number] = {
            **self.subscribers.get(number, {}),
            **params,
            "subscriber_id": number,
        }
        return {"subscriber_id": number}

    def _get_subscriber(self, params: Params) -> Params:
        told = self.tells
        rows = [
            {name: value for name, value in row.items() if told is None or name in told}
            for row in self.subscribers.values()
            if all(row.get(name) == params[name] for name in ("imsi", "msisdn") if name in params)
        ]
        if not rows and self.says_absent:
            raise _FailedError(404, "Subscriber not found")
        return {"subscriber": rows}

    def _del_subscriber(self, params: Params) -> Params:
        if self.subscribers.pop(params["subscriber_id"], None) is None:
            raise _FailedError(404, "subscriber not found")
        return {}

    def _listed(self, what: str, rows: list[Params], params: Params) -> Params:
        """Of a filter, what fits; of limit and offset, a part; of nothing, the number."""
        if "limit" in params:
            first = params["offset"]
            return {what: rows[first : first + params["limit"]]}
        if not params:
            return {"count": len(rows)}
        found = [row for row in rows if row["imsi"] == params["imsi"]]
        if not found and self.says_absent:
            raise _FailedError(404, f"{what} not found")
        return {what: found}
