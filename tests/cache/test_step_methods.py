"""HEAD and POST, and what unsafe methods make of what is stored."""

from __future__ import annotations

import io
import time

import pytest
from asking import ok, status_of

from gateway.cache.purging.invalidation import Invalidate
from gateway.message import Body, Request, Response


def test_head_is_answered_from_get_and_does_not_fill_it(world):
    world.answer = lambda request: ok(body=b"" if request.method == "HEAD" else b"hello")
    assert status_of(world.ask(method="HEAD")) == ["wicketgate; fwd=uri-miss; fwd-status=200"]
    assert world.ask().text == b"hello"
    hit = world.ask(("Range", "bytes=0-1"), method="HEAD")
    assert (hit.status, hit.header("Content-Length"), status_of(hit)) == (200, "5", ["wicketgate; hit; ttl=60"])


@pytest.mark.parametrize("headers, expected", [
    ({"ETag": '"v"', "X_A": "2"}, ["wicketgate; hit; ttl=60"]),
    ({"ETag": '"w"'}, ["wicketgate; fwd=uri-miss; fwd-status=200; stored"]),
    ({"Content_Length": "6"}, ["wicketgate; fwd=uri-miss; fwd-status=200; stored"])])
def test_head_freshens_or_drops_what_get_stored(world, headers, expected):
    world.answer = ok("max-age=10", ETag='"v"', X_A="1")
    world.ask()
    world.offset = 20.0
    world.answer = ok(body=b"", **headers)
    world.ask(method="HEAD")
    world.answer = ok()
    response = world.ask()
    assert status_of(response) == expected
    assert response.header("X-A") == ("2" if "X_A" in headers else "")


@pytest.mark.parametrize("method, status, fields, target, gone", [
    ("POST", 200, {}, "/a", True),
    ("PUT", 204, {}, "/a", True),
    ("DELETE", 303, {}, "/a", True),
    ("M-SEARCH", 200, {}, "/a", True),
    ("POST", 500, {}, "/a", False),
    ("POST", 404, {}, "/a", False),
    ("OPTIONS", 200, {}, "/a", False),
    ("POST", 200, {}, "/b", False),
    ("POST", 201, {"Location": "/a"}, "/b", True),
    ("POST", 201, {"Location": "a"}, "/b", True),
    ("POST", 201, {"Content_Location": "http://SHOP.test/a"}, "/b", True),
    ("POST", 201, {"Location": "http://other.test/a"}, "/b", False),
    ("POST", 201, {"Location": "https://shop.test/a"}, "/b", False),
    ("POST", 500, {"Location": "/a"}, "/b", False),
    ("POST", 201, {"Location": "http://[broken"}, "/b", False),
])
@pytest.mark.parametrize("own", [True, False])
def test_unsafe_methods_invalidate(world, method, status, fields, target, gone, own):
    """Section 4.4. Also on a route that has no cache of its own."""
    world.ask()
    world.answer = ok("", b"", status, **fields)
    if own:
        world.ask(method=method, target=target)
    else:
        Invalidate(world.upstream, world.store)(Request(method, target, [], host="shop.test"))
    world.base = time.time()
    world.answer = ok(body=b"newer")
    assert world.ask().text == (b"newer" if gone else b"hello")


@pytest.mark.parametrize("method, asked, body, answer, gone", [
    ("POST", ("Cache-Control", "no-store"), b"q", ok("", status=200), True),
    ("POST", ("X-HTTP-Method-Override", "DELETE"), b"q", ok("", status=200), True),
    ("POST", ("If-Match", '"v"'), b"q", ok("", b"", 204), True),
    ("POST", ("X-A", "1"), b"q" * 70_000, ok("", status=200), True),
    ("POST", ("X-A", "1"), b"q", ok("", b"", 201), True),                # not kept: it was no question
    ("POST", ("Cache-Control", "no-store"), b"q", ok("", status=500), False),
    ("POST", ("X-A", "1"), b"q", ok("", status=500), False),
    ("POST", ("Authorization", "ann"), b"q", ok(), False),               # a question whose answer is only ann's
    ("PUT", ("Cache-Control", "no-store"), b"q", ok("", b"", 204), True),
    ("DELETE", ("Cache-Control", "no-store"), None, ok("", b"", 204), True)])
