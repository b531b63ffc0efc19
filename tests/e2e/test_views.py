"""Ordinary Flask under the gateway: views with plain ``requests``, next to declared routes, in the real server."""

from __future__ import annotations

import json
import socket

import gevent
import pytest
from gevent.event import Event
from running import Recorder, Running, ask, field, parse

pytestmark = pytest.mark.leaks_allowed      # one gateway for the module

SHOP = '''
import time
import requests
from flask import Blueprint, abort, request, Response, stream_with_context, g, current_app
from gateway import cache, gather

shop = Blueprint("shop", __name__)
calls = []

@shop.get("/shop/<int:number>")
def one(number):
    return {"number": number, "client": request.remote_addr, "url": request.url, "id": request.headers["X-Request-Id"]}

@shop.get("/shop/three")
def three():
    g.who = "me"
    def part(name):
        return requests.get(f"http://legacy/{name}").text + g.who + request.path
    return gather(lambda: part("a"), lambda: part("b"), lambda: part("c"), timeout=60)

@shop.get("/shop/hang")
def hang():
    return requests.get("http://hanging/").text

@shop.get("/shop/sleep")
def sleep():
    time.sleep(30)
    return "never"

@shop.get("/shop/retries")
def retries():
    while True:
        try:
            return requests.get("http://hanging/").text
        except requests.RequestException:
            continue

@shop.get("/shop/retries/all")
def retries_all():
    while True:
        try:
            return requests.get("http://hanging/").text
        except Exception:
            continue

@shop.get("/shop/gathers")
def gathers():
    while True:
        try:
            return gather(lambda: requests.get("http://hanging/").text)
        except Exception:
            continue

@shop.get("/shop/swallows")
def swallows():
    try:
        time.sleep(10)
    except Exception:
        pass
    time.sleep(10)
    return "late"

@shop.get("/shop/fallback")
def fallback():
    try:
        return requests.get("http://hanging/").text
    except Exception:
        return "a fallback"

@shop.get("/shop/file")
def file():
    return "text", {"Content-Disposition": "attachment; filename=\u0142.txt"}

@shop.get("/shop/refused")
def refused():
    return requests.get("http://closed/").text

@shop.get("/shop/broken")
def broken():
    raise RuntimeError("a secret detail")

@shop.get("/shop/abort/<int:code>")
def aborted(code):
    abort(code)

@shop.get("/shop/stream")
def stream():
    def pieces():
        for n in range(3):
            yield f"{n}{request.path}\\n"
    return Response(stream_with_context(pieces()), mimetype="text/plain")

@shop.get("/shop/words")
def words():
    return dict(request.headers)

@shop.get("/shop/exit")
def leave():
    raise SystemExit(3)

@shop.get("/shop/exit-in-stream")
def leave_in_stream():
    def pieces():
        yield "x" * 70000
        raise SystemExit(3)
    return Response(pieces())

@shop.get("/shop/broken-stream")
def broken_stream():
    def pieces():
        raise RuntimeError("before the first piece")
        yield "never"
    return Response(pieces())

@shop.post("/shop/echo")
def echo():
    return {"json": request.get_json(), "form": request.form, "length": request.content_length}

@shop.post("/shop/upload")
def upload():
    return {name: len(f.read()) for name, f in request.files.items()}

@shop.get("/shop/cached")
def cached():
    @cache.memoize(60)
    def slow(n):
        calls.append(n)
        return n * 2
    return {"value": slow(4), "calls": len(calls)}

@shop.get("/slash/")
def slash():
    return "slash"
'''

