"""What happens to a request and to an answer: RFC 9111 sentence by sentence, with its section."""

from __future__ import annotations

import pytest
from answers import CC, NOW, arrived, date, exchange, request_field
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache import decide
from gateway.cache.entry import MUST_REVALIDATE, NO_CACHE, POLICY, PUBLIC, Variants
from gateway.cache.key import select
from gateway.cache.reasons import Decision, NotStored, SharingScope
from gateway.cache.request_directives import AUTHORIZATION, COOKIE, request_directives
from gateway.config import CacheSettings
from gateway.message import Body, Request

# -- May what is stored be looked up?

METHODS = {"GET", "HEAD"}
OLD = date(-3000)


@pytest.mark.parametrize("method, headers, more, expected, detail", [
    ("GET", [("Accept", "x")], {}, None, ""),
    ("HEAD", [], {}, None, ""),
    ("POST", [], {}, Decision.METHOD, "POST"),
    ("POST", [("If-Match", '"v"')], {}, Decision.METHOD, "POST"),
    ("POST", [], {"methods": METHODS | {"POST"}}, None, ""),
    ("GET", [("If-Match", '"v"')], {}, Decision.PRECONDITION, "if-match"),
    ("GET", [("If-Unmodified-Since", OLD)], {}, Decision.PRECONDITION, "if-unmodified-since"),
    ("GET", [("Upgrade", "websocket")], {}, Decision.PRECONDITION, "upgrade"),
    ("GET", [("If-None-Match", '"v"')], {}, None, ""),
    ("POST", [("If-None-Match", '"v"')], {"methods": METHODS | {"POST"}}, Decision.PRECONDITION, "if-none-match"),
    ("POST", [("If-None-Match", '"v"'), (CC, "no-store")], {"methods": METHODS | {"POST"}}, Decision.NO_STORE, "no-store"),
    ("GET", [("X-HTTP-Method-Override", "DELETE")], {}, Decision.CONFUSING, "x-http-method-override"),
    ("GET", [("X-Original-URL", "/admin")], {}, Decision.CONFUSING, "x-original-url"),
    ("GET", [("X-Original-URL", "/admin"), ("If-Match", "x")], {}, Decision.PRECONDITION, "if-match"),       # the last one
    ("GET", [("X-Original-URL", "/admin"), (CC, "no-store")], {}, Decision.CONFUSING, "x-original-url"),
    ("GET", [("Front-End-Https", "on")], {}, Decision.CONFUSING, "front-end-https"),
    ("GET", [("Front-End-Https", "on")], {"behind_proxy": True}, None, ""),                                  # it is in the key
    ("GET", [("X-Forwarded-Proto", "https")], {}, None, ""),
    ("GET", [(CC, "no-store")], {}, Decision.NO_STORE, "no-store"),
    ("GET", [(CC, "no-store")], {"obey": False}, None, ""),
    ("GET", [(CC, "max-age=0")], {}, None, ""),
    ("GET", [], {"body": Body.of(b"x")}, Decision.BODY, "body"),
    ("GET", [], {"body": Body.of(b"")}, Decision.BODY, "body"),
    ("POST", [], {"body": Body.of(b"x" * decide.LARGEST_KEY_BODY), "methods": METHODS | {"POST"}}, None, ""),
    ("POST", [], {"body": Body.of(b"x" * decide.LARGEST_KEY_BODY + b"x"), "methods": METHODS | {"POST"}}, Decision.BODY, "body"),
    ("POST", [], {"body": Body(bytes, None), "methods": METHODS | {"POST"}}, Decision.BODY, "body"),
    ("GET", [(CC, "no-store")], {"body": Body.of(b"x")}, Decision.NO_STORE, "no-store"),
])
def test_bypass(method, headers, more, expected, detail):
    request = Request(method, "/a", headers, more.get("body"))
    directives = request_directives(headers, more.get("obey", True), method, more.get("behind_proxy", False))
    decision = decide.bypass(request, directives, more.get("methods", METHODS))
    assert decision is expected
    assert decision is None or decide.detail_of(decision, request, directives) == detail


@pytest.mark.parametrize("decision, expected", [
    (decision, decision if decision.serves or decision is Decision.METHOD else Decision.ONLY_IF_CACHED) for decision in Decision])
