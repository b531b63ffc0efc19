"""How long an upload may take, and what comes after it: one rule for every kind of target (docs/deadline.md).

The clock of the deadlines is moved by the client's body, so that a slow upload takes no time.
"""

from __future__ import annotations

import io
from time import monotonic

import gevent
import pytest
from flask import Blueprint, request
from werkzeug.test import EnvironBuilder, run_wsgi_app

from gateway.app import Gateway
from gateway.configfile.load import load_text
from gateway.errors import BodyTimeout

CONFIG = '''
[gateway]
log = "off"
timeout = "TIMEOUT"
[upstreams.up]
instances = ["http://127.0.0.1:PORT"]
[[routes]]
path = "/forward/*"
upstream = "up"
[[routes]]
path = "/cached/*"
upstream = "up"
cache = { ttl = "60s", methods = ["GET", "POST"] }
[[routes]]
path = "/limited/*"
upstream = "up"
max_body = "1MB"
[[routes]]
path = "/composed/{name}"
methods = ["POST"]
[routes.aggregate]
part = { from = "up:/{name}", method = "POST", json = { a = "{body.a}" } }
[[routes]]
path = "/view/*"
view = true
'''
SMALL, LARGE = b'{"a": 1}', b'{"a": "%b"}' % (b"x" * 200_000)
TARGETS = [("forward", SMALL, True), ("forward", LARGE, True), ("forward", SMALL, False), ("cached", SMALL, True),
           ("cached", LARGE, True), ("limited", SMALL, False), ("composed", SMALL, True), ("composed", SMALL, False),
           ("view", SMALL, True), ("view", LARGE, True), ("view", SMALL, False)]


class Upload(io.RawIOBase):
    """A body in three pieces, each of which takes so many seconds; it stands still after two when it is ``stalled``."""

    def __init__(self, data, clock, seconds, stalled):
        third = len(data) // 3 + 1
        self.pieces = [data[:third], data[third:2 * third], data[2 * third:]]
        self.clock, self.seconds, self.stalled = clock, seconds, stalled

    def read1(self, size):
        if not self.pieces:
            return b""
        if self.stalled and len(self.pieces) == 1:
            raise BodyTimeout("as the worker says it")
        if self.seconds:
            self.clock[0] += self.seconds
            self.seconds = self.seconds if len(self.pieces[0]) <= size else 0.0
        piece, rest = self.pieces[0][:size], self.pieces[0][size:]
        self.pieces[:1] = [rest] if rest else []
        return piece


def upstream(sock, address):
    with sock, sock.makefile("rb") as reader:
        while line := reader.readline():
            head = []
            while (field := reader.readline()) not in (b"\r\n", b""):
                head.append(field.lower())
            length = next((int(field[15:]) for field in head if field.startswith(b"content-length:")), None)
            if length is not None:
                if len(reader.read(length)) < length:
                    return
            else:
                while size := int(reader.readline() or b"0", 16):
                    reader.read(size + 2)
                reader.readline()
            if b"/slow" in line:
                reader.read()                                # until whoever asked gives up
                return
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")


def view(name):
    request.get_data()
    if name == "slow":
        gevent.sleep(60)
    return "ok"


@pytest.fixture
def upload(serve):
    """``upload(target, name, body, sized, ...)`` is the status of the answer."""
    ahead, apps = [0.0], []

    def send(target, name, body, sized, timeout="20s", seconds=0.0, stalled=False):
        app = Gateway(load_text(CONFIG.replace("PORT", str(serve(upstream))).replace("TIMEOUT", timeout), {}, "test"))
        views = Blueprint("views", __name__)
        views.post("/view/<name>")(view)
        app.register_blueprint(views)
        apps.append(app)
        app.incoming.clock = lambda: monotonic() + ahead[0]
        environ = EnvironBuilder(f"/{target}/{name}", method="POST").get_environ()
        environ["wsgi.input"] = Upload(body, ahead, seconds, stalled)
        if sized:
            environ["CONTENT_LENGTH"] = str(len(body))
        else:
            environ["HTTP_TRANSFER_ENCODING"] = "chunked"
        answer, status, _ = run_wsgi_app(app.wsgi_app, environ)
        for _ in answer:
            pass
        return int(status[:3])

    yield send
    for app in apps:
        app.pipeline.close()


@pytest.mark.parametrize("target, body, sized", TARGETS)
def test_a_slow_upload_takes_none_of_the_time(upload, target, body, sized):
    assert upload(target, "quick", body, sized, seconds=15.0) == 200


@pytest.mark.parametrize("target, body, sized", TARGETS)
def test_a_stalled_upload_is_408(upload, target, body, sized):
    assert upload(target, "quick", body, sized, stalled=True) == 408


@pytest.mark.parametrize("target, body, sized", TARGETS)
def test_after_an_upload_the_whole_time_is_left_and_no_more(upload, target, body, sized):
    assert upload(target, "slow", body, sized, timeout="300ms", seconds=0.2) == 504
