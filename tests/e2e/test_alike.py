"""What a target answers, what it is told of a request, and what is counted of both are the same on the fast lane and off it.

Two servers with one application: one where a hook switches the lane off, and one with it.
"""

from __future__ import annotations

import json
import re
import socket

import pytest
from gevent.server import StreamServer
from running import ROOT, Running, ask, field

from gateway.http.fields import CONNECTION_FIELDS
from gateway.wsgi import variable, variables
from tests.waiting import until

pytestmark = pytest.mark.leaks_allowed      # two servers for the module

VIEWS = '''
from flask import Blueprint, Response, request

odd = Blueprint("odd", __name__)
closed = []
BIG = b"x" * 100_000


class Pieces:
    def __init__(self, pieces):
        self.pieces = pieces

    def __iter__(self):
        return iter(self.pieces)

    def close(self):
        closed.append(True)


class Raw(Response):
    def __init__(self, status, headers, pieces):
        super().__init__()
        self.raw = status, headers, pieces

    def __call__(self, environ, start_response):
        status, headers, pieces = self.raw
        start_response(status, headers)
        return Pieces(pieces)


ANSWERS = {
    "fine": ("200 OK", [("Content-Length", "2")], [b"ok"]),
    "fine twice": ("200 OK", [("Content-Length", "2"), ("content-length", "2")], [b"ok"]),
    "fine streamed": ("200 OK", [], [b"o", b"k"]),
    "fine large": ("200 OK", [("Content-Length", "200000")], [BIG, BIG]),
    "no content": ("204 No Content", [], [b"lost"]),
    "not modified": ("304 Not Modified", [("Content-Length", "9")], [b"lost"]),
    "two lengths": ("200 OK", [("Content-Length", "2"), ("Content-Length", "3")], [b"ok"]),
    "two large lengths": ("200 OK", [("Content-Length", "100000"), ("Content-Length", "100001")], [BIG]),
    "a list of lengths": ("200 OK", [("Content-Length", "2, 2")], [b"ok"]),
    "negative": ("200 OK", [("Content-Length", "-2")], [b"ok"]),
    "signed": ("200 OK", [("Content-Length", "+2")], [b"ok"]),
    "spaced": ("200 OK", [("Content-Length", " 2")], [b"ok"]),
    "no number": ("200 OK", [("Content-Length", "two")], [b"ok"]),
    "empty": ("200 OK", [("Content-Length", "")], [b"ok"]),
    "huge": ("200 OK", [("Content-Length", "9" * 5000)], [b"ok"]),
    "short": ("200 OK", [("Content-Length", "5")], [b"ok"]),
    "long": ("200 OK", [("Content-Length", "1")], [b"ok"]),
    "long at once": ("200 OK", [("Content-Length", "70000")], [BIG]),
    "cut short": ("200 OK", [("Content-Length", "200000")], [BIG]),
    "cut long": ("200 OK", [("Content-Length", "100000")], [BIG, BIG]),
    "short of nothing": ("200 OK", [("Content-Length", "5")], []),
    "no name": ("200 OK", [("", "a")], [b"ok"]),
    "no token": ("200 OK", [("X Y", "a")], [b"ok"]),
    "split name": ("200 OK", [("X\\r\\nY", "a")], [b"ok"]),
    "split value": ("200 OK", [("X", "a\\r\\nSet-Cookie: b=c")], [b"ok"]),
    "split length": ("200 OK", [("Content-Length", "2\\r\\nX: y")], [b"ok"]),
    "bare LF": ("200 OK", [("X", "a\\nb")], [b"ok"]),
    "beyond latin": ("200 OK", [("X", "\\u20ac")], [b"ok"]),
    "no text": ("200 OK", [("X", 7)], [b"ok"]),
    "no status": ("two hundred", [], [b"ok"]),
    "split status": ("200 O\\r\\nK", [], [b"ok"]),
    "continue": ("100 Continue", [], [b"ok"]),
    "switching": ("101 Switching Protocols", [("Upgrade", "x"), ("Connection", "upgrade")], [b"ok"]),
    "hints": ("103 Early Hints", [], [b"ok"]),
}


@odd.route("/odd/<name>", methods=["GET", "HEAD"])
def answer(name):
    closed.clear()
    return Raw(*ANSWERS[name.replace("-", " ")])


@odd.route("/mirror", methods=["GET", "POST", "OPTIONS"])
@odd.route("/ruled/mirror", methods=["GET", "POST", "OPTIONS"])
def mirror():
    fields = {key: value for key, value in request.environ.items() if key.startswith(("HTTP_", "CONTENT_"))}
    return {"fields": fields, "cookies": dict(request.cookies)}


@odd.get("/big/in-memory")
def in_memory():
    return BIG * 120


@odd.get("/big/streamed")
def streamed():
    closed.clear()
    return Raw("200 OK", [], [BIG] * 120)


@odd.get("/big/at-once")
def at_once():
    closed.clear()
    return Raw("200 OK", [("Content-Length", "12000000")], [BIG * 120])


@odd.get("/closed")
def count():
    return str(len(closed))
'''
GOOD = ["fine", "fine twice", "fine streamed", "fine large", "no content", "not modified"]
CUT = ["cut short", "cut long"]
BAD = [name for name in re.findall(r'^    "([^"]+)": ', VIEWS, re.M) if name not in GOOD + CUT]

