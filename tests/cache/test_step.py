"""The step with a real store and an upstream made of functions; the clock stands still unless a test moves it."""

from __future__ import annotations

import io
import time

import pytest
from asking import SAFETY, Stream, World, at_once, ok, settle, status_of
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache.purging.invalidation import Invalidate
from gateway.cache.request_directives import COOKIE, LONGEST_PROXY_FIELDS, PROXY_FIELDS
from gateway.errors import ConnectFailed, InternalError, UpstreamTimeout, UpstreamTruncated
from gateway.message import Body, Request, Response


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


# -- Validation

def test_a_304_makes_it_fresh_again(world):
    world.answer = ok("max-age=10", ETag='"v"', Last_Modified="Sun, 06 Nov 1994 08:49:37 GMT", X_A="1")
    world.ask()
    world.offset = 20.0
    world.answer = Response(304, [("Cache-Control", "max-age=30"), ("ETag", 'W/"v"'), ("X-B", "2")])
    response = world.ask()
    assert world.seen[1].header("If-None-Match") == '"v"'
    assert world.seen[1].header("If-Modified-Since") == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert (response.status, response.text, response.header("X-A"), response.header("X-B")) == (200, b"hello", "1", "2")
    assert status_of(response) == ["wicketgate; fwd=stale; fwd-status=304; stored"]
    world.offset = 49.0
    assert status_of(world.ask()) == ["wicketgate; hit; ttl=1"]


@pytest.mark.parametrize("asked, status", [(("If-None-Match", '"v"'), 304), (("Range", "bytes=0-1"), 206), (("X", "y"), 200)])
def test_the_age_of_a_new_answer_is_told_whatever_is_made_of_it(world, asked, status):
    world.answer = ok(ETag='"v"', Age="7")
    response = world.ask(asked)
    assert (response.status, response.header_list("Age")) == (status, ["7"])
    assert status_of(response) == ["wicketgate; fwd=uri-miss; fwd-status=200; stored"], "what the origin said"


def test_another_answer_takes_its_place_and_an_error_does_not(world):
    world.answer = ok("max-age=10", ETag='"v"')
    world.ask()
    world.offset = 20.0
    world.answer = ok(status=500, cc="", body=b"broken")
    assert world.ask().text == b"broken"
    world.answer = ok("max-age=10", body=b"newer", ETag='"w"')
    assert [world.ask().text, world.ask().text] == [b"newer", b"newer"]


def test_a_304_about_something_else_is_no_answer(world):
    world.answer = ok("max-age=10", ETag='"v"')
    world.ask()
    world.offset = 20.0
    world.answer = lambda request: Response(304, [("ETag", '"w"')]) if request.header("If-None-Match") else ok(body=b"newer")
    assert world.ask().text == b"newer"
    assert len(world.seen) == 3
    assert world.count("gateway_cache_requests_total", outcome="stale") == 1, "it is one request, though it went on twice"


def test_an_answer_that_may_no_longer_be_kept_is_forgotten(world):
    world.answer = ok("max-age=10", ETag='"v"')
    world.ask()
    world.offset = 20.0
    world.answer = Response(304, [("Cache-Control", "no-store")])
    assert world.ask().text == b"hello"
    assert world.store.get("http://shop.test/a") is None


def test_no_cache_is_validated_every_time_and_by_each_for_itself(world):
    world.answer = lambda request: Response(304, []) if request.header("If-None-Match") else ok("no-cache", ETag='"v"')
    assert [world.ask().text for _ in range(3)] == [b"hello"] * 3
    assert len(world.seen) == 3


def test_the_client_gets_its_304_whatever_had_to_be_asked(world):
    world.answer = lambda request: Response(304, []) if request.header("If-None-Match") == '"v"' else ok("max-age=10", ETag='"v"')
    cold = world.ask(("If-None-Match", '"v"'))                           # taken off: the whole answer is for all
    warm = world.ask(("If-None-Match", 'W/"v"'))
    world.offset = 20.0
    stale = world.ask(("If-None-Match", '"v"'))
    other = world.ask(("If-None-Match", '"x"'))
    assert [one.status for one in (cold, warm, stale, other)] == [304, 304, 304, 200]
    assert [seen.header("If-None-Match") for seen in world.seen] == ["", '"v"']


