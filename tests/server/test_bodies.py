"""What a worker's application reads of requests on real connections."""

from __future__ import annotations

import socket

import pytest
from gevent.event import Event
from gunicorn.http.errors import ParseException

from tests.server.serving import GET, answering, hello, read_all, read_until, undated


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


def test_a_slow_body_is_not_waited_for_forever(run):
    running = run(reading)
    running.connections.requests.body_timeout = 0.05
    with running.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
        assert b"body_timeout" in read_all(client)
