"""Flights: who waits for whom, and how each of them ends."""

from __future__ import annotations

import gevent
import pytest

from gateway.cache.coalesce import Flights, FlightState, WaitLimits
from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded
from gateway.loop.monotonic_clock import MonotonicClock


@pytest.mark.parametrize("state", [FlightState.STORED, FlightState.UNCACHEABLE, FlightState.FAILED, FlightState.ABANDONED])
def test_followers_get_what_the_leader_lands_with(state):
    flights = Flights()
    flight = flights.lead("k")
    waiting = [gevent.spawn(flight.wait, Deadline(30)) for _ in range(3)]
    gevent.idle()
    flights.land(flight, state, "value")
    gevent.joinall(waiting, timeout=30)
    assert [one.value for one in waiting] == [state] * 3
    assert flight.value == "value" and flights.flying == {}


def test_only_the_first_landing_counts():
    flights = Flights()
    flight = flights.lead("k")
    flights.land(flight, FlightState.STORED, 1)
    other = flights.lead("k")
    flights.land(flight, FlightState.ABANDONED)
    assert (flight.state, flight.value, flights.flying) == (FlightState.STORED, 1, {"k": other})


def test_a_flight_takes_the_place_of_one_that_takes_too_long():
    flights = Flights()
    slow, quick = flights.lead("k"), flights.lead("k")
    flights.land(slow, FlightState.STORED, 1)
    assert flights.flying == {"k": quick}


def test_nobody_waits_longer_than_its_own_deadline():
    now = [0.0]
    flight = Flights().lead("k")
    deadline = Deadline(5, lambda: now[0])
    now[0] = 5.0
    with pytest.raises(DeadlineExceeded):
        flight.wait(deadline)


class WaitingClock(MonotonicClock):
    """A clock that stands still but for the waits by it: ``waits`` are their seconds, and each calls ``during()``."""

    def __init__(self, during=lambda: None):
        self.time = 0.0
        self.waits = []
        self.during = during

    def now(self):
        return self.time

    def wait(self, event, seconds):
        self.waits.append(seconds)
        self.during()
        self.time += 0.0 if event.ready() else seconds
        return event.ready()

    def flight(self, **patience):
        return Flights(self, WaitLimits(**patience)).lead("k")

    def deadline(self, seconds):
        return Deadline(seconds, self.now)


def test_patience_with_a_streamed_answer_ends():
    clock = WaitingClock()
    flight = clock.flight(stream=2.0)
    flight.stream()
    assert flight.wait(clock.deadline(5)) is FlightState.FLYING
    assert (clock.waits, clock.time) == ([2.0], 2.0)


def test_patience_begins_with_the_head_also_for_who_waited_before():
    """The follower looks at it at its next round, and then waits for what is left."""
    def head():
        if clock.time == 2.0:                            # the second round
            clock.time += 0.5
            flight.stream()

    clock = WaitingClock(head)
    flight = clock.flight(stream=2.0)
    assert flight.wait(clock.deadline(9)) is FlightState.FLYING
    assert clock.waits == [2.0, 2.0] and clock.time == 4.5


@pytest.mark.parametrize("patience, deadline, waits", [
    (0.5, 5, [0.5]), (3.0, 5, [2.0, 1.0]), (0.0, 5, []), (-1.0, 5, []), (3.0, 2.5, [2.0, 0.5])])
def test_a_wait_is_bounded_by_patience_and_deadline(patience, deadline, waits):
    clock = WaitingClock()
    flight = clock.flight(stream=2.0)
    if deadline < patience:
        with pytest.raises(DeadlineExceeded):
            flight.wait(clock.deadline(deadline), patience)
    else:
        assert flight.wait(clock.deadline(deadline), patience) is FlightState.FLYING
    assert clock.waits == waits


def test_a_flight_that_lands_ends_the_wait_at_once():
    clock = WaitingClock(lambda: flight.land(FlightState.STORED, 1))
    flight = clock.flight()
    assert flight.wait(clock.deadline(5)) is FlightState.STORED and clock.time == 0.0


def test_a_flight_that_begins_is_followed_and_wanted_by_nobody():
    flight = WaitingClock().flight()
    assert (flight.crowd, flight.parallel, flight.streaming, flight.demand.is_set()) == (0, 0, False, False)
    flight.wait(Deadline(5), 0.0)
    assert flight.demand.is_set()                        # who refreshes in no hurry looks at once from now on
    flight.stream()
    assert flight.streaming


def test_the_lease_lasts_no_longer_than_the_patience_with_a_streamed_answer():
    extended = []
    flight = Flights().lead("k")
    flight.stream()                                      # without a lease there is nothing to do
    flight.lease = type("Lease", (), {"extend": lambda self, seconds: extended.append(seconds)})()
    flight.stream()
    assert extended == [WaitLimits().stream]


def test_a_lease_is_given_back_once_when_the_flight_lands():
    released = []
    flights = Flights()
    flight = flights.lead("k")
    flight.lease = type("Lease", (), {"release": lambda self, stored: released.append(stored)})()
    flights.land(flight, FlightState.STORED)
    flights.land(flight, FlightState.ABANDONED)
    assert released == [True]