def test_parts(world):
    world.answer = lambda request: ok(status=206, body=b"he", Content_Range="bytes 0-1/5") if request.header("Range") else ok()
    cold = world.ask(("Range", "bytes=0-1"))
    assert (cold.status, cold.text, world.store.get("http://shop.test/a")) == (206, b"he", None)     # 206 does not fill 200
    assert world.ask().text == b"hello"
    warm = world.ask(("Range", "bytes=1-2"))
    assert (warm.status, warm.text, warm.header("Content-Range"), len(world.seen)) == (206, b"el", "bytes 1-2/5", 2)


# -- Stale

def test_stale_while_revalidate(world):
    world.answer = ok("max-age=10, stale-while-revalidate=30")
    world.ask()
    world.offset = 20.0
    began = Event()

    def slow(request):
        began.wait(SAFETY)
        return ok("max-age=10", body=b"newer")

    world.answer = slow
    served = [world.ask() for _ in range(3)]
    settle()
    assert [one.text for one in served] == [b"hello"] * 3
    assert status_of(served[0]) == ["wicketgate; hit; ttl=-10"]
    assert len(world.seen) == 2                                          # one refresh for all
    assert world.seen[1].connection is None
    began.set()
    settle()
    assert world.ask().text == b"newer"
    assert world.count("gateway_cache_refreshes_total", result="done") == 1


def test_a_head_refreshes_by_a_get(world):
    world.answer = ok("max-age=10, stale-while-revalidate=30")
    world.ask()
    world.offset = 20.0
    world.answer = lambda request: ok(body=request.method.encode())
    world.ask(method="HEAD")
    settle()
    assert world.ask().text == b"GET"


def test_a_refresh_that_fails_is_not_tried_at_once_again(world):
    world.answer = ok("max-age=10, stale-while-revalidate=30")
    world.ask()
    world.offset = 20.0

    def broken(request):
        raise ConnectFailed("refused")

    world.answer = broken
    for _ in range(3):
        assert world.ask().text == b"hello"
        settle()
    assert len(world.seen) == 2
    assert world.count("gateway_cache_refreshes_total", result="failed") == 1


def test_a_streamed_refresh_is_read_to_its_end(world):
    world.answer = ok("max-age=10, stale-while-revalidate=30")
    world.ask()
    world.offset = 20.0
    stream = Stream(b"ne", b"wer")
    world.answer = lambda request: ok(body=stream)
    world.ask()
    settle()
    assert (world.ask().text, stream.closed) == (b"newer", True)


def refused(request):
    raise ConnectFailed("refused")


def crashed(request):
    raise InternalError("a view")


def late(request):
    raise UpstreamTimeout("late")


@pytest.mark.parametrize("cc, policy, failing, stale", [
    ("max-age=10, stale-if-error=30", {}, refused, True),
    ("max-age=10, stale-if-error=30", {}, late, True),
    ("max-age=10, stale-if-error=30", {}, crashed, True),
    ("max-age=10, stale-if-error=30", {}, ok(status=503), True),
    ("max-age=10, stale-if-error=30", {}, ok(status=504), True),
    ("max-age=10, stale-if-error=30", {}, ok(status=501), False),        # an answer, though not a good one
    ("max-age=10, stale-if-error=5", {}, ok(status=503), False),
    ("max-age=10", {}, ok(status=503), False),
    ("max-age=10", {}, refused, True),                                   # section 4.2.4: disconnected
    ("max-age=10, must-revalidate", {}, refused, False),
    ("s-maxage=10", {}, refused, False),
    ("max-age=10", {"stale_if_error": "1m"}, ok(status=503), True),
    ("max-age=10", {"stale_if_error": "5s"}, refused, False),
    ("max-age=10, stale-if-error=0", {}, refused, False),
])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_stale_if_error(world, cc, policy, failing, stale, method):
    world.cache(policy)
    world.answer = ok(cc)
    world.ask()
    world.offset = 20.0
    world.answer = failing
    if stale:
        response = world.ask(method=method)
        assert response.text == b"hello"
        [said] = status_of(response)                     # it was forwarded: no hit (RFC 9211 section 2.1)
        status = "" if callable(failing) else f"; fwd-status={failing.status}"
        assert said.startswith(f"wicketgate; fwd=stale{status}; ttl=-10; detail=")
        again = world.ask(method=method)                 # for a moment nobody tries again
        assert (again.text, status_of(again), len(world.seen)) == (b"hello", ["wicketgate; hit; ttl=-10"], 2)
    elif callable(failing):
        with pytest.raises(ConnectFailed):
            world.ask(method=method)
    else:
        assert world.ask(method=method).status == failing.status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("failing", [refused, ok(status=503)])
