"""A worker that serves connections in the process of the test, and what it needs."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from types import SimpleNamespace

from gateway.message import Response as HttpResponse
from gateway.server.connection import ConnectionHandler
from gateway.server.worker import GatewayWorker

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
LANE = {"forwarder_headers": "", "secure_scheme_headers": {}}       # settings with which there is a fast lane


class Log:
    """Gunicorn's logger, as far as a worker needs it: a list of (level, text)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.served: list[tuple[object, object]] = []

    def __getattr__(self, level):
        return lambda text, *arguments, **_: self.lines.append((level, text % arguments))

    def access(self, response, request, environ, time):
        self.served.append((response.status, response.sent))

    def levels(self):
        return [level for level, _ in self.lines if level != "debug"]


class Recorded:
    """The native socket under an accepted one; it remembers what was sent at once."""

    def __init__(self, sock, sends):
        self._sock, self._sends = sock, sends

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def send(self, data, *flags):
        sent = self._sock.send(data, *flags)
        self._sends.append(bytes(data[:sent]))
        return sent


class Running:
    def __init__(self, port: int, worker: GatewayWorker, log: Log, sends: list[bytes]) -> None:
        self.port, self.worker, self.log, self.sends = port, worker, log, sends

    @property
    def connections(self) -> ConnectionHandler:
        return self.worker.connections

    def drain(self) -> None:
        """From now on connections end when they are idle; those that are idle already are left alone."""
        self.connections.drain()
        self.connections.is_closing = True

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def exchange(self, data: bytes) -> bytes:
        """Send, close the sending side, and read to the end; without the Date."""
        with self.connect() as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return undated(read_all(client))


def read_all(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = client.recv(65536)
        assert piece, f"the connection ended after {data!r}"
        data += piece
    return data


def undated(data: bytes) -> bytes:
    return re.sub(rb"Date: [^\r]+ GMT\r\n", b"", data)


class Gateway:
    """The gateway's application, as far as a worker needs it: ``receive`` is called for requests of the fast lane."""

    settings = SimpleNamespace(gateway=SimpleNamespace(head_timeout=60.0, body_timeout=60.0, send_timeout=60.0))

    def __init__(self, response: Callable[[], HttpResponse]) -> None:
        self.response, self.refusals = response, []

    def is_reached_directly(self, wsgi) -> bool:
        return wsgi is self

    def receive(self, plain, connection, peer) -> HttpResponse:
        return self.response()

    def refuse(self, error, peer) -> HttpResponse:
        self.refusals.append(error)
        return HttpResponse(error.status, [], b"refused")


def answering(status="200 OK", headers=(), body=(b"hi",)):
    def application(environ, start_response):
        start_response(status, list(headers))
        return iter(body)
    return application


def hello(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"hi"]
