"""The worker on real connections: what goes in, byte for byte, and what comes out."""

from __future__ import annotations

import io
import re
import socket
import ssl
import subprocess
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import gevent
import pytest
from flask import Flask, Response, request, send_file, stream_with_context
from gevent.event import Event
from gunicorn.config import Config
from gunicorn.http.errors import ParseException

from gateway.errors import UpstreamTruncated
from gateway.message import Response as HttpResponse
from gateway.server.client import Client
from gateway.server.connection import ConnectionHandler
from gateway.server.keepalive import WaitingClients
from gateway.server.reader import reset
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
        self.connections.parting = True

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

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

    settings = SimpleNamespace(gateway=SimpleNamespace(head_timeout=10.0, body_timeout=10.0, send_timeout=10.0))

    def __init__(self, response: Callable[[], HttpResponse]) -> None:
        self.response, self.refusals = response, []

    def is_reached_directly(self, wsgi) -> bool:
        return wsgi is self

    def receive(self, plain, connection, peer) -> HttpResponse:
        return self.response()

    def refuse(self, error, peer) -> HttpResponse:
        self.refusals.append(error)
        return HttpResponse(error.status, [], b"refused")


@pytest.fixture
def run(serve):
    """``run(application, **settings)``: a worker serving connections in this process."""
    workers = []

    def start(application, **settings) -> Running:
        cfg = Config()
        for name, value in {"http_parser": "python", "header_map": "refuse", "keepalive": 75, **settings}.items():
            cfg.set(name, value)
        log, sends = Log(), []
        worker = GatewayWorker(1, 0, [], None, 15, cfg, log)
        worker.wsgi = application
        worker.connections.start(application if isinstance(application, Gateway) else None)
        workers.append(worker)

        def handle(sock, address):
            sock._sock = Recorded(sock._sock, sends)
            worker.connections.handle(("127.0.0.1", 80), sock, address)

        return Running(serve(handle), worker, log, sends)

    yield start
    for worker in workers:
        worker.tmp.close()


def answering(status="200 OK", headers=(), body=(b"hi",)):
    def application(environ, start_response):
        start_response(status, list(headers))
        return iter(body)
    return application


def hello(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"hi"]


# The answer

