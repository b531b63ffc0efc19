"""Who asks and who waits: coalescing in one worker and across several, and what purges change meanwhile."""

from __future__ import annotations

import time
from math import inf

import gevent
import pytest
from asking import SAFETY, DictStore, Got, Stream, World, at_once, ok, settle, status_of
from gevent.event import Event
from stored import entry_of

from gateway.cache.coalesce import Flight, Flights, FlightState, WaitLimits
from gateway.cache.entry import Variants
from gateway.cache.fetch_context import FetchContext
from gateway.cache.reasons import Decision, NotStored
from gateway.cache.request_directives import COOKIE
from gateway.cache.step import CacheStep
from gateway.cache.storage.construction import store_of
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.store import HttpStore, Intervals
from gateway.config import CacheSettings as Policy
from gateway.config import CacheStorage
from gateway.deadline import Deadline
from gateway.errors import ClientDisconnected, ConnectFailed, DeadlineExceeded, UpstreamClosed
from gateway.loop.monotonic_clock import MonotonicClock
from gateway.message import Request, Response
from tests.clocks import ManualClock
from tests.waiting import until


@pytest.fixture
def followers(world):
    """``followers()`` is how many wait for what is fetched right now."""
    return lambda: sum(flight.crowd for flight in world.step.fetch.flights.flying.values())


def test_ten_thousand_for_one_cold_key(world, followers):
    def slow(request):
        until(lambda: followers() == 9_999)
        return ok()

    world.answer = slow
    answers = at_once(world, 10_000, deadline=SAFETY)
    assert len(world.seen) == 1
    assert {answer.text for answer in answers} == {b"hello"}
    assert world.count("gateway_cache_requests_total", outcome="collapsed") == 9_999
    assert status_of(answers[-1]) == ["wicketgate; fwd=uri-miss; collapsed"]


def test_an_error_is_for_all_who_waited(world):
    def failing(request):
        settle()
        raise ConnectFailed("refused")

    world.answer = failing
    answers = at_once(world, 10)
    assert [type(answer) for answer in answers] == [ConnectFailed] * 10
    assert len(world.seen) == 1 and world.step.fetch.flights.flying == {}


def test_an_error_that_one_client_may_have_provoked_is_his_alone(world):
    def resetting(request):
        settle()
        if len(world.seen) == 1:
            raise UpstreamClosed("reset")
        return ok()

    world.answer = resetting
    answers = at_once(world, 10)
    assert [type(answer) for answer in answers].count(UpstreamClosed) == 1
    assert [answer.text for answer in answers[1:]] == [b"hello"] * 9 and len(world.seen) == 2


def test_an_upstream_that_fails_twice_is_asked_no_more_for_those_who_waited(world, followers):
    def resetting(request):
        number = len(world.seen)
        until(lambda: followers() == 100 - number)
        raise UpstreamClosed("reset")

    world.answer = resetting
    assert [type(answer) for answer in at_once(world, 100, deadline=SAFETY)] == [UpstreamClosed] * 100
    assert len(world.seen) == 2


def test_leaders_that_leave_do_not_set_the_herd_free(world):
    def leaving(request):
        settle()
        if len(world.seen) <= 4:
            raise ClientDisconnected("gone")
        return ok()

    world.answer = leaving
    answers = at_once(world, 100)
    assert [type(answer) for answer in answers].count(ClientDisconnected) == 4 and len(world.seen) == 5


def test_an_unexpected_error_lets_another_try(world):
    def failing(request):
        settle()
        if len(world.seen) == 1:
            raise RuntimeError("a defect")
        return ok()

    world.answer = failing
    answers = at_once(world, 5)
    assert [type(answer) for answer in answers].count(RuntimeError) == 1
    assert len(world.seen) == 2 and world.step.fetch.flights.flying == {}


@pytest.mark.parametrize("own", [ClientDisconnected("gone"), DeadlineExceeded("its own")])
def test_the_leaders_own_trouble_is_not_the_others(world, own):
    def leaving(request):
        settle()
        if len(world.seen) == 1:
            raise own
        return ok()

    world.answer = leaving
    answers = at_once(world, 5)
    assert answers[0] is own and [answer.text for answer in answers[1:]] == [b"hello"] * 4
    assert len(world.seen) == 2


def test_a_killed_leader_lets_another_try(world):
    def slow(request):
        if len(world.seen) == 1:
            gevent.sleep(SAFETY)
        return ok()

    world.answer = slow
    leader = gevent.spawn(world.ask)
    gevent.sleep(0)
    follower = gevent.spawn(world.ask)
    gevent.sleep(0)
    leader.kill()
    assert follower.get(timeout=SAFETY).text == b"hello" and len(world.seen) == 2


def test_each_waits_no_longer_than_its_own_deadline(world):
    release = Event()

    def slow(request):
        release.wait(SAFETY)
        return ok()

    world.answer = slow
    leader = gevent.spawn(world.ask)
    gevent.sleep(0)
    assert isinstance(at_once(world, 1, deadline=0.05)[0], DeadlineExceeded)
    release.set()
    assert leader.get(timeout=SAFETY).text == b"hello" and len(world.seen) == 1


def test_a_follower_without_time_gets_the_stale_answer(world):
    world.answer = ok("max-age=10, stale-if-error=60")
    world.ask()
    world.offset = 20.0

    def failing(request):
        settle()
        raise ConnectFailed("refused")

    world.answer = failing
    assert [answer.text for answer in at_once(world, 5)] == [b"hello"] * 5
    assert len(world.seen) == 2


