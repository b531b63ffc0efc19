"""The stream in Redis, with real servers: lost, trimmed, foreign, slow, away; what whoever was away hears before it uses Redis."""

from __future__ import annotations

import time

import gevent
import gevent.socket
import pytest
from gevent.server import StreamServer
from running import free_port
from stored import short_pauses

from gateway.breaker import Breaker
from gateway.bus.clock import BUS_CLOCK
from gateway.bus.notice import EVERY, Notice, gap, json_text
from gateway.bus.redis_stream import BEGIN, CLOCK_INTERVAL, RedisStream
from gateway.remote.circuit import Slow
from gateway.remote.redis_client import RedisClient
from tests.clocks import ManualClock
from tests.waiting import SAFETY, until

LONGEST = 0.05                  # seconds that one operation may cost
OF_STREAM = ("length", "begin", "block", "now", "clock")


@pytest.fixture
def follow():
    """``follow(url)`` is a started RedisStream over a client of its own, and the notices it has heard."""
    made = []

    def start(url: str, **more) -> tuple[RedisStream, list[Notice]]:
        heard: list[Notice] = []
        failures: list[float] = []
        own = {name: more.pop(name) for name in OF_STREAM if name in more}
        client = RedisClient(url, on_failure=failures.append, **{"breaker": short_pauses(), "timeout": SAFETY, **more})
        client.failures = failures
        log = RedisStream(client, **own)
        log.start(heard.append)
        made.append(log)
        return log, heard

    yield start
    for each in made:
        each.stop()
        each.client.close()


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


def notice(key: str, payload: object = None, topic: str = "stages") -> Notice:
    return Notice(topic, key, payload, True, BUS_CLOCK.now())


def keys(heard: list[Notice]) -> list[str]:
    return [each.key for each in heard if each.topic == "stages" and each.key is not None]


def gaps_of(heard: list[Notice]) -> list[Notice]:
    return [each for each in heard if each.key is None]


def test_a_notice_is_heard_by_all_others_at_once(redis_server, follow):
    """While they read: the next time that they ask comes after the end of this test."""
    server = redis_server()
    logs = [follow(server.url, block=10 * SAFETY) for _ in range(3)]
    for log, _ in logs:
        until(lambda log=log: log.client.usable)
    before = time.time()
    assert logs[0][0].write(notice("catalog", {"share": 5}))
    until(lambda: all(keys(heard) for _, heard in logs[1:]))
    assert keys(logs[0][1]) == [], "whoever publishes knows already"
    for _, heard in logs[1:]:
        [found] = [each for each in heard if each.key is not None]
        assert found[:4] == ("stages", "catalog", {"share": 5}, True)
        assert before - 0.001 <= found.at <= time.time()


def test_who_starts_later_hears_what_was(redis_server, follow):
    server = redis_server()
    log, _ = follow(server.url)
    until(lambda: log.client.usable)
    for number in range(2500):
        assert log.write(notice(str(number)))
    late, heard = follow(server.url)
    assert not late.client.usable, "not used before all was read"
    until(lambda: late.client.usable)
    assert keys(heard) == [str(number) for number in range(2500)]


def test_who_was_away_catches_up_before_redis_is_used_again(redis_server, follow):
    server = redis_server()
    (here, _), (away, heard) = follow(server.url), follow(server.url)
    for log in (here, away):
        until(lambda log=log: log.client.usable)
    away.stop()
    here.write(notice("missed"))
    gaps = gaps_of(heard)
    away.start(heard.append)
    assert keys(heard) == [] and away.client.ask("GET", "key") is None and not away.client.usable
    until(lambda: away.client.usable)
    assert keys(heard) == ["missed"]
    assert gaps_of(heard) == gaps, "nothing else was missed"


def test_a_lost_connection_is_no_reason_to_forget_everything(redis_server, follow):
    server = redis_server()
    (here, _), (away, heard) = follow(server.url), follow(server.url)
    for log in (here, away):
        until(lambda log=log: log.client.usable)
    gaps = gaps_of(heard)
    server.client.client_kill_filter(_type="normal", skipme=True)
    until(lambda: away.client.circuit.failure and here.client.circuit.failure)
    here.write(notice("later"))
    until(lambda: keys(heard) == ["later"])
    assert gaps_of(heard) == gaps


def test_a_notice_while_redis_is_away_is_made_up_for(redis_server, follow):
    server = redis_server()
    (here, _), (there, heard) = follow(server.url), follow(server.url)
    for log in (here, there):
        until(lambda log=log: log.client.usable)
    server.kill()
    assert not here.write(notice("late"))
    assert here.backlog() == 1 and "1 wait" in repr(here)
    server.start()
    until(lambda: "late" in keys(heard))
    assert not here.backlog()


