"""The compiled build answers what the pure one does, byte for byte, whatever is sent to it.

The same bytes go over TCP to two gateways with one configuration, one of each build. The compiled one checks types and has integers
and texts of its own, so what is sent is all that could meet those: the corpora, and made requests and answers with fields of all
bytes and numbers of all sizes.
"""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from corpus import BROKEN, REQUESTS
from gevent.server import StreamServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import Running, ask

from tests.compiled import COMPILED

pytestmark = [pytest.mark.leaks_allowed,     # the servers of the module
              pytest.mark.skipif(not COMPILED, reason="there is only one build here")]

GUNICORN = {name: raw.encode("latin-1") for name, raw in
            json.loads(Path(__file__).with_name("gunicorn_requests.json").read_text())["requests"].items()}
CORPUS = {**REQUESTS, **BROKEN, **GUNICORN}
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: sentinel\r\nConnection: close\r\n\r\n"

VIEW = '''
import gateway.message
from flask import Blueprint, request

mirror = Blueprint("mirror", __name__)
METHODS = ["GET", "HEAD", "DELETE", "POST", "PUT", "PATCH", "OPTIONS", "PURGE", "PROPFIND", "M-SEARCH"]
VOLATILE = {"REMOTE_PORT", "SERVER_PORT", "HTTP_X_REQUEST_ID"}

@mirror.get("/build")
def build():
    return gateway.message.__file__.rpartition(".")[2]

@mirror.route("/view", methods=METHODS)
@mirror.route("/view/<path:path>", methods=METHODS)
def show(path=""):
    environ = {key: value for key, value in request.environ.items()
               if isinstance(value, (str, bool, tuple)) and key not in VOLATILE}
    return {"environ": environ, "args": request.args, "body": request.get_data().decode("latin-1")}
'''

CONFIG = '''
[gateway]
views = ["mirror"]
trust = ["127.0.0.1/32"]

[cache]
memory = "4MB"

[upstreams.echo]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/*"
{target}

[[routes]]
path = "/cached/*"
upstream = "echo"
cache = {{ ttl = "1h", key = {{ headers = ["X-Key"] }}, methods = ["GET", "HEAD", "POST"] }}

[[routes]]
path = "/number/{{id:int}}"
upstream = "echo"
strip_prefix = "/number"
request_headers = {{ set = {{ X-Set = "s" }}, add = {{ X-Add = "a" }}, remove = ["X-Remove"] }}
response_headers = {{ set = {{ X-Set = "s" }}, remove = ["Server"] }}
rewrite_location = true
rewrite_cookies = true

[[routes]]
path = "/composed/{{id}}"
[routes.aggregate]
one = "echo:/json/{{id}}"
two = {{ from = "echo:/json/{{one.id}}", optional = true, default = [] }}

[[routes]]
path = "/fixed"
respond = {{ json = {{ fixed = true }} }}

[[routes]]
path = "/limited"
upstream = "echo"
max_body = "10"

[[routes]]
path = "/if"
query = {{ a = "1" }}
cookie = {{ c = "2" }}
upstream = "echo"

[[routes]]
path = "/view/*"
view = true
'''

# What is another each time, in both builds
VOLATILE = re.compile(rb"(?i)(\b(?:Date|X-Request-Id|Age): |\bttl=|\"request_id\":\")[^\r\n\";]*|\b[0-9a-f]{32}\b")


def body_of(reader, head: bytes) -> bytes:
    """As much as comes of the body of a request, however large it says that it is."""
    if b"\ntransfer-encoding: chunked" not in head:
        length = re.search(rb"\ncontent-length: (\d+)", head)
        return reader.read(min(int(length[1]), 2 ** 20)) if length else b""
    body = b""
    while size := int(reader.readline().strip() or b"0", 16):
        body += reader.read(min(size, 2 ** 20))
        reader.readline()
    reader.readline()
    return body


