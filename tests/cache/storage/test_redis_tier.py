"""Redis as a tier, with real servers: killed, back, full, slow, behind Sentinel, as a Cluster."""

from __future__ import annotations

import sys
import time

import pytest
from running import free_port
from stored import short_pauses

from gateway import gather
from gateway.breaker import Breaker
from gateway.cache.storage import redis_tier
from gateway.cache.storage.redis_tier import RedisTier
from gateway.errors import ConfigError
from gateway.remote.redis_client import RedisClient
from tests.waiting import SAFETY, until

LONGEST = 0.05                  # seconds that one operation may cost, where a test is about that
SLACK = 10.0                    # of a busy machine; without a limit it takes minutes


@pytest.fixture
def tier():
    """``tier(url)`` is a RedisTier, closed at the end, whose operations have all the time; ``tier.failures`` are its failures."""
    made = []

    def make(url: str, **more) -> RedisTier:
        failures: list[float] = []
        found = RedisTier(RedisClient(url, on_failure=failures.append, **{"timeout": SAFETY, "breaker": short_pauses(), **more}))
        found.failures = found.client.failures = failures
        made.append(found)
        return found

    yield make
    for each in made:
        each.close()


def seconds_of(function) -> float:
    began = time.monotonic()
    function()
    return time.monotonic() - began


# -- records and leases

def test_records(redis_server, tier):
    server = redis_server()
    one, other = tier(server.url), tier(server.url)
    assert one.get("key") is None
    one.put("key", b"\x00record\xff", 20)
    assert other.get("key") == b"\x00record\xff"
    assert 19_000 < server.client.pttl("wicketgate:key") <= 20_000
    other.delete("key")
    assert one.get("key") is None
    one.put("short", b"x", 0.03)
    until(lambda: one.get("short") is None)
    assert one.failures == other.failures == []


def test_prefixes_keep_gateways_apart(redis_server, tier):
    server = redis_server()
    one, other = tier(server.url, prefix="one:"), tier(server.url, prefix="two:")
    one.put("key", b"1", 10)
    assert other.get("key") is None and server.client.keys() == [b"one:key"]


def test_one_lease_at_a_time(redis_server, tier):
    server = redis_server()
    one, other = tier(server.url), tier(server.url)
    assert one.lease("key", "a", 10) is True
    assert other.is_leased("key") is True and other.is_leased("else") is False
    assert other.lease("key", "b", 10) is False and one.lease("key", "c", 10) is False
    other.write([("release", "key", "b", True)])
    assert one.is_leased("key"), "only by its holder"
    one.write([("release", "key", "a", False)])
    assert one.is_leased("key") is False
    assert other.lease("key", "d", 10) is True


def test_a_lease_whose_answer_is_stored_is_given_to_nobody_for_a_moment(redis_server, tier):
    """Who takes it then has looked for the answer before it was there."""
    server = redis_server()
    one, other = tier(server.url), tier(server.url)
    one.lease("key", "a", 10)
    one.write([("release", "key", "a", True)])
    assert other.is_leased("key") is False and 0 < server.client.pttl("wicketgate:lease:key") <= redis_tier.DONE_FOR
    assert other.lease("key", "b", 10) is False
    other.write([("extend", "key", "b", 50), ("release", "key", "b", False)])
    until(lambda: other.lease("key", "c", 10))


def test_a_lease_that_is_extended(redis_server, tier):
    server = redis_server()
    one = tier(server.url)
    one.lease("key", "a", 10)
    one.write([("extend", "key", "a", 30), ("extend", "key", "b", 50), ("extend", "else", "a", 50)])
    assert 29_000 < server.client.pttl("wicketgate:lease:key") <= 30_000 and not one.is_leased("else")


def test_a_lease_that_is_over_is_not_released_for_its_successor(redis_server, tier):
    server = redis_server()
    one, other = tier(server.url), tier(server.url)
    one.lease("key", "a", 0.02)
    until(lambda: not one.is_leased("key"))
    assert other.lease("key", "b", 10)
    one.write([("release", "key", "a", False)])
    assert one.is_leased("key")


def test_many_at_once_share_the_connections(redis_server, tier):
    server = redis_server()
    one = tier(server.url)
    one.put("key", b"x" * 1000, 30)
    assert gather(*[lambda: one.get("key")] * 300) == [b"x" * 1000] * 300
    assert one.client.connections.open <= 32
    assert server.client.info("clients")["connected_clients"] <= 34


# -- what fails

def test_a_redis_that_is_gone_costs_once_and_comes_back(redis_server, tier):
    server = redis_server()
    one = tier(server.url)
    one.put("key", b"1", 100)
    server.kill()
    assert seconds_of(lambda: one.get("key")) < LONGEST + SLACK
    assert not one.client.circuit.usable and one.failures == [1.0]
    assert [one.get("key") for _ in range(1000)] == [None] * 1000
    assert one.failures == [1.0], "nobody asks"
    server.start()
    until(lambda: one.client.circuit.usable)
    one.put("key", b"2", 100)
    assert one.get("key") == b"2" and repr(one).endswith("usable")