def test_a_client_may_refuse_stale_answers(world, method, failing):
    world.answer = ok("max-age=10, stale-if-error=60")
    world.ask()
    world.offset = 20.0
    world.answer = failing
    asked = ("Cache-Control", "stale-if-error=0")
    if callable(failing):
        with pytest.raises(ConnectFailed):
            world.ask(asked, method=method)
    else:
        assert world.ask(asked, method=method).status == 503


def test_early_refresh(world):
    world.cache({"early_refresh": True}, draw=lambda: 0.999999)

    def slow(request):
        world.offset += 1.0
        return ok(body=str(len(world.seen)).encode())

    world.answer = slow
    world.ask()
    world.offset += 55.0
    assert world.ask().text == b"1"
    settle()
    assert world.ask().text == b"2"


# -- HEAD, POST and what they change

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


# -- Policy

def test_the_same_bytes_of_another_type_are_another_question(world):
    world.cache({"methods": ["GET", "POST"], "ttl": "60s"})
    kinds = ("application/json", "text/plain", "application/json")
    for number, kind in enumerate(kinds):
        world.answer = ok("", str(number).encode())
        answer = world.ask(("Content-Type", kind), method="POST", body=Body.of(b"{}"))
        assert answer.text == str(number if number < 2 else 0).encode()


def test_ttl_and_negative_ttl(world):
    world.cache({"ttl": "30s", "negative_ttl": "5s"})
    world.answer = ok("")
    world.ask()
    world.answer = ok("", b"nothing", 404)
    world.ask(target="/b")
    world.offset = 4.0
    assert [status_of(world.ask(target=target))[0][-5:] for target in ("/a", "/b")] == ["tl=26", "ttl=1"]
    world.offset = 6.0
    world.ask(target="/b")
    assert len(world.seen) == 3


def test_min_uses(world):
    world.cache({"min_uses": 3, "explain": True})
    answers = [status_of(world.ask())[0] for _ in range(4)]
    assert ["stored" in answer for answer in answers] == [False, False, True, False]
    assert 'detail="uses"' in answers[0] and "hit" in answers[3]


def test_callers_have_answers_of_their_own(world):
    world.cache({"vary_by_caller": True})
    world.answer = lambda request: ok("private, max-age=60", request.header("Authorization").encode())
    for _ in range(2):
        assert [world.ask(("Authorization", name)).text for name in ("ann", "bob")] == [b"ann", b"bob"]
    assert len(world.seen) == 2
    world.ask(), world.ask()
    assert len(world.seen) == 4                                          # private is of nobody: not kept


@pytest.mark.parametrize("policy, answer, hit, expected", [
    ({"edge": "10s"}, ok("public, max-age=60"), False, "10"), ({"edge": "10s"}, ok("public, max-age=60"), True, "10"),
    ({"edge": "10s"}, ok("s-maxage=5"), True, "4"),                      # and nginx's own second is within the lifetime too
    ({"edge": "10s"}, ok("s-maxage=1"), True, "0"), ({"edge": "10s"}, ok("s-maxage=12"), True, "10"),
    ({"edge": "10s"}, ok("max-age=1, stale-while-revalidate=60, public"), True, "0"),
    ({"edge": "10s", "stale_while_revalidate": "60s"}, ok("public, max-age=1"), True, "10"),
    ({"edge": "10s"}, ok(), True, "10"),                                 # whoever has a cookie is sent past nginx's cache
    ({"edge": "10s"}, ok(Vary="Cookie"), True, "10"),
    ({"edge": "10s", "key": {"cookies": []}}, ok(), True, "10"),
    ({"edge": "10s"}, ok("no-store", X_Accel_Expires="3600"), False, "0"),
    ({}, ok(), True, ""), ({"edge": "10s"}, ok("no-cache", ETag='"v"'), False, "0"),
    ({"edge": "10s", "ttl": "1h"}, ok(""), True, "10"),
    ({"edge": "10s", "ttl": "1h", "key": {"cookies": []}}, ok(""), True, "10"),
    ({"edge": "10s", "key": {"headers": ["X-A"]}}, ok(), True, "0"),
    ({"edge": "10s", "vary_by_caller": True}, ok(), True, "0")])
def test_what_nginx_in_front_is_told(world, policy, answer, hit, expected):
    world.cache(policy)
    world.answer = answer
    response = world.ask()
    said = [value for name, value in (world.ask() if hit else response).headers if name == "X-Accel-Expires"]
    assert said == ([expected] if expected else [])


