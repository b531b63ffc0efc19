"""Who waits for a socket is woken by what concerns it, and by nothing else; nobody's waiting costs nothing."""

from __future__ import annotations

from time import monotonic

import gevent
import pytest
from gevent import monkey

from gateway.loop.readiness import RANG, READY, WOKEN, Readable

socketpair = monkey.get_original("socket", "socketpair")


@pytest.fixture
def pair():
    here, there = socketpair()
    here.setblocking(False)
    readable = Readable(here.fileno())
    yield here, there, readable
    readable.close()
    here.close()
    there.close()


def turns(number: int = 5) -> None:
    for _ in range(number):
        gevent.sleep(0.001)                              # the loop looks at sockets only where it may wait


def waiting(readable: Readable, *until: float) -> gevent.Greenlet:
    greenlet = gevent.spawn(readable.wait, *until)
    turns()
    assert not greenlet.dead and readable.is_watched
    return greenlet


def test_what_comes_wakes_who_waits_time_after_time(pair):
    here, there, readable = pair
    for _ in range(3):
        greenlet = waiting(readable)
        there.send(b"x")
        assert greenlet.get(timeout=30) == READY and here.recv(10) == b"x"
        assert readable.is_watched and readable.reader is None


def test_an_end_is_something_to_read(pair):
    here, there, readable = pair
    greenlet = waiting(readable)
    there.close()
    assert greenlet.get(timeout=30) == READY and here.recv(10) == b""


def test_what_comes_while_nobody_waits_ends_the_watching_and_is_there_for_the_next(pair):
    here, there, readable = pair
    readable.watch()
    turns()
    assert readable.is_watched
    there.send(b"x")
    turns()
    assert not readable.is_watched
    assert readable.wait() == READY and here.recv(10) == b"x" and readable.is_watched


def test_unwatched_it_does_not_look(pair):
    here, there, readable = pair
    readable.watch()
    readable.unwatch()
    there.send(b"x")
    turns()
    assert not readable.is_watched and readable.wait() == READY


def test_wake_wakes_who_waits_then_and_nobody_later(pair):
    here, there, readable = pair
    readable.wake()
    greenlet = waiting(readable)
    readable.wake()
    readable.wake()
    assert greenlet.get(timeout=30) == WOKEN
    waiting(readable).kill()


def test_the_alarm_rings_no_earlier_and_is_left_alone_while_it_is_early_enough(pair):
    here, there, readable = pair
    until = monotonic() + 0.02
    assert readable.wait(until) == RANG and monotonic() >= until
    greenlet = waiting(readable, monotonic() + 50)
    alarm = readable._alarm
    there.send(b"x")
    assert greenlet.get(timeout=30) == READY and here.recv(10) == b"x"
    greenlet = waiting(readable, monotonic() + 60)
    assert readable._alarm is alarm                      # it rings too early, which does no harm
    greenlet.kill()
    assert readable.wait(monotonic()) == RANG and readable._alarm is not alarm


def test_what_is_thrown_ends_the_wait(pair):
    here, there, readable = pair
    with pytest.raises(ZeroDivisionError), gevent.Timeout(0.01, ZeroDivisionError()):
        readable.wait()
    assert readable.reader is None
    there.send(b"x")
    assert readable.wait() == READY
