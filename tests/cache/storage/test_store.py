"""The store of the HTTP cache in the memory of one worker: what is counted, what it takes, and purges of what it holds."""

from __future__ import annotations

import gc
import time
import tracemalloc

import pytest
from stored import Counted, entry_of, variants_of

from gateway.cache.cache_status import tier_numbers
from gateway.cache.entry import Variants
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.store import HttpStore
from gateway.cache.storage.tiers import TierCounters
from gateway.http.fields import WRITTEN
from tests.cache.storage.workers import keep
from tests.waiting import until


def test_memory_gives_the_object_itself():
    one = HttpStore(MemoryTier(10 ** 6))
    assert one.get("k") is None
    stored = keep(one)
    assert one.get("k") is stored
    one.delete("k")
    assert one.get("k") is None


def test_what_is_counted():
    counted = Counted()
    one = HttpStore(MemoryTier(20_000), counts=TierCounters(counted))
    one.get("k")
    for number in range(40):
        keep(one, str(number), body=b"x" * 200)
    one.get("39")
    numbers = counted.numbers
    assert (numbers["misses", "memory"], numbers["hits", "memory"], numbers["stored", "memory"]) == (1, 1, 40)
    assert numbers["evicted", "memory"] == 40 - numbers["entries", "memory"] > 0
    assert numbers["bytes", "memory"] == one.memory.bytes <= 20_000


def test_what_is_counted_of_routes():
    counted = Counted()
    one = HttpStore(MemoryTier(20_000), counts=TierCounters(counted))
    shop, blog = one.owner("shop"), one.owner("blog")
    for number in range(10):
        one.put(f"s{number}", variants_of(body=b"x" * 200), 60, time.time(), shop)
    assert counted.numbers["bytes", "memory", "shop"] == one.memory.bytes == shop.bytes
    for number in range(100):
        one.put(f"b{number}", variants_of(body=b"x" * 200), 60, time.time(), blog)
    one.put("nobody's", variants_of(), 60, time.time())
    numbers = counted.numbers
    gone = numbers["evicted", "memory", "shop"] + numbers["evicted", "memory", "blog"]
    assert gone == numbers["evicted", "memory"] > 80
    assert numbers["entries", "memory", "shop"] + numbers["entries", "memory", "blog"] == len(one.memory) - 1
    one.delete("b99")
    assert shop.bytes + blog.bytes == one.memory.bytes - one.memory.nodes["nobody's"].size
    one.purger.purge(everything=True)
    assert (shop.bytes, shop.entries, blog.bytes, blog.entries) == (0, 0, 0, 0) and numbers["bytes", "memory", "blog"] == 0


def test_what_a_route_has_in_memory_is_a_number(world):
    world.store = HttpStore(MemoryTier(2 ** 20), counts=TierCounters(tier_numbers(world.registry)))
    world.cache()
    world.ask()
    assert world.count("gateway_cache_route_entries", route="r") == 1
    assert world.count("gateway_cache_route_bytes", route="r") == world.store.memory.bytes > 0
    world.store.purger.purge(everything=True)
    assert world.count("gateway_cache_route_bytes", route="r") == 0


def test_what_came_from_another_worker_is_the_routes_too(world, redis_server, worker):
    server = redis_server()
    one, world.store = worker(redis=server.url), worker(redis=server.url)
    keep(one, "http://shop.test/a")
    world.cache()
    assert world.ask().text == b"body" and world.step.owner.entries == 1


@pytest.mark.parametrize("body, headers", [
    (0, 6), (1, 8), (250, 8), (500, 10), (1000, 10), (1000, 30), (4000, 8), (20_000, 12), (100_000, 12)])
