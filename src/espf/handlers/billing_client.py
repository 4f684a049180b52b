"""The road back: what a handler asks the billing about an event, over the billing's JSON API.

Events carry references; the details come from here. One client serves all handlers of a
process; it logs in by itself, and again when its session has ended.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from espf.errors import BillingFault, Misconfigured, TryLater
from espf.handlers.base import Billing, Reply
from espf.handlers.http import HttpClient, status_line
from espf.model import compact

#: How long the billing may take for one answer.
TIMEOUT_SECONDS = 30.0

#: An account's details with all its services may be long.
REPLY_LIMIT = 8 * 1024 * 1024


class BillingClient:
    """The billing API at a URL such as ``http://127.0.0.1:8080``, as one administrator."""

    def __init__(self, http_client: HttpClient, url: str, login: str, password: str) -> None:
        self._http = http_client
        self._url = url.rstrip("/")
        self._login = login
        self._password = password
        self._token: str | None = None
        self._logging_in = asyncio.Lock()

    def for_environment(self, i_env: int) -> Billing:
        """The billing as a handler of this environment has it."""
        return _Environment(self, i_env)

    async def call(self, service: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Call ``/rest/<service>/<method>``, logging in first where needed.

        Raises BillingFault when the billing says no, TryLater when it is away, Misconfigured
        when it refuses login or password.
        """
        token = self._token or await self._log_in(None)
        try:
            return await self._post(service, method, params, token)
        except BillingFault as fault:
            if not _is_session_over(fault):
                raise
        token = await self._log_in(token)
        return await self._post(service, method, params, token)

    async def _log_in(self, stale: str | None) -> str:
        """A token other than the stale one: many callers find it stale, the first logs in."""
        async with self._logging_in:
            if self._token is None or self._token == stale:
                self._token = None
                params = {"login": self._login, "password": self._password}
                try:
                    answer = await self._post("Session", "login", params, None)
                except BillingFault as fault:
                    raise Misconfigured(
                        f"the billing refuses the login of the handlers: {fault} ({fault.code})"
                    ) from None
                if not isinstance(token := answer.get("access_token"), str):
                    raise TryLater("the billing's answer to Session/login has no access_token")
                self._token = token
            return self._token

    async def _post(
        self, service: str, method: str, params: Mapping[str, Any], token: str | None
    ) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        reply = await self._http.post(
            f"{self._url}/rest/{service}/{method}",
            compact({"params": params}).encode(),
            headers,
            TIMEOUT_SECONDS,
            reply_limit=REPLY_LIMIT,
        )
        return _answer(reply, f"{service}/{method}")


@dataclass(frozen=True)
class _Environment:
    client: BillingClient
    i_env: int

    async def call(self, service: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return await self.client.call(service, method, {**params, "i_env": self.i_env})

    async def get_account_info(self, i_account: int) -> dict[str, Any]:
        answer = await self.call("Account", "get_account_info", {"i_account": i_account})
        if not isinstance(info := answer.get("account_info"), dict):
            raise BillingFault(
                "Server.Account.not_found", f"the billing has no account_info of {i_account}"
            )
        return cast("dict[str, Any]", info)


def _is_session_over(fault: BillingFault) -> bool:
    return ".check_auth." in fault.code


def _answer(reply: Reply, called: str) -> dict[str, Any]:
    try:
        answer = json.loads(reply.text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise TryLater(f"the billing answered {called} with {status_line(reply.status)}, not JSON")
    if not reply.ok:
        if "faultcode" not in answer:
            raise TryLater(f"the billing answered {called} with {status_line(reply.status)}")
        raise BillingFault(str(answer["faultcode"]), str(answer.get("faultstring", "")))
    return answer
