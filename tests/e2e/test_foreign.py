"""Under another WSGI application the worker is the equal of Gunicorn's own gevent worker: the same bytes get the same statuses,
give the application the same requests, and leave the connection open or closed alike. The corpus is ours and Gunicorn's own."""

from __future__ import annotations

import json
import random
import re
import socket
from pathlib import Path

import gevent
import pytest
from corpus import BROKEN, REQUESTS
from plain import Plain

from tests.waiting import until

pytestmark = pytest.mark.leaks_allowed       # two servers for the module

APPLICATION = '''
import json

VOLATILE = {"REMOTE_PORT", "SERVER_PORT", "SERVER_SOFTWARE"}

def application(environ, start_response):
    if environ["PATH_INFO"] == "/unread":
        body = b""
    else:
        body = environ["wsgi.input"].read()
    seen = {key: value for key, value in environ.items() if isinstance(value, str) and key not in VOLATILE}
    answer = json.dumps([seen, body.decode("latin-1")]).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
'''
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: sentinel\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    started = {}
    for name, options in (("ours", ()), ("stock", ("-k", "gevent"))):
        place = tmp_path_factory.mktemp(name)
        started[name] = Plain(place, *options, application=APPLICATION)
    for name, server in started.items():
        until(lambda: "Booting worker" in server.log.read_text() and answers(server.port))
    yield {name: server.port for name, server in started.items()}
    assert "Traceback" not in started["ours"].log.read_text()
    for server in started.values():
        server.stop()


def answers(port: int) -> bool:
    try:
        return b" 200 " in exchange(port, [SENTINEL])
    except OSError:
        return False


def exchange(port: int, pieces: list[bytes]) -> bytes:
    """All that comes until the server closes, when nothing else is sent."""
    data = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
                if len(pieces) > 1:
                    gevent.sleep(0.003)                  # lets the piece arrive alone; nothing depends on it
            client.shutdown(socket.SHUT_WR)
        except OSError:                                  # refused before all was sent
            pass
        try:
            while piece := client.recv(65536):
                data += piece
        except OSError:
            pass
    return data


def verdicts(port: int, pieces: list[bytes]) -> list[object]:
    """Status, the requests that the application saw, and whether the connection was to end, answer for answer."""
    data, found = exchange(port, pieces), []
    while data:
        first, _, rest = data.partition(b"\r\n\r\n")
        status = int(first.split(b" ", 2)[1])
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", first)
        closes = re.search(rb"(?i)\r\nconnection: close", first) is not None
        head = status == 200 and not rest.startswith(b"[")
        size = int(length[1]) if length and not head else 0
        body, data = rest[:size], rest[size:]
        found.append((status, closes, json.loads(body) if status == 200 and body else None))
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:]) if start < end]


GUNICORN = json.loads(Path(__file__).with_name("gunicorn_requests.json").read_text())["requests"]
CASES = {**REQUESTS, **BROKEN, **{name: text.encode("latin-1") for name, text in GUNICORN.items()}}

# Where this worker is nearer to the RFC: "close" counts wherever it stands in Connection; who sends no body gets no 100.
NEARER = re.compile(rb"(?i)\nconnection:[^\r]*,|\nconnection:[^\r]*\r\nconnection:|\nexpect: 100-continue\r\n\r\n$")
# Gunicorn gives the application the beginning of a body that the client did not finish as if it were all, and no answer when that
# was chunked.
SHORT = re.compile(rb"(?i)\ncontent-length: (\d+)\r\n\r\n(.*)$", re.DOTALL)
SHORT_CHUNKS = {BROKEN[f"broken-{number}"] for number in (6, 12, 15, 16, 17)}


def is_short(raw: bytes) -> bool:
    if raw in SHORT_CHUNKS:
        return True
    found = SHORT.search(raw)
    return found is not None and len(found[2]) < int(found[1])


@pytest.mark.parametrize("name", [name for name in CASES if is_short(CASES[name])])
def test_a_body_that_ends_early_is_refused(ports, name):
    for pieces in ([CASES[name]], cut(CASES[name], [len(CASES[name]) // 2])):
        assert [verdict[:2] for verdict in verdicts(ports["ours"], pieces)] in ([(400, True)], verdicts_of(ports, pieces))


def verdicts_of(ports, pieces):
    """Gunicorn's, for a request that it refuses for another reason."""
    return [verdict[:2] for verdict in verdicts(ports["stock"], pieces) if verdict[0] != 200]


@pytest.mark.parametrize("name", [name for name in CASES if not NEARER.search(CASES[name]) and not is_short(CASES[name])])
def test_the_worker_is_gunicorns_equal(ports, name):
    raw = CASES[name]
    dice = random.Random(name)
    for pieces in ([raw + SENTINEL], [raw], cut(raw, [dice.randrange(len(raw) + 1) for _ in range(3)])):
        ours, stock = (verdicts(ports[kind], pieces) for kind in ("ours", "stock"))
        assert ours == stock