def test_only_if_cached(decision, expected):
    """RFC 9111 section 5.2.1.7: what does not end here ends with 504."""
    assert decide.unless_stored(decision, request_directives([(CC, "only-if-cached")])) is expected
    assert decide.unless_stored(decision, request_directives([(CC, "max-age=1")])) is decision
    assert decide.unless_stored(decision, None) is decision


@pytest.mark.parametrize("method, headers, more, expected", [
    ("GET", [], {}, SharingScope.ALL),
    ("HEAD", [], {}, SharingScope.HEAD),
    ("HEAD", [], {"is_stored": True}, SharingScope.HEAD),
    ("GET", [("Range", "bytes=0-1")], {}, SharingScope.PART),
    ("GET", [("Range", "bytes=0-1")], {"whole": True}, SharingScope.ALL),
    ("GET", [("Range", "bytes=0-1")], {"is_stored": True}, SharingScope.ALL),           # the whole is validated
    ("GET", [("Authorization", "x")], {}, SharingScope.CALLER),
    ("GET", [("Authorization", "")], {}, SharingScope.ALL),
    ("GET", [("Authorization", "x")], {"personal": True}, SharingScope.ALL),
    ("GET", [("Authorization", "x")], {"is_stored": True}, SharingScope.ALL),
    ("GET", [("Cookie", "x")], {}, SharingScope.ALL),                                # what is learned decides
    ("GET", [(CC, "max-age=1")], {}, SharingScope.ALL),
    ("GET", [("Range", "bytes=0-1"), ("Authorization", "x")], {"whole": True}, SharingScope.CALLER)])
def test_sharing(method, headers, more, expected):
    request = Request(method, "/a", headers)
    options = {"personal": False, "is_stored": False, "whole": False, **more}
    assert decide.sharing(request, request_directives(headers), **options) is expected


@pytest.mark.parametrize("policy, headers, expected", [
    ({"fetch_whole": True}, [("Range", "bytes=0-1")], True), ({}, [("Range", "bytes=0-1")], False),
    ({"fetch_whole": True}, [("Range", "bytes=0-1,3-4")], False), ({"fetch_whole": True}, [(CC, "max-age=1")], False),
    ({"fetch_whole": True}, [], False)])
def test_which_ranges_want_the_whole(policy, headers, expected):
    assert decide.wants_whole(CacheSettings(**policy), request_directives(headers)) is expected


def test_every_decision_says_what_it_is():
    """A label to count it by, a sentence for people, and a fwd of RFC 9211 unless it ends here."""
    for decision in Decision:
        assert decision.label and decision.sentence and (decision.fwd in (
            "", "bypass", "method", "uri-miss", "vary-miss", "request", "stale")), decision
        assert not (decision.serves and (decision.fwd or decision.passes))
        assert repr(decision) == decision.name
    assert {decision for decision in Decision if decision.serves} == {
        Decision.HIT, Decision.STALE_WHILE_REVALIDATE, Decision.MAX_STALE}
    assert {decision for decision in Decision if decision.passes} == {
        Decision.COOKIE, Decision.AUTHORIZATION, Decision.METHOD, Decision.NO_STORE, Decision.PRECONDITION, Decision.CONFUSING,
        Decision.BODY}


def test_every_reason_not_to_store_says_what_it_is():
    assert all(reason == reason.value == f"{reason}" and reason.sentence for reason in NotStored)
    assert {reason for reason in NotStored if reason.transient} == {"partial", "request", "method", "cut", "changed"}
    assert {reason for reason in NotStored if reason.personal} == {"cookie", "authorization", "request"}


@pytest.mark.parametrize("stored, headers, credentials, expected, chosen", [
    (None, [], 0, Decision.URI_MISS, None),
    ([[("Vary", "Accept")]], [("Accept", "x")], 0, Decision.VARY_MISS, None),
    ([[]], [], 0, Decision.HIT, 0),
    ([[]], [], COOKIE, Decision.COOKIE, 0),
    ([[("Vary", "Accept")], []], [], 0, Decision.HIT, 0),
    ([[], [("Vary", "Accept")]], [], 0, Decision.HIT, 1),
    ([[("Vary", "Accept")], []], [("Accept", "x")], 0, Decision.HIT, 1),
    ([[]], [(CC, "no-cache")], 0, Decision.REQUEST, 0),
    ([[("Age", "59")]], [], 0, Decision.HIT, 0),
    ([[("Age", "60"), ("ETag", '"v"')]], [], 0, Decision.STALE, 0),
    ([[(CC, "no-cache"), ("ETag", '"v"')]], [], 0, Decision.NO_CACHE, 0)])
