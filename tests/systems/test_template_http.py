"""TemplateHTTP: the descriptions of the how-to, run against platforms such as they describe."""

import hmac
import re
from dataclasses import astuple
from pathlib import Path

import pytest

from alone import ONE_ACCOUNT, alone
from espf.errors import CheckLater, InvalidRequest, Misconfigured, Rejected, Skipped, TryLater
from espf.handlers import registry
from espf.handlers.base import Reply
from espf.handlers.desired import Change
from espf.handlers.registry import read_settings
from espf.systems.template_http import TemplateHTTP
from espf.testing import check_desired_state, check_handler, sample_event
from espf.web.pages import forms
from tv_platforms import JsonPlatform, XmlPlatform
from webhook import Answer

LOGIN, OTHER_LOGIN = "380441234567", "380441234568"
PASSWORD, OTHER_PASSWORD = 'open "ses&me', "another <0ne>"

PAGE = Path(__file__).parents[2] / "docs/how-to/provision-by-templates.md"
REST, XML, BLIND = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
async def rest():
    async with JsonPlatform() as platform:
        yield platform


@pytest.fixture
async def xml():
    async with XmlPlatform() as platform:
        yield platform


def options(platform, interface, **more):
    chosen = {
        "TemplateHTTP.URL": f"{platform.url}/api" if "external_id" in interface else platform.url,
        "TemplateHTTP.Interface": interface,
        "TemplateHTTP.Packages": "Family TV=FAM; Sport TV=SPO; Wrong TV=NIX; Film=FLM",
        "TemplateHTTP.Secret.A": getattr(platform, "token", None) or platform.key,
        "TemplateHTTP.Secret.B": "of the mark",
        "TemplateHTTP.Timeout": 2,
    }
    return chosen | {f"TemplateHTTP.{name}": value for name, value in more.items()}


async def open_account(town, login=LOGIN, product="Family TV", password=PASSWORD, **fields):
    info = {
        "id": login,
        "i_customer": town.i_customer,
        "i_product": town.product(product),
        "billing_model": -1,
        "opening_balance": 10,
        "h323_password": password,
        **fields,
    }
    return (await town.do("Account/add_account", account_info=info))["i_account"]


async def update(town, i_account, **fields):
    await town.do("Account/update_account", account_info={"i_account": i_account, **fields})


async def pay(town, i_account, amount, action="manual payment"):
    await town.do("Account/make_transaction", i_account=i_account, action=action, amount=amount)


async def told_once(town, method, **params):
    town.api(method, **params)
    for event in town.events():
        await town.attempt(event)


async def test_the_whole_life_of_a_subscriber_by_json(town, rest):
    """The password is sent with every event, for nobody tells it; else, twice changes nothing."""
    async with town.served(TemplateHTTP, options(rest, REST)):
        info = account_info(town)
        await told_once(town, "Account/add_account", account_info=info)
        i_account = town.api("Account/get_account_info", id=LOGIN)["account_info"]["i_account"]

        async def change(**fields):
            info = {"i_account": i_account, **fields}
            await told_once(town, "Account/update_account", account_info=info)

        async def transact(action, amount):
            money = {"i_account": i_account, "action": action, "amount": amount}
            await told_once(town, "Account/make_transaction", **money)

        assert rest.watches(LOGIN, PASSWORD) == "FAM"
        await change(blocked="Y")
        assert rest.watches(LOGIN, PASSWORD) == "off"
        await transact("manual charge", 10)
        await change(blocked="N")
        assert rest.watches(LOGIN, PASSWORD) == "off"
        await transact("manual payment", 5)
        assert rest.watches(LOGIN, PASSWORD) == "FAM"
        await change(i_product=town.product("Sport TV"))
        assert rest.watches(LOGIN, PASSWORD) == "SPO"
        await change(h323_password=OTHER_PASSWORD)
        assert rest.watches(LOGIN, OTHER_PASSWORD) == "SPO"
        await change(id=OTHER_LOGIN)
        assert rest.watches(OTHER_LOGIN, OTHER_PASSWORD) == "SPO"
        assert list(rest.subscribers) == [101]
        await change(i_product=town.product("Telephone"))
        assert rest.subscribers == {}
        await change(i_product=town.product("Family TV"))
        assert rest.watches(OTHER_LOGIN, OTHER_PASSWORD) == "FAM"
        await told_once(town, "Account/terminate_account", i_account=i_account)
        assert rest.subscribers == {}