@pytest.mark.parametrize("control, seconds, behind", [
    ("public, max-age=60", "10", False), ("max-age=60, stale-while-revalidate=30", "10", True),
    ("max-age=60, Stale-If-Error=9", "10", True),
    ("max-age=8, stale-while-revalidate=30", "7", True),                 # nginx adds what comes after
    ("max-age=1, stale-while-revalidate=60", "0", True),
    ("max-age=60, must-revalidate, stale-while-revalidate=55", "4", True),           # to the end of its lifetime and no longer
    ("max-age=60, must-revalidate, STALE-while-revalidate=600", "0", True),
    ("s-maxage=60, stale-while-revalidate=55", "4", True), ("s-maxage=60, stale-if-error=600", "0", True),
    ("max-age=60, stale-while-revalidate=5, stale-while-revalidate=600", "0", True),
    ("max-age=60, stale-while-revalidate=" + "9" * 5000, "0", True),
    ('max-age=60, private="X-A", stale-while-revalidate=30', "10", False)])
def test_nginx_may_heed_the_windows_of_the_answer_itself(world, control, seconds, behind):
    """Before 1.23 it does so only when Cache-Control comes first, later always."""
    world.cache({"edge": "10s"})
    world.answer = ok(control)
    for _ in range(2):
        response = world.ask()
        names = [name for name, _ in response.headers]
        assert response.header("X-Accel-Expires") == seconds
        assert (names.index("X-Accel-Expires") > names.index("Cache-Control")) is behind


def test_our_own_targeted_field_stays_with_us(world):
    world.answer = ok("no-store", Wicketgate_Cache_Control="max-age=60", CDN_Cache_Control="max-age=5")
    for response in (world.ask(), world.ask()):
        assert not response.header("Wicketgate-Cache-Control") and response.header("CDN-Cache-Control")
    assert len(world.seen) == 1


@pytest.mark.parametrize("policy, control, fields, seconds", [
    ({}, "max-age=600, stale-while-revalidate=600", {"CDN_Cache_Control": "max-age=60"}, "0"),
    ({}, "max-age=600, stale-while-revalidate=40", {"CDN_Cache_Control": "max-age=60"}, "19"),
    ({"stale_while_revalidate": "10s"}, "max-age=60, stale-while-revalidate=60", {}, "9"),
    ({"stale_if_error": "10s"}, "max-age=60, stale-while-revalidate=20, stale-if-error=65", {}, "14"),
    ({"ttl": "60s", "respect": "policy"}, "no-cache, stale-while-revalidate=600", {}, "0"),
    ({"ttl": "60s", "respect": "policy"}, "no-cache, max-age=1", {}, "20"),
])
def test_the_windows_that_nginx_reads_are_not_more_than_holds_here(world, policy, control, fields, seconds):
    """nginx reads Cache-Control alone. What else decides here may be stricter."""
    world.cache({"edge": "20s", **policy})
    world.answer = ok(control, **fields)
    assert [world.ask().header("X-Accel-Expires") for _ in range(2)] == [seconds] * 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_our_own_targeted_field_ends_on_routes_without_a_cache_too(world, method):
    """Beside routes that have one, in whatever case and however often it is said."""
    world.answer = Response(200, [("WICKETGATE-cache-control", "private"), ("X-A", "1"), ("Wicketgate-Cache-Control", "max-age=9"),
                                  ("CDN-Cache-Control", "max-age=5")], b"")
    response = Invalidate(world.upstream, world.store)(Request(method, "/a", [], host="shop.test"))
    assert response.headers == [("X-A", "1"), ("CDN-Cache-Control", "max-age=5")]


@pytest.mark.parametrize("control, stored", [("max-age=60", True), ("no-store", False), ("private", False)])
@pytest.mark.parametrize("asks", [{}, {"method": "HEAD"}, {"method": "DELETE"}, {"field": ("Upgrade", "x")},
                                  {"field": ("Cache-Control", "no-store")}])
