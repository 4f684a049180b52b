"""The HTTP client against the servers that people have: nginx, Node, PHP and uvicorn.

Each is the real program, a child process on a port of 127.0.0.1. One that is not installed is a
failure, not a skip.
"""

import asyncio
import json
import sys

import pytest
import uvloop

from espf.errors import TryLater
from espf.handlers.http import REPLY_LIMIT, HttpClient
from web_servers import running

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

NODE = """
const http = require('http');
let connections = 0;
const server = http.createServer((request, response) => {
  const parts = [];
  request.on('data', part => parts.push(part));
  request.on('end', () => {
    const body = Buffer.concat(parts);
    switch (request.url) {
      case '/none': response.writeHead(204); response.end(); break;
      case '/pieces':
        response.writeEarlyHints({link: '</style.css>; rel=preload'});
        response.writeContinue();
        response.setHeader('Trailer', 'X-Sum');
        response.write('one,');
        setTimeout(() => {
          response.addTrailers({'X-Sum': '3'});
          response.end('two');
        }, 20);
        break;
      case '/long': response.end('a'.repeat(1000000)); break;
      case '/half':
        response.writeHead(200, {'Content-Length': 10});
        response.write('half', () => request.socket.destroy());
        break;
      case '/reset': request.socket.resetAndDestroy(); break;
      case '/busy':
        response.writeHead(503, {'Retry-After': '7'});
        response.end('not now');
        break;
      default:
        response.setHeader('Set-Cookie', ['a=1', 'b=2']);
        response.end(JSON.stringify({
          connection: request.socket.number, method: request.method, url: request.url,
          length: body.length, headers: request.headers,
        }));
    }
  });
});
server.on('connection', socket => { socket.number = ++connections; });
server.keepAliveTimeout = Number(process.argv[2]);
server.listen(Number(process.argv[1]), '127.0.0.1');
"""

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  keepalive_requests 7;
  keepalive_timeout 60ms;
  client_max_body_size 100k;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ return 200 "$connection $connection_requests"; }}
    location /none {{ return 204; }}
    location /proxy/ {{ proxy_pass http://127.0.0.1:{behind}/; proxy_http_version 1.1; }}
    location /dead/ {{ proxy_pass http://127.0.0.1:1/; }}
  }}
}}
"""

PHP = """<?php
$body = file_get_contents('php://input');
if ($_SERVER['REQUEST_URI'] === '/none') { http_response_code(204); return; }
if ($_SERVER['REQUEST_URI'] === '/fault') { http_response_code(500); echo 'fault'; return; }
if ($_SERVER['REQUEST_URI'] === '/pieces') {
  echo 'one,'; flush(); usleep(20000); echo 'two'; return;
}
header('Content-Type: application/json');
echo json_encode(['method' => $_SERVER['REQUEST_METHOD'], 'length' => strlen($body)]);
"""

ASGI = """
import asyncio, json

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message["body"]), message["more_body"]
    said = json.dumps({"method": scope["method"], "length": length, "client": scope["client"]})
    headers = [(b"content-length", str(len(said)).encode())]
    if scope["path"] == "/pieces":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one,", "more_body": True})
        await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b"two"})
    elif scope["path"] == "/none":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
    elif scope["path"] == "/fault":
        raise RuntimeError("on purpose")
    else:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said.encode()})
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with running(
        tmp_path_factory.mktemp("node"), lambda port: ["node", "-e", NODE, str(port), "60000"]
    ) as url:
        yield url


@pytest.fixture(scope="module")
def hasty_node(tmp_path_factory):
    """Closes a connection after 40 ms without a request."""
    with running(
        tmp_path_factory.mktemp("hasty"), lambda port: ["node", "-e", NODE, str(port), "40"]
    ) as url:
        yield url


@pytest.fixture(scope="module")
def nginx(tmp_path_factory, node):
    folder = tmp_path_factory.mktemp("nginx")

    def command(port):
        (folder / "nginx.conf").write_text(
            NGINX.format(folder=folder, port=port, behind=node.rpartition(":")[2])
        )
        return ["/usr/sbin/nginx", "-e", "stderr", "-p", str(folder), "-c", "nginx.conf"]

    with running(folder, command) as url:
        yield url


@pytest.fixture(scope="module")
def php(tmp_path_factory):
    folder = tmp_path_factory.mktemp("php")
    (folder / "router.php").write_text(PHP)
    with running(folder, lambda port: ["php", "-S", f"127.0.0.1:{port}", "router.php"]) as url:
        yield url


@pytest.fixture(scope="module")
def uvicorn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uvicorn")
    (folder / "served.py").write_text(ASGI)
    with running(
        folder, lambda port: [sys.executable, "-m", "uvicorn", "served:app", "--port", str(port)]
    ) as url:
        yield url


