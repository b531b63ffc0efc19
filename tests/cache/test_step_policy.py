"""What the settings of a route change, what nginx in front is told, and what is not for others whatever they say."""

from __future__ import annotations

import time

import pytest
from asking import ok, status_of

from gateway.cache.purging.invalidation import Invalidate
from gateway.cache.request_directives import COOKIE
from gateway.message import Body, Request, Response


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
