"""No answer crosses users: what a request with a cookie leaves and gets, in the whole step with a real store."""

from __future__ import annotations

import time

import gevent
import pytest
from asking import World, at_once, ok, settle, status_of
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cost import Counter
from gateway.cache.storage.store import HttpStore
from gateway.errors import ConnectFailed
from gateway.message import Request, Response
from tests.waiting import SAFETY

ANN, BOB = ("Cookie", "sid=ann"), ("Cookie", "sid=bob")


def greeting(cc="max-age=60", **fields):
    """A page that greets by name, with what a middleware writes on every page."""
    def answer(request):
        return ok(cc, f"Hello {request.header('Cookie') or 'stranger'}".encode(), **fields)
    return answer


@pytest.fixture
def world():
    with gevent.Timeout(SAFETY, AssertionError("the test hangs")):
        world = World()
        world.answer = greeting()
        world.cache()
        yield world


def texts(world, *askers):
    return [world.ask(*([asker] if asker else [])).text.decode().removeprefix("Hello ") for asker in askers]


# -- A page by name

@pytest.mark.parametrize("first", [None, ANN])
@pytest.mark.parametrize("policy, cc", [
    ({}, "max-age=60"), ({}, "max-age=60, must-revalidate"), ({}, "max-age=60, stale-while-revalidate=60, stale-if-error=60"),
    ({}, "max-age=60, immutable"), ({"ttl": "30s"}, ""), ({"ttl": "30s", "respect": "policy"}, "private"),
    ({"ttl": "30s", "respect": "stricter"}, "max-age=60"), ({"vary_by_caller": True}, "max-age=60")])
def test_each_user_gets_his_own_page_and_strangers_share_theirs(world, policy, cc, first):
    world.cache(policy)
    world.answer = greeting(cc)
    askers = [first, ANN, None, BOB, None, ANN, ANN]
    assert texts(world, *askers) == [asker[1] if asker else "stranger" for asker in askers]
    assert len([seen for seen in world.seen if not seen.header("Cookie")]) == 1, "one for all strangers"
    assert len([seen for seen in world.seen if seen.header("Cookie")]) == len([asker for asker in askers if asker])


@pytest.mark.parametrize("policy, cc, fields", [
    ({}, "public, max-age=60", {}), ({}, "s-maxage=60", {}), ({}, "no-store", {"CDN-Cache-Control": "max-age=60"}),
    ({}, "no-store", {"Wicketgate-Cache-Control": "max-age=60"}), ({"ttl": "30s"}, "public", {}),
    ({"key": {"cookies": []}}, "max-age=60", {}), ({"key": {"cookies": []}}, "max-age=60", {"Vary": "Cookie"}),
    ({"key": {"cookies": ["currency"]}}, "max-age=60", {}), ({"ttl": "30s", "key": {"cookies": []}}, "", {})])
def test_what_is_for_everybody_is_one_answer_for_all(world, policy, cc, fields):
    world.cache(policy)
    world.answer = ok(cc, **{name.replace("-", "_"): value for name, value in fields.items()})
    for asker in (ANN, BOB, None):
        world.ask(*([asker] if asker else []))
    assert len(world.seen) == 1


def test_an_answer_that_varies_by_cookie_is_for_who_has_the_same(world):
    world.answer = greeting(Vary="Cookie")
    assert texts(world, ANN, None, BOB, ANN, None, BOB) == ["sid=ann", "stranger", "sid=bob"] * 2
    assert len(world.seen) == 3
    assert texts(world, ("Cookie", "sid=ann; x=1")) == ["sid=ann; x=1"]


def test_only_cookies_that_count_tell_answers_apart(world):
    world.cache({"key": {"cookies": ["currency"]}})
    world.answer = lambda request: ok(body=request.header("Cookie").encode(), Vary="Cookie")
    for cookie in ("currency=eur; _ga=1", "_ga=2; currency=eur", "currency=usd; _ga=3"):
        world.ask(("Cookie", cookie))
    assert [seen.header("Cookie") for seen in world.seen] == ["currency=eur; _ga=1", "currency=usd; _ga=3"]


