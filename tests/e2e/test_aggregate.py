"""A composition in a real gateway: who its parts are told has asked, which methods it answers, what the log says of a late part."""

from __future__ import annotations

import json
import socket

import pytest
from gevent.server import StreamServer
from running import Recorder, Running, ask, field

from tests.waiting import until

CONFIG = """
[gateway]
trust = ["127.0.0.1/32"]

[upstreams.users]
instances = ["http://127.0.0.1:{users}"]

[upstreams.silent]
instances = ["http://127.0.0.1:{silent}"]

[[routes]]
path = "/page/{{id}}"
[routes.aggregate]
user = "users:/users/{{id}}"
team = {{ from = "users:/teams/{{user.team}}", forward_headers = [] }}
late = {{ from = "silent:/", timeout = "100ms", optional = true }}

[[routes]]
path = "/orders"
methods = ["POST"]
[routes.aggregate]
placed = {{ from = "users:/orders", method = "POST", json = {{ sku = "{{body.sku}}" }} }}
"""
ANSWER = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"team":3}'


@pytest.fixture(scope="module")
def users():
    recorder = Recorder(ANSWER)
    server = StreamServer(("127.0.0.1", 0), recorder)
    server.start()
    recorder.port = server.server_port
    yield recorder
    server.stop(timeout=0)


@pytest.fixture(scope="module")
def gateway(users, tmp_path_factory):
    with socket.socket() as silent:                      # connections are taken by the system, and never by anybody else
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        running = Running(tmp_path_factory.mktemp("gateway"), CONFIG.format(users=users.port, silent=silent.getsockname()[1]))
        yield running
        assert running.stop() == 0


@pytest.fixture(autouse=True)
def fresh(users):
    users.heads.clear()
    users.bodies.clear()


def get(target, method="GET", headers="", body=b""):
    return f"{method} {target} HTTP/1.1\r\nHost: shop.test:8000\r\nConnection: close\r\n{headers}\r\n".encode() + body


def last_line(running):
    """The line of the last request, which is written a moment after the answer."""
    lines = until(lambda: running.log.exists() and running.log.read_text().splitlines()[last_line.seen:], "a line is logged")
    last_line.seen += len(lines)
    return json.loads(lines[-1])


last_line.seen = 0


def test_parts_are_told_who_asked_and_a_late_one_is_called_late(gateway, users):
    status, fields, body = ask(gateway.port, get("/page/7", headers=(
        "X-Forwarded-For: 10.9.8.7\r\nX-Forwarded-Proto: https\r\nX-Request-Id: chosen-id-1\r\nVia: 1.0 edge\r\nCookie: a=1\r\n")))
    assert (status, json.loads(body)) == (200, {"user": {"team": 3}, "team": {"team": 3}, "late": None})
    assert field(fields, "X-Partial") == "late"
    assert [users.line(0), users.line(1)] == [b"GET /users/7 HTTP/1.1", b"GET /teams/3 HTTP/1.1"]
    told = {"X-Forwarded-For": "10.9.8.7, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.test:8000",
            "X-Forwarded-Port": "8000", "Via": "1.0 edge, 1.1 wicketgate", "X-Request-Id": "chosen-id-1"}
    for index in (0, 1):
        assert {name: field(users.fields(index), name) for name in told} == told
        assert "for=127.0.0.1" in field(users.fields(index), "Forwarded")
    assert [field(users.fields(index), "Cookie") for index in (0, 1)] == ["a=1", None]
    line = last_line(gateway)
    assert line["notes"]["parts"]["late"] == "UT"
    assert [attempt["flag"] for attempt in line["attempts"] if attempt["upstream"] == "silent"] == ["UT"]


@pytest.mark.parametrize("method, target, status, allow", [
    ("HEAD", "/page/7", 200, None), ("DELETE", "/page/7", 405, "GET, HEAD"), ("POST", "/page/7", 405, "GET, HEAD"),
    ("GET", "/orders", 405, "POST")])
def test_a_composition_answers_only_its_methods(gateway, users, method, target, status, allow):
    answered, fields, body = ask(gateway.port, get(target, method))
    assert (answered, field(fields, "Allow")) == (status, allow)
    assert bool(users.heads) == (status == 200) and (method != "HEAD" or body == b"")
    assert last_line(gateway)["status"] == status


def test_a_composition_that_does_more_takes_the_body(gateway, users):
    status, _, body = ask(gateway.port, get("/orders", "POST", "Content-Length: 11\r\n", b'{"sku":"a"}'))
    assert (status, body, users.bodies) == (200, b'{"placed":{"team":3}}', [b'{"sku":"a"}'])
    assert last_line(gateway)["status"] == 200
