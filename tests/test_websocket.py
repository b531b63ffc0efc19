"""The handshake is told from other requests, and what follows passes both ways, letting others have their turn."""

from __future__ import annotations

import gevent
import pytest
from gevent.socket import socketpair

from gateway.errors import NotAllowedHere
from gateway.message import Request, Response
from gateway.websocket import WebSocket, is_handshake, splice
from tests.clocks import VirtualClock

ASKS = [("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket")]


class Connection:
    def __init__(self, sock) -> None:
        self.socket = sock


def request(headers, connection=None, method: str = "GET") -> Request:
    made = Request(method, "/live", headers)
    made.connection = connection
    return made


def step(answer=lambda request: Response(299, [])) -> WebSocket:
    return WebSocket(answer, 5.0)


@pytest.mark.parametrize("method, headers, asks", [
    ("GET", ASKS, True), ("GET", [("upgrade", "websocket"), ("connection", "close"), ("connection", "upgrade")], True),
    ("POST", ASKS, False), ("GET", ASKS[:1], False), ("GET", ASKS[1:], False),
    ("GET", [("Connection", "Upgrade"), ("Upgrade", "h2c")], False)])
def test_what_is_a_handshake(method, headers, asks):
    assert is_handshake(request(headers, method=method)) is asks


def test_other_requests_and_other_servers():
    plain = request([])
    assert step()(plain).status == 299 and plain.upgrade == ""
    with pytest.raises(NotAllowedHere):
        step()(request(ASKS))


def test_an_answer_that_is_no_upgrade_is_an_ordinary_one():
    wishes = []

    def refuse(request):
        wishes.append(request.upgrade)
        return Response(403, [], b"no")

    here, there = socketpair()
    with here, there:
        answer = step(refuse)(request(ASKS, Connection(here)))
    assert (answer.status, answer.body, answer.takeover) == (403, b"no", None)
    assert wishes == ["websocket"]


def test_a_switch_of_protocols_takes_the_connection():
    def switch(request):
        answer = Response(101, [("Upgrade", "websocket")])
        answer.tunnel = object()
        return answer

    here, there = socketpair()
    with here, there:
        assert step(switch)(request(ASKS, Connection(here))).takeover is not None


def test_bytes_pass_both_ways_until_one_side_ends():
    browser, client = socketpair()
    upstream, service = socketpair()
    with browser, client, upstream, service:
        running = gevent.spawn(splice, client, upstream, 30.0)
        browser.sendall(b"ping")
        assert service.recv(10) == b"ping"
        service.sendall(b"pong!")
        assert browser.recv(10) == b"pong!"
        service.close()
        assert browser.recv(10) == b""
        assert running.get(timeout=30) == (4, 5)


def test_a_conversation_that_never_waits_lets_others_have_their_turn():
    """Both sockets are always ready: the loop has to look at the other ones all the same."""
    class Endless:
        def __init__(self) -> None:
            self.pieces = 0

        def settimeout(self, seconds) -> None:
            pass

        def recv(self, size: int) -> bytes:
            self.pieces += 1
            if self.pieces == 2:
                here.send(b"!")
            return b"x" if self.pieces <= 200 else b""

    class Upstream:
        def __init__(self, sock) -> None:
            self.sock = sock
            self.settimeout, self.fileno, self.recv = sock.settimeout, sock.fileno, sock.recv

        def sendall(self, data: bytes) -> None:
            pass

        def shutdown(self, how: int) -> None:
            pass

    heard: list[int] = []
    here, there = socketpair()
    upstream, service = socketpair()
    client = Endless()

    def listen():
        there.recv(1)
        heard.append(client.pieces)

    with here, there, upstream, service:
        other = gevent.spawn(listen)
        gevent.sleep(0)
        splice(client, Upstream(upstream), 0.2)
        other.join(30)
    assert heard and heard[0] <= 4


def test_silence_ends_it():
    browser, client = socketpair()
    upstream, service = socketpair()
    with browser, client, upstream, service:
        clock = VirtualClock()
        splicing = gevent.spawn(splice, client, upstream, 30.0, clock)
        clock.run(29.0)
        assert not splicing.dead
        clock.run(1.0)
        assert splicing.get(timeout=30) == (0, 0)
