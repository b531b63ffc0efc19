"""nginx as the outer tier of the cache, with a real nginx: what it keeps, for whom, and what never."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys

import gevent
import gevent.event
import pytest
from running import ROOT, Recorder, Running, ask, field

from gateway.cache.purging.nginx_generation import Generation
from gateway.config import Nginx
from gateway.configfile.load import load_text
from gateway.errors import ConfigError
from gateway.nginx.configuration import render
from tests.e2e.test_nginx import config, exchange, fields, folder, get, instance, nginx  # noqa: F401
from tests.waiting import SAFETY, until

EDGE = {"path": "/public/*", "upstream": "legacy", "cache": {"edge": "10s"}}


def kept(seconds: str = "10", more: str = "", status: str = "200 OK", body: bytes | None = None):
    """An instance's answer that differs each time, with what the gateway says to nginx."""
    count = iter(range(1, 10 ** 6))

    def answer(sock, head: bytes) -> None:
        text = body if body is not None else str(next(count)).encode()
        said = f"X-Accel-Expires: {seconds}\r\n" if seconds else ""
        sock.sendall(f"HTTP/1.1 {status}\r\n{said}{more}X-Request-Id: of-gateway\r\nContent-Length: {len(text)}\r\n\r\n".encode()
                     + (b"" if head.startswith(b"HEAD") else text))

    return answer


def bodies(port: int, *requests: bytes) -> list[bytes]:
    return [exchange(port, request).partition(b"\r\n\r\n")[2] for request in requests]


@pytest.fixture
def edge(nginx, instance):  # noqa: F811
    """``edge(answer, *routes)`` is nginx's port before an instance with that answer, and the heads the instance received."""
    def start(answer=None, *routes):
        backend, heads = instance(answer or kept())
        return nginx([backend], config(routes or [EDGE])), heads
    return start


# -- the text

def test_without_an_edge_there_is_no_cache():
    text = render(config([{"path": "/*", "upstream": "legacy", "cache": {"ttl": "1s"}}]))
    assert "proxy_cache" not in text and "wicketgate_own {" not in text


@pytest.mark.parametrize("routes, keys", [
    ([EDGE], [""]),
    ([{**EDGE, "cache": {"edge": "1s", "key": {"headers": ["X-Device", "accept-language"]}}}],
     [" $http_accept_language $http_x_device"]),
    ([EDGE, {"path": "/public/x", "upstream": "legacy", "header": {"X-Beta": "1"}}], [" $http_x_beta"]),
    ([EDGE, {**EDGE, "path": "/b"}], ["", ""]),
    ([{**EDGE, "host": "a.test"}, {**EDGE, "host": "b.test", "cache": {"edge": "1s", "key": {"headers": ["X-A"]}}}],
     [" $http_x_a"]),
    ([{"path": "/c", "cache": {"edge": "1s", "ttl": "5s"},
       "aggregate": {"p": {"from": "legacy:/{header.X-Shop}", "headers": {"X-P": "{header.X-Q}"}}}}],
     [" $http_accept_language $http_x_q $http_x_shop"]),
])
def test_the_key_has_what_answers_depend_on(routes, keys):
    found = re.findall(r'proxy_cache_key "\$scheme://\$wicketgate_host\$request_uri(.*)";', render(config(routes)))
    assert found == keys


def test_a_field_that_nginx_cannot_look_at_is_a_mistake():
    with pytest.raises(ConfigError, match="x!odd"):
        render(config([{**EDGE, "cache": {"edge": "1s", "key": {"headers": ["X!Odd"]}}}]))


@pytest.mark.parametrize("purges, said", [(None, 0), ("/run/purges", 1), ("/run/purges/", 1)])
def test_the_generation_is_in_the_key_where_purges_change_it(purges, said):
    text = render(config([EDGE]).model_copy(update={"nginx": Nginx(purges=purges)}))
    assert text.count("root /run/purges/current;") == said
    assert text.count('$request_uri $wicketgate_generation";') == said and text.count("$wicketgate_unseen;") == 2 * said


