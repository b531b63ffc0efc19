"""WSGI middleware takes effect for every request, wherever it is put, and what the gateway does behind it stays the same."""

from __future__ import annotations

import json
import socket
import urllib.request

import pytest
from gevent.event import Event
from gevent.server import StreamServer
from plain import GATEWAY, Plain
from running import ask, field, free_port

from tests.waiting import until

pytestmark = pytest.mark.leaks_allowed       # servers for the module

MIDDLEWARE = '''
class Middleware:
    """Counts itself in what it gives, and may change what it takes."""
    def __init__(self, wsgi):
        self.wsgi = wsgi

    def __call__(self, environ, start_response):
        def start(status, headers, exc_info=None):
            return start_response(status, [*headers, ("X-Middleware", environ.get("HTTP_HOST", "-"))])
        if "HTTP_X_EDIT" in environ:
            environ["HTTP_X_EDIT"] = "edited"
            environ["HTTP_X_ADDED"] = "added"
            environ.pop("HTTP_X_REMOVED", None)
        if environ["PATH_INFO"].startswith("/inner"):
            environ["PATH_INFO"] = environ["PATH_INFO"][6:]
        return self.wsgi(environ, start)
'''
KINDS = {
    "none": "",
    "inside": "application.wsgi_app = Middleware(application.wsgi_app)\n",
    "outside": "application = Middleware(application)\n",
    "both": "application.wsgi_app = Middleware(application.wsgi_app)\napplication = Middleware(application)\n",
    "function": "def application(environ, start, inner=Middleware(application)):\n    return inner(environ, start)\n",
    "class": '''
from flask import Flask
call = Flask.__call__
def patched(self, environ, start_response):
    return Middleware(lambda *arguments: call(self, *arguments))(environ, start_response)
Flask.__call__ = patched
''',
    "later": '''
from flask import Blueprint
class Late:
    pass
def put(*_):
    if not isinstance(application.wsgi_app, Middleware):
        application.wsgi_app = Middleware(application.wsgi_app)
    return {}
application.before_request_funcs.setdefault(None, []).append(lambda: (put(), None)[1])
''',
}
WRAPPED = [kind for kind in KINDS if kind != "none"]

VIEW = '''
from flask import Blueprint, request
views = Blueprint("views", __name__)

@views.route("/view", methods=["GET", "POST"])
def view():
    return {"body": request.get_data(as_text=True), "edit": request.headers.get("X-Edit", "")}
'''

CONFIG = '''
[gateway]
views = ["shown"]
admin = "127.0.0.1:{admin}"
log = "off"

[upstreams.u]
instances = ["http://127.0.0.1:{upstream}"]

[[routes]]
path = "/respond"
respond = {{ text = "told" }}

[[routes]]
path = "/up/{{rest:path}}"
upstream = "u"
websocket = true

[[routes]]
path = "/cached"
upstream = "u"
cache = {{ ttl = "1h" }}

[[routes]]
path = "/slow"
upstream = "u"
timeout = "300ms"
'''


