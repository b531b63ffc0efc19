"""Shared tiers that are far away, or asked for much at once: what a request waits for, in which order, and what pauses a tier."""

from __future__ import annotations

import time

import gevent
import pytest
from asking import Seam, World, at_once, ok
from far import Far
from gevent import monkey
from gevent.event import Event
from stored import Counted, numbers_of, short_pauses, variants_of

from gateway import gather
from gateway.breaker import Breaker
from gateway.cache.storage import store as httpstore
from gateway.cache.storage.memcached_tier import MemcachedTier
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.redis_tier import RedisTier
from gateway.cache.storage.store import HttpStore, Intervals
from gateway.cache.storage.tiers import TierCounters
from gateway.loop.time_limit import LoopLimit
from gateway.remote.circuit import Slow
from gateway.remote.redis_client import RedisClient
from gateway.tasks import current_request, spawn_apart
from tests.clocks import ManualClock
from tests.waiting import SAFETY, until

block = monkey.get_original("time", "sleep")             # stops the whole loop, as a busy worker's does


@pytest.fixture
def far(redis_server):
    """``far(delay)`` is a Redis whose every byte is ``delay`` seconds late, each way."""
    made = []

    def make(delay: float) -> Far:
        made.append(Far(redis_server().port, delay))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def stores():
    """``stores(url)`` is a store over one Redis, which nobody follows; ``numbers_of`` it says what was counted.
    Redis has all the time, unless the test is about its ``timeout``."""
    made = []

    def make(url: str, memory: int = 2 ** 22, timeout: float = SAFETY, breaker: Breaker | None = None,
             intervals: Intervals = Intervals()) -> HttpStore:
        counts = TierCounters(Counted())
        tier = RedisTier(RedisClient(url, timeout=timeout, on_failure=counts.of("errors", "redis"),
                                     breaker=breaker or short_pauses()))
        made.append(HttpStore(MemoryTier(memory), [tier], leases=tier, counts=counts, patience=timeout, intervals=intervals))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def calls(server, command: str) -> int:
    return server.client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


# -- many at once

def test_many_that_want_one_key_look_once(redis_server, stores):
    server = redis_server()
    one, other = stores(server.url), stores(server.url)
    stored = variants_of()
    other.put("k", stored, 60, time.time())
    assert other.flush()
    found = gather(*[lambda: one.get("k")] * 1000)
    assert {id(each) for each in found} == {id(one.get("k"))} and repr(found[0]) == repr(stored)
    assert calls(server, "getrange") == 1
    assert one.leases.usable and not numbers_of(one).get(("errors", "redis"))


def test_many_that_want_what_nobody_has(redis_server, stores):
    server = redis_server()
    one = stores(server.url)
    assert gather(*[lambda: one.get("k")] * 1000) == [None] * 1000
    assert calls(server, "getrange") == 1 and numbers_of(one)["misses", "memory"] == 1000
    one.get("k")
    assert calls(server, "getrange") == 2, "the next one looks again"


def test_when_the_one_who_looks_leaves_another_looks(redis_server, stores):
    server = redis_server()
    one = stores(server.url)
    stored = variants_of()
    one.put("k", stored, 60, time.time())
    assert one.flush()
    one.memory.clear()
    server.client.client_pause(600)
    first = gevent.spawn(one.get, "k")
    until(lambda: one.lookups._running)
    others = [gevent.spawn(one.get, "k") for _ in range(3)]
    gevent.sleep(0)                                      # all wait for its look-up
    first.kill()
    gevent.joinall(others, timeout=SAFETY)
    assert [repr(each.value) for each in others] == [repr(stored)] * 3


def test_what_was_purged_while_it_was_looked_up_is_not_given_to_those_who_waited(redis_server, stores):
    one = stores(redis_server().url)
    stored = variants_of(tags=["t"])
    one.put("k", stored, 60, time.time())
    assert one.flush()
    one.memory.clear()
    tier = Seam(one.tiers[0])

    def purged(key):
        found = one.leases.get(key)
        gevent.spawn(one.purger.purge, tag="t")                 # it comes after the look-up, and before those who wait go on
        return found

    tier.get, one.tiers = purged, (tier,)
    greenlets = [gevent.spawn(one.get, "k") for _ in range(3)]
    gevent.joinall(greenlets, timeout=SAFETY)
    assert one.get("k") is None


