"""What is stored, shared and forgotten, with a store that is a dictionary."""

from __future__ import annotations

import pytest
from asking import DictStore
from stored import entry_of

from gateway.cache.admission import Admission, Uses
from gateway.cache.cache_status import Numbers
from gateway.cache.coalesce import Flights, FlightState
from gateway.cache.entry import Variants
from gateway.cache.fetch_context import FetchContext
from gateway.cache.predictor import Predictor
from gateway.cache.reasons import Decision, NotStored
from gateway.message import Request
from gateway.telemetry.metrics import Registry

NOW = 1000.0
GERMAN = (("accept-language", "de"),)


@pytest.fixture
def admission():
    return admission_of()


def admission_of(enough=1):
    return Admission(DictStore(), Flights(), Predictor(lambda: NOW), Uses(enough), Numbers(Registry().counter, "r"), lambda: NOW)


def context_of(variants=None, *, in_memory=True):
    """A request for which ``variants`` were found; it is about the first of them."""
    context = FetchContext(Request("GET", "/a", []), None, "k", "k", None if variants is None else variants[0], Decision.STALE,
                           False, variants)
    context.in_memory = in_memory
    return context


def counted(admission):
    """What was counted, by its name and reason."""
    [registry] = [admission.numbers.counter.__self__]
    return {(key.name.split("_")[2], dict(key.labels).get("reason", "")): values[key.at]
            for keys, values in [registry.own()] for key in keys if values[key.at] and "requests" not in key.name}


def stored(at=NOW, vary=(), lifetime=60.0):
    return entry_of(at=at, vary=vary, lifetime=lifetime)


@pytest.mark.parametrize("reason, status, forgotten", [
    (NotStored.NO_STORE, 200, True), (NotStored.NO_STORE, 499, True), (NotStored.NO_STORE, 500, False),
    (NotStored.PROVOKED, 400, False), (NotStored.COOKIE, 200, False), (NotStored.AUTHORIZATION, 200, False),
    (NotStored.REQUEST, 200, False), (NotStored.STATUS, 404, True)])
def test_an_answer_that_is_not_stored_may_replace_what_is(admission, reason, status, forgotten):
    old = stored(NOW - 10)
    admission.store.variants["k"] = Variants([old])
    flight = admission.flights.lead("k")
    admission.refuse(context_of(Variants([old])), reason, flight, status)
    assert ("k" in admission.store.variants) is not forgotten
    assert flight.state is FlightState.UNCACHEABLE and counted(admission) == {("refused", reason): 1}


def test_what_is_forgotten_is_the_entry_that_the_request_was_about(admission):
    """Not the other variants, and not what was stored for the same fields while it was under way."""
    old, german, newer = stored(NOW - 10), stored(NOW - 20, GERMAN), stored(NOW - 9)
    admission.store.variants["k"] = Variants([old, german])
    admission.refuse(context_of(Variants([old, german])), NotStored.NO_STORE, None)
    assert admission.store.variants["k"] == (german,)
    admission.store.variants["k"] = Variants([newer, german])
    admission.refuse(context_of(Variants([old, german])), NotStored.NO_STORE, None)
    assert admission.store.variants["k"] == (newer, german) and admission.store.puts == 1


def test_nothing_is_forgotten_of_a_key_of_which_nothing_was_found(admission):
    admission.store.variants["k"] = Variants([stored()])
    admission.refuse(context_of(), NotStored.NO_STORE, None)
    assert "k" in admission.store.variants
    admission.store.variants.clear()
    admission.refuse(context_of(Variants([stored()])), NotStored.NO_STORE, None)     # it was purged meanwhile


@pytest.mark.parametrize("in_memory, others", [(True, 0), (False, 1)])
def test_the_variants_of_a_shared_tier_stay_beside_a_new_one(admission, in_memory, others):
    """They were read when it was looked up. What memory had then and has no more was purged meanwhile."""
    old, german, new = stored(NOW - 10), stored(NOW - 20, GERMAN), stored()
    admission.admit(context_of(Variants([old, german]), in_memory=in_memory), new, NOW, None)
    assert admission.store.variants["k"] == (new, german)[:1 + others]


def test_what_is_in_memory_goes_before_what_was_found(admission):
    german, french, new = stored(NOW - 20, GERMAN), stored(NOW - 20, (("accept-language", "fr"),)), stored()
    admission.store.variants["k"] = Variants([french])
    admission.admit(context_of(Variants([stored(NOW - 10), german]), in_memory=False), new, NOW, None)
    assert admission.store.variants["k"] == (new, french)


