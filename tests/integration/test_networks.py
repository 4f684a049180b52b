"""Whom handlers may call: by network, checked where the connection is made.

Addresses such as 127.0.0.1 and 127.0.0.2 play two networks; both are real, on any Linux.
"""

import asyncio
import ipaddress
import socket

import pytest
import uvloop

from espf import Route, configuration, standing, subscriptions
from espf.configuration import Provisioning
from espf.errors import InvalidRequest, Misconfigured
from espf.handlers.http import HttpClient
from espf.handlers.networks import ANYWHERE, Networks
from espf.handlers.registry import read_settings
from house import House
from webhook import Answer, Webhook

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

pytestmark = pytest.mark.databases("sqlite")


def networks(*texts):
    return Networks(tuple(map(ipaddress.ip_network, texts)))


ONE, TWO = networks("127.0.0.1/32"), networks("127.0.0.2/32")


@pytest.fixture
async def one():
    async with Webhook() as hook:
        yield hook


@pytest.fixture
async def two(one):
    """A server with the same port at another address."""
    hook = Webhook(host="127.0.0.2")
    await hook.start(one.port)
    yield hook
    await hook.stop()


@pytest.fixture
async def client():
    async with HttpClient() as client:
        yield client


@pytest.fixture
def name(monkeypatch):
    """The name ``moved.test``, which leads where the list says."""
    leads_to = ["127.0.0.1"]
    look_up = socket.getaddrinfo

    def here(host, *more, **options):
        if host != "moved.test":
            return look_up(host, *more, **options)
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "it is a name")
        return [found for each in leads_to for found in look_up(each, *more, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", here)
    monkeypatch.setattr("espf.handlers.lean_http.NAME_SECONDS", 0.0)
    return leads_to


async def by_lean(client, url, route=None):
    assert client.target(url) is not None
    return await client.post(url, b"{}", {}, 10.0)


async def by_aiohttp(client, url, route=None):
    return await client.get(url, {}, 10.0, route or Route())


both = pytest.mark.parametrize("call", [by_lean, by_aiohttp])


@pytest.mark.parametrize(
    ("allowed", "address", "may"),
    [
        (None, "10.0.0.1", True),
        (None, "::1", True),
        (None, "169.254.169.254", False),
        (None, "fe80::1", False),
        (None, "fe80::1%1", False),
        (None, "::ffff:169.254.169.254", False),
        (None, "::169.254.169.254", False),
        (None, "64:ff9b::a9fe:a9fe", False),
        (None, "64:ff9b:1::a9fe:a9fe", False),
        (None, "64:ff9b:1:a9fe:a9:fe00::", False),
        (None, "2002:a9fe:a9fe::1", False),
        (None, "64:ff9b::a00:1", True),
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["10.0.0.0/8"], "64:ff9b::a01:203", True),
        (["10.0.0.0/8"], "192.0.2.1", False),
        (["10.0.0.0/8"], "64:ff9b::c000:201", False),
        (["10.0.0.0/8"], "2001:db8::1", False),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["0.0.0.0/0", "::/0"], "169.254.169.254", False),
        (["0.0.0.0/0", "::/0"], "fe80::1", False),
        (["169.254.10.0/24"], "169.254.10.1", True),
        (["169.254.10.0/24"], "169.254.169.254", False),
    ],
)
def test_an_address_is_judged_as_the_one_that_it_leads_to(allowed, address, may):
    judge = ANYWHERE if allowed is None else networks(*allowed)
    assert judge.allow(address) is may


@both
async def test_only_what_is_allowed_is_called(client, one, two, call):
    client.confine(ONE)
    assert (await call(client, one.url)).ok
    with pytest.raises(Misconfigured, match=r"127\.0\.0\.2 is in no network"):
        await call(client, two.url)
    assert not two.connections


@both
async def test_another_way_to_write_an_address_is_no_way_around(client, two, call):
    client.confine(ONE)
    for host in ("[::ffff:127.0.0.2]", "127.2", "0x7f000002", "2130706434"):
        with pytest.raises(Misconfigured, match=r"is in no network|is not the URL"):
            await call(client, f"http://{host}:{two.port}/")
    assert not two.connections


@both
async def test_a_name_that_leads_elsewhere_the_second_time_is_checked_again(
    client, one, two, name, call
):
    client.confine(ONE)
    one.always = Answer(200, {"Connection": "close"})
    url = f"http://moved.test:{one.port}/"
    assert (await call(client, url)).ok
    name[:] = ["127.0.0.2"]
    with pytest.raises(Misconfigured, match=r"127\.0\.0\.2 is in no network"):
        await call(client, url)
    assert not two.connections


@both
async def test_of_several_addresses_only_those_that_are_allowed_are_tried(
    client, one, two, name, call
):
    client.confine(TWO)
    name[:] = ["127.0.0.1", "127.0.0.2"]
    assert (await call(client, f"http://moved.test:{one.port}/")).ok
    assert (one.connections, two.connections) == (0, 1)
    await two.stop()
    assert one.connections == 0


@both
async def test_a_redirect_leads_nowhere(client, one, two, call):
    one.always = Answer(307, {"Location": two.url})
    assert (await call(client, one.url)).status == 307
    assert not two.connections


async def test_of_a_proxy_its_own_address_is_checked(client, one, two):
    client.confine(ONE)
    with pytest.raises(Misconfigured, match=r"127\.0\.0\.2 is in no network"):
        await by_aiohttp(client, one.url, Route(proxy=two.url))
    assert not two.connections
    assert (await by_aiohttp(client, two.url, Route(proxy=one.url))).ok
    assert one.requests[0].path.startswith(two.url)


