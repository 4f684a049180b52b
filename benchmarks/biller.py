"""A billing that does nothing but answer, in a process of its own: ``python -m benchmarks.biller``.

It has so many accounts, with the numbers from 1 on, and answers the three calls that an audit makes
as the vendor documents them. It writes its port when it is ready, and ends when its input does.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

PASSWORD = "for-benchmarks"

_ACCOUNT = (
    '{"i_account":%d,"id":"u%d","i_customer":1000,"i_product":1,"product_name":"Internet",'
    '"billing_model":1,"i_account_balance_control_type":2,"balance":0.0,"blocked":"N",'
    '"bill_status":"O","customer_blocked":"N","customer_bill_status":"O","activation_date":null,'
    '"expiration_date":null,"time_zone_name":"UTC","h323_password":"' + PASSWORD + '",'
    '"sim_card":null,"service_quotas":[],"assigned_addons":[],"service_features":[]}'
)


class Biller(asyncio.Protocol):
    """One connection; requests come one after another, each in a few pieces at most."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        self._read += data
        while (end := self._read.find(b"\r\n\r\n") + 4) > 3:
            head = self._read[:end].lower()
            size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            if len(self._read) < end + size:
                return
            method = self._read.split(b" ", 2)[1].decode().removeprefix("/rest/")
            params = json.loads(self._read[end : end + size])["params"]
            self._read = self._read[end + size :]
            self._say(*self._answer(method, params))

    def _say(self, status: str, body: str) -> None:
        assert self._transport is not None
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    def _answer(self, method: str, params: Mapping[str, Any]) -> tuple[str, str]:
        match method:
            case "Session/login":
                return "200 OK", '{"access_token":"nobodys"}'
            case "Account/get_account_list":
                first = params.get("after_i_account", 0) + 1
                last = min(self._count, first + params["limit"] - 1)
                accounts = ",".join(_ACCOUNT % (n, n) for n in range(first, last + 1))
                return "200 OK", f'{{"account_list":[{accounts}]}}'
            case _:
                named = str(params.get("i_account") or params["id"].removeprefix("u"))
                number = int(named) if named.isdigit() else 0
        if 0 < number <= self._count:
            return "200 OK", f'{{"account_info":{_ACCOUNT % (number, number)}}}'
        return "500 Fault", '{"faultcode":"Server.Account.not_found","faultstring":"no account"}'


async def _serve(count: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Biller(count), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
