"""The requirements of RFC 9111 and its neighbours for a shared cache, as exchanges through the whole step with a real store.

What is a matter of one answer or one look alone stands in test_decide.py, test_rules.py, test_key.py, test_fields.py and
test_conditional.py, by its section too. Here is what takes several exchanges: each row is a sentence with MUST or SHOULD, the
exchanges in their order, and what comes of them. Requirements for senders, for private caches, and about incomplete answers, which
are never kept, have no row.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import NamedTuple

import gevent
import pytest
from asking import Got, World, settle, status_of

from gateway.errors import ConnectFailed, UpstreamTimeout
from gateway.message import Response
from tests.waiting import SAFETY

CC, V, W = "Cache-Control", '"v"', 'W/"v"'
MAX = (CC, "max-age=60")
SHORT = (CC, "max-age=10")
LM = ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
OTHER_DATE = "Mon, 07 Nov 1994 08:49:37 GMT"


class X(NamedTuple):
    """One exchange: ``asked`` are the client's fields, ``comes`` is what the upstream would answer (status, fields, body) or
    raises. ``gets`` is what the client gets, a status or a body; ``asks``: is the upstream asked, and with which fields? ``at`` is
    the time in seconds. ``says`` are the values of fields that the client gets."""

    asked: tuple = ()
    comes: tuple | Exception = (200, (), b"new")
    gets: int | bytes = 200
    asks: bool | dict = True
    at: float = 0.0
    method: str = "GET"
    target: str = "/a"
    says: dict = {}


def first(*fields, body=b"old", **more):
    return X(comes=(200, fields, body), gets=body, **more)


def hit(*asked, gets=b"old", **more):
    return X(asked, gets=gets, asks=False, **more)


def on(*asked, gets=b"new", **more):
    """Not answered from what is stored."""
    return X(asked, gets=gets, **more)


def unchanged(*fields, asked=(), gets=b"old", asks=True, **more):
    return X(asked, comes=(304, fields, b""), gets=gets, asks=asks, **more)


ROWS = [
    # -- 3 Storing
    ("3", "MUST NOT store unless the method is understood", {}, [
        X(method="PROPFIND", comes=(200, [MAX], b"old"), gets=b"old"), on()]),
    ("3", "MUST NOT store unless the status is final", {}, [X(comes=(103, [MAX], b""), gets=103), on()]),
    ("3", "MUST NOT store 304 that is no answer to us", {}, [X(comes=(304, [MAX], b""), gets=304), on()]),
    ("3", "MUST NOT store no-store", {}, [first((CC, "no-store, max-age=60")), on()]),
    ("3", "MUST NOT store private", {}, [first((CC, "private, max-age=60")), on()]),
    ("3", "MUST NOT store with Authorization", {}, [X([("Authorization", "x")], (200, [MAX], b"old"), b"old"), on()]),
    ("3", "MUST NOT store without one of the reasons to", {}, [X(comes=(299, [LM], b"old"), gets=299), on()]),
    ("3", "public is such a reason", {}, [X(comes=(299, [LM, (CC, "public")], b"old"), gets=299), hit()]),
    ("3", "Expires is such a reason", {}, [X(comes=(299, [("Expires", "later")], b"old"), gets=b"old"), hit()]),
    ("3.1", "MUST include all fields, also unrecognized ones", {}, [
        first(MAX, ("X-Odd!", "a"), ("x-odd!", "b"), ("Link", "c")), hit(says={"X-Odd!": ["a", "b"], "Link": ["c"]})]),
    ("3.1", "MUST NOT store fields specific to the proxy", {}, [
        first(MAX, ("Proxy-Authenticate", "a"), ("Proxy-Authentication-Info", "b"), ("Proxy-Authorization", "c")),
        hit(says={"Proxy-Authenticate": [], "Proxy-Authentication-Info": [], "Proxy-Authorization": []})]),
    ("3.2", "MUST add each field of a 304, replacing what is there, but Content-Length", {}, [
        first(SHORT, ("ETag", V), ("X-A", "1"), ("X-B", "1"), ("Content-Type", "a/b")),
        unchanged(MAX, ("X-A", "2"), ("X-C", "3"), ("Content-Length", "999"), ("Content-Type", "c/d"), at=20),
        hit(at=21, says={"X-A": ["2"], "X-B": ["1"], "X-C": ["3"], "Content-Length": ["3"], "Content-Type": ["c/d"]})]),
    ("3.3", "MUST NOT use an incomplete answer", {}, [first(MAX, ("Content-Length", "9")), on()]),
    ("3.3", "MUST NOT send a part without 206", {}, [first(MAX), hit(("Range", "bytes=0-1"), gets=206), hit()]),
    ("3.3", "MUST NOT use a part for the whole", {}, [
        X([("Range", "bytes=0-1")], (206, [MAX, ("Content-Range", "bytes 0-1/3")], b"ol"), b"ol"), on()]),
    ("3.5", "must-revalidate allows what Authorization forbids", {}, [
        X([("Authorization", "x")], (200, [(CC, "max-age=10, must-revalidate")], b"old"), b"old"), hit(), on(at=10)]),
    ("3.5", "public does", {}, [X([("Authorization", "x")], (200, [(CC, "public, max-age=9")], b"old"), b"old"), hit()]),
    ("3.5", "s-maxage does", {}, [X([("Authorization", "x")], (200, [(CC, "s-maxage=9")], b"old"), b"old"), hit(), on(at=9)]),

    # -- 4 Constructing answers
    ("4", "MUST NOT reuse for another target", {}, [first(MAX), on(target="/a?"), on(target="/A"), on(target="/a/")]),
    ("4", "MUST NOT reuse for a method it is not for", {}, [first(MAX), on(method="POST"), on(method="OPTIONS", gets=200)]),
    ("4", "a HEAD may have the header of a stored GET", {}, [first(MAX), hit(method="HEAD", says={"Content-Length": ["3"]})]),
    ("4", "MUST NOT reuse no-cache without validation", {}, [
        first((CC, "no-cache, max-age=60"), ("ETag", V)), *[unchanged(asks={"If-None-Match": V})] * 2]),
    ("4", "MUST generate Age, replacing one that is there", {}, [first(MAX, ("Age", "7")), hit(at=5, says={"Age": ["12"]})]),
    ("4", "MUST write through unsafe requests", {}, [first(MAX), on(method="POST"), on(method="PUT"), on(method="DELETE"),
                                                     on(method="X-UNKNOWN")]),
    ("4.1", "MUST NOT use without matching fields", {}, [
        X([("X-A", "1")], (200, [MAX, ("Vary", "X-A")], b"old"), b"old"), hit(("X-A", "1")), hit(("x-a", " 1 ")),
        on(("X-A", "2")), on()]),
    ("4.1", "absent matches only absent", {}, [first(MAX, ("Vary", "X-A")), on(("X-A", "")), hit()]),
    ("4.1", "* always fails to match", {}, [first(MAX, ("Vary", "*")), on()]),
    ("4.1", "SHOULD choose one with a Vary, where others omit it", {}, [
        X([("X-A", "1")], (200, [MAX, ("Vary", "X-A")], b"old"), b"old"), X([("X-A", "2")], (200, [MAX], b"default"), b"default"),
        hit(("X-A", "1")), hit(("X-A", "3"), gets=b"default")]),

    # -- 4.2 Freshness
    ("4.2", "response_is_fresh = lifetime > age", {}, [first(SHORT), hit(at=9.9), on(at=10)]),
    ("4.2", "SHOULD match dates case-insensitively", {}, [first(("Expires", "LATER")), hit()]),
    ("4.2", "SHOULD take another zone than GMT as invalid", {}, [first(("Expires", "LATER EST")), on()]),
    ("4.2.1", "s-maxage, max-age, Expires, in this order", {}, [
        first((CC, "max-age=1, s-maxage=30"), ("Expires", "0")), hit(at=29), on(at=30)]),
    ("4.2.1", "the most restrictive of what conflicts", {}, [first((CC, "max-age=60, no-cache")), on()]),
    ("4.2.2", "MUST NOT guess where an explicit time is given", {}, [first(LM, ("Expires", "0")), on()]),
    ("4.2.2", "MUST NOT guess for a status that is not for it", {}, [X(comes=(302, [LM], b"old"), gets=302), on()]),
    ("4.2.3", "MUST interpret Age relative to when the request was sent", {}, [
        first(SHORT, ("Age", "2"), at=0), hit(at=7.9), on(at=8)]),
    ("4.2.4", "MUST NOT be stale where that is prohibited: no-cache", {}, [
        first((CC, "no-cache, stale-if-error=60"), ("ETag", V)), X(comes=ConnectFailed("gone"), gets=502)]),
    *[("4.2.4", f"MUST NOT be stale where that is prohibited: {word}", {}, [
        first((CC, f"{word}, stale-if-error=60, stale-while-revalidate=60")),
        X([(CC, "max-stale")], ConnectFailed("gone"), 502, at=20), X(comes=(503, [], b"down"), gets=b"down", at=20)])
      for word in ("max-age=10, must-revalidate", "max-age=10, proxy-revalidate", "s-maxage=10")],
    ("4.2.4", "MUST NOT be stale unless disconnected or permitted", {}, [first(SHORT), on(at=11)]),
    ("4.2.4", "disconnected", {}, [first(SHORT), X(comes=ConnectFailed("gone"), gets=b"old", at=20)]),
    ("4.2.4", "permitted by the client", {}, [first(SHORT), hit((CC, "max-stale=10"), at=20), on((CC, "max-stale=10"), at=21)]),

    # -- 4.3 Validation
    ("4.3.1", "MUST send the entity tag, SHOULD send Last-Modified", {}, [
        first(SHORT, ("ETag", W), LM), unchanged(("ETag", W), at=10, asks={"If-None-Match": W, "If-Modified-Since": LM[1]})]),
    ("4.3.1", "of a stored answer, not of the client", {}, [
        first(SHORT, ("ETag", V)), unchanged(asked=[("If-None-Match", '"x"'), ("If-Modified-Since", OTHER_DATE)], at=10,
                                             asks={"If-None-Match": V, "If-Modified-Since": ""})]),
    ("4.3.2", "SHOULD evaluate conditions", {}, [
        first(MAX, ("ETag", V), LM), hit(("If-None-Match", V), gets=304), hit(("If-None-Match", '"x"')),
        hit(("If-Modified-Since", LM[1]), gets=304), hit(("If-Modified-Since", "Sat, 05 Nov 1994 08:49:37 GMT"))]),
    *[("4.3.2", f"MUST NOT evaluate {field[0]}, which is the origin's", {}, [
        first(MAX, ("ETag", V), LM), X([field], (412, [], b""), 412, asks={field[0]: field[1]})])
      for field in (("If-Match", '"x"'), ("If-Unmodified-Since", OTHER_DATE))],
    ("4.3.2", "MUST NOT evaluate conditions of what cannot be answered here", {}, [
        first(MAX, ("ETag", V)), X([("If-None-Match", V)], (412, [], b""), 412, method="PUT", asks={"If-None-Match": V}), hit()]),
    ("4.3.2", "If-None-Match takes precedence", {}, [
        first(MAX, ("ETag", V), LM), hit(("If-None-Match", '"x"'), ("If-Modified-Since", LM[1]))]),
    ("4.3.2", "SHOULD use Date where there is no Last-Modified", {}, [
        first(MAX, ("Date", LM[1]), ("CDN-Cache-Control", "max-age=9999999999")), hit(("If-Modified-Since", LM[1]), gets=304)]),
    ("4.3.2", "needs to evaluate If-Range", {}, [
        first(MAX, ("ETag", V)), hit(("Range", "bytes=0-1"), ("If-Range", V), gets=206),
        hit(("Range", "bytes=0-1"), ("If-Range", '"x"'), gets=b"old")]),
    ("4.3.2", "MUST generate 200 for a 304 whose tag the client does not have", {}, [
        first(SHORT, ("ETag", V)), unchanged(("ETag", V), asked=[("If-None-Match", '"x"')], at=10, gets=b"old")]),
    ("4.3.3", "MUST use a full answer", {}, [first(SHORT, ("ETag", V)), X(comes=(200, [MAX], b"new"), gets=b"new", at=10),
                                             hit(gets=b"new", at=11)]),
    ("4.3.4", "MUST NOT update by a 304 with another strong validator", {}, [
        first(SHORT, ("ETag", V)), X(comes=(304, [MAX, ("ETag", '"x"')], b""), gets=b"new", at=10)]),
    ("4.3.4", "nor one that has none", {}, [first(SHORT, LM), X(comes=(304, [MAX, ("ETag", '"x"')], b""), gets=b"new", at=10)]),
    ("4.3.4", "nor, by one with a strong validator, one that has a weak one", {}, [
        first(SHORT, ("ETag", W)), X(comes=(304, [MAX, ("ETag", V)], b""), gets=b"new", at=10)]),
    ("4.3.4", "unless the date is strong (RFC 9110 8.8.2.2)", {}, [
        first(SHORT, ("ETag", W), LM), unchanged(MAX, ("ETag", V), LM, at=10), hit(at=11, says={"ETag": [W]})]),
    ("4.3.4", "MUST update what a weak validator identifies, and replaces its tag (3.2)", {}, [
        first(SHORT, ("ETag", V)), unchanged(MAX, ("ETag", W), at=10), hit(at=11, says={"ETag": [W]})]),
    ("4.3.4", "is not identified by another date", {}, [
        first(SHORT, LM), X(comes=(304, [MAX, ("Last-Modified", OTHER_DATE)], b""), gets=b"new", at=10)]),
    ("4.3.4", "MUST update what is identified", {}, [
        first(SHORT, ("ETag", V)), unchanged(MAX, ("ETag", V), ("X-A", "1"), at=10), hit(at=69, says={"X-A": ["1"]}), on(at=70)]),
    ("4.3.5", "SHOULD update by a HEAD that matches", {}, [
        first(SHORT, ("ETag", V)),
        X(comes=(200, [MAX, ("ETag", V), ("X-A", "1"), ("Content-Length", "3")], b""), method="HEAD", at=10),
        hit(at=69, says={"X-A": ["1"]})]),
    ("4.3.5", "SHOULD take it for stale after one that does not", {}, [
        first((CC, "max-age=10, stale-while-revalidate=60"), ("ETag", V)),
        X([(CC, "no-cache")], (200, [("ETag", '"x"')], b""), method="HEAD", at=5), on(at=6)]),

    # -- 4.4 Invalidation
    *[("4.4", f"MUST invalidate after {method} {status}", {}, [
        first(MAX), X(method=method, comes=(status, [], b""), gets=status), on(at=1)])
      for method, status in (("PUT", 200), ("POST", 303), ("DELETE", 204), ("PATCH", 201), ("X-UNKNOWN", 200))],
    ("4.4", "MUST NOT invalidate another origin", {}, [
        first(MAX), X(method="POST", target="/b", comes=(201, [("Location", "http://shop.test:81/a")], b""), gets=201), hit()]),

    # -- 5 Fields
    ("5.1", "SHOULD use the first of a list in Age", {}, [first(SHORT, ("Age", "3, 60")), hit(at=6), on(at=7)]),
    ("5.1", "SHOULD ignore what is no number", {}, [first(SHORT, ("Age", "7x")), hit(at=9)]),
    ("5.2", "MUST pass directives through, to the upstream", {}, [
        X([(CC, "no-cache, x=1")], (200, [MAX], b"old"), b"old", asks={CC: "no-cache, x=1"})]),
    ("5.2", "and to the client", {}, [
        first((CC, "max-age=60, x=1, no-transform")), hit(says={CC: ["max-age=60, x=1, no-transform"]})]),
    ("5.2", "compared case-insensitively, token or quoted", {}, [first((CC, 'MAX-AGE="60"')), hit(at=59)]),
    ("5.2.1.5", "MUST NOT store the answer to no-store", {}, [X([(CC, "no-store")], (200, [MAX], b"old"), b"old"), on()]),
    ("5.2.1.7", "SHOULD answer only-if-cached with what is stored or 504", {}, [
        X([(CC, "only-if-cached")], gets=504, asks=False), first(MAX), hit((CC, "only-if-cached")),
        X([(CC, "only-if-cached")], gets=504, asks=False, at=60)]),
    ("5.2.2.2", "MUST generate an error rather than be stale, disconnected", {}, [
        first((CC, "max-age=10, must-revalidate"), ("ETag", V)), X(comes=ConnectFailed("gone"), gets=502, at=10),
        X(comes=UpstreamTimeout("late"), gets=504, at=10)]),
    ("5.2.2.3", "SHOULD ignore no-store beside must-understand, for what is understood", {}, [
        first((CC, "must-understand, no-store, max-age=60")), hit()]),
    ("5.2.2.3", "not for what is not", {}, [X(comes=(298, [(CC, "must-understand, max-age=60")], b"old"), gets=298), on()]),
    ("5.2.2.4", "qualified: the fields are left out", {}, [
        first((CC, 'max-age=60, no-cache="X-A, set-cookie"'), ("X-A", "1"), ("Set-Cookie", "a=b")),
        hit(says={"X-A": [], "Set-Cookie": []})]),
    ("5.2.2.7", "qualified: MUST NOT store the fields", {}, [
        first((CC, 'max-age=60, private="X-A"'), ("x-a", "1"), ("X-B", "2")), hit(says={"X-A": [], "X-B": ["2"]})]),
    ("5.2.3", "MUST ignore unrecognized directives", {}, [
        first((CC, 'max-age=60, community="UCI", x="no-store, private"')), hit()]),
    ("5.3", "MUST take invalid dates for the past", {}, [first(("Expires", "0"), LM), on()]),
    ("5.3", "MUST ignore Expires beside max-age", {}, [first(MAX, ("Expires", "0")), hit()]),
    ("5.3", "MUST ignore Expires beside s-maxage", {}, [first((CC, "s-maxage=60"), ("Expires", "0")), hit()]),
    ("5.4", "Pragma means nothing in an answer", {}, [first(MAX, ("Pragma", "no-cache")), hit()]),

    # -- Neighbours
    ("RFC 9110 14.2", "MUST ignore Range of another method or unit", {}, [
        first(MAX), hit(("Range", "bytes=0-1"), method="HEAD", gets=200), hit(("Range", "lines=0-1"))]),
    ("RFC 9110 15.3.7", "MUST generate in 206 what a 200 would have", {}, [
        first(MAX, ("ETag", V), ("Vary", "X"), ("Content-Location", "/b"), ("Expires", "0"), ("Date", LM[1]),
              ("CDN-Cache-Control", "max-age=9999999999")),
        hit(("Range", "bytes=0-1"), gets=206, says={
            "ETag": [V], "Vary": ["X"], "Content-Location": ["/b"], "Expires": ["0"], "Date": [LM[1]], CC: [MAX[1]],
            "Content-Range": ["bytes 0-1/3"], "Content-Length": ["2"]})]),
    ("RFC 9110 15.4.5", "MUST generate these in 304", {}, [
        first(MAX, ("ETag", V), ("Vary", "X"), ("Content-Location", "/b"), ("Expires", "0"), ("Date", LM[1]),
              ("CDN-Cache-Control", "max-age=9999999999")),
        hit(("If-None-Match", V), gets=304, says={
            "ETag": [V], "Vary": ["X"], "Content-Location": ["/b"], "Expires": ["0"], "Date": [LM[1]], CC: [MAX[1]]})]),
    ("RFC 5861 3", "stale while revalidate, within its window only", {}, [
        first((CC, "max-age=10, stale-while-revalidate=20")), X(comes=(503, [], b""), gets=b"old", at=29), on(at=30)]),
    ("RFC 5861 4", "stale if error, for 500, 502, 503, 504 and no others", {}, [
        first((CC, "max-age=10, stale-if-error=90")), *[X(comes=(status, [], b""), gets=b"old", at=10 + 2 * number)
                                                        for number, status in enumerate((500, 502, 503, 504))],
        X(comes=(501, [], b"what"), gets=b"what", at=30)]),
    ("RFC 8246 2", "SHOULD NOT ask about what is immutable while it is fresh", {}, [
        first((CC, "max-age=60, immutable")), hit((CC, "max-age=0"), at=59), hit((CC, "no-cache"), at=59), on(at=60)]),
    ("RFC 9213 2.2", "MUST ignore Cache-Control and Expires beside a targeted field", {}, [
        first((CC, "no-store"), ("Expires", "0"), ("CDN-Cache-Control", "max-age=10")), hit(at=9), on(at=10)]),
    ("RFC 9213 2.1", "MUST ignore a targeted field that is empty or broken", {}, [
        first(SHORT, ("CDN-Cache-Control", ""), ("Wicketgate-Cache-Control", "max-age=;")), hit(at=9), on(at=10)]),
    ("RFC 9213 2.1", "MUST ignore parameters", {}, [
        first(("CDN-Cache-Control", "max-age=10;x=1, no-store=?0")), hit(at=9), on(at=10)]),
]


def resolve(fields, now):
    """The fields of an answer; LATER in Expires is a time to come."""
    def date(value):
        found = formatdate(now + 60, usegmt=True) if value.lower().startswith("later") else value
        if value.startswith("LATER"):
            found = found.upper()
        return found.replace("GMT", "EST") if value.endswith("EST") else found
    return [(name, date(value) if name == "Expires" else value) for name, value in fields]


def exchanged(world, step):
    """One exchange: what the client gets, and the request that went on, None when none did."""
    before = len(world.seen)

    def answer(request):
        if isinstance(step.comes, Exception):
            raise step.comes
        status, fields, body = step.comes
        if status == 304 and step.gets == b"new" and not (request.header("If-None-Match") or request.header("If-Modified-Since")):
            return Response(200, [MAX], b"new")
        return Response(status, resolve(fields, world.clock()), b"" if request.method == "HEAD" else body)

    world.answer = answer
    world.offset = step.at
    try:
        response = world.ask(*step.asked, method=step.method, target=step.target)
    except (ConnectFailed, UpstreamTimeout) as error:
        response = Got(Response(error.status, []))
    settle()
    return response, world.seen[before] if len(world.seen) > before else None


@pytest.mark.parametrize("section, sentence, policy, steps", ROWS, ids=[f"{row[0]} {row[1]}" for row in ROWS])
def test_requirement(section, sentence, policy, steps):
    with gevent.Timeout(SAFETY, AssertionError("the test hangs")):
        world = World()
        world.cache(policy)
        for number, step in enumerate(steps, 1):
            world.step.fetch.predictor.clock = lambda: step.at             # what was learned is remembered for its own time
            response, sent = exchanged(world, step)
            got = response.status if isinstance(step.gets, int) else response.text
            assert got == step.gets, f"exchange {number}: {status_of(response)}"
            if step.asks is False:
                assert sent is None, f"exchange {number} asks the upstream"
            else:
                assert sent is not None, f"exchange {number} does not ask the upstream"
                for name, value in (step.asks if isinstance(step.asks, dict) else {}).items():
                    assert sent.header(name) == value, f"exchange {number}: {name}"
            for name, values in step.says.items():
                assert response.header_list(name) == values, f"exchange {number}: {name}"
