"""One request goes on and the others wait for its answer: in one worker, with errors, leaders that leave, and purges meanwhile."""

from __future__ import annotations

import time

import gevent
import pytest
from asking import Stream, at_once, ok, settle, status_of
from gevent.event import Event

from gateway.errors import ClientDisconnected, ConnectFailed, DeadlineExceeded, UpstreamClosed
from gateway.message import Request
from tests.waiting import SAFETY, until


@pytest.fixture
def followers(world):
    """``followers()`` is how many wait for what is fetched right now."""
    return lambda: sum(flight.crowd for flight in world.step.fetch.flights.flying.values())


def test_ten_thousand_for_one_cold_key(world, followers):
    def slow(request):
        until(lambda: followers() == 9_999)
        return ok()

    world.answer = slow
    answers = at_once(world, 10_000, deadline=SAFETY)
    assert len(world.seen) == 1
    assert {answer.text for answer in answers} == {b"hello"}
    assert world.count("gateway_cache_requests_total", outcome="collapsed") == 9_999
    assert status_of(answers[-1]) == ["wicketgate; fwd=uri-miss; collapsed"]


def test_an_error_is_for_all_who_waited(world):
    def failing(request):
        settle()
        raise ConnectFailed("refused")

    world.answer = failing
    answers = at_once(world, 10)
    assert [type(answer) for answer in answers] == [ConnectFailed] * 10
    assert len(world.seen) == 1 and world.step.fetch.flights.flying == {}


def test_an_error_that_one_client_may_have_provoked_is_his_alone(world):
    def resetting(request):
        settle()
        if len(world.seen) == 1:
            raise UpstreamClosed("reset")
        return ok()

    world.answer = resetting
    answers = at_once(world, 10)
    assert [type(answer) for answer in answers].count(UpstreamClosed) == 1
    assert [answer.text for answer in answers[1:]] == [b"hello"] * 9 and len(world.seen) == 2


def test_an_upstream_that_fails_twice_is_asked_no_more_for_those_who_waited(world, followers):
    def resetting(request):
        number = len(world.seen)
        until(lambda: followers() == 100 - number)
        raise UpstreamClosed("reset")

    world.answer = resetting
    assert [type(answer) for answer in at_once(world, 100, deadline=SAFETY)] == [UpstreamClosed] * 100
    assert len(world.seen) == 2


def test_leaders_that_leave_do_not_set_the_herd_free(world):
    def leaving(request):
        settle()
        if len(world.seen) <= 4:
            raise ClientDisconnected("gone")
        return ok()

    world.answer = leaving
    answers = at_once(world, 100)
    assert [type(answer) for answer in answers].count(ClientDisconnected) == 4 and len(world.seen) == 5


def test_an_unexpected_error_lets_another_try(world):
    def failing(request):
        settle()
        if len(world.seen) == 1:
            raise RuntimeError("a defect")
        return ok()

    world.answer = failing
    answers = at_once(world, 5)
    assert [type(answer) for answer in answers].count(RuntimeError) == 1
    assert len(world.seen) == 2 and world.step.fetch.flights.flying == {}


@pytest.mark.parametrize("own", [ClientDisconnected("gone"), DeadlineExceeded("its own")])
def test_the_leaders_own_trouble_is_not_the_others(world, own):
    def leaving(request):
        settle()
        if len(world.seen) == 1:
            raise own
        return ok()

    world.answer = leaving
    answers = at_once(world, 5)
    assert answers[0] is own and [answer.text for answer in answers[1:]] == [b"hello"] * 4
    assert len(world.seen) == 2


def test_a_killed_leader_lets_another_try(world):
    def slow(request):
        if len(world.seen) == 1:
            gevent.sleep(SAFETY)
        return ok()

    world.answer = slow
    leader = gevent.spawn(world.ask)
    gevent.sleep(0)
    follower = gevent.spawn(world.ask)
    gevent.sleep(0)
    leader.kill()
    assert follower.get(timeout=SAFETY).text == b"hello" and len(world.seen) == 2


def test_each_waits_no_longer_than_its_own_deadline(world):
    release = Event()

    def slow(request):
        release.wait(SAFETY)
        return ok()

    world.answer = slow
    leader = gevent.spawn(world.ask)
    gevent.sleep(0)
    assert isinstance(at_once(world, 1, deadline=0.05)[0], DeadlineExceeded)
    release.set()
    assert leader.get(timeout=SAFETY).text == b"hello" and len(world.seen) == 1


def test_a_follower_without_time_gets_the_stale_answer(world):
    world.answer = ok("max-age=10, stale-if-error=60")
    world.ask()
    world.offset = 20.0

    def failing(request):
        settle()
        raise ConnectFailed("refused")

    world.answer = failing
    assert [answer.text for answer in at_once(world, 5)] == [b"hello"] * 5
    assert len(world.seen) == 2