CONFIG = '''
[gateway]
views = ["odd"]
send_timeout = "1s"
[upstreams.raw]
instances = ["http://127.0.0.1:{raw}"]
[[routes]]
path = "/raw/*"
upstream = "raw"
[[routes]]
path = "/ruled/raw/*"
upstream = "raw"
request_headers = {rules}
[[routes]]
path = "/ruled/mirror"
view = true
request_headers = {rules}
[[routes]]
path = "/cached/*"
upstream = "raw"
cache = {{ ttl = "60s", max_object = "50MB" }}
[[routes]]
path = "/files/*"
files = "{files}"
[[routes]]
path = "/composed/{{name}}"
[routes.aggregate]
part = "raw:/raw/{{name}}"
'''

RULES = '{ set = { X-Set = "s", X-Forwarded-Prefix = "/shop", Content-Type = "a/b" }, add = { X-Add = "a", X-More = "2" }, ' \
        'remove = ["X-Remove", "Max-Forwards"] }'

# Heads of upstreams, by the last segment of the path
RAW = {
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "negative": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
    "no-number": b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}",
    "no-token": b"HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 2\r\n\r\n{}",
    "control": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "no-status": b"HTTP/1.1 two OK\r\nContent-Length: 2\r\n\r\n{}",
    "length-and-coding": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: gzip\r\n\r\n{}",
}
RAW["big"] = b"HTTP/1.1 200 OK\r\nContent-Length: 12000000\r\n\r\n" + b"x" * 12_000_000
BIG = ["/big/in-memory", "/big/streamed", "/big/at-once", "/raw/big", "/cached/big", "/files/big"]
LANES = ("lane", "parser")


def raw_upstream(sock, address):
    with sock, sock.makefile("rb") as reader:
        path = reader.readline().split(b" ")[1].decode()
        lines = list(iter(reader.readline, b"\r\n"))
        if path.endswith("mirror"):
            body = json.dumps([line.decode("latin-1").strip().split(": ", 1) for line in lines]).encode()
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            return
        sock.sendall(RAW[path.rpartition("/")[2]])


class Started(Running):
    """``command`` is added to Gunicorn's command line."""

    def __init__(self, place, config, command):
        self.command = command
        super().__init__(place, config)

    def arguments(self):
        return [*super().arguments(), *self.command]

    def get(self, path, method="GET", *fields):
        return self.send(path, method, "Connection: close", *fields)

    def send(self, path, method, *fields):
        lines = [f"{method} {path} HTTP/1.1", "Host: a.test", *fields, "", ""]
        return ask(self.port, "\r\n".join(lines).encode("latin-1"), timeout=30)

    def in_flight(self):
        """The gauge. What has just been answered leaves it a moment later."""
        until(lambda: not super(Started, self).in_flight())
        return 0


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    place = tmp_path_factory.mktemp("alike")
    hooked = place / "hooked.conf.py"
    hooked.write_text((ROOT / "gunicorn.conf.py").read_text() + "\n\ndef pre_request(worker, request):\n    pass\n")
    raw = StreamServer(("127.0.0.1", 0), raw_upstream)
    raw.start()
    (place / "files").mkdir()
    (place / "files" / "big").write_bytes(b"x" * 12_000_000)
    started = {}
    for name, command in (("lane", []), ("parser", ["-c", str(hooked)])):
        (place / name).mkdir()
        (place / name / "odd.py").write_text(VIEWS)
        started[name] = Started(place / name, CONFIG.format(raw=raw.server_port, rules=RULES, files=place / "files"), command)
    yield started
    for server in started.values():
        server.stop()
    raw.stop()


