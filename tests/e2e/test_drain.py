"""A worker that ends: what becomes of every connection it has, in whatever state it is."""

from __future__ import annotations

import http.client
import os
import signal
import socket

import gevent
import pytest
from plain import CONFIG, GATEWAY, Connection, Plain

from tests.waiting import until


@pytest.fixture
def plain(tmp_path):
    """``plain(*options)`` starts an instance that serves when this returns."""
    started = []

    def start(*options: str, workers: int = 1, **arguments) -> Plain:
        started.append(Plain(tmp_path, *options, workers=workers, **arguments))
        return started[-1].started(workers)

    yield start
    for instance in started:
        instance.stop()


@pytest.fixture
def connect():
    """``connect(instance, sent)`` is a connection on which so much was sent."""
    opened = []

    def start(instance: Plain, sent: bytes = b"") -> Connection:
        opened.append(Connection(instance.port))
        opened[-1].sock.sendall(sent)
        return opened[-1]

    yield start
    for connection in opened:
        connection.close()


def get(path: bytes, version: bytes = b"1.1") -> bytes:
    return b"GET %b HTTP/%b\r\nHost: a.test\r\n\r\n" % (path, version)


def worker_of(instance: Plain) -> int:
    return next(iter(instance.states()))


def begin_to_drain(instance: Plain) -> None:
    worker = worker_of(instance)
    instance.signal(signal.SIGTERM)
    until(lambda: instance.states() == {worker: "draining"})


def test_every_state_of_a_connection(plain, connect):
    instance = plain()
    idle = [connect(instance) for _ in range(20)]
    assert all(connection.ask() for connection in idle)
    held = connect(instance, get(b"/hold"))
    until(instance.held)
    half, whole = get(b"/pid")[:20], get(b"/pid")
    begun = connect(instance, half)                          # a first request, half sent
    again = connect(instance)
    assert again.ask()
    again.sock.sendall(half)                                 # a second request, half sent
    pipelined = connect(instance, get(b"/hold") + whole)     # a request that waits behind one under way
    begin_to_drain(instance)
    assert [connection.rest() for connection in idle] == [b""] * 20
    for connection in (begun, again):
        connection.sock.sendall(whole[20:])
        assert connection.answer()[0] == 200 and connection.closing and connection.rest() == b""
    assert instance.process.poll() is None
    instance.release()
    for connection in (held, pipelined):
        assert connection.answer()[0] == 200 and connection.closing and connection.rest() == b""
    assert instance.ended() == 0


def test_a_new_connection_gets_its_first_answer(plain, connect):
    """It was accepted, but its request is still under way when the worker begins to drain."""
    instance = plain()
    silent, fresh = connect(instance), connect(instance)
    held, idle = connect(instance, get(b"/hold")), connect(instance)
    assert idle.ask()
    until(instance.held)
    order: list[str] = []
    readers = [gevent.spawn(lambda name, connection: order.append(name + connection.rest().decode()), *pair)
               for pair in (("silent", silent), ("idle", idle))]
    begin_to_drain(instance)
    fresh.sock.sendall(get(b"/pid"))
    assert fresh.answer()[0] == 200 and fresh.closing and fresh.rest() == b""
    gevent.joinall(readers)
    assert sorted(order) == ["idle", "silent"]               # after a moment in which nothing came
    assert instance.process.poll() is None
    instance.release()
    assert held.answer()[0] == 200
    assert instance.ended() == 0


def test_connections_the_kernel_has_accepted_are_served(plain, connect):
    """The workers stand still while clients connect and ask, and are told to end before they have seen them."""
    instance = plain(workers=2)
    workers = list(instance.states())
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    queued = [connect(instance, get(b"/pid")) for _ in range(20)]
    instance.signal(signal.SIGTERM)
    until(lambda: not listens(workers[0], instance.process.pid, instance.port))
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    for connection in queued:
        assert connection.answer()[0] == 200 and connection.rest() == b""
    assert instance.ended() == 0


def listens(worker: int, master: int, port: int) -> bool:
    """Does the master still hold the listener? (It closes it before it tells its workers.)"""
    links = []
    for entry in os.scandir(f"/proc/{master}/fd"):
        try:
            links.append(os.readlink(entry.path))
        except FileNotFoundError:                            # closed while we look
            continue
    inodes = {line.split()[9] for line in open(f"/proc/{worker}/net/tcp") if line.split()[1].endswith(f":{port:04X}")
              and line.split()[3] == "0A"}
    return any(f"socket:[{inode}]" in links for inode in inodes)


@pytest.mark.parametrize("path, version, begins, ends", [
    (b"/hold", b"1.1", b"", b""),                            # nothing of the answer was sent: it just ends, without a 500
    (b"/stream", b"1.1", b"5\r\nbegun\r\n", b""),            # its chunks are not ended
    (b"/stream", b"1.0", b"begun", ConnectionResetError),    # only a reset tells it from a complete answer
    (b"/taken", b"1.1", b"\r\n\r\n", b"")])
def test_what_is_left_after_graceful_timeout_is_cut(plain, connect, path, version, begins, ends):
    instance = plain("--graceful-timeout", "1")
    client = connect(instance, get(path, version))
    until(instance.held)
    received = b""
    while not received.endswith(begins):
        received += client.sock.recv(1000)
    instance.signal(signal.SIGTERM)
    if ends is ConnectionResetError:
        with pytest.raises(ConnectionResetError):
            client.rest()
    else:
        assert client.rest() == ends
    assert instance.ended() == 0
    assert "Worker graceful timeout" in instance.log.read_text()


def test_a_body_that_is_still_arriving_is_waited_for(plain, connect):
    instance = plain()
    client = connect(instance, b"POST /pid HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n12")
    idle = connect(instance)
    assert idle.ask()                                        # so the other's head has been read
    begin_to_drain(instance)
    assert idle.rest() == b""
    client.sock.sendall(b"34")
    assert client.answer()[0] == 200 and client.closing
    assert instance.ended() == 0


def test_the_admin_listener_answers_until_the_end(plain, connect):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        admin = probe.getsockname()[1]
    instance = plain(config=CONFIG + f'[gateway]\nadmin = "127.0.0.1:{admin}"\n', application=GATEWAY)
    assert ready(admin) == 200
    begun = connect(instance, get(b"/")[:20])
    idle = connect(instance)
    assert idle.ask()
    begin_to_drain(instance)
    assert ready(admin) == 503
    begun.sock.sendall(get(b"/")[20:])
    assert begun.answer() == (200, b"unused") and begun.closing
    assert instance.ended() == 0


def ready(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def test_quit_does_not_wait(plain, connect):
    instance = plain()
    client = connect(instance, get(b"/hold"))
    until(instance.held)
    instance.signal(signal.SIGQUIT)
    assert instance.ended() == 0
    assert client.rest() == b""


def test_a_half_closed_client_gets_its_answer(plain, connect):
    instance = plain()
    client = connect(instance, get(b"/pid"))
    client.sock.shutdown(socket.SHUT_WR)
    assert client.answer()[0] == 200 and client.rest() == b""