class Upstream:
    """What a raw upstream saw and may be told."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.go, self.ended = Event(), Event()

    def __call__(self, sock, address):
        with sock, sock.makefile("rb") as reader:
            head = b"".join(iter(reader.readline, b"\r\n"))
            self.heads.append(head)
            if b" /up/stream " in head:
                sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                self.go.wait()
                sock.sendall(b"4\r\nlast\r\n0\r\n\r\n")
            elif b" /up/socket " in head:
                sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
                             b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
                while data := reader.read1(100):
                    sock.sendall(data)
            elif b" /slow " in head or b" /up/hang " in head:
                reader.read()
                self.ended.set()
            elif b" /up/echo" in head:
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                body = reader.read(length)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
            else:
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nup")


@pytest.fixture(scope="module")
def upstream():
    handler = Upstream()
    server = StreamServer(("127.0.0.1", 0), handler)
    server.start()
    handler.port = server.server_port
    yield handler
    server.stop(timeout=0)


@pytest.fixture(scope="module", params=KINDS)
def instance(request, tmp_path_factory, upstream):
    place = tmp_path_factory.mktemp(request.param)
    (place / "shown.py").write_text(VIEW)
    admin = free_port()
    made = Plain(place, config=CONFIG.format(admin=admin, upstream=upstream.port),
                 application=GATEWAY + MIDDLEWARE + KINDS[request.param])
    made.kind, made.admin = request.param, admin
    made.started()
    made.address = made.port
    if request.param == "later":
        assert ask(made.address, get("/view"))[0] == 200     # its first request puts it there
    yield made
    made.stop()


def get(path: str, *lines: str, method: str = "GET", body: bytes = b"") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a.test", "Connection: close", *lines, "", ""]).encode() + body


def through(instance, fields) -> None:
    """The middleware has seen the answer; both have, where there are two."""
    seen = [value for name, value in fields if name == "X-Middleware"]
    assert len(seen) == {"none": 0, "both": 2}.get(instance.kind, 1)


@pytest.mark.parametrize("path, status, body", [
    ("/respond", 200, b"told"), ("/up/x", 200, b"up"), ("/view", 200, b'{"body":"","edit":""}\n'), ("/nothing", 404, None),
    ("/respond?a=b%2F", 200, b"told"), ("/cached", 200, b"up"), ("/cached", 200, b"up"), ("/slow", 504, None)])
def test_every_request_goes_through_it(instance, path, status, body):
    answer = ask(instance.address, get(path))
    assert answer[0] == status and body in (None, answer[2])
    through(instance, answer[1])


def test_head_and_bodies(instance):
    assert ask(instance.address, get("/respond", method="HEAD"))[2] == b""
    for path in ("/view", "/up/echo"):
        answer = ask(instance.address, get(path, "Content-Length: 5", method="POST", body=b"hello"))
        assert answer[0] == 200 and b"hello" in answer[2]
        through(instance, answer[1])
    chunks = get("/view", "Transfer-Encoding: chunked", method="POST", body=b"5\r\nhello\r\n0\r\n\r\n")
    assert b"hello" in ask(instance.address, chunks)[2]


def test_what_is_stored_is_served_and_counted(instance, upstream):
    ask(instance.address, get("/cached"))
    before = len(upstream.heads)
    answer = ask(instance.address, get("/cached"))
    assert len(upstream.heads) == before and "hit" in field(answer[1], "Cache-Status")


def test_a_stream_comes_piece_by_piece(instance, upstream):
    upstream.go.clear()
    with socket.create_connection(("127.0.0.1", instance.address), timeout=30) as client:
        client.sendall(get("/up/stream"))
        data = b""
        while b"first" not in data:
            data += client.recv(65536)
        upstream.go.set()
        while piece := client.recv(65536):
            data += piece
    assert data.endswith(b"4\r\nlast\r\n0\r\n\r\n")


def test_a_websocket(instance):
    with socket.create_connection(("127.0.0.1", instance.address), timeout=30) as client:
        client.sendall(b"GET /up/socket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += client.recv(65536)
        assert data.startswith(b"HTTP/1.1 101")
        client.sendall(b"ping")
        assert client.recv(65536) == b"ping"


def test_a_client_that_leaves_is_noticed(instance, upstream):
    upstream.ended.clear()
    with socket.create_connection(("127.0.0.1", instance.address), timeout=30) as client:
        heads = len(upstream.heads)
        client.sendall(get("/up/hang"))
        until(lambda: len(upstream.heads) > heads)
    assert upstream.ended.wait(30)


def test_what_cannot_be_read_as_a_request_is_answered_by_the_gateway(instance):
    answer = ask(instance.address, b"GET / HTTP/9.9\r\n\r\n")
    assert answer[0] == 400 and json.loads(answer[2])["code"] == "bad_request"


@pytest.mark.parametrize("target", ["/respond#a", "/respond?a#b", "/up/x#", "http://a/respond#a"])
def test_a_target_that_is_none_is_refused(instance, target):
    answer = ask(instance.address, get(target))
    assert answer[0] == 400 and json.loads(answer[2])["code"] == "invalid_target"


def test_what_it_changes_counts(instance, upstream):
    answer = ask(instance.address, get("/up/x", "X-Edit: sent", "X-Removed: sent", "X-Kept: a", "x-kept: b"))
    assert answer[0] == 200
    head = upstream.heads[-1]
    if instance.kind == "none":
        assert b"X-Edit: sent\r\n" in head and b"X-Removed: sent\r\n" in head and b"dded" not in head
    else:
        assert b"X-Edit: edited\r\n" in head and b"X-Added: added\r\n" in head and b"emoved" not in head
    assert b"X-Kept: a\r\nx-kept: b\r\n" in head                         # as it was received
    assert ask(instance.address, get("/inner/respond"))[0] == (404 if instance.kind == "none" else 200)
    assert ask(instance.address, get("/inner/up/a%2Fb"))[0] == (404 if instance.kind == "none" else 200)


def test_the_admin_listener_answers_and_requests_are_counted(instance):
    ask(instance.address, get("/respond"))

    def shown(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{instance.admin}{path}", timeout=30) as answer:
            return answer.read().decode()

    assert json.loads(shown("/readyz"))["ready"] is True
    assert "path /respond" in shown("/routes") or "/respond" in shown("/routes")
    assert 'gateway_requests_total{' in shown("/metrics")
    assert "/respond" in shown("/metrics")


def test_the_admin_listener_of_another_application(tmp_path):
    """It tells of the instance what there is to tell."""
    admin = free_port()
    instance = Plain(tmp_path, config=f'[gateway]\nadmin = "127.0.0.1:{admin}"\n').started()
    try:
        assert ask(admin, b"GET /readyz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")[0] == 200
        assert b"gateway_build_info" in ask(admin, b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")[2]
        assert ask(admin, b"GET /routes HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")[0] == 404
    finally:
        instance.stop()
