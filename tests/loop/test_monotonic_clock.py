"""The real clock, and that the clocks of tests behave alike."""

from __future__ import annotations

from time import monotonic

import gevent
import pytest
from gevent.event import AsyncResult, Event

from gateway.loop.monotonic_clock import CLOCK
from tests.clocks import VirtualClock


class Late(Exception):
    pass


class Ring:
    def __init__(self) -> None:
        self.times = 0

    def ring(self) -> None:
        self.times += 1


def settle(clock, greenlet):
    """Let the greenlet end; on a virtual clock, time must pass for that."""
    if isinstance(clock, VirtualClock):
        clock.run(1.0)
    greenlet.join(timeout=10)
    return greenlet.get(block=False)


@pytest.fixture(params=["real", "virtual"])
def clock(request):
    return CLOCK if request.param == "real" else VirtualClock()


@pytest.mark.parametrize("make", [Event, AsyncResult])
def test_a_wait_says_whether_the_event_has_come(clock, make):
    event = make()
    assert settle(clock, gevent.spawn(clock.wait, event, 0.001)) is False
    waiting = [gevent.spawn(clock.wait, event, seconds) for seconds in (30.0, None)]
    gevent.idle()
    event.set()
    assert [settle(clock, each) for each in waiting] == [True, True]
    assert clock.wait(event, 0.0) is True


def test_sleep_takes_its_time(clock):
    begun = clock.now()
    settle(clock, gevent.spawn(clock.sleep, 0.01))
    assert clock.now() - begun >= 0.01


def test_an_alarm_rings_once_unless_it_is_stopped(clock):
    ring, silent = Ring(), Ring()
    alarm, stopped = clock.alarm(), clock.alarm()
    for each, function in ((alarm, ring.ring), (stopped, silent.ring)):
        each.set(0.001, function)
        each.set(30.0, function)                         # it is set already
    stopped.stop()
    settle(clock, gevent.spawn(clock.sleep, 0.05))
    assert (ring.times, silent.times, stopped.is_set) == (1, 0, False)


def test_a_time_limit_ends_its_block(clock):
    def block(limit, seconds):
        with clock.time_limit(limit, Late()):
            clock.sleep(seconds)
        return "in time"

    assert settle(clock, gevent.spawn(block, 30.0, 0.01)) == "in time"
    greenlet = gevent.spawn(block, 0.001, 30.0)
    with pytest.raises(Late):
        settle(clock, greenlet)


def test_the_real_clock_is_monotonic_and_virtual_time_costs_none():
    assert CLOCK.now() <= monotonic()
    clock = VirtualClock(5.0)
    begun = monotonic()
    clock.run(1e9)
    assert clock.now() == 5.0 + 1e9 and monotonic() - begun < 60
