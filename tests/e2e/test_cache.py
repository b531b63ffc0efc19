"""The HTTP cache through real sockets: a real gateway, a raw upstream that counts, clients that see every byte."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from email.utils import formatdate

import gevent
import pytest
from gevent.server import StreamServer
from running import ROOT, Running, ask, field

from tests.waiting import until

CONFIG = """
[gateway]
views = ["cached_views"]
timeout = "10s"

[upstreams.origin]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/*"
upstream = "origin"
cache = {{}}

[[routes]]
path = "/plain/*"
upstream = "origin"

[[routes]]
path = "/private/*"
upstream = "origin"
cache = {{}}

[[routes]]
path = "/asked/*"
upstream = "origin"
cache = {{ methods = ["GET", "POST"] }}

[[routes]]
path = "/ttl/*"
upstream = "origin"
cache = {{ ttl = "1h", stale_if_error = "1h", tags = ["ttl"], key = {{ ignore_query = ["utm_*"] }}, explain = true, edge = "10s" }}
response_headers = {{ set = {{ X-Rule = "yes" }} }}

[[routes]]
path = "/small/*"
upstream = "origin"
cache = {{ ttl = "1h", max_object = "100KB" }}

[[routes]]
path = "/composed"
cache = {{ ttl = "1h" }}
[routes.aggregate]
one = "origin:/part"

[[routes]]
path = "/view"
view = true
cache = {{ ttl = "1h" }}

[[routes]]
path = "/stale-view"
view = true
cache = {{}}

[[routes]]
path = "/said"
respond = {{ text = "said", headers = {{ Cache-Control = "max-age=60" }} }}
cache = {{}}
"""

VIEWS = """
from flask import Blueprint, request

shop = Blueprint("shop", __name__)
calls = []

@shop.get("/view")
def view():
    calls.append(request.headers.get("X-User"))
    return f"call {len(calls)}"

@shop.get("/stale-view")
def stale_view():
    calls.append(dict(request.headers))
    asked = ", ".join(name for name in request.headers.keys() if name.startswith("If-"))
    fields = {"Cache-Control": "max-age=60, stale-while-revalidate=600", "Age": "100", "ETag": '"v"', "X-Asked": asked}
    return f"stale {len(calls)}", 200, fields
"""


class Origin:
    """``answers`` by path: bytes, or a function of the head that gives bytes or pieces. ``heads`` are those received, by path."""

    def __init__(self):
        self.answers = {}
        self.heads = {}
        self.failing = False

    def __call__(self, sock, address):
        reader = sock.makefile("rb")
        try:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = reader.readline()
                    if not line:
                        return
                    head += line
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                reader.read(int(length[1]) if length else 0)
                path = head.split(b" ")[1].decode().partition("?")[0]
                self.heads.setdefault(path, []).append(head.decode("latin-1"))
                if self.failing:
                    return
                answer = self.answers.get(path, answered())
                answer = answer(head.decode("latin-1")) if callable(answer) else answer
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    sock.sendall(piece)
        except OSError:
            return
        finally:
            reader.close()
            sock.close()

    def count(self, path):
        return len(self.heads.get(path, ()))


def answered(*headers, body=b"hello", status="200 OK", cc="max-age=60"):
    lines = [f"HTTP/1.1 {status}", *([f"Cache-Control: {cc}"] if cc else []), *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(*pieces, cc="max-age=60", end=b"0\r\n\r\n"):
    yield f"HTTP/1.1 200 OK\r\nCache-Control: {cc}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield end


pytestmark = pytest.mark.leaks_allowed      # module-wide servers: connections come and go between tests


@pytest.fixture(scope="module")
def origin():
    origin = Origin()
    server = StreamServer(("127.0.0.1", 0), origin)
    server.start()
    origin.port = server.server_port
    yield origin
    server.stop(timeout=0)


@pytest.fixture(scope="module")
def gateway(origin, tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    (place / "cached_views.py").write_text(VIEWS)
    running = Running(place, CONFIG.format(port=origin.port))
    yield running
    assert running.stop() == 0


@pytest.fixture
def get(gateway):
    """``get(target, *header lines)``: (status, fields, body)."""
    def get(target, *headers, method="GET", body=b""):
        lines = [f"{method} {target} HTTP/1.1", "Host: shop.test", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return ask(gateway.port, "\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    return get


def said(answer):
    return field(answer[1], "Cache-Status")


def is_hit(answer):
    return "; hit" in (said(answer) or "")


def dated(line):
    """``{+600}`` in a line is the date in ten minutes: counted when the test runs, not when it is collected."""
    return re.sub(r"\{([+-]\d+)\}", lambda found: formatdate(time.time() + int(found[1]), usegmt=True), line)


def test_miss_then_hit(origin, get):
    origin.answers["/a"] = answered("ETag: \"v\"", "X-Odd: \xe4", "Link: </a>", "Link: </b>")
    first, second = get("/a"), get("/a")
    assert said(first) == "wicketgate; fwd=uri-miss; fwd-status=200; stored"
    assert re.fullmatch(r"wicketgate; hit; ttl=(60|59|5\d)", said(second))
    assert (second[0], second[2], origin.count("/a")) == (200, b"hello", 1)
    assert [value for name, value in second[1] if name == "Link"] == ["</a>", "</b>"]
    assert field(second[1], "X-Odd") == "\xe4" and field(second[1], "Date") == field(first[1], "Date")
    assert field(second[1], "Age") is not None and field(first[1], "Age") is None
    assert field(second[1], "X-Request-Id") != field(first[1], "X-Request-Id")
    assert get("/a", "If-None-Match: \"v\"")[0] == 304
    assert get("/a", "Range: bytes=1-2")[::2] == (206, b"el")
    status, fields, body = get("/a", method="HEAD")
    assert (status, field(fields, "Content-Length"), body) == (200, "5", b"")
    assert origin.count("/a") == 1


# What the first answer says (see ``dated``), what the second request asks, and whether that is served from the cache.
@pytest.mark.parametrize("first, headers, asked, hit", [
    ([], ["Cache-Control: max-age=60"], [], True),
    ([], ["Cache-Control: max-age=0"], [], False),
    ([], ["Cache-Control: max-age=60", "Age: 61"], [], False),
    ([], ["Cache-Control: max-age=60", "Age: 0, 61"], [], True),
    ([], ["Cache-Control: s-maxage=60, max-age=0"], [], True),
    ([], ["Cache-Control: max-age=60", "Cache-Control: s-maxage=0"], [], False),
    ([], ["Cache-Control: x=\"max-age=60\", max-age=0"], [], False),
    ([], ["Cache-Control: max-age=60", "Expires: Thu, 01 Jan 1970 00:00:00 GMT"], [], True),
    ([], ["Expires: {+600}"], [], True),
    ([], ["Expires: {-1}"], [], False),
    ([], ["Expires: 0"], [], False),
    ([], ["Last-Modified: {-100000}"], [], True),
    ([], [], [], False),
    ([], ["Cache-Control: private, max-age=60"], [], False),
    ([], ["Cache-Control: nO-StOrE, max-age=60"], [], False),
    ([], ["Cache-Control: no-cache, max-age=60"], [], False),
    ([], ["Cache-Control: max-age=60", "Set-Cookie: sid=1"], [], False),
    ([], ["Cache-Control: no-store", "CDN-Cache-Control: max-age=60"], [], True),
    ([], ["Cache-Control: max-age=60", "CDN-Cache-Control: no-store"], [], False),
    ([], ["Cache-Control: max-age=60", "CDN-Cache-Control: &&&"], [], True),
    ([], ["Cache-Control: max-age=60", "Vary: *"], [], False),
    (["Foo: 1"], ["Cache-Control: max-age=60", "Vary: Foo"], ["foo: 1"], True),
    (["Foo: 1"], ["Cache-Control: max-age=60", "Vary: Foo"], ["Foo: 2"], False),
    (["Foo: 1"], ["Cache-Control: max-age=60", "Vary: Foo"], [], False),
    (["Foo: 1, 2"], ["Cache-Control: max-age=60", "Vary: Foo"], ["Foo: 1", "Foo: 2"], True),
    (["Accept-Language: en, de"], ["Cache-Control: max-age=60", "Vary: Accept-Language"], ["Accept-Language: De,  en"], True),
    (["Authorization: x"], ["Cache-Control: max-age=60"], [], False),
    (["Authorization: x"], ["Cache-Control: max-age=60, public"], [], True),
    (["Cookie: sid=1"], ["Last-Modified: {-100000}"], [], False),
    (["Cookie: sid=1"], ["Cache-Control: max-age=60"], [], False),
    (["Cookie: sid=1"], ["Cache-Control: public, max-age=60"], [], True),
    (["Cookie: sid=1"], ["Cache-Control: max-age=60", "Vary: Cookie"], ["Cookie: sid=1"], True),
    (["Cookie: sid=1"], ["Cache-Control: max-age=60", "Vary: Cookie"], ["Cookie: sid=2"], False),
    (["Cache-Control: no-store"], ["Cache-Control: max-age=60"], [], False),
    ([], ["Cache-Control: max-age=60"], ["Cache-Control: no-cache"], False),
    ([], ["Cache-Control: max-age=60"], ["Cache-Control: max-age=0"], False),
    ([], ["Cache-Control: max-age=60", "Age: 30"], ["Cache-Control: min-fresh=40"], False),
    ([], ["Cache-Control: max-age=60", "Age: 70", "ETag: \"v\""], ["Cache-Control: max-stale=30"], True),
    ([], ["Cache-Control: max-age=60", "Age: 70", "ETag: \"v\""], ["Cache-Control: max-stale=5"], False),
    ([], ["Cache-Control: max-age=60, immutable"], ["Cache-Control: max-age=0"], True),
    ([], ["Cache-Control: max-age=60"], ["Pragma: no-cache"], False),
    ([], ["Cache-Control: max-age=60"], ["X-HTTP-Method-Override: PUT"], False),
    ([], ["Cache-Control: max-age=60"], ["Cookie: sid=1"], False),
    ([], ["Cache-Control: s-maxage=60"], ["Cookie: sid=1"], True),
])
def test_what_is_served_from_the_cache(origin, get, request, first, headers, asked, hit):
    path = f"/case/{abs(hash(request.node.name))}"
    origin.answers[path] = answered(*map(dated, headers), cc="")
    get(path, *first)
    assert is_hit(get(path, *asked)) is hit
    assert origin.count(path) == (1 if hit else 2)


def test_a_stale_answer_is_validated(origin, get):
    origin.answers["/stale"] = lambda head: answered(status="304 Not Modified", body=b"").replace(b"Content-Length: 0\r\n", b"") \
        if 'If-None-Match: "v"' in head else answered('ETag: "v"', "Age: 100")
    assert get("/stale")[2] == b"hello"
    validated = get("/stale")
    assert (validated[0], validated[2], said(validated)) == (200, b"hello", "wicketgate; fwd=stale; fwd-status=304; stored")
    assert is_hit(get("/stale")) and origin.count("/stale") == 2


def test_another_method_makes_it_invalid_also_on_a_route_without_cache(origin, get):
    origin.answers["/plain/form"] = answered("Location: /made", "Content-Location: http://other.test/kept", status="201 Created")
    assert [is_hit(get("/made")) for _ in range(2)] == [False, True]
    get("/plain/form", method="POST", body=b"x=1")
    assert not is_hit(get("/made"))
    origin.answers["/made"] = answered(status="500 Oh")
    get("/made", method="DELETE")
    assert is_hit(get("/made"))


def test_a_post_that_goes_past_the_cache_makes_it_invalid(origin, get):
    origin.answers["/asked/a"] = answered()
    get("/asked/a")
    assert is_hit(get("/asked/a"))
    get("/asked/a", "Cache-Control: no-store", method="POST", body=b"x")
    assert not is_hit(get("/asked/a"))


def test_rules_keys_and_tags_of_a_route(origin, get):
    origin.answers["/ttl/a"] = answered(cc="")
    first, second = get("/ttl/a?p=1&utm_source=x"), get("/ttl/a?utm_medium=y&p=1")
    assert said(first) == 'wicketgate; fwd=uri-miss; fwd-status=200; stored; key="http://shop.test/ttl/a?p=1"'
    assert is_hit(second) and field(second[1], "X-Rule") == "yes" and field(second[1], "X-Accel-Expires") == "10"
    assert not is_hit(get("/ttl/a?p=2"))
    private = get("/ttl/a?p=3", "Cookie: sid=1")
    assert said(private).endswith('detail="cookie"') and field(private[1], "X-Accel-Expires") == "0"


@pytest.mark.parametrize("path, body", [("/composed", b'{"one":{}}'), ("/view", b"call 1"), ("/said", b"said")])
def test_every_kind_of_target(origin, get, path, body):
    origin.answers["/part"] = answered("Content-Type: application/json", body=b"{}")
    answers = [get(path) for _ in range(3)]
    assert [is_hit(answer) for answer in answers] == [False, True, True]
    assert {answer[2] for answer in answers} == {body}


def test_a_view_is_refreshed_when_its_client_is_gone(get):
    first = get("/stale-view", 'If-None-Match: "other"')
    assert field(first[1], "X-Asked") == ""                              # the client's own condition is not for the view
    again = get("/stale-view")
    assert again[2] == first[2] and "; hit; ttl=-40" in said(again)
    until(lambda: get("/stale-view")[2] != first[2])
    assert field(get("/stale-view")[1], "X-Asked") == "If-None-Match"    # but ours is


def test_streams(origin, get):
    big = b"x" * 90_000
    origin.answers["/small/whole"] = lambda head: chunked(b"hel", b"lo")
    origin.answers["/small/big"] = lambda head: chunked(big)
    origin.answers["/small/large"] = lambda head: chunked(big, big)
    origin.answers["/small/cut"] = lambda head: chunked(b"hel", end=b"")
    for path, body, kept in (("/small/whole", b"hello", True), ("/small/big", big, True), ("/small/large", big + big, False)):
        get(path)
        again = get(path)
        assert is_hit(again) is kept
        if kept:
            assert again[2] == body and field(again[1], "Content-Length") == str(len(body))

    def cut_short(head):
        yield from chunked(b"hel", end=b"")
        raise OSError("cut")

    origin.answers["/small/cut"] = cut_short
    get("/small/cut")
    origin.answers["/small/cut"] = answered()
    assert not is_hit(get("/small/cut"))


def test_many_clients_one_request(origin, gateway, get):
    together = gevent.event.Event()

    def slow(head):
        together.wait(20)
        return answered()

    origin.answers["/cold"] = slow
    clients = [gevent.spawn(get, "/cold") for _ in range(100)]
    until(lambda: origin.count("/cold") and gateway.in_flight() >= 100)
    together.set()
    gevent.joinall(clients, timeout=30)
    assert {client.value[2] for client in clients} == {b"hello"}
    assert origin.count("/cold") == 1


def test_what_is_not_for_others_is_fetched_side_by_side(origin, get):
    """The first answer of the route tells; from then on also for keys never asked for. The upstream answers when all are there."""
    def together(path, most):
        def answer(head):
            until(lambda: origin.count(path) >= most)
            yield answered(cc="no-store", body=b"own")
        return answer

    origin.answers["/private/first"] = answered(cc="no-store")
    get("/private/first")
    origin.answers["/private/cold"] = together("/private/cold", 20)
    answers = [gevent.spawn(get, "/private/cold") for _ in range(20)]
    gevent.joinall(answers, timeout=30)
    assert [answer.value[2] for answer in answers] == [b"own"] * 20
    origin.answers["/private/cold"] = together("/private/cold", 40)
    answers = [gevent.spawn(get, "/private/cold") for _ in range(20)]
    gevent.joinall(answers, timeout=30)
    assert [answer.value[2] for answer in answers] == [b"own"] * 20


def test_a_client_that_leaves_takes_nothing_from_the_others(origin, gateway, get):
    began, go = gevent.event.Event(), gevent.event.Event()

    def slow(head):
        began.set()
        go.wait(20)
        return answered()

    origin.answers["/left"] = slow
    leaving = socket.create_connection(("127.0.0.1", gateway.port))
    leaving.sendall(b"GET /left HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    assert began.wait(20)
    follower = gevent.spawn(get, "/left")
    until(lambda: gateway.in_flight() >= 2)
    leaving.close()
    until(lambda: origin.count("/left") >= 2, "the follower asks for itself once the leader is known to be gone")
    go.set()
    assert follower.get(timeout=20)[2] == b"hello"
    assert is_hit(get("/left"))


def test_an_upstream_that_is_gone(origin, get):
    origin.answers["/ttl/gone"] = answered("Age: 70", 'ETag: "v"')
    get("/ttl/gone")
    origin.failing = True
    try:
        answer = get("/ttl/gone")
        assert (answer[0], answer[2]) == (200, b"hello")
        assert re.fullmatch(r'wicketgate; fwd=stale; ttl=-1\d; key="[^"]+"; detail="upstream_closed"', said(answer))
        again = get("/ttl/gone")                         # for a moment the upstream is left alone
        assert again[2] == b"hello" and "; hit; ttl=-1" in said(again)
        status, fields, body = get("/ttl/gone", method="HEAD")
        assert (status, field(fields, "Content-Length"), body) == (200, "5", b"")
        assert get("/ttl/never")[0] == 502
    finally:
        origin.failing = False


def test_it_is_counted_and_explained(origin, gateway, get):
    get("/counted"), get("/counted")
    status, _, body = ask(gateway.admin, b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    numbers = body.decode()
    assert status == 200
    assert re.search(r'gateway_cache_requests_total\{outcome="hit",route="/\*"\} [1-9]', numbers)
    assert re.search(r'gateway_cache_stored_total\{route="/\*"\} [1-9]', numbers)
    assert re.search(r'gateway_cache_refused_total\{reason="no-store",route="/\*"\} [1-9]', numbers)
    assert re.search(r'gateway_cache_bytes\{tier="memory"\} [1-9]', numbers)
    done = subprocess.run([sys.executable, "-m", "gateway.cli", "explain", "-c", str(gateway.config), "GET", "/ttl/a"], cwd=ROOT,
                          env=gateway.environ, capture_output=True, text=True, timeout=60)
    assert "cache: by url, query but utm_*, ttl 3600 s, stale_if_error 3600 s, edge 10 s, headers first, tags ttl" in done.stdout


def test_a_change_is_known_to_every_worker(origin, tmp_path):
    origin.answers["/shared"] = answered(body=b"old")
    running = Running(tmp_path / "two", CONFIG.format(port=origin.port).replace('views = ["cached_views"]', "").replace(
        '[[routes]]\npath = "/view"\nview = true\ncache = { ttl = "1h" }\n', "").replace(
        '[[routes]]\npath = "/stale-view"\nview = true\ncache = {}\n', ""), workers=2)
    try:
        def get(method="GET"):
            raw = f"{method} /shared HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"
            return ask(running.port, raw.encode())[2]

        assert {get() for _ in range(30)} == {b"old"}                    # each worker has it by now
        origin.answers["/shared"] = answered(body=b"new")
        get("POST")
        began = time.monotonic()
        while b"old" in {get() for _ in range(30)}:
            assert time.monotonic() - began < 30, "a worker did not hear of it"
        assert {get() for _ in range(30)} == {b"new"}
    finally:
        assert running.stop() == 0