def test_uncacheable_answers_are_fetched_side_by_side(world):
    together = Event()
    running = []

    def slow(request):
        running.append(1)
        if len(world.seen) == 1 + 20:
            together.set()
        if len(world.seen) > 1:
            assert together.wait(SAFETY)
        return ok("no-store")

    world.answer = slow
    world.ask()                                          # from here on it is known
    answers = at_once(world, 20)
    assert [answer.text for answer in answers] == [b"hello"] * 20 and len(world.seen) == 21


def test_the_first_uncacheable_answer_costs_one_wait_and_no_more(world):
    together = Event()

    def slow(request):
        if len(world.seen) == 20:
            together.set()
        if len(world.seen) > 1:
            assert together.wait(SAFETY)
        else:
            settle()
        return ok("no-store")

    world.answer = slow
    assert [answer.text for answer in at_once(world, 20)] == [b"hello"] * 20


def test_variants_do_not_wait_for_each_other(world):
    together = Event()

    def slow(request):
        language = request.header("Accept-Language")
        if len(world.seen) == 1:
            settle()
        elif len(world.seen) == 4:
            together.set()
        if len(world.seen) > 1:
            assert together.wait(SAFETY)
        return ok(body=language.encode(), Vary="Accept-Language")

    world.answer = slow
    greenlets = [gevent.spawn(world.ask, ("Accept-Language", name)) for name in ("a", "b", "c", "d") for _ in range(3)]
    gevent.joinall(greenlets, timeout=SAFETY)
    assert [one.value.text for one in greenlets] == [name for name in (b"a", b"b", b"c", b"d") for _ in range(3)]
    assert len(world.seen) == 4


def test_followers_of_a_streamed_answer_get_it_whole(world):
    go = Event()

    class Slow(Stream):
        def __iter__(self):
            yield b"hel"
            go.wait(SAFETY)
            yield b"lo"

    world.answer = lambda request: ok(body=Slow())
    greenlets = [gevent.spawn(world.ask) for _ in range(5)]
    settle()
    go.set()
    gevent.joinall(greenlets, timeout=SAFETY)
    assert [one.value.text for one in greenlets] == [b"hello"] * 5 and len(world.seen) == 1


def test_a_client_that_does_not_read_holds_nobody_up(world):
    world.cache(limits={"stream": 0.01})
    world.answer = lambda request: ok(body=Stream(b"hel", b"lo"))
    slow = world.step(Request("GET", "/a", [], host="shop.test"))        # its body is not taken
    assert world.ask().text == b"hello"
    slow.body.close()
    assert len(world.seen) == 2 and status_of(world.ask()) == ["wicketgate; hit; ttl=60"]


def test_who_comes_after_a_purge_does_not_get_what_was_asked_for_before_it(world):
    go = Event()

    def slow(request):
        number = len(world.seen)
        if number == 1:
            go.wait(SAFETY)
        return ok(body=str(number).encode())

    world.answer = slow
    before = gevent.spawn(world.ask)
    gevent.sleep(0)
    world.store.purger.purge(url="http://shop.test/a")
    world.base = time.time()
    after = gevent.spawn(world.ask)
    gevent.sleep(0)
    go.set()
    assert (before.get(timeout=SAFETY).text, after.get(timeout=SAFETY).text) == (b"1", b"2")
    assert world.ask().text == b"2"


def test_a_purged_answer_covers_no_error_for_who_comes_after_the_purge(world):
    world.answer = ok("max-age=10, stale-if-error=60")
    world.ask()
    world.offset = 20.0
    go = Event()

    def failing(request):
        go.wait(SAFETY)
        return ok("", b"broken", 503)

    world.answer = failing
    before = gevent.spawn(world.ask)
    gevent.sleep(0)
    world.store.purger.purge(url="http://shop.test/a")
    after = gevent.spawn(world.ask)
    gevent.sleep(0)
    go.set()
    assert (before.get(timeout=SAFETY).text, after.get(timeout=SAFETY).text) == (b"hello", b"broken")


def test_requests_with_authorization_do_not_wait_for_each_other(world):
    together = Event()

    def slow(request):
        if len(world.seen) == 5:
            together.set()
        assert together.wait(SAFETY)
        return ok()

    world.answer = slow
    assert [answer.text for answer in at_once(world, 5, ("Authorization", "x"))] == [b"hello"] * 5


def test_parts_and_client_conditions_do_not_make_a_key_uncacheable(world):
    world.answer = ok(status=206, body=b"h")
    world.ask(("Range", "bytes=0-0"))
    assert world.step.fetch.predictor.worth_waiting("http://shop.test/a")


# -- Not for several

def meeting(world, count):
    """An upstream that answers when ``count`` requests have come."""
    def upstream(request):
        until(lambda: len(world.seen) >= count)
        return ok("no-store")
    return upstream


def test_a_new_key_of_a_route_without_sharable_answers_is_fetched_side_by_side(world):
    world.cache(limits={"unlikely_shared": 0.01})
    world.answer = ok("no-store")
    world.ask(target="/known")
    world.answer = meeting(world, 1 + 20)
    assert [answer.text for answer in at_once(world, 20)] == [b"hello"] * 20


def test_a_few_do_not_wait_long_on_a_route_that_is_new(world, monkeypatch):
    """The first answer comes when all have asked."""
    world.cache(limits={"unknown": 0.01})
    world.answer = meeting(world, 20)
    assert [answer.text for answer in at_once(world, 20)] == [b"hello"] * 20


