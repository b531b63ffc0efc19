"""A WebSocket handshake and what may surround it: bodies, expectations, old versions, other methods, bytes sent too early."""

from __future__ import annotations

import json
import socket

import pytest
from running import Running, ask

from tests.waiting import until

CONFIG = """
[upstreams.chat]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/*"
upstream = "chat"
websocket = true
"""
ASKS = b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
CLOSE = ASKS.replace(b"Connection: Upgrade", b"Connection: Upgrade, close")

pytestmark = pytest.mark.leaks_allowed      # module-wide servers: connections come and go between tests


class Chat:
    """Switches when it is asked to, unless the path is /no; else it answers. ``got`` is all that came, by
    connection."""

    def __init__(self) -> None:
        self.got: list[bytearray] = []

    def __call__(self, sock: socket.socket, address: object) -> None:
        mine = bytearray()
        try:
            while data := sock.recv(65536):
                if not any(mine is other for other in self.got):     # a kept connection may be one of an earlier test's
                    mine.clear()
                    self.got.append(mine)
                mine += data
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    if b"Upgrade: websocket" not in head or b" /no " in head:
                        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nordinary")
                    else:
                        sock.sendall(SWITCH + b"hello")
                        while data := sock.recv(65536):
                            mine += data
                            sock.sendall(data)
        except OSError:
            return
        finally:
            sock.close()


@pytest.fixture(scope="module")
def chat():
    from gevent.server import StreamServer
    made = Chat()
    server = StreamServer(("127.0.0.1", 0), made)
    server.start()
    made.port = server.server_port
    yield made
    server.stop(timeout=0)


@pytest.fixture(scope="module")
def gateway(chat, tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("gateway"), CONFIG.format(port=chat.port))
    yield running
    assert running.stop() == 0


@pytest.fixture(autouse=True)
def clean(chat, gateway):
    chat.got.clear()
    yield
    assert "Traceback" not in gateway.errors.read_text()


@pytest.mark.parametrize("fields, body", [
    (b"Content-Length: 5\r\n", b"12345"), (b"Content-Length: 5\r\n", b"12"), (b"Content-Length: 200000\r\n", b"x" * 200_000),
    (b"Transfer-Encoding: chunked\r\n", b"5\r\n12345\r\n0\r\n\r\n"), (b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\n", b""), (b"Content-Length: 5\r\nExpect: 100-continue\r\n", b""),
    (b"Content-Length: 26\r\n", b"GET /admin HTTP/1.1\r\nA: b\r\n\r\n"[:26]),
])
def test_a_handshake_with_a_body_is_refused_and_reaches_nobody(gateway, chat, fields, body):
    head = b"GET /live HTTP/1.1\r\n" + CLOSE + fields + b"\r\n"
    status, _, answer = ask(gateway.port, head + body)
    assert (status, json.loads(answer)["code"]) == (400, "bad_request")
    assert chat.got == []


@pytest.mark.parametrize("first, fields, body", [
    (b"POST /live HTTP/1.1\r\n", b"Content-Length: 5\r\n", b"12345"),
    (b"POST /live HTTP/1.1\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\n12345\r\n0\r\n\r\n"),
    (b"GET /live HTTP/1.0\r\n", b"", b""), (b"GET /live HTTP/1.0\r\n", b"Content-Length: 5\r\n", b"12345"),
    (b"HEAD /live HTTP/1.1\r\n", b"", b""),
])
def test_an_upgrade_that_is_no_handshake_is_an_ordinary_request(gateway, chat, first, fields, body):
    status, _, _ = ask(gateway.port, first + CLOSE + fields + b"\r\n" + body)
    assert status == 200
    # What it has read is noted when the connection ends; an earlier one's end may come late.
    requests = until(lambda: [got for got in chat.got if b"HTTP/1." in got])
    assert len(requests) == 1 and b"Upgrade" not in requests[0]


@pytest.mark.parametrize("fields", [b"", b"Content-Length: 0\r\n", b"Expect: 100-continue\r\n"])
def test_a_handshake_without_a_body_is_one(gateway, chat, fields):
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
        client.sendall(b"GET /live HTTP/1.1\r\n" + ASKS + fields + b"\r\n")
        said = read_until(client, b"hello")
        assert said.startswith(b"HTTP/1.1 101 ") and said.count(b"HTTP/1.1") == 1
        client.sendall(b"ping")
        read_until(client, b"ping")
    assert chat.got[0].endswith(b"\r\n\r\nping")


@pytest.mark.parametrize("early", [b"frame", b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n", b"x" * 100_000])
def test_what_is_sent_before_the_101_belongs_to_the_new_protocol_if_there_is_one(gateway, chat, early):
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
        client.sendall(b"GET /live HTTP/1.1\r\n" + ASKS + b"\r\n" + early)
        assert read_until(client, early[-20:]).startswith(b"HTTP/1.1 101 ")
    assert len(chat.got) == 1
    until(lambda: chat.got[0].partition(b"\r\n\r\n")[2] == early, "the rest has arrived")


def test_what_is_sent_before_an_ordinary_answer_is_the_next_request(gateway, chat):
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
        client.sendall(b"GET /no HTTP/1.1\r\n" + ASKS + b"\r\nGET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        said = b""
        while data := client.recv(65536):
            said += data
    assert said.count(b"HTTP/1.1 200 OK") == 2 == said.count(b"ordinary")
    assert b"".join(chat.got).count(b"GET /next HTTP/1.1") == 1


def read_until(client: socket.socket, mark: bytes) -> bytes:
    said = b""
    while mark not in said:
        data = client.recv(65536)
        assert data, said
        said += data
    return said
