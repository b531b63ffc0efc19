"""What is accepted or refused, and what an application is given, never depends on the lane a request takes.

The same bytes go over TCP to three servers with one application: Gunicorn's own gevent worker, ours without the fast lane (a hook
switches it off), and ours with it. Whole, cut into pieces, and twice in a row; behind each a plain request that shows where the
server believes that the one before ended.
"""

from __future__ import annotations

import json
import random
import re
import socket

import gevent
import pytest
from corpus import BROKEN, REQUESTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import ROOT, Running, ask, field

pytestmark = pytest.mark.leaks_allowed      # three servers for the module

VIEW = '''
from flask import Blueprint, request

mirror = Blueprint("mirror", __name__)
METHODS = ["GET", "HEAD", "DELETE", "POST", "PUT", "PATCH", "OPTIONS", "PURGE", "PROPFIND", "M-SEARCH"]
VOLATILE = {"REMOTE_PORT", "SERVER_PORT", "HTTP_X_REQUEST_ID", "SERVER_SOFTWARE"}

@mirror.route("/", defaults={"path": ""}, methods=METHODS)
@mirror.route("/<path:path>", methods=METHODS)
def show(path):
    environ = {key: value for key, value in request.environ.items()
               if isinstance(value, (str, bool, tuple)) and key not in VOLATILE}
    environ["early"] = callable(request.environ.get("wsgi.early_hints"))
    lane = type(request.environ.get("gateway.connection")).__name__
    return {"environ": environ, "body": request.get_data().decode("latin-1")}, 200, {"X-Lane": lane}
'''

CONFIG = '[gateway]\nviews = ["mirror"]\n'
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: sentinel\r\nConnection: close\r\n\r\n"

# Where the gateway's worker is stricter, or nearer to the RFC, than Gunicorn's own; both lanes alike.
OURS = re.compile(rb"(?i)\nconnection:[^\r]*,|\nconnection:[^\r]*\r\nconnection:|transfer-encoding: *(?!chunked\r)"
                  rb"|chunked\r\ntransfer|\nauthorization:[^\r]*\r\nauthorization:|\nexpect:|\ncookie:[^\0]*\r\ncookie:")


class Started(Running):
    """``command`` is added to Gunicorn's command line."""

    def __init__(self, place, command):
        self.command = command
        place.mkdir()
        (place / "mirror.py").write_text(VIEW)
        super().__init__(place, CONFIG)

    def arguments(self):
        return [*super().arguments(), *self.command]

    def answers(self):                       # Gunicorn's own worker does not tell the admin listener that it serves
        try:
            return ask(self.port, SENTINEL)[0] == 200
        except (OSError, ValueError):
            return False


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    place = tmp_path_factory.mktemp("lanes")
    hooked = place / "hooked.conf.py"
    hooked.write_text((ROOT / "gunicorn.conf.py").read_text() + "\n\ndef pre_request(worker, request):\n    pass\n")
    started = {"lane": Started(place / "lane", []), "parser": Started(place / "parser", ["-c", str(hooked)]),
               "stock": Started(place / "stock", ["-k", "gevent"])}
    yield started
    for server in started.values():
        server.stop()


def verdicts(server: Running, pieces: list[bytes]) -> list[tuple[int, object]]:
    """Status and what the application was given, for each answer until the connection ended."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        data = b""
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
    return list(answers(data, b"".join(pieces).startswith(b"HEAD")))


def answers(data: bytes, head: bool):
    while data:
        first, _, rest = data.partition(b"\r\n\r\n")
        status = int(first.split(b" ", 2)[1])
        fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in first.split(b"\r\n")[1:])}
        if status == 100:
            data = rest
            yield 100, None
            continue
        if status >= 400 and fields.get(b"connection") == b"close":      # the last one, whatever follows
            yield status, None
            return
        # The answer to HEAD has no body, though it names a length: only the sentinel's does.
        length = 0 if head and not rest.startswith(b"{") else int(fields.get(b"content-length", b"0"))
        body, data = rest[:length], rest[length:]
        yield status, json.loads(body) if status == 200 and body else None


def compare(servers, raw: bytes, pieces: list[bytes]) -> None:
    lane, parser = verdicts(servers["lane"], pieces), verdicts(servers["parser"], pieces)
    assert lane == parser
    if not OURS.search(raw):
        assert lane == verdicts(servers["stock"], pieces)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:]) if start < end]


@pytest.mark.parametrize("name", REQUESTS)
def test_whole_cut_and_twice(servers, name):
    raw = REQUESTS[name]
    dice = random.Random(name)
    compare(servers, raw, [raw + SENTINEL])
    compare(servers, raw, cut(raw + SENTINEL, [dice.randrange(len(raw)) for _ in range(dice.choice((1, 2, 3)))]))
    compare(servers, raw, [raw + raw + SENTINEL])


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bodies_are_refused_on_both_lanes(servers, name):
    raw = BROKEN[name]
    for pieces in ([raw], cut(raw, [len(raw) // 2])):
        lane, parser = (verdicts(servers[kind], pieces) for kind in ("lane", "parser"))
        assert lane == parser
        assert [status for status, _ in lane] == [400]


BYTES = st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b",", b"_", b"\x7f", b"\xff", b"a", b"0", b"/", b"#",
                         b"?", b""])
MUTATION = st.tuples(st.integers(0, 10 ** 6), st.integers(0, 2), BYTES)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([raw for raw in REQUESTS.values() if len(raw) < 1000]), st.lists(MUTATION, min_size=1, max_size=3),
       st.integers(0, 10 ** 6))
def test_mutations(servers, raw, mutations, place):
    for where, removed, added in mutations:
        where %= len(raw)
        raw = raw[:where] + added + raw[where + removed:] or b"x"
    compare(servers, raw, [raw + SENTINEL])
    compare(servers, raw, cut(raw + SENTINEL, [place % len(raw)]))


def test_who_takes_which_lane(servers):
    """Each plain request takes the fast one, and none where a hook switches it off."""
    taken = {}
    for kind, server in servers.items():
        fields = ask(server.port, SENTINEL)[1]
        taken[kind] = field(fields, "X-Lane")
    assert taken == {"lane": "LaneConnection", "parser": "ClientConnection", "stock": "NoneType"}


@pytest.mark.parametrize("kind", ["lane", "parser"])
def test_a_client_that_pipelines_does_not_keep_others_waiting(servers, kind):
    """Of a thousand requests sent at once, some are still to be answered when somebody else has had his answer."""
    port = servers[kind].port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as greedy:
        greedy.sendall(SENTINEL.replace(b"close", b"keep-alive") * 1000)
        data = greedy.recv(65536)
        assert ask(port, SENTINEL)[0] == 200
        greedy.setblocking(False)
        try:
            while piece := greedy.recv(1 << 20):
                data += piece
        except BlockingIOError:
            pass
        before = data.count(b"HTTP/1.1 200")
        greedy.settimeout(20)
        while data.count(b"HTTP/1.1 200") < 1000:
            data += greedy.recv(1 << 20)
    assert before < 1000
