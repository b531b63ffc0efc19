"""Redis as a tier, with real servers: killed, back, full, slow, behind Sentinel, as a Cluster; purges for who was away."""

from __future__ import annotations

import sys
import time

import gevent
import gevent.socket
import pytest
from gevent.server import StreamServer
from running import free_port
from stored import SAFETY, short_pauses, until

from gateway import gather
from gateway.breaker import Breaker
from gateway.cache.purge import redis_stream as redis_log
from gateway.cache.purge.marks import Purge
from gateway.cache.purge.redis_stream import PurgeStream
from gateway.cache.storage import redis_tier
from gateway.cache.storage.redis_tier import RedisTier
from gateway.errors import ConfigError
from gateway.remote.circuit import Slow
from gateway.remote.redis_client import RedisClient

LONGEST = 0.05                  # seconds that one operation may cost
SLACK = 0.25                    # of a busy machine


@pytest.fixture
def tier():
    """``tier(url)`` is a RedisTier, closed at the end; ``tier.failures`` are its failures."""
    made = []

    def make(url: str, **more) -> RedisTier:
        failures: list[float] = []
        found = RedisTier(RedisClient(url, failed=failures.append, **{"breaker": short_pauses(), **more}))
        found.failures = found.client.failures = failures
        made.append(found)
        return found

    yield make
    for each in made:
        each.close()


@pytest.fixture
def follow(tier):
    """``follow(url)`` is a started PurgeStream over a tier of its own, and the purges it has heard."""
    made = []

    def start(url: str, **more) -> tuple[PurgeStream, list[Purge]]:
        heard: list[Purge] = []
        log = PurgeStream(tier(url, **more).client)
        log.start(heard.append)
        made.append(log)
        return log, heard

    yield start
    for each in made:
        each.stop()


@pytest.fixture
def relay():
    """``relay(server, seconds)`` is the URL of a Redis whose answers take so long, one after the other."""
    started = []

    def start(server, seconds: float) -> str:
        def connected(client: gevent.socket.socket, address: object) -> None:
            with gevent.socket.create_connection(("127.0.0.1", server.port)) as behind:
                forth = gevent.spawn(copied, client, behind, 0.0)
                try:
                    copied(behind, client, seconds)
                finally:
                    forth.kill()

        started.append(StreamServer(("127.0.0.1", 0), connected))
        started[-1].start()
        return f"redis://127.0.0.1:{started[-1].server_port}/0"

    yield start
    for each in started:
        each.stop()


def copied(source, sink, seconds: float) -> None:
    """Each piece after so many seconds, until either side is gone."""
    try:
        while data := source.recv(65536):
            gevent.sleep(seconds)
            sink.sendall(data)
    except OSError:
        return


def tags(heard: list[Purge]) -> list[str]:
    return [purge.value for purge in heard if purge.kind == "tag"]


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
    assert other.leased("key") is True and other.leased("else") is False
    assert other.lease("key", "b", 10) is False and one.lease("key", "c", 10) is False
    other.write([("release", "key", "b", True)])
    assert one.leased("key"), "only by its holder"
    one.write([("release", "key", "a", False)])
    assert one.leased("key") is False
    assert other.lease("key", "d", 10) is True


def test_a_lease_whose_answer_is_stored_is_given_to_nobody_for_a_moment(redis_server, tier):
    """Who takes it then has looked for the answer before it was there."""
    server = redis_server()
    one, other = tier(server.url), tier(server.url)
    one.lease("key", "a", 10)
    one.write([("release", "key", "a", True)])
    assert other.leased("key") is False and 0 < server.client.pttl("wicketgate:lease:key") <= redis_tier.DONE_FOR
    assert other.lease("key", "b", 10) is False
    other.write([("extend", "key", "b", 50), ("release", "key", "b", False)])
    until(lambda: other.lease("key", "c", 10))


