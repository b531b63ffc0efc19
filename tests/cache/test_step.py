"""What is stored, for whom, and from which streams, and what a purge leaves. The clock stands still unless a test moves it."""

from __future__ import annotations

import io
import time

import pytest
from asking import Stream, World, at_once, ok, settle, status_of
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache.request_directives import LONGEST_PROXY_FIELDS, PROXY_FIELDS
from gateway.errors import UpstreamTruncated
from gateway.message import Body, Request


def test_a_miss_then_hits_with_their_age(world):
    first = world.ask()
    world.offset = 7.9
    second = world.ask()
    assert status_of(first) == ["wicketgate; fwd=uri-miss; fwd-status=200; stored"]
    assert status_of(second) == ["wicketgate; hit; ttl=52"]
    assert (second.status, second.text, second.header("Age"), len(world.seen)) == (200, b"hello", "7", 1)
    assert second.header("Content-Length") == "5" and second.header("Date")
    assert not first.header("Age")
    assert world.note == {"cache": "hit"}
    assert world.count("gateway_cache_requests_total", outcome="hit") == 1
    assert world.count("gateway_cache_requests_total", outcome="uri-miss") == 1
    assert world.count("gateway_cache_stored_total") == 1


def test_bodies_are_shared_and_lists_are_not(world):
    world.ask()
    one, other = world.ask(), world.ask()
    one.headers.append(("X", "1"))
    assert one.body is other.body and other.header("X") == ""
    assert world.ask().header("X") == ""


def test_it_expires(world):
    world.ask()
    world.offset = 60.0
    world.answer = ok(body=b"newer")
    assert (world.ask().text, status_of(world.ask())) == (b"newer", ["wicketgate; hit; ttl=60"])
    assert len(world.seen) == 2


@pytest.mark.parametrize("explain, expected", [
    (False, "wicketgate; fwd=uri-miss; fwd-status=200"),
    (True, 'wicketgate; fwd=uri-miss; fwd-status=200; key="http://shop.test/a"; detail="no-store"')])
def test_the_answer_says_why_it_was_not_stored(world, explain, expected):
    world.cache({"explain": explain})
    world.answer = ok("no-store")
    assert status_of(world.ask()) == [expected]
    assert world.count("gateway_cache_refused_total", reason="no-store") == 1


def test_the_status_of_caches_behind_this_one_stays_first(world):
    world.answer = ok(Cache_Status="origin; hit")
    assert status_of(world.ask())[0] == "origin; hit"
    assert status_of(world.ask()) == ["origin; hit", "wicketgate; hit; ttl=60"]


def test_variants(world):
    world.answer = lambda request: ok(body=request.header("Accept-Language").encode(), Vary="Accept-Language")
    assert world.ask(("Accept-Language", "de")).text == b"de"
    second = world.ask(("Accept-Language", "en"))
    assert (second.text, status_of(second)) == (b"en", ["wicketgate; fwd=vary-miss; fwd-status=200; stored"])
    assert [world.ask(("Accept-Language", name)).text for name in ("de", "en")] == [b"de", b"en"]
    assert len(world.seen) == 2


@pytest.mark.parametrize("asked, reason", [
    ([("Cache-Control", "no-store")], "request"), ([("If-Match", '"v"')], "bypass"),
    ([("X-HTTP-Method-Override", "PUT")], "bypass"), ([("X-Original-URL", "/admin")], "bypass"),
    ([("Upgrade", "websocket")], "bypass")])
def test_what_bypasses_neither_gets_nor_leaves_anything(world, asked, reason):
    world.ask()
    world.answer = ok(body=b"other")
    response = world.ask(*asked)
    assert (response.text, status_of(response)) == (b"other", [f"wicketgate; fwd={reason}; fwd-status=200"])
    assert world.ask().text == b"hello"


# -- what a trusted proxy says

@pytest.mark.parametrize("name", sorted(PROXY_FIELDS))
def test_what_a_trusted_proxy_says_is_in_the_key(world, name):
    """It says it of every request, or has passed on its client's: who makes something up gets only what he made himself."""
    world.answer = lambda request: ok(body=request.header(name).encode() or b"plain")
    said = [[], [(name.title(), "on")], [(name.upper(), "evil")], [(name, "on"), (name, "evil")], [(name, "evil"), (name, "on")]]
    bodies = [b"plain", b"on", b"evil", b"on", b"evil"]
    for _ in range(3):
        assert [world.ask(*fields, trusted=True).text for fields in said] == bodies
    assert len(world.seen) == len(said)
    assert status_of(world.ask(*said[1], trusted=True)) == ["wicketgate; hit; ttl=60"]
    assert status_of(world.ask(*said[1])) == ["wicketgate; fwd=bypass; fwd-status=200"], "a stranger's is nobody's word"