def test_never_for_what_is_kept_by_caller():
    text = render(config([{**EDGE, "cache": {"edge": "1s", "vary_by_caller": True}}]))
    assert "proxy_cache" not in text


@pytest.mark.parametrize("standalone", [True, False])
def test_nginx_accepts_it(require, folder, standalone):  # noqa: F811
    routes = [EDGE, {"path": '/a"b\\c{2}', "upstream": "legacy", "cache": {"edge": "1500ms"}}, {**EDGE, "path": "/{name}/x"},
              {"path": "/ws", "upstream": "legacy", "websocket": True}]
    text = render(config(routes), standalone=standalone)
    if not standalone:
        text = text.replace("/var/log/nginx/", "").replace("/var/cache/", "")
        text = f"pid nginx.pid;\nevents {{}}\nhttp {{\n{text}\n}}\n"
    (folder / "nginx.conf").write_text(text)
    result = subprocess.run([require("nginx"), "-t", "-p", folder, "-e", "error.log", "-c", folder / "nginx.conf"],
                            capture_output=True, text=True)
    complaints = [line for line in result.stderr.splitlines() if "[" in line and "RLIMIT_NOFILE" not in line]
    assert (result.returncode, complaints) == (0, []), result.stderr


# -- what is kept

def test_a_hot_answer_reaches_the_gateway_once(edge):
    port, heads = edge()
    assert bodies(port, *[get("/public/a")] * 50) == [b"1"] * 50
    assert len(heads) == 1
    assert bodies(port, get("/public/a?x"), get("/public/b"), get("/public/a")) == [b"2", b"3", b"1"]


def test_many_at_once_ask_once(edge):
    """The instance answers when all have sent their request."""
    sent = gevent.event.Event()

    def slow(sock, head):
        assert sent.wait(SAFETY)
        kept()(sock, head)

    port, heads = edge(slow)
    clients = [socket.create_connection(("127.0.0.1", port), timeout=SAFETY) for _ in range(30)]
    for client in clients:
        client.sendall(get("/public/a"))
    sent.set()
    for client in clients:
        with client, client.makefile("rb") as answer:
            assert answer.read().partition(b"\r\n\r\n")[2] == b"1"
    assert len(heads) == 1


def test_what_is_not_to_be_kept_does_not_queue(edge):
    """20 at once for an answer that is for nobody else. The instance gives none before it has all 20 requests."""
    def slow(sock, head):
        until(lambda: len(heads) == 20)
        kept("0")(sock, head)

    port, heads = edge(slow)
    asking = [gevent.spawn(bodies, port, get("/public/a")) for _ in range(20)]
    assert [each.get(timeout=SAFETY) for each in asking] == [[b"1"]] * 20


@pytest.mark.parametrize("target, answer", [
    ("/public/a", kept("0")), ("/public/a", kept("")), ("/public/a", kept("", "Cache-Control: public, max-age=60\r\n")),
    ("/public/a", kept("", "Expires: Fri, 01 Jan 2100 00:00:00 GMT\r\n")), ("/public/a", kept("10", "Set-Cookie: a=1\r\n")),
    ("/public/a", kept("10", "Vary: *\r\n")), ("/other", kept("10")),
], ids=["0", "nothing said", "max-age", "expires", "set-cookie", "vary *", "another route"])
def test_only_what_the_gateway_gives_away(edge, target, answer):
    port, heads = edge(answer)
    assert bodies(port, get(target), get(target)) == [b"1", b"2"] and len(heads) == 2


@pytest.mark.parametrize("headers", ["Cookie: sid=1\r\n", "Authorization: Bearer x\r\n", "Cookie: a=1\r\nAuthorization: x\r\n",
                                     "Cache-Control: no-cache\r\n", "Cache-Control: max-age=0\r\n", "Pragma: no-cache\r\n"])
def test_who_names_himself_or_wants_it_anew_goes_to_the_gateway(edge, headers):
    port, heads = edge()
    personal = get("/public/a", headers)
    assert bodies(port, personal, personal, get("/public/a"), get("/public/a"), personal) == [b"1", b"2", b"3", b"3", b"4"]
    name, _, value = headers.splitlines()[0].partition(": ")
    assert fields(heads[0], name) == [value]


