"""Small answers leave together at the end of a turn of the loop. Whatever comes next on a connection, they leave first."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from running import Running

SIZE = 12_000
REQUESTS = 1000
CONFIG = f"""
[gateway]
views = ["handling"]
[[routes]]
path = "/a"
respond = {{ text = "{'a' * SIZE}" }}
[[routes]]
path = "/b"
respond = {{ text = "{'b' * SIZE}" }}
[[routes]]
path = "/small"
respond = {{ text = "small" }}
"""

VIEWS = """
from flask import Blueprint, request

pages = Blueprint("handling", __name__)


@pages.get("/abort")
def abort():
    request.environ["gateway.connection"].abort()
    return "not to be sent"


@pages.get("/take")
def take():
    sock, early = request.environ["gateway.connection"].take()
    sock.sendall(b"taken, with " + early)
    return "not to be sent"
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("posting")
    (place / "handling.py").write_text(VIEWS)
    running = Running(place, CONFIG)
    yield running
    running.stop()


def get(path: str, more: str = "", version: str = "1.1") -> bytes:
    return f"GET {path} HTTP/{version}\r\nHost: a\r\n{more}\r\n".encode()


def everything(client: socket.socket) -> bytes:
    pieces = []
    while piece := client.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def bodies(data: bytes) -> list[bytes]:
    """The first letter of each body, its length checked."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head[:200]
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert data[:length] == data[:1] * length
        found.append(data[:1])
        data = data[length:]
    return found


def test_a_client_that_reads_late_gets_every_answer_whole_and_in_order(gateway):
    """12 MB: more than any buffer on the way takes."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(get("/a") + get("/b") * 2)                # a few, whose answers wait while others ask
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as other:
            other.sendall(get("/small", "Connection: close\r\n"))
            assert everything(other).endswith(b"small")
        sent = 0
        client.setblocking(False)
        data = get("/a") * REQUESTS
        while sent < len(data):
            try:
                sent += client.send(data[sent:])
            except BlockingIOError:
                break                                            # the gateway reads no further until its answers are taken
        client.settimeout(20)
        got = bytearray()
        while sent < len(data):
            got += client.recv(1 << 16)
            sent += client.send(data[sent:sent + 100])
        client.sendall(get("/b", "Connection: close\r\n"))
        assert bodies(bytes(got) + everything(client)) == [b"a", b"b", b"b"] + [b"a"] * REQUESTS + [b"b"]


@pytest.mark.parametrize("last, status", [
    (get("/small", "Connection: close\r\n"), b"200"), (get("/small", version="1.0"), b"200"),
    (b"GET /small HTTP/1.1\r\n\r\n", b"400"), (b"nonsense\r\n\r\n", b"400"), (b"", b"")])
def test_what_ends_the_connection_comes_after_what_was_posted(gateway, last, status):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(get("/small") * 3 + last)
        client.shutdown(socket.SHUT_WR)
        answers = re.split(rb"HTTP/1.[01] ", everything(client))[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 3 + [status] * bool(last)


def test_a_client_that_never_reads_is_not_waited_for_by_others(gateway):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as deaf:
        deaf.setblocking(False)
        for _ in range(REQUESTS):
            try:
                deaf.send(get("/a"))
            except BlockingIOError:
                break
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
                client.sendall(get("/small") + get("/small", "Connection: close\r\n"))
                assert everything(client).count(b"small") == 2


def test_a_view_may_take_the_connection(gateway):
    """What was posted before leaves before, and the worker neither writes to it nor reads from it any more."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(get("/small") + get("/take") + b"more")
        data = everything(client)
    first, _, rest = data.partition(b"small")
    assert first.startswith(b"HTTP/1.1 200 ") and rest == b"taken, with more"


def test_a_view_may_reset_the_connection(gateway):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
            client.sendall(get("/abort") + get("/small"))
            with pytest.raises(ConnectionResetError):
                assert b"small" not in everything(client)
                raise AssertionError("it ended in order")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(get("/small", "Connection: close\r\n"))
        assert everything(client).endswith(b"small")