def test_uncacheable_answers_are_fetched_side_by_side(world):
    together = Event()
    running = []

    def slow(request):
        running.append(1)
        if len(world.seen) == 1 + 20:
            together.set()
        if len(world.seen) > 1:
            assert together.wait(SAFETY)
        return ok("no-store")

    world.answer = slow
    world.ask()                                          # from here on it is known
    answers = at_once(world, 20)
    assert [answer.text for answer in answers] == [b"hello"] * 20 and len(world.seen) == 21


def test_the_first_uncacheable_answer_costs_one_wait_and_no_more(world):
    together = Event()

    def slow(request):
        if len(world.seen) == 20:
            together.set()
        if len(world.seen) > 1:
            assert together.wait(SAFETY)
        else:
            settle()
        return ok("no-store")

    world.answer = slow
    assert [answer.text for answer in at_once(world, 20)] == [b"hello"] * 20


def test_variants_do_not_wait_for_each_other(world):
    together = Event()

    def slow(request):
        language = request.header("Accept-Language")
        if len(world.seen) == 1:
            settle()
        elif len(world.seen) == 4:
            together.set()
        if len(world.seen) > 1:
            assert together.wait(SAFETY)
        return ok(body=language.encode(), Vary="Accept-Language")

    world.answer = slow
    greenlets = [gevent.spawn(world.ask, ("Accept-Language", name)) for name in ("a", "b", "c", "d") for _ in range(3)]
    gevent.joinall(greenlets, timeout=SAFETY)
    assert [one.value.text for one in greenlets] == [name for name in (b"a", b"b", b"c", b"d") for _ in range(3)]
    assert len(world.seen) == 4


def test_followers_of_a_streamed_answer_get_it_whole(world):
    go = Event()

    class Slow(Stream):
        def __iter__(self):
            yield b"hel"
            go.wait(SAFETY)
            yield b"lo"

    world.answer = lambda request: ok(body=Slow())
    greenlets = [gevent.spawn(world.ask) for _ in range(5)]
    settle()
    go.set()
    gevent.joinall(greenlets, timeout=SAFETY)
    assert [one.value.text for one in greenlets] == [b"hello"] * 5 and len(world.seen) == 1


def test_a_client_that_does_not_read_holds_nobody_up(world):
    world.cache(limits={"stream": 0.01})
    world.answer = lambda request: ok(body=Stream(b"hel", b"lo"))
    slow = world.step(Request("GET", "/a", [], host="shop.test"))        # its body is not taken
    assert world.ask().text == b"hello"
    slow.body.close()
    assert len(world.seen) == 2 and status_of(world.ask()) == ["wicketgate; hit; ttl=60"]


def test_who_comes_after_a_purge_does_not_get_what_was_asked_for_before_it(world):
    go = Event()

    def slow(request):
        number = len(world.seen)
        if number == 1:
            go.wait(SAFETY)
        return ok(body=str(number).encode())

    world.answer = slow
    before = gevent.spawn(world.ask)
    gevent.sleep(0)
    world.store.purger.purge(url="http://shop.test/a")
    world.base = time.time()
    after = gevent.spawn(world.ask)
    gevent.sleep(0)
    go.set()
    assert (before.get(timeout=SAFETY).text, after.get(timeout=SAFETY).text) == (b"1", b"2")
    assert world.ask().text == b"2"


def test_a_purged_answer_covers_no_error_for_who_comes_after_the_purge(world):
    world.answer = ok("max-age=10, stale-if-error=60")
    world.ask()
    world.offset = 20.0
    go = Event()

    def failing(request):
        go.wait(SAFETY)
        return ok("", b"broken", 503)

    world.answer = failing
    before = gevent.spawn(world.ask)
    gevent.sleep(0)
    world.store.purger.purge(url="http://shop.test/a")
    after = gevent.spawn(world.ask)
    gevent.sleep(0)
    go.set()
    assert (before.get(timeout=SAFETY).text, after.get(timeout=SAFETY).text) == (b"hello", b"broken")


def test_requests_with_authorization_do_not_wait_for_each_other(world):
    together = Event()

    def slow(request):
        if len(world.seen) == 5:
            together.set()
        assert together.wait(SAFETY)
        return ok()

    world.answer = slow
    assert [answer.text for answer in at_once(world, 5, ("Authorization", "x"))] == [b"hello"] * 5


def test_parts_and_client_conditions_do_not_make_a_key_uncacheable(world):
    world.answer = ok(status=206, body=b"h")
    world.ask(("Range", "bytes=0-0"))
    assert world.step.fetch.predictor.worth_waiting("http://shop.test/a")