def upstream(sock, address):
    """Answers with what it got; below /raw with the body as it is; with the field lines of X-Answer."""
    with sock, sock.makefile("rb") as reader, suppress(OSError, ValueError):         # the gateway gives up, or sends no number
        while True:
            lines = [reader.readline()]
            while lines[-1] not in (b"", b"\r\n"):
                lines.append(reader.readline())
            if not lines.pop():
                return
            head = b"".join(lines)
            body = body_of(reader, head.lower())
            if head.split(b" ", 2)[1].startswith(b"/raw"):
                sock.sendall(body)
                return
            added = b"".join(value + b"\r\n" for value in re.findall(rb"(?im)^x-answer: *([^\r\n]*)", head))
            if b" /json/" in head.partition(b"\r\n")[0]:
                body = b'{"id": %b}' % (re.findall(rb"(?im)^x-json: *([^\r\n]*)", head) or [b"9223372036854775808"])[0]
                added += b"Content-Type: application/json\r\n"
            else:
                body = head + body
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n" % (len(body), added)
                         + (b"" if head.startswith(b"HEAD") else body))


@pytest.fixture(scope="module", params=["view", "upstream"])
def builds(request, tmp_path_factory):
    """The two builds, as a pair."""
    place = tmp_path_factory.mktemp("builds")
    server = StreamServer(("127.0.0.1", 0), upstream)
    server.start()
    config = CONFIG.format(port=server.server_port, target='upstream = "echo"' if request.param == "upstream" else "view = true")
    started = []
    for name in ("compiled", "pure"):
        (place / name).mkdir()
        (place / name / "mirror.py").write_text(VIEW)
        started.append(Running(place / name, config, environ={"GATEWAY_BUILD": name}))
    yield started
    for each in started:
        each.stop()
    server.stop()
    problems = [re.findall(r"(?:Type|System|Attribute)Error.*", each.errors.read_text()) for each in started]
    assert problems == [[], []]


