"""What is kept is told apart by the request as it goes on, also where the gateway itself writes, edits or removes a field.

Each case is a whole pipeline with an upstream that answers by one field, says so in Vary, and ``public``. Two clients ask, each for
itself; neither may get what was made for the other.
"""

from __future__ import annotations

import pytest

from gateway.configfile.load import load_text
from gateway.message import Request, Response
from gateway.pipeline import Pipeline
from gateway.telemetry.log import RequestLog
from gateway.telemetry.metrics import Registry

FORWARD = """
[gateway]
trust = ["10.0.0.0/8"]
[upstreams.api]
instances = ["http://127.0.0.1:{port}"]
host = "preserve"
[[routes]]
path = "/*"
upstream = "api"
cache = {{ {cache} }}
{more}
"""
COMPOSE = """
[gateway]
trust = ["10.0.0.0/8"]
[upstreams.api]
instances = ["http://127.0.0.1:{port}"]
[[routes]]
path = "/*"
cache = {{ {cache} }}
[routes.aggregate]
one = {{ from = "api:/one"{more} }}
"""
VIEW = """
[[routes]]
path = "/*"
view = true
cache = {{ {cache} }}
{more}
"""
ADDRESSES = "X-Forwarded-For", "Forwarded"


@pytest.fixture
def pipeline_of(serve):
    """``pipeline_of(config, field)`` is the pipeline, and what its upstream was sent of ``field``, for each request."""
    made = []

    def make(config, field, cache='ttl = "1h"', more=""):
        sent = []

        def answered(headers):
            sent.append([value for name, value in headers if name.lower() == field.lower()])
            headers = [("Cache-Control", "public, max-age=60"), ("Vary", field), ("Content-Type", "application/json")]
            return headers, b"%d" % len(sent)

        def upstream(sock, address):
            with sock.makefile("rb") as lines:
                lines.readline()
                fields = [line.decode("latin-1").partition(":") for line in iter(lines.readline, b"\r\n")]
            headers, body = answered([(name, value.strip()) for name, _, value in fields])
            head = "".join(f"{name}: {value}\r\n" for name, value in headers)
            sock.sendall(f"HTTP/1.1 200 OK\r\n{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

        def view(request):
            headers, body = answered([*request.headers, *pipeline.forwarding(request)])
            return Response(200, headers, body)

        settings = load_text(config.format(cache=cache, more=more, port=serve(upstream)), {})
        pipeline = Pipeline(settings, view=view, log=RequestLog("off"), registry=Registry())
        made.append(pipeline)
        return pipeline, sent

    yield make
    for pipeline in made:
        pipeline.close()


def ask(pipeline, peer, *headers):
    request = Request("GET", "/a", list(headers), host="shop.test", peer=peer)
    if peer.startswith("10."):
        request.trusted, request.chain = True, next((field for field in headers if field[0] == "X-Forwarded-For"), None)
        request.client = request.chain[1]
    response = pipeline.handle(request)
    assert response.status == 200
    return response.read(10_000), request.notes.get("cache")


# The field that the upstream answers by, and what two clients are and send: the second gets the answer of the first, or its own.
@pytest.mark.parametrize("field, first, second, shared", [
    *((field, ("192.0.2.1", ()), ("192.0.2.2", ()), False) for field in ADDRESSES),
    *((field, ("192.0.2.1", ()), ("192.0.2.1", ()), True) for field in ADDRESSES),
    ("X-Forwarded-For", ("192.0.2.1", [("X-Forwarded-For", "1.1.1.1")]), ("192.0.2.2", [("X-Forwarded-For", "1.1.1.1")]), False),
    ("X-Forwarded-For", ("192.0.2.1", [("X-Forwarded-For", "1.1.1.1")]), ("192.0.2.1", [("X-Forwarded-For", "2.2.2.2")]), True),
    ("X-Forwarded-For", ("10.0.0.1", [("X-Forwarded-For", "1.1.1.1")]), ("10.0.0.1", [("X-Forwarded-For", "2.2.2.2")]), False),
    ("X-Forwarded-For", ("10.0.0.1", [("X-Forwarded-For", "1.1.1.1")]), ("10.0.0.2", [("X-Forwarded-For", "1.1.1.1")]), False),
    ("X-Forwarded-Proto", ("192.0.2.1", [("X-Forwarded-Proto", "https")]), ("192.0.2.1", []), True),      # nobody's word
    ("Via", ("192.0.2.1", [("Via", "1.1 a")]), ("192.0.2.1", [("Via", "1.1 b")]), False),
    ("X-Request-Id", ("192.0.2.1", []), ("192.0.2.1", []), False),
    ("X-Request-Id", ("192.0.2.1", [("X-Request-Id", "1")]), ("192.0.2.1", [("X-Request-Id", "1")]), False),
    ("traceparent", ("192.0.2.1", [("traceparent", "1")]), ("192.0.2.1", [("traceparent", "1")]), False),
])
@pytest.mark.parametrize("config", [FORWARD, COMPOSE, VIEW], ids=["forward", "compose", "view"])
def test_neither_gets_the_answer_of_the_other(pipeline_of, config, field, first, second, shared):
    pipeline, sent = pipeline_of(config, field)
    answers = [ask(pipeline, peer, *headers) for peer, headers in (first, second, first, second)]
    assert (answers[0][0] == answers[1][0]) is shared, sent
    assert sent[0] == sent[1] if shared and len(sent) > 1 else len(sent) >= 2 - shared
    if field.lower() not in ("x-request-id", "traceparent"):
        assert answers[2:] == [(answers[0][0], "hit"), (answers[1][0], "hit")], "each is still there"


# What the route's own rules make of a field, and what two clients send of it.
@pytest.mark.parametrize("rules, field, first, second, shared", [
    ('request_headers = { set = { X-Edition = "new" } }', "X-Edition", ["a"], ["b"], True),
    ('request_headers = { remove = ["Accept-Language"] }', "Accept-Language", ["de"], ["en"], True),
    ('request_headers = { add = { X-Edition = "new" } }', "X-Edition", ["a"], ["b"], False),
    ('request_headers = { set = { Accept-Encoding = "identity" } }', "Accept-Encoding", ["gzip"], [], True),
    ('request_headers = { remove = ["X-Forwarded-For"] }', "X-Forwarded-For", ["1.1.1.1"], ["2.2.2.2"], True),
    ('request_headers = { set = { X-Forwarded-For = "10.9.9.9" } }', "X-Forwarded-For", [], ["2.2.2.2"], True),
    ("", "TE", ["trailers"], [], True),
    ("", "X-Real-IP", ["1.1.1.1"], ["2.2.2.2"], True),
    ("", "X-Edition", ["a"], ["b"], False),
])
def test_what_a_route_edits_is_told_apart_as_it_is_sent(pipeline_of, rules, field, first, second, shared):
    pipeline, sent = pipeline_of(FORWARD, field, more=rules)
    answers = [ask(pipeline, "192.0.2.1", *((field, value) for value in values))[0] for values in (first, second)]
    assert (answers[0] == answers[1]) is shared, sent


@pytest.mark.parametrize("config", [FORWARD, COMPOSE, VIEW], ids=["forward", "compose", "view"])
def test_a_field_in_the_key_of_the_route_counts_as_it_is_sent(pipeline_of, config):
    """Also where nothing says so in Vary."""
    pipeline, _ = pipeline_of(config, "Accept", cache='ttl = "1h", key = { headers = ["X-Forwarded-For"] }')
    answers = [ask(pipeline, peer)[0] for peer in ("192.0.2.1", "192.0.2.2", "192.0.2.1")]
    assert answers[0] != answers[1] and answers[0] == answers[2]


def test_a_field_that_a_part_reads_counts_as_it_came_too(pipeline_of):
    """A stranger's word is in the template, what the gateway says in the field of that name: neither is another's."""
    pipeline, _ = pipeline_of(COMPOSE, "Accept", more=', headers = { X-Says = "{header.X-Forwarded-For}" }')
    answers = [ask(pipeline, "192.0.2.1", ("X-Forwarded-For", said))[0] for said in ("1.1.1.1", "2.2.2.2", "1.1.1.1")]
    assert answers[0] != answers[1] and answers[0] == answers[2]


def test_nginx_in_front_keeps_nothing_that_depends_on_what_it_writes_itself(pipeline_of):
    for field, kept in (("X-Forwarded-For", False), ("Accept", True)):
        pipeline, _ = pipeline_of(FORWARD, field, cache='edge = "1m"')
        response = pipeline.handle(Request("GET", "/a", [], host="shop.test", peer="192.0.2.1"))
        assert (response.header("X-Accel-Expires") != "0") is kept