@pytest.mark.parametrize("ask, application, expected", [
    (GET, answering(headers=[("Content-Length", "2")]),
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi"),
    (GET, answering(),
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
    (GET, answering(body=[b"a", b"", b"bc"]),
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
    (GET, answering(body=[]),
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n"),
    (GET, answering("404 ", [("Content-Length", "0")], []),
     b"HTTP/1.1 404 \r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"),
    (GET, answering("204 No Content", [("Content-Length", "2"), ("X", "1")]),
     b"HTTP/1.1 204 No Content\r\nX: 1\r\nConnection: keep-alive\r\n\r\n"),
    (GET, answering("304 Not Modified", [("Content-Length", "2")]),
     b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n"),
    (GET.replace(b"GET", b"HEAD"), answering(headers=[("Content-Length", "2")]),
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n"),
    (GET.replace(b"GET", b"HEAD"), answering(),
     b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n"),
    (GET, answering(headers=[("Content-Length", "2")], body=[b"h", b"i and more", b"more"]),
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi"),
    (GET, answering(headers=[("Content-Length", "2"), ("Connection", "close")]),
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"),
    (GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), answering(headers=[("Content-Length", "2")]),
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"),
    (b"GET / HTTP/1.0\r\n\r\n", answering(body=[b"a", b"b"]),
     b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nab"),
    (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", answering(headers=[("Content-Length", "2")]),
     b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi"),
    (GET + GET, hello,
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi" * 2),
    (GET, lambda environ, start_response: [start_response("200 OK", []) and b"", b"list", b"ed"],
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n6\r\nlisted\r\n0\r\n\r\n")])
def test_answers(run, ask, application, expected):
    running = run(application)
    assert running.exchange(ask) == expected
    assert running.log.levels() == []


def test_date_and_server_are_the_applications(run):
    headers = [("Content-Length", "2"), ("Server", "legacy/1"), ("Date", "Thu, 01 Jan 1970 00:00:00 GMT")]
    with run(answering(headers=headers)).connect() as client:
        client.sendall(GET)
        assert read_until(client, b"hi") == (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: legacy/1\r\n"
                                             b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nConnection: keep-alive\r\n\r\nhi")


def test_no_server_is_invented(run):
    assert b"Server" not in run(hello).exchange(GET)


@pytest.mark.parametrize("application", [hello, answering(), answering(headers=[("Content-Length", "2")]),
                                         answering(body=[b"x" * 200_000])])
def test_head_and_first_piece_are_one_send(run, application):
    running = run(application)
    running.exchange(GET)
    head, _, body = running.sends[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK") and body


def test_a_listed_body_is_one_send_with_its_end(run):
    running = run(lambda environ, start_response: [start_response("200 OK", []) and b"a", b"b"])
    running.exchange(GET)
    assert len(running.sends) == 1


def test_a_large_body_arrives_whole(run):
    body = bytes(range(256)) * 12_000                        # 3 MB
    assert run(answering(headers=[("Content-Length", str(len(body)))], body=[body])).exchange(GET).endswith(b"\r\n\r\n" + body)


def test_pieces_are_delivered_as_they_come(run):
    go_on = Event()

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield b""                                            # the head, alone
        go_on.wait()
        yield b"data: 1\n\n"

    with run(application).connect() as client:
        client.sendall(GET)
        assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        go_on.set()
        assert read_until(client, b"0\r\n\r\n") == b"9\r\ndata: 1\n\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("headers", [[("X", "a\r\nInjected: 1")], [("X\r\nInjected: 1", "a")], [("X", "a\nb")], [("X", "a\x00b")],
                                     [("Content-Length", "1"), ("Content-Length", "2")]])
def test_a_split_answer_is_500(run, headers):
    answer = run(answering(headers=headers)).exchange(GET)
    assert answer.startswith(b"HTTP/1.1 500 ") and b"Injected" not in answer


def fail(error):
    raise error


@pytest.mark.parametrize("application", [
    lambda environ, start_response: 1 / 0,
    lambda environ, start_response: fail(OSError("not the client's")),
    lambda environ, start_response: fail(SystemExit(3)),
    lambda environ, start_response: fail(gevent.Timeout(1)),
    lambda environ, start_response: [],
    lambda environ, start_response: start_response("200 OK", []) and ["text"],
    answering("200 \n"), answering(headers=[("Content-Length", "3")], body=[]),
    lambda environ, start_response: start_response("200 OK", [("Content-Length", "3")]) and [b"hi"]])
def test_failures_before_the_answer_are_500_and_close(run, application):
    running = run(application)
    answer = running.exchange(GET + GET)
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n") and b"Connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1 and running.log.levels().count("exception") == 1


def test_start_response_may_be_taken_back_until_the_head_is_sent(run):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        start_response("503 Busy", [("Content-Length", "2")], (ValueError, ValueError("x"), None))
        return [b"no"]

    assert run(application).exchange(GET).startswith(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n")


def test_start_response_twice_is_a_mistake(run):
    def application(environ, start_response):
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    assert run(application).exchange(GET).startswith(b"HTTP/1.1 500 ")


class Piecewise:
    """An answer that can tell whether it was closed."""

    def __init__(self, pieces, error=None) -> None:
        self.pieces, self.error, self.closed = list(pieces), error, 0

    def __iter__(self):
        yield from self.pieces
        if self.error is not None:
            raise self.error

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("headers, error, expected", [
    ([("Content-Length", "9")], None, b"abc"),
    ([("Content-Length", "9")], ValueError("broken"), b"abc"),
    ([], ValueError("broken"), b"3\r\nabc\r\n"),
    ([], UpstreamTruncated("cut"), b"3\r\nabc\r\n"),
    ([], gevent.GreenletExit(), b"3\r\nabc\r\n")])
def test_an_answer_that_breaks_off_is_cut(run, headers, error, expected):
    answer = Piecewise([b"abc"], error)
    running = run(lambda environ, start_response: start_response("200 OK", headers) and answer)
    data = running.exchange(GET + GET)
    assert data.partition(b"\r\n\r\n")[2] == expected and data.count(b"HTTP/1.1") == 1
    assert answer.closed == 1
    assert ("error" in running.log.levels()) is not isinstance(error, (UpstreamTruncated, gevent.GreenletExit))


@pytest.mark.parametrize("error", [ValueError("broken"), OSError("of the application"), UpstreamTruncated("cut")])
def test_a_streamed_answer_of_the_fast_lane_that_breaks_off_is_cut(run, error):
    """As any other: also when the error looks like one of the client's connection."""
    answer = Piecewise([b"abc"], error)
    running = run(Gateway(lambda: HttpResponse(200, [], answer)), **LANE)
    data = running.exchange(GET + GET)
    assert data.partition(b"\r\n\r\n")[2] == b"3\r\nabc\r\n" and data.count(b"HTTP/1.1") == 1
    assert answer.closed == 1
    assert ("error" in running.log.levels()) is not isinstance(error, UpstreamTruncated)


def test_a_failure_before_an_answer_of_the_fast_lane_is_refused_by_the_gateway(run):
    application = Gateway(lambda: HttpResponse(200, [("Content-Length", "5")], b"four"))
    assert run(application, **LANE).exchange(GET + GET).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert [error.status for error in application.refusals] == [500]


def test_an_answer_that_ends_by_closing_is_cut_by_a_reset(run):
    go_on = Event()

    def pieces():
        yield b"abc"
        go_on.wait()
        raise ValueError("broken")

    def application(environ, start_response):
        start_response("200 OK", [])
        return pieces()

    with run(application).connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert read_until(client, b"abc")
        go_on.set()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_the_answer_is_closed_when_the_client_is_gone(run):
    gone, closed = Event(), Event()

    class Endless:
        def __iter__(self):
            gone.wait()
            while True:
                yield b"x" * 100_000

        def close(self):
            closed.set()

    running = run(lambda environ, start_response: start_response("200 OK", []) and Endless())
    client = running.connect()
    client.sendall(GET)
    reset(client)
    gone.set()
    assert closed.wait(10) and running.log.levels() == []


def test_a_failing_close_does_not_spoil_the_answer(run):
    class Failing(Piecewise):
        def close(self):
            raise ValueError("close")

    running = run(lambda environ, start_response: start_response("200 OK", [("Content-Length", "2")]) and Failing([b"hi"]))
    assert running.exchange(GET + GET).count(b"\r\n\r\nhi") == 2
    assert running.log.levels() == ["exception", "exception"]


# The request

def test_connection_in_the_environ(run):
    seen = {}

    def application(environ, start_response):
        connection = environ["gateway.connection"]
        seen.update(headers=connection.headers, peer=connection.peer, alive=connection.alive, connection=connection,
                    same=connection.socket is environ["gunicorn.socket"], raw=environ["RAW_URI"],
                    multithread=environ["wsgi.multithread"])
        return hello(environ, start_response)

    run(application).exchange(b"GET /a%2Fb//c?x=%20 HTTP/1.1\r\nhOST: a.test\r\nX-a: 1\r\nx-A: 2\r\n\r\n")
    connection = seen.pop("connection")
    assert seen == {"headers": [("hOST", "a.test"), ("X-a", "1"), ("x-A", "2")], "peer": "127.0.0.1", "alive": True, "same": True,
                    "raw": "/a%2Fb//c?x=%20", "multithread": True}
    assert not connection.alive
    connection.abort()                                       # too late to do anything


@pytest.mark.parametrize("data, status", [
    (b"GET /\r\n\r\n", 400), (b"GET / HTTP/1.1\nHost: a\n\n", 400), (b"GET / HTTP/3.0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nX Y: 1\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nX_Y: 1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nTransfer-Encoding: bogus\r\n\r\n", 501), (b"GET / HTTP/1.1\r\nExpect: miracles\r\n\r\n", 417),
    (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414), (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n", 431)])
def test_malformed_heads(run, data, status):
    running = run(hello)
    answer = running.exchange(data + b"x" * 20_000)          # what else it sent must not destroy the answer
    assert answer.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("data", [b"", b"G", b"GET / HTTP/1.1\r\nHost: a", b"\r\n"])
def test_a_head_that_does_not_arrive_is_not_answered(run, data):
    running = run(hello)
    assert running.exchange(data) == b"" and running.log.levels() == []


def reading(environ, start_response):
    """Answers with the body, or with the name of what is wrong with it."""
    try:
        text = environ["wsgi.input"].read()
    except (ParseException, OSError) as error:              # Gunicorn's, as this is not the gateway
        text = error.__cause__.code.encode()
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text]


@pytest.mark.parametrize("fields, body, expected, goes_on", [
    (b"Content-Length: 3\r\n", b"abc", b"abc", True),
    (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"abc", True),
    (b"Transfer-Encoding: chunked\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"malformed_body", False),
    (b"Transfer-Encoding: chunked\r\n", b"q\r\nabc\r\n0\r\n\r\n", b"malformed_body", False),
    (b"Content-Length: 900\r\n", b"abc", b"truncated_body", False),
    (b"Transfer-Encoding: chunked\r\n", b"900\r\nabc", b"truncated_body", False)])
def test_bodies(run, fields, body, expected, goes_on):
    running = run(reading)
    following = GET if b"900" not in fields + body else b""
    answer = running.exchange(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n" + body + following)
    assert answer.count(b"HTTP/1.1 200 OK") == 1 + goes_on
    assert b"\r\n\r\n" + expected in answer
    assert (b"Connection: close" in answer) is not goes_on
    assert running.log.levels() == []


@pytest.mark.parametrize("size, goes_on", [(0, True), (1, True), (65536, True), (65537, False), (3_000_000, False)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_left_unread(run, size, goes_on, chunked):
    body, field = (b"%x\r\n%b\r\n" % (size, b"x" * size) if size else b"", b"Transfer-Encoding: chunked") if chunked \
        else (b"x" * size, b"Content-Length: %d" % size)
    running = run(hello)
    with running.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n" + body + (b"0\r\n\r\n" if chunked else b""))
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        answer = read_all(client)
        assert answer.count(b"\r\n\r\nhi") == 1 + goes_on
        assert (b"Connection: close" in answer) is not (goes_on or chunked)      # how long a chunked body is, is not known then


def test_continue_is_sent_when_the_body_is_wanted(run):
    begun, go_on = Event(), Event()

    def application(environ, start_response):
        begun.set()
        go_on.wait()
        return reading(environ, start_response)

    running = run(application)
    with running.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n")
        begun.wait()
        assert running.sends == []
        go_on.set()
        assert read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc" + GET.replace(b"GET", b"PUT"))
        both = undated(read_until(client, b"\r\n\r\n"))
        assert both == (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc"
                        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n")


@pytest.mark.parametrize("application", [hello, answering(), answering("413 No", [("Content-Length", "0")], [])])
def test_no_continue_for_what_is_refused(run, application):
    running = run(application)
    answer = running.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert b"100" not in answer and b"Connection: close" in answer


def test_no_continue_once_the_answer_has_begun(run):
    def application(environ, start_response):
        start_response("200 OK", [])
        yield b"first"
        yield environ["wsgi.input"].read()

    answer = run(application).exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc")
    assert b"100 Continue" not in answer and answer.endswith(b"5\r\nfirst\r\n3\r\nabc\r\n0\r\n\r\n")


def test_a_client_gets_the_refusal_while_it_is_still_sending(run):
    with run(answering("413 Too Large", [("Content-Length", "2")], [b"no"])).connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n")
        for _ in range(20):
            client.sendall(b"x" * 50_000)
        assert read_until(client, b"no").startswith(b"HTTP/1.1 413 ")


# Taking over and aborting

def test_take_over(run):
    def application(environ, start_response):
        sock, early = environ["gateway.connection"].take()
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + early)
        while data := sock.recv(100):
            sock.sendall(data.upper())
        start_response("500 Never", [])
        return [b"never"]

    running = run(application)
    with running.connect() as client:
        client.sendall(GET + b"early")
        assert read_until(client, b"early") == b"HTTP/1.1 101 Switching Protocols\r\n\r\nearly"
        client.sendall(GET)
        assert read_until(client, b"\r\n\r\n") == GET.upper()
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    assert running.log.levels() == []


def test_a_failing_takeover_writes_nothing(run):
    def application(environ, start_response):
        environ["gateway.connection"].take()
        raise ValueError("broken")

    running = run(application)
    assert running.exchange(GET) == b"" and running.log.levels() == ["error"]


def test_abort(run):
    def application(environ, start_response):
        environ["gateway.connection"].abort()
        return hello(environ, start_response)

    with run(application).connect() as client:
        client.sendall(GET)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_an_application_may_use_the_socket_itself(run):
    def application(environ, start_response):
        environ["gunicorn.socket"].sendall(b"raw")
        raise StopIteration

    running = run(application)
    assert running.exchange(GET) == b"raw" and running.log.levels() == []


# Gunicorn's own

def test_hooks_and_access_log(run):
    calls = []
    running = run(hello, pre_request=lambda worker, request: calls.append(("pre", request.path)),
                  post_request=lambda worker, request, environ, response: calls.append(
                      ("post", environ["PATH_INFO"], response.status)))
    running.exchange(GET)
    assert calls == [("pre", "/"), ("post", "/", "200 OK")]
    assert running.log.served == [("200 OK", 2)]


def test_keepalive_off(run):
    assert b"Connection: close" in run(hello, keepalive=0).exchange(GET)


def test_proxy_protocol(run):
    def application(environ, start_response):
        text = environ["REMOTE_ADDR"].encode()
        start_response("200 OK", [("Content-Length", str(len(text)))])
        return [text]

    answer = run(application, proxy_protocol=True).exchange(b"PROXY TCP4 192.0.2.7 10.0.0.1 5 80\r\n" + GET + GET)
    assert answer.count(b"\r\n\r\n192.0.2.7") == 2


def test_tls(run, tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
                   cwd=tmp_path, check=True, capture_output=True)
    running = run(lambda environ, start_response: start_response("200 OK", []) and [environ["wsgi.url_scheme"].encode()],
                  certfile=str(tmp_path / "cert.pem"), keyfile=str(tmp_path / "key.pem"))
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with context.wrap_socket(running.connect(), server_hostname="localhost") as client:
        client.sendall(GET)
        assert b"5\r\nhttps\r\n" in read_until(client, b"0\r\n\r\n")
    with running.connect() as client, pytest.raises((ConnectionResetError, AssertionError), match="reset|ended after b''"):
        client.sendall(GET)                                  # no TLS: no answer either
        read_until(client, b"hi")


@pytest.mark.parametrize("settings", [{"http_protocols": "h2,h1"}, {"http2_cleartext": "upgrade"}, {"protocol": "uwsgi"}])
def test_what_it_does_not_speak_is_refused_at_start(settings):
    cfg = Config()
    GatewayWorker.check_config(cfg, Log())
    for name, value in settings.items():
        cfg.set(name, value)
    with pytest.raises(RuntimeError, match="does not speak"):
        GatewayWorker.check_config(cfg, Log())


# Who is dismissed

def waiting(running: Running, count: int = 1) -> None:
    """Until so many connections wait for a request."""
    with gevent.Timeout(10):
        while len(running.connections.waiting) != count:
            gevent.sleep(0.002)


@pytest.mark.parametrize("served, sent, dismiss, ended", [
    (True, b"", "idle", True), (True, b"", "fresh", True), (True, b"", "overdue", True),
    (False, b"", "idle", False), (False, b"", "fresh", True), (False, b"", "overdue", True),
    (True, b"GET", "idle", False), (True, b"GET", "fresh", False), (True, b"GET", "overdue", True)])
def test_dismissed_connections_end_without_a_byte(run, served, sent, dismiss, ended):
    running = run(hello)
    with running.connect() as client:
        if served:
            client.sendall(GET)
            read_until(client, b"hi")
        waiting(running)
        if sent:
            client.sendall(sent)
            with gevent.Timeout(10):
                while not running.connections.heads:
                    gevent.sleep(0.002)
        for clients_ in (running.connections.waiting, running.connections.heads):
            {"idle": clients_.dismiss_idle, "fresh": partial(clients_.dismiss_idle, fresh=True),
             "overdue": partial(clients_.dismiss_overdue, 0)}[dismiss]()
        if ended and sent:
            assert read_all(client).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        elif ended:
            assert client.recv(100) == b""
        else:
            client.sendall(GET[len(sent):])
            assert read_until(client, b"hi")
    assert running.log.levels() == []


def test_what_has_arrived_unnoticed_is_served(run):
    """The request is in the kernel, the greenlet does not know yet, and the worker begins to drain."""
    running = run(hello)
    with running.connect() as client:
        client.sendall(GET)
        read_until(client, b"hi")
        waiting(running)
        client.sendall(GET)                                  # loopback: it is there when this returns; no greenlet has run since
        running.drain()
        running.connections.waiting.dismiss_idle()
        assert undated(read_all(client)) == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


def test_what_has_arrived_before_the_draining_is_seen_is_served(run):
    """The answer said keep-alive, then the worker began to drain, and the next request is there already."""
    go_on = Event()

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        yield b"hi"
        go_on.wait()

    running = run(application)
    with running.connect() as client:
        client.sendall(GET)
        assert b"Connection: keep-alive" in read_until(client, b"hi")
        client.sendall(GET)
        running.drain()
        go_on.set()
        assert undated(read_all(client)) == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


def test_a_draining_worker_closes_after_the_answer(run):
    begun, go_on = Event(), Event()

    def application(environ, start_response):
        begun.set()
        go_on.wait()
        return hello(environ, start_response)

    running = run(application)
    with running.connect() as client:
        client.sendall(GET + GET)
        begun.wait()
        running.drain()
        go_on.set()
        assert undated(read_all(client)) == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


def test_max_requests_ends_the_main_loop(run):
    running = run(hello, max_requests=2)
    running.exchange(GET)
    assert running.worker.alive
    running.exchange(GET)
    assert not running.worker.alive and not running.connections.requests.draining


def test_a_slow_body_is_not_waited_for_forever(run):
    running = run(reading)
    running.connections.requests.body_timeout = 0.05
    with running.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
        assert b"body_timeout" in read_all(client)


# Flask, as under any other worker

def test_flask(run, tmp_path):
    app = Flask(__name__)
    file = tmp_path / "file.bin"
    file.write_bytes(bytes(range(256)) * 100)

    @app.post("/form")
    def form():
        return {"name": request.form["name"], "file": request.files["file"].read().decode()}

    @app.post("/json")
    def json():
        return request.get_json()

    @app.get("/stream")
    def stream():
        return Response(stream_with_context(f"{number}" for number in range(3)))

    @app.get("/file")
    def sends_file():
        return send_file(file, conditional=True)

    running = run(app)
    form_body = (b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n'
                 b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\ndata\r\n--b--\r\n')
    post = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\n%b\r\n\r\n%b"
    for framing, body in [(b"Content-Length: %d" % len(form_body), form_body),
                          (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(form_body), form_body))]:
        assert b'"file":"data"' in running.exchange(post % (b"/form", b"multipart/form-data; boundary=b", framing, body))
    assert b'{"a":1}' in running.exchange(post % (b"/json", b"application/json", b"Content-Length: 7", b'{"a":1}'))
    assert running.exchange(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").endswith(b"1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n")
    assert running.exchange(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n").endswith(b"\r\n\r\n" + file.read_bytes())
    assert running.exchange(b"GET /file HTTP/1.1\r\nHost: a\r\nRange: bytes=1-3\r\n\r\n").endswith(b"\r\n\r\n\x01\x02\x03")
    assert running.exchange(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 404 NOT FOUND\r\n")
    assert running.log.levels() == []


def test_file_wrapper(run):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"hello"))

    assert run(application).exchange(GET).endswith(b"\r\n\r\nhello")


def test_early_hints(run):
    def application(environ, start_response):
        environ["wsgi.early_hints"]([("Link", "</a.css>")])
        return hello(environ, start_response)

    assert run(application).exchange(GET).startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_what_is_offered_is_never_waited_for():
    one, other = socket.socketpair()
    client = Client(None, one, ("127.0.0.1", 5))
    one.setblocking(False)
    client.offer(b"hint")
    gevent.sleep(0)
    assert other.recv(100) == b"hint"
    while client._rest is None:                          # it takes no more
        client.offer(bytes(10_000))
        gevent.sleep(0)
    client.offer(b"hint")
    assert not client._pending
    one.setblocking(True)
    taken = b""
    while client._rest is not None and not client._rest.dead or len(taken) % 10_000:
        taken += other.recv(65536)
    client.settle()
    client.post(b"answer")
    gevent.sleep(0)
    other.settimeout(5)
    while not taken.endswith(b"answer"):
        taken += other.recv(65536)
    assert taken.count(b"hint") == 0 and len(taken) % 10_000 == 6
    client.readable.close()
    one.close(), other.close()


def test_it_says_what_it_is():
    assert repr(WaitingClients()) == "WaitingClients(0 clients)"
    with socket.socket() as sock:
        client = Client(None, sock, ("127.0.0.1", 5))
        client.readable.close()
    assert repr(client) == "Client(('127.0.0.1', 5), 0 requests)"