@pytest.mark.parametrize("lifetimes, seconds", [((60.0, 30.0), 120.0), ((60.0, 600.0), 660.0)])
def test_a_key_is_stored_as_long_as_one_of_its_variants_is_of_use(admission, lifetimes, seconds):
    new, german = stored(lifetime=lifetimes[0]), stored(vary=GERMAN, lifetime=lifetimes[1])
    admission.store.variants["k"] = Variants([german])
    admission.admit(context_of(), new, NOW, None)
    assert admission.store.seconds == seconds


@pytest.mark.parametrize("lifetime, state, waits", [(60.0, FlightState.STORED, True), (0.0, FlightState.UNCACHEABLE, False)])
def test_followers_get_what_is_fresh(admission, lifetime, state, waits):
    entry, flight = stored(lifetime=lifetime), admission.flights.lead("k")
    assert admission.admit(context_of(), entry, NOW, flight) is entry
    assert (flight.state, flight.value) == (state, entry) and admission.predictor.worth_waiting("k") is waits


def test_what_was_purged_meanwhile_is_for_nobody_else(admission):
    admission.store.made = lambda variants: None
    flight = admission.flights.lead("k")
    assert admission.admit(context_of(), stored(), NOW, flight) is NotStored.PURGED and flight.state is FlightState.ABANDONED
    assert counted(admission) == {("refused", "purged"): 1}


def test_what_was_purged_softly_meanwhile_is_stored_and_for_nobody_else(admission):
    stale = stored(NOW - 100)
    admission.store.made = lambda variants: Variants([stale])
    flight = admission.flights.lead("k")
    assert admission.admit(context_of(), stored(), NOW, flight) is stale and flight.state is FlightState.ABANDONED
    assert counted(admission) == {("stored", ""): 1} and admission.predictor.unknown(0)


@pytest.mark.parametrize("number, result, state", [
    (0, NotStored.USES, FlightState.STORED), (1, NotStored.PURGED, FlightState.ABANDONED)])
def test_what_is_not_requested_often_enough_is_for_those_who_wait_unless_it_was_purged(number, result, state):
    admission = admission_of(enough=2)
    flight, context = admission.flights.lead("k"), context_of()
    admission.store.number = number                      # that of the context is 0
    assert admission.admit(context, stored(), NOW, flight) is result
    assert flight.state is state and admission.store.variants == {}
    assert counted(admission) == {("refused", result): 1}


def test_what_is_stored_already_is_stored_anew_however_seldom_it_is_requested():
    admission, new = admission_of(enough=2), stored()
    assert admission.admit(context_of(Variants([stored(NOW - 10)])), new, NOW, None) is new


@pytest.mark.parametrize("result, status, state, waits", [
    (stored(), 200, FlightState.FLYING, True),
    (stored(lifetime=0.0), 200, FlightState.UNCACHEABLE, False),
    (NotStored.NO_STORE, 200, FlightState.UNCACHEABLE, False),
    (NotStored.NO_STORE, 399, FlightState.UNCACHEABLE, False),
    (NotStored.NO_STORE, 400, FlightState.UNCACHEABLE, True),
    (NotStored.PARTIAL, 206, FlightState.UNCACHEABLE, True),
    (NotStored.CHANGED, 200, FlightState.UNCACHEABLE, True)])
def test_the_head_of_an_answer_lets_followers_go_that_cannot_have_it(admission, result, status, state, waits):
    flight = admission.flights.lead("k")
    admission.announce(context_of(), result, flight, status)
    assert flight.state is state and admission.predictor.worth_waiting("k") is waits
    assert admission.predictor.doubtful(0) is not waits


def test_an_answer_for_a_key_that_is_known_says_nothing_about_new_ones(admission):
    admission.announce(context_of(Variants([stored()])), NotStored.NO_STORE, None, 200)
    assert not admission.predictor.worth_waiting("k") and admission.predictor.unknown(0)


def test_a_body_that_comes_to_no_end_says_nothing(admission):
    flight = admission.flights.lead("k")
    admission.refuse_truncated(context_of(), flight)
    assert flight.state is FlightState.ABANDONED and admission.predictor.worth_waiting("k")
    assert counted(admission) == {("refused", "cut"): 1}


@pytest.mark.parametrize("enough, requests, suffice", [(1, 0, True), (2, 0, False), (2, 1, False), (2, 2, True), (2, 3, True)])
def test_uses(enough, requests, suffice):
    uses = Uses(enough)
    for _ in range(requests):
        uses.count("k")
    assert uses.suffice("k") is suffice


def test_the_keys_that_are_counted_are_bounded():
    uses = Uses(2, most=2)
    for key in "aabc":
        uses.count(key)
    assert [uses.suffice(key) for key in "abc"] == [False, False, False]
    uses.count("b")
    assert uses.suffice("b")                             # it was used last before c
