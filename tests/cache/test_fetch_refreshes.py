"""One worker refreshes for all: what the others look for meanwhile, and what becomes of it when it fails."""

from __future__ import annotations

import time

import gevent
import pytest
from asking import ask_all, ok
from gevent.event import Event

from gateway.cache.coalesce import WaitLimits
from gateway.cache.storage.store import Intervals
from gateway.errors import ConnectFailed
from gateway.loop.monotonic_clock import MonotonicClock
from tests.waiting import SAFETY, until

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
        worker.seam.is_leased = counted(worker, worker.store.is_leased)
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