def test_what_is_for_a_cdn_in_front_reaches_it_whatever_way_an_answer_takes(world, asks, control, stored):
    """Surrogate-Control is the next one's to heed and to take off; ours alone ends here, also on what goes past the cache."""
    given = {"Surrogate-Control": "max-age=9", "CDN-Cache-Control": control, "Surrogate-Key": "a", "Vary": "Accept",
             "ETag": '"v"', "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}
    world.answer = ok("max-age=3", Wicketgate_Cache_Control=control,
                      **{name.replace("-", "_"): value for name, value in given.items()})
    fields = [asks["field"]] if "field" in asks else []
    for response in [world.ask(*fields, method=asks.get("method", "GET")) for _ in range(2)]:
        assert {name: response.header(name) for name in given} == given
        assert response.header("Cache-Control") == "max-age=3" and not response.header("Wicketgate-Cache-Control")
    assert len(world.seen) == (1 if stored and not asks else 2)


@pytest.mark.parametrize("policy, answer, asked, served", [
    ({"ttl": "30s"}, ok(""), [], True),
    ({"ttl": "30s"}, ok(""), [("Cookie", "sid=1")], False),
    ({"ttl": "30s"}, ok(""), [("Authorization", "x")], False),
    ({"ttl": "30s", "key": {"cookies": []}}, ok(""), [("Cookie", "sid=1")], True),
    ({"ttl": "30s", "key": {"cookies": []}}, ok(""), [("Authorization", "x")], False),
    ({}, ok("", Last_Modified="Sun, 06 Nov 1994 08:49:37 GMT"), [("Cookie", "sid=1")], False),
    ({}, ok(), [("Cookie", "sid=1")], False),
    ({}, ok(), [("COOKIE", "")], False),
    ({}, ok("max-age=60, public"), [("Cookie", "sid=1")], True),         # the answer itself said that it is for all
    ({}, ok("max-age=60, public"), [("Cookie", "sid=1"), ("Authorization", "x")], True),
    ({"key": {"cookies": []}}, ok(), [("Cookie", "sid=1")], True),
    ({"ttl": "30s"}, ok("public"), [("Cookie", "sid=1"), ("Authorization", "x")], True),
    ({"vary_by_caller": True}, ok(), [("Cookie", "sid=1")], False),      # a cookie tells no callers apart
    ({}, ok(), [("Authorization", "x")], True)])
def test_who_shows_himself_gets_what_is_for_everybody(world, policy, answer, asked, served):
    world.cache(policy)
    world.answer = answer
    world.ask()
    world.answer = ok("", b"ann's own")
    assert world.ask(*asked).text == (b"hello" if served else b"ann's own")
    assert world.ask().text == b"hello"


def test_users_with_cookies_do_not_hold_strangers_up(world):
    world.cache({"ttl": "30s"})
    world.answer = ok("")
    world.ask(("Cookie", "sid=1"))                                       # not kept, and remembered as such
    predictor = world.step.fetch.predictor
    assert predictor.worth_waiting("http://shop.test/a") and not predictor.worth_waiting(("http://shop.test/a", COOKIE))


def test_a_change_is_noticed_whatever_does_not_count_of_the_query(world):
    world.cache({"key": {"ignore_query": ["utm_*"]}})
    world.ask(target="/a?utm_source=x")
    assert world.ask(target="/a").text == b"hello" and len(world.seen) == 1
    world.answer = ok("", b"", 204)
    world.ask(target="/a?utm_source=y", method="POST")
    world.base = time.time()
    world.answer = ok(body=b"newer")
    assert world.ask(target="/a").text == b"newer"


# -- Safety

@pytest.mark.parametrize("policy, target, asked, answer", [
    ({}, "/account/x.css", [("Cookie", "sid=1")], ok("", b"ann's account", Last_Modified="Sun, 06 Nov 1994 08:49:37 GMT")),
    ({"ttl": "30s"}, "/account/x.css", [("Cookie", "sid=1")], ok("", b"ann's account")),
    ({"ttl": "30s"}, "/account", [("Authorization", "ann")], ok("", b"ann's account")),
    ({"ttl": "30s"}, "/login", [], ok("", b"welcome", Set_Cookie="sid=1")),
    ({"ttl": "30s"}, "/a", [("X-Forwarded-Scheme", "nothttps")], ok("", b"", 301, Location="https://shop.test/a")),
    ({"ttl": "30s"}, "/a", [("X-Host", "evil.test")], ok("", b"<script src=//evil.test>")),
    ({"ttl": "30s", "negative_ttl": "9s"}, "/a", [("X-Odd", "\x7f" * 9000)], ok("", b"bad request", 400)),
    ({}, "/a", [("X-Odd", "\x7f" * 9000)], ok("max-age=60", b"too large", 431)),
    ({}, "/a", [("X-Odd", "\x7f")], ok("max-age=60", b"bad request", 400)),
    ({"ttl": "30s"}, "/a", [("X-HTTP-Method-Override", "HEAD")], ok("", b"")),
    ({"ttl": "30s"}, "/a", [], ok("", b"overloaded", 503)),
])
def test_what_one_client_provoked_or_owns_is_not_for_others(world, policy, target, asked, answer):
    world.cache(policy)
    world.answer = answer
    world.ask(*asked, target=target)
    world.answer = ok(body=b"clean")
    assert world.ask(target=target).text == b"clean"


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
