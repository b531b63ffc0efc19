"""What a legacy application needs: bytes arrive as they were sent, both ways. Real gateway, raw sockets on both sides."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import gevent
import pytest
from running import Recorder, Running, ask, field, parse

from tests.waiting import until

CONFIG = """
[gateway]
trust = []
timeout = "60s"

[upstreams.legacy]
instances = ["http://127.0.0.1:{port}"]
host = "upstream"

[upstreams.kept]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/*"
upstream = "legacy"

[[routes]]
path = "/kept/*"
upstream = "kept"

[[routes]]
path = "/api/*"
upstream = "legacy"
strip_prefix = "/api"
rewrite_location = true
rewrite_cookies = true

[[routes]]
path = "/rules"
upstream = "legacy"
request_headers = {{ set = {{ X-Team = "blue" }}, add = {{ X-More = "2" }}, remove = ["X-Secret"] }}
response_headers = {{ set = {{ Cache-Control = "no-store" }}, remove = ["X-Powered-By"] }}

[[routes]]
path = "/moved/*"
upstream = "kept"
rewrite_location = true

[[routes]]
path = "/fixed"
respond = {{ text = "fixed" }}

[[routes]]
path = "/limited"
upstream = "legacy"
max_body = "10"
"""


@pytest.fixture(scope="module")
def upstream():
    """A recorder that lives as long as the module; a test sets its answer."""
    from gevent.server import StreamServer
    recorder = Recorder()
    server = StreamServer(("127.0.0.1", 0), recorder)
    server.start()
    recorder.port = server.server_port
    yield recorder
    server.stop(timeout=0)


@pytest.fixture(scope="module")
def gateway(upstream, tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("gateway"), CONFIG.format(port=upstream.port))
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def trusting(upstream, tmp_path_factory):
    """A gateway to which the test is a trusted proxy."""
    config = CONFIG.format(port=upstream.port).replace("trust = []", 'trust = ["127.0.0.1"]')
    running = Running(tmp_path_factory.mktemp("trusting"), config)
    yield running
    assert running.stop() == 0


@pytest.fixture(autouse=True)
def plain(upstream):
    """Each test starts with the plain answer and an empty record."""
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    upstream.heads.clear()
    upstream.bodies.clear()
    upstream.complete.clear()


pytestmark = pytest.mark.leaks_allowed      # module-wide servers: connections come and go between tests


def get(gateway, target: str, *headers: str, method: str = "GET", host: str = "shop.test") -> tuple:
    lines = "".join(f"{line}\r\n" for line in headers)
    return ask(gateway.port, f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n".encode("latin-1"))


@pytest.mark.parametrize("target", [
    "/a%2Fb", "/a//b", "//a", "/a%20b", "/a+b", "/a/./b", "/a/../b", "/%7Euser/~user", "/a%2fb?x=%2F+%20&y", "/?", "/a?",
    "/a?b?c=d", "/a;v=1/b", "/%00", "/%ff%fe", "/a?x=a%0d%0aSet-Cookie:%20y", "/a'()!*,;=:@", "/a|b^c`{}", "/a?q=\"<>\\"])
def test_target_is_sent_as_it_came(gateway, upstream, target):
    assert get(gateway, target)[0] == 200
    assert upstream.line() == f"GET {target} HTTP/1.1".encode()


@pytest.mark.parametrize("target, sent", [
    ("/api/users", "/users"), ("/api/", "/"), ("/api/a%2Fb?x=%2F", "/a%2Fb?x=%2F"), ("/api//a", "//a"), ("/api/a/../b", "/a/../b")])
def test_strip_prefix(gateway, upstream, target, sent):
    assert get(gateway, target)[0] == 200
    assert upstream.line() == f"GET {sent} HTTP/1.1".encode()


@pytest.mark.parametrize("target", ["/api/..", "/api/../x", "/api/%2e%2e/x", "/api/a/../../x", "/api/.%2E/"])
def test_strip_prefix_cannot_be_left(gateway, upstream, target):
    status, fields, body = get(gateway, target)
    assert (status, json.loads(body)["code"]) == (400, "invalid_target")
    assert not upstream.heads


def test_repeated_headers_keep_order_case_and_bytes(gateway, upstream):
    get(gateway, "/", "X-A: 1", "x-b: two", "X-A: 3", "X-Bytes: caf\xe9 \xff", "Accept: a, b", "accept: c", "Cookie: a=1",
        "Cookie: b=2", "X-Empty: ")
    kept = [(name, value) for name, value in upstream.fields() if name.lower()[:2] in ("x-", "ac", "co")
            and not name.startswith(("X-Forwarded", "X-Request"))]
    assert kept == [("X-A", "1"), ("x-b", "two"), ("X-A", "3"), ("X-Bytes", "caf\xe9 \xff"), ("Accept", "a, b"), ("accept", "c"),
                    ("Cookie", "a=1; b=2"), ("X-Empty", "")]              # one line of cookies: RFC 9113 section 8.2.3


def test_two_authorizations_are_refused(gateway, upstream):
    status, _, body = get(gateway, "/", "Authorization: Basic YQ==", "Authorization: Bearer b")
    assert (status, json.loads(body)["code"]) == (400, "duplicate_header")
    assert get(gateway, "/", 'Authorization: Digest username="a", realm="b"')[0] == 200
    assert len(upstream.heads) == 1


def test_every_set_cookie_and_unusual_answer_headers(gateway, upstream):
    upstream.answer = (b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nset-cookie: b=2\r\nX-Bytes: \xe9\xff\r\n"
                       b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: legacy/1\r\nSet-Cookie: c=3\r\nContent-Length: 2\r\n\r\nok")
    _, fields, body = get(gateway, "/")
    assert [value for name, value in fields if name.lower() == "set-cookie"] == ["a=1; Path=/", "b=2", "c=3"]
    assert field(fields, "X-Bytes") == "\xe9\xff"
    assert [value for name, value in fields if name == "Date"] == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    assert [value for name, value in fields if name == "Server"] == ["legacy/1"]
    assert body == b"ok"


@pytest.mark.parametrize("line", ["200 OK", "200 All is well", "299 Odd", "404 Nicht gefunden", "599 ", "418 I'm a teapot"])
def test_status_and_reason_are_exact(gateway, upstream, line):
    upstream.answer = f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        first = client.makefile("rb").readline()
    assert first == f"HTTP/1.1 {line}\r\n".encode()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH", "PURGE"])
def test_any_method(gateway, upstream, method):
    assert get(gateway, "/x", method=method)[0] == 200
    assert upstream.line() == f"{method} /x HTTP/1.1".encode()


def test_head_keeps_the_length(gateway, upstream):
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nConnection: close\r\n\r\n"
    status, fields, body = get(gateway, "/", method="HEAD")
    assert (status, field(fields, "Content-Length"), body) == (200, "12345", b"")


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(gateway, upstream, status):
    upstream.answer = f"HTTP/1.1 {status} X\r\nETag: \"a\"\r\n\r\n".encode()
    assert get(gateway, "/")[::2] == (status, b"")


@pytest.mark.parametrize("target, refused", [
    ("ftp://shop.test/", 400), ("*", 400), ("/a#b", 400), ("/caf\xe9", 400), ("/caf\xc3\xa9?x", 400), ("/a?q=\xff", 400)])
def test_odd_targets_are_refused(gateway, upstream, target, refused):
    assert get(gateway, target)[0] == refused
    assert not upstream.heads


@pytest.mark.parametrize("raw, status", [
    (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\nConnection: close\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: user@a\r\nConnection: close\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n", 200),
    (b"GET / HTTP/1.0\r\n\r\n", 200),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n", 405),
    (b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: CHUNKED\r\n\r\n1\r\nx\r\n0\r\n\r\n", 200),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX_Y: 1\r\nConnection: close\r\n\r\n", 400)])
def test_what_is_refused(gateway, upstream, raw, status):
    assert ask(gateway.port, raw)[0] == status
    assert len(upstream.heads) == (status == 200)


def test_host_is_the_upstreams_or_kept(gateway, upstream):
    get(gateway, "/")
    assert field(upstream.fields(), "Host") == f"127.0.0.1:{upstream.port}"
    get(gateway, "/kept/x", host="shop.test:8080")
    assert field(upstream.fields(), "Host") == "shop.test:8080"


def test_hop_by_hop_fields_stay_behind(gateway, upstream):
    upstream.answer = (b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\n"
                       b"X-End: 2\r\nContent-Length: 2\r\n\r\nok")
    raw = (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\nKeep-Alive: 1\r\n"
           b"Proxy-Authorization: x\r\nX-End: 3\r\n\r\n")
    _, fields, _ = ask(gateway.port, raw)
    names = {name.lower() for name, _ in upstream.fields()}
    assert not names & {"x-mine", "te", "keep-alive", "proxy-authorization", "connection"} and "x-end" in names
    names = {name.lower() for name, _ in fields}
    assert not names & {"x-hop", "keep-alive", "proxy-authenticate"} and "x-end" in names


def test_forwarding_fields_of_strangers_are_replaced(gateway, upstream):
    get(gateway, "/", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.test",
        "Forwarded: for=6.6.6.6", "X-Forwarded-Port: 1", "X-Request-Id: chosen-by-a-stranger")
    fields = dict(upstream.fields())
    assert fields["X-Forwarded-For"] == "127.0.0.1"
    assert fields["X-Forwarded-Proto"] == "http"
    assert fields["X-Forwarded-Host"] == "shop.test"
    assert fields["X-Forwarded-Port"] == "80"
    assert fields["Forwarded"] == 'for=127.0.0.1;proto=http;host="shop.test"'
    assert fields["Via"] == "1.1 wicketgate"
    assert "stranger" not in fields["X-Request-Id"] and len(fields["X-Request-Id"]) >= 16


def test_the_word_of_a_proxy_is_not_taken_from_strangers(gateway, trusting, upstream):
    words = ["X-Real-IP", "X-Forwarded-Prefix", "X-Forwarded-Ssl", "X-Forwarded-Server", "X-Original-URL", "X-Rewrite-URL"]
    for one, passed in (gateway, []), (trusting, words):
        get(one, "/", *(f"{word}: 1" for word in words))
        assert [name for name, _ in upstream.fields() if name in words] == passed


@pytest.mark.parametrize("headers, addresses, elements, port", [
    (["X-Forwarded-For: 7.7.7.7", "X-Forwarded-Proto: https", "Forwarded: for=6.6.6.6;host=evil.test", "X-Forwarded-Port: 8443"],
     "7.7.7.7, 127.0.0.1", 'for=7.7.7.7;proto=https;host="shop.test", for=127.0.0.1', "8443"),
    (["Forwarded: for=7.7.7.7;proto=https"], "7.7.7.7, 127.0.0.1",
     'for=7.7.7.7;proto=https, for=127.0.0.1;proto=https;host="shop.test"', "443"),
    (["X-Forwarded-Proto: https", "Forwarded: for=6.6.6.6"], "127.0.0.1", 'for=127.0.0.1;proto=https;host="shop.test"', "443"),
    ([], "127.0.0.1", 'for=127.0.0.1;proto=http;host="shop.test"', "80")])
def test_of_a_trusted_proxy_only_what_was_believed_goes_on(trusting, upstream, headers, addresses, elements, port):
    get(trusting, "/", *headers)
    fields = dict(upstream.fields())
    assert (fields["X-Forwarded-For"], fields["Forwarded"], fields["X-Forwarded-Port"]) == (addresses, elements, port)


def test_via_names_the_version_of_each_message(gateway, upstream):
    upstream.answer = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    _, fields, _ = ask(gateway.port, b"GET / HTTP/1.0\r\nVia: 1.1 before\r\n\r\n")
    assert field(upstream.fields(), "Via") == "1.1 before, 1.0 wicketgate"
    assert field(upstream.fields(), "X-Forwarded-Host") is None
    assert field(fields, "Via") == "1.0 wicketgate"


def test_options_for_the_gateway_itself(gateway, upstream):
    for target, *headers in ("*",), ("/x", "Max-Forwards: 0"):
        status, fields, body = get(gateway, target, *headers, method="OPTIONS")
        assert (status, field(fields, "Content-Length"), body) == (200, "0", b"")
        assert "OPTIONS" in field(fields, "Allow")
    assert not upstream.heads
    get(gateway, "/x", "Max-Forwards: 3", method="OPTIONS")
    assert field(upstream.fields(), "Max-Forwards") == "2"


def test_head_of_a_fixed_answer_has_its_length(gateway):
    for method, sent in ("GET", b"fixed"), ("HEAD", b""):
        status, fields, body = get(gateway, "/fixed", method=method)
        assert (status, field(fields, "Content-Length"), body) == (200, "5", sent)


def test_white_space_before_a_colon_is_taken_away(gateway, upstream):
    upstream.answer = b"HTTP/1.1 200 OK\r\nX-Old : 1\r\nContent-Length : 2\r\n\r\nok"
    status, fields, body = get(gateway, "/")
    assert (status, field(fields, "X-Old"), field(fields, "Content-Length"), body) == (200, "1", "2", b"ok")


@pytest.mark.parametrize("field", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_a_204_that_announces_a_body_ends_its_connection(gateway, upstream, field):
    upstream.answer = f"HTTP/1.1 204 No Content\r\n{field}\r\n\r\n".encode()
    assert get(gateway, "/")[::2] == (204, b"")
    before = upstream.connections
    assert get(gateway, "/")[::2] == (204, b"")
    assert upstream.connections == before + 1


def test_many_small_chunks_hold_nobody_up(gateway, upstream):
    """An upload of 400,000 chunks keeps the worker busy for a while; another request is answered before it is through."""
    raw = b"POST /many HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    upload = gevent.spawn(ask, gateway.port, raw + b"1\r\nx\r\n" * 400_000 + b"0\r\n\r\n")
    until(lambda: upstream.heads)
    assert get(gateway, "/other")[0] == 200
    assert upstream.bodies == [b""]
    assert upload.get(timeout=30)[0] == 200
    assert upstream.bodies[1:] == [b"x" * 400_000]


def test_header_rules(gateway, upstream):
    upstream.answer = b"HTTP/1.1 200 OK\r\nX-Powered-By: PHP\r\nCache-Control: public\r\nContent-Length: 2\r\n\r\nok"
    _, fields, _ = get(gateway, "/rules", "X-Secret: s", "X-Team: red", "X-More: 1")
    sent = upstream.fields()
    assert [pair for pair in sent if pair[0] in ("X-Secret", "X-Team", "X-More")] == [
        ("X-More", "1"), ("X-Team", "blue"), ("X-More", "2")]
    assert field(fields, "X-Powered-By") is None
    assert [value for name, value in fields if name == "Cache-Control"] == ["no-store"]


def test_addresses_of_the_upstream_become_public(gateway, upstream):
    upstream.answer = (f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{upstream.port}/users/7?x=1\r\nSet-Cookie: s=1; "
                       f"Domain=127.0.0.1; Path=/; HttpOnly\r\nContent-Length: 0\r\n\r\n").encode()
    _, fields, _ = get(gateway, "/api/login")
    assert field(fields, "Location") == "http://shop.test/api/users/7?x=1"
    assert field(fields, "Set-Cookie") == "s=1; Path=/api/; HttpOnly"
    upstream.answer = b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://shop.test/moved/x\r\nContent-Length: 0\r\n\r\n"
    _, fields, _ = get(gateway, "/moved/x")
    assert field(fields, "Location") == "https://shop.test/moved/x"
    upstream.answer = (f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{upstream.port}/users/7?x=1\r\n"
                       f"Content-Length: 0\r\n\r\n").encode()
    _, fields, _ = get(gateway, "/login")
    assert field(fields, "Location") == f"http://127.0.0.1:{upstream.port}/users/7?x=1"


def test_a_body_with_a_length(gateway, upstream):
    body = bytes(range(256)) * 100
    raw = b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert ask(gateway.port, raw + body)[0] == 200
    assert upstream.bodies == [body]
    assert field(upstream.fields(), "Content-Length") == str(len(body))


def test_a_chunked_body(gateway, upstream):
    raw = (b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
           b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n")
    assert ask(gateway.port, raw)[0] == 200
    assert upstream.bodies == [b"abcdefg"]


@pytest.mark.parametrize("rest", [
    b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcX\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n"])
def test_bad_chunks_are_the_clients_fault(gateway, upstream, rest):
    raw = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + rest
    status, _, body = ask(gateway.port, raw)
    assert (status, json.loads(body)["code"]) == (400, "malformed_body")
    assert True not in upstream.complete


@pytest.mark.parametrize("size", [1000, 300_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_cut_short_is_never_complete(gateway, upstream, size, framing):
    head = b"Content-Length: %d\r\n\r\n" % size if framing == "length" else b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as client:
        client.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\n" + head + b"x" * (size - 1))
        client.shutdown(socket.SHUT_WR)
        data = b""
        while piece := client.recv(65536):
            data += piece
    status, _, body = parse(data)
    assert (status, json.loads(body)["code"]) == (400, "truncated_body")
    assert True not in upstream.complete


def test_expect_continue_is_sent_when_the_body_is_wanted(gateway, upstream):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as client:
        client.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    assert upstream.bodies == [b"abc"]
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as client:
        client.sendall(b"POST /limited HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n")
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 413 ")


def test_limit_of_a_chunked_body(gateway, upstream):
    raw = b"POST /limited HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert ask(gateway.port, raw + b"a\r\n0123456789\r\n0\r\n\r\n")[0] == 200
    status, _, body = ask(gateway.port, raw + b"b\r\n01234567890\r\n0\r\n\r\n")
    assert (status, json.loads(body)["code"]) == (413, "body_too_large")
    assert upstream.complete == [True] or upstream.complete == [True, False]


def test_range_requests_pass(gateway, upstream):
    upstream.answer = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1-2/9\r\nContent-Length: 2\r\n\r\nbc"
    status, fields, body = get(gateway, "/file", "Range: bytes=1-2", 'If-Range: "x"')
    assert (status, field(fields, "Content-Range"), body) == (206, "bytes 1-2/9", b"bc")
    assert field(upstream.fields(), "Range") == "bytes=1-2"


@pytest.mark.parametrize("interim", [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
                                     b"HTTP/1.1 102 Processing\r\n\r\n"])
def test_interim_answers_are_not_the_answer(gateway, upstream, interim):
    upstream.answer = interim + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert get(gateway, "/", "Via: 1.1 edge")[::2] == (200, b"ok")


HINT = (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nX-A: b\r\nSet-Cookie: a=b\r\nContent-Length: 9\r\n"
        b"Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"
        b"Wicketgate-Cache-Control: max-age=9\r\nX-Powered-By: x\r\nCache-Control: x\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nX-A: b\r\n\r\n")
OTHERS = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"


BROWSER = b"Host: a\r\nSec-Fetch-Mode: navigate\r\n"
CLIENTS = {                                              # head and body, and what is to be heard under "browsers" and "all"
    "browser": (b"GET /rules HTTP/1.1\r\n" + BROWSER + b"\r\n", True, True),
    "browser, form": (b"POST /rules HTTP/1.1\r\n" + BROWSER + b"Content-Length: 1\r\n\r\nx", True, True),
    "script in a browser": (b"GET /rules HTTP/1.1\r\nHost: a\r\nSec-Fetch-Mode: cors\r\n\r\n", False, True),
    "another word": (b"GET /rules HTTP/1.1\r\nHost: a\r\nSec-Fetch-Mode: navigate, cors\r\n\r\n", False, True),
    "program": (b"GET /rules HTTP/1.1\r\nHost: a\r\n\r\n", False, True),
    "program, body": (b"POST /rules HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", False, True),
    "program, HEAD": (b"HEAD /rules HTTP/1.1\r\nHost: a\r\n\r\n", False, True),
    "chunked": (b"POST /rules HTTP/1.1\r\n" + BROWSER + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", False, False),
    "HTTP/1.0": (b"GET /rules HTTP/1.0\r\n" + BROWSER + b"\r\n", False, False),
    "proxy": (b"GET /rules HTTP/1.1\r\n" + BROWSER + b"via: 1.1 edge\r\n\r\n", False, False),
    "proxy, another": (b"GET /rules HTTP/1.1\r\n" + BROWSER + b"X-Forwarded-For: 10.0.0.1\r\n\r\n", False, False),
}


@pytest.fixture(scope="module")
def hearing(gateway, upstream, tmp_path_factory):
    """A gateway for each setting of ``interim``."""
    running = {setting: Running(tmp_path_factory.mktemp(setting), CONFIG.format(port=upstream.port).replace(
        "trust = []", f'trust = []\ninterim = "{setting}"')) for setting in ("all", "off")}
    yield {"browsers": gateway, **running}
    assert [one.stop() for one in running.values()] == [0, 0]


@pytest.mark.parametrize("setting", ["browsers", "all", "off"])
@pytest.mark.parametrize("client", CLIENTS)
def test_only_who_can_take_them_hears_interim_answers(hearing, upstream, client, setting):
    head, browsers, everyone = CLIENTS[client]
    hears = {"browsers": browsers, "all": everyone, "off": False}[setting]
    body = b"" if head.startswith(b"HEAD") else b"ok"
    upstream.answer = HINT[0] + OTHERS[0] + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body
    said = exchange(hearing[setting].port, head, b"Content-Length: 2\r\n" if not body else b"\r\n\r\nok")
    interim = HINT[1] + OTHERS[1] if hears else b""
    assert said.startswith(interim + (b"HTTP/1.0" if b"HTTP/1.0" in head else b"HTTP/1.1") + b" 200 OK\r\n")
    assert said.count(b"HTTP/1.") == (3 if hears else 1)


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_no_client_of_the_standard_library_gets_the_answer_of_another_request(gateway, upstream, status):
    """http.client takes any interim answer but 100 for the answer: on a kept connection all that follow are shifted."""
    from http.client import HTTPConnection
    client = HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    for number in range(3):
        upstream.answer = (b"HTTP/1.1 %d X\r\nLink: </x>\r\n\r\n" % status
                           + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na%d" % number)
        client.request("GET", f"/{number}")
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"a%d" % number)
    client.close()


@pytest.mark.parametrize("version, hears", [(b"1.1", True), (b"1.0", False)])
def test_100_is_for_who_expects_it_in_http_1_1(gateway, upstream, version, hears):
    """RFC 9110 section 10.1.1: one in HTTP/1.0 is ignored. What the upstream says of itself is not passed on."""
    upstream.answer = b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    head = b"POST / HTTP/%b\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx" % version
    said = exchange(gateway.port, head)
    assert said.count(b" 100 Continue") == hears


def test_a_trusted_proxy_hears_none(trusting, upstream):
    upstream.answer = HINT[0] + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert exchange(trusting.port, b"GET / HTTP/1.1\r\n" + BROWSER + b"\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_interim_answer_comes_behind_the_answer_before(gateway, upstream):
    """A client that pipelines: the one before may still wait for the end of its turn."""
    upstream.answer = HINT[0] + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    head = b"GET /fixed HTTP/1.1\r\nHost: a\r\n\r\nGET /rules HTTP/1.1\r\n" + BROWSER + b"\r\n"
    said = exchange(gateway.port, head, b"\r\n\r\nok")
    assert [said.index(text) for text in (b"\r\n\r\nfixed", HINT[1], b"\r\n\r\nok")] == sorted(
        [said.index(text) for text in (b"\r\n\r\nfixed", HINT[1], b"\r\n\r\nok")])


def exchange(port: int, data: bytes, until: bytes = b"\r\n\r\nok") -> bytes:
    """All that is said to ``data``, up to and with ``until``."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(data)
        said = b""
        while until not in said and (piece := sock.recv(65536)):
            said += piece
        return said


@pytest.mark.parametrize("answer, code", [
    (b"garbage\r\n\r\n", "upstream_protocol_error"), (b"", "upstream_closed"), (b"HTTP/1.1 200", "upstream_closed"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "upstream_protocol_error"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "upstream_protocol_error"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "upstream_protocol_error"),
    (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 201 + b"\r\n", "upstream_protocol_error"),
    (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "upstream_protocol_error")])
def test_bad_upstream_answers_are_502(gateway, serve, tmp_path, answer, code):
    def handle(sock, address):
        sock.recv(65536)
        if answer:
            sock.sendall(answer)
        sock.close()

    running = Running(tmp_path, f'[upstreams.a]\ninstances = ["http://127.0.0.1:{serve(handle)}"]\n'
                                f'[[routes]]\npath = "/*"\nupstream = "a"\n')
    try:
        status, _, body = get(running, "/")
        assert (status, json.loads(body)["code"]) == (502, code)
    finally:
        running.stop()


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
def test_an_answer_cut_short_is_cut_for_the_client(gateway, upstream, framing):
    piece = b"186a0\r\n" + b"x" * 50_000 if b"chunked" in framing else b"x" * 50_000
    upstream.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + framing + b"\r\n\r\n" + piece
    status, fields, body = get(gateway, "/")
    assert status == 200
    assert len(body) < 100_000 and not body.endswith(b"0\r\n\r\n")
    [line] = gateway.lines(id=field(fields, "X-Request-Id"))
    assert line["flag"] == "UX"


def test_stray_bytes_never_reach_the_next_client(gateway, upstream):
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
    for _ in range(5):
        assert get(gateway, "/")[::2] == (200, b"ok")


def test_events_arrive_one_by_one(serve, tmp_path):
    more = gevent.event.Event()

    def handle(sock, address):
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            sock.sendall(b"9\r\ndata: %d\n\n\r\n" % number)
            assert more.wait(60)
            more.clear()
        sock.sendall(b"0\r\n\r\n")
        sock.close()

    running = Running(tmp_path, f'[upstreams.a]\ninstances = ["http://127.0.0.1:{serve(handle)}"]\n'
                                f'[[routes]]\npath = "/*"\nupstream = "a"\n')
    try:
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            seen = b""
            for number in range(3):                      # the next event is sent only after this one has arrived
                while b"data: %d\n\n" % number not in seen:
                    piece = client.recv(65536)
                    assert piece
                    seen += piece
                more.set()
    finally:
        running.stop()


def test_client_gone_cancels_the_upstream_call(serve, tmp_path):
    asked, gone = gevent.event.Event(), gevent.event.Event()

    def handle(sock, address):
        sock.recv(65536)
        asked.set()
        if sock.recv(1) == b"":
            gone.set()
        sock.close()

    running = Running(tmp_path, f'[gateway]\ntimeout = "60s"\n[upstreams.a]\ninstances = ["http://127.0.0.1:{serve(handle)}"]\n'
                                f'[[routes]]\npath = "/*"\nupstream = "a"\n')
    try:
        client = socket.create_connection(("127.0.0.1", running.port), timeout=60)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert asked.wait(60)
        client.close()
        assert gone.wait(60)
        [line] = running.lines()
        assert (line["status"], line["flag"]) == (499, "DC")
    finally:
        running.stop()


def test_client_gone_within_a_websocket_handshake_cancels_it(serve, tmp_path):
    asked, gone = gevent.event.Event(), gevent.event.Event()

    def handle(sock, address):
        sock.recv(65536)
        asked.set()
        if sock.recv(1) == b"":
            gone.set()
        sock.close()

    running = Running(tmp_path, f'[gateway]\ntimeout = "60s"\n[upstreams.a]\ninstances = ["http://127.0.0.1:{serve(handle)}"]\n'
                                f'[[routes]]\npath = "/*"\nupstream = "a"\nwebsocket = true\n')
    try:
        client = socket.create_connection(("127.0.0.1", running.port), timeout=60)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert asked.wait(60)
        client.close()
        assert gone.wait(60)
    finally:
        running.stop()


def peak_memory(pid: int) -> int:
    """Kilobytes of the largest resident set so far."""
    return int(next(line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")))


GIGABYTE = 1 << 30


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_gigabyte_in_constant_memory(serve, tmp_path, direction):
    piece = b"x" * 1_048_576
    arrived = []

    def handle(sock, address):
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        if direction == "download":
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIGABYTE)
            for _ in range(1024):
                sock.sendall(piece)
        else:
            size = len(head.partition(b"\r\n\r\n")[2])
            while size < GIGABYTE:
                size += len(sock.recv(1_048_576))
            arrived.append(size)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        sock.close()

    running = Running(tmp_path, f'[upstreams.a]\ninstances = ["http://127.0.0.1:{serve(handle)}"]\n'
                                f'[[routes]]\npath = "/*"\nupstream = "a"\n')
    try:
        (pid,) = running.workers()
        before = peak_memory(pid)
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as client:
            if direction == "upload":
                client.sendall(b"PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % GIGABYTE)
                for _ in range(1024):
                    client.sendall(piece)
                assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
                assert arrived == [GIGABYTE]
            else:
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                size, buffer = 0, memoryview(bytearray(1_048_576))
                while count := client.recv_into(buffer):
                    size += count
                assert GIGABYTE < size < GIGABYTE + 2000
        assert peak_memory(pid) - before < 64 * 1024
    finally:
        running.stop()


@pytest.mark.parametrize("raw, status, code", [
    (b"garbage\r\n\r\n", 400, "bad_request"), (b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", 400, "bad_request"),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9000 + b"\r\n\r\n", 431, "head_too_large"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: tea\r\n\r\nx", 417, "expectation_failed"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: tea\r\n\r\n", 501, "not_implemented")])
def test_what_no_parser_takes_is_answered_and_logged_like_everything_else(gateway, upstream, raw, status, code):
    answer, fields, body = ask(gateway.port, raw)
    problem = json.loads(body)
    assert (answer, problem["code"], field(fields, "Content-Type")) == (status, code, "application/problem+json")
    assert field(fields, "X-Request-Id") == problem["request_id"]
    [line] = gateway.lines(id=problem["request_id"])
    assert (line["status"], line["route"]) == (status, "none")
    assert not upstream.heads


@pytest.mark.parametrize("method", ["get", "X", "A-METHOD-OF-MORE-THAN-TWENTY-LETTERS"])
def test_every_token_is_a_method(gateway, upstream, method):
    assert get(gateway, "/x", method=method)[0] == 200
    assert upstream.line() == f"{method} /x HTTP/1.1".encode()


def test_the_head_of_a_stream_is_not_held_back(serve, tmp_path):
    go_on = gevent.event.Event()

    def handle(sock, address):
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert go_on.wait(60)                            # only once the client has the head
        sock.close()

    running = Running(tmp_path, f'[upstreams.a]\ninstances = ["http://127.0.0.1:{serve(handle)}"]\n'
                                f'[[routes]]\npath = "/*"\nupstream = "a"\n')
    try:
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            data = b""
            while b"\r\n\r\n" not in data:
                data += client.recv(65536)
            assert data.startswith(b"HTTP/1.1 200 OK\r\n") and b"X-Accel-Buffering: no\r\n" in data
            go_on.set()
            rest = data.partition(b"\r\n\r\n")[2]
            while piece := client.recv(65536):
                rest += piece
            assert rest == b""                           # cut, and no second answer in its place
        assert [line["flag"] for line in running.lines()] == ["UX"]
    finally:
        running.stop()
