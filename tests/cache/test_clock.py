"""The clock of the machine is set, forward and back, at each point in the life of an answer: no purge is lost, nothing refused.

Two workers, each with a store of its own, over what they share: nothing but the journal, a folder, or a Redis.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from asking import World, ok
from flask import Flask
from stored import entry_of, until

from gateway import view_cache as storage
from gateway.cache import clock
from gateway.cache.entry import Variants
from gateway.cache.purge.journal import PurgeJournal
from gateway.cache.purge.marks import Purge
from gateway.cache.purge.redis_stream import PurgeStream
from gateway.cache.storage.file_tier import FileTier
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.nginx_generation import Generation
from gateway.cache.storage.redis_tier import RedisTier
from gateway.cache.storage.store import HttpStore
from gateway.remote.redis_client import RedisClient

STEPS = (-86400.0, -3600.0, 3600.0, 86400.0)
POINTS = ("before", "stored", "purged", "restart stored", "restart purged")
URL = "http://shop.test/a"


@pytest.fixture
def machine(monkeypatch):
    """``machine.step(seconds)`` sets its clock; ``machine.restart(again)`` is what a new process takes for the time."""
    machine = SimpleNamespace(set=0.0)
    fake = SimpleNamespace(time=lambda: time.time() + machine.set, clock_gettime=time.clock_gettime)
    monkeypatch.setattr(clock, "time", fake)
    monkeypatch.setattr(clock, "_offset", clock._offset)

    def step(seconds):
        machine.set += seconds

    def forget():
        monkeypatch.setattr(clock, "_offset", fake.time() - time.clock_gettime(clock.STEADY))

    machine.step, machine.forget = step, forget
    return machine


@pytest.fixture(params=["alone", "folder", "redis"])
def workers(request, machine, tmp_path):
    """``workers()`` are two that begin now; ``workers(again=True)`` after those before have ended."""
    running, server = [], request.getfixturevalue("redis_server")() if request.param == "redis" else None

    def begin(again=False):
        for each in running if again else ():
            each.flush()
            each.stop()
        if again:
            running.clear()
            machine.forget()
        for _ in range(2):
            journal = PurgeJournal(tmp_path / "purges")
            tiers, channels, leases = [], [journal], None
            if request.param == "folder":
                tiers.append(FileTier(tmp_path / "cache", 2 ** 24))
            if server is not None:
                client = RedisClient(server.url, timeout=5.0)
                leases = RedisTier(client)
                tiers.append(leases)
                channels.append(PurgeStream(client))
            running.append(HttpStore(MemoryTier(2 ** 20), tiers, channels, journal=journal, leases=leases, patience=5.0))
            running[-1].start()
            until(lambda: all(tier.usable for tier in tiers))
        return running[0], running[1]

    begin.shared = request.param != "alone"
    yield begin
    for each in running:
        each.flush()
        each.stop()


def put(store, body):
    now = store.clock()
    return store.put(URL, Variants([entry_of(URL, body, at=now)]), 3600.0, now)


@pytest.mark.parametrize("seconds", STEPS)
@pytest.mark.parametrize("point", POINTS)
def test_no_purge_is_lost_and_nothing_is_refused(workers, machine, seconds, point):
    one, other = workers()

    def reached(where):
        nonlocal one, other
        if point.endswith(where):
            machine.step(seconds)
            if point.startswith("restart"):
                one, other = workers(again=True)

    reached("before")
    assert put(one, b"old") and one.get(URL) is not None
    one.flush()
    if workers.shared:
        assert other.get(URL) is not None
    else:
        put(other, b"old")
    reached("stored")
    assert one.purge(url=URL) >= 1
    reached("purged")
    for each in (one, other):
        until(lambda each=each: each.get(URL) is None)
    assert put(one, b"new") is not None, "and what comes after it is kept"
    one.flush()
    for each in (one, other) if workers.shared else (one,):
        [found] = each.get(URL)
        assert found.body == b"new" and 0 <= each.clock() - found.born < 60 and found.expires > each.clock()


@pytest.mark.parametrize("seconds", STEPS)
def test_ages_and_lifetimes_are_those_that_passed(machine, seconds):
    """What the upstream dates by the clock of the machine is as old as it says, whenever that was set."""
    machine.step(seconds)
    world = World()
    world.store = HttpStore(MemoryTier(2 ** 20))
    world.clock = world.store.clock
    world.cache(ahead=clock.ahead)
    for number, fields in enumerate((
            {"Date": formatdate(clock.time.time(), usegmt=True)}, {},
            {"Date": formatdate(clock.time.time(), usegmt=True), "Expires": formatdate(clock.time.time() + 600, usegmt=True)})):
        world.answer = ok("" if "Expires" in fields else "max-age=600", **fields)
        world.ask(target=f"/{number}")
        second = world.ask(target=f"/{number}")
        assert world.note["cache"] == "hit" and int(second.header("Age")) < 60
    machine.step(-seconds)
    assert [world.ask(target=f"/{number}").header("Age") < "6" for number in range(3)] == [True] * 3
    assert len(world.seen) == 3


@pytest.mark.parametrize("written", [
    "", "nonsense", "nonsense 1", "{boot} nan", "{boot} inf", "{boot}", "{boot} " + "9" * 1000, "\0" * 8])
def test_a_damaged_agreement_is_made_anew(tmp_path, machine, written):
    path = tmp_path / "clock"
    path.write_text(written.format(boot=clock.BOOT.read_text().strip()))
    before = clock.now()
    clock.agree(path)
    assert 0 <= clock.now() - before < 60 and clock.offset_of(path, clock.BOOT.read_text().strip()) == clock._offset


def test_processes_agree_whenever_they_begin(tmp_path, machine):
    clock.agree(tmp_path / "clock")
    agreed = clock._offset
    machine.step(3600.0)
    machine.forget()
    assert clock._offset != agreed
    clock.agree(tmp_path / "clock")
    assert clock._offset == agreed and abs(clock.ahead() - 3600) < 1
    assert [path.name for path in tmp_path.iterdir()] == ["clock"]


def test_a_folder_that_cannot_be_written_is_said_and_no_error(tmp_path, machine, caplog):
    clock.agree(tmp_path / "no" / "clock")
    assert "cannot agree" in caplog.text


@pytest.mark.parametrize("seconds", STEPS)
def test_the_clock_of_redis_is_set(redis_server, monkeypatch, seconds):
    """What is in Redis then counts as purged, and purges are heard at the time at which they came."""
    log = PurgeStream(RedisClient(redis_server().url, timeout=5.0))
    heard: list[Purge] = []
    log.start(heard.append)
    until(lambda: log.client.usable)
    before = len(heard)
    time_of = log._compare_clocks
    monkeypatch.setattr(log, "_compare_clocks", lambda ask: time_of(lambda: (ask()[0] + int(seconds), 0)))
    log._look_at = 0.0
    until(lambda: len(heard) > before)
    log.stop()
    log.client.close()
    assert [purge.kind for purge in heard[before:]] == ["everything", "view"] and abs(heard[-1].at - clock.now()) < 60
    assert log._moment({b"at": b"%f" % (log._since + seconds)}) >= log._since


@pytest.mark.parametrize("seconds", STEPS)
def test_the_cache_of_view_code(machine, tmp_path, seconds):
    """A value that was deleted stays so, one that is set is there, for as long as it should be."""
    app = Flask(__name__)
    app.config["CACHE_DIR"] = str(tmp_path)
    storage.init(app)
    tiered = storage.view_cache
    with app.app_context():
        tiered.set("k", 1, timeout=600)
        machine.step(seconds)
        assert tiered.get("k") == 1
        tiered.delete("k")
        machine.step(-seconds)
        assert tiered.get("k") is None
        tiered.set("k", 2, timeout=600)
        assert tiered.get("k") == 2


@pytest.mark.parametrize("seconds", STEPS)
def test_steps_for_nginx(machine, tmp_path, seconds):
    """A purge of before a worker began, and after what seems to be a step of later, is followed by one."""
    generation = Generation(tmp_path / "purges" / "current", 0.0)
    generation.start(lambda purge: None)
    generation.stop()
    machine.step(seconds)
    machine.forget()
    again = Generation(tmp_path / "purges" / "current", 0.0)
    again.start(lambda purge: None)
    again.heard(Purge("edge", "", False, min(clock.now(), again._began)))
    assert again._soon is not None
    again._soon.join()
    again.stop()