def test_what_goes_past_the_cache_changes_what_is_stored_all_the_same(world, method, asked, body, answer, gone):
    world.cache({"methods": ["GET", "POST"]})
    world.ask()
    world.answer = answer
    world.ask(asked, method=method, body=None if body is None else Body.of(body))
    world.base = time.time()
    world.answer = ok(body=b"newer")
    assert world.ask().text == (b"newer" if gone else b"hello")


def test_an_answer_that_was_on_its_way_during_a_change_is_not_stored(world):
    def changing(request):
        world.store.purger.purge(url="http://shop.test/a")
        return ok(body=b"old")

    world.answer = changing
    assert world.ask().text == b"old"
    world.base = time.time()
    world.answer = ok(body=b"newer")
    assert world.ask().text == b"newer"


def test_a_post_that_says_what_a_get_would_give(world):
    def posted(request):
        world.base = time.time() + 1                     # after the purge that the POST itself is
        return ok(Content_Location="/a")

    world.answer = posted
    world.ask(method="POST")
    assert status_of(world.ask()) == ["wicketgate; hit; ttl=60"]
    for target, fields in (("/c", {}), ("/d", {"Content_Location": "/b"})):
        world.answer = ok(**fields)
        world.ask(method="POST", target=target)
        assert "hit" not in status_of(world.ask(target=target))[0]


@pytest.mark.parametrize("field", [("X-HTTP-Method-Override", "PUT"), ("X-Host", "evil.test"), ("X-Original-URL", "/admin")])
def test_a_post_that_may_stand_for_something_else_fills_no_get(world, field):
    def posted(request):
        world.base = time.time() + 1
        return ok(body=b"coloured", Content_Location="/a")

    world.answer = posted
    world.ask(field, method="POST")
    world.answer = ok()
    assert world.ask().text == b"hello"


def test_post_by_its_body(world):
    world.cache({"methods": ["GET", "POST"]})
    world.answer = lambda request: ok(body=request.body.read() if request.body else b"none")

    def post(text):
        return world.ask(method="POST", body=Body(io.BytesIO(text).read, len(text)))

    assert [post(text).text for text in (b"one", b"two", b"one")] == [b"one", b"two", b"one"]
    assert world.ask(method="POST").text == b"none"
    assert world.ask().text == b"none"
    assert len(world.seen) == 4
    assert world.ask(method="POST", body=Body(io.BytesIO(b"one").read, None)).text == b"one"         # chunked: not looked at
    assert len(world.seen) == 5


@pytest.mark.parametrize("asked", [("If-Modified-Since", "Sun, 06 Nov 2044 08:49:37 GMT"), ("Range", "bytes=0-1")])
def test_there_are_no_conditions_and_no_parts_of_a_post(world, asked):
    """They are of GET (RFC 9110 sections 13.1.3 and 14.2): whether it is stored or not, whole answers come."""
    world.cache({"methods": ["GET", "POST"]})
    world.answer = ok(ETag='"v"', Last_Modified="Sun, 06 Nov 1994 08:49:37 GMT")
    for _ in range(2):
        response = world.ask(asked, method="POST", body=Body.of(b"{}"))
        assert (response.status, response.text) == (200, b"hello")
    assert len(world.seen) == 1


def test_an_expired_answer_to_a_post_is_not_validated(world):
    """An origin answers If-None-Match beside a POST with 412."""
    world.cache({"methods": ["GET", "POST"]})
    world.answer = ok("max-age=10", ETag='"v"', Last_Modified="Sun, 06 Nov 1994 08:49:37 GMT")
    world.ask(method="POST", body=Body.of(b"{}"))
    world.offset = 20.0
    world.answer = ok("max-age=10", b"newer", ETag='"w"')
    assert world.ask(method="POST", body=Body.of(b"{}")).text == b"newer"
    assert [world.seen[1].header(name) for name in ("If-None-Match", "If-Modified-Since")] == ["", ""]


def test_a_post_with_if_none_match_is_the_origins_to_judge(world):
    world.cache({"methods": ["GET", "POST"]})
    world.answer = ok(ETag='"v"')
    world.ask(method="POST", body=Body.of(b"{}"))
    world.answer = Response(412, [], b"")
    assert world.ask(("If-None-Match", '"v"'), method="POST", body=Body.of(b"{}")).status == 412
    assert world.seen[1].header("If-None-Match") == '"v"'
