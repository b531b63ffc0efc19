"""The tiers together: the HTTP cache's store, purges in flight, leases between workers, and the cache of view code over them."""

from __future__ import annotations

import gc
import signal
import time
import tracemalloc

import flask
import gevent
import pytest
from stored import SAFETY, Counted, entry_of, short_pauses, variants_of

from gateway import cache, gather
from gateway import view_cache as store
from gateway.bus.journal import Journal
from gateway.bus.notice import Notice, gap
from gateway.cache.cache_status import tier_numbers
from gateway.cache.entry import Variants
from gateway.cache.storage import codec as format
from gateway.cache.storage.construction import http_store
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.store import HttpStore, Intervals
from gateway.cache.storage.tiers import TierCounters
from gateway.config import CacheStorage, Config
from gateway.http.fields import WRITTEN
from gateway.local import run_directory as rundir
from tests.waiting import until


def begin(one: HttpStore) -> None:
    one.start()
    until(lambda: one.leases is None or one.leases.usable)


@pytest.fixture
def worker():
    """``worker(redis=..., file=...)`` is a started store as a worker has it; ``worker.counted`` counts."""
    made = []

    def make(start: bool = True, **settings) -> HttpStore:
        counted = Counted()
        one = http_store(Config(cache=CacheStorage(**{"timeout": "30s", **settings})), TierCounters(counted), short_pauses)
        one.counted = counted.numbers
        made.append(one)
        if start:
            begin(one)
        return one

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def instance(tmp_path):
    """A run directory, as the workers of one instance share it."""
    rundir.enter(rundir.RunDir(tmp_path))
    yield tmp_path
    rundir.enter(None)


def keep(one: HttpStore, key: str = "k", *, begun: float | None = None, seconds: float = 60.0, **more) -> Variants:
    begun = time.time() if begun is None else begun
    variants = variants_of(at=begun, **more)
    one.put(key, variants, seconds, begun)
    assert one.flush()
    return variants


# -- memory

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


# -- tiers behind memory

@pytest.fixture(params=["redis", "file", "memcached"])
def behind(request, tmp_path):
    """Settings for a tier behind memory."""
    if request.param == "redis":
        return {"redis": request.getfixturevalue("redis_server")().url}
    if request.param == "file":
        return {"file": str(tmp_path / "cache")}
    return {"memcached": f"127.0.0.1:{request.getfixturevalue('memcached')}", "timeout": "1s"}


def test_one_stores_and_another_finds(behind, worker):
    [name] = set(behind) - {"timeout"}
    one, other = worker(**behind), worker(**behind)
    stored = keep(one, tags=["t"], body=b"x" * 5000)
    found = other.get("k")
    assert found is not stored and repr(found) == repr(stored) and found[0].body == b"x" * 5000
    assert other.get("k") is found, "in memory from now on"
    assert (other.counted["hits", name], other.counted["hits", "memory"]) == (1, 1)
    one.delete("k")
    assert one.get("k") is None
    assert one.flush() and one.tiers[0].get("k") is None and one.get("k") is None
    assert one.counted["misses", name] == 2


def test_corrupt_and_foreign_records_are_misses_that_are_counted(behind, worker):
    [name] = set(behind) - {"timeout"}
    one = worker(**behind)
    [tier] = one.tiers
    for number, data in enumerate([b"nonsense", b"", b"\x80\x05K\x01.", format.encode("other", variants_of())], 1):
        tier.put("k", data, 60)
        if tier.get("k") is None:                        # an empty value is none for some
            continue
        assert one.get("k") is None and one.flush()
        assert tier.get("k") is None, "and it is gone"
    assert one.counted["corrupt", name] >= 3


def test_compressed_records_are_smaller(redis_server, worker):
    server = redis_server()
    plain, packed = worker(redis=server.url), worker(redis=server.url, compress=True)
    keep(plain, "plain", body=b"text " * 2000)
    keep(packed, "packed", body=b"text " * 2000)
    assert server.client.strlen("wicketgate:packed") < server.client.strlen("wicketgate:plain") / 5
    assert plain.get("packed")[0].body == b"text " * 2000