def test_requests_of_users_go_on_as_they_are(world):
    """Their conditions are about their own answer."""
    world.ask()
    world.ask(ANN, ("If-None-Match", '"mine"'), ("Range", "bytes=0-1"))
    assert [world.seen[1].header(name) for name in ("Cookie", "If-None-Match", "Range")] == ["sid=ann", '"mine"', "bytes=0-1"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_wants_only_what_is_stored_gets_nothing_that_is_not_for_him(world, method):
    world.ask()
    response = world.ask(ANN, ("Cache-Control", "only-if-cached"), method=method)
    assert (response.status, len(world.seen)) == (504, 1)


@pytest.mark.parametrize("cc", ["private, max-age=60", "max-age=60", "public, max-age=60"])
def test_users_of_one_application_have_answers_of_their_own(world, cc):
    """They all show the same Authorization, and each a session of his own."""
    world.cache({"vary_by_caller": True})
    world.answer = greeting(cc)
    for _ in range(2):
        assert [world.ask(("Authorization", "Basic app"), asker).text for asker in (ANN, BOB)] == [
            b"Hello sid=ann", b"Hello sid=bob"]
    assert len(world.seen) == 2


# -- Nothing takes the strangers' answer away

@pytest.mark.parametrize("later", [greeting(), greeting("no-store"), greeting("private, max-age=9"), ok("", b"gone", 404),
                                   greeting(Set_Cookie="a=1")])
def test_what_a_user_gets_displaces_nothing(world, later):
    world.ask()
    world.answer = later
    world.ask(ANN), world.ask(ANN, method="HEAD")
    assert texts(world, None) == ["stranger"]


def test_an_answer_for_everybody_that_became_personal(world):
    """A user validates it and gets his own page: what strangers have stays, and is validated by the next of them."""
    world.answer = greeting("public, max-age=10, stale-if-error=60")
    world.ask()
    world.offset = 20.0
    world.answer = greeting("max-age=10")
    assert texts(world, ANN) == ["sid=ann"]

    def broken(request):
        raise ConnectFailed("refused")

    world.answer = broken
    assert texts(world, None) == ["stranger"]
    world.offset = 21.0
    world.step.fetch.predictor.clock = lambda: time.monotonic() + 60
    world.answer = greeting("max-age=10")
    assert texts(world, ANN, None, BOB, None) == ["sid=ann", "stranger", "sid=bob", "stranger"]


def test_a_refresh_that_a_user_sets_off_leaves_nothing_of_his(world):
    world.answer = greeting("public, max-age=10, stale-while-revalidate=60")
    world.ask()
    world.offset = 20.0
    world.answer = greeting("max-age=10")
    assert texts(world, ANN) == ["stranger"]                             # it was for everybody when it was stored
    settle()
    assert world.seen[-1].header("Cookie") == "sid=ann" and texts(world, None) == ["stranger"]


# -- At once, and elsewhere

def test_users_who_ask_at_once_get_their_own(world):
    together = Event()

    def slow(request):
        if len(world.seen) == 1:
            settle()
        elif len(world.seen) >= 10:
            together.set()
        if len(world.seen) > 1:
            assert together.wait(SAFETY)
        return greeting()(request)

    world.answer = slow
    asking = [gevent.spawn(world.ask, ("Cookie", f"sid={number}")) for number in range(10)]
    gevent.joinall(asking, timeout=SAFETY)
    assert [one.value.text for one in asking] == [f"Hello sid={number}".encode() for number in range(10)]


def test_what_is_for_everybody_is_asked_for_once(world):
    def slow(request):
        settle()
        return ok("public, max-age=60")

    world.answer = slow
    assert [one.text for one in at_once(world, 20, ANN)] == [b"hello"] * 20 and len(world.seen) == 1


@pytest.mark.parametrize("cc, expected", [("max-age=60", b"Hello sid=ann"), ("public, max-age=60", b"theirs")])
def test_what_another_worker_fetched_for_strangers(world, cc, expected):
    """It has the lease, and puts its answer into the store while this one waits."""
    def wait(key, *more):
        other = World()
        other.store, other.answer = HttpStore(world.store.memory), ok(cc, b"theirs")
        other.cache()
        other.ask()
        return world.store.get("http://shop.test/a")

    world.seam.lease, world.seam.wait = lambda *more, **words: None, wait
    assert world.ask(ANN).text == expected


# -- Seen

def test_why_is_said_and_counted(world):
    world.cache({"explain": True})
    first, own, hit = world.ask(ANN), world.ask(), world.ask()
    assert status_of(first) == ['wicketgate; fwd=uri-miss; fwd-status=200; key="http://shop.test/a"; detail="cookie"']
    assert "; hit;" in status_of(hit)[0] and "stored" in status_of(own)[0]
    past = world.ask(ANN)
    assert status_of(past) == ['wicketgate; fwd=bypass; fwd-status=200; detail="cookie"']
    assert world.note == {"cache": "cookie"}
    assert world.count("gateway_cache_refused_total", reason="cookie") == 1
    assert world.count("gateway_cache_requests_total", outcome="cookie") == 1
    world.cache({"ttl": "9s", "explain": True})
    world.answer = ok("")
    world.ask(target="/b")
    assert 'detail="authorization"' in status_of(world.ask(("Authorization", "x"), target="/b"))[0]
    assert world.count("gateway_cache_requests_total", outcome="authorization") == 1


def test_a_hit_without_a_cookie_costs_no_more(world):
    def work(cc):
        world.answer = ok(cc)
        world.ask(target=f"/{cc}")
        request = Request("GET", f"/{cc}", [("Accept", "a/b"), ("User-Agent", "x")], host="shop.test")
        world.step(request)
        counter = Counter(set())
        return counter.calls(lambda: world.step(request)), counter.lines(lambda: world.step(request))

    assert work("max-age=60") == work("public,max-age=60")


# -- Whatever comes

steps = st.tuples(st.sampled_from(["ask", "ask", "ask", "HEAD", "POST", "later", "change"]), st.sampled_from(["", "ann", "bob"]),
                  st.sampled_from([(), ("Cache-Control", "no-cache"), ("Cache-Control", "max-stale"), ("If-None-Match", '"v"'),
                                   ("Range", "bytes=0-")]))
controls = st.sampled_from(["", "max-age=10", "max-age=10, must-revalidate", "no-cache", "private, max-age=10", "max-age=0",
                            "max-age=10, stale-while-revalidate=60", "max-age=10, stale-if-error=60", "no-store"])


@settings(deadline=None)
@given(st.lists(steps, max_size=25), st.lists(controls, min_size=1, max_size=4), st.booleans(), st.sampled_from(["", '"v"']),
       st.sampled_from([{}, {"ttl": "9s"}, {"ttl": "9s", "respect": "policy"}, {"respect": "stricter", "ttl": "9s"},
                        {"vary_by_caller": True}, {"vary_by_caller": True, "ttl": "9s"},
                        {"stale_while_revalidate": "1m", "stale_if_error": "1m"},
                        {"min_uses": 2, "negative_ttl": "9s"}]), st.booleans())
def test_no_answer_ever_crosses_users(sequence, said, varies, tag, policy, application):
    """Personal pages that say nothing about being so: whoever asks reads his own name, or, a stranger, nobody's. Those who use an
    ``application`` all show the same Authorization."""
    world = World()
    world.clock = lambda: time.time() + world.offset
    world.cache(policy)
    turn = 0

    def page(request):
        name = request.header("Cookie").removeprefix("sid=") or "stranger"
        fields = {"Vary": "Cookie"} if varies and turn % 2 else {}
        own = f'"{name}{tag[1:]}' if tag else ""
        if own and request.header("If-None-Match") == own:
            return Response(304, [("ETag", own), *([("Cache-Control", said[turn % len(said)])] if said[turn % len(said)] else [])])
        return ok(said[turn % len(said)], name.encode(), **fields, **({"ETag": own} if own else {}))

    world.answer = page
    proof = [("Authorization", "Basic app")] if application else []
    for action, user, field in sequence:
        if action == "later":
            world.offset += 11.0
        elif action == "change":
            turn += 1
        else:
            headers = proof + ([("Cookie", f"sid={user}")] if user else []) + ([field] if field else [])
            response = world.ask(*headers, method="GET" if action == "ask" else action)
            settle()
            if action == "ask" and response.status == 200:
                assert response.text == (user or "stranger").encode()
