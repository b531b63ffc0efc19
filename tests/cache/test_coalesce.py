"""Flights: who waits for whom, and how each of them ends."""

from __future__ import annotations

from sys import getrefcount

import gevent
import pytest

from gateway.cache import coalesce
from gateway.cache.admission import Uses
from gateway.cache.coalesce import ABANDONED, FAILED, FLYING, STORED, UNCACHEABLE, Flights
from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded


@pytest.mark.parametrize("state", [STORED, UNCACHEABLE, FAILED, ABANDONED])
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
    flights.land(flight, STORED, 1)
    other = flights.lead("k")
    flights.land(flight, ABANDONED)
    assert (flight.state, flight.value, flights.flying) == (STORED, 1, {"k": other})


def test_a_flight_takes_the_place_of_one_that_takes_too_long():
    flights = Flights()
    slow, quick = flights.lead("k"), flights.lead("k")
    flights.land(slow, STORED, 1)
    assert flights.flying == {"k": quick}


def test_nobody_waits_longer_than_its_own_deadline():
    now = [0.0]
    flight = Flights().lead("k")
    deadline = Deadline(5, lambda: now[0])
    now[0] = 5.0
    with pytest.raises(DeadlineExceeded):
        flight.wait(deadline)


def test_patience_with_a_streamed_answer_ends(monkeypatch):
    monkeypatch.setattr(coalesce, "PATIENCE", 0.001)
    flight = Flights().lead("k")
    flight.stream()
    assert flight.wait(Deadline(5)) == FLYING


def test_patience_begins_with_the_head_also_for_who_waited_before(monkeypatch):
    """The follower looks at it at its next round, and then waits for what is left."""
    monkeypatch.setattr(coalesce, "PATIENCE", 0.05)
    waited = []
    flight = Flights().lead("k")

    class Landed:
        def wait(self, seconds):
            waited.append(seconds)
            if not flight.streaming:
                gevent.sleep(seconds / 2)
                flight.stream()
            gevent.sleep(seconds / 2)

    flight._landed = Landed()
    assert flight.wait(Deadline(5)) == FLYING
    assert len(waited) >= 2 and waited[0] == 0.05 and waited[1] <= 0.05


def test_the_lease_lasts_no_longer_than_the_patience_with_a_streamed_answer():
    extended = []
    flight = Flights().lead("k")
    flight.stream()                                      # without a lease there is nothing to do
    flight.lease = type("Lease", (), {"extend": lambda self, seconds: extended.append(seconds)})()
    flight.stream()
    assert extended == [coalesce.PATIENCE]


def test_doubt_is_over_before_the_flight():
    assert Flights().lead("k").wait(Deadline(5), 0.001) == FLYING


def test_uncacheable_keys_are_not_waited_for_until_it_is_forgotten():
    now = [0.0]
    flights = Flights(lambda: now[0])
    flights.learn("k", False)
    assert (flights.worth_waiting("k"), flights.worth_waiting("other")) == (False, True)
    now[0] = coalesce.UNCACHEABLE_FOR
    assert flights.worth_waiting("k")
    flights.learn("k", False)
    flights.learn("k", True)
    assert flights.worth_waiting("k")


def test_a_lease_is_given_back_once_when_the_flight_lands():
    released = []
    flights = Flights()
    flight = flights.lead("k")
    flight.lease = type("Lease", (), {"release": lambda self, stored: released.append(stored)})()
    flights.land(flight, STORED)
    flights.land(flight, ABANDONED)
    assert released == [True]


def test_rest_after_a_failure():
    now = [0.0]
    flights = Flights(lambda: now[0])
    flights.rest("k", True)
    assert flights.resting("k", True) and not flights.resting("other", True) and not flights.resting("k", False)
    now[0] = coalesce.RESTING_FOR
    assert not flights.resting("k", True)
    flights.rest("k", False)
    flights.learn("k", True)
    assert not flights.resting("k", False)


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(coalesce, "MOST_REMEMBERED", 2)
    flights = Flights()
    for key in "abc":
        flights.rest(key, True)
    assert [flights.resting(key, True) for key in "abc"] == [False, True, True]


def test_long_keys_are_not_held():
    key = "http://shop.test/?" + "x" * 8000
    flights, uses, before = Flights(), Uses(2), getrefcount(key)
    flights.learn(key, False)
    flights.learn((key, 2), False)
    flights.rest(key, True)
    uses.count(key)
    uses.count(key)
    assert getrefcount(key) == before
    assert uses.suffice(key) and flights.resting(key, True)
    assert not flights.worth_waiting(key) and not flights.worth_waiting((key, 2)) and flights.worth_waiting((key, 4))


@pytest.mark.parametrize("outcomes, hopeful, doubtful", [
    ([], False, False),
    ([False], False, True),
    ([True], True, False),
    ([True, False], True, False),
    ([False] * coalesce.RECENT + [True], True, False),
    ([True] + [False] * (coalesce.RECENT - 1), True, False),
    ([True] + [False] * coalesce.RECENT, False, True)])
def test_what_new_keys_were_like(outcomes, hopeful, doubtful):
    flights = Flights()
    for key, outcome in enumerate(outcomes):
        flights.learn(key, outcome, "kind")
    assert (flights.hopeful("kind"), flights.doubtful("kind")) == (hopeful, doubtful)
    assert (flights.hopeful("other"), flights.doubtful("other")) == (False, False)


def test_an_uncacheable_key_counts_once_and_a_known_one_not_at_all():
    flights = Flights()
    flights.learn("hot", True, "kind")
    for _ in range(coalesce.RECENT):
        flights.learn("a", False, "kind")
        flights.learn("b", False)
    assert flights.hopeful("kind")