def test_a_newer_answer_of_another_worker_is_found_when_ours_has_expired(redis_server, worker):
    server = redis_server()
    one, other = worker(redis=server.url), worker(redis=server.url)
    keep(one, lifetime=0.001, seconds=600.0)
    until(lambda: other.get("k")[0].expires < time.time())
    asked = other.counted.get(("misses", "redis"), 0)
    for _ in range(10):
        other.get("k")
    assert other.counted["hits", "memory"] >= 9, "not asked for each time"
    newer = keep(one, seconds=600.0)
    other.intervals = Intervals(again=0.0)
    assert other.get("k")[0].expires == pytest.approx(newer[0].expires, abs=0.01)
    assert other.counted.get(("misses", "redis"), 0) == asked


@pytest.mark.parametrize("soft", [False, True])
def test_a_purge_reaches_other_workers_through_redis(redis_server, worker, soft):
    server = redis_server()
    one, other, third = (worker(redis=server.url, timeout="60s") for _ in range(3))
    keep(one, tags=["t"])
    assert other.get("k") is not None
    assert one.purger.purge(tag="t", soft=soft) == 1
    for each in (other, third):                          # one has it in memory, the other would get it from Redis
        if soft:
            until(lambda each=each: each.get("k")[0].expires <= time.time())
        else:
            until(lambda each=each: each.get("k") is None)
    late = worker(redis=server.url, timeout="60s")
    found = late.get("k")
    assert found is None or soft and found[0].expires <= time.time()


def test_an_old_answer_does_not_come_in_through_another_worker(redis_server, worker):
    """It was under way in one worker while another purged, and the purge has not arrived there."""
    server = redis_server()
    one, deaf = worker(redis=server.url), worker(redis=server.url)
    begun = time.time() - 0.01
    one.purger.purge(tag="t")
    deaf.marks = type(deaf.marks)()                      # as if it had not heard
    keep(deaf, tags=["t"], begun=begun)
    assert server.client.exists("wicketgate:k") or deaf.get("k") is None
    assert one.get("k") is None and one.flush() and worker(redis=server.url).get("k") is None


def test_a_purge_reaches_other_workers_through_the_run_directory(instance, worker):
    one, other = worker(), worker()
    for each in (one, other):
        keep(each, tags=["t"])
    assert one.purger.purge(tag="t") == 1
    assert one.get("k") is None
    until(lambda: other.get("k") is None)
    late = worker()
    assert late.marks.purge_times(entry_of(tags=["t"], at=1.0))[0] > 0, "known before it serves"


def test_the_workers_of_an_instance_do_not_wait_for_redis(redis_server, instance, worker):
    """So that what nginx keeps is given up behind the purge, in each of them."""
    server = redis_server()
    one = worker(redis=server.url, timeout="5s")
    server.process.send_signal(signal.SIGSTOP)
    purging = gevent.spawn(one.purger.purge, tag="t")
    journal = Journal(instance / "notices")
    until(lambda: [each.topic for each in journal.read()] == ["purges"])
    assert not purging.ready(), "Redis has not answered yet"
    server.process.send_signal(signal.SIGCONT)
    assert purging.get() == 2


def test_purges_of_a_folder_last_as_long_as_it(tmp_path, worker):
    one = worker(file=str(tmp_path))
    keep(one, tags=["t"])
    one.purger.purge(tag="t")
    again = worker(file=str(tmp_path))
    [tier] = again.tiers
    assert tier.get("k") is not None and again.get("k") is None
    assert again.flush() and worker(file=str(tmp_path)).get("k") is None


def test_delete_reaches_the_memory_of_other_workers(redis_server, worker):
    server = redis_server()
    one, other = worker(redis=server.url), worker(redis=server.url)
    keep(one)
    assert other.get("k") is not None
    one.delete("k")
    until(lambda: other.get("k") is None)
    keep(one)
    assert other.get("k") is not None, "it is no purge"


def test_without_redis_everything_goes_on(redis_server, worker):
    server = redis_server()
    one = worker(redis=server.url)
    stored = keep(one)
    server.kill()
    began = time.monotonic()
    assert one.get("k") is stored and one.get("nothing") is None
    newer = keep(one, "new")
    assert one.get("new") is newer and one.lease("x", 1) is None and one.wait("x", SAFETY) is None
    assert time.monotonic() - began < SAFETY / 2, "nobody has waited so long"
    assert one.counted["errors", "redis"] >= 1
    assert one.purger.purge(tag="later") == 0
    server.start()
    until(lambda: one.leases.usable)
    late = worker(redis=server.url)
    assert late.marks.purge_times(entry_of(tags=["later"], at=1.0))[0] > 0, "the purge was made up for"


