"""What is not for several is fetched side by side, and how long a request waits to find out; what those who wait count for."""

from __future__ import annotations

import gevent
import pytest
from asking import Stream, at_once, meeting, ok, settle, status_of
from gevent.event import Event

from gateway.cache.coalesce import Flights, WaitLimits
from gateway.cache.request_directives import COOKIE
from gateway.loop.monotonic_clock import MonotonicClock
from tests.waiting import SAFETY, until


def test_a_new_key_of_a_route_without_sharable_answers_is_fetched_side_by_side(world):
    world.cache(limits={"unlikely_shared": 0.01})
    world.answer = ok("no-store")
    world.ask(target="/known")
    world.answer = meeting(world, 1 + 20)
    assert [answer.text for answer in at_once(world, 20)] == [b"hello"] * 20


def test_a_few_do_not_wait_long_on_a_route_that_is_new(world, monkeypatch):
    """The first answer comes when all have asked."""
    world.cache(limits={"unknown": 0.01})
    world.answer = meeting(world, 20)
    assert [answer.text for answer in at_once(world, 20)] == [b"hello"] * 20


PATIENCE = 0.01                 # seconds


class Watch(MonotonicClock):
    """The real clock; ``patient`` are those that have waited by it for longer than PATIENCE at once."""

    def __init__(self):
        self.patient = set()

    def wait(self, event, seconds):
        if seconds > PATIENCE:
            self.patient.add(gevent.getcurrent())
        return super().wait(event, seconds)


def test_a_crowd_waits_on_a_route_that_is_new(world):
    clock = Watch()
    world.cache(flights=Flights(clock, WaitLimits(unknown=PATIENCE)))

    def slow(request):
        until(lambda: len(clock.patient) >= 99)
        return ok()

    world.answer = slow
    assert {answer.text for answer in at_once(world, 100)} == {b"hello"} and len(world.seen) == 1


def test_one_sharable_answer_gives_hope(world):
    clock = Watch()
    world.cache(flights=Flights(clock, WaitLimits(unlikely_shared=PATIENCE)))
    world.answer = ok("no-store")
    world.ask(target="/known")
    world.answer = ok()
    world.ask(target="/stored")

    def slow(request):
        until(lambda: len(clock.patient) == 99)
        return ok()

    world.answer = slow
    assert {answer.text for answer in at_once(world, 100)} == {b"hello"} and len(world.seen) == 3


@pytest.mark.parametrize("company", [0, 1, 2, 5])
def test_doubt_costs_no_more_than_some_company(world, company):
    """The answer turns out to be for all."""
    clock = Watch()
    world.cache(flights=Flights(clock, WaitLimits(unlikely_shared=PATIENCE, max_parallel=company)))
    world.answer = ok("no-store")
    world.ask(target="/known")

    def slow(request):
        until(lambda: len(clock.patient) == 99 - company)
        return ok()

    world.answer = slow
    assert {answer.text for answer in at_once(world, 100)} == {b"hello"}
    assert len(world.seen) == 1 + 1 + company


def test_a_quick_answer_leaves_no_time_for_doubt(world):
    world.answer = ok("no-store")
    world.ask(target="/known")

    def quick(request):
        gevent.sleep(0)
        return ok()

    world.answer = quick
    assert {answer.text for answer in at_once(world, 100)} == {b"hello"} and len(world.seen) == 2


def test_who_shows_himself_casts_no_doubt_on_strangers(world):
    world.answer = ok("private")
    world.ask(("Cookie", "sid=1"), target="/own")
    predictor = world.step.fetch.predictor
    assert predictor.doubtful(COOKIE) and not predictor.doubtful(0)


def test_what_a_known_key_turns_into_says_nothing_about_new_ones(world):
    world.ask()
    world.cache()                                        # another worker, which finds it stored
    world.answer = ok("no-store")
    world.ask(("Cache-Control", "no-cache"))
    predictor = world.step.fetch.predictor
    assert not predictor.worth_waiting("http://shop.test/a") and not predictor.doubtful(0)


def test_an_uncacheable_answer_sets_the_others_free_with_its_head(world):
    """Its body goes on and on."""
    go = Event()

    class Endless(Stream):
        def __iter__(self):
            assert go.wait(SAFETY)
            yield b"hello"

    def answer(request):
        settle()
        if len(world.seen) == 5:
            go.set()
        return ok("no-store", Endless())

    world.answer = answer
    assert [answer.text for answer in at_once(world, 5)] == [b"hello"] * 5


@pytest.mark.parametrize("status, cc, learned", [
    (200, "no-store", True), (200, "private", True), (302, "", True), (500, "", False), (503, "no-store", False),
    (400, "", False), (404, "", False), (429, "no-cache, private", False)])
def test_an_error_says_nothing_about_the_next_answer(world, status, cc, learned):
    world.answer = ok(cc, status=status)
    world.ask()
    predictor = world.step.fetch.predictor
    assert predictor.worth_waiting("http://shop.test/a") is not learned and predictor.doubtful(0) is learned


@pytest.mark.parametrize("status, left", [(400, True), (429, True), (431, True), (501, True), (403, False), (404, False),
                                          (410, False)])
def test_what_is_odd_about_one_request_takes_nothing_from_the_others(world, status, left):
    world.ask()
    world.answer = ok("", b"odd", status)
    assert world.ask(("Cache-Control", "no-cache")).text == b"odd"
    assert (world.store.get("http://shop.test/a") is not None) is left


# -- min_uses

def test_those_who_wait_count_as_uses(world):
    world.cache({"min_uses": 3})

    def slow(request):
        settle()
        return ok()

    world.answer = slow
    assert {answer.text for answer in at_once(world, 100)} == {b"hello"} and len(world.seen) == 1
    assert status_of(world.ask()) == ["wicketgate; hit; ttl=60"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("uses, stored", [(2, True), (3, False), (4, False)])
def test_what_is_not_used_enough_is_for_those_who_wait_alone(world, streamed, uses, stored):
    world.cache({"min_uses": uses, "explain": True})

    def slow(request):
        settle()
        return ok(body=Stream(b"hel", b"lo") if streamed else b"hello")

    world.answer = slow
    answers = at_once(world, 2)
    assert [answer.text for answer in answers] == [b"hello"] * 2 and len(world.seen) == 1
    assert "collapsed" in status_of(answers[1])[0]
    assert ("stored" in status_of(answers[0])[0], 'detail="uses"' in status_of(answers[0])[0]) == (stored, not stored)
    assert (world.store.get("http://shop.test/a") is not None) is stored
    assert world.count("gateway_cache_refused_total", reason="uses") == (not stored)


def test_what_was_purged_meanwhile_is_not_for_those_who_wait_either(world):
    world.cache({"min_uses": 9})
    go = Event()

    def slow(request):
        number = len(world.seen)
        if number == 1:
            assert go.wait(SAFETY)
        return ok(body=str(number).encode())

    world.answer = slow
    before = gevent.spawn(world.ask)
    gevent.sleep(0)
    world.store.purger.purge(url="http://shop.test/a")
    after = gevent.spawn(world.ask)
    gevent.sleep(0)
    go.set()
    assert (before.get(timeout=SAFETY).text, after.get(timeout=SAFETY).text) == (b"1", b"2")
