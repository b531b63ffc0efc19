"""One of two instances refuses connections: whatever calls the upstream, no client notices."""

from __future__ import annotations

import json
import socket

import pytest
from running import Running, ask, free_port

CONFIG = """
[gateway]
views = ["caller"]

[upstreams.shop]
instances = ["http://127.0.0.1:{down}", "http://127.0.0.1:{port}"]
balance = "{balance}"

[[routes]]
path = "/*"
upstream = "shop"
websocket = true

[[routes]]
path = "/cached/*"
upstream = "shop"
cache = {{}}

[[routes]]
path = "/both"
[routes.aggregate]
one = "shop:/1"
two = "shop:/2"
"""
VIEW = '''
import requests
from flask import Blueprint, request

caller = Blueprint("caller", __name__)

@caller.route("/view", methods=["GET", "POST"])
def view():
    return requests.request(request.method, "http://shop/inside", data=request.get_data() or None).text
'''
UPGRADE = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
POST = b"Content-Length: 3\r\nConnection: close\r\n"
CALLS = {
    "forward": (b"GET /a", b"Connection: close\r\n", b""), "forward a POST": (b"POST /a", POST, b"abc"),
    "forward a chunked POST": (b"POST /a", b"Transfer-Encoding: chunked\r\nConnection: close\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
    "forward a large POST": (b"POST /a", b"Content-Length: 300000\r\nConnection: close\r\n", b"x" * 300_000),
    "cache": (b"GET /cached/%d", b"Connection: close\r\n", b""), "cache a POST": (b"POST /cached/a", POST, b"abc"),
    "composition": (b"GET /both", b"Connection: close\r\n", b""),
    "requests": (b"GET /view", b"Connection: close\r\n", b""), "requests, a POST": (b"POST /view", POST, b"abc"),
    "WebSocket": (b"GET /live", UPGRADE, b""),
}

pytestmark = pytest.mark.leaks_allowed      # module-wide servers: connections come and go between tests


def answer(sock: socket.socket, address: object) -> None:
    """JSON to everything, 101 to an upgrade; the connection ends, so that each call opens one."""
    data = b""
    try:
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        lower = head.lower()
        if b"upgrade: websocket" in lower:
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            return
        length = next((int(line.split(b":")[1]) for line in lower.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        while len(body) < length or b"chunked" in lower and not body.endswith(b"0\r\n\r\n"):
            body += sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    except OSError:
        return
    finally:
        sock.close()


@pytest.fixture(scope="module", params=["least-requests", "round-robin"])
def gateway(request, tmp_path_factory):
    from gevent.server import StreamServer
    server = StreamServer(("127.0.0.1", 0), answer)
    server.start()
    place = tmp_path_factory.mktemp("gateway")
    (place / "caller.py").write_text(VIEW)
    running = Running(place, CONFIG.format(port=server.server_port, down=free_port(), balance=request.param))
    yield running
    assert running.stop() == 0
    server.stop(timeout=0)


@pytest.mark.parametrize("kind", CALLS)
def test_no_call_fails_while_one_of_two_instances_refuses(gateway, kind):
    line, fields, body = CALLS[kind]
    wanted = 101 if kind == "WebSocket" else 200
    for number in range(10):
        first = line % number if b"%d" in line else line
        assert ask(gateway.port, first + b" HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n" + body)[0] == wanted


def test_few_calls_meet_the_instance_that_refuses(gateway):
    for _ in range(100):
        assert ask(gateway.port, b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")[0] == 200
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    attempts = [attempt for line in lines for attempt in line.get("attempts", ())]
    assert sum(attempt.get("flag") == "UF" for attempt in attempts) <= len(attempts) / 5