async def test_a_check_of_the_way_is_refused_as_well(client, two):
    client.confine(ONE)
    with pytest.raises(Misconfigured, match="is in no network"):
        await client.connect(two.url, 10.0)
    assert not two.connections


@both
async def test_environments_share_no_connections(client, one, call):
    free, confined = client.of_environment(1), client.of_environment(2)
    confined.confine(TWO)
    assert (await call(free, one.url)).ok
    with pytest.raises(Misconfigured):
        await call(confined, one.url)
    assert (await call(free, one.url)).ok
    assert one.connections == 1


@both
async def test_a_connection_that_is_kept_breaks_when_its_network_is_taken_away(client, one, call):
    assert (await call(client, one.url)).ok
    client.confine(ONE)
    assert (await call(client, one.url)).ok
    assert one.connections == 1
    client.confine(TWO)
    with pytest.raises(Misconfigured):
        await call(client, one.url)
    assert len(one.requests) == 2


# In the configuration


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("10.0.0.0/8", "write ENVIRONMENT: NETWORKS"),
        ("0: 10.0.0.0/8", "write ENVIRONMENT: NETWORKS"),
        ("3: 10.0.0.1/8", "is no network such as"),
        ("3: example.net", "is no network such as"),
        ("3: 10.0.0.0/8; 3: 10.0.0.0/8", "is there twice"),
        ("3:", "has no networks"),
    ],
)
def test_what_is_no_list_of_networks_is_refused(written, why):
    with pytest.raises(InvalidRequest, match=why):
        read_settings(Provisioning, {"TargetNetworks": written})


def test_a_list_of_networks_is_shown_as_it_would_be_written():
    written = "*: ::/0\n 12: 192.0.2.7 ;3: 10.0.0.0/8,2001:db8::/32"
    group = read_settings(Provisioning, {"TargetNetworks": written})
    shown = group.model_dump(by_alias=True)["TargetNetworks"]
    assert shown == "3: 10.0.0.0/8, 2001:db8::/32; 12: 192.0.2.7/32; *: ::/0"
    assert read_settings(Provisioning, {"TargetNetworks": shown}) == group
    assert group.networks(12) == networks("192.0.2.7")
    assert group.networks(4) == networks("::/0")


@pytest.fixture
def house(database, sealer, tmp_path):
    return House(database, sealer, tmp_path)


def confine(house, text):
    with house.database.begin() as connection:
        draft = configuration.clone(connection, house.database, "ann").i_configuration
        changes = {"Provisioning.TargetNetworks": text}
        configuration.change(connection, house.database, house.sealer, draft, changes, "ann")
        configuration.apply(connection, house.database, draft, "ann")


async def test_a_refused_target_costs_no_attempt_and_is_told(house, one, name):
    name[:] = ["127.0.0.1"]
    handler = house.handler(f"http://moved.test:{one.port}/")
    async with house.working():
        house.event(i_account=1)
        await house.until("finished")
        confine(house, "1: 127.0.0.2")

        def refused():
            # The worker notices within two seconds; until then, events still go out.
            house.event(i_account=1)
            return [each for each in house.events() if "no network" in (each.reason or "")]

        await house.come_true(lambda: bool(refused()))
        assert refused()[0].attempts == 0

        def shown():
            with house.database.read() as connection:
                return standing.handlers(connection, house.database, handler)[0].breakers

        await house.come_true(
            lambda: any("no network" in (b.reason or "") for b in shown().values())
        )


def test_an_address_that_may_not_be_called_is_refused_when_it_is_saved(house):
    confine(house, "1: 192.0.2.0/24\n*: 198.51.100.0/24")
    for url in ("http://127.0.0.2/", "https://[::ffff:203.0.113.7]/", "http://2130706434/"):
        with pytest.raises(InvalidRequest, match="is in no network") as caught:
            house.handler(url)
        assert caught.value.field == "EventSender.URL"
    handler = house.handler("http://192.0.2.7/")
    with pytest.raises(InvalidRequest, match="is in no network"):
        house.change(handler, EventSender__URL="http://198.51.100.7/")
    with house.database.read() as connection:
        stored = subscriptions.require_handler(connection, 1, handler.name)
    assert stored.options["EventSender.URL"] == "http://192.0.2.7/"
    house.handler("http://198.51.100.7/", i_env=2)


def test_verifying_warns_of_handlers_that_other_networks_would_stop(house):
    house.handler("http://192.0.2.7/", "There")
    house.handler("http://198.51.100.7:8080/", "Elsewhere")
    house.handler("http://[2001:db8::7]/", "Six", i_env=2)
    # Whatever it leads to may change.
    house.handler("http://moved.test/", "Named", i_env=2)

    def warnings(text):
        with house.database.begin() as connection:
            draft = configuration.clone(connection, house.database, "ann").i_configuration
            changes = {"Provisioning.TargetNetworks": text}
            configuration.change(connection, house.database, house.sealer, draft, changes, "ann")
            verdict = configuration.verify(connection, draft)
        assert not verdict.errors
        field = "Provisioning.TargetNetworks"
        return [one.message.split()[0] for one in verdict.findings if one.field == field]

    assert warnings("") == []
    assert warnings("1: 192.0.2.0/24") == ["Elsewhere@1"]
    assert warnings("*: 192.0.2.0/24; 2: 2001:db8::/64") == ["Elsewhere@1"]
    assert warnings("*: 10.0.0.0/8") == ["Elsewhere@1", "There@1", "Six@2"]
    confine(house, "1: 10.0.0.0/8")
    assert warnings("1: 10.0.0.0/8") == ["Elsewhere@1", "There@1"], "so it is today"
