"""Who comes after a purge gets nothing of before it, whoever it waits for: a leader, a lease, a refresh, or a tier."""

from __future__ import annotations

import time

import gevent
import pytest
from asking import ok, settle, status_of
from gevent.event import Event

from gateway.cache.entry import Variants
from gateway.cache.fetch_context import FetchContext
from gateway.cache.reasons import Decision, NotStored
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.store import HttpStore
from gateway.errors import ClientDisconnected, ConnectFailed, DeadlineExceeded
from gateway.message import Request, Response
from tests.waiting import SAFETY, until


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