def test_a_lease_that_is_extended(redis_server, tier):
    server = redis_server()
    one = tier(server.url)
    one.lease("key", "a", 10)
    one.write([("extend", "key", "a", 30), ("extend", "key", "b", 50), ("extend", "else", "a", 50)])
    assert 29_000 < server.client.pttl("wicketgate:lease:key") <= 30_000 and not one.leased("else")


def test_a_lease_that_is_over_is_not_released_for_its_successor(redis_server, tier):
    server = redis_server()
    one, other = tier(server.url), tier(server.url)
    one.lease("key", "a", 0.02)
    until(lambda: not one.leased("key"))
    assert other.lease("key", "b", 10)
    one.write([("release", "key", "a", False)])
    assert one.leased("key")


def test_many_at_once_share_the_connections(redis_server, tier):
    server = redis_server()
    one = tier(server.url, timeout=SAFETY)
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
    assert seconds_of(lambda: [one.get("key") for _ in range(1000)]) < SLACK, "nobody asks"
    assert one.failures == [1.0]
    server.start()
    until(lambda: one.client.circuit.usable)
    one.put("key", b"2", 100)
    assert one.get("key") == b"2" and repr(one).endswith("usable")


def test_a_redis_that_never_was(tier):
    one = tier("redis://127.0.0.1:1/0")
    assert seconds_of(lambda: one.get("key")) < LONGEST + SLACK
    assert one.lease("key", "a", 1) is None and one.leased("key") is None
    assert "paused" in repr(one)


def test_a_redis_that_nobody_reaches(tier):
    """Packets to this address are lost: connecting takes until the time is over."""
    one = tier("redis://192.0.2.1:6379/0")
    assert seconds_of(lambda: one.get("key")) < LONGEST + SLACK
    assert not one.client.circuit.usable


def test_a_slow_redis_costs_its_time_once(redis_server, tier):
    server = redis_server()
    one = tier(server.url)
    one.put("key", b"1", 100)
    server.client.client_pause(600_000)
    took = seconds_of(lambda: gather(*[lambda: one.get("key")] * 50))
    assert LONGEST * 0.9 < took < 50 * LONGEST / 2, "all that were under way, together: one after the other they take twice that"
    assert seconds_of(lambda: one.get("key")) < LONGEST / 2
    assert "no answer within 50 ms" in repr(one)


def test_an_answer_that_came_too_late_is_not_taken_for_another(redis_server, tier):
    server = redis_server()
    one = tier(server.url)
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


# -- purges

def test_a_purge_is_heard_by_all_others_within_a_second(redis_server, follow, tier):
    server = redis_server()
    logs = [follow(server.url) for _ in range(3)]
    for log, _ in logs:
        until(lambda log=log: log.client.circuit.usable)
    before = time.time()
    assert logs[0][0].write(Purge("tag", "catalog", True, before))
    took = max(until(lambda heard=heard: tags(heard)) for _, heard in logs[1:])
    assert took < 1.0 + SLACK
    assert tags(logs[0][1]) == [], "whoever purges knows already"
    for _, heard in logs[1:]:
        [purge] = [purge for purge in heard if purge.kind == "tag"]
        assert (purge.value, purge.soft) == ("catalog", True)
        assert before - 0.001 <= purge.at <= time.time()


def test_who_starts_later_hears_what_was(redis_server, follow, tier):
    server = redis_server()
    log, _ = follow(server.url)
    until(lambda: log.client.circuit.usable)
    for number in range(2500):
        assert log.write(Purge("tag", str(number), False, time.time()))
    late, heard = follow(server.url)
    assert not late.client.circuit.usable, "not used before all was read"
    until(lambda: late.client.circuit.usable)
    assert tags(heard) == [str(number) for number in range(2500)]