# Answers that cannot be sent

@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", BAD)
def test_a_views_malformed_answer_is_500_closed_and_counted(servers, lane, name):
    server, path = servers[lane], f"/odd/{name.replace(' ', '-')}"
    status, fields, _ = server.get(path)
    assert status == 500 and field(fields, "Set-Cookie") is None
    assert server.get("/closed")[2] == b"1"
    assert server.in_flight() == 0
    assert [(line["status"], line["flag"]) for line in server.lines(path=path)] == [(500, "IE")]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", CUT)
def test_a_views_answer_that_turns_out_wrong_once_it_is_sent_is_cut_closed_and_counted(servers, lane, name):
    server, path = servers[lane], f"/odd/{name.replace(' ', '-')}"
    status, _, body = server.get(path)
    assert (status, len(body)) == (200, 100_000)
    assert server.get("/closed")[2] == b"1"
    assert server.in_flight() == 0
    assert [(line["status"], line["flag"], line["bytes"]) for line in server.lines(path=path)] == [(200, "IE", 100_000)]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", GOOD)
def test_a_views_sound_answer_is_sent_closed_and_counted(servers, lane, name):
    server, path = servers[lane], f"/odd/{name.replace(' ', '-')}"
    status, fields, body = server.get(path)
    expected = {"fine large": 200_000, "no content": 0, "not modified": 0, "fine streamed": len(b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n")}
    assert len(body) == expected.get(name, 2) and [key.lower() for key, _ in fields].count("content-length") <= 1
    assert server.get("/closed")[2] == b"1"
    assert server.in_flight() == 0
    assert [(line["status"], line["flag"]) for line in server.lines(path=path)] == [(status, "-")]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("target", ["raw", "cached", "composed"])
@pytest.mark.parametrize("name", [name for name in RAW if name != "big"])
def test_an_upstreams_malformed_head_is_502_and_counted(servers, lane, target, name):
    server, path = servers[lane], f"/{target}/{name}"
    assert server.get(path)[0] == 502
    assert server.in_flight() == 0
    assert [line["status"] for line in server.lines(path=path)] == [502]


# Clients that do not take their answer

def body_of(data):
    """The size of a body that was cut, however it is framed."""
    head, _, body = data.partition(b"\r\n\r\n")
    if b"chunked" in head:
        body = re.sub(rb"(?:\A|\r\n)[0-9A-F]+\r\n", b"", body)
    return len(body)


def begin(server, path, fields=b""):
    client = socket.create_connection(("127.0.0.1", server.port), timeout=120)
    client.sendall(b"GET %b HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % (path.encode(), fields))
    return client


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("path", BIG)
def test_a_client_that_takes_nothing_is_cut_and_the_log_tells_what_was_sent(servers, lane, path):
    server = servers[lane]
    before = len(server.lines(0, path=path))
    if path.startswith("/cached"):
        server.get(path)
        before = len(server.lines(before + 1, path=path))         # a large body is logged when it has been sent
    with begin(server, path) as client:
        line = server.lines(before + 1, path=path)[-1]
        data = b""
        try:
            while piece := client.recv(1 << 20):
                data += piece
        except ConnectionResetError:
            pass
    assert (line["status"], line["flag"], line["error"]) == (200, "ST", "send_timeout")
    assert 0 < line["bytes"] < 12_000_000
    assert body_of(data) == line["bytes"]
    assert server.in_flight() == 0


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("path", BIG)
def test_a_client_that_goes_is_told_from_one_that_was_cut(servers, lane, path):
    server = servers[lane]
    before = len(server.lines(0, path=path))
    with begin(server, path) as client:
        client.recv(100_000)
    line = server.lines(before + 1, path=path)[-1]
    assert (line["status"], line["flag"]) == (200, "DC") and line["bytes"] < 12_000_000
    assert server.in_flight() == 0


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("path", BIG)
def test_who_takes_all_gets_all(servers, lane, path):
    server = servers[lane]
    before = len(server.lines(0, path=path))
    with begin(server, path, b"Connection: close\r\n") as client:
        data = b"".join(iter(lambda: client.recv(1 << 20), b""))
    assert body_of(data) == 12_000_000 + (len(b"\r\n") if "streamed" in path else 0)
    line = server.lines(before + 1, path=path)[-1]
    assert (line["status"], line["flag"], line["bytes"]) == (200, "-", 12_000_000)


# What a target is told

TOLD = {
    "nothing": ("GET", []),
    "Max-Forwards": ("OPTIONS", ["Max-Forwards: 5"]),
    "Max-Forwards of a GET": ("GET", ["Max-Forwards: 5"]),
    "Max-Forwards twice": ("OPTIONS", ["Max-Forwards: 5", "Max-Forwards: 5"]),
    "one cookie": ("GET", ["Cookie: session=S; csrftoken=t"]),
    "two lines of cookies": ("GET", ["Cookie: session=S", "Cookie: csrftoken=t"]),
    "cookies with commas": ("GET", ["Cookie: session=a,b", "Accept: x/y", "cookie: csrftoken=c,d", "COOKIE: third=e"]),
    "an empty cookie": ("GET", ["Cookie: ", "Cookie: csrftoken=t"]),
    "repeated": ("GET", ["X-More: 1", "Accept: a/b", "Accept: c/d", "X-More: 3"]),
    "removed": ("GET", ["X-Remove: 1", "x-remove: 2", "X-Set: 1", "X-Set: 2", "X-Add: 0"]),
    "nominated": ("GET", ["X-Gone: 1", "X-Set: 2", "X-Stays: 3"]),
    "with a body": ("POST", ["Content-Type: text/plain", "Content-Length: 0"]),
    "a stranger's words": ("GET", ["X-Forwarded-For: 9.9.9.9", "X-Forwarded-Prefix: /evil", "X-Original-URL: /admin",
                                   "Forwarded: for=9.9.9.9"]),
    "an id": ("GET", ["X-Request-Id: 12345678901234567890"]),
    "credentials": ("GET", ["Authorization: Basic x"]),
}
# A view gets no fields of forwarding; it sees those of the connection, and how its body is framed
OF_FORWARDING = {"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded", "Via"}
DIFFERENT = {*map(variable, CONNECTION_FIELDS | OF_FORWARDING), "HTTP_HOST", "HTTP_X_REQUEST_ID", "CONTENT_LENGTH"}


def told(server, path, method, fields):
    status, _, body = server.send(path, method, *fields)
    assert status == 200
    found = json.loads(body)
    fields = found["fields"] if isinstance(found, dict) else variables([tuple(pair) for pair in found if len(pair) == 2])
    return {name: value for name, value in fields.items() if name not in DIFFERENT}


@pytest.mark.parametrize("prefix", ["", "/ruled"])
@pytest.mark.parametrize("name", TOLD)
def test_a_view_is_told_what_an_upstream_is_on_both_lanes(servers, name, prefix):
    method, fields = TOLD[name]
    fields = [*fields, "Connection: close, x-gone" if name == "nominated" else "Connection: close"]
    found = [told(servers[lane], f"{prefix}{path}", method, fields) for lane in LANES for path in ("/mirror", "/raw/mirror")]
    assert all(other == found[0] for other in found[1:])
    assert "HTTP_X_GONE" not in found[0] and found[0].get("HTTP_X_FORWARDED_PREFIX") == ("/shop" if prefix else None)
    assert prefix or method != "OPTIONS" or "4" in found[0]["HTTP_MAX_FORWARDS"].split(",")


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("lines", [["Cookie: session=S; csrftoken=t"], ["Cookie: session=S", "Cookie: csrftoken=t"],
                                   ["Cookie: session=S", "Accept: x/y", "cookie: csrftoken=t"]])
def test_cookies_in_several_lines_are_those_of_one(servers, lane, lines):
    assert json.loads(servers[lane].get("/mirror", "GET", *lines)[2])["cookies"] == {"session": "S", "csrftoken": "t"}
    sent = json.loads(servers[lane].get("/raw/mirror", "GET", *lines)[2])
    assert [value for name, value in sent if name.lower() == "cookie"] == ["session=S; csrftoken=t"]