@pytest.mark.parametrize("more, first, second, same", [
    ("Vary: Accept-Language\r\n", "Accept-Language: de\r\n", "Accept-Language: fr\r\n", False),
    ("Vary: Accept-Language\r\n", "Accept-Language: de\r\n", "Accept-Language: de\r\n", True),
    ("", "Accept-Language: de\r\n", "Accept-Language: fr\r\n", True),
])
def test_vary_counts(edge, more, first, second, same):
    port, _ = edge(kept("10", more))
    one, other = bodies(port, get("/public/a", first), get("/public/a", second))
    assert (one == other) is same


def test_a_field_in_the_key_keeps_answers_apart(edge):
    route = {**EDGE, "cache": {"edge": "10s", "key": {"headers": ["X-Device"]}}}
    port, _ = edge(None, route)
    phone, desk = get("/public/a", "X-Device: phone\r\n"), get("/public/a", "X-Device: desk\r\n")
    assert bodies(port, phone, desk, phone, desk, get("/public/a")) == [b"1", b"2", b"1", b"2", b"3"]


@pytest.mark.parametrize("other", [b"Host: other.test", b"Host: shop.test:81"])
def test_hosts_are_kept_apart(edge, other):
    port, _ = edge()
    request = get("/public/a")
    assert bodies(port, request, re.sub(rb"Host: [^\r]*", other, request), request) == [b"1", b"2", b"1"]


# -- what passes as if nothing were kept

def test_a_change_passes_whole(edge):
    port, heads = edge()
    request = get("/public/a", 'If-Match: "1"\r\nContent-Length: 5\r\n', method="PUT", body=b"hello")
    assert bodies(port, request, request) == [b"1", b"2"]
    assert heads[0].startswith(b"PUT /public/a HTTP/1.1") and fields(heads[0], "If-Match") == ['"1"']
    assert fields(heads[0], "Content-Length") == ["5"] and fields(heads[0], "X-Forwarded-For") == ["127.0.0.1"]


def test_a_part_is_the_gateways_to_answer(edge):
    port, heads = edge()
    bodies(port, get("/public/a", "Range: bytes=0-1\r\n"))
    assert fields(heads[0], "Range") == ["bytes=0-1"]
    assert bodies(port, get("/public/a")) == [b"2"]


def test_head_and_conditions_are_answered_from_what_is_kept(edge):
    port, heads = edge(kept("10", 'ETag: "7"\r\n'))
    assert bodies(port, get("/public/a")) == [b"1"]
    head = exchange(port, get("/public/a", method="HEAD"))
    assert head.startswith(b"HTTP/1.1 200 ") and head.endswith(b"\r\n\r\n") and fields(head, "Content-Length") == ["1"]
    assert exchange(port, get("/public/a", 'If-None-Match: "7"\r\n')).startswith(b"HTTP/1.1 304 ")
    assert len(heads) == 1 and fields(heads[0], "If-None-Match") == []


def test_each_answer_has_its_own_id_and_no_orders_for_nginx(edge):
    port, _ = edge()
    first, second = exchange(port, get("/public/a")), exchange(port, get("/public/a"))
    assert fields(first, "X-Request-Id") == ["of-gateway"]
    [own] = fields(second, "X-Request-Id")
    assert len(own) == 32
    assert b"x-accel" not in (first + second).lower()


def test_a_large_answer_and_one_of_an_application_that_gives_orders(edge):
    port, heads = edge(kept("10", "X-Accel-Redirect: /etc/passwd\r\n", body=b"x" * 300_000))
    assert bodies(port, get("/public/a"), get("/public/a")) == [b"x" * 300_000] * 2 and len(heads) == 1


def test_the_log_says_what_was_kept(edge, folder):  # noqa: F811
    port, _ = edge()
    bodies(port, get("/public/a"), get("/public/a"), get("/other"))
    log = folder / "access.log"
    until(lambda: log.exists() and len(log.read_text().splitlines()) == 3)
    caches = [json.loads(line)["cache"] for line in log.read_text().splitlines()]
    assert sorted(caches) == ["", "HIT", "MISS"]         # in any order: each worker of nginx writes when its buffer is due