def test_a_redis_that_never_was(tier):
    one = tier("redis://127.0.0.1:1/0")
    assert seconds_of(lambda: one.get("key")) < LONGEST + SLACK
    assert one.lease("key", "a", 1) is None and one.is_leased("key") is None
    assert "paused" in repr(one)


def test_a_redis_that_nobody_reaches(tier):
    """Packets to this address are lost: connecting takes until the time is over."""
    one = tier("redis://192.0.2.1:6379/0", timeout=LONGEST)
    assert seconds_of(lambda: one.get("key")) < LONGEST + SLACK
    assert not one.client.circuit.usable


def test_a_slow_redis_costs_its_time_once(redis_server, tier):
    server = redis_server()
    one = tier(server.url, timeout=LONGEST, breaker=Breaker(first=SAFETY))
    one.put("key", b"1", 100)
    server.client.client_pause(600_000)
    took = seconds_of(lambda: gather(*[lambda: one.get("key")] * 400))
    assert LONGEST * 0.9 < took < 400 * LONGEST / 2, "all that were under way, together: one after the other they take twice that"
    one.failures.clear()
    assert one.get("key") is None and one.failures == [], "nobody asks"
    assert "no answer within 50 ms" in repr(one)


def test_an_answer_that_came_too_late_is_not_taken_for_another(redis_server, tier):
    server = redis_server()
    one = tier(server.url, timeout=LONGEST)
    for number in range(20):
        one.put(str(number), str(number).encode(), 100)
    for number in range(5):
        server.client.client_pause(70)
        one.get("0")
        until(lambda: one.client.circuit.usable)
        assert one.get(str(number)) in (None, str(number).encode())


def test_a_full_redis_refuses_and_goes_on(redis_server, tier):
    server = redis_server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    one = tier(server.url)
    one.put("small", b"1", 100)
    for number in range(200):
        one.put(f"big{number}", b"x" * 50_000, 100)
    assert one.failures and one.client.circuit.usable, "it refuses writing, and is well"
    assert one.get("small") == b"1"
    assert "used memory" in one.client.circuit.failure


def test_a_redis_that_evicts(redis_server, tier):
    server = redis_server("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")
    one = tier(server.url)
    for number in range(200):
        one.put(f"big{number}", b"x" * 50_000, 100)
    kept = [number for number in range(200) if one.get(f"big{number}") is not None]
    assert 0 < len(kept) < 100 and one.failures == []


def test_a_wrong_password_pauses(redis_server, tier):
    server = redis_server()
    server.client.config_set("requirepass", "secret")
    assert tier(server.url).get("key") is None
    good = tier(f"redis://:secret@127.0.0.1:{server.port}/0")
    good.put("key", b"1", 10)
    assert good.get("key") == b"1"
    assert "secret" not in repr(good)


def test_what_was_not_written_is_told(redis_server, tier):
    server = redis_server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    one = tier(server.url)
    assert one.write([("put", "a", b"1", 10), ("delete", "b")]) == 0
    lost = sum(one.write([("put", f"big{number}", b"x" * 50_000, 100), ("delete", "b")]) for number in range(200))
    assert 0 < lost == len(one.failures) <= 200, "what was refused"
    server.kill()
    assert one.write([("put", "a", b"1", 10)] * 3) == 3
    assert one.write([("put", "a", b"1", 10)] * 3) == 3, "and while it is paused"


# -- more than one Redis

def test_behind_sentinel_over_a_failover(redis_server, tier):
    first = redis_server()
    second = redis_server("--replicaof", "127.0.0.1", str(first.port))
    sentinel = redis_server(sentinel=True)
    sentinel.client.execute_command("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", str(first.port), "1")
    for option, value in (("down-after-milliseconds", 200), ("failover-timeout", 2000)):
        sentinel.client.execute_command("SENTINEL", "SET", "mymaster", option, value)
    one = tier(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0")
    until(lambda: one.client.circuit.usable and (one.put("key", b"1", 100), one.get("key") == b"1")[1])
    until(lambda: second.client.info("replication").get("master_link_status") == "up"
          and second.client.get("wicketgate:key") == b"1")
    until(lambda: len(sentinel.client.execute_command("SENTINEL", "REPLICAS", "mymaster")) == 1)
    first.kill()
    until(lambda: one.get("key") == b"1")
    one.put("key", b"2", 100)
    assert second.client.get("wicketgate:key") == b"2"


def test_a_cluster(redis_server, tier):
    server = redis_server("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    until(lambda: b"cluster_state:ok" in server.client.execute_command("CLUSTER", "INFO"))
    url = f"redis+cluster://127.0.0.1:{server.port}"
    one = tier(url)
    for number in range(20):
        one.put(f"key{number}", b"x", 100)
        assert one.get(f"key{number}") == b"x"
    one.write([("put", "key1", b"y", 100), ("lease", "key", "a", 10), ("delete", "key2")])
    assert (one.get("key1"), one.get("key2"), one.is_leased("key"), one.lease("key", "b", 10)) == (b"y", None, True, False)
    one.write([("extend", "key", "a", 20), ("release", "key", "a", False)])
    assert not one.is_leased("key")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match="wicketgate.redis"):
        RedisClient("redis://127.0.0.1")