@pytest.fixture
def waiting_on(monkeypatch):
    """``waiting_on()`` is how many followers wait for as long as it takes, after their patience or without any."""
    wait, found = Flight.wait, []
    monkeypatch.setattr(Flight, "wait", lambda flight, deadline, patience=inf: (
        found.append(flight) if patience == inf else None, wait(flight, deadline, patience))[1])
    return lambda: len(found)


def test_a_crowd_waits_on_a_route_that_is_new(world, waiting_on):
    world.cache(limits={"unknown": 0.01})

    def slow(request):
        until(lambda: waiting_on() >= 99)
        return ok()

    world.answer = slow
    assert {answer.text for answer in at_once(world, 100)} == {b"hello"} and len(world.seen) == 1


def test_one_sharable_answer_gives_hope(world, waiting_on):
    world.cache(limits={"unlikely_shared": 0.01})
    world.answer = ok("no-store")
    world.ask(target="/known")
    world.answer = ok()
    world.ask(target="/stored")

    def slow(request):
        until(lambda: waiting_on() == 99)
        return ok()

    world.answer = slow
    assert {answer.text for answer in at_once(world, 100)} == {b"hello"} and len(world.seen) == 3


@pytest.mark.parametrize("company", [0, 1, 2, 5])
def test_doubt_costs_no_more_than_some_company(world, waiting_on, company):
    """The answer turns out to be for all."""
    world.cache(limits={"unlikely_shared": 0.01, "max_parallel": company})
    world.answer = ok("no-store")
    world.ask(target="/known")

    def slow(request):
        until(lambda: waiting_on() == 99 - company)
        return ok()

    world.answer = slow
    assert {answer.text for answer in at_once(world, 100)} == {b"hello"}
    assert len(world.seen) == 1 + 1 + company


def test_a_quick_answer_leaves_no_time_for_doubt(world):
    world.answer = ok("no-store")
    world.ask(target="/known")

    def quick(request):
        gevent.sleep(0)
        return ok()

    world.answer = quick
    assert {answer.text for answer in at_once(world, 100)} == {b"hello"} and len(world.seen) == 2


def test_who_shows_himself_casts_no_doubt_on_strangers(world):
    world.answer = ok("private")
    world.ask(("Cookie", "sid=1"), target="/own")
    predictor = world.step.fetch.predictor
    assert predictor.doubtful(COOKIE) and not predictor.doubtful(0)


def test_what_a_known_key_turns_into_says_nothing_about_new_ones(world):
    world.ask()
    world.cache()                                        # another worker, which finds it stored
    world.answer = ok("no-store")
    world.ask(("Cache-Control", "no-cache"))
    predictor = world.step.fetch.predictor
    assert not predictor.worth_waiting("http://shop.test/a") and not predictor.doubtful(0)


def test_an_uncacheable_answer_sets_the_others_free_with_its_head(world):
    """Its body goes on and on."""
    go = Event()

    class Endless(Stream):
        def __iter__(self):
            assert go.wait(SAFETY)
            yield b"hello"

    def answer(request):
        settle()
        if len(world.seen) == 5:
            go.set()
        return ok("no-store", Endless())

    world.answer = answer
    assert [answer.text for answer in at_once(world, 5)] == [b"hello"] * 5


@pytest.mark.parametrize("status, cc, learned", [
    (200, "no-store", True), (200, "private", True), (302, "", True), (500, "", False), (503, "no-store", False),
    (400, "", False), (404, "", False), (429, "no-cache, private", False)])
def test_an_error_says_nothing_about_the_next_answer(world, status, cc, learned):
    world.answer = ok(cc, status=status)
    world.ask()
    predictor = world.step.fetch.predictor
    assert predictor.worth_waiting("http://shop.test/a") is not learned and predictor.doubtful(0) is learned


@pytest.mark.parametrize("status, left", [(400, True), (429, True), (431, True), (501, True), (403, False), (404, False),
                                          (410, False)])
def test_what_is_odd_about_one_request_takes_nothing_from_the_others(world, status, left):
    world.ask()
    world.answer = ok("", b"odd", status)
    assert world.ask(("Cache-Control", "no-cache")).text == b"odd"
    assert (world.store.get("http://shop.test/a") is not None) is left


# -- min_uses