def test_what_a_request_gets_of_what_is_stored(stored, headers, credentials, expected, chosen):
    variants = None if stored is None else Variants(arrived([(CC, "max-age=60"), *fields]) for fields in stored)
    decision, entry = decide.use(variants, Request("GET", "/a", headers), request_directives(headers), credentials, NOW)
    assert decision is expected and entry is (None if chosen is None else variants[chosen])


# -- May this request have it? (sections 4 and 5.2.1)

@pytest.mark.parametrize("section, headers, asked, later, expected", [
    ("4.2", "max-age=60", [], 59.9, Decision.HIT),
    ("4.2", "max-age=60", [], 60.0, Decision.STALE),                     # at its end it is no longer fresh
    ("4", "no-cache, max-age=60", [], 0.0, Decision.NO_CACHE),
    ("4", 'no-cache="x", max-age=60', [], 0.0, Decision.HIT),
    ("RFC 5861", "max-age=60, stale-while-revalidate=10", [], 60.0, Decision.STALE_WHILE_REVALIDATE),
    ("RFC 5861", "max-age=60, stale-while-revalidate=10", [], 69.9, Decision.STALE_WHILE_REVALIDATE),
    ("RFC 5861", "max-age=60, stale-while-revalidate=10", [], 70.0, Decision.STALE),
    ("5.2.1.1", "max-age=60", [(CC, "max-age=30")], 29.0, Decision.HIT),
    ("5.2.1.1", "max-age=60", [(CC, "max-age=30")], 31.0, Decision.REQUEST),
    ("5.2.1.1", "max-age=60", [(CC, "max-age=0")], 0.0, Decision.REQUEST),
    ("5.2.1.1", "max-age=60, must-revalidate", [(CC, "max-age=0")], 0.0, Decision.REQUEST),
    ("5.2.1.1", "max-age=60", [(CC, "max-age=x")], 31.0, Decision.HIT),
    ("5.2.1.1", "max-age=60, stale-while-revalidate=10", [(CC, "max-age=600")], 61.0, Decision.STALE),
    ("5.2.1.2", "max-age=60", [(CC, "max-stale=10")], 69.0, Decision.MAX_STALE),
    ("5.2.1.2", "max-age=60", [(CC, "max-stale=10")], 70.0, Decision.MAX_STALE),     # by no more than that
    ("5.2.1.2", "max-age=60", [(CC, "max-stale=10")], 71.0, Decision.STALE),
    ("5.2.1.2", "max-age=60", [(CC, "max-stale")], 10 ** 6, Decision.MAX_STALE),
    ("5.2.1.2", "max-age=60, immutable", [(CC, "max-stale=10")], 69.0, Decision.MAX_STALE),
    ("5.2.1.2", "max-age=60, must-revalidate", [(CC, "max-stale")], 61.0, Decision.STALE),
    ("5.2.1.2", "s-maxage=60", [(CC, "max-stale")], 61.0, Decision.STALE),
    ("5.2.1.2", "max-age=60, no-cache", [(CC, "max-stale")], 1.0, Decision.NO_CACHE),
    ("5.2.1.3", "max-age=60", [(CC, "min-fresh=30")], 29.0, Decision.HIT),
    ("5.2.1.3", "max-age=60", [(CC, "min-fresh=30")], 30.0, Decision.HIT),             # fresh for at least that long
    ("5.2.1.3", "max-age=60", [(CC, "min-fresh=30")], 31.0, Decision.REQUEST),
    ("5.2.1.4", "max-age=60", [(CC, "no-cache")], 0.0, Decision.REQUEST),
    ("5.4", "max-age=60", [("Pragma", "no-cache")], 0.0, Decision.REQUEST),
    ("5.4", "max-age=60", [("Pragma", "no-cache"), (CC, "x")], 0.0, Decision.HIT),    # Cache-Control is newer
    ("5.4", "max-age=60", [("Pragma", "x")], 0.0, Decision.HIT),
    ("RFC 8246", "max-age=60, immutable", [(CC, "max-age=0")], 30.0, Decision.HIT),
    ("RFC 8246", "max-age=60, immutable", [(CC, "no-cache")], 30.0, Decision.HIT),
    ("RFC 8246", "max-age=60, immutable", [(CC, "max-age=0")], 61.0, Decision.STALE),
    ("RFC 8246", "max-age=60, immutable, stale-while-revalidate=60", [(CC, "no-cache")], 61.0, Decision.STALE),
    ("RFC 5861", "max-age=60, stale-while-revalidate=10", [(CC, "max-stale=1")], 69.9, Decision.STALE_WHILE_REVALIDATE),
    ("RFC 5861", "max-age=60, stale-while-revalidate=10", [(CC, "max-stale=1")], 70.0, Decision.STALE),
])
def test_use(section, headers, asked, later, expected):
    made = arrived([(CC, headers), ("ETag", '"v"')])
    assert decide.judge_freshness(made, request_directives(asked), NOW + later) is expected


