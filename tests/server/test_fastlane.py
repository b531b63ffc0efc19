"""The fast lane: what it reads, what it leaves to Gunicorn's parser, and what it makes of an answer."""

from __future__ import annotations

import io

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.unreader import IterUnreader
from hypothesis import given
from hypothesis import strategies as st

from gateway.message import Interim, Request, Response
from gateway.server.fastlane import Lane, LaneConnection, is_possible
from gateway.server.gunicorn_request import GunicornRequest
from gateway.server.writer import ShortBody
from tests.server.serving import LANE

ADDRESS = ("127.0.0.1", 50000)
SERVER = ("127.0.0.1", 8000)


def config(**settings):
    cfg = Config()
    for name, value in {"http_parser": "python", "header_map": "refuse", **LANE, **settings}.items():
        cfg.set(name, value)
    return cfg


def head(*fields: str, line: str = "GET /a?b HTTP/1.1") -> bytes:
    return "\r\n".join([line, "Host: a.test", *fields, "", ""]).encode("latin-1")


def read(data: bytes, **settings):
    return Lane(config(**settings)).read(data)


# -- what is read

@pytest.mark.parametrize("method, has_body", [("GET", False), ("HEAD", False), ("DELETE", False), ("OPTIONS", False),
                                              ("POST", True), ("PUT", True), ("PATCH", True)])
def test_a_simple_request(method, has_body):
    fields = ["X-a: \xe9  ", "x-A:", "X-a: 1", *(["Content-Length: 2"] if has_body else [])]
    plain = read(head(*fields, line=f"{method} /a?b%20c HTTP/1.1") + b"hi" * has_body)
    assert (plain.method, plain.target, plain.uri, plain.host, plain.close) == (method, "/a?b%20c", "/a?b%20c", "a.test", False)
    assert plain.headers[:4] == [("Host", "a.test"), ("X-a", "\xe9"), ("x-A", ""), ("X-a", "1")]
    assert (plain.body.read() if has_body else plain.body) == (b"hi" if has_body else None)


@pytest.mark.parametrize("option, closes", [("close", True), ("Close", True), ("keep-alive", False), ("Keep-Alive", False)])
def test_whether_the_client_closes(option, closes):
    assert read(head(f"Connection: {option}")).close is closes


@pytest.mark.parametrize("request_, behind", [
    (head(), head()), (head(), b"GET"), (head("Content-Length: 0", line="POST / HTTP/1.1"), head()),
    (head("Content-Length: 3", line="PUT / HTTP/1.1") + b"abc", b"d")])
def test_what_comes_behind_the_request_is_left_there(request_, behind):
    assert read(request_ + behind).size == len(request_)