def test_who_was_away_catches_up_before_redis_is_used_again(redis_server, follow):
    server = redis_server()
    (here, _), (away, heard) = follow(server.url), follow(server.url)
    for log in (here, away):
        until(lambda log=log: log.client.circuit.usable)
    away.stop()
    here.write(Purge("tag", "missed", False, time.time()))
    floors = [purge for purge in heard if purge.kind == "everything"]
    away.start(heard.append)
    assert tags(heard) == [] and away.client.ask("GET", "key") is None and not away.client.circuit.usable
    until(lambda: away.client.circuit.usable)
    assert tags(heard) == ["missed"]
    assert [purge for purge in heard if purge.kind == "everything"] == floors, "nothing else was missed"


def test_a_lost_connection_is_no_reason_to_forget_everything(redis_server, follow):
    server = redis_server()
    (here, _), (away, heard) = follow(server.url), follow(server.url)
    for log in (here, away):
        until(lambda log=log: log.client.circuit.usable)
    floors = [purge for purge in heard if purge.kind == "everything"]
    server.client.client_kill_filter(_type="normal", skipme=True)
    until(lambda: away.client.circuit.failure and here.client.circuit.failure)
    here.write(Purge("tag", "later", False, time.time()))
    until(lambda: tags(heard) == ["later"])
    assert [purge for purge in heard if purge.kind == "everything"] == floors


def test_a_purge_while_redis_is_away_is_made_up_for(redis_server, follow):
    server = redis_server()
    (here, _), (there, heard) = follow(server.url), follow(server.url)
    for log in (here, there):
        until(lambda log=log: log.client.circuit.usable)
    server.kill()
    assert not here.write(Purge("tag", "late", False, time.time()))
    assert len(here.waiting) == 1 and "1 waiting" in repr(here)
    server.start()
    until(lambda: "late" in tags(heard))
    assert not here.waiting


def test_a_pause_for_what_happened_to_requests_keeps_no_purge_back(redis_server, follow):
    server = redis_server()
    (one, heard), (other, heard_there) = follow(server.url, timeout=SAFETY), follow(server.url, timeout=SAFETY)
    for log in (one, other):
        until(lambda log=log: log.client.circuit.usable)
    one.client.circuit.breaker.first = 1000.0
    one.client.circuit.pause(Slow("no answer within 50 ms"))
    other.write(Purge("tag", "told", False, time.time()))
    until(lambda: tags(heard) == ["told"])
    assert not one.write(Purge("tag", "own", False, time.time())), "not known yet"
    until(lambda: tags(heard_there) == ["own"])
    until(lambda: not one.waiting)
    assert not one.client.circuit.usable, "the pause goes on"


def test_a_redis_too_slow_for_requests_keeps_no_purge_back(redis_server, follow, relay):
    """A pause is as long as the test: whoever is not followed at once is not followed at all."""
    server = redis_server()
    (slow, heard), (other, heard_there) = (follow(relay(server, 3 * LONGEST), breaker=Breaker(first=1000.0)) for _ in range(2))
    for log in (slow, other):
        until(lambda log=log: "no answer within 50 ms" in log.client.circuit.failure)
    assert not slow.write(Purge("tag", "told", False, time.time())), "not known yet"
    until(lambda: tags(heard_there) == ["told"])
    assert not other.write(Purge("tag", "back", False, time.time()))
    until(lambda: tags(heard) == ["back"])
    assert not slow.client.circuit.usable and slow.client.failures


def test_a_pause_ends_while_the_log_is_followed(redis_server, follow):
    server = redis_server()
    log, _ = follow(server.url)
    until(lambda: log.client.circuit.usable)
    library = log._library
    log.client.circuit.pause(Slow("no answer within 50 ms"))
    until(lambda: log.client.circuit.usable)
    assert log._library is library and log.client.failures == []