def test_a_pause_for_what_happened_to_requests_keeps_no_notice_back(redis_server, follow):
    server = redis_server()
    (one, heard), (other, heard_there) = follow(server.url, timeout=SAFETY), follow(server.url, timeout=SAFETY)
    for log in (one, other):
        until(lambda log=log: log.client.usable)
    one.client.circuit.breaker.first = 1000.0
    one.client.circuit.pause(Slow("no answer within 50 ms"))
    other.write(notice("told"))
    until(lambda: keys(heard) == ["told"])
    assert not one.write(notice("own")), "not known yet"
    until(lambda: keys(heard_there) == ["own"])
    until(lambda: not one.backlog())
    assert not one.client.usable, "the pause goes on"


def test_a_redis_too_slow_for_requests_keeps_no_notice_back(redis_server, follow, relay):
    """A pause is as long as the test: whoever is not followed at once is not followed at all."""
    server = redis_server()
    followers = [follow(relay(server, 3 * LONGEST), timeout=LONGEST, breaker=Breaker(first=1000.0)) for _ in range(2)]
    (slow, heard), (other, heard_there) = followers
    for log in (slow, other):
        until(lambda log=log: "no answer within 50 ms" in log.client.circuit.failure)
    assert not slow.write(notice("told")), "not known yet"
    until(lambda: keys(heard_there) == ["told"])
    assert not other.write(notice("back"))
    until(lambda: keys(heard) == ["back"])
    assert not slow.client.usable and slow.client.failures


def test_a_pause_ends_while_the_log_is_followed(redis_server, follow):
    server = redis_server()
    log, _ = follow(server.url)
    until(lambda: log.client.usable)
    library = log._library
    log.client.circuit.pause(Slow("no answer within 50 ms"))
    until(lambda: log.client.usable)
    assert log._library is library and log.client.failures == []


@pytest.mark.parametrize("how", ["foreign", "gone"])
def test_a_log_that_is_none_pauses_and_is_tried_again(redis_server, follow, how):
    server, begin = redis_server(), BEGIN
    if how == "foreign":
        server.client.xadd("wicketgate:notices", {"a": "b"})
    else:
        begin = "return redis.call('DEL', KEYS[1])"      # as if it was evicted right after
    log, heard = follow(server.url, begin=begin)
    until(lambda: log.client.failures)
    assert not log.client.usable and ("KeyError" in log.client.circuit.failure or "ValueError" in log.client.circuit.failure)
    log.begin = BEGIN
    server.client.delete("wicketgate:notices")
    until(lambda: log.client.usable)
    other, _ = follow(server.url)
    until(lambda: other.client.usable)
    other.write(notice("good"))
    until(lambda: keys(heard) == ["good"])


@pytest.mark.parametrize("lose", ["flush", "evict", "restart"])
def test_a_log_that_was_lost_is_a_gap_for_whoever_begins_with_the_new_one(redis_server, follow, lose):
    server = redis_server()
    log, _ = follow(server.url)
    until(lambda: log.client.usable)
    log.write(notice("gone"))
    written_at = BUS_CLOCK.now()                         # the first one may begin the new log as soon as the old one is lost
    if lose == "flush":
        server.client.flushall()
    elif lose == "evict":
        server.client.delete(log.name)
    else:
        server.kill()
        server.start()
    late, heard = follow(server.url)
    until(lambda: late.client.usable)
    assert heard[0].identity == (EVERY, None) and heard[0].at >= written_at - 0.01


def test_a_log_that_was_trimmed_begins_with_a_gap(redis_server, follow):
    server = redis_server("--stream-node-max-entries", "10")
    log, _ = follow(server.url, length=100)
    until(lambda: log.client.usable)
    for number in range(400):
        log.write(notice(str(number)))
    assert server.client.xlen(log.name) < 150
    late, heard = follow(server.url)
    until(lambda: late.client.usable)
    assert heard[0].identity == (EVERY, None) and keys(heard)[0] != "0"
    assert heard[0].at >= next(each.at for each in heard if each.key is not None) - 0.001


@pytest.mark.parametrize("prefix", ["wicketgate:", "{shop}:"])
def test_a_log_of_the_same_keys_says_them_once(redis_server, follow, prefix):
    """What is published again and again takes no room, and a worker that starts reads little."""
    server = redis_server()
    log, _ = follow(server.url, prefix=prefix)
    until(lambda: log.client.usable)
    for number in range(50):
        for key in "1234":
            assert log.write(notice(key, number))
    log.write(notice("1", topic="limits"))
    assert server.client.xlen(log.name) == 1 + 4 + 1
    late, heard = follow(server.url, prefix=prefix)
    until(lambda: late.client.usable)
    assert [each[:3] for each in heard if each.key is not None] == [*(("stages", key, 49) for key in "1234"), ("limits", "1", None)]


def test_a_hash_of_more_keys_than_the_log_has_begins_anew(redis_server, follow):
    server = redis_server()
    log, _ = follow(server.url, length=10)
    until(lambda: log.client.usable)
    for number in range(100):
        log.write(notice(str(number)))
    assert 0 < server.client.hlen(log.latest) <= 11


