"""NatsSender: what consumers of a real JetStream see of the events, in which order, how often."""

import asyncio
import json
from contextlib import asynccontextmanager
from ipaddress import ip_network
from itertools import count

import pytest
from nats.js.api import StreamConfig

from databases import whatever_the_database
from espf import subscriptions
from espf.crypto import Sealer
from espf.errors import InvalidRequest, Misconfigured, Rejected, TryLater, Unreachable
from espf.handlers.base import Context
from espf.handlers.http import Http, HttpClient
from espf.handlers.networks import Networks
from espf.handlers.registry import read_settings
from espf.systems.nats_stream import NatsSender, NatsSenderSettings
from espf.testing import FakeBilling, FakeOutlet, check_handler, sample_event
from house import House
from nats_server import (
    PASSWORD,
    POOR,
    TOKEN,
    USER,
    NatsServer,
    operator_config,
    tls_config,
    trusting,
)

PORTS = count(4300)
NAMES = count(1)


@pytest.fixture(scope="module")
def server():
    with NatsServer() as running:
        yield running


@pytest.fixture
def options(server):
    """For a stream of its own: those of other tests are none of it."""
    if not server.is_ready():
        server.resume()
        server.kill()
        server.start()
    number = next(NAMES)
    return {
        "NatsSender.Servers": server.at,
        "NatsSender.AuthMethod": "Password",
        "NatsSender.User": USER,
        "NatsSender.Password": PASSWORD,
        "NatsSender.Stream": f"ESPF{number}",
        "NatsSender.Subject": f"t{number}.{{i_env}}.{{entity}}.{{event}}.{{i_account}}",
        "NatsSender.Timeout": 2,
    }


class Sender:
    """A handler that is open, and what each attempt would leave in the journal."""

    def __init__(self, handler, client):
        self.handler = handler
        self.client = client
        self.journal = []

    async def __call__(self, event, billing=None):
        context = self.context(billing)
        try:
            await self.handler.handle(event, context)
        finally:
            self.journal += context.notes

    def context(self, billing=None):
        secrets = [*self.handler.secrets()]
        http = Http(self.client, secrets)
        return Context(http, billing or FakeBilling(), 1, FakeOutlet(), secrets=secrets)


@asynccontextmanager
async def sending(options, **more):
    chosen = options | {f"NatsSender.{name}": value for name, value in more.items()}
    handler = NatsSender(read_settings(NatsSenderSettings, chosen))
    async with HttpClient() as client:
        await handler.open()
        try:
            yield Sender(handler, client)
        finally:
            await handler.close()


async def stored(server, options, subject=">", **login):
    """What a consumer on a connection of its own is given."""
    prefix = options["NatsSender.Subject"].partition(".")[0]
    async with server.visited(**login) as jetstream:
        consumer = await jetstream.pull_subscribe(
            f"{prefix}.{subject}", stream=options["NatsSender.Stream"]
        )
        waiting = (await consumer.consumer_info()).num_pending
        found = []
        while len(found) < waiting:
            found += await consumer.fetch(waiting - len(found), timeout=20)
        return found


async def test_a_consumer_gets_each_event_once_and_in_order_though_it_was_sent_twice(
    server, options
):
    async with sending(options) as send:
        events = [
            sample_event(name, i_event=number, i_account=number % 2, i_env=3)
            for number, name in enumerate(
                ("Account/New", "Account/Blocked", "Account/Status/Closed") * 2, 1
            )
        ]
        for event in events:
            await send(event)
            await send(event)
        assert sum("before" in line for line in send.journal) == len(events)
    prefix = options["NatsSender.Subject"].partition(".")[0]
    mine = await stored(server, options, "3.Account.*.1")
    assert [one.subject for one in mine] == [
        f"{prefix}.3.Account.New.1",
        f"{prefix}.3.Account.Status-Closed.1",
        f"{prefix}.3.Account.Blocked.1",
    ]
    assert [json.loads(one.data)["variables"]["i_event"] for one in mine] == [1, 3, 5]
    assert json.loads(mine[0].data) == {
        "event_type": "Account/New",
        "variables": {"i_account": 1, "i_event": 1},
    }
    everything = await stored(server, options, "*.Account.>")
    assert len(everything) == len({one.headers["Nats-Msg-Id"] for one in everything}) == 6