def test_an_entry_written_by_a_clock_that_is_wrong_is_not_newer_than_a_purge(redis_server, worker):
    """The writer misjudges Redis's clock by as much as it knows it may; the purge was made after the answer was asked for."""
    server = redis_server()
    one, reader = worker(redis=server.url), worker(redis=server.url)
    clock = one.leases.client.clock
    clock.shift, clock.margin = 0.03, 0.03
    keep(one, tags=["t"])
    reader.purger.purge(tag="t")
    assert reader.get("k") is None


def test_looking_changes_nothing(behind, worker):
    one, other = worker(**behind), worker(**behind)
    assert one.inspect("k") is None
    stored = keep(one)
    assert one.inspect("k") is stored and one.memory.nodes["k"].hits == 0
    assert repr(other.inspect("k")) == repr(stored) and len(other.memory) == 0
    other.tiers[0].put("bad", b"nonsense", 60)
    assert other.inspect("bad") is None and other.tiers[0].get("bad") == b"nonsense"


# -- memcached

def test_memcached_refuses_what_is_too_large_and_is_well(memcached, worker):
    one, other = (worker(memcached=f"127.0.0.1:{memcached}", timeout="1s") for _ in range(2))
    keep(one, "large", body=b"x" * 2_000_000)
    keep(one, "small")
    assert one.counted["errors", "memcached"] == 1 and one.tiers[0].circuit.usable
    assert other.get("small") is not None and other.get("large") is None


def test_memcached_that_is_gone_costs_once(worker):
    one = worker(memcached="127.0.0.1:1")
    one.tiers[0].circuit.breaker.first = SAFETY
    for number in range(100):
        assert one.get(str(number)) is None
    assert one.counted["errors", "memcached"] == 1


# -- leases

def test_one_worker_fetches_and_the_others_wait(redis_server, worker):
    server = redis_server()
    one, other = worker(redis=server.url), worker(redis=server.url)
    lease = one.lease("k", 10)
    assert lease is not None and other.lease("k", 10) is None

    def fetch():
        until(lambda: waiting)
        stored = keep(one)
        lease.release()
        return stored

    waiting = []
    stored, found = gather(fetch, lambda: (waiting.append(1), other.wait("k", 10))[1])
    assert repr(found) == repr(stored)


@pytest.mark.parametrize("how", ["released", "expired"])
def test_waiting_ends_when_nothing_came(redis_server, worker, how):
    server = redis_server()
    one, other = worker(redis=server.url), worker(redis=server.url)
    lease = one.lease("k", 0.1 if how == "expired" else 10)
    if how == "released":
        lease.release()
    assert other.wait("k", 10) is None
    assert other.lease("k", 1) is not None


def test_the_answers_of_a_route_are_not_taken_for_leases(redis_server, worker):
    """The keys of a route that has a scope begin with its name, and a line."""
    one = worker(redis=redis_server().url)
    assert gather(lambda: one.get("lease\nk"), lambda: one.is_leased("k")) == [None, False]
    assert gather(lambda: one.is_leased("k"), lambda: one.get("lease\nk")) == [False, None]


def test_nobody_waits_longer_than_he_may(redis_server, worker):
    server = redis_server()
    one, other = worker(redis=server.url), worker(redis=server.url)
    assert one.lease("k", SAFETY)
    began = time.monotonic()
    assert other.wait("k", 0.1) is None
    assert 0.1 <= time.monotonic() - began < SAFETY / 2


def test_without_a_shared_tier_there_are_no_leases(worker):
    one = worker()
    assert one.lease("k", 1) is None and one.wait("k", 10) is None


# -- the cache of view code

class Basket:
    def __init__(self, content):
        self.content = content


@pytest.fixture
def app_of(worker):
    """``app_of(redis=...)`` is an application of one worker, with its ``tiered``."""
    def make(**settings) -> flask.Flask:
        app, one = flask.Flask("shop"), worker(start=False, **settings)
        store.init(app, one)
        with app.app_context():
            app.tiered = cache.cache
        begin(one)
        return app
    return make


@pytest.mark.parametrize("value", [None, 0, "", b"", [], {"a": (1, 2)}, {1, 2}, Basket([1])], ids=repr)
def test_values_of_views(app_of, value):
    tiered = app_of().tiered
    assert tiered.set("k", value, 60)
    assert type(tiered.get("k")) is type(value)
    if not isinstance(value, Basket):
        assert tiered.get("k") == value