def account_info(town, login=LOGIN, product="Family TV", password=PASSWORD):
    return {
        "id": login,
        "i_customer": town.i_customer,
        "i_product": town.product(product),
        "billing_model": -1,
        "opening_balance": 10,
        "h323_password": password,
    }


async def test_an_event_that_comes_again_sends_what_cannot_be_told_and_nothing_else(town, rest):
    async with town.served(TemplateHTTP, options(rest, REST)):
        town.api("Account/add_account", account_info=account_info(town))
        (event,) = town.events("Account/New")
        await town.attempt(event)
        await town.attempt(event)
        asked = [request.line.split(" HTTP")[0] for request in rest.requests]
        read = "GET /api/subscribers?external_id=1"
        assert asked[:3] == [read, "POST /api/subscribers", read]
        assert set(asked[3:]) == {read, "PUT /api/subscribers/101/password"}
        assert asked[3:].count("PUT /api/subscribers/101/password") == 1


async def test_the_whole_life_of_a_subscriber_by_xml(town, xml):
    """Each event is told twice."""
    async with town.served(TemplateHTTP, options(xml, XML)) as handler:
        i_account = await open_account(town, firstname="Ann & <Bob>")
        assert xml.users[LOGIN]["name"] == "Ann & <Bob>"
        assert xml.watches(LOGIN, PASSWORD) == "FAM"
        await update(town, i_account, blocked="Y")
        assert xml.watches(LOGIN, PASSWORD) == "off"
        await pay(town, i_account, 10, "manual charge")
        await update(town, i_account, blocked="N")
        assert xml.watches(LOGIN, PASSWORD) == "off"
        await pay(town, i_account, 5)
        assert xml.watches(LOGIN, PASSWORD) == "FAM"

        film = town.product("Film", addon_priority=1)
        addons = [{"i_product": film}]
        await update(town, i_account, assigned_addons=addons)
        assert xml.watches(LOGIN, PASSWORD) == "FAM FLM"
        await update(town, i_account, i_product=town.product("Sport TV"), assigned_addons=[])
        assert xml.watches(LOGIN, PASSWORD) == "SPO"
        await update(town, i_account, h323_password=OTHER_PASSWORD)
        assert xml.watches(LOGIN, OTHER_PASSWORD) == "SPO"
        await update(town, i_account, id=OTHER_LOGIN)
        assert xml.watches(OTHER_LOGIN, OTHER_PASSWORD) == "SPO"
        assert list(xml.users) == [OTHER_LOGIN]
        await town.do("Account/terminate_account", i_account=i_account)
        assert xml.users == {}
        assert (await handler.compare(OTHER_LOGIN, town.context())).kind == "same"


async def test_ids_that_two_accounts_have_exchanged(town, xml):
    async with town.served(TemplateHTTP, options(xml, XML)):
        first = await open_account(town)
        second = await open_account(town, OTHER_LOGIN, "Sport TV", OTHER_PASSWORD)
        for i_account, login in ((first, "3"), (second, LOGIN), (first, OTHER_LOGIN)):
            town.api("Account/update_account", account_info={"i_account": i_account, "id": login})
        mine, theirs, mine_again = town.events("Account/ID/Changed")
        for event in (theirs, mine_again, mine):
            await town.attempt(event)
        assert xml.watches(LOGIN, OTHER_PASSWORD) == "SPO"
        assert xml.watches(OTHER_LOGIN, PASSWORD) == "FAM"


async def test_an_answer_that_is_lost_and_a_platform_that_is_away(town, rest):
    async with town.served(TemplateHTTP, options(rest, REST)):
        town.api("Account/add_account", account_info=account_info(town))
        (event,) = town.events("Account/New")
        rest.loses = "POST"
        with pytest.raises(TryLater):
            await town.attempt(event)
        rest.loses = None
        await rest.stop()
        with pytest.raises(TryLater, match="no connection"):
            await town.attempt(event)
        await rest.start(rest.port)
        await town.attempt(event)
        assert rest.watches(LOGIN, PASSWORD) == "FAM"
        assert len(rest.subscribers) == 1