def test_many_keys_at_once_do_not_make_redis_look_slow(redis_server, stores):
    """They wait for a connection; Redis answers each of them at once."""
    server = redis_server()
    one = stores(server.url)
    for number in range(1000):
        one.put(str(number), variants_of(), 60, time.time())
    assert one.flush()
    one.memory.clear()
    found = gather(*[lambda number=number: one.get(str(number)) for number in range(1000)])
    assert one.leases.usable and not numbers_of(one).get(("errors", "redis"))
    assert all(found)


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_what_was_never_asked_is_no_failure(request, kind):
    """All connections are in use."""
    failures = []
    if kind == "redis":
        client = RedisClient(request.getfixturevalue("redis_server")().url, timeout=1.0, on_failure=failures.append, most=1)
        one = RedisTier(client)
        until(lambda: client.ask("PING"))
        connection = client.connections.take(SAFETY)
        assert one.get("k") is None
        client.connections.give(connection)
    else:
        one = MemcachedTier(f"127.0.0.1:{request.getfixturevalue('memcached')}", timeout=1.0, on_failure=failures.append)
        while one.slots._free.acquire(blocking=False):
            pass
        assert one.get("k") is None
        one.slots._free.release()
    assert one.usable and failures == []
    one.put("k", b"1", 60)
    assert one.get("k") == b"1"
    one.close()


def test_more_at_once_than_memcached_has_connections(memcached):
    failures = []
    one = MemcachedTier(f"127.0.0.1:{memcached}", timeout=SAFETY, on_failure=failures.append)
    one.put("k", b"1", 60)
    assert gather(*[lambda: one.get("k")] * 100) == [b"1"] * 100 and failures == []
    one.close()


# -- a loop that is late

def test_a_late_loop_is_no_slow_redis(redis_server, stores):
    """Connecting and asking takes some turns of the loop, and each is long."""
    one = stores(redis_server().url, timeout=0.05)

    def busy():
        for _ in range(12):
            block(0.03)
            gevent.sleep(0)

    gather(busy, lambda: one.get("k"))
    assert one.leases.usable and not numbers_of(one).get(("errors", "redis"))
    one.get("other")
    assert one.leases.usable


class Late(Exception):
    pass


def test_time_passes_as_the_loop_sees_it():
    with LoopLimit(0.05, Late()):
        block(0.1)
        gevent.sleep(0)
        block(0.1)
    with pytest.raises(Late), LoopLimit(0.05, Late()):
        gevent.sleep(SAFETY)
    with pytest.raises(LookupError), LoopLimit(0.05, LookupError()):     # what began later comes, and nothing of the first
        gevent.sleep(SAFETY)


def test_work_apart_keeps_nothing_of_a_request():
    token = current_request.set("a request")
    try:
        assert spawn_apart(current_request.get).get() is None
    finally:
        current_request.reset(token)


# -- far away

def test_a_far_redis_is_used(far, stores):
    """Connecting takes several times as long as an answer may. No request connects, so that is nobody's failure."""
    place = far(0.1)
    one = stores(place.url, timeout=1.0)
    one.put("k", variants_of(), 60, time.time())
    assert one.flush()
    errors = numbers_of(one).get(("errors", "redis"), 0)
    for _ in range(3):
        one.memory.clear()
        assert one.get("k") is not None
    assert numbers_of(one).get(("errors", "redis"), 0) == errors and one.leases.usable


@pytest.fixture
def miss(far, stores):
    """A world over a far Redis to which there is a connection, and what was said to it."""
    place = far(0.2)
    world = World()
    world.store = stores(place.url)
    world.clock = time.time
    world.cache()
    until(lambda: world.store.leases.client.ask("PING"))
    place.said.clear()
    return world, place


def leave(world, seconds):
    """Let a look-up take all that a request waits but so many seconds, however long it really takes."""
    store, tier, look_up = world.store, Seam(world.store.tiers[0]), world.store.tiers[0].get
    store.timer = clock = ManualClock()

    def late(key):
        found = look_up(key)
        clock.time += store.patience - seconds
        return found

    tier.get, store.tiers = late, (tier,)


def in_order(place):
    """What was said, each once, in the order in which it was first said. A lease that came late is released once more."""
    return list(dict.fromkeys(place.said))


