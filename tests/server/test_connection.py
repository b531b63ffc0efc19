"""The connections of a worker: kinds of them, and which end when."""

from __future__ import annotations

import ssl
import subprocess
from functools import partial

import pytest
from gevent.event import Event

from tests.server.serving import GET, Running, hello, read_all, read_until, undated
from tests.waiting import until


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


# Who is dismissed

def waiting(running: Running, count: int = 1) -> None:
    """Until so many connections wait for a request."""
    until(lambda: len(running.connections.waiting) == count)


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
            until(lambda: running.connections.heads)
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