def test_memory_takes_what_it_says(body, headers):
    """At most 1.3 x the bytes stored and 600 bytes for each entry; and the bound is of what is really taken."""
    count = min(4_000_000 // max(body, 100), 3000)
    gc.collect()                                         # of earlier tests; and Python keeps no room for tuples to come
    tracemalloc.start()
    try:
        one = HttpStore(MemoryTier(1 << 30))
        before, stored = tracemalloc.get_traced_memory()[0], 0
        for number in range(count):
            fields = [("Content-Type", "text/html"), ("Cache-Control", "max-age=60"), ("ETag", f'"{number}"')]
            fields += [(f"X-Field-{index}", f"value {number} {index}") for index in range(headers - 4)]
            fields.append(("Content-Length", str(body)))
            url = f"http://shop.test/page/{number}"
            entry = entry_of("".join(url), bytes(body), headers=fields, etag=f'"{number}"')
            stored += body + len(entry.url) + sum(len(name) + len(value) for name, value in fields)
            one.put(url, Variants([entry]), 60.0, entry.request_time)
        del entry, fields, url
        WRITTEN.clear()                                  # which is bounded, and nobody's in particular
        gc.collect()                                     # as is the room of up to 2,000 tuples of a length that went
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(one.memory) == count
    assert taken <= 1.3 * stored + 600 * count
    assert taken <= one.memory.bytes <= taken * 1.15, "what it believes to take"


# -- purges

@pytest.mark.parametrize("what", [{"url": "http://shop.test/a"}, {"prefix": "/a"}, {"tag": "t"}, {"everything": True}])
def test_purges_here(what):
    one = HttpStore(MemoryTier(10 ** 6))
    keep(one, "k", tags=["t"])
    keep(one, "other", url="https://else.test", tags=["u"])
    assert one.purger.purge(**what) == 0
    assert one.get("k") is None
    assert (one.get("other") is None) is (what == {"everything": True})
    assert keep(one, "k", tags=["t"]) is one.get("k"), "stored after it"


def test_a_soft_purge_makes_stale():
    one = HttpStore(MemoryTier(10 ** 6))
    keep(one, tags=["t"])
    before = time.time()
    one.purger.purge(tag="t", soft=True)
    [entry] = one.get("k")
    assert before <= entry.expires <= time.time() < entry.stale_while_revalidate
    assert one.get("k")[0] is entry, "and stays the same object"


@pytest.mark.parametrize("soft", [False, True])
def test_an_answer_that_was_under_way_during_a_purge(soft):
    counted = Counted()
    one = HttpStore(MemoryTier(10 ** 6), counts=TierCounters(counted))
    begun = time.time()
    one.purger.purge(tag="t", soft=soft)
    keep(one, tags=["t"], begun=begun, url="http://shop.test/a")
    found = one.get("k")
    if soft:
        assert found[0].expires <= time.time()
    else:
        assert found is None and counted.numbers["refused", "memory"] == 1


def test_a_refused_answer_leaves_what_is_newer():
    one = HttpStore(MemoryTier(10 ** 6))
    begun = time.time()
    one.purger.purge(tag="t")
    newer = keep(one, tags=["t"])
    keep(one, tags=["t"], begun=begun)
    assert one.get("k") is newer


def test_purges_of_what_nobody_stores_leave_the_rest():
    """More than fifty thousand addresses, as of an API that is written to."""
    one = HttpStore(MemoryTier(10 ** 7))
    for number in range(100):
        keep(one, str(number), url=f"http://shop.test/products/{number}")
    for number in range(55_000):
        one.purger.purge(url=f"http://shop.test/carts/{number}")
    left = sum(one.get(str(number)) is not None for number in range(100))
    assert left > 20, "four in ten, by their buckets"
    keep(one, "new")
    assert one.get("new") is not None


def test_a_purge_by_the_address_that_clients_send(world):
    """The route does not store under all of it."""
    world.cache({"key": {"ignore_query": ["utm_*"], "sort_query": True}})
    for target, stored in (("/p?utm_y=2&b=1&a=2", True), ("/p?a=2&b=1", True), ("/p?b=2&a=1", False), ("/p?utm_x=1", False)):
        world.ask(target="/p?a=2&b=1&utm_z=3")
        seen = len(world.seen)
        world.store.purger.purge(url=f"http://SHOP.test:80{target}")
        world.base = time.time()
        world.ask(target="/p?b=1&a=2")
        assert (len(world.seen) > seen) is stored, target


def test_several_addresses_at_once(redis_server, worker):
    server = redis_server()
    one, other = worker(redis=server.url), worker(redis=server.url)
    for key in "abc":
        keep(one, key, url=f"http://shop.test/{key}")
        assert other.get(key) is not None
    with pytest.raises(ValueError):
        one.purger.purge_urls(["http://shop.test/a", "nonsense"])
    assert one.get("a") is not None
    assert one.purger.purge_urls(["http://shop.test/a", "/b"]) == 1
    until(lambda: other.get("a") is None and other.get("b") is None)
    assert other.get("c") is not None and one.purger.purge_urls([]) == 0


def test_a_post_without_a_host_is_about_every_host(world):
    """HTTP/1.0."""
    world.ask(target="/p")
    seen = len(world.seen)
    assert world.ask(target="/p", method="POST", host="").status == 200
    world.base = time.time()
    world.ask(target="/p")
    assert len(world.seen) == seen + 2


def test_each_query_rule_once(world):
    for name in ("utm_*", "utm_*", "fbclid"):
        world.cache({"key": {"ignore_query": [name]}})
    world.ask(target="/p?a=1&fbclid=2")
    assert len(world.store.purger.addresses._queries) == 2
    world.store.purger.purge(url="/p?a=1&fbclid=9")
    assert world.store.get("http://shop.test/p?a=1") is None


def test_a_wrong_purge_changes_nothing():
    one = HttpStore(MemoryTier(10 ** 6))
    stored = keep(one)
    with pytest.raises(ValueError, match="not an address"):
        one.purger.purge(url="nonsense")
    assert one.get("k") is stored and one.marks.number == 0
