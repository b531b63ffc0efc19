"""The store over shared tiers: what other workers find, purges that reach them, a tier that is gone, and leases."""

from __future__ import annotations

import signal
import time

import gevent
import pytest
from stored import entry_of, numbers_of, variants_of

from gateway import gather
from gateway.bus.journal import Journal
from gateway.cache.storage import codec as format
from gateway.cache.storage.store import Intervals
from tests.cache.storage.workers import keep
from tests.waiting import PATIENT, SAFETY, until


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
    assert (numbers_of(other)["hits", name], numbers_of(other)["hits", "memory"]) == (1, 1)
    one.delete("k")
    assert one.get("k") is None
    assert one.flush() and one.tiers[0].get("k") is None and one.get("k") is None
    assert numbers_of(one)["misses", name] == 2


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
    assert numbers_of(one)["corrupt", name] >= 3


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
    asked = numbers_of(other).get(("misses", "redis"), 0)
    for _ in range(10):
        other.get("k")
    assert numbers_of(other)["hits", "memory"] >= 9, "not asked for each time"
    newer = keep(one, seconds=600.0)
    other.intervals = Intervals(again=0.0)
    assert other.get("k")[0].expires == pytest.approx(newer[0].expires, abs=0.01)
    assert numbers_of(other).get(("misses", "redis"), 0) == asked


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
    one = worker(redis=server.url, timeout=PATIENT)
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
    assert numbers_of(one)["errors", "redis"] >= 1
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
    one, other = (worker(memcached=f"127.0.0.1:{memcached}", timeout=PATIENT) for _ in range(2))
    keep(one, "large", body=b"x" * 2_000_000)
    keep(one, "small")
    assert numbers_of(one)["errors", "memcached"] == 1 and one.tiers[0].circuit.usable
    assert other.get("small") is not None and other.get("large") is None


def test_memcached_that_is_gone_costs_once(worker):
    one = worker(memcached="127.0.0.1:1")
    one.tiers[0].circuit.breaker.first = SAFETY
    for number in range(100):
        assert one.get(str(number)) is None
    assert numbers_of(one)["errors", "memcached"] == 1


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
