"""Step: a WebSocket upgrade is passed through (RFC 6455 section 4, RFC 9110 section 7.8).

The handshake goes to the target like any request, which says that the client wants to switch protocols. When the answer is 101, the
two sockets are spliced: bytes are copied both ways, unread and unchanged, until either side closes or nothing
has moved in either direction for ``idle_timeout`` seconds. Any other answer is an ordinary answer. A client that goes away while
the upstream is thinking ends the handshake there too.

A handshake is a GET of HTTP/1.1 or later (RFC 9110 section 7.8) without a body: until a body is read to its end, its bytes and
those of the new protocol cannot be told apart. One with a body is 400; an upgrade by another method or in HTTP/1.0 is an ordinary
request. What a client sends behind the handshake, before the 101, is the next request unless there is a 101.
"""

from __future__ import annotations

from typing import Any

import gevent
from gevent import socket

from .errors import BadRequest, NotAllowedHere
from .loop.monotonic_clock import CLOCK, MonotonicClock
from .message import Handler, Request, Response
from .tasks import Event

PIECE = 65536


class WebSocket:
    """Steps between this one and the target see the handshake as an ordinary request, and its 101 as an answer."""

    def __init__(self, next: Handler, idle_timeout: float, clock: MonotonicClock = CLOCK) -> None:
        self.next = next
        self.idle_timeout = idle_timeout
        self.clock = clock

    def __call__(self, request: Request) -> Response:
        if not is_handshake(request):
            return self.next(request)
        if request.body is not None and request.body.length != 0:
            raise BadRequest("a WebSocket handshake has no body")
        if request.connection is None:
            raise NotAllowedHere("WebSocket needs the gateway's own worker class")
        request.upgrade = "websocket"
        response = self.next(request)
        if response.tunnel is not None:
            response.takeover = lambda: self._take(request, response, response.tunnel)
        return response

    def _take(self, request: Request, response: Response, tunnel: Any) -> None:
        """Send the 101 and copy until the end."""
        client, early = request.connection.take()
        fields = [("Connection", "Upgrade"), ("Upgrade", request.upgrade), *response.headers]
        head = [f"HTTP/1.1 101 {response.reason}\r\n", *(f"{name}: {value}\r\n" for name, value in fields), "\r\n"]
        try:
            client.sendall("".join(head).encode("latin-1") + tunnel.leftover)
            if early:
                tunnel.sock.sendall(early)
            up, down = splice(client, tunnel.sock, self.idle_timeout, self.clock)
            request.notes["websocket"] = {"sent": up + len(early), "received": down + len(tunnel.leftover)}
        except OSError as error:
            request.notes["websocket"] = {"error": str(error)}
        finally:
            tunnel.sock.close()

    def __repr__(self) -> str:
        return f"websocket: upgrades are spliced, at most {self.idle_timeout:g} s idle"


def is_handshake(request: Request) -> bool:
    """Does the request ask for an upgrade to WebSocket?"""
    return (request.method == "GET" and request.header("Upgrade").lower() == "websocket" and request.version != "1.0"
            and any(token.strip().lower() == "upgrade"
                    for value in request.header_list("Connection") for token in value.split(",")))


def splice(client: Any, upstream: Any, idle_timeout: float, clock: MonotonicClock = CLOCK) -> tuple[int, int]:
    """Copy both ways until one side ends or ``idle_timeout`` seconds pass without a byte. Returns bytes (to, from) upstream."""
    totals = [0, 0]
    last = [clock.now()]
    one_end, both_ends = Event(), Event()
    client.settimeout(None)
    upstream.settimeout(None)

    def copy(source: Any, sink: Any, side: int) -> None:
        try:
            while data := source.recv(PIECE):
                last[0] = clock.now()
                sink.sendall(data)
                last[0] = clock.now()
                totals[side] += len(data)
                socket.wait_write(sink.fileno())         # others' turn: with both sockets ready nothing else here waits
            sink.shutdown(socket.SHUT_WR)
        except OSError:                          # either side is gone: that ends both directions
            return
        finally:
            (both_ends if one_end.ready() else one_end).set()

    pumps = [gevent.spawn(copy, client, upstream, 0), gevent.spawn(copy, upstream, client, 1)]
    try:
        while not one_end.ready():
            left = last[0] + idle_timeout - clock.now()
            if left <= 0:
                break
            clock.wait(one_end, left)
        else:
            clock.wait(both_ends, min(idle_timeout, 1.0))        # the close frame's answer may be under way
    finally:
        gevent.killall(pumps)
    return totals[0], totals[1]