async def test_what_the_platform_refuses_is_told_in_its_words(town, rest, xml):
    async with town.served(TemplateHTTP, options(rest, REST)):
        with pytest.raises(Rejected, match=r"create: HTTP 422 .*: unknown package"):
            await open_account(town, product="Wrong TV")
    async with town.served(TemplateHTTP, options(xml, XML)):
        xml.is_busy = True
        with pytest.raises(TryLater, match="read: HTTP 200 OK: busy"):
            await update(town, 1, blocked="Y")


async def test_no_secret_is_told_however_it_is_written(town, rest, xml):
    """In JSON, in XML, in a header, in a form: a platform may echo what it was sent."""
    secrets = [PASSWORD, rest.token, 'tok\\"en', 'open \\"ses&me']
    async with town.served(TemplateHTTP, options(rest, REST)) as handler:
        town.api("Account/add_account", account_info=account_info(town))
        (event,) = town.events("Account/New")
        rest.loses = "POST"
        context = town.context()
        with pytest.raises(TryLater):
            await handler.handle(event, context)
        said = "\n".join([*context.notes, *map(str, astuple(context.http.exchange))])
        assert "POST" in said
        assert [one for one in secrets if one in said] == []
    mark = hmac.new(b"of the mark", f"{LOGIN}:{PASSWORD}".encode(), "sha256").hexdigest()
    secrets = [PASSWORD, xml.key, "k&lt;e&gt;y", "open &quot;ses&amp;me", mark]
    async with town.served(TemplateHTTP, options(xml, XML)) as handler:
        context = town.context()
        xml.always = lambda request: (
            Answer(200, body="<response><result code='10'/></response>")
            if b'"get"' in request.body
            else Answer(500, body=request.body)
        )
        with pytest.raises(TryLater):
            await handler.handle(event, context)
        assert mark.encode() in xml.requests[-1].body
        said = "\n".join([*context.notes, *map(str, astuple(context.http.exchange))])
        assert "<login>" in said
        assert [one for one in secrets if one in said] == []


async def test_keys_come_page_by_page(rest):
    async with alone(TemplateHTTP, options(rest, REST)) as (handler, context):
        for number in range(1, 8):
            fields = {"external_id": str(number), "login": str(number), "password": "x"}
            rest.subscribers[number] = {"id": number, "enabled": True, **fields}
        found, after = [], None
        while page := await handler.held_keys(after, context):
            assert len(page) <= 3
            found += page
            after = page[-1]
        assert found == list("1234567")


async def test_a_list_without_an_end_is_refused(rest):
    async with alone(TemplateHTTP, options(rest, REST)) as (handler, context):
        rest.always = Answer(200, body='{"items": [{"external_id": "7"}]}')
        with pytest.raises(Rejected, match="does not go on"):
            await handler.held_keys("7", context)


BLIND_REST = f"""{BLIND}{
    '''
[fields]
package = "{{ package }}"
[create]
path = "/users"
form = { name = "{{ key }}", package = "{{ wanted.package }}", key = "{{ secret.a }}" }
[change]
path = "/users/{{ key }}"
form = { package = "{{ wanted.package }}" }
[delete]
path = "/users/{{ key }}"
'''
}"""


async def test_what_cannot_be_read_is_sent_with_every_event(town, rest):
    """And nobody claims to know how it stands."""
    there = set()

    def answer(request):
        login = request.path.partition("/users/")[2]
        if request.method == "POST":
            if LOGIN in there:
                return Answer(409)
            there.add(LOGIN)
            return Answer(201)
        if request.method == "DELETE" and LOGIN in there:
            there.remove(login)
        return Answer(200 if login in there or request.method == "DELETE" else 404)

    rest.always = answer
    async with town.served(TemplateHTTP, options(rest, BLIND_REST, URL=rest.url)) as handler:
        await told_once(town, "Account/add_account", account_info=account_info(town))
        await told_once(
            town, "Account/update_account", account_info={"i_account": 1, "blocked": "Y"}
        )
        assert [request.method for request in rest.requests] == ["POST", "POST", "PUT"]
        assert rest.requests[0].body == b"name=380441234567&package=FAM&key=tok%22en"
        await told_once(town, "Account/terminate_account", i_account=1)
        assert rest.requests[-1].line == f"DELETE /users/{LOGIN} HTTP/1.1"
        assert there == set()
        with pytest.raises(Rejected, match="cannot be read"):
            await handler.compare(LOGIN, town.context())
        with pytest.raises(Rejected, match="cannot list"):
            await handler.held_keys(None, town.context())
        assert "can be reached" in await handler.check(town.context())