@pytest.mark.parametrize("how", ["foreign", "gone"])
def test_a_log_that_is_none_pauses_and_is_tried_again(redis_server, follow, monkeypatch, how):
    server, begin = redis_server(), redis_log.BEGIN
    if how == "foreign":
        server.client.xadd("wicketgate:purges", {"a": "b"})
    else:
        monkeypatch.setattr(redis_log, "BEGIN", "return redis.call('DEL', KEYS[1])")      # as if it was evicted right after
    log, heard = follow(server.url)
    until(lambda: log.client.failures)
    assert not log.client.usable and ("KeyError" in log.client.circuit.failure or "ValueError" in log.client.circuit.failure)
    monkeypatch.setattr(redis_log, "BEGIN", begin)
    server.client.delete("wicketgate:purges")
    until(lambda: log.client.circuit.usable)
    other, _ = follow(server.url)
    until(lambda: other.client.circuit.usable)
    other.write(Purge("tag", "good", False, time.time()))
    until(lambda: tags(heard) == ["good"])


def test_what_was_not_written_is_told(redis_server, tier):
    server = redis_server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    one = tier(server.url)
    assert one.write([("put", "a", b"1", 10), ("delete", "b")]) == 0
    lost = sum(one.write([("put", f"big{number}", b"x" * 50_000, 100), ("delete", "b")]) for number in range(200))
    assert 0 < lost == len(one.failures) <= 200, "what was refused"
    server.kill()
    assert one.write([("put", "a", b"1", 10)] * 3) == 3
    assert one.write([("put", "a", b"1", 10)] * 3) == 3, "and while it is paused"


@pytest.mark.parametrize("lose", ["flush", "evict", "restart"])
def test_a_log_that_was_lost_brings_nothing_back(redis_server, follow, lose):
    """Records from before count as purged for everybody who begins with the new log."""
    server = redis_server()
    log, _ = follow(server.url)
    until(lambda: log.client.circuit.usable)
    log.write(Purge("tag", "gone", False, time.time()))
    if lose == "flush":
        server.client.flushall()
    elif lose == "evict":
        server.client.delete(log.name)
    else:
        server.kill()
        server.start()
    lost_at = time.time()
    late, heard = follow(server.url)
    until(lambda: late.client.circuit.usable)
    for kind in ("everything", "view"):
        everything = [purge for purge in heard if purge.kind == kind and not purge.value and not purge.soft]
        assert everything and everything[0].at >= lost_at - 0.01


def test_a_log_that_was_trimmed_has_a_floor(redis_server, follow, monkeypatch):
    monkeypatch.setattr(redis_log, "KEPT", 100)
    server = redis_server("--stream-node-max-entries", "10")
    log, _ = follow(server.url)
    until(lambda: log.client.circuit.usable)
    for number in range(400):
        log.write(Purge("tag", str(number), False, time.time()))
    assert server.client.xlen(log.name) < 150
    late, heard = follow(server.url)
    until(lambda: late.client.circuit.usable)
    floor, values = heard[:2]
    assert floor.kind == "everything" and values == Purge("view", "", False, floor.at) and tags(heard)[0] != "0"
    assert floor.at >= next(purge.at for purge in heard if purge.kind == "tag") - 0.001


@pytest.mark.parametrize("prefix", ["wicketgate:", "{shop}:"])
def test_a_log_of_the_same_things_says_them_once(redis_server, prefix):
    """What is purged again and again takes no room, and a worker that starts reads little."""
    server = redis_server()
    one, late = RedisClient(server.url, prefix), RedisClient(server.url, prefix)
    log, reader = PurgeStream(one), PurgeStream(late)
    log.start(lambda purge: None)
    until(lambda: one.usable)
    for _ in range(50):
        for value in "1234":
            assert log.write(Purge("urls", f"0:{value}", False, time.time()))
    log.write(Purge("prefix", "/a", False, time.time()))
    assert server.client.xlen(log.name) == 2 + 4 + 1
    heard: list[Purge] = []
    reader.start(heard.append)
    until(lambda: late.usable)
    assert [purge.value for purge in heard if purge.value] == ["0:1", "0:2", "0:3", "0:4", "/a"]
    for each in (log, reader):
        each.stop()
        each.client.close()


