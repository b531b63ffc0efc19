"""The purger: what a purge does here, what other workers hear of it, and what it does to nginx in front."""

from __future__ import annotations

import os

import pytest
from stored import variants_of

from gateway.bus.bus import Bus
from gateway.bus.notice import Notice, gap
from gateway.cache.purging.nginx_generation import Generation
from gateway.cache.purging.purge_index import Purge, purge_notice
from gateway.cache.purging.purger import Purger
from tests.clocks import ManualClock
from tests.waiting import SAFETY

NOW = 100.0
URL = "http://shop.test/a"
EACH = [{"url": URL}, {"url": "/a"}, {"prefix": "/"}, {"tag": "red"}, {"everything": True}]


class Wire:
    """A transport that keeps what it is to carry, unless it refuses."""

    stamp = None

    def __init__(self, accepts: bool = True) -> None:
        self.accepts = accepts
        self.notices: list[Notice] = []

    def write(self, *notices: Notice) -> bool:
        self.notices += notices if self.accepts else ()
        return self.accepts


class Worker:
    """A purger, the bus it is on, and how often it has cleared the memory."""

    def __init__(self, *wires: Wire) -> None:
        self.clock = ManualClock(NOW)
        self.bus = Bus(wires, patience=SAFETY, now=self.clock.now)
        self.cleared = 0
        self.purger = Purger(self.bus, self._clear, self.clock.now)

    def _clear(self) -> None:
        self.cleared += 1

    def state_of(self, *, url: str = URL, at: float = NOW - 1) -> str:
        """Of an answer with the tag ``red`` that was requested at that time: fresh, stale or gone."""
        left = self.purger.marks.apply(variants_of(url, tags=["red"], at=at))
        return "gone" if left is None else "stale" if left[0].expires <= NOW else "fresh"


@pytest.fixture
def generation(tmp_path):
    """What nginx keeps, which has begun."""
    generation = Generation(tmp_path / "purges" / "current", SAFETY)
    generation.start()
    yield generation
    generation.stop()


# -- here

@pytest.mark.parametrize("soft, state", [(False, "gone"), (True, "stale")])
@pytest.mark.parametrize("what", EACH)
def test_a_purge_is_about_what_was_requested_before_it(what, soft, state):
    worker = Worker()
    worker.purger.purge(**what, soft=soft)
    assert (worker.state_of(at=NOW - 1), worker.state_of(at=NOW), worker.state_of(at=NOW + 1)) == (state, state, "fresh")


@pytest.mark.parametrize("what", EACH)
@pytest.mark.parametrize("soft", [False, True])
def test_the_memory_is_cleared_for_a_hard_purge_of_everything_alone(what, soft):
    worker = Worker()
    worker.purger.purge(**what, soft=soft)
    assert worker.cleared == ("everything" in what and not soft)


@pytest.mark.parametrize("what", [{}, {"url": URL, "tag": "red"}, {"prefix": "/", "everything": True}, {"url": ""}, {"tag": ""},
                                  {"url": "nonsense"}, {"prefix": "shop.test/"}])
def test_a_purge_of_no_one_thing_is_refused_and_does_nothing(what, generation):
    wire = Wire()
    worker = Worker(wire)
    worker.purger.generation = generation
    step = os.readlink(generation.link)
    with pytest.raises(ValueError):
        worker.purger.purge(**what)
    assert (worker.purger.marks.number, wire.notices, os.readlink(generation.link)) == (0, [], step)


def test_the_address_that_a_client_sends_is_about_the_one_a_route_stores_under():
    worker = Worker()
    worker.purger.addresses.counts_query("without b", lambda query: query.replace("&b=2", ""))
    worker.purger.purge(url=f"{URL}?a=1&b=2")
    assert [worker.state_of(url=URL + query) for query in ("?a=1&b=2", "?a=1", "?b=2", "")] == ["gone", "gone", "fresh", "fresh"]


# -- several addresses

@pytest.mark.parametrize("urls, states", [
    ([], ["fresh", "fresh"]), ([URL], ["gone", "fresh"]), ([URL, "/b"], ["gone", "gone"])])
def test_several_addresses_at_once(urls, states):
    wire = Wire()
    worker = Worker(wire)
    assert worker.purger.purge_urls(iter(urls)) == bool(urls)
    assert [worker.state_of(url=f"http://shop.test/{path}") for path in "ab"] == states and len(wire.notices) == len(urls)


def test_of_several_addresses_all_are_purged_or_none():
    worker = Worker()
    with pytest.raises(ValueError):
        worker.purger.purge_urls([URL, "nonsense"])
    assert worker.purger.marks.number == 0


# -- elsewhere

@pytest.mark.parametrize("wires, number", [
    ([], 0), ([True], 1), ([False], 0), ([True, True], 2), ([False, True], 1)])
def test_the_transports_that_took_it_are_counted(wires, number):
    worker = Worker(*map(Wire, wires))
    assert worker.purger.purge(tag="red") == number
    assert worker.state_of() == "gone", "here, whatever became of it elsewhere"


@pytest.mark.parametrize("soft, state", [(False, "gone"), (True, "stale")])
@pytest.mark.parametrize("what", EACH)
def test_a_worker_that_hears_of_it_does_the_same(what, soft, state):
    wire, other = Wire(), Worker()
    Worker(wire).purger.purge(**what, soft=soft)
    for notice in wire.notices:
        other.bus.deliver(notice)
    assert other.state_of() == state and other.state_of(at=NOW + 1) == "fresh"
    assert other.cleared == ("everything" in what and not soft)


@pytest.mark.parametrize("what", [{"url": f"{URL}?token=secret"}, {"tag": "secret"}])
def test_addresses_and_tags_travel_as_numbers(what):
    wire = Wire()
    Worker(wire).purger.purge(**what)
    assert len(wire.notices) == 1 and "secret" not in str(wire.notices)


def test_what_is_heard_is_not_sent_again():
    wire = Wire()
    worker = Worker(wire)
    worker.bus.deliver(purge_notice(Purge("tag", "red", False, NOW)))
    assert worker.state_of() == "gone" and wire.notices == []


@pytest.mark.parametrize("topic", ["", "purges"])
def test_a_gap_is_a_purge_of_everything_up_to_then(topic):
    worker = Worker()
    worker.bus.deliver(gap(NOW - 10, topic))
    assert [worker.state_of(at=NOW + seconds) for seconds in (-11, -10, -9)] == ["gone", "gone", "fresh"] and worker.cleared == 1


def test_a_gap_in_another_topic_purges_nothing():
    worker = Worker()
    worker.bus.deliver(gap(NOW, "edge"))
    assert worker.state_of() == "fresh" and worker.cleared == 0


# -- nginx in front

@pytest.mark.parametrize("what", EACH)
@pytest.mark.parametrize("keeps", [True, False])
def test_nginx_takes_a_step_and_its_notice_comes_behind_the_purge(what, keeps, generation):
    wire = Wire()
    worker = Worker(wire)
    worker.purger.generation = generation if keeps else None
    step = os.readlink(generation.link)
    assert worker.purger.purge(**what) == 1
    assert [notice.topic for notice in wire.notices] == ["purges", "edge"][:1 + keeps]
    assert (os.readlink(generation.link) != step) is keeps, "before the purge returns"


def test_what_clients_change_is_no_step_of_nginx(generation):
    wire = Wire()
    worker = Worker(wire)
    worker.purger.generation = generation
    step = os.readlink(generation.link)
    worker.purger.purge_urls([URL, "/b"])
    assert [notice.topic for notice in wire.notices] == ["purges", "purges"] and os.readlink(generation.link) == step