@pytest.mark.parametrize("interface", [REST, XML, BLIND_REST])
async def test_in_shadow_mode_nothing_is_sent_and_all_is_told(town, rest, interface):
    chosen = options(rest, interface) | {"Mode": "shadow"}
    rest.always = Answer(404)
    async with town.served(TemplateHTTP, chosen) as handler:
        town.api("Account/add_account", account_info=account_info(town))
        (event,) = town.events("Account/New")
        with pytest.raises(Skipped, match=r"shadow mode, not done: .* is added"):
            await handler.handle(event, town.context())
        sent = {request.method for request in rest.requests}
        assert sent <= ({"POST"} if interface is XML else {"GET"})
        assert not any(b'"add"' in request.body for request in rest.requests)


MEANINGS = REST.replace("[[rules]]", """[[rules]]
status = "5xx"
matches = "maintenance ([0-9]+)"
means = "accepted"
after = 60

[[rules]]
status = 200
matches = "(x+x+)+y"
means = "refused"

[[rules]]""", 1)  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "verdict", "told"),
    [
        (Answer(fault="hang"), TryLater, "no answer"),
        (Answer(500, body="oh"), TryLater, "read: HTTP 500 Internal Server Error: oh"),
        (Answer(429, {"Retry-After": "7"}), TryLater, "429"),
        (Answer(401), Misconfigured, "401"),
        (Answer(403), Misconfigured, "403"),
        (Answer(302, {"Location": "http://127.0.0.1:1/"}), Misconfigured, "302"),
        (Answer(400, body='{"error": {"message": "bad"}}'), Rejected, "bad"),
        (Answer(200, body="<html>"), TryLater, "the reply is not JSON"),
        (Answer(503, body="maintenance 12"), CheckLater, "503"),
        (Answer(200, body="x" * 60_000), Misconfigured, "takes too long"),
        (Answer(200, body="[" * 60_000), TryLater, "not JSON"),
    ],
)
async def test_what_an_answer_means(rest, answer, verdict, told):
    async with alone(TemplateHTTP, options(rest, MEANINGS, Timeout=1)) as (handler, context):
        rest.then(answer)
        with pytest.raises(verdict, match=told) as raised:
            await handler.read("1", None, context)
        if answer.status == 429:
            assert raised.value.after.total_seconds() == 7


async def test_an_error_is_not_taken_for_an_absence(rest):
    """A rule about the body counts for answers of success, unless it says otherwise."""
    async with alone(TemplateHTTP, options(rest, REST)) as (handler, context):
        rest.then(Answer(401, body='{"items": []}'))
        with pytest.raises(Misconfigured):
            await handler.read("1", None, context)


@pytest.mark.parametrize(
    "body",
    [
        '<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><response>&b;</response>',
        '<!DOCTYPE response SYSTEM "file:///etc/passwd"><response/>',
    ],
)
async def test_xml_with_a_document_type_is_not_read(xml, body):
    lenient = XML.rpartition("[[rules]]")[0]
    async with alone(TemplateHTTP, options(xml, lenient)) as (handler, context):
        xml.then(Answer(200, body=body))
        with pytest.raises(TryLater, match="document type"):
            await handler.read(LOGIN, None, context)


async def test_a_value_that_would_change_the_path_is_refused(rest):
    """Nothing may delete all subscribers for want of a name."""
    async with alone(TemplateHTTP, options(rest, BLIND_REST, URL=rest.url)) as (handler, context):
        for key in ("", "..", "."):
            with pytest.raises(Rejected, match="cannot stand in a path"):
                await handler.apply(Change(key, {}, None), context)
        rest.always = Answer()
        await handler.apply(Change("a/b?c#d", {}, None), context)
        await handler.apply(Change("a", None, {"package": "x"}), context)
        assert "tok%22en" not in context.http.exchange.request
        assert rest.requests[-1].body.endswith(b"key=tok%22en")
        assert rest.requests[-2].path == "/users/a%2Fb%3Fc%23d"


async def test_what_it_says_of_its_server(rest, xml):
    async with alone(TemplateHTTP, options(rest, REST)) as (handler, context):
        assert await handler.check(context) == (
            "the interface answers: under the key 0 there is nothing"
        )
        assert {request.method for request in rest.requests} == {"GET"}
    async with alone(TemplateHTTP, options(xml, XML)) as (handler, context):
        assert "can be reached" in await handler.check(context)
        assert xml.requests == []