def test_who_was_there_when_a_log_was_lost_hears_of_the_gap(redis_server, follow):
    server = redis_server()
    log, heard = follow(server.url)
    until(lambda: log.client.usable)
    heard.clear()
    server.client.delete(log.name)
    follow(server.url)
    until(lambda: heard)
    assert [each.identity for each in heard] == [(EVERY, None)]


def test_too_many_notices_that_wait_become_a_gap_in_each_topic():
    client = RedisClient("redis://127.0.0.1:1/0")
    log = RedisStream(client, limit=3)
    for key in "aabbcc":
        assert not log.write(notice(key))
    assert [key for _, key in log._unsent] == ["a", "b", "c"] and log.backlog() == 3
    log.write(notice("d", topic="limits"))
    assert list(log._unsent) == [("stages", None), ("limits", "d")]
    client.close()


def test_what_is_no_notice_is_passed_over_and_counted(redis_server, follow):
    server = redis_server()
    log, heard = follow(server.url)
    until(lambda: log.client.usable)
    for fields in ({"a": "b"}, {"at": "x", "notice": '["stages","a",null,true]'}, {"at": "1", "notice": "null"},
                   {"at": "1", "notice": '["stages",7,null,true]'}, {"at": "1", "purge": '["tag","a",false]'}):
        server.client.xadd(log.name, fields)
    log2, _ = follow(server.url)
    until(lambda: log2.client.usable)
    log2.write(notice("good"))
    until(lambda: keys(heard) == ["good"])
    assert len(log.client.failures) >= 5


def test_clocks_that_differ(redis_server, follow):
    """A worker whose clock is an hour ahead hears notices at the right moment of its own clock."""
    server = redis_server()
    log, _ = follow(server.url)
    until(lambda: log.client.usable)
    ahead, heard = follow(server.url, now=lambda: time.time() + 3600)
    until(lambda: ahead.client.usable)
    assert abs(ahead.client.clock.shift + 3600) < 1 and abs(log.client.clock.shift) < 1
    log.write(notice("a"))
    until(lambda: keys(heard))
    assert abs(heard[-1].at - (time.time() + 3600)) < 5


def test_stopping_closes_and_a_second_start_is_another_life(redis_server):
    heard: list[Notice] = []
    log = RedisStream(RedisClient(redis_server().url, timeout=SAFETY))
    for _ in range(2):
        log.start(heard.append)
        until(lambda: log.client.usable)
        log.stop()
    log.client.close()


@pytest.mark.parametrize("seconds", (-86400, -3600, 3600, 86400))
def test_the_clock_of_redis_is_set(redis_server, follow, monkeypatch, seconds):
    """A gap up to now, for everybody; and notices are heard at the time at which they came."""
    clock = ManualClock()
    log, heard = follow(redis_server().url, clock=clock)
    until(lambda: log.client.usable)
    before = len(heard)
    compare = log._compare_clocks
    monkeypatch.setattr(log, "_compare_clocks", lambda ask: compare(lambda: (ask()[0] + seconds, 0)))
    clock.time += CLOCK_INTERVAL
    until(lambda: len(heard) > before)
    log.stop()
    assert [each.identity for each in heard[before:]] == [(EVERY, None)] and abs(heard[-1].at - BUS_CLOCK.now()) < 60
    assert log._moment({b"at": b"%f" % (log._complete_at + seconds)}) >= log._complete_at


def test_through_a_cluster(redis_server, follow):
    server = redis_server("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    until(lambda: b"cluster_state:ok" in server.client.execute_command("CLUSTER", "INFO"))
    (log, _), (_, heard) = (follow(f"redis+cluster://127.0.0.1:{server.port}") for _ in range(2))
    until(lambda: log.client.usable)
    log.write(notice("a"))
    until(lambda: keys(heard) == ["a"])


def test_notices_too_long_for_one_answer_are_read_in_several(redis_server, follow):
    """Each is nearly as long as a notice may be."""
    server = redis_server()
    client = RedisClient(server.url, timeout=SAFETY)
    log = RedisStream(client)
    for key in "abcdefghijkl":
        assert client.ask("EVAL", *log._entry(notice(key * 900_000))) is not None
    late, heard = follow(server.url, timeout=SAFETY, breaker=Breaker(first=0.01))
    until(lambda: late.client.usable)
    assert [key[-1] for key in keys(heard)][-12:] == list("abcdefghijkl")
    client.close()


def test_a_notice_that_is_too_long_is_none():
    client = RedisClient("redis://127.0.0.1:1/0", on_failure=(counted := []).append)
    log = RedisStream(client)
    entry = {b"notice": json_text("stages", "x" * 2 * 1024 ** 2, None, True).encode(), b"at": b"1.0"}
    assert log._notice(entry) is None and counted == [1.0]
    assert log._notice({**entry, b"notice": json_text(*gap(0.0)[:4]).encode()}).identity == (EVERY, None) and counted == [1.0]
    client.close()
