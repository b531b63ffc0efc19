"""The clock of the machine is set, forward and back, at each point in the life of an answer: no purge is lost, nothing refused.

Two workers, each with a store of its own, over what they share: nothing but the journal, a folder, or a Redis.
"""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from asking import World, ok
from flask import Flask
from stored import entry_of

from gateway import view_cache as storage
from gateway.bus.bus import Bus
from gateway.bus.clock import BUS_CLOCK, BusClock
from gateway.bus.journal import Journal
from gateway.bus.redis_stream import RedisStream
from gateway.cache.entry import Variants
from gateway.cache.purging.nginx_generation import Generation, edge_notice
from gateway.cache.storage.file_tier import FileTier
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.redis_tier import RedisTier
from gateway.cache.storage.store import HttpStore
from gateway.remote.redis_client import RedisClient
from tests.waiting import SAFETY, until

STEPS = (-86400.0, -3600.0, 3600.0, 86400.0)
POINTS = ("before", "stored", "purged", "restart stored", "restart purged")
URL = "http://shop.test/a"


class Machine:
    """``step(seconds)`` sets its own clock; after ``forget()`` BUS_CLOCK is as in a process that begins now."""

    def __init__(self) -> None:
        self.set = 0.0

    def time(self) -> float:
        return time.time() + self.set

    def step(self, seconds: float) -> None:
        self.set += seconds

    def forget(self) -> None:
        BUS_CLOCK.offset = BusClock(self.time).offset


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(BUS_CLOCK, "wall", machine.time)
    monkeypatch.setattr(BUS_CLOCK, "offset", BUS_CLOCK.offset)
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
            tiers, transports, leases = [], [Journal(tmp_path / "notices")], None
            if request.param == "folder":
                tiers.append(FileTier(tmp_path / "cache", 2 ** 24))
            if server is not None:
                client = RedisClient(server.url, timeout=SAFETY)
                leases = RedisTier(client)
                tiers.append(leases)
                transports.append(RedisStream(client))
            running.append(HttpStore(MemoryTier(2 ** 20), tiers, Bus(transports, patience=SAFETY), leases=leases, patience=SAFETY))
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
    assert one.purger.purge(url=URL) >= 1
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
    world.cache(ahead=BUS_CLOCK.ahead)
    for number, fields in enumerate((
            {"Date": formatdate(machine.time(), usegmt=True)}, {},
            {"Date": formatdate(machine.time(), usegmt=True), "Expires": formatdate(machine.time() + 600, usegmt=True)})):
        world.answer = ok("" if "Expires" in fields else "max-age=600", **fields)
        world.ask(target=f"/{number}")
        second = world.ask(target=f"/{number}")
        assert world.note["cache"] == "hit" and int(second.header("Age")) < 60
    machine.step(-seconds)
    assert [world.ask(target=f"/{number}").header("Age") < "6" for number in range(3)] == [True] * 3
    assert len(world.seen) == 3


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
    generation.start()
    generation.stop()
    machine.step(seconds)
    machine.forget()
    again = Generation(tmp_path / "purges" / "current", 0.0)
    again.start()
    again.hear(edge_notice(min(BUS_CLOCK.now(), again._began)))
    assert again._soon is not None
    again._soon.join()
    again.stop()