# -- expired, and gone

@pytest.mark.parametrize("successor", [
    kept("0", body=b"new"), kept("10", "Set-Cookie: a=1\r\n", body=b"new")], ids=["0", "set-cookie"])
def test_what_has_expired_is_not_served_when_its_successor_may_not_be_kept(edge, successor):
    """Asked for without a pause, one after the other and many at once."""
    def answer(sock, head):
        if len(heads) == 1:
            return kept("1", body=b"old")(sock, head)
        gevent.sleep(0.05)                               # the others come meanwhile; nothing depends on it
        successor(sock, head)

    port, heads = edge(answer)
    assert bodies(port, get("/public/a")) == [b"old"]
    until(lambda: bodies(port, get("/public/a")) == [b"new"])
    assert bodies(port, *[get("/public/a")] * 10) == [b"new"] * 10
    asking = [gevent.spawn(bodies, port, *[get("/public/a")] * 3) for _ in range(8)]
    assert [each.get(timeout=SAFETY) for each in asking] == [[b"new"] * 3] * 8


def test_what_has_expired_is_kept_anew(edge):
    def answer(sock, head):
        kept("1" if len(heads) == 1 else "60", body=str(len(heads)).encode())(sock, head)

    port, heads = edge(answer)
    assert bodies(port, get("/public/a")) == [b"1"]
    until(lambda: bodies(port, get("/public/a")) == [b"2"])
    assert bodies(port, *[get("/public/a")] * 10) == [b"2"] * 10 and len(heads) == 2