def test_a_miss_waits_for_one_answer_of_redis(miss):
    """The look-up; it has taken most of the time, and the answer about the lease is not waited for to its end."""
    world, place = miss
    leave(world, 0.15)
    known = []

    def upstream(request):
        known.append(list(place.said))
        return ok()

    world.answer = upstream
    assert world.ask().text == b"hello"
    assert known in ([["GETRANGE"]], [["GETRANGE", "lease"]])
    assert "SET" not in place.said, "nothing that is written was waited for"
    assert world.store.flush()
    assert in_order(place) == ["GETRANGE", "lease", "SET", "release"]
    assert world.store.leases.is_leased("http://shop.test/a") is False


def test_a_look_up_that_took_all_the_time_leaves_none_for_the_lease(miss):
    world, place = miss
    leave(world, 0.0)
    known = []
    world.answer = lambda request: (known.append(list(place.said)), ok())[1]
    world.ask()
    assert "lease" not in known[0]
    assert world.store.flush()
    assert sorted(place.said) == ["GETRANGE", "SET", "release"], "the lease was over before it was asked for"


def test_a_lease_that_comes_late_is_given_back(miss):
    world, place = miss
    world.store.patience = SAFETY
    lease = world.store.lease("k", 60)
    world.store.patience = 0.01                          # the lease is on its way when it is released
    late = world.store.lease("l", 60)
    assert lease.is_held and late.is_held is None
    late.release()
    world.store.patience = SAFETY
    until(lambda: late.is_held and world.store.flush() and not world.store.is_leased("l"))
    assert world.store.is_leased("k")
    lease.release()


def test_many_misses_at_once(miss):
    """Of one key, one looks, asks and stores."""
    world, place = miss
    leave(world, 0.15)
    assert {got.text for got in at_once(world, 100)} == {b"hello"} and len(world.seen) == 1
    assert world.store.flush()
    assert in_order(place) == ["GETRANGE", "lease", "SET", "release"]
    assert place.said.count("GETRANGE") == place.said.count("SET") == 1


# -- what is written beside the requests

def test_what_was_put_is_there_at_once(redis_server, stores):
    """Also when memory does not hold it."""
    one = stores(redis_server().url, memory=0)
    stored = variants_of()
    one.put("k", stored, 60, time.time())
    assert one.get("k") is stored and one.inspect("k") is stored, "not written yet"
    assert one.flush()
    assert repr(one.get("k")) == repr(stored)
    one.delete("k")
    assert one.get("k") is None and one.inspect("k") is None
    assert one.flush() and one.leases.get("k") is None


@pytest.mark.parametrize("soft", [False, True])
def test_a_purge_wins_over_what_is_still_to_be_written(redis_server, stores, soft):
    server = redis_server()
    one, other = stores(server.url), stores(server.url)
    one.put("k", variants_of(tags=["t"]), 60, time.time())
    one.purger.purge(tag="t", soft=soft)
    assert one.flush()
    found = other.get("k")
    assert found is None or soft and found[0].expires <= time.time()
    assert (found is None) is not soft


def test_a_record_that_is_of_no_use_any_more_is_not_written(redis_server, stores):
    server = redis_server()
    one = stores(server.url)
    one.put("k", variants_of(), 0.0, time.time())
    assert one.flush() and not server.client.keys()


def test_a_release_that_waits_is_taken_over(redis_server, stores):
    """The next flight of this worker does not wait for its own lease to be over."""
    server = redis_server()
    one, other = stores(server.url), stores(server.url)
    first = one.lease("k", 60)
    first.release()
    second = one.lease("k", 60)
    assert second.token == first.token and one.flush() and other.lease("k", 60) is None
    second.release()
    assert one.flush() and other.lease("k", 60) is not None


def test_another_workers_lease_is_none(redis_server, stores):
    server = redis_server()
    one, other = stores(server.url), stores(server.url)
    lease = one.lease("k", 60)
    assert other.lease("k", 60) is None and other.is_leased("k")
    lease.extend(1.5)
    assert one.flush() and server.client.pttl("wicketgate:lease:k") <= 1_500


