"""Which of the clients that wait are dismissed, by the clock that is passed in."""

from __future__ import annotations

from types import SimpleNamespace

import gevent
import pytest
from gevent.event import Event

from gateway.server.keepalive import Dismissal, WaitingClients
from tests.clocks import ManualClock


class Client(SimpleNamespace):
    """What WaitingClients needs of a client: its greenlet waits until it is dismissed."""

    __hash__ = object.__hash__

    def __init__(self, waiting: WaitingClients, **settings: object) -> None:
        super().__init__(**{"mid_head": False, "request_count": 1, "is_quiet": True, **settings})
        self.greenlet = gevent.spawn(self.wait)
        waiting.enter(self)

    def quiet(self) -> bool:
        return self.is_quiet

    def wait(self) -> str:
        try:
            Event().wait(60)
        except Dismissal:
            return "dismissed"
        return "still there"


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def waiting(clock):
    clients = WaitingClients(clock)
    yield clients
    gevent.killall([client.greenlet for client in clients])


def dismissed(*clients: Client) -> list[bool]:
    for _ in range(3):
        gevent.idle()
    return [client.greenlet.value == "dismissed" for client in clients]


@pytest.mark.parametrize("seconds, expected", [(0, [True, True, True]), (1, [True, True, False]), (2, [True, False, False]),
                                               (3, [False, False, False])])
def test_who_waits_for_too_long(waiting, clock, seconds, expected):
    clients = []
    for _ in range(3):
        clients.append(Client(waiting))
        gevent.idle()
        clock.time += 1.0
    clock.time -= 0.5                                        # they wait for 2.5, 1.5 and 0.5 seconds
    waiting.dismiss_overdue(seconds)
    assert dismissed(*clients) == expected


def test_half_a_head_has_its_time_and_no_more(waiting, clock):
    client = Client(waiting, mid_head=True, is_quiet=False)
    gevent.idle()
    waiting.dismiss_idle(fresh=True)
    assert not waiting.dismiss_longest()
    assert dismissed(client) == [False]
    waiting.dismiss_overdue(0)
    assert dismissed(client) == [True]


@pytest.mark.parametrize("fresh, expected", [(False, [True, False]), (True, [True, True])])
def test_who_never_had_a_request_is_idle_only_at_the_end(waiting, fresh, expected):
    clients = [Client(waiting), Client(waiting, request_count=0)]
    gevent.idle()
    waiting.dismiss_idle(fresh)
    assert dismissed(*clients) == expected


def test_room_is_made_by_the_one_that_has_been_quiet_for_longest(waiting):
    clients = [Client(waiting, is_quiet=False), Client(waiting), Client(waiting)]
    gevent.idle()
    assert waiting.dismiss_longest()
    assert dismissed(*clients) == [False, True, False]


@pytest.mark.parametrize("change", [lambda waiting, client: waiting.leave(client), lambda waiting, client: waiting.enter(client),
                                    lambda waiting, client: setattr(client, "is_quiet", False)])
def test_a_wait_that_has_ended_meanwhile_is_left_alone(waiting, clock, change):
    """Dismissing looks again, in the hub."""
    client = Client(waiting)
    gevent.idle()
    clock.time += 1.0
    waiting.dismiss_idle()
    change(waiting, client)
    assert dismissed(client) == [False]
    client.greenlet.kill()
