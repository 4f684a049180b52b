"""The billing client against a real server that speaks the billing's language."""

import asyncio
import json

import pytest

from espf.errors import BillingFault, Misconfigured, TryLater
from espf.handlers.billing_client import BillingClient
from espf.handlers.http import HttpClient
from webhook import Answer, Webhook


class Server:
    """Hands out tokens, takes only the newest, and knows one account."""

    def __init__(self, hook):
        self.hook = hook
        self.logins = 0
        hook.always = self.answer

    def answer(self, request):
        params = request.json["params"]
        if request.path == "/rest/Session/login":
            if params != {"login": "espf", "password": "right"}:
                return fault("Server.Session.auth_failed", "wrong password")
            self.logins += 1
            return answer({"access_token": f"token-{self.logins}"})
        if request.headers.get("authorization") != f"Bearer token-{self.logins}":
            return fault("Client.Session.check_auth.failed_to_process_access_token", "expired")
        if params.get("i_account") != 541:
            return fault("Server.Account.not_found", "no such account")
        return answer({"account_info": {"i_account": 541, "asked": params}})


def answer(content):
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(content))


def fault(code, text):
    return Answer(500, {}, json.dumps({"faultcode": code, "faultstring": text}))


@pytest.fixture
async def hook():
    async with Webhook() as hook:
        yield hook


@pytest.fixture
async def http():
    async with HttpClient() as http:
        yield http


@pytest.fixture
def server(hook):
    return Server(hook)


@pytest.fixture
def billing(http, hook, server):
    return BillingClient(http, f"{hook.url}/", "espf", "right").for_environment(3)


async def test_it_logs_in_once_and_asks_in_the_environment_of_the_event(billing, server, hook):
    for _ in range(2):
        info = await billing.get_account_info(541)
        assert info == {"i_account": 541, "asked": {"i_account": 541, "i_env": 3}}
    assert server.logins == 1
    assert [request.path for request in hook.requests] == [
        "/rest/Session/login",
        "/rest/Account/get_account_info",
        "/rest/Account/get_account_info",
    ]
    assert "authorization" not in hook.requests[0].headers


async def test_an_environment_cannot_be_left(billing, hook):
    await billing.call("Account", "get_account_info", {"i_account": 541, "i_env": 1})
    assert hook.requests[-1].json["params"]["i_env"] == 3


async def test_it_logs_in_again_when_the_session_is_over(billing, server):
    await billing.get_account_info(541)
    server.logins += 1  # as if somebody had logged in elsewhere and ended our session
    assert (await billing.get_account_info(541))["i_account"] == 541
    assert server.logins == 3


async def test_many_calls_at_once_log_in_once(billing, server):
    await asyncio.gather(*(billing.get_account_info(541) for _ in range(20)))
    assert server.logins == 1
    server.logins += 1
    await asyncio.gather(*(billing.get_account_info(541) for _ in range(20)))
    assert server.logins == 3


async def test_a_session_that_is_never_accepted_is_tried_once_again(billing, hook):
    hook.always = lambda request: (
        answer({"access_token": "x"})
        if request.path.endswith("login")
        else fault("Server.Session.check_auth.auth_failed", "never")
    )
    with pytest.raises(BillingFault, match="never"):
        await billing.get_account_info(541)
    assert len(hook.requests) == 4


async def test_a_fault_carries_code_and_text_and_is_no_reason_to_log_in_again(billing, server):
    with pytest.raises(BillingFault, match="no such account") as caught:
        await billing.get_account_info(7)
    assert caught.value.code == "Server.Account.not_found"
    assert server.logins == 1


async def test_a_refused_login_is_the_settings_fault(http, hook, server):
    billing = BillingClient(http, hook.url, "espf", "wrong").for_environment(3)
    with pytest.raises(Misconfigured, match=r"wrong password \(Server.Session.auth_failed\)"):
        await billing.get_account_info(541)


async def test_a_billing_that_is_away_is_tried_later(http):
    async with Webhook() as gone:
        url = gone.url
    with pytest.raises(TryLater, match="connection refused"):
        await BillingClient(http, url, "espf", "right").for_environment(3).get_account_info(541)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Answer(502, {}, "<html>bad gateway"), "HTTP 502 Bad Gateway, not JSON"),
        (Answer(200, {}, "<html>"), "HTTP 200 OK, not JSON"),
        (Answer(200, {}, "[]"), "not JSON"),
        (Answer(500, {}, '{"detail":"x"}'), "HTTP 500 Internal Server Error"),
    ],
)
async def test_an_answer_that_is_none_is_tried_later(billing, hook, bad, reason):
    hook.then(answer({"access_token": "token-0"}), bad)
    with pytest.raises(TryLater, match=reason):
        await billing.get_account_info(541)


async def test_a_login_without_a_token_is_tried_later(billing, hook):
    hook.then(answer({"session_id": "1"}))
    with pytest.raises(TryLater, match="no access_token"):
        await billing.get_account_info(541)


async def test_an_account_without_details_is_a_fault(billing, hook):
    hook.then(answer({"access_token": "token-0"}), answer({"account_info": None}))
    with pytest.raises(BillingFault, match="no account_info of 541"):
        await billing.get_account_info(541)


async def test_a_long_answer_is_read_whole(billing, hook):
    long = {"account_info": {"note": "x" * 1_000_000}}
    hook.then(answer({"access_token": "token-0"}), answer(long))
    assert await billing.get_account_info(541) == long["account_info"]