def test_those_who_wait_count_as_uses(world):
    world.cache({"min_uses": 3})

    def slow(request):
        settle()
        return ok()

    world.answer = slow
    assert {answer.text for answer in at_once(world, 100)} == {b"hello"} and len(world.seen) == 1
    assert status_of(world.ask()) == ["wicketgate; hit; ttl=60"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("uses, stored", [(2, True), (3, False), (4, False)])
def test_what_is_not_used_enough_is_for_those_who_wait_alone(world, streamed, uses, stored):
    world.cache({"min_uses": uses, "explain": True})

    def slow(request):
        settle()
        return ok(body=Stream(b"hel", b"lo") if streamed else b"hello")

    world.answer = slow
    answers = at_once(world, 2)
    assert [answer.text for answer in answers] == [b"hello"] * 2 and len(world.seen) == 1
    assert "collapsed" in status_of(answers[1])[0]
    assert ("stored" in status_of(answers[0])[0], 'detail="uses"' in status_of(answers[0])[0]) == (stored, not stored)
    assert (world.store.get("http://shop.test/a") is not None) is stored
    assert world.count("gateway_cache_refused_total", reason="uses") == (not stored)


def test_what_was_purged_meanwhile_is_not_for_those_who_wait_either(world):
    world.cache({"min_uses": 9})
    go = Event()

    def slow(request):
        number = len(world.seen)
        if number == 1:
            assert go.wait(SAFETY)
        return ok(body=str(number).encode())

    world.answer = slow
    before = gevent.spawn(world.ask)
    gevent.sleep(0)
    world.store.purger.purge(url="http://shop.test/a")
    after = gevent.spawn(world.ask)
    gevent.sleep(0)
    go.set()
    assert (before.get(timeout=SAFETY).text, after.get(timeout=SAFETY).text) == (b"1", b"2")


# -- Purged meanwhile

@pytest.mark.parametrize("policy", [{}, {"stale_while_revalidate": "1h"}])
def test_who_comes_after_a_soft_purge_does_not_get_what_was_asked_for_before_it_as_fresh(world, policy):
    world.cache(policy)
    go = Event()

    def slow(request):
        number = len(world.seen)
        if number == 1:
            assert go.wait(SAFETY)
        return ok(body=str(number).encode())

    world.answer = slow
    world.base = time.time() - 1
    before = gevent.spawn(world.ask)
    gevent.sleep(0)
    world.store.purger.purge(url="http://shop.test/a", soft=True)
    world.base = time.time()
    after = gevent.spawn(world.ask)
    gevent.sleep(0)
    go.set()
    assert (before.get(timeout=SAFETY).text, after.get(timeout=SAFETY).text) == (b"1", b"2")
    assert world.ask().text == b"2"


def stale_one(world):
    """A stale answer is stored, and two requests want it: the leader waits at the upstream for what is returned."""
    go = Event()
    world.answer = ok("max-age=10, stale-if-error=600", b"old", ETag='"old"')
    world.ask()
    world.offset = 20.0
    return go


@pytest.mark.parametrize("purged, validator", [(True, ""), (False, '"old"')])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_was_purged_while_a_request_waited_is_not_validated(world, purged, validator, elsewhere):
    """``elsewhere``: it waited for another worker."""
    go = stale_one(world)

    def leaving(request):
        if not elsewhere and len(world.seen) == 2:
            assert go.wait(SAFETY)
            raise ClientDisconnected("gone")
        return Response(304, []) if request.header("If-None-Match") else ok(body=b"new")

    class Elsewhere:
        name, usable, write = "elsewhere", True, None

        def lease(self, key, token, seconds):
            return False

        def is_leased(self, key):
            assert go.wait(SAFETY)
            return False

    world.answer = leaving
    if elsewhere:
        world.store.leases = Elsewhere()
    greenlets = [gevent.spawn(world.ask) for _ in range(1 if elsewhere else 2)]
    settle()
    world.store.purger.purge(url="http://shop.test/a" if purged else "http://shop.test/b")
    world.base = time.time()
    go.set()
    gevent.joinall(greenlets, timeout=SAFETY)
    assert greenlets[-1].value.text == (b"new" if purged else b"old")
    assert world.seen[-1].header("If-None-Match") == validator


class Hearing:
    """Gives leases; all but the first request hear of a purge while they ask for one."""

    name, usable = "hearing", True

    def __init__(self, world, purged):
        self.world = world
        self.purged = purged

    def lease(self, key, token, seconds):
        if self.world.seen:
            self.world.store.purger.purge(url="http://shop.test/a" if self.purged else "http://shop.test/b")
            self.world.base = time.time()
        return True

    def is_leased(self, key):
        return False

    def write(self, operations):
        return 0


@pytest.mark.parametrize("purged, validator, text", [(True, "", b"new"), (False, '"old"', b"old")])
def test_what_is_purged_while_the_lease_is_waited_for_is_not_validated(world, purged, validator, text):
    world.store = HttpStore(MemoryTier(2 ** 20), leases=Hearing(world, purged))
    world.cache()
    stale_one(world)
    world.store.flush()                                  # else it has its own lease again
    world.answer = lambda request: Response(304, []) if request.header("If-None-Match") else ok(body=b"new")
    assert world.ask().text == text
    assert (len(world.seen), world.seen[1].header("If-None-Match")) == (2, validator)


@pytest.mark.parametrize("purged, seen, result", [(True, 1, "purged"), (False, 2, "done")])
def test_what_is_purged_before_its_refresh_is_not_refreshed(world, purged, seen, result):
    world.store = HttpStore(MemoryTier(2 ** 20), leases=Hearing(world, purged))
    world.cache({"stale_while_revalidate": "1m"})
    stale_one(world)
    world.store.flush()
    world.answer = ok(body=b"new")
    assert world.ask().text == b"old"
    until(lambda: world.count("gateway_cache_refreshes_total", result=result))
    assert len(world.seen) == seen and world.step.fetch.flights.flying == {}
    assert world.ask().text == b"new"


@pytest.mark.parametrize("purged", [True, False])
def test_what_was_purged_while_a_request_waited_covers_no_error(world, purged):
    go = stale_one(world)

    def failing(request):
        assert go.wait(SAFETY)
        raise ConnectFailed("refused")

    world.answer = failing
    leader, follower = gevent.spawn(world.ask), gevent.spawn(world.ask)
    settle()
    world.store.purger.purge(url="http://shop.test/a" if purged else "http://shop.test/b")
    go.set()
    assert leader.get(timeout=SAFETY).text == b"old"     # it asked before the purge
    if purged:
        with pytest.raises(ConnectFailed):
            follower.get(timeout=SAFETY)
    else:
        assert follower.get(timeout=SAFETY).text == b"old"
        assert status_of(follower.value) == ["wicketgate; hit; ttl=-10"]


def test_a_follower_whose_time_is_over_gets_the_stale_answer(world):
    go = stale_one(world)

    def slow(request):
        assert go.wait(SAFETY)
        return ok()

    world.answer = slow
    leader = gevent.spawn(world.ask)
    gevent.sleep(0)
    assert world.ask(deadline=0.05).text == b"old"
    go.set()
    assert leader.get(timeout=SAFETY).text == b"hello"


def test_a_follower_whose_time_is_over_does_not_get_what_was_purged_while_it_waited(world):
    go = stale_one(world)

    def slow(request):
        assert go.wait(SAFETY)
        return ok()

    world.answer = slow
    leader = gevent.spawn(world.ask)
    gevent.sleep(0)
    purge = gevent.spawn(world.store.purger.purge, url="http://shop.test/a")
    with pytest.raises(DeadlineExceeded):
        world.ask(deadline=0.05)
    go.set()
    gevent.joinall([leader, purge], timeout=SAFETY, raise_error=True)


@pytest.mark.parametrize("reason, left", [("request", True), ("cookie", True), ("no-store", False)])
def test_what_is_said_by_one_request_takes_nothing_from_the_others(world, reason, left):
    world.ask()
    [stored] = world.store.get(key := "http://shop.test/a")
    miss = FetchContext(Request("GET", "/a", [], host="shop.test"), None, key, key, stored, Decision.STALE, False,
                        Variants([stored]))
    world.step.fetch.origin.admission.refuse(miss, NotStored(reason), None)
    assert (world.store.get(key) is not None) is left


# -- A tier behind memory

class Tier:
    """Records in a dictionary; what was asked for."""

    name, shift, margin, usable = "far", 0.0, 0.0, True

    def __init__(self):
        self.records = {}
        self.asked = []

    def get(self, key):
        self.asked.append(key)
        return self.records.get(key)

    def put(self, key, data, seconds):
        self.records[key] = data

    def delete(self, key):
        self.records.pop(key, None)

    def write(self, operations):
        for name, *arguments in operations:
            getattr(self, name)(*arguments)


@pytest.mark.parametrize("then", [
    ok(body=b"newer"), ok("no-store"), Response(304, []), Response(304, [("Cache-Control", "no-store")])])
def test_a_shared_tier_is_asked_once_for_a_miss(world, then):
    world.store = HttpStore(MemoryTier(2 ** 20), [tier := Tier()])
    world.cache()
    world.answer = ok("max-age=10", ETag='"v"')
    world.ask()
    assert tier.asked == ["http://shop.test/a"]
    world.store.flush()
    world.store.memory.clear()                           # as in another worker
    world.answer = then
    world.ask(("Cache-Control", "no-cache"))
    assert tier.asked == ["http://shop.test/a"] * 2


def test_variants_that_memory_does_not_hold_are_not_lost(world):
    world.store = HttpStore(MemoryTier(2 ** 20), [Tier()])
    world.cache()
    world.answer = lambda request: ok(body=request.header("X-A").encode(), Vary="X-A")
    world.ask(("X-A", "1"))
    world.store.memory.limit = 0                         # nothing is held from now on
    world.store.memory.clear()
    world.ask(("X-A", "2"))
    assert [world.ask(("X-A", name)).text for name in "12"] == [b"1", b"2"] and len(world.seen) == 2


@pytest.mark.parametrize("purged", [True, False])
def test_what_is_purged_while_a_tier_is_asked_for_a_newer_one_is_not_used(world, purged):
    class Hearing(Tier):
        def get(self, key):
            if world.seen:
                world.store.purger.purge(url="http://shop.test/a" if purged else "http://shop.test/b")
                world.base = time.time()

    world.store = HttpStore(MemoryTier(2 ** 20), [Hearing()])
    world.cache()
    world.base = time.time() - 20.0
    world.answer = ok("max-age=10, stale-while-revalidate=60", b"old", ETag='"v"')
    world.ask()
    world.store.flush()                                  # else what is still to be written is found, and nobody is asked
    world.base = time.time()
    world.answer = ok(body=b"new")
    assert world.ask().text == (b"new" if purged else b"old")


def test_what_was_forgotten_meanwhile_does_not_come_back(world):
    """Another request, here or in another worker, finds that what is under the key is no longer right."""
    world.answer = lambda request: ok(body=request.header("X-A").encode(), Vary="X-A")
    for name in "12":
        world.ask(("X-A", name))

    def forgetting(request):
        world.store.delete("http://shop.test/a")
        return ok(body=b"new", Vary="X-A")

    world.answer = forgetting
    assert world.ask(("X-A", "1"), ("Cache-Control", "no-cache")).text == b"new"
    world.answer = ok(body=b"new", Vary="X-A")
    assert [world.ask(("X-A", name)).text for name in "12"] == [b"new", b"new"] and len(world.seen) == 4


# -- Another worker

class Leased:
    """Another worker has the lease, and puts its answer into the store."""

    name, usable, write = "elsewhere", True, None

    def __init__(self, world, answer):
        self.world = world
        self.answer = answer

    def lease(self, key, token, seconds):
        return False

    def is_leased(self, key):
        if self.answer is not None:
            CacheStep(lambda request: self.answer, Policy(), HttpStore(self.world.store.memory),
                      counter=self.world.registry.counter, clock=self.world.clock)(Request("GET", "/a", [], host="shop.test"))
            self.answer = None
        return False


@pytest.mark.parametrize("answer, seen, expected", [
    (ok(body=b"theirs"), 0, "wicketgate; fwd=uri-miss; collapsed"),
    (ok("no-store"), 1, "wicketgate; fwd=uri-miss; fwd-status=200; stored"),
    (None, 1, "wicketgate; fwd=uri-miss; fwd-status=200; stored")])
def test_what_another_worker_fetches_is_waited_for(world, answer, seen, expected):
    world.store.leases = Leased(world, answer)
    response = world.ask()
    assert (status_of(response), len(world.seen)) == ([expected], seen)


class Elsewhere(DictStore):
    """Another worker has the lease, and stores the answer ``found`` in the wait with that number, if at all. During each wait there
    are ``crowd`` followers; ``waits`` are their seconds."""

    elsewhere = True

    def __init__(self, world, crowd, found):
        super().__init__()
        self.world, self.crowd, self.found, self.waits = world, crowd, found, []

    def wait(self, key, seconds, lease="", demand=None):
        self.waits.append(seconds)
        [flight] = self.world.step.fetch.flights.flying.values()
        flight.crowd = self.crowd
        return Variants([entry_of(at=self.world.clock(), body=b"theirs")]) if len(self.waits) == self.found else None


@pytest.mark.parametrize("known, crowd, found, waits, text", [
    # of which nothing is known: ``unknown``, and what is left of half the deadline only with more than ``small_crowd``
    ([], 2, 1, [0.5], b"theirs"), ([], 3, 1, [0.5], b"theirs"),
    ([], 2, 2, [0.5], b"hello"), ([], 3, 2, [0.5, 3.5], b"theirs"), ([], 3, 0, [0.5, 3.5], b"hello"),
    # of which one was for several: half the deadline, and for one only: ``unlikely_shared``
    ([True], 3, 0, [4.0], b"hello"), ([True], 0, 1, [4.0], b"theirs"), ([False], 3, 0, [0.25], b"hello"),
])
def test_how_long_a_leader_waits_for_another_worker(world, known, crowd, found, waits, text):
    clock = ManualClock(0.0)
    world.store = store = Elsewhere(world, crowd, found)
    step = world.cache(flights=Flights(clock, WaitLimits(small_crowd=2)))
    for number, cacheable in enumerate(known):
        step.fetch.predictor.learn(number, cacheable, 0)
    response = Got(step(Request("GET", "/a", [], host="shop.test", deadline=Deadline(8.0, clock.now))))
    assert ([round(wait, 6) for wait in store.waits], response.text) == (waits, text)
    assert ("collapsed" in status_of(response)[0]) is (text == b"theirs") and step.fetch.flights.flying == {}


@pytest.mark.parametrize("seconds, wait", [(8.0, 4.0), (20.0, 10.0), (60.0, 10.0)])
def test_another_worker_is_waited_for_at_most_half_the_time_and_the_time_of_a_lease(world, seconds, wait):
    clock = ManualClock(0.0)
    world.store = store = Elsewhere(world, 0, 0)
    step = world.cache(flights=Flights(clock))
    step.fetch.predictor.learn("other", True, 0)
    step(Request("GET", "/a", [], host="shop.test", deadline=Deadline(seconds, clock.now)))
    assert store.waits == [wait]


@pytest.mark.parametrize("leased, hopeful, late, state", [
    (True, False, False, FlightState.UNCACHEABLE), (True, True, False, FlightState.STORED),
    (False, False, False, FlightState.STORED),
    (True, False, True, FlightState.STORED)])
def test_followers_of_a_leader_that_waited_for_nothing_go_on_at_once(world, leased, hopeful, late, state):
    """They have waited for one answer already: the lease was another worker's, and is free before its time was over."""
    clock = ManualClock(0.0)
    world.store = store = Elsewhere(world, 0, 0)
    store.is_leased = lambda key: leased
    step = world.cache(flights=Flights(clock))
    step.fetch.predictor.learn("other", hopeful, 0)
    flights, states = step.fetch.flights, []

    def upstream(request):
        [flight] = flights.flying.values() or [led]
        states.append(flight.state)
        return ok()

    def wait(key, seconds, lease="", demand=None):
        nonlocal led
        [led] = flights.flying.values()
        clock.time += seconds if late else 0.0

    led, world.answer, store.wait = None, upstream, wait
    step(Request("GET", "/a", [], host="shop.test", deadline=Deadline(8.0, clock.now)))
    assert (states, led.state) == ([FlightState.UNCACHEABLE if state is FlightState.UNCACHEABLE else FlightState.FLYING], state)


@pytest.fixture
def workers(world, redis_server):
    """Three workers with one upstream and one Redis."""
    server = world.redis = redis_server()
    found = []
    for _ in range(3):
        worker = World()
        worker.store = store_of(CacheStorage(redis=server.url, timeout="2s"))
        worker.store.patience = SAFETY                   # a busy machine is not what this is about
        worker.seen = world.seen
        worker.clock = time.time                         # the log of purges begins with one of everything
        worker.cache()
        worker.store.start()
        found.append(worker)
    for worker in found:
        until(lambda: worker.store.leases.usable and time.time() > worker.store.marks.hard.floor)
    yield found
    for worker in found:
        worker.store.stop()


def ask_all(workers, count, *headers, **more):
    """``count`` requests at once in each of the workers."""
    greenlets = [gevent.spawn(worker.ask, *headers, **more) for _ in range(count) for worker in workers]
    gevent.joinall(greenlets, timeout=SAFETY)
    assert all(greenlet.successful() for greenlet in greenlets), greenlets
    return [greenlet.value for greenlet in greenlets]


def crowd(workers, count):
    """A function that is true when ``count`` requests have missed, and all workers but one know that another has the lease."""
    missed, waiting = [], []

    def counted(worker):
        fetch, leased = worker.step.fetch, worker.store.is_leased
        worker.step.fetch = lambda miss: (missed.append(miss), fetch(miss))[1]
        worker.store.is_leased = lambda key: (leased(key), waiting.append(worker))[0]

    for worker in workers:
        counted(worker)
    return lambda: len(missed) >= count and len(waiting) >= len(workers) - 1


def test_one_request_for_all_workers(world, workers):
    together = crowd(workers, 60)

    def slow(request):
        until(together)
        return ok()

    for worker in workers:
        worker.answer = slow
    assert {answer.text for answer in ask_all(workers, 20)} == {b"hello"} and len(world.seen) == 1


def test_who_looked_before_the_answer_was_stored_and_asks_for_the_lease_after_it_looks_again(world, workers):
    one, other, _ = workers
    lease = other.store.lease

    def late(*asked):
        one.ask()
        assert one.store.flush()
        return lease(*asked)

    other.store.lease = late
    assert status_of(other.ask()) == ["wicketgate; fwd=uri-miss; collapsed"] and len(world.seen) == 1


def test_the_first_uncacheable_answer_costs_one_wait_in_all_workers_together(world, workers):
    """A third wave would never come: the second one waits until all are there."""
    together = crowd(workers, 60)

    def slow(request):
        until(together if len(world.seen) == 1 else lambda: len(world.seen) == 60)
        return ok("no-store")

    for worker in workers:
        worker.answer = slow
    ask_all(workers, 20)
    assert len(world.seen) == 60


def test_a_few_do_not_wait_long_across_workers_either(world, workers, monkeypatch):
    for worker in workers:
        worker.cache(limits={"unknown": 0.01})
    for worker in workers:
        worker.answer = meeting(world, 18)
    assert {answer.text for answer in ask_all(workers, 6)} == {b"hello"}


def test_doubt_is_short_across_workers_too(world, workers):
    for worker in workers:
        worker.cache(limits={"unlikely_shared": 0.01})
    waited = []
    for worker in workers:
        worker.answer = ok("no-store")
        worker.ask(target="/known")
        worker.answer = meeting(world, 3 + 60)
        worker.store.wait = (lambda key, seconds, *more, wait=worker.store.wait:
                             (waited.append(seconds), wait(key, seconds, *more))[1])
    ask_all(workers, 20)
    assert waited == [0.01] * 2


def test_a_leader_elsewhere_that_leaves_sets_no_hopeful_herd_free(world, workers):
    one, other, _ = workers
    for worker in (one, other):
        worker.answer = ok()
        worker.ask(target=f"/{worker is one}")
    go = Event()

    def leaving(request):
        assert go.wait(SAFETY)
        raise ClientDisconnected("gone")

    def slow(request):
        settle()
        return ok()

    one.answer, other.answer = leaving, slow
    leader = gevent.spawn(one.ask)
    until(lambda: len(world.seen) == 3)
    followers = [gevent.spawn(other.ask) for _ in range(50)]
    until(lambda: sum(flight.crowd for flight in other.step.fetch.flights.flying.values()) == 49)
    go.set()
    gevent.joinall([leader, *followers], timeout=SAFETY)
    assert isinstance(leader.exception, ClientDisconnected)
    assert {follower.value.text for follower in followers} == {b"hello"} and len(world.seen) == 4


def test_variants_do_not_wait_for_each_other_across_workers(world, workers):
    one, other, _ = workers
    go = Event()

    def answer(request):
        if request.header("Accept-Language") == "de":
            assert go.wait(SAFETY)
        return ok(body=request.header("Accept-Language").encode(), Vary="Accept-Language")

    for worker in workers:
        worker.answer = answer
    one.ask(("Accept-Language", "en"))                   # from now on it is known that it varies
    slow = gevent.spawn(one.ask, ("Accept-Language", "de"))
    until(lambda: len(world.seen) == 2)
    assert other.ask(("Accept-Language", "fr")).text == b"fr" and not slow.dead
    go.set()
    assert slow.get(timeout=SAFETY).text == b"de"


def test_users_do_not_hold_strangers_of_other_workers_up(world, workers):
    one, other, _ = workers
    go = Event()

    def answer(request):
        if request.header("Cookie"):
            assert go.wait(SAFETY)
        return ok("private" if request.header("Cookie") else "max-age=60")

    for worker in workers:
        worker.answer = answer
    slow = gevent.spawn(one.ask, ("Cookie", "sid=1"))
    until(lambda: len(world.seen) == 1)
    assert other.ask().text == b"hello" and not slow.dead
    go.set()
    slow.get(timeout=SAFETY)


def test_a_client_that_does_not_read_holds_no_other_worker_up(workers):
    for worker in workers:
        worker.cache(limits={"stream": 0.05})
    one, other, _ = workers
    one.answer = other.answer = lambda request: ok(body=Stream(b"hel", b"lo"))
    slow = one.step(Request("GET", "/a", [], host="shop.test", deadline=Deadline(SAFETY)))       # its body is not taken
    began = time.monotonic()
    assert other.ask(deadline=SAFETY).text == b"hello"
    assert time.monotonic() - began < WaitLimits().lease / 2
    slow.body.close()


STALE = ok("max-age=10, stale-while-revalidate=600", b"old", Age="20")


def refreshes(worker, result):
    return worker.count("gateway_cache_refreshes_total", result=result)


def leaving(workers):
    """Those that know that another has the lease; none yet."""
    found = set()

    def counted(worker, leased):
        def ask(key):
            if held := leased(key):
                found.add(worker)
            return held
        return ask

    for worker in workers:
        worker.store.is_leased = counted(worker, worker.store.is_leased)
    return found


def test_one_worker_refreshes_for_all(world, workers):
    """The others wait for what it gets: until they do, it gets nothing."""
    waiting = leaving(workers)

    def slow(request):
        until(lambda: len(waiting) == 2)
        return ok(body=b"new")

    workers[0].answer = STALE
    workers[0].ask()
    workers[0].store.flush()
    for worker in workers:
        worker.answer = slow
    assert {answer.text for answer in ask_all(workers, 20)} == {b"old"}
    until(lambda: sum(worker.count("gateway_cache_refreshes_total") for worker in workers) == 3)
    assert {answer.text for answer in ask_all(workers, 1)} == {b"new"} and len(world.seen) == 2
    assert sorted((refreshes(worker, "done"), refreshes(worker, "elsewhere")) for worker in workers) == [(0, 1), (0, 1), (1, 0)]


class Recorder(MonotonicClock):
    """The real clock; ``pauses`` are the times for which somebody slept by it."""

    def __init__(self, pauses):
        self.pauses = pauses

    def sleep(self, seconds):
        self.pauses.append(seconds)
        super().sleep(seconds)


@pytest.mark.parametrize("hurried", [False, True])
def test_a_refresh_looks_for_what_another_gets_in_no_hurry_until_a_request_waits_for_it(world, workers, hurried):
    one, other, _ = workers
    go, waiting, pauses = Event(), leaving(workers), []
    other.store.intervals = Intervals(calm_poll=WaitLimits().lease if hurried else 0.05)
    other.store.timer = Recorder(pauses)

    def slow(request):
        assert go.wait(SAFETY)
        return ok(body=b"new")

    one.answer = STALE
    one.ask()
    one.store.flush()
    looks, exists = [], other.store.leases.is_leased
    other.store.leases.is_leased = lambda key: (looks.append(key), exists(key))[1]
    one.answer = other.answer = slow
    assert one.ask().text == b"old"
    until(lambda: len(world.seen) == 2)
    assert other.ask().text == b"old"
    until(lambda: other in waiting and len(looks) >= 4 - 2 * hurried)
    assert pauses == []
    if hurried:                                          # else it would look again when its time is over, and not before
        asking = gevent.spawn(other.ask, ("Cache-Control", "no-cache"), deadline=SAFETY)
        until(lambda: len(looks) >= 5)
        assert pauses and max(pauses) <= Intervals().longest_poll
    go.set()
    until(lambda: refreshes(other, "elsewhere"))
    assert not hurried or asking.get(timeout=SAFETY).text == b"new"
    assert len(world.seen) == 2 and refreshes(one, "done") == 1


@pytest.mark.parametrize("policy, fields", [({}, {"Age": "20"}), ({"early_refresh": True}, {})])
def test_what_another_worker_has_refreshed_is_not_refreshed_again(world, workers, policy, fields):
    """Even when the shared tier was asked too short a while ago to be asked again for a request."""
    one, other, _ = workers
    elapsed = [0.0]

    def slow(request):
        number = len(world.seen)
        elapsed[0] += 1.0                                # with that draw it is refreshed 36 s early
        return ok("max-age=10, stale-while-revalidate=600", str(number).encode(), **(fields if number == 1 else {}))

    for worker in (one, other):
        worker.clock = worker.store.clock = lambda: time.time() + elapsed[0]
        worker.cache(policy, draw=lambda: 1.0 - 2.0 ** -53)
        worker.answer = slow
    one.ask()
    one.store.flush()
    key = "http://shop.test/a"
    other.store.get(key)
    assert one.ask().text == b"1"
    until(lambda: refreshes(one, "done"))
    one.store.flush()
    other.store.memory.nodes[key].last_renewal = time.monotonic() + 3600
    assert other.ask().text == b"1"
    until(lambda: refreshes(other, "elsewhere"))
    assert other.store.peek(key)[0].body == b"2" and len(world.seen) == 2


def test_when_the_worker_that_refreshes_fails_the_next_request_tries_again(world, workers):
    one, other, _ = workers
    waiting = leaving(workers)

    def failing(request):
        until(lambda: waiting)
        raise ConnectFailed("refused")

    one.answer = STALE
    one.ask()
    one.store.flush()
    one.answer, other.answer = failing, ok(body=b"new")
    assert one.ask().text == b"old"
    until(lambda: len(world.seen) == 2)
    assert other.ask().text == b"old"
    until(lambda: refreshes(one, "failed") and refreshes(other, "elsewhere"))
    assert len(world.seen) == 2
    until(lambda: other.ask().text == b"new")
    assert len(world.seen) == 3 and refreshes(other, "done") == 1


def test_without_redis_each_worker_refreshes(world, workers):
    one, other, _ = workers
    one.answer = STALE
    one.ask()
    one.store.flush()
    other.store.get("http://shop.test/a")
    world.redis.kill()
    for worker in (one, other):
        worker.answer = ok(body=b"new")
    assert [worker.ask().text for worker in (one, other)] == [b"old"] * 2
    until(lambda: refreshes(one, "done") and refreshes(other, "done"))
    assert len(world.seen) == 3


def test_the_name_of_a_lease_is_the_same_in_every_process():
    def named(group, language=None):
        request = Request("GET", "/a", [("Accept-Language", language)] if language else [], host="shop.test")
        entry = entry_of(vary=(("accept-language", "en"),)) if language else entry_of()
        return FetchContext(request, None, "k", group, None, Decision.VARY_MISS, False, Variants([entry])).lease

    assert named("k") == "k"
    assert named(("k", COOKIE)) == "k\n53415eb9f6b68c45e39bd5b137cefc6cf16966ee9e1da321096f6811498c07cc"
    assert named("k", "de") == "k\n2a44e18b275534e71888c493809ffff5984e91f1f394559a063f95e1cf6b9edc"