@pytest.mark.parametrize("policy, fields", [
    ({}, [("X-HTTP-Method-Override", "PUT")]), ({}, [("X-Forwarded-Method", "DELETE")]), ({}, [("Proxy", "http://evil.test")]),
    ({}, [("X-Host", "evil.test")]), ({}, [("X-Forwarded-Ssl", "on"), ("X-Method-Override", "PUT")]),
    ({}, [("X-Method-Override", "PUT"), ("X-Forwarded-Ssl", "on")]), ({}, [("X-Original-URL", "/" + "x" * LONGEST_PROXY_FIELDS)]),
    ({}, [("X-Forwarded-Ssl", "on"), ("If-Match", '"v"')]), ({"edge": "10s"}, [("X-Forwarded-Ssl", "on")])],
    ids=["override", "method", "httpoxy", "host", "both", "both turned", "too long", "if-match", "nginx knows no such key"])
def test_what_goes_past_the_cache_also_from_a_trusted_proxy(world, policy, fields):
    world.cache(policy)
    world.ask()
    world.answer = ok(body=b"other")
    for _ in range(2):
        response = world.ask(*fields, trusted=True)
        assert (response.text, status_of(response)) == (b"other", ["wicketgate; fwd=bypass; fwd-status=200"])
        assert response.header("X-Accel-Expires") in ("", "0")
    assert world.ask().text == b"hello"


@pytest.mark.parametrize("soft", [False, True])
def test_a_purge_of_the_address_reaches_what_was_kept_by_what_a_proxy_says(world, soft):
    said = [[], [("X-Forwarded-Ssl", "on")], [("X-Forwarded-Prefix", "/b"), ("X-Forwarded-Ssl", "on")],
            [("X-Forwarded-Ssl", "on"), ("X-Forwarded-Prefix", "/b")]]
    for fields in said:
        world.ask(*fields, trusted=True)
    assert len(world.seen) == 3, "the order of different fields does not count"
    world.store.purger.purge(url="http://shop.test/a", soft=soft)
    world.base, world.offset = time.time() + 1, 0.0
    world.answer = ok(body=b"newer")
    assert [world.ask(*fields, trusted=True).text for fields in said] == [b"newer"] * 4


def test_what_a_proxy_says_of_a_post_is_in_the_key_of_what_its_answer_fills(world):
    def posted(request):
        world.base = time.time() + 1
        return ok(body=b"posted", Content_Location="/a")

    world.answer = posted
    world.ask(("X-Forwarded-Ssl", "on"), method="POST", trusted=True)
    world.answer = ok()
    assert world.ask(trusted=True).text == b"hello"
    assert world.ask(("X-Forwarded-Ssl", "on"), trusted=True).text == b"posted"


def test_those_of_whom_a_proxy_says_the_same_wait_for_one_answer(world):
    def slow(request):
        settle()
        return ok()

    world.answer = slow
    answers = at_once(world, 10, ("X-Forwarded-Ssl", "on"), trusted=True)
    assert [answer.text for answer in answers] == [b"hello"] * 10 and len(world.seen) == 1


def test_a_body_of_a_get_never_colours_a_stored_answer(world):
    world.answer = lambda request: ok(body=request.body.read() if request.body else b"plain")
    coloured = Body(io.BytesIO(b"coloured").read, 8)
    assert world.ask(body=coloured).text == b"coloured"
    assert world.ask().text == b"plain"
    assert world.ask(body=Body(io.BytesIO(b"coloured").read, 8)).text == b"coloured"


def test_only_if_cached(world):
    response = world.ask(("Cache-Control", "only-if-cached"))
    assert (response.status, world.seen) == (504, [])
    assert status_of(response) == ["wicketgate"]                          # neither hit nor fwd: it went nowhere (RFC 9211)
    world.ask()
    assert world.ask(("Cache-Control", "only-if-cached")).text == b"hello"


