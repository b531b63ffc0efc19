import io
from types import SimpleNamespace

import pytest

from gateway.deadline import Deadline
from gateway.errors import BodyTooLarge
from gateway.message import Attempt, Body, Call, Request, Response, RouteEntry


def body(data: bytes, length: int | None = None) -> Body:
    return Body(io.BytesIO(data).read, length)


def test_a_body_is_read_once_and_piece_by_piece():
    stream = body(b"abcdef", 6)
    assert not stream.is_started
    assert [stream.read(4), stream.read(4), stream.read(4)] == [b"abcd", b"ef", b""]
    assert stream.is_started


@pytest.mark.parametrize("length", [6, None])
def test_a_buffered_body_can_be_read_again(length):
    stream = body(b"abcdef", length)
    assert stream.buffer(6) == b"abcdef"
    assert not stream.is_started and stream.length == 6
    assert stream.buffer(6) == b"abcdef"
    assert stream.read(4) + stream.read(4) == b"abcdef"


@pytest.mark.parametrize("length", [6, None])
def test_a_body_over_the_limit(length):
    with pytest.raises(BodyTooLarge):
        body(b"abcdef", length).buffer(5)


class Pieces:
    def __init__(self, *pieces):
        self.pieces, self.closed = pieces, 0

    def __iter__(self):
        return iter(self.pieces)

    def close(self):
        self.closed += 1


def test_a_streamed_answer_is_read_and_closed():
    pieces = Pieces(b"ab", b"cd")
    response = Response(200, [], pieces)
    assert response.read(4) == b"abcd" == response.body
    assert pieces.closed == 1


@pytest.mark.parametrize("content", [b"abcd", Pieces(b"ab", b"cd")])
def test_an_answer_over_the_limit(content):
    with pytest.raises(BodyTooLarge):
        Response(200, [], content).read(3)
    assert getattr(content, "closed", 1) == 1


def test_target_is_split_but_not_decoded():
    request = Request("GET", "/a%2Fb?x=%20&y", [])
    assert (request.path, request.query) == ("/a%2Fb", "x=%20&y")
    assert Request("GET", "/a", []).query is None
    assert Request("GET", "/a?", []).query == ""
    assert Request("GET", "/a?b?c", []).query == "b?c"


def test_headers_are_found_whatever_their_case():
    for message in (Request("GET", "/", [("X-A", "1"), ("x-a", "2")]), Response(200, [("X-A", "1"), ("x-a", "2")])):
        assert message.header("x-A") == "1"
        assert message.header("x-b", "none") == "none"
        assert message.header_list("X-a") == ["1", "2"]


def attributes(request):
    """All that it has, however its class stores it."""
    names = [name for name in dir(request) if not name.startswith("__") and not callable(getattr(request, name))]
    return {name: getattr(request, name) for name in names}


def test_a_copy_of_a_request_shares_all_that_it_has():
    request = Request("GET", "/a?b", [("X", "y")], body(b"abc"), scheme="https", host="a.test", peer="10.0.0.1")
    route = SimpleNamespace(timeout=None, name="r")
    for name, value in {"path": "/c", "query": "d", "client": "10.0.0.2", "trusted": True, "port": "8443", "chain": ("X", "y"),
                        "version": "1.0", "upgrade": "websocket", "head_first": True, "id": "i", "params": {"k": "v"},
                        "entry": RouteEntry(route, len), "attempts": [Attempt("shop", "a:1")], "notes": {"n": 1},
                        "environ": {"e": 1}, "connection": object()}.items():
        setattr(request, name, value)
    given, plain = attributes(request), attributes(Request("POST", "/", []))
    assert [name for name in given if given[name] == plain[name]] == []          # each is another than that of any request
    assert {name: value is given[name] for name, value in attributes(request.copy()).items()} == dict.fromkeys(given, True)


def test_what_is_set_on_a_copy_is_not_set_on_the_request():
    request = Request("GET", "/", [])
    copy = request.copy()
    copy.method, copy.id = "HEAD", "i"
    assert (request.method, request.id) == ("GET", "")


def test_reason_is_the_standard_one_unless_given():
    assert Response(404, []).reason == "Not Found"
    assert Response(299, []).reason == ""
    assert Response(200, [], reason="").reason == ""


def test_everything_says_what_it_is():
    attempt = Attempt("users", "http://10.0.0.1")
    attempt.status, attempt.seconds = 200, 0.0123
    assert repr(attempt) == "Attempt(users http://10.0.0.1 200 12.3 ms)"
    assert repr(Request("GET", "/a?b", [], host="h")) == "Request(GET http://h/a?b)"
    assert repr(Response(200, [], b"ab")) == "Response(200 OK, 2 bytes)"
    assert repr(Call("GET", "/a", [], deadline=Deadline(1))) == "Call(GET /a)"
    assert repr(body(b"", None)) == "Body(chunked)"
