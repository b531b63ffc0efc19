"""Flights: who waits for whom, and how each of them ends."""

from __future__ import annotations

import gevent
import pytest

from gateway.cache.coalesce import Flights, Patience, State
from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded


@pytest.mark.parametrize("state", [State.STORED, State.UNCACHEABLE, State.FAILED, State.ABANDONED])
def test_followers_get_what_the_leader_lands_with(state):
    flights = Flights()
    flight = flights.lead("k")
    waiting = [gevent.spawn(flight.wait, Deadline(5)) for _ in range(3)]
    gevent.idle()
    flights.land(flight, state, "value")
    gevent.joinall(waiting, timeout=5)
    assert [one.value for one in waiting] == [state] * 3
    assert flight.value == "value" and flights.flying == {}


def test_only_the_first_landing_counts():
    flights = Flights()
    flight = flights.lead("k")
    flights.land(flight, State.STORED, 1)
    other = flights.lead("k")
    flights.land(flight, State.ABANDONED)
    assert (flight.state, flight.value, flights.flying) == (State.STORED, 1, {"k": other})


def test_a_flight_takes_the_place_of_one_that_takes_too_long():
    flights = Flights()
    slow, quick = flights.lead("k"), flights.lead("k")
    flights.land(slow, State.STORED, 1)
    assert flights.flying == {"k": quick}


def test_nobody_waits_longer_than_its_own_deadline():
    now = [0.0]
    flight = Flights().lead("k")
    deadline = Deadline(5, lambda: now[0])
    now[0] = 5.0
    with pytest.raises(DeadlineExceeded):
        flight.wait(deadline)


class Waiting:
    """A clock that stands still but for the waits of a Signal; ``waits`` are their seconds, and each calls ``during()``."""

    def __init__(self, during=lambda: None):
        self.now = 0.0
        self.waits = []
        self.during = during
        self.turns = 0

    def clock(self):
        return self.now

    def signal(self):
        waiting = self

        class Signal:
            ready = False

            def set(self):
                self.ready = True

            def wait(self, timeout):
                waiting.waits.append(timeout)
                waiting.during()
                waiting.now += 0.0 if self.ready else timeout
                return self.ready
        return Signal()

    def catch_up(self):
        self.turns += 1

    def flights(self, **patience):
        return Flights(self.clock, self.signal, self.catch_up, Patience(**patience))

    def deadline(self, seconds):
        return Deadline(seconds, self.clock)


def test_patience_with_a_streamed_answer_ends():
    waiting = Waiting()
    flight = waiting.flights(streamed=2.0).lead("k")
    flight.stream()
    assert flight.wait(waiting.deadline(5)) is State.FLYING
    assert (waiting.waits, waiting.now, waiting.turns) == ([2.0], 2.0, 1)


def test_patience_begins_with_the_head_also_for_who_waited_before():
    """The follower looks at it at its next round, and then waits for what is left."""
    def head():
        if not flight.streaming:
            waiting.now += 0.5
            flight.stream()
            waiting.now += 0.25

    waiting = Waiting(head)
    flight = waiting.flights(streamed=2.0).lead("k")
    assert flight.wait(waiting.deadline(9)) is State.FLYING
    assert waiting.waits == [2.0] and waiting.now == 2.75           # the head came at 0.5, and 2.5 is over after the first round


@pytest.mark.parametrize("patience, deadline, waits", [
    (0.5, 5, [0.5]), (3.0, 5, [2.0, 1.0]), (0.0, 5, []), (-1.0, 5, []), (3.0, 2.5, [2.0, 0.5])])
def test_a_wait_is_bounded_by_patience_and_deadline(patience, deadline, waits):
    waiting = Waiting()
    flight = waiting.flights(streamed=2.0).lead("k")
    if deadline < patience:
        with pytest.raises(DeadlineExceeded):
            flight.wait(waiting.deadline(deadline), patience)
    else:
        assert flight.wait(waiting.deadline(deadline), patience) is State.FLYING
    assert waiting.waits == waits and waiting.turns == len(waits)


def test_a_flight_that_lands_ends_the_wait_at_once():
    waiting = Waiting(lambda: flights.land(flight, State.STORED, 1))
    flights = waiting.flights()
    flight = flights.lead("k")
    assert flight.wait(waiting.deadline(5)) is State.STORED and (waiting.now, waiting.turns) == (0.0, 0)


def test_the_lease_lasts_no_longer_than_the_patience_with_a_streamed_answer():
    extended = []
    flight = Flights().lead("k")
    flight.stream()                                      # without a lease there is nothing to do
    flight.lease = type("Lease", (), {"extend": lambda self, seconds: extended.append(seconds)})()
    flight.stream()
    assert extended == [Patience().streamed]


def test_a_lease_is_given_back_once_when_the_flight_lands():
    released = []
    flights = Flights()
    flight = flights.lead("k")
    flight.lease = type("Lease", (), {"release": lambda self, stored: released.append(stored)})()
    flights.land(flight, State.STORED)
    flights.land(flight, State.ABANDONED)
    assert released == [True]