def test_what_one_changes_is_not_changed_for_others(app_of):
    tiered = app_of().tiered
    for value in ({"items": [1]}, Basket([1])):
        tiered.set("k", value)
        (value["items"] if isinstance(value, dict) else value.content).append(2)
        found = tiered.get("k")
        items = found["items"] if isinstance(found, dict) else found.content
        assert items == [1]
        items.append(3)
        found = tiered.get("k")
        assert (found["items"] if isinstance(found, dict) else found.content) == [1]


def test_answers_of_views(app_of):
    app = app_of()
    calls = []

    @app.get("/")
    @cache.cached(60)
    def view():
        calls.append(1)
        return flask.Response("<p>hi</p>", 203, {"X-Own": "1"}, mimetype="text/html")

    for _ in range(2):
        answer = app.test_client().get("/")
        assert (answer.status_code, answer.headers["X-Own"], answer.text) == (203, "1", "<p>hi</p>")
    assert calls == [1]


def test_timeouts(app_of):
    tiered = app_of().tiered
    tiered.set("k", 1, 60)
    tiered.set("always", 1, 0)
    held = tiered.memory.get("k")
    assert 59 < held.until - time.time() <= 60 and tiered.memory.get("always").until > time.time() + 10 ** 8
    held.until = time.time() - 1.0
    assert tiered.get("k") is None
    assert tiered.add("k", 2, 60) and not tiered.add("k", 3, 60) and tiered.get("k") == 2
    assert tiered.delete("k") and not tiered.delete("k") and not tiered.has("k")
    assert tiered.set("gone", 1, -1) is False


def test_views_of_several_workers_share_values(redis_server, app_of):
    server = redis_server()
    one, other = app_of(redis=server.url).tiered, app_of(redis=server.url).tiered
    one.set("k", {"a": 1})
    assert other.get("k") == {"a": 1}
    other.set("k", {"a": 2})
    until(lambda: one.get("k") == {"a": 2}, store.NEAR + 5)
    one.delete("k")
    until(lambda: other.get("k") is None)
    one.set_many({"a": 1, "b": 2})
    assert other.get_many("a", "b", "c") == [1, 2, None]
    one.clear()
    until(lambda: other.get_many("a", "b") == [None, None])
    late = app_of(redis=server.url).tiered
    until(lambda: late.get("a") is None)
    one.set("a", 3)
    assert late.get("a") == 3


def test_memory_counts_while_redis_is_gone(redis_server, app_of):
    server = redis_server()
    one = app_of(redis=server.url).tiered
    one.set("k", {"a": 1})
    one.near = 0.0
    assert one.get("k") == {"a": 1}
    server.kill()
    assert one.get("k") == {"a": 1} and one.get("k") == {"a": 1} and one.get("else") is None


def test_what_changes_while_redis_is_away_is_not_what_it_was_afterwards(redis_server, app_of):
    """Nothing of it reached Redis, which still has what was there before."""
    server = redis_server()
    app, other = app_of(redis=server.url, timeout="5s"), app_of(redis=server.url, timeout="5s").tiered
    one, shared = app.tiered, app.extensions["wicketgate.store"]
    one.near = other.near = 0.0
    for key in ("set", "deleted", "both", "neither"):
        one.set(key, "old")
        assert other.get(key) == "old"
    circuit = shared.leases.client.circuit
    circuit.breaker.first = circuit.breaker.longest = 60.0
    circuit.pause(OSError("away"))
    one.set("set", "new")
    one.delete("deleted")
    one.delete("both")
    one.set("both", "new")
    assert not shared.leases.usable
    until(lambda: not shared.bus.backlog())
    circuit.resume()
    keys = ("set", "deleted", "both", "neither")
    assert server.client.exists(*(f"wicketgate:view:{key}" for key in keys)) == 4
    assert one.get_many(*keys) == one.get_many(*keys) == ["new", None, "new", "old"]
    until(lambda: {"deleted", "both"} <= set(other.deletions))
    assert other.get_many(*keys)[1:] == [None, None, "old"]


@pytest.fixture
def two_clocks(redis_server, app_of):
    """Two workers that know little of Redis's clock, and ask it each time."""
    server = redis_server()
    workers = [app_of(redis=server.url, timeout="5s").tiered for _ in range(2)]
    for each in workers:
        each.near = 0.0
        each.store.leases.client.clock.margin, each.cleared_at = 0.05, 0.0
    return workers