async def test_a_server_that_was_restarted_still_knows_what_it_has(server, options):
    """The connection that broke is made anew, and an event that comes again is known."""
    async with sending(options) as send:
        first, second = (sample_event(i_event=number) for number in (1, 2))
        await send(first)
        server.stop()
        with pytest.raises(TryLater, match="the connection broke"):
            await send(second)
        with pytest.raises(Unreachable, match="connection refused"):
            await send(second)
        server.start()
        await send(first)
        await send(second)
    assert len(await stored(server, options)) == 2


async def test_who_waits_for_an_ack_is_told_when_the_connection_breaks(server, options):
    async with sending(options, Timeout=60) as send:
        await send(sample_event())
        server.pause()
        waiting = asyncio.create_task(send(sample_event(i_event=2)))
        while not send.handler._jetstream._connection._clocks:
            await asyncio.sleep(0)
        server.kill()
        with pytest.raises(TryLater, match="the connection broke"):
            await waiting
        server.start()
        await send(sample_event(i_event=2))
    assert len(await stored(server, options)) == 2


async def test_a_server_that_does_not_answer_is_tried_later(server, options):
    """What it stores of an attempt that nobody waited for is not stored again."""
    async with sending(options, Timeout=1) as send:
        await send(sample_event())
        with server.paused(), pytest.raises(TryLater, match="no ack within 1 s"):
            await send(sample_event(i_event=2))
        await send(sample_event(i_event=2))
        await send(sample_event(i_event=3))
    numbers = [
        json.loads(one.data)["variables"]["i_event"] for one in await stored(server, options)
    ]
    assert numbers == [623623, 2, 3]