CONFIG = """
[gateway]
views = ["shop"]
timeout = "2s"
trust = ["127.0.0.1/32"]

[upstreams.legacy]
instances = ["http://127.0.0.1:{port}"]

[upstreams.hanging]
instances = ["http://127.0.0.1:{hanging}"]

[upstreams.closed]
instances = ["http://127.0.0.1:1"]

[[routes]]
path = "/*"
upstream = "legacy"

[[routes]]
path = "/shop/echo"
view = true
max_body = "1KB"
response_headers = {{ set = {{ X-Step = "yes" }} }}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    from gevent.server import StreamServer

    def hanging(sock, address):
        while sock.recv(65536):
            pass
        sock.close()

    servers = [StreamServer(("127.0.0.1", 0), Recorder()), StreamServer(("127.0.0.1", 0), hanging)]
    for server in servers:
        server.start()
    place = tmp_path_factory.mktemp("views")
    (place / "shop.py").write_text(SHOP)
    running = Running(place, CONFIG.format(port=servers[0].server_port, hanging=servers[1].server_port))
    yield running
    assert running.stop() == 0
    for server in servers:
        server.stop(timeout=0)


def get(gateway, target, *headers, method="GET", body=b""):
    lines = "".join(f"{line}\r\n" for line in headers)
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    raw = f"{method} {target} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n{length}{lines}\r\n".encode() + body
    return ask(gateway.port, raw)


def test_a_view_wins_over_the_catch_all_and_sees_the_client(gateway):
    status, fields, body = get(gateway, "/shop/7", "X-Forwarded-For: 8.8.8.8", "X-Forwarded-Proto: https",
                               "X-Forwarded-Host: www.shop.test", "X-Request-Id: abcdefgh-12345678")
    assert status == 200
    assert json.loads(body) == {"number": 7, "client": "8.8.8.8", "url": "https://www.shop.test/shop/7", "id": "abcdefgh-12345678"}
    assert field(fields, "X-Request-Id") == "abcdefgh-12345678"
    assert get(gateway, "/shop/seven")[2] == b"ok"          # no view: the catch-all


def test_gather_with_plain_requests_and_flasks_context(gateway):
    status, fields, body = get(gateway, "/shop/three")
    assert json.loads(body) == ["okme/shop/three"] * 3
    [line] = gateway.lines(id=field(fields, "X-Request-Id"))
    assert len(line["attempts"]) == 3 and {attempt["upstream"] for attempt in line["attempts"]} == {"legacy"}


@pytest.mark.parametrize("target, status, code", [
    ("/shop/hang", 504, "deadline_exceeded"), ("/shop/sleep", 504, "deadline_exceeded"),
    ("/shop/refused", 502, "upstream_connect_failed"), ("/shop/broken", 500, "internal_error"),
    ("/shop/abort/404", 404, "not_found"), ("/shop/abort/418", 418, "i_m_a_teapot"),
    ("/shop/abort/503", 503, "service_unavailable")])
def test_errors_of_views(gateway, target, status, code):
    answer, fields, body = get(gateway, target)
    problem = json.loads(body)
    assert (answer, problem["code"], problem["status"]) == (status, code, status)
    assert field(fields, "Content-Type") == "application/problem+json"
    assert b"secret" not in body


def test_a_defect_is_logged_whole(gateway):
    get(gateway, "/shop/broken")
    assert "a secret detail" in gateway.errors.read_text()


def test_a_method_no_view_has_goes_to_the_catch_all(gateway):
    assert get(gateway, "/shop/7", method="DELETE")[::2] == (200, b"ok")


def test_streams_bodies_and_steps_of_a_declared_view(gateway):
    assert get(gateway, "/shop/stream", "Connection: close")[2].count(b"/shop/stream\n") == 3
    status, fields, body = get(gateway, "/shop/echo", "Content-Type: application/json", method="POST", body=b'{"a": 1}')
    assert (status, json.loads(body)["json"], field(fields, "X-Step")) == (200, {"a": 1}, "yes")
    status, _, body = get(gateway, "/shop/echo", "Content-Type: application/json", method="POST", body=b'"' + b"x" * 1100 + b'"')
    assert (status, json.loads(body)["code"]) == (413, "body_too_large")
    form = (b'--B\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"x" * 200_000 + b"\r\n--B--\r\n")
    _, _, body = get(gateway, "/shop/upload", "Content-Type: multipart/form-data; boundary=B", method="POST", body=form)
    assert json.loads(body) == {"f": 200_000}


def test_a_chunked_body_reaches_a_view(gateway):
    raw = (b"POST /shop/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
           b"Transfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n")
    assert json.loads(ask(gateway.port, raw)[2])["json"] == [1, 2]


def test_view_cache(gateway):
    first, second = (json.loads(get(gateway, "/shop/cached")[2]) for _ in range(2))
    assert (first, second) == ({"value": 8, "calls": 1},) * 2


def test_both_forms_of_a_rule_with_a_slash(gateway):
    assert get(gateway, "/slash/")[2] == b"slash"
    status, fields, _ = get(gateway, "/slash")
    assert (status, field(fields, "Location")) == (308, "http://shop.test/slash/")


def test_a_hanging_view_does_not_hold_up_others(gateway):
    started = Event()

    def hang():
        started.set()
        return get(gateway, "/shop/sleep")[0]

    hanging = [gevent.spawn(hang) for _ in range(20)]
    started.wait()
    answers = [get(gateway, "/shop/7")[0] for _ in range(20)]
    assert answers == [200] * 20 and not any(greenlet.dead for greenlet in hanging)
    assert [greenlet.get() for greenlet in hanging] == [504] * 20


@pytest.mark.parametrize("target", ["retries", "retries/all", "gathers", "swallows"])
def test_a_view_that_tries_on_after_its_deadline_holds_up_nobody_and_ends(gateway, target):
    bad = [gevent.spawn(get, gateway, f"/shop/{target}") for _ in range(3)]
    others = []
    while not all(greenlet.dead for greenlet in bad):
        others.append(get(gateway, "/shop/7")[0])
    assert len(others) > 2 and set(others) == {200}
    for greenlet in bad:
        status, _, body = greenlet.get()
        assert (status, json.loads(body)["code"]) == (504, "deadline_exceeded")


def test_a_view_that_catches_its_deadline_may_answer_after_all(gateway):
    assert get(gateway, "/shop/fallback")[::2] == (200, b"a fallback")


def test_an_answer_that_cannot_be_sent_is_an_error_in_the_log_too(gateway):
    status, fields, body = get(gateway, "/shop/file")
    problem = json.loads(body)
    assert (status, problem["code"]) == (500, "internal_error")
    assert problem["request_id"] == field(fields, "X-Request-Id")
    assert [(line["status"], line["flag"]) for line in gateway.lines(id=problem["request_id"])] == [(500, "IE")]
    assert "a character beyond latin-1 in the value of Content-Disposition" in gateway.errors.read_text()


def test_a_slow_upload_does_not_take_the_views_time(gateway):
    form = (b'--B\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"x" * 200_000 + b"\r\n--B--\r\n")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(b"POST /shop/upload HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n"
                       b"Content-Type: multipart/form-data; boundary=B\r\n\r\n" % len(form))
        for at in range(0, len(form), 50_000):
            client.sendall(form[at:at + 50_000])
            if at < 100_000:                             # meanwhile a request that began later has used up all of its time
                assert get(gateway, "/shop/hang")[0] == 504
        data = read_until(client, b"}")
    status, _, body = parse(data)
    assert (status, json.loads(body)) == (200, {"f": 200_000})


def test_a_view_that_exits_ends_no_worker(gateway):
    workers = gateway.workers()
    status, fields, body = get(gateway, "/shop/exit")
    assert (status, json.loads(body)["code"]) == (500, "internal_error")
    assert len(get(gateway, "/shop/exit-in-stream")[2]) >= 70000         # begun, then cut
    assert gateway.workers() == workers and get(gateway, "/shop/7")[0] == 200


def test_a_stream_that_breaks_before_its_first_piece_is_one_answer_with_one_line(gateway):
    status, fields, body = get(gateway, "/shop/broken-stream")
    id = json.loads(body)["request_id"]
    gateway.lines(id=field(get(gateway, "/shop/7")[1], "X-Request-Id"))          # the worker writes that line after all of these
    lines = gateway.lines(path="/shop/broken-stream")
    assert [(line["id"], line["status"], line["flag"]) for line in lines] == [(id, 500, "IE")]
    assert status == 500


def test_a_view_sees_no_field_that_connection_names(gateway):
    seen = json.loads(get(gateway, "/shop/words", "Connection: X-Team", "X-Team: red", "X-Other: 1")[2])
    assert "X-Team" not in seen and seen["X-Other"] == "1"


WEBSOCKET = """
[upstreams.chat]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/*"
upstream = "chat"

[[routes]]
path = "/ws/*"
upstream = "chat"
strip_prefix = "/ws"
websocket = true
websocket_idle_timeout = "500ms"
"""

HANDSHAKE = (b"GET /ws/room?x=1 HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
             b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")


class Chat:
    """A raw upstream that upgrades and echoes in capitals; ``/deny`` is refused."""

    def __init__(self):
        self.heads, self.ended = [], Event()

    def __call__(self, sock, address):
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(65536)
            if not data:
                return
            head += data
        self.heads.append(head)
        if b"deny" in head:
            sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        elif b"Upgrade: websocket" in head:
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         b"Sec-WebSocket-Accept: x\r\n"
                         b"\r\nhello")
            while data := sock.recv(65536):
                sock.sendall(data.upper())
            self.ended.set()
        else:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        sock.close()


@pytest.fixture
def chat(serve, tmp_path):
    upstream = Chat()
    upstream.running = Running(tmp_path, WEBSOCKET.format(port=serve(upstream)))
    yield upstream
    assert upstream.running.stop() == 0


def read_until(client, mark):
    data = b""
    while mark not in data:
        piece = client.recv(65536)
        assert piece, data
        data += piece
    return data


def test_a_websocket_is_spliced_both_ways(chat):
    with socket.create_connection(("127.0.0.1", chat.running.port), timeout=10) as client:
        client.sendall(HANDSHAKE + b"early")
        data = read_until(client, b"EARLY")
        assert data.startswith(b"HTTP/1.1 101 Switching Protocols\r\n") and b"hello" in data
        assert b"Sec-WebSocket-Accept: x\r\n" in data
        client.sendall(b"more")
        read_until(client, b"MORE")
    assert chat.ended.wait(60)                           # the client's end is the upstream's
    head = chat.heads[-1]
    assert head.startswith(b"GET /room?x=1 HTTP/1.1\r\n")
    assert b"Connection: Upgrade\r\n" in head and b"Upgrade: websocket\r\n" in head and b"X-Forwarded-For: 127.0.0.1\r\n" in head


def test_a_silent_websocket_is_ended(chat):
    with socket.create_connection(("127.0.0.1", chat.running.port), timeout=10) as client:
        client.sendall(HANDSHAKE)
        data = read_until(client, b"hello")
        assert client.recv(100) == b"" or data
    assert chat.ended.wait(60)


def test_a_refused_upgrade_is_an_ordinary_answer(chat):
    raw = HANDSHAKE.replace(b"/room", b"/deny").replace(b"keep-alive, Upgrade", b"close, Upgrade")
    assert ask(chat.running.port, raw)[::2] == (403, b"no")


def test_without_the_setting_an_upgrade_is_an_ordinary_request(chat):
    raw = HANDSHAKE.replace(b"/ws/room", b"/room").replace(b"keep-alive, Upgrade", b"close, Upgrade")
    assert ask(chat.running.port, raw)[::2] == (200, b"ok")
    assert b"Upgrade" not in chat.heads[-1]
