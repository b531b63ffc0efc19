"""Requests on real connections and their answers: what goes in, byte for byte, and what comes out."""

from __future__ import annotations

import io
import socket

import gevent
import pytest
from flask import Flask, Response, request, send_file, stream_with_context
from gevent.event import Event

from gateway.errors import UpstreamTruncated
from gateway.message import Response as HttpResponse
from gateway.server.reader import reset
from tests.server.serving import GET, LANE, Gateway, answering, hello, read_all, read_until


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
    assert closed.wait(60) and running.log.levels() == []


def test_a_failing_close_does_not_spoil_the_answer(run):
    class Failing(Piecewise):
        def close(self):
            raise ValueError("close")

    running = run(lambda environ, start_response: start_response("200 OK", [("Content-Length", "2")]) and Failing([b"hi"]))
    assert running.exchange(GET + GET).count(b"\r\n\r\nhi") == 2
    assert running.log.levels() == ["exception", "exception"]


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
