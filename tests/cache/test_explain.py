"""What ``gateway explain`` says of a request is what happens to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import Stream, World, ok, settle, status_of

from gateway.cache.explain import entry_of
from gateway.cache.flags import NAMES, names_of
from gateway.message import Request, Response

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "cache.md").read_text()
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
    ({"methods": ["GET", "POST"]}, {"method": "POST"}, ["a POST is told apart by its body, too"]),
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


REQUESTS = [[], [COOKIE], [AUTHORIZATION], [COOKIE, AUTHORIZATION], [("Cache-Control", "no-store")],
            [("Cache-Control", "no-cache")], [("Cache-Control", "max-age=1")], [("X-Original-URL", "/b")], [("If-Match", '"v"')],
            [("Range", "bytes=0-1")], [("Accept-Language", "de")], [("Cache-Control", "only-if-cached")],
            [("Cache-Control", "only-if-cached"), COOKIE], [("Cache-Control", "only-if-cached"), ("Accept-Language", "de")],
            [("Cache-Control", "max-stale"), COOKIE]]


@pytest.mark.parametrize("asked", REQUESTS)
@pytest.mark.parametrize("cc", ["max-age=60", "public, max-age=60", "", "no-cache", "max-age=5, stale-while-revalidate=60",
                                "max-age=5, must-revalidate"])
@pytest.mark.parametrize("policy", [{}, {"ttl": "60s"}, {"key": {"cookies": []}}])
@pytest.mark.parametrize("fields", [{}, {"Vary": "Accept-Language"}])
def test_it_is_what_happens(policy, cc, fields, asked):
    """The verdict on what is stored, and Cache-Status of the same request."""
    world = World()
    world.cache(policy)
    world.answer = ok(cc, ETag='"v"', **fields)
    world.ask()
    world.offset = 10.0
    request = Request("GET", "/a", asked, host="shop.test")
    lines = world.step.explain(request)
    verdict = world.step.explain(request, world.store.get("http://shop.test/a"))[-1]
    [status] = status_of(world.ask(*asked))
    if lines[0].startswith("goes past"):
        assert "fwd=bypass" in status or "fwd=request" in status
    elif "504" in verdict:
        assert status == "wicketgate"
    elif "it is served" in verdict:
        assert "; hit;" in status
    elif "goes past" in verdict:
        assert "fwd=bypass" in status
    elif "vary-miss" in verdict:
        assert "fwd=vary-miss" in status
    else:
        assert verdict == "validated with the upstream first" and ("fwd=stale" in status or "fwd=request" in status)


def test_what_the_admin_listener_tells_is_an_entry_again():
    """The same words about it, whoever had it."""
    told = {"status": 200, "url": "http://shop.test/a", "bytes": 3, "age": 5.0, "fresh_for": 55.0, "stale_while_revalidate": 60.0,
            "stale_if_error": 65.0, "flags": names_of(sum(NAMES)), "tags": [], "vary": [["accept", None], ["x", "1"]],
            "headers": [["Content-Type", "a/b"]]}
    entry = entry_of(told, 1000.0)
    assert (entry.status, entry.born, entry.expires, entry.stale_while_revalidate) == (200, 995.0, 1055.0, 1060.0)
    assert (entry.flags, entry.vary, entry.headers) == (sum(NAMES), (("accept", None), ("x", "1")), [("Content-Type", "a/b")])


# -- Every reason: it happens, it is counted, and the documentation says what it means

PLAIN = ok()


def truncated(request):
    return ok(body=Stream(b"hel"), Content_Length="65537")


def purging(world):
    def answer(request):
        world.store.purge(url="http://shop.test/a")
        return ok()
    return answer


@pytest.mark.parametrize("reason, policy, asked, answer", [
    ("method", {}, {"method": "POST"}, None),
    ("request", {}, {"headers": [("Cache-Control", "no-store")]}, None),
    ("partial", {}, {"headers": [("Range", "bytes=0-0")]}, ok(status=206, body=b"h")),
    ("vary", {}, {}, ok(Vary="*")),
    ("set-cookie", {}, {}, ok(Set_Cookie="a=1")),
    ("no-store", {}, {}, ok("no-store")),
    ("private", {}, {}, ok("private")),
    ("authorization", {}, {"headers": [AUTHORIZATION]}, PLAIN),
    ("cookie", {}, {"headers": [COOKIE]}, PLAIN),
    ("status", {}, {}, ok("", status=302)),
    ("useless", {}, {}, ok("")),
    ("length", {}, {}, ok(Content_Length="6")),
    ("size", {"max_object": 4}, {}, PLAIN),
    ("cut", {}, {}, truncated),
    ("uses", {"min_uses": 2}, {}, PLAIN),
    ("purged", {}, {}, purging),
    ("changed", {}, {"method": "HEAD", "headers": [("Cache-Control", "no-cache")]}, ok(ETag='"w"')),
])
def test_every_reason_not_to_store(reason, policy, asked, answer):
    world = World()
    world.cache({**policy, "explain": True})
    if reason == "changed":
        world.answer = ok(ETag='"v"')
        world.ask()
    world.answer = answer(world) if answer is purging else answer or PLAIN
    [status] = status_of(world.ask(*asked.pop("headers", ()), **asked))
    if reason in ("method", "request"):                  # the cache has nothing to do with it, so it refuses nothing
        assert f"fwd={reason}" in status and world.count("gateway_cache_requests_total", outcome=reason) == 1
    else:
        assert world.count("gateway_cache_refused_total", reason=reason) == 1
        assert reason in ("cut", "changed") or f'detail="{reason}"' in status          # these two are known too late
    assert f"\n| `{reason}` | " in DOCUMENTED


@pytest.mark.parametrize("asked, counted", [
    ([], "uri-miss"), ([("Accept", "x/y")], "vary-miss"), ([("Cache-Control", "no-cache")], "request"),
    ([("If-Match", '"v"')], "bypass"), ([COOKIE], "cookie"), ([AUTHORIZATION], "authorization"),
    ([("Cache-Control", "only-if-cached")], "only-if-cached"), (["later"], "stale")])
def test_every_reason_to_go_on(asked, counted):
    world = World()
    world.cache({"ttl": "60s"})
    world.answer = ok("", Vary="Accept", ETag='"v"')
    if counted not in ("uri-miss", "only-if-cached"):
        world.ask()
    if asked == ["later"]:
        asked, world.offset = [], 61.0
    world.ask(*asked)
    assert world.count("gateway_cache_requests_total", outcome=counted) == 1
    assert world.note == {"cache": counted}
    assert f"`{counted}`" in DOCUMENTED


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