@pytest.mark.parametrize(
    ("interface", "reply"),
    [
        (
            REST,
            Reply(200, {}, '{"items": [{"id": 7, "login": "ann", "package": "Family TV", '
                           '"enabled": true}]}'),
        ),
        (BLIND_REST, Reply(200, {}, "")),
    ],
)  # fmt: skip
async def test_it_keeps_the_contract_of_handlers(interface, reply):
    chosen = {
        "TemplateHTTP.URL": "http://127.0.0.1:1",
        "TemplateHTTP.Interface": interface,
        "TemplateHTTP.Secret.A": "hush-hush",
    }
    event = sample_event("Account/Blocked")
    await check_handler(TemplateHTTP, chosen, event, billing=ONE_ACCOUNT, reply=reply)


def test_a_description_may_be_typed_into_the_console():
    """In a field of several lines, which browsers end in a way of their own."""
    fields = {one.name: one for one in forms.of_options(registry.options("TemplateHTTP"), {})}
    assert fields["TemplateHTTP.Interface"].kind == "area"
    sent = {"TemplateHTTP.URL": "127.0.0.1:1", "TemplateHTTP.Interface": REST.replace("\n", "\r\n")}
    assert read_settings(TemplateHTTP.Settings, sent).interface == REST


def replaced(old, new):
    assert old in REST
    return REST.replace(old, new)


@pytest.mark.parametrize(
    ("interface", "told"),
    [
        (replaced("key = ", "key == "), "it is not TOML: .*line 1"),
        (replaced('{{ wanted.login }}, "package"', '{{ wanted.login }, "package"'),
         "line 42: create.json: unexpected '}'"),
        (replaced("{{ package }}", "{{ pakage }}"), "line 11: fields.package: there is no pakage"),
        (replaced("{{ held.number }}/pass", "{{ held.nummer }}/pass"), "there is no held.nummer"),
        (replaced("{{ wanted.package }}", "{{ wanted.pack }}"), "there is no wanted.pack "),
        (replaced("{{ secret.a }}", "{{ secret.x }}"), "there is no secret.x"),
        (replaced("{{ not barred }}", "{{ account.id.upper() }}"), "a call is not part"),
        (replaced("{{ not barred }}", "{{ 9 * 9 }}"), "'\\*' is not part"),
        (replaced("{{ not barred }}", "{% include '/etc/passwd' %}"), "include is not part"),
        (replaced("{{ not barred }}", "{% for a in bars %}{% for b in bars %}{% endfor %}"
                  "{% endfor %}"), "a loop in a loop"),
        (replaced("{{ not barred }}", "{{ barred | nosuch }}"), "No filter named 'nosuch'"),
        (replaced('"json:/items/0/id"', '"jsn:/items"'), "read.fields.number: 'jsn:/items' is no"),
        (replaced("missing = true", 'matches = "("'), "no regular expression"),
        (replaced('means = "absent"', 'means = "gone"'), "rules.0.means"),
        (replaced("[delete]", "[remove]"), "delete: Field required"),
        (replaced('fields = ["login", "package", "enabled"]', 'fields = ["login"]'),
         "no request changes the field enabled"),
        (replaced('key = "i_account"', "cannot_read = true"), "either there is .read."),
        (replaced('path = "/subscribers"', 'path = "http://elsewhere/"'), "begins with /"),
        (replaced("Accept =", "Host ="), "cannot have a header 'Host'"),
        ("", "fields: Field required"),
    ],
)  # fmt: skip
def test_a_broken_description_is_refused_with_its_place(interface, told):
    chosen = {"TemplateHTTP.URL": "http://127.0.0.1:1", "TemplateHTTP.Interface": interface}
    with pytest.raises(InvalidRequest, match=told) as raised:
        read_settings(TemplateHTTP.Settings, chosen)
    assert raised.value.field == "TemplateHTTP.Interface"


async def test_it_keeps_what_handlers_of_its_kind_promise(xml):
    def at(host, port):
        return {"TemplateHTTP.URL": f"http://{host}:{port}/", "TemplateHTTP.Timeout": 1}

    await check_desired_state(TemplateHTTP, options(xml, XML, Packages="*=FAM"), at=at)
