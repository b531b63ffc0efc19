"""What a request waits for behind memory, with real servers that answer nothing: their own time is far longer than the test's."""

from __future__ import annotations

import os
import signal
import time

import flask
import gevent
import pytest
from asking import World
from far import Far
from gevent.server import StreamServer
from stored import Counted, short_pauses, variants_of

from gateway import cache
from gateway import view_cache as store
from gateway.bus.bus import Bus
from gateway.bus.redis_stream import RedisStream
from gateway.cache.storage.lookups import Lookups
from gateway.cache.storage.memcached_tier import MemcachedTier
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.redis_tier import RedisTier
from gateway.cache.storage.store import HttpStore
from gateway.cache.storage.tiers import TierCounters
from gateway.remote.redis_client import RedisClient
from gateway.tasks import spawn
from tests.waiting import SAFETY, until

NEVER = 600.0                   # seconds: whoever waits for a tier itself ends with the test
ALLOWED = 0.05


class Behind:
    """A store over these tiers, whose questions have all the time, and whose requests have ALLOWED. ``far`` is the way to them."""

    def __init__(self, *far: Far, timeout: float = NEVER) -> None:
        self.far = far
        self.counted = Counted()
        counts = TierCounters(self.counted)
        self.client = RedisClient(far[0].url, timeout=timeout, on_failure=counts.of("errors", "redis"), breaker=short_pauses())
        self.redis = RedisTier(self.client)
        tiers = [self.redis] + [MemcachedTier(f"127.0.0.1:{each.server.server_port}", timeout=timeout, breaker=short_pauses())
                                for each in far[1:]]
        bus = Bus([RedisStream(self.client)], patience=ALLOWED)
        self.store = HttpStore(MemoryTier(2 ** 22), tiers, bus, leases=self.redis, counts=counts, patience=ALLOWED)

    def connected(self) -> None:
        self.store.patience = SAFETY
        until(lambda: self.client.ask("PING"))
        self.store.get("nothing")
        self.store.patience = ALLOWED

    def hang(self) -> None:
        for each in self.far:
            each.delay = NEVER
            each.said.clear()


@pytest.fixture
def behind(redis_server, memcached):
    """A Behind over Redis and Memcached, to which there are connections."""
    one = Behind(Far(redis_server().port, 0.0), Far(memcached, 0.0))
    one.connected()
    with gevent.Timeout(SAFETY, AssertionError("it waits for the tier itself")):
        yield one
    one.store.stop()
    for each in one.far:
        each.stop()


@pytest.fixture
def mute():
    """A server that takes connections and says nothing."""
    def hear(client, address):
        while client.recv(4096):
            pass

    server = StreamServer(("127.0.0.1", 0), hear)
    server.start()
    yield server.server_port
    server.stop(timeout=0)


# -- what takes long does not matter

def test_no_answer_of_any_tier(behind):
    """Of the first tier, then of the next, and then nobody is asked about the lease: that time is over."""
    world = World()
    world.store, world.clock = behind.store, time.time
    world.cache()
    behind.hang()
    assert world.ask().text == b"hello" and world.ask().text == b"hello", "the second one from memory"
    assert len(world.seen) == 1 and behind.far[0].said == []


def test_every_way_to_wait(behind):
    lease = behind.store.lease("held", 60)
    behind.hang()
    first = gevent.spawn(behind.store.get, "k")
    gevent.sleep(0)
    assert behind.store.get("k") is None, "another's look-up"
    assert behind.store.is_leased("held") is False and behind.store.wait("held", SAFETY * 2) is None
    assert behind.store.lease("other", 60).is_held is None, "as if it had it"
    assert first.get(timeout=SAFETY) is None and lease.is_held
    assert behind.counted.numbers["misses", "memory"] == 3, "one of them while there were connections"


def test_no_connection(mute):
    """Neither accepted, nor free."""
    one = Behind(far := Far(mute, 0.0))
    with gevent.Timeout(SAFETY, AssertionError("it waits for the tier itself")):
        assert one.store.get("k") is None
    one.store.stop()
    far.stop()


def test_no_free_connection(behind):
    taken = [behind.client.connections.take(SAFETY) for _ in range(behind.client.connections.open)]
    behind.client.connections.most = len(taken)
    assert behind.store.get("k") is None
    for connection in taken:
        behind.client.connections.give(connection)


def test_a_purge(behind):
    """Another worker hears of it as soon as there is an answer; who purges does not wait for that."""
    behind.hang()
    assert behind.store.purger.purge(tag="t") == 0
    assert behind.store.purger.purge_urls(["http://shop.test/a", "http://shop.test/b"]) == 0


def test_values_of_views(behind):
    app = flask.Flask("shop")
    store.init(app, behind.store)
    with app.app_context():
        cache.set("near", 1)
        behind.hang()
        assert cache.get("k") is None and cache.set("k", 2) and cache.get("k") == 2 and cache.get("near") == 1
        assert cache.delete("k") and cache.get("k") is None and cache.clear()


