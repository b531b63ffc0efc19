"""Whatever befalls a real Redis: requests go on from memory and upstream, it is counted, and it is used again when it is well."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gevent
import pytest
import redis
from asking import World, ok
from far import Far
from gevent.server import StreamServer
from redis_server import RedisServer
from stored import Counted, short_pauses, variants_of

from gateway import view_cache as store
from gateway.cache.storage import plain_values as objects
from gateway.cache.storage.construction import http_store
from gateway.cache.storage.memcached_tier import MemcachedTier
from gateway.cache.storage.redis_tier import RedisTier
from gateway.cache.storage.tiers import TierCounters
from gateway.config import CacheStorage, Config
from gateway.loop.native_threads import run_in_thread
from gateway.remote.redis_client import RedisClient
from tests.waiting import SAFETY, until


class Fault(NamedTuple):
    """How it comes and how it goes. ``pauses``: nobody asks while it lasts."""

    comes: Callable[[RedisServer], Any]
    goes: Callable[[RedisServer], Any]
    pauses: bool = True


def loading(server: RedisServer) -> None:
    """It is back, and reads what it had saved, one key after the other; ``start`` returns when that is done."""
    server.client.mset({f"filler{number}": "x" for number in range(10_000)})
    server.client.save()
    server.kill()
    server.options = ("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
    server.starting = gevent.spawn(server.start)
    until(lambda: info(server).get("loading") == 1)


def info(server: RedisServer) -> dict[str, Any]:
    try:
        return server.client.info("persistence")
    except redis.ConnectionError:
        return {}


def loaded(server: RedisServer) -> None:
    server.client.config_set("key-load-delay", 0)
    server.starting.join(SAFETY)


def without_a_word(server: RedisServer) -> None:
    server.client.config_set("requirepass", "secret")
    server.client.client_kill_filter(_type="normal", skipme=True)
    server.client = redis.Redis(port=server.port, password="secret")


def foreign_log(server: RedisServer) -> None:
    server.client.delete("wicketgate:notices")
    server.client.set("wicketgate:notices", "nonsense")
    server.client.client_kill_filter(_type="normal", skipme=True)


FAULTS = {
    "gone": Fault(RedisServer.kill, RedisServer.start),
    "still": Fault(lambda server: server.process.send_signal(signal.SIGSTOP),
                   lambda server: os.kill(server.process.pid, signal.SIGCONT)),
    "loading": Fault(loading, loaded),
    "password": Fault(without_a_word, lambda server: server.client.config_set("requirepass", "")),
    "rights": Fault(lambda server: server.client.acl_setuser("default", enabled=True, categories=["-@write", "-@read"]),
                    lambda server: server.client.acl_setuser("default", enabled=True, categories=["+@all"]), pauses=False),
    "replica": Fault(lambda server: server.client.replicaof("127.0.0.1", 1), lambda server: server.client.replicaof("NO", "ONE")),
    "lost replica": Fault(lambda server: (server.client.config_set("replica-serve-stale-data", "no"),
                                          server.client.replicaof("127.0.0.1", 1)),
                          lambda server: server.client.replicaof("NO", "ONE")),
    "full": Fault(lambda server: server.client.config_set("maxmemory", 1), lambda server: server.client.config_set("maxmemory", 0),
                  pauses=False),
    "foreign log": Fault(foreign_log, lambda server: server.client.delete("wicketgate:notices")),
}


@pytest.fixture
def worker():
    """``worker(server)`` is a World over a started store, whose Redis is used and has ``timeout``; ``.counted`` counts."""
    made = []

    def make(server: RedisServer, timeout: str = "50ms") -> World:
        counted, world = Counted(), World()
        settings = Config(cache=CacheStorage(redis=server.url, timeout=timeout))
        world.store = http_store(settings, TierCounters(counted), short_pauses)
        world.counted, world.clock, world.answer = counted.numbers, time.time, lambda request: ok(body=request.target.encode())
        world.cache()
        world.store.start()
        made.append(world.store)
        until(lambda: world.store.leases.usable)
        return world

    with gevent.Timeout(SAFETY * 2, AssertionError("it waits for Redis")):
        yield make
        for each in made:
            each.stop()


def errors(world: World) -> float:
    return world.counted.get(("errors", "redis"), 0.0)


@pytest.mark.parametrize("name", FAULTS)
def test_requests_go_on(redis_server, worker, name):
    fault, server = FAULTS[name], redis_server()
    one, other = worker(server), worker(server)
    assert one.ask(target="/stored").text == b"/stored" and one.store.flush()
    before = errors(one)
    fault.comes(server)
    assert one.ask(target="/stored").text == b"/stored" and len(one.seen) == 1, "from memory"
    for number in range(20):
        target = f"/{number}"
        assert one.ask(target=target).text == one.ask(target=target).text == target.encode()
    assert len(one.seen) == 21, "once each from upstream"

    def seen() -> bool:
        one.ask(target=f"/more-{time.monotonic()}")
        return errors(one) > before and one.counted.get(("dropped", "redis"), 0) > 0

    until(seen)
    if fault.pauses:
        until(lambda: seen() and not one.store.leases.usable)
    fault.goes(server)

    def shared() -> bool:
        target = f"/again-{time.monotonic()}"
        one.ask(target=target)
        return one.store.flush() and other.store.get(f"http://shop.test{target}") is not None

    until(lambda: one.store.leases.usable and other.store.leases.usable and shared())
    assert one.store.purger.purge(prefix="/again") == 1
    until(lambda: not [key for key in list(other.store.memory.nodes) if other.store.peek(key)])


# -- what is in it, and who it is

@pytest.mark.parametrize("kind", ["list", "hash", "stream"])
def test_another_type_under_a_key(redis_server, worker, kind):
    """A miss, counted, and replaced."""
    server = redis_server()
    one, other = worker(server), worker(server)
    key = "wicketgate:http://shop.test/a"
    {"list": lambda: server.client.rpush(key, "x"), "hash": lambda: server.client.hset(key, "x", "y"),
     "stream": lambda: server.client.xadd(key, {"x": "y"})}[kind]()
    assert one.ask().text == b"/a" and errors(one) == 1 and one.store.leases.usable
    assert one.store.flush() and other.store.get("http://shop.test/a") is not None


@pytest.mark.parametrize("make", [lambda client, key: client.set(key, "x"), lambda client, key: client.rpush(key, "x")])
def test_what_never_ends_is_no_lease(redis_server, worker, make):
    server = redis_server()
    one, other = worker(server, "60s"), worker(server, "60s")
    make(server.client, "wicketgate:lease:k")
    assert not other.store.is_leased("k") and (lease := one.store.lease("k", 60)) is not None and lease.is_held
    assert other.store.is_leased("k") and other.store.lease("k", 60) is None


def test_a_full_redis_tells_purges(redis_server, worker):
    """Those that begin the log, and any after."""
    server = redis_server("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    one, other = worker(server), worker(server)
    for number in range(3):
        other.store.put(f"k{number}", variants_of(tags=[f"t{number}"]), 60, time.time())
        until(lambda number=number: other.counted.get(("dropped", "redis")) == number + 1)      # before the purge cancels the write
        assert one.store.purger.purge(tag=f"t{number}") == 1 and not one.store.bus.backlog()
        until(lambda number=number: other.store.peek(f"k{number}") is None)
    assert other.store.leases.usable


def test_a_foreign_key_beside_the_log(redis_server, worker):
    server = redis_server()
    one, other = worker(server), worker(server)
    server.client.set("{wicketgate:notices}:latest", "nonsense")
    assert [one.store.purger.purge(tag="t") for _ in range(3)] == [1, 1, 1]
    assert server.client.xlen("wicketgate:notices") == 2, "the beginning, and the latest"
    until(lambda: other.store.marks.number >= 4)


def test_another_redis_under_its_address(redis_server):
    """The old one is a replica from now on, and its connections stay open."""
    old, new = redis_server(), redis_server()
    place = Far(old.port, 0.0)
    tier = RedisTier(RedisClient(place.url, timeout=SAFETY))
    assert tier.put("k", b"1", 60)
    old.client.replicaof("127.0.0.1", new.port)
    place.target = new.port
    tier.client.circuit.clock = iter(range(0, 10_000, 100)).__next__            # no pause is waited for
    until(lambda: tier.write([("put", "k", b"2", 60)]) == 0)
    assert new.client.get("wicketgate:k") == b"2"
    tier.close()
    place.stop()


GARBAGE = [b":x\r\n", b"$x\r\n", b"*x\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"VALUE\r\n", b"VALUE k 0 1\r\nx\r\nEND\r\n",
           b"\xff\r\n"]


@pytest.mark.parametrize("said", GARBAGE)
@pytest.mark.parametrize("make", [lambda port, count: RedisTier(RedisClient(f"redis://127.0.0.1:{port}", on_failure=count)),
                                  lambda port, count: MemcachedTier(f"127.0.0.1:{port}", on_failure=count)])
def test_somebody_else_under_its_address(said, make):
    def answer(client, address):
        while client.recv(4096):
            client.sendall(said)

    server, failures = StreamServer(("127.0.0.1", 0), answer), []
    server.start()
    tier = make(server.server_port, failures.append)
    assert tier.get("k") is None and not tier.put("k", b"1", 60)
    assert failures and not tier.usable
    tier.close()
    server.stop(timeout=0)


def test_keys_that_are_no_unicode(redis_server):
    server, failures, key = redis_server(), [], "caf\udce9"
    tier = RedisTier(RedisClient(server.url, timeout=SAFETY, on_failure=failures.append))
    assert tier.put(key, b"1", 60) and tier.get(key) == b"1" and tier.lease(key, "a", 9) and tier.is_leased(key)
    assert failures == []
    tier.close()


# -- values of views

@pytest.fixture
def tiered(redis_server, worker):
    world = worker(redis_server())
    return store.Tiered(world.store, 10 ** 6), world


@pytest.mark.parametrize("what", [5, (1.0, 9e9, "k", "text"), (1.0, 9e9, "k", b""), (1.0, 9e9, "k", b"Vnonsense"),
                                  (1.0, 9e9, "k", b"R" + objects.dumps(1)), (1, 9e9, "k", b"V" + objects.dumps(1))])
def test_a_whole_record_of_something_else(tiered, what):
    """Its checksum is right, what it says is not."""
    (one, world), rest = tiered, objects.dumps(what)
    world.store.leases.put("view:k", store.MAGIC + store.zlib.crc32(rest).to_bytes(4, "big") + rest, 60)
    assert one.get("k") is None and world.counted["corrupt", "redis"] == 1 and world.store.leases.get("view:k") is None


def test_from_a_native_thread_others_hear_of_it_too(redis_server, worker):
    """The connections belong to the loop of another thread, and are far from ready."""
    server = redis_server()
    world, other = worker(server), worker(server)
    one, there = store.Tiered(world.store, 10 ** 6), store.Tiered(other.store, 10 ** 6)
    until(lambda: one.set("k", 1) and there.get("k") == 1)       # what is set right after these began is refused for two clocks
    world.store.leases.close()
    run_in_thread(one.delete, "k")
    until(lambda: there.deletions)
    assert not errors(world)
    for each in (one, there):
        until(lambda each=each: each.store.leases.get("view:k"))         # nobody could delete the record, and who asks finds it
        assert each.get("k") is None