@pytest.mark.parametrize("section, cc, later, reached, window, expected", [
    ("RFC 5861 4", "max-age=60, stale-if-error=10", 69.0, True, None, True),
    ("RFC 5861 4", "max-age=60, stale-if-error=10", 70.0, True, None, False),
    ("RFC 5861 4", "max-age=60, stale-if-error=10", 70.0, False, None, False),       # its own window goes before the general one
    ("RFC 5861 4", "max-age=60", 61.0, True, 5, True),
    ("RFC 5861 4", "max-age=60", 65.0, True, 5, False),
    ("RFC 5861 4", "max-age=60, must-revalidate", 61.0, True, 5, False),
    ("RFC 5861 4", "max-age=60, stale-if-error=0", 61.0, False, None, False),         # it forbids that
    ("RFC 5861 4", "max-age=60, stale-if-error=0", 61.0, True, 5, False),
    ("RFC 5861 4", "max-age=60, stale-if-error=10", 61.0, True, 0, False),           # the client does
    ("RFC 5861 4", "max-age=60", 61.0, False, 0, False),
    ("RFC 5861 4", "max-age=60, stale-if-error=0", 59.0, True, 0, True),             # it is not stale yet
    ("RFC 5861 4", "max-age=60, stale-if-error=0", 60.0, True, 0, False),
    ("4.2.4", "max-age=60", 61.0, True, None, False),
    ("4.2.4", "max-age=60", 61.0, False, None, True),                    # disconnected
    ("4.2.4", "max-age=60", 60.0 + decide.UNREACHABLE, False, None, False),
    ("4.2.4", "max-age=60, must-revalidate", 61.0, False, None, False),
    ("4.2.4", "max-age=60, proxy-revalidate", 61.0, False, None, False),
    ("4.2.4", "s-maxage=60", 61.0, False, None, False),
    ("4.2.4", "max-age=60, no-cache", 1.0, False, None, False),
    ("4.2.4", "max-age=0", 1.0, False, None, False),                     # it was never fresh: it is stored to be validated
    ("5.2.1.4", "max-age=60, must-revalidate", 30.0, True, None, True),  # fresh still: the client only wished to ask
])
def test_instead_of_an_error(section, cc, later, reached, window, expected):
    made = arrived([(CC, cc), ("ETag", '"v"')])
    assert decide.may_replace_error(made, NOW + later, has_answer=reached, window=window) is expected


C, A = COOKIE, AUTHORIZATION


@pytest.mark.parametrize("headers, policy, shown, expected", [
    ([(CC, "max-age=60")], {}, C, Decision.COOKIE),
    ([(CC, "max-age=60")], {}, A, None),                                   # section 3.5 is about what was stored for a caller
    ([(CC, "max-age=60")], {}, C | A, Decision.COOKIE),
    ([(CC, "max-age=60, must-revalidate")], {}, A, None),
    ([(CC, "max-age=60, must-revalidate")], {}, C, Decision.COOKIE),
    ([(CC, "max-age=60, public")], {}, C | A, None),
    ([(CC, "s-maxage=60")], {}, C, None),
    ([("CDN-Cache-Control", "max-age=60")], {}, C, None),
    ([(CC, "max-age=60"), ("Vary", "Cookie")], {}, C, None),               # who has the same cookie, see select()
    ([(CC, "max-age=60"), ("Vary", "Cookie")], {"ttl": "9s"}, A, None),
    ([], {"ttl": "9s"}, C, Decision.COOKIE),
    ([], {"ttl": "9s"}, A, Decision.AUTHORIZATION),
    ([("Vary", "Cookie")], {"ttl": "9s"}, C | A, Decision.AUTHORIZATION),
    ([("Vary", "Cookie")], {"ttl": "9s"}, C, None),                        # a guess, but not one about who is authorized
    ([(CC, "public")], {"ttl": "9s"}, C | A, None),
    ([("Last-Modified", date(-10 ** 6))], {}, A, Decision.AUTHORIZATION),
])
def test_who_shows_himself_gets_what_is_for_everybody(headers, policy, shown, expected):
    assert decide.withhold(arrived([*headers, ("ETag", '"v"')], **policy), shown) is expected


