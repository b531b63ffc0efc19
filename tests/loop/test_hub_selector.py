"""The hub as a selector, and the queue that is given out a few at a time."""

from __future__ import annotations

import selectors
import socket

import gevent
import pytest
from gevent import get_hub
from gevent.event import Event

from gateway.loop.hub_selector import MOST, TURN, HubSelector, ReadyQueue

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@pytest.fixture
def selector():
    made = HubSelector(get_hub(), ReadyQueue(), turn=0)
    yield made
    made.close()


@pytest.fixture
def pair():
    ends = socket.socketpair()
    yield ends
    for each in ends:
        each.close()


def turns(count: int) -> None:
    for _ in range(count):
        gevent.sleep(0.001)                              # one poll of the hub at least


def reported(selector: HubSelector, timeout: float | None = 0) -> dict[int, int]:
    return {key.fd: events for key, events in selector.select(timeout)}


def test_it_reports_what_is_ready_each_time_as_epoll_does(selector, pair):
    one, other = pair
    selector.register(one, READ | WRITE, "data")
    assert reported(selector) == {one.fileno(): WRITE}
    other.send(b"x")
    for _ in range(3):
        assert reported(selector) == {one.fileno(): READ | WRITE}
    assert selector.get_key(one).data == "data"


def test_it_lets_others_run_until_something_is_ready(selector, pair):
    one, other = pair
    selector.register(one, READ)
    gevent.spawn(other.send, b"x")
    assert reported(selector, None) == {one.fileno(): READ}


def test_other_events_make_another_watcher_and_other_data_do_not(selector, pair):
    one, other = pair
    selector.register(one, READ, "a")
    watcher = selector._watchers[one.fileno()]
    selector.modify(one, READ, "b")
    assert selector._watchers[one.fileno()] is watcher and selector.get_key(one).data == "b"
    selector.modify(one, WRITE, "c")
    assert reported(selector) == {one.fileno(): WRITE} and not watcher.active


def test_what_has_been_unregistered_is_not_reported(selector, pair):
    one, other = pair
    other.send(b"x")
    selector.register(one, READ)
    turns(2)
    selector.unregister(one)
    assert reported(selector) == {}


def test_a_ready_descriptor_does_not_fire_in_each_turn_while_nobody_selects(selector, pair):
    one, other = pair
    selector.register(one, READ)
    other.send(b"x")
    turns(3)
    assert not selector._watchers[one.fileno()].active
    assert reported(selector) == {one.fileno(): READ}
    assert reported(selector) == {one.fileno(): READ}    # it is watched again


def test_a_poke_ends_the_wait(selector):
    began, ended = Event(), Event()

    def wait():
        began.set()
        selector.select(None)
        ended.set()

    greenlet = gevent.spawn(wait)
    began.wait()
    assert selector.is_waiting
    selector.poke()
    assert ended.wait(60) and not selector.is_waiting
    greenlet.join()


def test_a_turn_goes_on_before_others_have_theirs():
    """With nothing to wait for, the hub is not asked each time."""
    others = []
    selector = HubSelector(get_hub(), ReadyQueue(), turn=1e9)
    selector._since = 0.0
    greenlet = gevent.spawn(others.append, 1)
    selector.select(0)
    assert others == []
    greenlet.join()
    selector.close()


@pytest.mark.parametrize("number, few, length, cut", [
    (0, 2, 0, False), (1, 2, 1, False), (2, 2, 2, False), (3, 2, 2, True), (3, 1, 1, True)])
def test_the_queue_says_a_few_of_many(number, few, length, cut):
    queue = ReadyQueue(range(number))
    queue.few = few
    assert (len(queue), queue.is_cut, bool(queue), list(queue)) == (length, cut, number > 0, [*range(number)])
    queue.is_whole = True
    assert (len(queue), queue.is_cut) == (number, False)


def test_a_slow_turn_makes_them_fewer_and_quick_ones_more():
    queue = ReadyQueue()
    for _ in range(10):
        queue.adapt(TURN, TURN)
    assert queue.few == MOST
    for _ in range(10):
        queue.adapt(3 * TURN, TURN)
    assert queue.few == 1
    queue.adapt(0.0, TURN)
    assert queue.few == 2
