"""What ``gateway explain`` says of a request is what happens to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from answers import CC, exchange, request_field
from asking import Stream, World, at_once, ok, settle, status_of
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache.entry import FLAG_NAMES, flag_names
from gateway.cache.explanation import entry_of_admin
from gateway.cache.reasons import Decision, NotStored
from gateway.message import Body, Request, Response
from tests.waiting import until

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "cache.md").read_text()
KEY = "http://shop.test/a"
COOKIE, AUTHORIZATION = ("Cookie", "sid=1; x=2"), ("Authorization", "x")


def explained(policy, *headers, method="GET", target="/a", port="", trusted=False):
    world = World()
    request = Request(method, target, list(headers), host="shop.test")
    request.port, request.trusted = port, trusted
    return world.cache(policy).explain(request)


@pytest.mark.parametrize("policy, asked, said", [
    ({}, {}, ["key: http://shop.test/a", "waiting: one request for this key goes on, the others wait for it"]),
    ({}, {"method": "DELETE"}, ["goes past the cache: the method DELETE",
                                "a success makes what is stored for http://shop.test/a invalid"]),
    ({}, {"method": "OPTIONS"}, ["goes past the cache: the method OPTIONS"]),
    ({"methods": ["GET", "POST"]}, {"method": "POST"}, ["key: http://shop.test/a | POST", "a POST is told apart by its body, too"]),
    ({}, {"method": "HEAD"}, ["a HEAD is answered from a stored GET; its own answer is not stored",
                              "waiting: for nobody, a HEAD asks for itself"]),
    ({}, {"headers": [("Cache-Control", "no-store")]}, ["goes past the cache: the client says no-store"]),
    ({"client_directives": False}, {"headers": [("Cache-Control", "no-store")]},
     ["key: http://shop.test/a", "what the client says in Cache-Control and Pragma is not heeded (client_directives)"]),
    ({}, {"headers": [("X-Host", "evil.test")]},
     ["goes past the cache: x-host makes some frameworks answer for another method or address"]),
    ({}, {"headers": [("If-Match", '"v"')]}, ["goes past the cache: if-match is for the origin alone to judge"]),
    ({}, {"headers": [("Cache-Control", "only-if-cached")]}, ["only-if-cached: 504 when it is not stored"]),
    ({}, {"headers": [("Cache-Control", "only-if-cached"), ("If-Match", '"v"')]},
     ["only-if-cached: 504, since it would go past the cache: if-match is for the origin alone to judge"]),
    ({}, {"headers": [("Cache-Control", "only-if-cached"), ("If-Match", '"v"')], "method": "PUT"},
     ["goes past the cache: the method PUT"]),
    ({"methods": ["GET", "POST"]}, {"headers": [("If-None-Match", '"v"')], "method": "POST"},
     ["goes past the cache: if-none-match is for the origin alone to judge"]),
    ({}, {"headers": [("Pragma", "no-cache")]}, ["no-cache: what is stored is validated first"]),
    ({}, {"headers": [("Cache-Control", "max-age=5, min-fresh=6, max-stale, stale-if-error=7")]},
     ["max-age: 5 s", "min-fresh: 6 s", "max-stale: of any age", "stale-if-error: 7 s"]),
    ({}, {"headers": [("If-None-Match", '"v"')]}, ["its conditions are answered here, by what is stored"]),
    ({}, {"headers": [("Range", "bytes=0-1")]},
     ["a part is cut out of what is stored; when nothing is, it is asked for as it is, and not stored",
      "waiting: for nobody, a part is of no use to others"]),
    ({"min_uses": 3}, {}, ["stored from the 3th request for the same on"]),
    ({"key": {"query": ["page"], "headers": ["X-Team"], "cookies": ["x"]}},
     {"target": "/a?page=1&_=2&page=3", "headers": [COOKIE, ("X-Team", "b")]},
     ["key: http://shop.test/a?page=1&page=3 | x-team: b | cookie x=2", "not in the key: query _=2",
      "not in the key: cookies sid"]),
    ({"key": {"headers": ["X-Team"]}},
     {"trusted": True, "headers": [("X-Forwarded-Ssl", "on"), ("X-Team", "b"), ("Front-End-Https", "on")]},
     ["key: http://shop.test/a | x-team: b | front-end-https: on | x-forwarded-ssl: on"]),
    ({}, {"headers": [("X-Forwarded-Ssl", "on")]},
     ["goes past the cache: x-forwarded-ssl makes some frameworks answer for another method or address"]),
    ({}, {"trusted": True, "headers": [("X-HTTP-Method", "PUT")]},
     ["goes past the cache: x-http-method makes some frameworks answer for another method or address"]),
    ({}, {"port": "8443"}, ["key: http://shop.test/a | port 8443"]),
    ({}, {"port": "80"}, ["key: http://shop.test/a", "not in the key: port 80, which the address says"]),
    ({}, {"headers": [COOKIE]},
     ["Cookie: its answer is stored only with public, s-maxage or a lifetime in a field for shared caches, or Vary: Cookie",
      "Cookie: it gets what is stored only when that is for everybody; key.cookies says which cookies count",
      "waiting: with those that send a cookie, too, once it is known that answers are for all of them"]),
    ({}, {"headers": [AUTHORIZATION]},
     ["Authorization: its answer is stored only with public, s-maxage, or must-revalidate with a lifetime",
      "Authorization: it gets what is stored unless its lifetime is the route's or a guess",
      "waiting: for nobody, what was made for one caller is not for others"]),
    ({"vary_by_caller": True}, {"headers": [AUTHORIZATION, COOKIE]}, ["caller: has answers of its own"]),
    ({"vary_by_caller": True}, {"headers": [COOKIE]}, ["caller: none is known, so it shares with strangers"]),
])
def test_what_is_said_of_a_request(policy, asked, said):
    lines = explained(policy, *asked.pop("headers", ()), **asked)
    assert [line for line in said if line not in lines] == []


# -- Serving does what is explained

def explained_decision(world, request):
    """The decision that explain prints for a request, found by its words."""
    key, lines = world.step.lookup_key(request), world.step.explain(request)
    only_if_cached = any(line.startswith("only-if-cached: 504") for line in lines)
    if key is not None and (stored := world.store.get(key)) is not None:
        lines = world.step.explain(request, stored)
        only_if_cached = lines[-1] == "504 instead of that: only-if-cached"
        lines = lines[:-1] if only_if_cached else lines
    elif key is not None:
        lines = [Decision.URI_MISS.sentence]
    [decision] = [one for one in Decision if re.fullmatch(
        f"(goes past the cache: |only-if-cached: 504, since it would go past the cache: )?{words(one)}",
        lines[0] if key is None else lines[-1])]
    return Decision.ONLY_IF_CACHED if only_if_cached else decision


def words(decision):
    return re.escape(decision.sentence).replace(re.escape("{detail}"), ".+")


later = st.sampled_from([0.0, 1.0, 8.0, 29.0, 31.0, 45.0, 100.0, 4000.0])
wish = st.one_of(
    request_field, st.tuples(st.just(CC), st.sampled_from(["only-if-cached", "only-if-cached, max-age=0", "max-age=1"])),
    st.sampled_from([("If-Match", '"a"'), ("X-Original-URL", "/b"), ("If-None-Match", '"a"'), ("Range", "bytes=0-1")]))


@settings(deadline=None)
@given(exchange, st.lists(wish, max_size=3), st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "PUT"]), later, st.booleans())
def test_serving_does_what_is_explained(exchanged, headers, method, seconds, post):
    fields, first, status, policy, _ = exchanged
    world = World()
    world.cache({**policy, "methods": ["GET", "HEAD", "POST"] if post else ["GET", "HEAD"]})
    world.answer = Response(status, fields, b"hello")
    world.ask(*first)
    if post:
        world.ask(*first, method="POST")
    world.offset, world.answer = seconds, ok("no-store")
    decision = explained_decision(world, Request(method, "/a", headers, host="shop.test"))
    [status] = status_of(world.ask(*headers, method=method))
    settle()
    assert world.note == {"cache": decision.label}
    assert f"; fwd={decision.fwd}" in status if decision.fwd else "; fwd=" not in status
    assert ("; hit" in status) is decision.serves


REACHED = {
    Decision.HIT: ({}, "max-age=60", []),
    Decision.STALE_WHILE_REVALIDATE: ({}, "max-age=5, stale-while-revalidate=60", []),
    Decision.MAX_STALE: ({}, "max-age=5", [(CC, "max-stale")]),
    Decision.STALE: ({}, "max-age=5", []),
    Decision.NO_CACHE: ({}, "max-age=60, no-cache", []),
    Decision.REQUEST: ({}, "max-age=60", [(CC, "max-age=5")]),
    Decision.URI_MISS: ({}, "no-store", []),
    Decision.VARY_MISS: ({}, "max-age=60", [("Accept-Language", "de")]),
    Decision.COOKIE: ({}, "max-age=60", [COOKIE]),
    Decision.AUTHORIZATION: ({"ttl": "60s"}, "", [AUTHORIZATION]),
    Decision.METHOD: ({}, "max-age=60", [], {"method": "DELETE"}),
    Decision.NO_STORE: ({}, "max-age=60", [(CC, "no-store")]),
    Decision.PRECONDITION: ({}, "max-age=60", [("If-Match", '"v"')]),
    Decision.CONFUSING: ({}, "max-age=60", [("X-Original-URL", "/b")]),
    Decision.ONLY_IF_CACHED: ({}, "no-store", [(CC, "only-if-cached")]),
    # what is not known from the request and what is stored: explain cannot say it
    Decision.BODY: ({}, "max-age=60", [], {"body": Body.of(b"x")}),
    Decision.COLLAPSED: ({}, "no-store", []),
    Decision.STALE_IF_ERROR: ({}, "max-age=5, stale-if-error=60", []),
}
UNFORESEEN = {Decision.BODY, Decision.COLLAPSED, Decision.STALE_IF_ERROR}


@pytest.mark.parametrize("decision", Decision)
def test_every_decision_is_reached(decision):
    """It is explained, counted, logged and documented, and Cache-Status has its fwd."""
    policy, cc, headers, *more = REACHED[decision]
    asked = more[0] if more else {}
    world = World()
    world.cache(policy)
    world.answer = ok(cc, ETag='"v"', Vary="Accept-Language")
    world.ask()
    world.offset = 10.0
    explained = explained_decision(world, Request(asked.get("method", "GET"), "/a", headers, host="shop.test"))
    assert explained is decision or decision in UNFORESEEN
    before = world.count("gateway_cache_requests_total", outcome=decision.label)
    if decision is Decision.COLLAPSED:
        world.cache()                                    # it does not know yet that waiting is for nothing
        world.answer = lambda request: until(lambda: world.step.fetch.flights.flying[KEY].crowd == 1) and ok()
        assert [one.text for one in at_once(world, 2)] == [b"hello"] * 2
    else:
        world.answer = ok("", b"broken", 503) if decision is Decision.STALE_IF_ERROR else world.answer
        [status] = status_of(world.ask(*headers, **asked))
        settle()
        assert world.note == {"cache": decision.label}
        assert f"; fwd={decision.fwd}" in status if decision.fwd else decision is Decision.STALE_IF_ERROR or "; fwd=" not in status
    assert world.count("gateway_cache_requests_total", outcome=decision.label) == before + 1
    assert f"`{decision.label}`" in DOCUMENTED


def test_what_the_admin_listener_tells_is_an_entry_again():
    """The same words about it, whoever had it."""
    told = {"status": 200, "url": "http://shop.test/a", "bytes": 3, "age": 5.0, "fresh_for": 55.0, "stale_while_revalidate": 60.0,
            "stale_if_error": 65.0, "flags": flag_names(sum(FLAG_NAMES)), "tags": [], "vary": [["accept", None], ["x", "1"]],
            "headers": [["Content-Type", "a/b"]]}
    entry = entry_of_admin(told, 1000.0)
    assert (entry.status, entry.born, entry.expires, entry.stale_while_revalidate) == (200, 995.0, 1055.0, 1060.0)
    assert (entry.flags, entry.vary, entry.headers) == (sum(FLAG_NAMES), (("accept", None), ("x", "1")), [("Content-Type", "a/b")])


# -- Every reason: it happens, it is counted, and the documentation says what it means

PLAIN = ok()


def truncated(request):
    return ok(body=Stream(b"hel"), Content_Length="65537")


def purging(world):
    def answer(request):
        world.store.purger.purge(url="http://shop.test/a")
        return ok()
    return answer


REFUSED = {
    "method": ({}, {"method": "POST"}, None),
    "request": ({}, {"headers": [("Cache-Control", "no-store")]}, None),
    "partial": ({}, {"headers": [("Range", "bytes=0-0")]}, ok(status=206, body=b"h")),
    "vary": ({}, {}, ok(Vary="*")),
    "set-cookie": ({}, {}, ok(Set_Cookie="a=1")),
    "no-store": ({}, {}, ok("no-store")),
    "private": ({}, {}, ok("private")),
    "provoked": ({}, {}, ok(status=400)),
    "authorization": ({}, {"headers": [AUTHORIZATION]}, PLAIN),
    "cookie": ({}, {"headers": [COOKIE]}, PLAIN),
    "status": ({}, {}, ok("", status=302)),
    "useless": ({}, {}, ok("")),
    "length": ({}, {}, ok(Content_Length="6")),
    "size": ({"max_object": 4}, {}, PLAIN),
    "cut": ({}, {}, truncated),
    "uses": ({"min_uses": 2}, {}, PLAIN),
    "purged": ({}, {}, purging),
    "changed": ({}, {"method": "HEAD", "headers": [("Cache-Control", "no-cache")]}, ok(ETag='"w"')),
    "HEAD": ({}, {"method": "HEAD"}, PLAIN),
}


@pytest.mark.parametrize("reason", NotStored)
def test_every_reason_not_to_store_is_reached(reason):
    """It is counted and documented, and Cache-Status says it."""
    policy, asked, answer = REFUSED[reason]
    world = World()
    world.cache({**policy, "explain": True})
    if reason is NotStored.CHANGED:
        world.answer = ok(ETag='"v"')
        world.ask()
    world.answer = answer(world) if answer is purging else answer or PLAIN
    [status] = status_of(world.ask(*asked.get("headers", ()), method=asked.get("method", "GET")))
    if reason in (NotStored.METHOD, NotStored.REQUEST):  # the cache has nothing to do with it, so it refuses nothing
        assert f"fwd={reason}" in status and world.count("gateway_cache_requests_total", outcome=reason) == 1
    else:
        assert world.count("gateway_cache_refused_total", reason=reason) == (reason is not NotStored.HEAD)
        assert reason in (NotStored.CUT, NotStored.CHANGED) or f'detail="{reason}"' in status      # these two are known too late
    assert f"\n| `{reason}` | " in DOCUMENTED or reason is NotStored.HEAD


@pytest.mark.parametrize("window, asked, comes, times, counted", [
    ("stale-while-revalidate", [], ok(body=b"new"), 1, {"stale-while-revalidate": 1}),
    ("stale-if-error", [], ok("", b"broken", 503), 1, {"stale": 1, "stale-if-error": 1}),
    ("stale-if-error", [], ok("", b"broken", 503), 3, {"stale": 1, "stale-if-error": 3}),
    ("x", [("Cache-Control", "max-stale")], ok(body=b"new"), 1, {"max-stale": 1}),
    ("x", [], Response(304, []), 1, {"stale": 1})])
def test_why_a_stale_answer_is_served(window, asked, comes, times, counted):
    world = World()
    world.cache()
    world.answer = ok(f"max-age=10, {window}=600", ETag='"v"')
    world.ask()
    world.offset, world.answer = 20.0, comes
    for _ in range(times):
        assert world.ask(*asked).text == b"hello"
    settle()
    for outcome in ("hit", "stale", "stale-while-revalidate", "stale-if-error", "max-stale"):
        assert world.count("gateway_cache_requests_total", outcome=outcome) == counted.get(outcome, 0)
    assert world.note == {"cache": list(counted)[-1]}
    assert all(f"`{outcome}`" in DOCUMENTED for outcome in counted)