def test_what_is_set_right_after_it_was_deleted_is_found(two_clocks):
    one, other = two_clocks
    for number in range(5):
        one.set("k", number)
        one.delete("k")
        one.set("k", -number)
        until(lambda: other.deletions)
        assert one.get("k") == other.get("k") == -number
        other.deletions.clear()


def test_what_was_set_later_elsewhere_is_seen(two_clocks):
    one, other = two_clocks
    for number in range(5):
        one.set("k", number)
        other.set("k", -number)
        assert one.get("k") == other.get("k") == -number


def test_how_many_deletions_are_remembered(app_of):
    tiered = app_of().tiered
    tiered.most_deletions = 3
    for key in "abcda":
        tiered.delete(key)
    assert list(tiered.deletions) == ["c", "d", "a"]


def test_a_late_purge_leaves_what_was_stored_after_it(app_of):
    app = app_of()
    before = time.time()
    app.tiered.set("k", 1)
    for value in ("k", ""):
        app.extensions["wicketgate.store"].bus.deliver(Notice("views", value, None, True, before - 1.0))
        assert app.tiered.get("k") == 1
        app.extensions["wicketgate.store"].bus.deliver(Notice("views", value, None, True, time.time()))
        assert app.tiered.get("k") is None
        app.tiered.set("k", 1)


@pytest.mark.parametrize("why", ["paused", "gone", "refused"])
def test_values_that_do_not_reach_redis_are_counted(redis_server, app_of, why):
    server = redis_server("--maxmemory-policy", "noeviction")
    app = app_of(redis=server.url)
    shared = app.extensions["wicketgate.store"]
    app.tiered.set("k", 1)
    assert ("dropped", "redis") not in shared.counted
    if why == "paused":
        shared.leases.client.circuit.pause(OSError("away"))
    elif why == "gone":
        server.kill()
    else:
        server.client.config_set("maxmemory", 1)
    assert app.tiered.set("l", 2) and app.tiered.get("l") == 2
    assert shared.counted["dropped", "redis"] == 1


def test_objects_of_ones_own_classes_stay_here(redis_server, app_of):
    server = redis_server()
    one, other = app_of(redis=server.url).tiered, app_of(redis=server.url).tiered
    one.set("k", Basket([1]))
    assert one.get("k").content == [1] and other.get("k") is None
    assert not server.client.keys("*view*")


def test_a_corrupt_value_is_a_miss(redis_server, app_of):
    server = redis_server()
    app = app_of(redis=server.url)
    other = store.record_of("other", store.StoredValue(1, 9e9, 9e8, True), 0.0)
    for data in (b"nonsense", b"\x80\x04K\x01.", b"WGVC\x01aaaabbbb", other):
        server.client.set("wicketgate:view:k", data)
        assert app.tiered.get("k") is None
        assert not server.client.exists("wicketgate:view:k")
    assert app.extensions["wicketgate.store"].counted["corrupt", "redis"] == 4


def test_memory_of_views_is_bounded(app_of):
    tiered = app_of(memory=100_000).tiered
    for number in range(1000):
        tiered.set(str(number), "x" * 1000)
    assert tiered.memory.bytes <= 100_000 and tiered.get("999") == "x" * 1000


def test_from_a_native_thread_it_is_memory_only(redis_server, app_of):
    from gateway.loop.native_threads import run_in_thread
    server = redis_server()
    tiered = app_of(redis=server.url).tiered
    run_in_thread(tiered.set, "k", 1)
    assert not server.client.keys("*view*") and tiered.memory.get("k") is not None
    tiered.set("shared", 2)
    assert run_in_thread(tiered.get, "shared") == 2


def test_a_plain_application_may_use_it_too(redis_server):
    server = redis_server()
    app = flask.Flask("plain")
    app.config.update(CACHE_TYPE="gateway.view_cache.Tiered", CACHE_REDIS_URL=server.url, CACHE_MEMORY=10 ** 6)
    store.init(app)
    with app.app_context():
        cache.set("k", [1])
        assert cache.get("k") == [1] and server.client.keys("*view:k")
        cache.cache.store.stop()


def test_a_purge_of_answers_is_none_of_values(app_of):
    app = app_of()
    app.tiered.set("k", 1)
    app.extensions["wicketgate.store"].purger.purge(everything=True)
    assert app.tiered.get("k") == 1
    app.extensions["wicketgate.store"].bus.deliver(gap(time.time()))
    assert app.tiered.get("k") is None
