"""A worker whose places are all taken: idle connections make room, busy ones are not touched, and it is seen. And the limits of
time for a client's head and body, which are settings."""

from __future__ import annotations

import re
import signal
import socket
import urllib.request

import pytest
from plain import APPLICATION, GATEWAY, Connection, Plain
from running import ask, free_port

from tests.waiting import until


@pytest.fixture
def plain(tmp_path):
    started = []

    def start(*options: str, **arguments) -> Plain:
        started.append(Plain(tmp_path, *options, **arguments))
        return started[-1].started()

    yield start
    for instance in started:
        instance.stop()


def is_open(connection: Connection) -> bool:
    connection.sock.setblocking(False)
    try:
        return connection.sock.recv(1) != b""
    except BlockingIOError:
        return True
    finally:
        connection.sock.settimeout(60)


@pytest.mark.parametrize("places", [2, 3, 5])
@pytest.mark.parametrize("application", [APPLICATION, GATEWAY], ids=["foreign", "gateway"])
@pytest.mark.parametrize("asked", [True, False], ids=["served", "fresh"])
def test_the_longest_idle_connection_makes_room(plain, places, application, asked):
    instance = plain("--worker-connections", str(places), application=application)
    connections = []
    for number in range(3 * places):
        connections.append(Connection(instance.port))
        if asked:
            assert connections[-1].ask()[0] == 200           # never waits, whoever is idle
    newest = Connection(instance.port)
    assert newest.ask()[0] == 200
    until(lambda: sum(map(is_open, connections)) <= places)
    opened = [is_open(connection) for connection in connections]
    assert opened == sorted(opened)                          # the oldest went first
    for connection in [*connections, newest]:
        connection.close()
    assert "are busy" not in instance.log.read_text() or not asked


@pytest.mark.parametrize("places", [1, 2])
def test_busy_connections_are_not_touched_and_who_waits_is_served_next(plain, places):
    instance = plain("--worker-connections", str(places))
    busy = []
    for _ in range(places):                                  # each asks before the next one comes: a silent one would make room
        busy.append(Connection(instance.port))
        busy[-1].sock.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    until(instance.held)
    until(lambda: "are busy; new ones wait" in instance.log.read_text())
    waiting = Connection(instance.port)
    waiting.sock.sendall(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
    assert instance.log.read_text().count("are busy; new ones wait") == 1
    instance.release()
    assert [connection.answer()[0] for connection in busy] == [200] * places
    assert waiting.answer()[0] == 200                        # though those before stay idle
    for connection in [*busy, waiting]:
        connection.close()
    instance.signal(signal.SIGTERM)
    assert instance.ended() == 0


def test_a_client_that_has_begun_its_next_request_is_not_idle(plain):
    instance = plain("--worker-connections", "2")
    begun = Connection(instance.port)
    assert begun.ask()[0] == 200
    begun.sock.sendall(b"GET /pid HTTP/1.1\r\n")
    others = [Connection(instance.port) for _ in range(5)]
    for other in others:
        assert other.ask()[0] == 200
    begun.sock.sendall(b"Host: a\r\n\r\n")
    assert begun.answer()[0] == 200
    for connection in [begun, *others]:
        connection.close()


def test_half_heads_make_room_before_their_time(plain):
    """A client that sends no more of its head has as long as ``head_timeout`` only while there are places for others."""
    config = '[gateway]\nlog = "off"\nhead_timeout = "10m"\n[[routes]]\npath = "/*"\nrespond = { text = "x" }\n'
    instance = plain("--worker-connections", "2", application=GATEWAY, config=config)
    halves = [Connection(instance.port) for _ in range(4)]
    for half in halves:
        half.sock.sendall(b"GET / HTTP/1.1\r\n")
    newest = Connection(instance.port)
    assert newest.ask()[0] == 200
    for connection in [*halves, newest]:
        connection.close()


def test_it_is_counted(plain):
    admin = free_port()
    config = f'[gateway]\nadmin = "127.0.0.1:{admin}"\nlog = "off"\n[[routes]]\npath = "/*"\nrespond = {{ text = "x" }}\n'
    instance = plain("--worker-connections", "2", application=GATEWAY, config=config)
    connections = []
    try:
        for _ in range(4):
            connections.append(Connection(instance.port))
            assert connections[-1].ask()[0] == 200
        text = urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=30).read().decode()
    finally:
        for connection in connections:
            connection.close()
    [closed] = re.findall(r"^gateway_connections_closed_for_room_total (\S+)", text, re.MULTILINE)
    assert float(closed) >= 1 and "gateway_connections_exhausted_total" in text


@pytest.mark.parametrize("sent, code", [
    (b"GET / HTTP/1.1\r\nHost: a\r\n", b"head_timeout"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab", b"body_timeout"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", b"body_timeout")])
def test_the_limits_of_time_are_settings(plain, tmp_path, sent, code):
    (tmp_path / "reads.py").write_text(
        "from flask import Blueprint, request\nreads = Blueprint('reads', __name__)\n"
        "@reads.post('/')\ndef read():\n    return request.get_data()\n")
    config = '[gateway]\nviews = ["reads"]\nlog = "off"\nhead_timeout = "1ms"\nbody_timeout = "1ms"\n'
    instance = plain(application=GATEWAY, config=config)
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as client:
        client.sendall(sent)
        data = b""
        while piece := client.recv(65536):
            data += piece
    assert data.startswith(b"HTTP/1.1 408 ") and code in data


def test_the_default_limits_are_those_of_the_worker():
    from gateway.config import GatewaySettings
    from gateway.server.connection import HEAD_TIMEOUT
    from gateway.server.request_handler import BODY_TIMEOUT
    from gateway.views import SILENCE
    settings = GatewaySettings()
    assert (settings.head_timeout, settings.body_timeout) == (HEAD_TIMEOUT, BODY_TIMEOUT) and settings.body_timeout == SILENCE


@pytest.mark.parametrize("name", ["head_timeout", "body_timeout"])
@pytest.mark.parametrize("value", ['"0s"', '"-1s"', "10", '"soon"'])
def test_limits_that_are_none_are_refused(tmp_path, name, value):
    instance = Plain(tmp_path, config=f"[gateway]\n{name} = {value}\n", application=GATEWAY)
    assert instance.ended() == 2 and name in instance.log.read_text()
    instance.stop()


def test_a_slow_head_is_not_refused_within_its_time(plain):
    instance = plain(application=GATEWAY, config='[gateway]\nhead_timeout = "10m"\n[[routes]]\npath = "/*"\nrespond = {}\n')
    assert ask(instance.port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")[0] == 200
