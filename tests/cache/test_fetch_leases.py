"""One worker fetches for all, by a lease: how long the others wait, and what for."""

from __future__ import annotations

import gevent
import pytest
from asking import DictStore, Got, Stream, ask_all, crowd, meeting, ok, settle, status_of
from gevent.event import Event
from stored import entry_of

from gateway.cache.coalesce import Flights, FlightState, WaitLimits
from gateway.cache.entry import Variants
from gateway.cache.fetch_context import FetchContext
from gateway.cache.reasons import Decision
from gateway.cache.request_directives import COOKIE
from gateway.cache.step import CacheStep
from gateway.cache.storage.store import HttpStore
from gateway.config import CacheSettings as Policy
from gateway.deadline import Deadline
from gateway.errors import ClientDisconnected
from gateway.message import Request
from tests.clocks import ManualClock
from tests.waiting import SAFETY, until


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

    other.seam.lease = late
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
        worker.seam.wait = (lambda key, seconds, *more, wait=worker.store.wait:
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
        worker.cache(limits={"stream": 0.05, "unknown": 10 * SAFETY, "lease": 10 * SAFETY})
    one, other, _ = workers
    one.answer = other.answer = lambda request: ok(body=Stream(b"hel", b"lo"))
    slow = one.step(Request("GET", "/a", [], host="shop.test", deadline=Deadline(SAFETY)))       # its body is not taken
    with gevent.Timeout(SAFETY):                         # much less than the lease and half the deadline, which end the wait too
        assert other.ask(deadline=10 * SAFETY).text == b"hello"
    slow.body.close()


def test_the_name_of_a_lease_is_the_same_in_every_process():
    def named(group, language=None):
        request = Request("GET", "/a", [("Accept-Language", language)] if language else [], host="shop.test")
        entry = entry_of(vary=(("accept-language", "en"),)) if language else entry_of()
        return FetchContext(request, None, "k", group, None, Decision.VARY_MISS, False, Variants([entry])).lease

    assert named("k") == "k"
    assert named(("k", COOKIE)) == "k\n53415eb9f6b68c45e39bd5b137cefc6cf16966ee9e1da321096f6811498c07cc"
    assert named("k", "de") == "k\n2a44e18b275534e71888c493809ffff5984e91f1f394559a063f95e1cf6b9edc"