@pytest.mark.parametrize("left, took, draw, expected", [
    (10.0, 1.0, 1.0, False), (0.5, 1.0, 0.5, True), (10.0, 1.0, 0.5, False), (5.0, 0.0, 0.0001, False), (10.0, 100.0, 0.5, True),
    (0.0, 1.0, 1.0, True)])
def test_early_refresh(left, took, draw, expected):
    made = arrived([(CC, "max-age=1000")], took=took)
    assert decide.due_early(made, made.expires - left, draw) is expected


def test_statuses_that_must_understand_lets_through():
    """Section 5.2.2.3: those whose caching is known here."""
    found = {status for status in range(200, 600) if not isinstance(
        arrived([(CC, "max-age=60, no-store, must-understand, public")], status=status), NotStored)}
    assert found == {200, 201, 202, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 406, 409, 410, 414, 415, 422,
                     429, 500, 501, 502, 503, 504}


def test_statuses_that_one_request_may_have_provoked():
    found = {status for status in range(200, 600) if arrived([(CC, "max-age=60")], status=status) == "provoked"}
    assert found == {400, 406, 408, 411, 412, 413, 415, 416, 417, 421, 422, 425, 426, 428, 429, 431}


# -- Invariants

def has(headers, name, word):
    return any(key.lower() == name and word in value.lower() for key, value in headers)


@given(exchange, st.lists(request_field, max_size=2), st.floats(0, 10_000))
def test_never_fresh_beyond_its_lifetime(exchanged, asked, later):
    headers, first, status, policy, took = exchanged
    made = arrived(headers, asked=first, status=status, took=took, **policy)
    if isinstance(made, str):
        return
    now = NOW + later
    decision = decide.judge_freshness(made, request_directives(asked), now)
    if decision is Decision.HIT:
        assert now < made.expires
    if decision is Decision.STALE_WHILE_REVALIDATE:
        assert made.expires <= now < made.stale_while_revalidate
    if decision is Decision.MAX_STALE:
        assert not made.flags & (MUST_REVALIDATE | NO_CACHE)
    if made.flags & NO_CACHE:
        assert decision is Decision.NO_CACHE
    assert made.born <= NOW
    assert made.expires <= made.born + 2 ** 31 or made.flags & POLICY


@given(exchange)
def test_never_shared_when_private(exchanged):
    headers, asked, status, policy, took = exchanged
    made = arrived(headers, asked=asked, status=status, took=took, **policy)
    if isinstance(made, str):
        return
    own = policy.get("respect") != "policy"
    targeted = any("cache-control" in name.lower() and name.lower() != "cache-control" for name, _ in headers)
    if own and not targeted:
        assert not has([(name, value) for name, value in headers if "private" in value.split(", ")], "cache-control", "private")
        assert not has(headers, "cache-control", "no-store") or has(headers, "cache-control", "must-understand")
    assert policy.get("share_cookies") or not any(name == "Set-Cookie" for name, _ in headers)
    if any(name == "Authorization" for name, _ in asked):
        assert any(has(headers, name, word) for word in ("public", "s-maxage", "must-revalidate")
                   for name in ("cache-control", "cdn-cache-control", "wicketgate-cache-control"))
    if any(name == "Cookie" for name, _ in asked):
        assert made.flags & PUBLIC or any(name == "cookie" for name, _ in made.vary)
    assert not has(asked, "cache-control", "no-store")
    assert status not in (206, 304)
    assert not any(name == "Vary" and "*" in value for name, value in headers)


@given(exchange, st.lists(request_field, max_size=3))
def test_a_variant_is_for_requests_with_the_same_fields(exchanged, others):
    headers, asked, status, policy, took = exchanged
    made = arrived(headers, asked=asked, status=status, took=took, **policy)
    if isinstance(made, str):
        return
    assert select(Variants([made]), Request("GET", "/a", asked)) is made
    found = select(Variants([made]), Request("GET", "/a", others))
    for name in ("accept", "cookie"):
        if found and any(key == name for key, _ in made.vary):
            values = [[value for key, value in fields if key.lower() == name] for fields in (asked, others)]
            assert set(values[0]) == set(values[1])