def test_while_no_instance_answers_what_is_kept_is_served_to_its_end(nginx, serve):  # noqa: F811
    """Then, and where there is nothing, it is a 502 in the gateway's words."""
    alive = [True]

    def handle(sock, address):
        if alive[0] and (head := sock.recv(65536)):
            kept("600" if b"/public/long" in head else "1")(sock, b"GET")
        sock.close()

    port = nginx([serve(handle)], config([EDGE]))
    assert bodies(port, get("/public/long"), get("/public/a")) == [b"1", b"1"]
    alive[0] = False
    until(lambda: exchange(port, get("/public/a")).startswith(b"HTTP/1.1 502 "))
    for target in ("/public/a", "/public/never"):
        head, _, body = exchange(port, get(target)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 502 ") and json.loads(body)["code"] == "gateway_unavailable"
    assert bodies(port, get("/public/long")) == [b"1"]


# -- with the gateway itself

def test_end_to_end(serve, nginx, tmp_path):  # noqa: F811
    upstream = Recorder(b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\nContent-Type: text/plain\r\n"
                        b"Content-Length: 2\r\n\r\nok")
    legacy = Recorder(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\nhello")
    private = Recorder(b"HTTP/1.1 200 OK\r\nCache-Control: private, max-age=60\r\nContent-Length: 2\r\n\r\nme")
    text = f"""
        [gateway]
        trust = ["127.0.0.1/32"]
        [upstreams.shop]
        instances = ["http://127.0.0.1:{serve(upstream)}"]
        [upstreams.account]
        instances = ["http://127.0.0.1:{serve(private)}"]
        [upstreams.legacy]
        instances = ["http://127.0.0.1:{serve(legacy)}"]
        [[routes]]
        path = "/legacy/*"
        upstream = "legacy"
        cache = {{ edge = "10s" }}
        [[routes]]
        path = "/*"
        upstream = "shop"
        cache = {{ edge = "10s" }}
        [[routes]]
        path = "/account/*"
        upstream = "account"
        cache = {{ edge = "10s" }}
    """
    gateway = Running(tmp_path, text)
    try:
        port = nginx([gateway.port], load_text(text, {}))
        for _ in range(20):
            assert exchange(port, get("/a")).endswith(b"\r\n\r\nok")
            assert exchange(port, get("/account/a.css")).endswith(b"\r\n\r\nme")
        assert len(upstream.heads) == 1 and len(private.heads) == 20
        assert exchange(port, get("/a", "Cookie: a=1\r\n")).endswith(b"ok")
        lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
        assert sum(line["target"] == "/a" for line in lines if "target" in line) <= 2, "a hot answer never reaches Python"
        status, head, _ = ask(gateway.port, b"GET /a HTTP/1.1\r\nHost: Shop.Test:8000\r\nConnection: close\r\n\r\n")
        assert status == 200 and 0 < int(field(head, "X-Accel-Expires") or 0) <= 10
        _, head, _ = ask(gateway.port, b"GET /legacy/b HTTP/1.1\r\nHost: Shop.Test:8000\r\nCookie: sid=1\r\n"
                                       b"Connection: close\r\n\r\n")
        assert field(head, "X-Accel-Expires") == "0", "it may be another page with a cookie"
        for cookie in ("", "Cookie: sid=1\r\n", "Cookie: sid=2\r\n") * 2:
            assert exchange(port, get("/legacy/a", cookie)).endswith(b"hello")
        assert len(legacy.heads) == 6, "one for strangers, whom nginx answers, and each of those with a cookie"
    finally:
        gateway.stop()


def kept_at_the_edge(port: int, edge: str) -> str:
    """A configuration for an upstream at that port."""
    return f"""
        [gateway]
        trust = ["127.0.0.1/32"]
        [upstreams.shop]
        instances = ["http://127.0.0.1:{port}"]
        [[routes]]
        path = "/*"
        upstream = "shop"
        cache = {{ edge = "{edge}" }}
    """


def test_a_purge_reaches_nginx_when_the_edge_has_passed(serve, nginx, tmp_path):  # noqa: F811
    """Kept for a second here and for an hour in the gateway, which alone hears of the purge."""
    upstream = Recorder(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nContent-Length: 3\r\n\r\nold")
    text = kept_at_the_edge(serve(upstream), "1s")
    gateway = Running(tmp_path, text)
    try:
        port = nginx([gateway.port], load_text(text, {}))
        assert exchange(port, get("/a")).endswith(b"\r\n\r\nold")
        assert fields(exchange(gateway.port, get("/b")), "X-Accel-Expires") == ["1"]
        upstream.answer = upstream.answer.replace(b"old", b"new")
        body = b'{"everything": true}'
        purge = b"POST /cache/purge HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        assert ask(gateway.admin, purge % len(body) + body)[0] == 200
        until(lambda: exchange(port, get("/a")).endswith(b"\r\n\r\nnew"))
        for _ in range(10):
            assert exchange(port, get("/a")).endswith(b"\r\n\r\nnew")
    finally:
        gateway.stop()


@pytest.mark.parametrize("control", [
    "public, s-maxage=3, stale-while-revalidate=600", "public, max-age=3, must-revalidate, stale-while-revalidate=600",
    "max-age=3, stale-while-revalidate=600\r\nCDN-Cache-Control: max-age=3"], ids=["s-maxage", "must-revalidate", "targeted"])
def test_nginx_does_not_serve_what_has_expired_where_the_gateway_would_not(serve, nginx, tmp_path, control):  # noqa: F811
    """nginx reads the windows in Cache-Control, and nothing of what takes them back."""
    said = f"HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nContent-Length: 3\r\n\r\nold".encode()
    upstream = Recorder(said)
    text = kept_at_the_edge(serve(upstream), "10s")
    gateway = Running(tmp_path, text)
    try:
        port = nginx([gateway.port], load_text(text, {}))
        assert exchange(port, get("/a")).endswith(b"\r\n\r\nold")
        upstream.answer = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 3\r\n\r\nnew"
        until(lambda: exchange(port, get("/a")).endswith(b"\r\n\r\nnew"))
        for _ in range(10):
            assert exchange(port, get("/a")).endswith(b"\r\n\r\nnew")
    finally:
        gateway.stop()


def test_what_has_expired_is_served_while_it_is_renewed_as_long_as_the_answer_allows(edge):
    """One request fetches it anew, beside those who get the old one."""
    go_on = gevent.event.Event()

    def answer(sock, head):
        if len(heads) > 1:
            assert go_on.wait(SAFETY)
        sock.sendall(b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=1, stale-while-revalidate=600\r\nX-Accel-Expires: %d\r\n"
                     b"Content-Length: 1\r\n\r\n%d" % (1 if len(heads) == 1 else 600, len(heads)))

    def body() -> bytes:
        """Of whoever triggers the renewal nginx closes the connection only after it."""
        with gevent.socket.create_connection(("127.0.0.1", port), timeout=SAFETY) as client:
            client.sendall(get("/public/a"))
            data = b""
            while not data.partition(b"\r\n\r\n")[2]:
                data += client.recv(65536)
            return data[-1:]

    port, heads = edge(answer)
    assert body() == b"1"
    until(lambda: body() == b"1" and len(heads) == 2)
    assert [body() for _ in range(10)] == [b"1"] * 10 and len(heads) == 2
    go_on.set()
    until(lambda: bodies(port, get("/public/a")) == [b"2"])
    assert len(heads) == 2


def test_an_answer_that_allows_it_for_some_seconds_is_not_served_for_ever(edge):
    """Its successor may not be kept; it is asked for without a pause."""
    def answer(sock, head):
        said = b"1" if len(heads) == 1 else b"0"
        sock.sendall(b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=1, stale-while-revalidate=2\r\nX-Accel-Expires: " + said
                     + b"\r\nContent-Length: 3\r\n\r\n" + (b"old" if len(heads) == 1 else b"new"))

    port, heads = edge(answer)
    assert bodies(port, get("/public/a")) == [b"old"]
    until(lambda: bodies(port, get("/public/a")) == [b"new"])
    assert bodies(port, *[get("/public/a")] * 20) == [b"new"] * 20


def test_nothing_is_kept_of_which_the_gateway_says_nothing(edge):
    port, heads = edge(kept("", "Cache-Control: public, max-age=600\r\n"))
    assert bodies(port, *[get("/public/a")] * 3) == [b"1", b"2", b"3"]


def test_what_the_gateway_says_first_goes_before_cache_control(edge):
    """An operator may keep what the application calls private."""
    port, heads = edge(kept("10", "Cache-Control: no-cache, private\r\n"))
    assert bodies(port, *[get("/public/a")] * 3) == [b"1"] * 3


# -- purges reach it, by a generation in the key

PURGED = """
[gateway]
trust = ["127.0.0.1/32"]
[nginx]
purges = "{folder}"
[upstreams.shop]
instances = ["http://127.0.0.1:{upstream}"]
[[routes]]
path = "/*"
upstream = "shop"
cache = {{ edge = "1h", tags = ["t"] }}
[[routes]]
path = "/change"
upstream = "shop"
"""


def said(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=86400\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture
def purged(serve, nginx, tmp_path, folder):  # noqa: F811
    """``purged(workers)`` is (gateway, nginx's port, the upstream), with a folder for generations at ``folder / "purges"``."""
    running = []

    def start(workers: int = 1):
        upstream = Recorder(said(b"old"))
        text = PURGED.format(folder=folder / "purges", upstream=serve(upstream))
        gateway = Running(tmp_path, text, workers=workers)
        running.append(gateway)
        return gateway, nginx([gateway.port], load_text(text, {})), upstream

    yield start
    for gateway in running:
        gateway.stop()


def purge(gateway: Running, **what: object) -> None:
    body = json.dumps(what).encode()
    head = b"POST /cache/purge HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    assert ask(gateway.admin, head % len(body) + body)[0] == 200


@pytest.mark.parametrize("what", [
    {"url": "http://shop.test:8000/a"}, {"url": "/a"}, {"prefix": "/"}, {"tag": "t"}, {"everything": True},
    {"everything": True, "soft": True}], ids=str)
def test_a_purge_reaches_what_nginx_keeps_for_an_hour(purged, what):
    gateway, port, upstream = purged()
    assert bodies(port, *[get("/a")] * 3) == [b"old"] * 3
    upstream.answer = said(b"new")
    assert bodies(port, get("/a")) == [b"old"] and len(upstream.heads) == 1
    purge(gateway, **what)
    until(lambda: bodies(port, get("/a")) == [b"new"])
    until(lambda: (len(upstream.heads), bodies(port, *[get("/a")] * 10)) == (2, [b"new"] * 10))


def test_a_purge_reaches_it_whichever_worker_was_told(purged):
    """A worker that has not heard yet answers with what is old, and nginx keeps that, until this worker hears too."""
    gateway, port, upstream = purged(3)
    for number in range(5):
        upstream.answer = said(b"%d" % number)
        purge(gateway, everything=True)
        until(lambda: bodies(port, *[get(f"/{each}") for each in range(20)]) == [b"%d" % number] * 20)


def test_what_was_asked_before_a_purge_is_not_kept_when_it_comes_after_it(serve, nginx, folder, tmp_path):  # noqa: F811
    """nginx has its key by then; the answer is that of an instance which does not know of the purge."""
    go_on, asked = gevent.event.Event(), gevent.event.Event()
    count = iter(range(1, 100))

    def handle(sock, address):
        while head := sock.recv(65536):
            number = next(count)
            asked.set()
            assert number > 1 or go_on.wait(SAFETY)
            kept("600", body=b"%d" % number)(sock, head)

    settings = load_text(PURGED.format(folder=folder / "purges", upstream=1), {})
    generation = Generation(settings.nginx.generation)
    generation.start()
    port = nginx([serve(handle)], settings)
    first = gevent.spawn(bodies, port, get("/a"))
    assert asked.wait(SAFETY)
    assert generation.step()
    go_on.set()
    assert first.get(timeout=SAFETY) == [b"1"]
    assert bodies(port, *[get("/a")] * 5) == [b"2"] * 5


def test_a_change_by_a_client_is_no_reason_to_forget_all(purged, folder):  # noqa: F811
    gateway, port, upstream = purged()
    assert bodies(port, get("/b"), get("/a")) == [b"old"] * 2
    link = (folder / "purges" / "current").readlink()
    assert bodies(port, get("/change", "Content-Length: 1\r\n", method="POST", body=b"x")) == [b"old"]
    assert (folder / "purges" / "current").readlink() == link
    assert bodies(port, get("/b"), get("/a")) == [b"old"] * 2 and len(upstream.heads) == 3


def test_a_purge_that_does_not_reach_nginx_is_said(purged, folder):  # noqa: F811
    gateway, port, upstream = purged()
    place = folder / "purges"
    command = [sys.executable, "-m", "gateway.cli", "purge", "--everything"]
    for expected in (b"", b"nginx.purges cannot be written to"):
        asked = subprocess.run(command, capture_output=True, cwd=ROOT, env=gateway.environ, timeout=SAFETY)
        assert asked.returncode == 0 and expected in asked.stderr and bool(asked.stderr) is bool(expected), asked.stderr
        if not expected:
            place.rename(place.with_name("gone"))
            place.touch()
    assert "purges do not reach nginx" in gateway.errors.read_text()


@pytest.mark.parametrize("spoil", [
    lambda place: (place / "current").unlink(), lambda place: place.chmod(0), lambda place: place.rename(place.with_name("gone"))],
    ids=["no link", "not to be entered", "no folder"])
def test_where_nginx_does_not_see_the_generation_it_keeps_nothing(purged, folder, spoil):  # noqa: F811
    """It cannot be purged then. Back again, it is as before."""
    if os.getuid():
        pytest.skip("without root nginx has no user of its own, who could be kept out")
    gateway, port, upstream = purged()
    place = folder / "purges"
    link = (place / "current").readlink()
    assert bodies(port, *[get("/a")] * 2) == [b"old"] * 2
    spoil(place)
    for _ in range(3):
        head = exchange(port, get("/a"))
        assert fields(head, "Cache-Status")[0].startswith("wicketgate; hit"), "of the gateway"
    assert f'realpath() "{place}/current" failed' in (folder / "error.log").read_text()
    if not place.exists():
        place.with_name("gone").rename(place)
    place.chmod(0o755)
    if not (place / "current").is_symlink():
        (place / "current").symlink_to(link)
    assert len({fields(exchange(port, get("/a")), "Cache-Status")[0] for _ in range(3)}) == 1