@pytest.fixture(params=["nginx", "node", "php", "uvicorn"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["node", "php", "uvicorn"])
def application(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
async def client():
    async with HttpClient() as client:
        yield client


async def post(client, url, body=b"{}"):
    return await client.post(url, body, {"Content-Type": "application/json"}, 10.0)


async def refused(client, url):
    with pytest.raises(TryLater) as caught:
        await post(client, url)
    return str(caught.value)


async def test_one_after_the_other(client, server):
    assert [(await post(client, f"{server}/x")).status for _ in range(20)] == [200] * 20


async def test_many_at_once(client, server):
    replies = await asyncio.gather(*(post(client, f"{server}/x") for _ in range(100)))
    assert {reply.status for reply in replies} == {200}


async def test_a_reply_without_a_body(client, server):
    for _ in range(3):
        reply = await post(client, f"{server}/none")
        assert (reply.status, reply.text) == (204, "")


async def test_the_body_arrives_whole(client, application):
    body = b"x" * 5_000_000
    reply = json.loads((await post(client, f"{application}/x", body)).text)
    assert (reply["method"], reply["length"]) == ("POST", len(body))


async def test_a_reply_in_pieces(client, application):
    # PHP ends it by closing, the others have chunks; Node announces it twice and adds a trailer.
    for _ in range(3):
        assert (await post(client, f"{application}/pieces")).text == "one,two"


async def test_a_fault_of_the_application(client, php, uvicorn):
    assert (await post(client, f"{php}/fault")).status == 500
    assert (await post(client, f"{uvicorn}/fault")).status == 500
    assert (await post(client, f"{uvicorn}/x")).ok


async def test_node_keeps_one_connection(client, node):
    replies = [json.loads((await post(client, node)).text) for _ in range(10)]
    assert len({reply["connection"] for reply in replies}) == 1


async def test_uvicorn_keeps_one_connection(client, uvicorn):
    replies = [json.loads((await post(client, uvicorn)).text) for _ in range(10)]
    assert len({tuple(reply["client"]) for reply in replies}) == 1


async def test_node_gets_what_was_meant(client, node):
    said = await post(client, f"{node}/a b?c=ü")
    assert said.headers["set-cookie"] == "a=1, b=2"
    request = json.loads(said.text)
    assert request["url"] == "/a%20b?c=%C3%BC"
    assert request["headers"] == {
        "host": node.removeprefix("http://"),
        "user-agent": "ESPF",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": "2",
    }


async def test_what_node_says_of_its_load(client, node):
    reply = await post(client, f"{node}/busy")
    assert (reply.status, reply.headers["retry-after"], reply.text) == (503, "7", "not now")


async def test_node_breaks_off(client, node):
    assert await refused(client, f"{node}/half") == f"the answer of {node} broke off"
    assert await refused(client, f"{node}/reset") in {
        f"the connection to {node} broke: connection reset by peer",
        f"{node} closed the connection without an answer",
    }
    assert (await post(client, node)).ok


async def test_of_a_long_reply_the_beginning_is_read(client, node):
    assert (await post(client, f"{node}/long")).text == "a" * REPLY_LIMIT


async def test_nginx_closes_after_so_many_requests(client, nginx):
    replies = [(await post(client, f"{nginx}/x")).text.split() for _ in range(30)]
    assert [int(requests) for _, requests in replies] == [n % 7 + 1 for n in range(30)]
    assert len({connection for connection, _ in replies}) == 5


async def test_nginx_refuses_a_body_before_it_has_come(client, nginx):
    for _ in range(3):
        assert (await post(client, f"{nginx}/proxy/x", b"x" * 20_000_000)).status == 413
        assert (await post(client, f"{nginx}/x")).ok


async def test_an_application_behind_nginx(client, nginx):
    assert (
        json.loads((await post(client, f"{nginx}/proxy/x", b"x" * 90_000)).text)["length"] == 90_000
    )
    assert (await post(client, f"{nginx}/proxy/pieces")).text == "one,two"
    assert (await post(client, f"{nginx}/proxy/none")).status == 204


async def test_a_dead_application_behind_nginx(client, nginx):
    assert (await post(client, f"{nginx}/dead/x")).status == 502


@pytest.mark.parametrize("name", ["nginx", "hasty_node"])
async def test_a_connection_that_the_server_is_about_to_close(client, request, name):
    # The pauses lie around the moment when the server closes what is idle: some requests cross
    # with that. None of them may fail.
    url = request.getfixturevalue(name)
    idle = {"nginx": 0.060, "hasty_node": 0.040}[name]

    async def pausing(n):
        for step in range(8):
            assert (await post(client, f"{url}/x")).ok
            await asyncio.sleep(idle + (n * 8 + step - 80) / 8000)

    await asyncio.gather(*(pausing(n) for n in range(20)))