def test_a_lease_is_extended_while_it_is_active(redis_server, stores):
    server = redis_server()
    one = stores(server.url, intervals=Intervals(extension=0.02))
    lease = one.lease("k", 60)
    assert server.client.pttl("wicketgate:lease:k") <= one.intervals.lease * 1000, "a lost worker keeps nobody waiting for long"
    scripts = calls(server, "pexpire")
    until(lambda: calls(server, "pexpire") >= scripts + 3)
    lease.release()
    until(lambda: not one._leases.active and one._leases._greenlet is None)
    assert one.flush() and not one.is_leased("k") and not one._leases.ending


@pytest.mark.parametrize("end", ["time", "pause"])
def test_a_lease_that_is_not_extended_ends(redis_server, stores, end):
    """Its time is over, or nothing can be written: the release is lost."""
    server = redis_server()
    one = stores(server.url, breaker=Breaker(first=SAFETY), intervals=Intervals(lease=0.3, extension=0.02))
    other = stores(server.url)
    lease = one.lease("k", 0.4 if end == "time" else 60)
    if end == "pause":
        one.leases.client.circuit.pause(Slow("late"))
        lease.release()
        assert one.flush() and numbers_of(one)["dropped", "redis"] == 1
    assert other.wait("k", SAFETY) is None and not other.is_leased("k")


def test_a_release_waits_for_the_record_and_replaces_no_other_lease(redis_server, stores, far):
    place = far(0.0)
    one = stores(place.url)
    first = one.lease("k", 60)
    place.said.clear()
    first.extend(30)                                     # has its place in the queue before the record
    one.put("k", variants_of(), 60, time.time())
    first.release()
    assert one.flush() and place.said == ["SET", "release"]
    first.release()
    one.patience = 0.0
    one._leases.ending.clear()                           # as if it was on its way already
    second = one.lease("k", 60)
    second.release()
    assert second.token != first.token and one.flush() and place.said[2:] == ["release", "release"]


def test_what_is_put_while_redis_is_away_is_not_kept_for_it(redis_server, stores):
    server = redis_server()
    one = stores(server.url)
    one.get("k")
    server.kill()
    one.get("k")
    assert not one.leases.usable
    one.put("k", variants_of(), 60, time.time())
    assert not len(one._writer(one.leases)) and one.flush(0) and numbers_of(one)["dropped", "redis"] == 1


class Slowly:
    """A tier whose answers come when ``go`` is set; ``asked`` counts."""

    name, usable, shift, margin = "redis", True, 0.0, 0.0

    def __init__(self, found=None):
        self.found, self.asked, self.go = found, 0, Event()

    def get(self, key):
        self.asked += 1
        assert self.go.wait(SAFETY)
        return self.found

    def write(self, operations):
        pass

    def close(self):
        pass


def test_nobody_waits_for_anothers_look_up_longer_than_he_may():
    """What he waited is taken from what he may wait for the lease."""
    near = Slowly()
    one = HttpStore(MemoryTier(2 ** 22), [near], patience=0.05)
    first = gevent.spawn(one.get, "k")
    until(lambda: near.asked)

    def wait():
        return one.get("k"), httpstore.last_lookup.get()[1] >= 0.045

    with gevent.Timeout(SAFETY / 2):
        assert gather(wait, wait) == [(None, True)] * 2 and near.asked == 1
    near.go.set()
    first.join(SAFETY)


def test_a_record_that_was_purged_is_not_removed_for_its_successor(redis_server, stores):
    server = redis_server()
    one, other = stores(server.url), stores(server.url)
    one.put("k", variants_of(tags=["t"]), 60, time.time())
    assert one.flush()
    other.purger.purge(tag="t")
    assert other.get("k") is None and other.flush() and server.client.exists("wicketgate:k")


def test_a_record_that_is_none_does_not_take_its_successor_along():
    one = HttpStore(MemoryTier(0), [near := Slowly(b"nonsense")], patience=SAFETY)
    looking = gevent.spawn(one.get, "k")
    until(lambda: near.asked)
    one._writer(near)._greenlet = object()               # nothing is written meanwhile
    one.put("k", variants_of(), 60, time.time())
    near.go.set()
    looking.join(SAFETY)
    assert one._writer(near).pending("k").value is not None


def test_a_worker_that_ends_writes_what_is_left(redis_server, stores):
    server = redis_server()
    one = stores(server.url)
    for number in range(100):
        one.put(str(number), variants_of(), 60, time.time())
    one.stop()
    assert len(server.client.keys()) == 100