def test_who_was_there_when_a_log_was_lost_hears_its_floor(redis_server, follow):
    """Also for values of view code."""
    server = redis_server()
    log, heard = follow(server.url)
    until(lambda: log.client.circuit.usable)
    heard.clear()
    server.client.delete(log.name)
    follow(server.url)
    until(lambda: len(heard) == 2)
    assert [purge[:3] for purge in heard] == [("everything", "", False), ("view", "", False)]


def test_too_many_purges_that_wait_become_a_floor(tier, monkeypatch):
    monkeypatch.setattr(redis_log, "MOST_WAITING", 3)
    log = PurgeStream(tier("redis://127.0.0.1:1/0").client)
    for value in "aabbcc":
        assert not log.write(Purge("tags", value, False, 1.0))
    assert [purge.value for purge in log.waiting.values()] == ["a", "b", "c"]
    log.write(Purge("tags", "c", True, 2.0))
    assert list(log.waiting.values()) == [Purge("everything", "", False, 2.0), Purge("view", "", False, 2.0)]


def test_what_is_no_purge_is_passed_over_and_counted(redis_server, follow):
    server = redis_server()
    log, heard = follow(server.url)
    until(lambda: log.client.circuit.usable)
    for fields in ({"a": "b"}, {"at": "x", "purge": '["tag","a",false]'}, {"at": "1", "purge": "null"},
                   {"at": "1", "purge": '["colour","a",false]'}):
        server.client.xadd(log.name, fields)
    log2, _ = follow(server.url)
    until(lambda: log2.client.circuit.usable)
    log2.write(Purge("tag", "good", False, time.time()))
    until(lambda: tags(heard) == ["good"])
    assert len(log.client.failures) >= 3


def test_clocks_that_differ(redis_server, follow, monkeypatch):
    """A worker whose clock is an hour ahead sees purges and records at the right moment of its own clock."""
    server = redis_server()
    log, _ = follow(server.url)
    until(lambda: log.client.circuit.usable)
    monkeypatch.setattr(redis_log, "now", lambda: time.time() + 3600)
    ahead, heard = follow(server.url)
    until(lambda: ahead.client.circuit.usable)
    assert abs(ahead.client.clock.shift + 3600) < 1 and abs(log.client.clock.shift) < 1
    log.write(Purge("tag", "a", False, time.time()))
    until(lambda: tags(heard))
    assert abs(heard[-1].at - (time.time() + 3600)) < 5


def test_stopping_closes_and_a_second_start_is_another_life(redis_server, tier):
    server = redis_server()
    heard: list[Purge] = []
    log = PurgeStream(tier(server.url).client)
    for _ in range(2):
        log.start(heard.append)
        until(lambda: log.client.circuit.usable)
        log.stop()


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
    until(lambda: one.get("key") == b"1", 40)
    one.put("key", b"2", 100)
    assert second.client.get("wicketgate:key") == b"2"


def test_a_cluster(redis_server, tier, follow):
    server = redis_server("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    until(lambda: b"cluster_state:ok" in server.client.execute_command("CLUSTER", "INFO"))
    url = f"redis+cluster://127.0.0.1:{server.port}"
    one = tier(url, timeout=1.0)
    for number in range(20):
        one.put(f"key{number}", b"x", 100)
        assert one.get(f"key{number}") == b"x"
    one.write([("put", "key1", b"y", 100), ("lease", "key", "a", 10), ("delete", "key2")])
    assert (one.get("key1"), one.get("key2"), one.leased("key"), one.lease("key", "b", 10)) == (b"y", None, True, False)
    one.write([("extend", "key", "a", 20), ("release", "key", "a", False)])
    assert not one.leased("key")
    (log, _), (_, heard) = follow(url), follow(url)
    until(lambda: log.client.circuit.usable)
    log.write(Purge("tag", "a", False, time.time()))
    until(lambda: tags(heard) == ["a"])


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match="wicketgate.redis"):
        RedisClient("redis://127.0.0.1")
