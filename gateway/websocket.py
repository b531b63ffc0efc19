"""Step: a WebSocket upgrade is passed through (RFC 6455 section 4, RFC 9110 section 7.8).

The handshake goes to the upstream like any request, with Upgrade and Connection, which are not dropped here. When the upstream
answers 101, the two sockets are spliced: bytes are copied both ways, unread and unchanged, until either side closes or nothing
has moved in either direction for ``idle_timeout`` seconds. Any other answer is an ordinary answer. A client that goes away while
the upstream is thinking ends the handshake there too.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import socket

from .disconnect import Watched, unwatch, watch
from .errors import NotAllowedHere
from .message import Call, Handler, Request, Response

HANDSHAKE = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
PIECE = 65536


class WebSocket:
    """``prepare`` makes the Call of a request, ``upgrade`` sends it, ``finish`` is for an answer that is not 101."""

    def __init__(self, next: Handler, prepare: Callable[[Request], Call], upgrade: Callable[[Call], tuple[Response, Any]],
                 finish: Callable[[Response, Request], Response], idle_timeout: float) -> None:
        self.next = next
        self.prepare = prepare
        self.upgrade = upgrade
        self.finish = finish
        self.idle_timeout = idle_timeout

    def __call__(self, request: Request) -> Response:
        if not is_handshake(request):
            return self.next(request)
        if request.connection is None:
            raise NotAllowedHere("WebSocket needs the gateway's own worker class")
        token = watch(request.connection.socket)
        streamed = False
        try:
            call = self.prepare(request)
            call.headers = call.headers + HANDSHAKE
            response, upgraded = self.upgrade(call)
            if upgraded is not None:
                response.takeover = lambda: self._take(request, response, upgraded)
                return response
            response = self.finish(response, request)
            if not isinstance(response.body, bytes):
                response.body = Watched(response.body, token)
                streamed = True
            return response
        finally:
            if not streamed:
                unwatch(token)

    def _take(self, request: Request, response: Response, upgraded: Any) -> None:
        """Send the 101 and copy until the end."""
        client, early = request.connection.take()
        head = [f"HTTP/1.1 101 {response.reason}\r\n", *(f"{name}: {value}\r\n" for name, value in response.headers), "\r\n"]
        try:
            client.sendall("".join(head).encode("latin-1") + upgraded.leftover)
            if early:
                upgraded.sock.sendall(early)
            sent, received = splice(client, upgraded.sock, self.idle_timeout)
            request.notes["websocket"] = {"sent": sent + len(early), "received": received + len(upgraded.leftover)}
        except OSError as error:
            request.notes["websocket"] = {"error": str(error)}
        finally:
            upgraded.sock.close()

    def __repr__(self) -> str:
        return f"websocket: upgrades are spliced, at most {self.idle_timeout:g} s idle"


def is_handshake(request: Request) -> bool:
    """Does the request ask for an upgrade to WebSocket?"""
    return (request.method == "GET" and request.header("Upgrade").lower() == "websocket"
            and any(token.strip().lower() == "upgrade"
                    for value in request.header_list("Connection") for token in value.split(",")))


def splice(client: Any, upstream: Any, idle_timeout: float) -> tuple[int, int]:
    """Copy both ways until one side ends or ``idle_timeout`` seconds pass without a byte. Returns bytes (to, from) upstream."""
    moved = [0, 0]
    last = [monotonic()]
    client.settimeout(None)
    upstream.settimeout(None)

    def copy(source: Any, sink: Any, side: int) -> None:
        try:
            while data := source.recv(PIECE):
                last[0] = monotonic()
                sink.sendall(data)
                last[0] = monotonic()
                moved[side] += len(data)
                socket.wait_write(sink.fileno())         # others' turn: with both sockets ready nothing else here waits
            sink.shutdown(socket.SHUT_WR)
        except OSError:                          # either side is gone: that ends both directions
            return

    pumps = [gevent.spawn(copy, client, upstream, 0), gevent.spawn(copy, upstream, client, 1)]
    try:
        while not any(pump.dead for pump in pumps):
            left = last[0] + idle_timeout - monotonic()
            if left <= 0:
                break
            gevent.wait(pumps, timeout=left, count=1)
        else:
            gevent.wait(pumps, timeout=min(idle_timeout, 1.0))     # the close frame's answer may be under way
    finally:
        gevent.killall(pumps)
    return moved[0], moved[1]
