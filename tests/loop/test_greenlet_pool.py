"""Tasks in parked greenlets: each ends before the wait of its group does, and nothing of one is left in the next."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial

import gevent
import pytest
from gevent.event import Event

from gateway.loop.greenlet_pool import GreenletPool, TaskGroup, greenlet_pool_of

name: ContextVar[str] = ContextVar("name", default="nobody")


@pytest.fixture(autouse=True)
def parked():
    """Those of this loop; none runs before or after."""
    greenlets = greenlet_pool_of(gevent.get_hub()).idle
    greenlets.clear()
    yield greenlets
    assert all(not each.running and each.group is None for each in greenlets)


def test_tasks_run_beside_and_are_waited_for(parked):
    done, group = [], TaskGroup()
    for number in range(3):
        group.start(partial(done.append, number))
    assert not done
    group.wait()
    assert sorted(done) == [0, 1, 2] and len(parked) == 3


def test_greenlets_are_used_again(parked):
    group, seen = TaskGroup(), set()
    for _ in range(5):
        group.start(lambda: seen.add(gevent.getcurrent()))
        group.wait()
    assert len(seen) == len(parked) == 1


@pytest.mark.parametrize("most", [0, 1, 2])
def test_no_more_are_parked_than_allowed(most):
    pool = GreenletPool(gevent.get_hub(), most)
    group = TaskGroup(pool)
    for _ in range(5):
        group.start(lambda: None)
    group.wait()
    assert len(pool.idle) == most


def test_a_task_sees_its_makers_context_and_leaves_nothing_for_the_next():
    seen, group = [], TaskGroup()

    def task() -> None:
        seen.append(name.get())
        name.set("task")

    token = name.set("maker")
    group.start(task)
    name.reset(token)
    group.wait()
    group.start(task)
    group.wait()
    assert seen == ["maker", "nobody"] and name.get() == "nobody"


def test_wait_sees_tasks_that_tasks_start():
    done, group = [], TaskGroup()

    def first() -> None:
        gevent.sleep(0)
        group.start(lambda: done.append("second"))
        done.append("first")

    group.start(first)
    group.wait()
    assert done == ["first", "second"]


def test_cancel_ends_what_waits_with_its_finally_and_skips_what_has_not_begun(parked):
    seen, never, group = [], Event(), TaskGroup()

    def waits() -> None:
        try:
            seen.append("begun")
            never.wait()
        finally:
            seen.append("cleaned up")

    group.start(waits)
    gevent.sleep(0)
    group.start(lambda: seen.append("skipped"))
    group.cancel()
    group.cancel()
    group.wait()
    assert seen == ["begun", "cleaned up"] and len(parked) == 2
    other = TaskGroup()
    other.start(lambda: seen.append("later"))                # the greenlets are well
    other.wait()
    assert seen[-1] == "later"


def test_cancelling_comes_too_late_for_the_next_task_of_the_same_greenlet(parked):
    one, other, done, go_on = TaskGroup(), TaskGroup(), [], Event()
    one.start(gevent.sleep)
    gevent.sleep(0)
    greenlet = next(iter(one._greenlets))
    one.wait()

    def task() -> None:
        go_on.wait()
        done.append(True)

    other.start(task)
    gevent.sleep(0)
    assert next(iter(other._greenlets)) is greenlet
    greenlet.interrupt(one)
    go_on.set()
    other.wait()
    assert done == [True]


def test_who_waits_may_be_ended_and_the_tasks_go_on():
    group, go_on, done = TaskGroup(), Event(), []

    def task() -> None:
        go_on.wait()
        done.append(True)

    group.start(task)
    with gevent.Timeout(0.01, False):
        group.wait()
    assert not done
    go_on.set()
    group.wait()
    assert done == [True]


def test_a_task_that_fails_is_a_defect_that_is_told_and_harms_nobody(parked, monkeypatch):
    reports, group = [], TaskGroup()
    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "handle_error", lambda context, kind, error, traceback: reports.append(kind), raising=False)
    group.start(lambda: 1 / 0)
    group.wait()
    group.start(lambda: None)
    group.wait()
    assert reports == [ZeroDivisionError] and len(parked) == 1


def test_time_limits_hold_in_a_task():
    group, seen = TaskGroup(), []

    def task() -> None:
        with gevent.Timeout(0.01, ValueError("late")):
            try:
                gevent.sleep(60)
            except ValueError:
                seen.append("late")

    group.start(task)
    group.wait()
    assert seen == ["late"]


def test_nothing_begins_after_the_cancelling():
    done, group = [], TaskGroup()
    group.cancel()
    group.start(lambda: done.append(True))
    group.wait()
    assert not done
