"""PyHSS as its source says that it answers, for where there is no real one.

Its tables, and its habits: 200 (or 400) with ``null`` for what is not there, error texts that hold
what was sent, reads without a key, and a session that is cut only when the request names the MME.
"""

import json
from typing import Any

from contracts import Asked, Contract, Said

_COLUMNS = {
    "apn": ("apn", "ip_version", "apn_ambr_dl", "apn_ambr_ul", "qci"),
    "auc": (
        *("ki", "opc", "amf", "sqn", "iccid", "imsi", "batch_name", "sim_vendor", "esim", "lpa"),
        *("pin1", "pin2", "puk1", "puk2", "kid", "psk", "des", "adm1"),
        *("misc1", "misc2", "misc3", "misc4"),
    ),
    "subscriber": (
        *("imsi", "enabled", "auc_id", "default_apn", "apn_list", "msisdn"),
        *("ue_ambr_dl", "ue_ambr_ul", "nam", "roaming_enabled", "serving_mme"),
        *("serving_mme_timestamp", "serving_mme_realm", "serving_mme_peer"),
    ),
    "ims_subscriber": ("msisdn", "msisdn_list", "imsi", "ifc_path", "scscf"),
}
_MANDATORY = {
    "apn": ("apn", "apn_ambr_dl", "apn_ambr_ul"),
    "auc": ("ki", "opc", "amf"),
    "subscriber": ("auc_id", "default_apn", "apn_list"),
    "ims_subscriber": (),
}
_UNIQUE = {
    "apn": (),
    "auc": ("imsi", "iccid"),
    "subscriber": ("imsi",),
    "ims_subscriber": ("msisdn",),
}
_DEFAULTS = {
    "apn": {"ip_version": 0, "qci": 9},
    "auc": {"esim": False},
    "subscriber": {
        "enabled": True,
        "ue_ambr_dl": 999999,
        "ue_ambr_ul": 999999,
        "nam": 0,
        "roaming_enabled": True,
    },
    "ims_subscriber": {},
}

Row = dict[str, Any]


class _FailedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class PyHSS(Contract):
    """``key`` is its provisioning key; ``tells_keys`` is its ``enable_insecure_auc``.

    ``cancelled`` are the IMSIs of which an MME was told to end the session.
    """

    def __init__(self, key: str = "") -> None:
        super().__init__()
        self.key = key
        self.tells_keys = False
        self.clear()

    def clear(self) -> None:
        self.tables: dict[str, dict[int, Row]] = {name: {} for name in _COLUMNS}
        self.operations: list[str | None] = []
        self.cancelled: list[str] = []
        self._last = 0

    def answer(self, asked: Asked) -> Said:
        if asked.method != "GET" and self.key != asked.headers.get("provisioning-key", ""):
            return 401, {"Result": "Unauthorized - Provisioning-Key Invalid"}
        if asked.path == "/oam/ping":
            return 200, {"result": "OK"}
        table, _, rest = asked.path.strip("/").partition("/")
        if table not in self.tables or asked.path.count("/") > 3:
            return 404, {"Result": "Not Found"}
        try:
            return self._of_table(asked, table, rest)
        except _FailedError as failed:
            return failed.status, {"result": "Failed", "reason": str(failed)}

    def _of_table(self, asked: Asked, table: str, rest: str) -> Said:
        if asked.method == "GET":
            return self._read(asked, table, rest)
        self.operations.append(asked.query.get("operation_id"))
        if asked.method == "DELETE":
            found = self.tables[table].pop(int(rest), None)
            return 200, None if found is None else {"Result": "OK"}
        try:
            row = json.loads(asked.text)
        except ValueError as error:
            raise _FailedError(500, f"An internal server error occurred: 400 {error}") from None
        if "msisdn" in row:
            if row["msisdn"] is None:
                fault = "'NoneType' object has no attribute 'replace'"
                raise _FailedError(500, f"An internal server error occurred: {fault}")
            row["msisdn"] = row["msisdn"].replace("+", "")
        return self._create(table, row) if asked.method == "PUT" else self._update(table, rest, row)

    def _read(self, asked: Asked, table: str, rest: str) -> Said:
        if rest == "list":
            number, size = int(asked.query.get("page", 0)), int(asked.query.get("page_size", 100))
            rows = list(self.tables[table].values())[number * size : (number + 1) * size]
            return 200, [self._told(table, row) for row in rows]
        by, _, value = rest.rpartition("/")
        column = by.removeprefix("ims_subscriber_") or f"{table}_id"
        found = [row for row in self.tables[table].values() if str(row.get(column)) == value]
        if len(found) != 1:
            return (400 if by.startswith("ims_") else 200), None
        return 200, self._told(table, found[0])

    def _told(self, table: str, row: Row) -> Row:
        hidden = {"ki", "opc"} if table == "auc" and not self.tells_keys else set()
        return {name: value for name, value in row.items() if name not in hidden}

    def _create(self, table: str, row: Row) -> Said:
        for name in row:
            if name not in _COLUMNS[table]:
                fault = f"'{name}' is an invalid keyword argument for {table.upper()}"
                raise _FailedError(500, f"An internal server error occurred: {fault}")
        for name in _MANDATORY[table]:
            if row.get(name) is None:
                raise self._integrity(f"NOT NULL constraint failed: {table}.{name}", table, row)
        self._last += 1
        made = dict.fromkeys(_COLUMNS[table]) | _DEFAULTS[table] | row
        self._keep(table, {**made, f"{table}_id": self._last, "last_modified": "2026-03-01"})
        # What was created is told in full.
        return 200, self.tables[table][self._last]

    def _update(self, table: str, number: str, row: Row) -> Said:
        held = self.tables[table].get(int(number))
        if held is None:
            return 200, None
        known = {name: value for name, value in row.items() if name in _COLUMNS[table]}
        self._keep(table, {**held, **known})
        if table == "subscriber" and row.get("enabled") is False and row.get("serving_mme"):
            self.cancelled.append(row["imsi"])
        return 200, self._told(table, self.tables[table][int(number)])

    def _keep(self, table: str, row: Row) -> None:
        number = row[f"{table}_id"]
        for name in _UNIQUE[table]:
            for key, other in self.tables[table].items():
                if key != number and row.get(name) is not None and other.get(name) == row[name]:
                    raise self._integrity(f"UNIQUE constraint failed: {table}.{name}", table, row)
        self.tables[table][number] = row

    def _integrity(self, fault: str, table: str, row: Row) -> _FailedError:
        return _FailedError(
            400,
            f"A database integrity error occurred: (sqlite3.IntegrityError) {fault}\n"
            f"[SQL: INSERT INTO {table} ({', '.join(row)}) VALUES (?)]\n"
            f"[parameters: {tuple(row.values())}]\n",
        )

    @staticmethod
    def locked(asked: Asked) -> Said:
        """What it says while its database is locked."""
        parameters = tuple(asked.value.values())
        return 400, {
            "result": "Failed",
            "reason": "A database operational error occurred: (sqlite3.OperationalError) database "
            f"is locked\n[SQL: UPDATE auc SET ki=?]\n[parameters: {parameters}]",
        }