DOUBTS = {
    "lines": [b"GET / HTTP/1.1\nHost: a.test\r\n\r\n", b"\r\n" + head(), head().replace(b"\r\n", b"\n"), head("X: a\nY: b"),
              head("X: a\rb"), head("X: a", " folded"), head("X: a\x00b"), head("X : a"), head(" X: a"), head("X"), head(": a")],
    "request lines": [head(line=line) for line in (
        "GET / HTTP/1.0", "GET / HTTP/1.2", "GET / http/1.1", "GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET / HTTP/1.1 ",
        "get / HTTP/1.1", "BREW / HTTP/1.1", "CONNECT a.test:443 HTTP/1.1", "GET * HTTP/1.1", "OPTIONS * HTTP/1.1",
        "GET http://a.test/ HTTP/1.1",
        "GET /a#b HTTP/1.1", "GET /a b HTTP/1.1", "GET /\xe9 HTTP/1.1", "GET /\x7f HTTP/1.1", "GET a HTTP/1.1", "GET /")],
    "hosts": [b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", head("Host: a.test"), head("hOST: b.test")],
    "fields": [head(field) for field in (
        "Transfer-Encoding: chunked", "Expect: 100-continue", "Upgrade: websocket", "Trailer: X", "TE: trailers",
        "HTTP2-Settings: x", "transfer-encoding:", "X_a: 1", "Connection: upgrade", "Connection: close, x", "Connection:")],
    "repetitions": [head(field, field) for field in ("Authorization: a", "Content-Type: a/b", "Cookie: a=b", "Connection: close")],
    "bodies": [head("Content-Length: 0"), head("Content-Length: 2") + b"hi", *(
        head(*fields, line="POST / HTTP/1.1") + b"hi" for fields in (
            [], ["Content-Length: 3"], ["Content-Length: +2"], ["Content-Length: 2, 2"], ["Content-Length: 2", "Content-Length: 2"],
            ["Content-Length: -1"], ["Content-Length: \xb2"], ["Content-Length:"], ["Content-Length: 0x2"],
            ["Content-Length: 0000000002"]))],
}


@pytest.mark.parametrize("data", [pytest.param(data, id=f"{kind} {number}") for kind, doubts in DOUBTS.items()
                                  for number, data in enumerate(doubts)])
def test_every_doubt_is_left_to_gunicorn(data):
    assert read(data) is None


def test_nothing_is_read_before_all_of_it_is_there():
    data = head("Content-Length: 3", line="POST / HTTP/1.1") + b"abc"
    assert [read(data[:size]) for size in range(len(data))] == [None] * len(data) and read(data) is not None


@pytest.mark.parametrize("setting", ["limit_request_line", "limit_request_field_size"])
def test_a_head_is_no_longer_than_a_line_may_be(setting):
    size = len(head()) - 4
    assert [read(head(), **{setting: size + more}) is not None for more in (-1, 0, 1)] == [False, True, True]


def test_no_more_fields_than_may_be():
    assert [read(head("X: 1"), limit_request_fields=number) is not None for number in (1, 2, 3)] == [False, True, True]


LINES = st.sampled_from(["Host: a.test", "X-a: 1", "x-A:\t2 ", "X_a: 1", "Connection: close", "Connection: keep-alive", "X: a\x0bb",
                         "Content-Length: 2", "Content-Length: 02", "Content-Type: a/b", "Cookie: a=b", "Expect: 100-continue",
                         "Transfer-Encoding: chunked", "X: \xe9", " folded", "X : 1", "X", ""])
REQUEST_LINES = st.sampled_from(["GET / HTTP/1.1", "POST /a?b HTTP/1.1", "PUT /%20 HTTP/1.1", "HEAD /;a=b HTTP/1.1",
                                 "GET //a HTTP/1.1", "GET / HTTP/1.0", "GET /a#b HTTP/1.1", "OPTIONS * HTTP/1.1",
                                 "POST /\x7f HTTP/1.1"])


@given(REQUEST_LINES, st.lists(LINES, max_size=5), st.sampled_from([b"", b"hi", b"hi" + head()]))
def test_what_is_read_is_what_gunicorn_reads(line, fields, behind):
    data = "\r\n".join([line, "Host: a.test", *fields, "", ""]).encode("latin-1") + behind
    plain = read(data)
    if plain is not None:
        request = GunicornRequest(config(), IterUnreader([data]), ADDRESS)
        assert (plain.method, plain.target, plain.headers) == (request.method, request.uri, request.raw_headers)
        assert (plain.body.read() if plain.body is not None else b"") == request.body.read()
        assert plain.should_close() == request.should_close()


@given(st.binary(max_size=40), st.binary(max_size=10))
def test_no_bytes_are_an_error(line, field):
    read(line + b"\r\nHost: a.test\r\n" + field + b"\r\n\r\n")


# -- when there is a lane

@pytest.mark.parametrize("settings, possible", [
    ({}, True), ({"forwarder_headers": "SCRIPT_NAME"}, False), ({"secure_scheme_headers": {"X-PROTO": "https"}}, False),
    ({"proxy_protocol": True}, False), ({"casefold_http_method": True}, False), ({"strip_header_spaces": True}, False),
    ({"permit_obsolete_folding": True}, False), ({"permit_unconventional_http_version": True}, False),
    ({"header_map": "drop"}, False), ({"accesslog": "-"}, False), ({"statsd_host": "localhost:8125"}, False),
    ({"logconfig": "log.ini"}, False),
    ({"logconfig_dict": {"version": 1}}, False), ({"certfile": "a.pem"}, False),
    ({"pre_request": lambda worker, request: None}, False),
    ({"post_request": lambda worker, request, environ, response: None}, False), ({"timeout": 5}, True)])
def test_settings_with_which_there_is_a_lane(settings, possible):
    assert is_possible(config(**settings)) is possible


def test_a_script_name_in_the_environment_is_for_gunicorn(monkeypatch):
    monkeypatch.setenv("SCRIPT_NAME", "/app")
    assert not is_possible(config())


# -- the answer

@pytest.mark.parametrize("asks, response, draining, expected", [
    ((), Response(200, [("Content-Length", "2")], b""), False, b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\nhi"),
    ((), Response(200, [], b""), False, b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\nhi"),
    ((), Response(200, [("Content-Length", "2")], b""), True, b"Content-Length: 2\r\nConnection: close\r\n\r\nhi"),
    (("Connection: close",), Response(200, [("Content-Length", "2")], b""), False,
     b"Content-Length: 2\r\nConnection: close\r\n\r\nhi"),
    ((), Response(200, [("Content-Length", "2"), ("Connection", "close")], b""), False,
     b"Content-Length: 2\r\nConnection: close\r\n\r\nhi"),
    ((), Response(304, [("Content-Length", "9")], b""), False, b"Content-Length: 9\r\nConnection: keep-alive\r\n\r\n"),
    ((), Response(204, [], b""), False, b"Connection: keep-alive\r\n\r\n")])
def test_an_answer_is_one_piece(asks, response, draining, expected):
    lane = Lane(config())
    response.headers.append(("Date", "x"))
    data, closes = lane.render(lane.read(head(*asks)), response, b"hi", draining)
    assert data.partition(b"\r\n")[2].replace(b"Date: x\r\n", b"") == expected and closes is (b"close" in expected)


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_body_of_another_length_is_refused(length):
    lane = Lane(config())
    with pytest.raises(ShortBody):
        lane.render(lane.read(head()), Response(200, [("Content-Length", str(length))], b""), b"hi", False)


@pytest.mark.parametrize("server, peer", [(SERVER, ADDRESS), ("/run/a.sock", ""), ("/run/a.sock", b"")])
@pytest.mark.parametrize("target", ["/", "/a%20b/%C3%A9?x=%20", "//a", "/a?"])
def test_the_environ_is_gunicorns(server, peer, target):
    lane, data, sock = Lane(config()), head(line=f"GET {target} HTTP/1.1"), io.BytesIO()
    plain = lane.read(data)
    environ = lane.environ(Request(plain.method, plain.target, plain.headers, host=plain.host), server, peer, sock)
    request = GunicornRequest(config(), IterUnreader([data]), peer)
    _, expected = wsgi.create(request, sock, peer, server, config())
    differ = {name for name in environ if environ[name] != expected.get(name)} - {"wsgi.multithread", "wsgi.errors"}
    assert differ == set()
    assert {name for name in expected if not name.startswith(("HTTP_", "wsgi."))} - environ.keys() == {"REQUEST_METHOD"}


# -- before the answer

class Client:
    """The connection of a client, which keeps what is sent and offered."""

    sock, peer, unreader, listener, addr = None, "127.0.0.1", None, SERVER, ADDRESS

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.offer = self.send = self.data.append

    def settle(self) -> None:
        self.data.append(b"settled")


BROWSER = [("Sec-Fetch-Mode", "navigate")]
HINT = [("Link", "</a.css>"), ("X-Own", "1"), ("Connection", "x-hop"), ("X-Hop", "1")]


@pytest.mark.parametrize("fields, anyone, passes", [
    (BROWSER, False, True), ([("sec-fetch-mode", "navigate")], False, True), ([("Sec-Fetch-Mode", "cors")], False, False),
    ([], False, False), ([], True, True), ([*BROWSER, ("Via", "1.1 proxy")], False, False), ([("via", "1.1 proxy")], True, False),
    ([*BROWSER, ("X-Forwarded-For", "1.2.3.4")], True, False), ([("Forwarded", "for=a")], True, False)])
def test_interim_answers_are_for_browsers_and_never_for_proxies(fields, anyone, passes):
    client = Client()
    rules = Interim(frozenset({"x-own", "connection"}), anyone)
    LaneConnection(fields, client, Lane(config())).interim(103, "Early Hints", HINT, rules)
    assert client.data == [b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"] * passes


@pytest.mark.parametrize("state", [{"started": True}, {"taken_over": True}, {"alive": False}])
def test_no_interim_answer_once_the_answer_has_begun(state):
    connection = LaneConnection(BROWSER, client := Client(), Lane(config()))
    for name, value in state.items():
        setattr(connection, name, value)
    connection.interim(103, "Early Hints", HINT, Interim(frozenset(), True))
    assert client.data == []


@pytest.mark.parametrize("started", [False, True])
def test_early_hints_of_a_view_come_behind_the_answer_before_it(started):
    connection = LaneConnection([], client := Client(), Lane(config()))
    connection.started = started
    request = Request("GET", "/", [], host="a.test")
    environ = connection.environ(request)
    environ["wsgi.early_hints"]([("Link", "</a.css>")])
    assert environ["gateway.connection"] is connection
    assert client.data == ([] if started else [b"settled", b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"])