# -- it goes on beside

def test_what_comes_late_is_there_for_the_next(behind):
    stored = variants_of()
    behind.store.put("k", stored, 60, time.time())
    assert behind.store.flush()
    behind.store.memory.clear()
    behind.far[0].delay = 0.3
    assert behind.store.get("k") is None
    until(lambda: behind.store.peek("k"))
    assert behind.counted.numbers["hits", "redis"] == 1 and behind.redis.usable


@pytest.mark.parametrize("forget", [lambda one: one.delete("k"), lambda one: one.purger.purge(everything=True)])
def test_what_comes_late_is_not_older_than_what_was_forgotten(behind, forget):
    behind.store.put("k", variants_of(), 60, time.time())
    assert behind.store.flush()
    behind.store.memory.clear()
    behind.far[0].delay = 0.3
    assert behind.store.get("k") is None
    forget(behind.store)
    until(lambda: not behind.store.lookups._running)
    assert behind.store.peek("k") is None


def test_a_value_that_comes_late_does_not_replace_a_newer_one(behind):
    app = flask.Flask("shop")
    store.init(app, behind.store)
    with app.app_context():
        cache.set("k", "old")
        cache.cache.memory.clear()
        behind.far[0].delay = 0.3
        assert cache.get("k") is None
        cache.set("k", "new")
        until(lambda: not behind.store.lookups._running)
        assert cache.get("k") == "new"


def test_clients_that_leave_take_no_connection_along(behind):
    """Of Memcached: more of them than there are connections."""
    far, tier = behind.far[1], behind.store.tiers[1]
    behind.store.patience = SAFETY
    far.delay, tier.circuit.timeout = NEVER, 0.3
    leaving = [gevent.spawn(behind.store.get, str(number)) for number in range(40)]
    until(lambda: tier.slots._free.counter == 0)
    gevent.killall(leaving)
    far.delay = 0.0
    until(lambda: tier.slots._free.counter == 32)
    until(lambda: tier.usable)
    assert tier.put("k", b"1", 60) and tier.get("k") == b"1"


# -- it is seen

def test_a_redis_that_stands_still_is_seen_and_used_again(redis_server):
    server = redis_server()
    one = Behind(far := Far(server.port, 0.0), timeout=ALLOWED)
    one.connected()
    server.process.send_signal(signal.SIGSTOP)
    try:
        for number in range(100):
            assert one.store.get(str(number)) is None
        until(lambda: one.counted.numbers.get(("errors", "redis")))
        assert one.counted.numbers["misses", "memory"] >= 100 and "no answer within 50 ms" in repr(one.redis)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    until(lambda: one.redis.usable and one.client.ask("PING"))
    one.store.put("k", variants_of(), 60, time.time())
    assert one.store.flush()
    one.store.memory.clear()
    until(lambda: one.store.get("k"))
    one.store.stop()
    far.stop()


# -- by itself

def test_one_for_each_key_at_a_time():
    begun, go = [], gevent.event.Event()

    def work(look):
        begun.append(look)
        go.wait(SAFETY)
        return len(begun)

    one = Lookups()
    asking = [spawn(one.ask, key, work, SAFETY) for key in "aab"]
    until(lambda: len(begun) == 2)
    assert repr(one) == "Lookups(2 running)"
    go.set()
    gevent.joinall(asking, timeout=SAFETY)
    assert [each.value for each in asking] == [2, 2, 2] and one.ask("a", work, SAFETY) == 3


@pytest.mark.parametrize("most", [0, 1, 2])
def test_as_many_as_may_be(most):
    one = Lookups(most)
    begun = []
    for key in "abc":
        assert one.ask(key, lambda look: (begun.append(look), gevent.sleep(NEVER)), 0.001) is None
    assert len(begun) == most
    one.stop(0.0)


def test_work_that_fails_is_nothing_and_is_said(caplog):
    one = Lookups()
    assert one.ask("k", lambda look: 1 // 0, SAFETY) is None
    assert "ZeroDivisionError" in caplog.text and one.ask("k", lambda look: 7, SAFETY) == 7


@pytest.mark.parametrize("seconds, results", [(0.0, [None]), (SAFETY, ["done"])])
def test_stopping_ends_lookups_at_once_and_gives_jobs_their_time(seconds, results):
    one, go = Lookups(), gevent.event.Event()
    asking = spawn(one.ask, "k", lambda look: gevent.sleep(NEVER), SAFETY)
    doing = spawn(one.do, [lambda: go.wait(SAFETY) and "done"], SAFETY)
    until(lambda: one._running and one._jobs)
    stopping = spawn(one.stop, seconds)
    asking.join(SAFETY)
    if not seconds:
        stopping.join(SAFETY)
    go.set()
    gevent.joinall([stopping, doing], timeout=SAFETY)
    assert asking.dead and asking.value is None and doing.value == results