@pytest.mark.parametrize("more", [{"field": ("If-Match", '"v"')}, {"field": ("X-Host", "evil.test")},
                                  {"field": ("Cache-Control", "no-store")}, {"body": b"coloured"},
                                  {"field": ("Cookie", "sid=1")}])
def test_only_what_is_stored_is_wanted_also_of_what_goes_past_the_cache(world, more):
    world.cache({"explain": True})
    world.ask()
    body = Body.of(more["body"]) if "body" in more else None
    response = world.ask(("Cache-Control", "only-if-cached"), *([more["field"]] if "field" in more else []), body=body)
    assert (response.status, len(world.seen), world.note) == (504, 1, {"cache": "only-if-cached"})
    assert "fwd" not in status_of(response)[0] and 'detail="only-if-cached"' in status_of(response)[0]


def test_clients_may_be_kept_from_asking_for_something_new(world):
    world.cache({"client_directives": False})
    world.ask()
    for asked in ("no-cache", "no-store", "max-age=0", "only-if-cached"):
        assert world.ask(("Cache-Control", asked)).text == b"hello"
    assert len(world.seen) == 1


def test_no_store_of_a_client_that_is_not_heeded_is_like_none(world):
    world.cache({"client_directives": False})
    world.ask(("Cache-Control", "no-store"))
    assert world.ask().text == b"hello" and len(world.seen) == 1
    world.offset = 60.0
    world.ask(("Cache-Control", "no-store"))
    assert "hit" in status_of(world.ask())[0] and len(world.seen) == 2


# -- Streams

def test_a_stream_is_stored_while_it_is_passed_on(world):
    stream = Stream(b"hel", b"lo")
    world.answer = lambda request: ok(body=stream)
    first = world.step(Request("GET", "/a", [], host="shop.test"))
    pieces = iter(first.body)
    assert next(pieces) == b"hel"
    assert world.store.get("http://shop.test/a") is None
    assert list(pieces) == [b"lo"]
    first.body.close()
    hit = world.ask()
    assert (hit.body, hit.header("Content-Length"), stream.closed, len(world.seen)) == (b"hello", "5", True, 1)


@pytest.mark.parametrize("pieces, fields, taken", [
    ((b"hel", UpstreamTruncated("cut")), {}, None),
    ((b"hel", b"lo"), {}, 1),                                            # the client left
    ((b"x" * 6, b"x" * 6), {}, None),                                    # too large
    ((b"x" * 65537,), {"Content_Length": "65537"}, None),
])
def test_a_stream_that_is_not_whole_is_not_stored(world, pieces, fields, taken):
    world.cache({"max_object": 10})
    stream = Stream(*pieces)
    world.answer = lambda request: ok(body=stream, **fields)
    response = world.step(Request("GET", "/a", [], host="shop.test"))
    got = []
    try:
        for piece in response.body:
            got.append(piece)
            if len(got) == taken:
                break
    except UpstreamTruncated:
        pass
    response.body.close()
    assert got == [piece for piece in pieces if isinstance(piece, bytes)][:taken]
    assert stream.closed and world.store.get("http://shop.test/a") is None
    assert world.step.fetch.flights.flying == {}
    worth_waiting = world.step.fetch.predictor.worth_waiting("http://shop.test/a")
    assert worth_waiting is (sum(map(len, got)) <= 10), "what was cut may be whole the next time"


# -- Purges

@settings(deadline=None)
@given(st.lists(st.sampled_from(["ask", "ask", "other", "url", "prefix", "tag", "everything", "post", "change", "change"]),
                max_size=30))
def test_nothing_served_is_older_than_a_purge(operations):
    """The upstream's version when it was last purged is the oldest that anybody may see."""
    world = World()
    world.clock = time.time
    world.cache({"tags": ["t"], "stale_while_revalidate": "1h", "stale_if_error": "1h"})
    version = oldest = 0
    world.answer = lambda request: ok(body=str(version).encode())
    for operation in operations:
        if operation == "change":
            version += 1
        elif operation in ("ask", "other"):
            assert int(world.ask(target="/a" if operation == "ask" else "/a/b").text) >= (oldest if operation == "ask" else 0)
        elif operation == "post":
            world.ask(method="POST")
            oldest = version
        else:
            world.store.purger.purge(**{"url": {"url": "http://shop.test/a"}, "prefix": {"prefix": "/a"}, "tag": {"tag": "t"},
                                        "everything": {"everything": True}}[operation])
            oldest = version