async def test_an_event_that_is_given_up_leaves_nothing_behind(server, options):
    async with sending(options) as send:
        await send(sample_event())
        with server.paused():
            task = asyncio.create_task(send(sample_event(i_event=2)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await send(sample_event(i_event=3))
        assert send.handler._jetstream._connection._resp_map == {}


async def test_it_keeps_the_contract_of_handlers(options):
    await check_handler(NatsSender, options, sample_event())


async def test_a_wrong_password_is_a_fault_of_the_settings_and_is_not_told(server, options):
    async with sending(options, Password="another-hush-hush") as send:
        with pytest.raises(Misconfigured, match="Authorization Violation") as refused:
            await send(sample_event())
        with pytest.raises(Misconfigured):
            await send.handler.check(send.context())
        assert "hush" not in f"{refused.value}{send.journal}"
        assert "another-hush-hush" in send.handler.secrets()


async def test_a_stream_that_is_missing_is_made_or_missed(server, options):
    async with sending(options, CreateStream="off") as send:
        with pytest.raises(Misconfigured, match="there is no stream ESPF"):
            await send(sample_event())
        with pytest.raises(Misconfigured, match="has no stream"):
            await send.handler.check(send.context())
    async with sending(options) as send:
        assert "comes with the first event" in await send.handler.check(send.context())
        async with server.visited() as jetstream:
            for number in (1, 2):
                await send(sample_event(i_event=number))
                info = await jetstream.stream_info(options["NatsSender.Stream"])
                assert info.state.messages == 1
                assert info.config.duplicate_window == 600
                assert info.config.max_age == 168 * 3600
                await jetstream.delete_stream(options["NatsSender.Stream"])
                with pytest.raises(TryLater, match="any more"):
                    await send(sample_event(i_event=number))


async def test_a_stream_that_is_there_is_not_changed(server, options):
    name, prefix = options["NatsSender.Stream"], options["NatsSender.Subject"].partition(".")[0]
    async with server.visited() as jetstream:
        made = await jetstream.add_stream(name=name, subjects=[f"{prefix}.3.Account.>"], max_msgs=7)
        async with sending(options) as send:
            await send(sample_event())
            # It takes what it takes.
            with pytest.raises(Misconfigured, match=r"takes t\d+\.3\.Account\.>, and not"):
                await send(sample_event("SIM/Updated"))
        assert (await jetstream.stream_info(name)).config == made.config


async def test_a_subject_that_another_stream_takes_is_not_sent(server, options):
    prefix = options["NatsSender.Subject"].partition(".")[0]
    async with server.visited() as jetstream:
        await jetstream.add_stream(name=f"OTHER{prefix}", subjects=[f"{prefix}.*.Account.>"])
        async with sending(options) as send:
            with pytest.raises(Misconfigured, match="overlap"):
                await send(sample_event())
            await jetstream.add_stream(
                name=options["NatsSender.Stream"], subjects=[f"{prefix}.*.SIM.>"]
            )
            await send(sample_event("SIM/Updated"))
            with pytest.raises(Misconfigured, match="expected stream does not match"):
                await send(sample_event())


async def test_what_one_may_not_publish_is_a_fault_of_the_settings(server, options):
    async with sending(options, User=POOR, Timeout=60) as send:
        await send(sample_event())
        with pytest.raises(Misconfigured, match="permissions violation for publish"):
            await send(sample_event("SIM/Updated"))
        await send(sample_event(i_event=3))


async def test_an_event_that_is_too_large_is_refused_for_good(server, options):
    async with sending(options) as send:
        with pytest.raises(Rejected, match="larger than the server takes"):
            await send(sample_event(note="x" * 200_000))
        async with server.visited() as jetstream:
            name = options["NatsSender.Stream"]
            config = (await jetstream.stream_info(name)).config
            await jetstream.update_stream(config.evolve(max_msg_size=500))
            with pytest.raises(Rejected, match="size exceeds"):
                await send(sample_event(note="x" * 1000))


async def test_a_full_stream_is_tried_later(server, options):
    prefix = options["NatsSender.Subject"].partition(".")[0]
    async with server.visited() as jetstream:
        config = StreamConfig(
            name=options["NatsSender.Stream"],
            subjects=[f"{prefix}.>"],
            max_msgs=1,
            discard="new",
        )
        await jetstream.add_stream(config)
        async with sending(options) as send:
            await send(sample_event())
            with pytest.raises(TryLater, match="maximum messages exceeded"):
                await send(sample_event(i_event=2))


async def test_with_what_the_billing_knows(server, options):
    billing = FakeBilling({"Account/get_account_info": {"account_info": {"blocked": "Y"}}})
    async with sending(options, Content="enriched", Data="account_info") as send:
        event = sample_event()
        await send(event, billing)
        await send(event, billing)
    (message,) = await stored(server, options)
    body = json.loads(message.data)
    assert body["pb_data"]["account_info"]["blocked"] is True
    assert body["data"]["event_type"] == "Account/New"


async def test_two_handlers_may_store_the_same_event_in_one_stream(server, options):
    prefix = options["NatsSender.Subject"].partition(".")[0]
    async with (
        sending(options, Subject=f"{prefix}.{{i_env}}.{{entity}}.{{event}}.{{i_account}}") as one,
        sending(options, Subject=f"{prefix}.a.b.c.d") as other,
    ):
        other.handler.name = "Other"
        await one(sample_event())
        await other(sample_event())
    assert len(await stored(server, options)) == 2


async def test_networks_that_may_not_be_called_are_not_called(server, options):
    async with sending(options) as send:
        send.client.confine(Networks((ip_network("10.0.0.0/8"),)))
        with pytest.raises(Misconfigured, match="no connection to"):
            await send(sample_event())


async def test_of_several_servers_the_first_that_is_there_is_taken(server, options):
    async with sending(options, Servers=f"127.0.0.1:1, {server.at}") as send:
        await send(sample_event())
        assert await send.handler.check(send.context()) == (
            f"NATS 2.9.10 answers; the stream {options['NatsSender.Stream']} holds 1 messages"
        )


async def test_who_is_no_nats_server_is_told_so(options):
    async def answer(reader, writer):
        writer.write(b"220 mail.example.net ESMTP\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as other:
        port = other.sockets[0].getsockname()[1]
        async with sending(options, Servers=f"127.0.0.1:{port}") as send:
            with pytest.raises(Unreachable, match="when expecting INFO"):
                await send(sample_event())


async def test_tls_with_a_token(tmp_path, server, options):
    """No secret goes to a server that is not trusted, or speaks no TLS although it must."""
    config = tls_config(tmp_path, server.address)
    login = {"AuthMethod": "Token", "Token": TOKEN}
    with NatsServer(next(PORTS), config) as private:
        at = private.at
        async with sending(
            options, Servers=at, CAFile=f"{tmp_path}/ca.pem", TLS="on", **login
        ) as send:
            await send(sample_event())
        async with private.visited(token=TOKEN, tls=trusting(tmp_path)) as jetstream:
            info = await jetstream.stream_info(options["NatsSender.Stream"])
            assert info.state.messages == 1
        async with sending(options, Servers=at, TLS="on", **login) as send:
            with pytest.raises(Unreachable, match="certificate is not trusted"):
                await send(sample_event())
    with NatsServer(next(PORTS), f"authorization {{ token: {TOKEN} }}") as public:
        for method in (login, {}):
            async with sending(options, Servers=public.at, TLS="on", **method) as send:
                with pytest.raises(Misconfigured, match="does not speak TLS"):
                    await send(sample_event())
        async with sending(options, Servers=public.at, **login) as send:
            await send(sample_event())


async def test_a_file_of_credentials(options):
    config, credentials = operator_config()
    login = {"AuthMethod": "Credentials", "Credentials": credentials}
    with NatsServer(next(PORTS), config) as careful:
        async with sending(options, Servers=careful.at, **login) as send:
            await send(sample_event())
            lines = [line for line in credentials.splitlines() if "-" not in line[:1] and line]
            assert {lines[0], lines[2]} <= set(send.handler.secrets())
        # A field of a form has lost the line breaks.
        login["Credentials"] = credentials.replace("\n", "")
        async with sending(options, Servers=careful.at, **login) as send:
            await send(sample_event(i_event=2))
        _, others = operator_config()
        async with sending(options, Servers=careful.at, **{**login, "Credentials": others}) as send:
            with pytest.raises(Misconfigured, match="Authorization Violation"):
                await send(sample_event())


def test_a_subject_is_made_of_what_an_event_says():
    given = {"NatsSender.Servers": "127.0.0.1"}
    handler = NatsSender(read_settings(NatsSenderSettings, given))
    assert handler.subject(sample_event()) == "espf.3.Account.New.541"
    assert handler.subject(sample_event("Customer/Blocked", i_customer=42)) == (
        "espf.3.Customer.Blocked.none"
    )
    chosen = {**given, "NatsSender.Subject": "x.{key}.{number}.n-{i_env}"}
    handler = NatsSender(read_settings(NatsSenderSettings, chosen))
    event = sample_event("DID/Updated", number="+380 44.1*>")
    assert handler.subject(event) == "x.did-_380_44_1__._380_44_1__.n-3"


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("Servers", "", "at least 1"),
        ("Servers", "127.0.0.1:0", "is no server"),
        ("Servers", "nats://espf:secret@127.0.0.1", "users are options"),
        ("Subject", "espf..{i_env}", "words with dots"),
        ("Subject", "espf.>", "words with dots"),
        ("Subject", "{i_env}.x", "must be the same"),
        ("Stream", "a.b", "pattern"),
        ("AuthMethod", "Token", "Token: is mandatory"),
        ("AuthMethod", "Password", "User: is mandatory"),
        ("AuthMethod", "Credentials", "Credentials: is mandatory"),
        ("Credentials", "SUAABC", "the text of a .creds file"),
    ],
)
def test_options_that_cannot_be_right_are_refused(name, wrong, said):
    given = {"NatsSender.Servers": "127.0.0.1", f"NatsSender.{name}": wrong}
    with pytest.raises(InvalidRequest, match=said) as refused:
        read_settings(NatsSenderSettings, given)
    assert "SUAABC" not in str(refused.value)


def test_a_damaged_seed_is_seen_at_once():
    _, credentials = operator_config()
    head, _, rest = credentials.partition("SEED-----\nSU")
    damaged = f"{head}SEED-----\nSU{'B' if rest[0] == 'A' else 'A'}{rest[1:]}"
    given = {"NatsSender.Servers": "127.0.0.1", "NatsSender.Credentials": damaged}
    with pytest.raises(InvalidRequest, match="damaged"):
        read_settings(NatsSenderSettings, given)


@whatever_the_database
async def test_a_worker_sends_a_thousand_events_in_order(
    server, options, database, key_file, tmp_path
):
    """Fifty at a time; the server is frozen, killed and started in between."""
    house = House(database, Sealer.open(key_file), tmp_path)
    chosen = {**options, "Concurrency": 50, "RetryDelays": "1s"}
    with database.begin() as connection:
        handler = subscriptions.create_handler(
            connection, house.sealer, 1, "Stream", "NatsSender", chosen
        )
    house.flood(handler, 300, accounts=60)
    async with house.working():
        await house.come_true(lambda: sum(s == "finished" for s in house.statuses().values()) > 100)
        with server.paused():
            # Whoever is quick has nothing left by now.
            house.flood(handler, 700, accounts=60)
            assert "queued" in house.statuses().values()
            await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await house.until("finished")
    by_account = {}
    for message in await stored(server, options):
        variables = json.loads(message.data)["variables"]
        by_account.setdefault(variables["i_account"], []).append(variables["i_event"])
    assert all(numbers == sorted(set(numbers)) for numbers in by_account.values())
    assert sum(map(len, by_account.values())) == 1000
