"""Jobs in parked greenlets: each ends before its team's wait does, and nothing of one is left in the next."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial

import gevent
import pytest
from gevent.event import Event

from gateway.loop import greenlet_pool as crew
from gateway.loop.greenlet_pool import Team, greenlet_pool_of

name: ContextVar[str] = ContextVar("name", default="nobody")


@pytest.fixture(autouse=True)
def parked():
    """No hand is at work before or after."""
    hands = greenlet_pool_of(gevent.get_hub()).parked
    hands.clear()
    yield hands
    assert all(not hand.at_work and hand.team is None for hand in hands)


def test_jobs_run_beside_and_are_waited_for(parked):
    done, team = [], Team()
    for number in range(3):
        team.start(partial(done.append, number))
    assert not done
    team.wait()
    assert sorted(done) == [0, 1, 2] and len(parked) == 3


def test_hands_are_used_again(parked):
    team, seen = Team(), set()
    for _ in range(5):
        team.start(lambda: seen.add(gevent.getcurrent()))
        team.wait()
    assert len(seen) == len(parked) == 1


def test_no_more_are_parked_than_allowed(parked, monkeypatch):
    monkeypatch.setattr(crew, "MOST", 2)
    team = Team()
    for _ in range(5):
        team.start(lambda: None)
    team.wait()
    assert len(parked) == 2


def test_a_job_sees_its_makers_context_and_leaves_nothing_for_the_next():
    seen, team = [], Team()

    def job() -> None:
        seen.append(name.get())
        name.set("job")

    token = name.set("maker")
    team.start(job)
    name.reset(token)
    team.wait()
    team.start(job)
    team.wait()
    assert seen == ["maker", "nobody"] and name.get() == "nobody"


def test_wait_sees_jobs_that_jobs_start():
    done, team = [], Team()

    def first() -> None:
        gevent.sleep(0)
        team.start(lambda: done.append("second"))
        done.append("first")

    team.start(first)
    team.wait()
    assert done == ["first", "second"]


def test_cancel_ends_what_waits_with_its_finally_and_skips_what_has_not_begun(parked):
    seen, never, team = [], Event(), Team()

    def waits() -> None:
        try:
            seen.append("begun")
            never.wait()
        finally:
            seen.append("cleaned up")

    team.start(waits)
    gevent.sleep(0)
    team.start(lambda: seen.append("skipped"))
    team.cancel()
    team.cancel()
    team.wait()
    assert seen == ["begun", "cleaned up"] and len(parked) == 2
    other = Team()
    other.start(lambda: seen.append("later"))                # the hands are well
    other.wait()
    assert seen[-1] == "later"


def test_cancelling_comes_too_late_for_the_next_job_of_the_same_hand(parked):
    one, other, done, go_on = Team(), Team(), [], Event()
    one.start(gevent.sleep)
    gevent.sleep(0)
    hand = next(iter(one._hands))
    one.wait()

    def job() -> None:
        go_on.wait()
        done.append(True)

    other.start(job)
    gevent.sleep(0)
    assert next(iter(other._hands)) is hand
    hand.throw(one)
    go_on.set()
    other.wait()
    assert done == [True]


def test_who_waits_may_be_ended_and_the_jobs_go_on():
    team, go_on, done = Team(), Event(), []

    def job() -> None:
        go_on.wait()
        done.append(True)

    team.start(job)
    with gevent.Timeout(0.01, False):
        team.wait()
    assert not done
    go_on.set()
    team.wait()
    assert done == [True]


def test_a_job_that_fails_is_a_defect_that_is_told_and_harms_nobody(parked, monkeypatch):
    told, team = [], Team()
    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "handle_error", lambda context, kind, error, traceback: told.append(kind), raising=False)
    team.start(lambda: 1 / 0)
    team.wait()
    team.start(lambda: None)
    team.wait()
    assert told == [ZeroDivisionError] and len(parked) == 1


def test_time_limits_hold_in_a_job():
    team, seen = Team(), []

    def job() -> None:
        with gevent.Timeout(0.01, ValueError("late")):
            try:
                gevent.sleep(60)
            except ValueError:
                seen.append("late")

    team.start(job)
    team.wait()
    assert seen == ["late"]


def test_nothing_begins_after_the_cancelling():
    done, team = [], Team()
    team.cancel()
    team.start(lambda: done.append(True))
    team.wait()
    assert not done
