"""What a worker reads of a request, without a worker: the same parser, the same settings, and the limits routes are checked by."""

from __future__ import annotations

import pytest

from gateway import gunicorn_conf
from gateway.cli.example_request import NOBODY, SETTINGS, address_of, own_answer, receive, trust_text
from gateway.config import Route
from gateway.errors import BadRequest, DuplicateHeader, GatewayError, HeadTooLarge, InvalidHost, InvalidTarget, TargetTooLong
from gateway.message import Request
from gateway.routing.pattern import problems

HOST = ("Host", "a.test")


def outcome(method: str, target: str, *fields: tuple[str, str]) -> object:
    try:
        answer = own_answer(receive(Request(method, target, list(fields), host=dict(fields).get("Host", ""))))
    except GatewayError as error:
        return type(error)
    return answer and answer.status


def test_the_settings_are_the_workers():
    assert SETTINGS == {name: getattr(gunicorn_conf, name) for name in SETTINGS}


def test_what_is_read_is_what_was_described():
    request = receive(Request("M-SEARCH", "/a%2Fb?c", [HOST, ("x-A", "1"), ("X-a", "\xc3\xa9")], scheme="https", host="a.test"))
    assert (request.method, request.target, request.query, request.scheme, request.host) == (
        "M-SEARCH", "/a%2Fb?c", "c", "https", "a.test")
    assert request.headers == [HOST, ("x-A", "1"), ("X-a", "\xc3\xa9")]
    assert not request.trusted


@pytest.mark.parametrize("peer, trust, words", [
    ("10.0.0.1", ("10.0.0.0/8",), "is trusted, and believed: client 6.6.6.6, https://b.test, port 8443"),
    ("::ffff:a00:1", ("10.0.0.0/8",), "is trusted, and believed: client 6.6.6.6, https://b.test, port 8443"),
    ("unix", ("unix",), "is trusted, and believed: client 6.6.6.6, https://b.test, port 8443"),
    ("unix", ("10.0.0.0/8",), "is not in gateway.trust: what it says of its client is not believed"),
    ("11.0.0.1", ("10.0.0.0/8",), "is not in gateway.trust: what it says of its client is not believed"),
    (NOBODY, (), "is not in gateway.trust: what it says of its client is not believed"),
])
def test_of_a_trusted_peer_its_word_is_believed(peer, trust, words):
    said = [HOST, ("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "b.test"),
            ("X-Forwarded-Port", "8443")]
    request = receive(Request("GET", "/", said, host="a.test"), address_of(peer), trust)
    assert trust_text(request) == words
    assert (request.trusted, request.host, request.port) == ((True, "b.test", "8443") if "believed:" in words
                                                             else (False, "a.test", ""))


def test_a_trusted_peer_that_says_nothing_of_its_client():
    request = receive(Request("GET", "/", [HOST], scheme="https", host="a.test"), "", ("unix",))
    assert trust_text(request) == "is trusted, and believed: client unknown, https://a.test"


@pytest.mark.parametrize("peer", ["", "localhost", "10.0.0.0/8", "10.0.0.1:80"])
def test_what_is_no_address_of_a_peer(peer):
    with pytest.raises(ValueError, match="neither an IP address nor unix"):
        address_of(peer)


@pytest.mark.parametrize("method, target, fields, expected", [
    ("GET", "/", [HOST], None), ("GET", "/", [], None), ("A" * 50, "/", [HOST], None), ("x", "/", [HOST], None),
    ("OPTIONS", "*", [HOST], 200), ("OPTIONS", "/", [HOST, ("Max-Forwards", "0")], 200), ("OPTIONS", "/", [HOST], None),
    ("TRACE", "/", [HOST], 405), ("CONNECT", "a.test:80", [HOST], 405), ("GE T", "/", [HOST], BadRequest),
    ("GET", "*", [HOST], BadRequest), ("GET", "http://a.test/", [HOST], InvalidTarget), ("GET", "/a#b", [HOST], InvalidTarget),
    ("GET", "/", [("Host", "a b")], InvalidHost), ("GET", "/", [("Host", "[::1")], InvalidHost),
    ("GET", "/", [HOST, HOST], BadRequest), ("GET", "/", [HOST, ("Authorization", "a"), ("authorization", "b")], DuplicateHeader),
    ("GET", "/", [HOST, ("X Y", "1")], BadRequest), ("GET", "/", [HOST, ("X_Y", "1")], BadRequest),
    ("GET", "/", [HOST, ("Expect", "x")], 417), ("GET", "/", [HOST, ("Transfer-Encoding", "gzip, chunked")], 501),
    ("GET", "/" + "x" * 8190, [HOST], TargetTooLong), ("GET", "/", [HOST, *[("X", "1")] * 100], HeadTooLarge),
])
def test_what_is_refused(method, target, fields, expected):
    found = outcome(method, target, *fields)
    assert found == expected or isinstance(found, type) and found.status == expected


def test_the_fields_that_connection_names_are_no_condition_of_a_route():
    request = receive(Request("GET", "/", [HOST, ("Connection", "X-Beta"), ("X-Beta", "1"), ("X-A", "2")], host="a.test"))
    assert own_answer(request) is None
    assert [name for name, _ in request.headers] == ["Host", "Connection", "X-A"]


# -- the limits of routing/pattern.py and routing/conditions.py are those of the parser

@pytest.mark.parametrize("spare, refused", [(1, False), (0, False), (-1, True)])
@pytest.mark.parametrize("settings, target, method", [
    (lambda size: {"path": "/" + "x" * (size - 1)}, lambda size: "/" + "x" * (size - 1), "M"),
    (lambda size: {"path": "/" + "x" * (size - 4) + "/{a}/*", "methods": ["LONGER", "PUT"]},
     lambda size: "/" + "x" * (size - 4) + "/a/", "PUT"),
    (lambda size: {"path": "/é%2F/" + "x" * (size - 11)}, lambda size: "/%C3%A9%2F/" + "x" * (size - 11), "M"),
    (lambda size: {"path": "/", "query": {"a b": "*", "+": "y" * (size - 10)}},
     lambda size: "/?a+b&%2B=" + "y" * (size - 10), "M"),
])
def test_a_request_line_has_a_longest_length(settings, target, method, spare, refused):
    size = 8190 - len(f"{method}  HTTP/1.1") - spare
    assert len(target(size)) == size
    assert (outcome(method, target(size), HOST) is TargetTooLong) is refused
    found = problems([Route(**settings(size))], ["it"])
    assert found == ([f"it: path{' and query' if 'query' in settings(size) else ''}: a request with a line of more than 8190 bytes"
                      " is refused, so nothing can match"] if refused else [])


@pytest.mark.parametrize("size, refused", [(8189, False), (8190, False), (8191, True)])
@pytest.mark.parametrize("kind, prefix, suffix", [("header", "X:", "\r\n"), ("cookie", "Cookie:X=", "\r\n")])
def test_a_field_has_a_longest_length(kind, prefix, suffix, size, refused):
    """Without the space behind the colon, which a client may leave out and ``probe`` does not."""
    value = "y" * (size - len(prefix + suffix))
    name, _, begin = prefix.partition(":")
    found = problems([Route(path="/", **{kind: {"X": value}})], ["it"])
    assert found == ([f"it: {kind}.X: a request with a line of more than 8190 bytes is refused, so nothing can match"]
                     if refused else [])
    assert (outcome("GET", "/", HOST, (name, begin + value[:-1])) is HeadTooLarge) is refused
