"""A route's response_headers are on every answer of the route, each once: whoever made it, and whichever step it came from."""

from __future__ import annotations

import gevent
import pytest
from flask import Blueprint, abort

from gateway.app import Gateway
from gateway.configfile.load import load_text
from gateway.message import Request

RULES = '''response_headers = { set = { Access-Control-Allow-Origin = "https://shop.test", Cache-Control = "max-age=9", \
Content-Type = "text/x" }, add = { Vary = "Origin" }, remove = ["X-Content-Type-Options", "ETag"] }
'''
CONFIG = f'''
[gateway]
log = "off"
[upstreams.fine]
instances = ["http://127.0.0.1:%(port)d"]
[upstreams.off]
instances = ["http://127.0.0.1:1"]
[upstreams.silent]
instances = ["http://127.0.0.1:%(port)d"]
timeout = "50ms"
[[routes]]
path = "/fine"
upstream = "fine"
{RULES}
[[routes]]
path = "/off"
upstream = "off"
{RULES}
[[routes]]
path = "/silent"
upstream = "silent"
{RULES}
[[routes]]
path = "/late/silent"
upstream = "fine"
timeout = "50ms"
{RULES}
[[routes]]
path = "/cached"
upstream = "fine"
cache = {{ ttl = "60s" }}
{RULES}
[[routes]]
path = "/cached/off"
upstream = "off"
cache = {{ ttl = "60s" }}
{RULES}
[[routes]]
path = "/limited"
upstream = "fine"
max_body = "1KB"
{RULES}
[[routes]]
path = "/limited/cached"
upstream = "fine"
max_body = "1KB"
cache = {{ methods = ["GET", "POST"] }}
{RULES}
[[routes]]
path = "/respond"
respond = {{ text = "hi" }}
{RULES}
[[routes]]
path = "/composed"
aggregate = {{ part = "off:/x" }}
{RULES}
[[routes]]
path = "/files/*"
files = "%(folder)s"
{RULES}
[[routes]]
path = "/view/*"
view = true
{RULES}
[[routes]]
path = "/view/late"
view = true
timeout = "50ms"
{RULES}
[[routes]]
path = "/plain"
upstream = "off"
'''


VIEWS = {"fine": lambda: "ok", "defect": lambda: 1 / 0, "abort": lambda: abort(409), "late": lambda: str(gevent.sleep(20)),
         "malformed": lambda: ("", 200, {"X": "\u20ac"})}


def upstream(sock, address):
    with sock, sock.makefile("rb") as reader:
        while line := reader.readline():
            path = line.split(b" ")[1]
            while reader.readline() not in (b"\r\n", b""):
                pass
            if path.endswith(b"silent"):
                reader.read()                            # until whoever asked gives up
                return
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: x\r\nVary: Accept\r\n\r\nok")


@pytest.fixture
def client(serve, tmp_path):
    app = Gateway(load_text(CONFIG % {"port": serve(upstream), "folder": tmp_path}, {}, "test"))
    (tmp_path / "there").write_text("x")
    views = Blueprint("views", __name__)
    for path, view in VIEWS.items():
        views.add_url_rule(f"/view/{path}", path, view)
    app.register_blueprint(views)
    yield app.test_client()
    app.pipeline.close()


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/fine", 200), ("GET", "/off", 502), ("GET", "/silent", 504), ("GET", "/late/silent", 504), ("GET", "/cached", 200),
    ("GET", "/cached/off", 502), ("POST", "/limited", 413), ("POST", "/limited/cached", 413), ("GET", "/respond", 200),
    ("GET", "/composed", 502), ("GET", "/files/there", 200), ("GET", "/files/none", 404), ("POST", "/files/there", 405),
    ("GET", "/view/fine", 200), ("GET", "/view/defect", 500), ("GET", "/view/abort", 409), ("GET", "/view/malformed", 500),
    ("GET", "/view/late", 504), ("GET", "/view/nothing", 404)])
def test_the_routes_fields_are_on_every_answer(client, method, path, status):
    for _ in range(2):                                       # the second out of the cache, where there is one
        answer = client.open(path, method=method, data=b"x" * 2000 if method == "POST" else None)
        assert answer.status_code == status
        assert answer.headers.getlist("Access-Control-Allow-Origin") == ["https://shop.test"]
        assert ",".join(answer.headers.getlist("Vary")).split(",").count("Origin") == 1
        assert "X-Content-Type-Options" not in answer.headers and "ETag" not in answer.headers


@pytest.mark.parametrize("path", ["/off", "/silent", "/cached/off", "/composed", "/view/defect", "/files/none"])
def test_an_error_is_not_taken_for_the_routes_content(client, path):
    answer = client.get(path)
    assert (answer.headers["Cache-Control"], answer.headers["Content-Type"]) == ("no-store", "application/problem+json")


@pytest.mark.parametrize("path, status", [("/plain", 502), ("/nowhere", 404)])
def test_there_are_no_fields_of_other_routes(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status and "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("method, path, headers, status", [
    ("GET", "/fine", [("Authorization", "a"), ("Authorization", "b")], 400), ("GET", "/fine", [("Host", "a b")], 400),
    ("TRACE", "/fine", [], 405)])
def test_who_is_refused_before_the_route_is_looked_for_gets_them_too(client, method, path, headers, status):
    """A browser hides what it has no fields for, whoever answers."""
    request = Request(method, path, [("Host", "shop.test"), *headers], host=dict(headers).get("Host", "shop.test"), peer="10.0.0.9")
    request.environ = {"HTTP_AUTHORIZATION": "a,b", "SERVER_PROTOCOL": "HTTP/1.1"}
    answer = client.application.pipeline.handle(request)
    assert (answer.status, answer.header("Access-Control-Allow-Origin")) == (status, "https://shop.test")


@pytest.mark.parametrize("path, origin", [("/fine", "https://shop.test"), ("/plain", ""), ("/nowhere", ""), ("*", "")])
def test_the_last_hop_of_an_options_request_gives_them_too(client, path, origin):
    request = Request("OPTIONS", path, [("Host", "shop.test"), ("Max-Forwards", "0")], host="shop.test", peer="10.0.0.9")
    request.environ = {"SERVER_PROTOCOL": "HTTP/1.1"}
    answer = client.application.pipeline.handle(request)
    assert (answer.status, answer.header("Access-Control-Allow-Origin")) == (200, origin) and answer.header("Allow")