def sent(port: int, data: bytes) -> bytes:
    """All that comes for it, but for what is another each time."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        found = b""
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:                                      # refused before all was sent
            pass
        try:
            while piece := client.recv(65536):
                found += piece
        except OSError:                                      # a reset, when it is closed with bytes unread
            pass
    return VOLATILE.sub(rb"\1", found)


def compare(builds, data: bytes) -> bytes:
    compiled, pure = (sent(each.port, data) for each in builds)
    assert compiled == pure
    return pure


def test_there_are_two(builds):
    found = [ask(each.port, b"GET /build HTTP/1.0\r\nHost: a\r\n\r\n")[2] for each in builds]
    assert found == [b"so", b"py"]


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpora(builds, name):
    compare(builds, CORPUS[name] + SENTINEL)
    compare(builds, CORPUS[name])


# Made requests

NUMBERS = st.one_of(st.sampled_from([base + more for base in (0, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 61, 2 ** 62, 2 ** 63, 2 ** 64,
                                                              10 ** 30, 10 ** 400) for more in (-1, 0, 1)]),
                    st.integers(-2 ** 70, 2 ** 70)).map(lambda number: b"%d" % number)
BYTES = st.binary(max_size=40).map(lambda value: re.sub(rb"[\r\n\0]", b"", value))
WORDS = st.sampled_from([b"", b" ", b"*", b"close", b"keep-alive", b"gzip, br;q=0.5", b"no-cache", b"\"a\"", b"W/\"a\"",
                         b"a=b; c=2", b"for=1.2.3.4;proto=https", b"1.2.3.4, 5.6.7.8", b"unknown", b"chunked", b"navigate",
                         b"https",
                         b"Sat, 01 Jan 2000 00:00:00 GMT", b"websocket", b"100-continue", b"application/json", b"\xff\xfe", b"::1"])
VALUES = st.one_of(NUMBERS, BYTES, WORDS, NUMBERS.map(b"max-age=%b".__mod__), NUMBERS.map(b"max-stale=%b".__mod__),
                   st.tuples(NUMBERS, NUMBERS).map(lambda pair: b"bytes=%b-%b" % pair), NUMBERS.map(b"bytes=-%b".__mod__),
                   NUMBERS.map(b"timeout=%b".__mod__))
NAMES = st.sampled_from([b"X", b"X-Key", b"Range", b"If-Range", b"If-None-Match", b"If-Match", b"If-Modified-Since",
                         b"Cache-Control", b"Max-Forwards", b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host",
                         b"X-Forwarded-Port",
                         b"X-Forwarded-Prefix", b"Forwarded", b"Cookie", b"Authorization", b"Accept", b"Accept-Encoding",
                         b"Connection", b"Keep-Alive", b"Upgrade", b"Sec-Fetch-Mode", b"X-Request-Id", b"TE", b"Expect", b"Via",
                         b"Content-Type", b"Content-Encoding", b"Origin", b"Pragma", b"X-Json", b"X-Remove", b"Age",
                         b"traceparent"])
ANSWERED = st.sampled_from([b"Cache-Control", b"Age", b"Date", b"Expires", b"Last-Modified", b"ETag", b"Vary", b"Location",
                            b"Set-Cookie", b"Connection", b"Keep-Alive", b"X", b"Cache-Tag", b"X-Accel-Redirect", b"Content-Range",
                            b"Content-Encoding", b"Content-Type", b"Warning", b"X-Request-Id", b"Retry-After"])
LINES = st.one_of(st.tuples(NAMES, VALUES).map(lambda pair: b"%b: %b\r\n" % pair),
                  st.tuples(ANSWERED, VALUES).map(lambda pair: b"X-Answer: %b: %b\r\n" % pair))
TARGETS = st.one_of(
    st.sampled_from([b"/", b"/a?b", b"/fixed", b"/limited", b"/view/a?b=c&d", b"/if?a=1", b"/cached/a", b"/cached/b?c"]),
    st.tuples(st.sampled_from([b"/number/", b"/composed/", b"/cached/", b"/view/", b"/view?a=", b"/"]),
              st.one_of(NUMBERS, BYTES.map(lambda value: re.sub(rb"[\s#]", b"%", value)))).map(b"".join))
METHODS = st.sampled_from([b"GET", b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PURGE"])
CONTENTS = st.one_of(st.just(b""),
                     st.tuples(NUMBERS, st.binary(max_size=20)).map(lambda pair: b"Content-Length: %b\r\n\r\n%b" % pair),
                     st.binary(max_size=30).map(lambda data: b"Content-Length: %d\r\n\r\n%b" % (len(data), data)),
                     st.tuples(NUMBERS, st.binary(max_size=30)).map(
                         lambda pair: b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (abs(int(pair[0])), pair[1])),
                     st.binary(max_size=40).map(b"Transfer-Encoding: chunked\r\n\r\n".__add__))
THOROUGH = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@THOROUGH
@given(METHODS, TARGETS, st.lists(LINES, max_size=5), CONTENTS)
def test_made_requests(builds, method, target, lines, content):
    head = b"%b %b HTTP/1.1\r\nHost: shop.test\r\n%b" % (method, target, b"".join(lines))
    compare(builds, head + (content or b"\r\n") + SENTINEL)


@THOROUGH
@given(st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200", b"HTTP/1.1 304 X", b"HTTP/1.1 206 Partial Content",
                        b"HTTP/1.1 404 \xff", b"HTTP/1.1 999 ", b"HTTP/1.1 103 Early Hints", b"HTTP/1.1 099 X", b"HTTP/1.1 101 X",
                        b"HTTP/1.1 -20 X"]),
       st.lists(st.tuples(ANSWERED, VALUES).map(lambda pair: b"%b: %b\r\n" % pair), max_size=4), CONTENTS)
def test_made_answers(builds, line, lines, content):
    """Of an upstream."""
    answer = line + b"\r\n" + b"".join(lines) + (content or b"\r\n")
    for path in (b"/raw", b"/cached/raw"):
        compare(builds, b"POST %b HTTP/1.1\r\nHost: shop.test\r\nContent-Length: %d\r\n\r\n%b" % (path, len(answer), answer)
                + SENTINEL)
