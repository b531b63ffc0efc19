"""Coalescing on a virtual clock: hundreds of seconds of requests for a few keys, with answers for several and for one, streams, and
upstreams that fail or take too long, clients that leave among them.

A simulation is one seed. Whatever happens in it, the invariants hold; the same seed gives the same events, and each fault that is
planted is seen.
"""

from __future__ import annotations

import random

import gevent
import pytest
from asking import DictStore

from gateway.cache.admission import Admission
from gateway.cache.coalesce import Flight, Flights, FlightState
from gateway.cache.predictor import Predictor
from gateway.cache.step import CacheStep
from gateway.config import CacheSettings
from gateway.deadline import Deadline
from gateway.errors import ClientDisconnected, DeadlineExceeded, GatewayError, UpstreamClosed
from gateway.message import Request, Response
from gateway.telemetry.metrics import Registry
from tests.clocks import VirtualClock
from tests.compiled import COMPILED

SECONDS = 100.0
RATE = 40.0                                              # requests a second
EPSILON = 1e-6
KEYS = {"/shared": "max-age=2", "/streamed": "max-age=2", "/private": "no-cache", "/failing": "max-age=2", "/slow": "max-age=2"}


class Simulation:
    """``violations`` of the invariants, and the ``trace`` of all that happened."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.clock = VirtualClock()
        self.step = CacheStep(self.upstream, CacheSettings(), DictStore(), counter=Registry().counter, clock=self.clock.now,
                              ahead=lambda: 0.0, flights=Flights(self.clock))
        self.fetching = dict.fromkeys(KEYS, 0)
        self.ends = {key: set() for key in KEYS}         # when a fetch came to something
        self.stored = set()                              # keys of which an answer has been stored
        self.trace, self.violations = [], []
        self.number = 0

    def run(self):
        self.clock.call_later(0.0, self.next_request)
        self.clock.run(SECONDS + 60.0)
        self.check(not self.step.fetch.flights.flying, "a flight has not landed")
        return self

    def next_request(self):
        if self.clock.now() < 1000.0 + SECONDS:
            self.number += 1
            gevent.spawn(self.request, self.number, self.random.choice(list(KEYS)), self.random.uniform(0.5, 3.0))
            self.clock.call_later(self.random.expovariate(RATE), self.next_request)

    def request(self, number, key, seconds):
        request = Request("GET", key, [("X-Number", str(number))], host="shop.test", deadline=Deadline(seconds, self.clock.now))
        end = self.clock.now() + seconds + EPSILON
        try:
            response = self.step(request)
            self.check(self.clock.now() <= end, f"{number} got an answer after its deadline")
            body = response.body if isinstance(response.body, bytes) else self.take(response.body)
            self.check(body.startswith(key.encode()), f"{key} got {body!r}")
            self.check(key != "/private" or body == f"{key} {number}".encode(), f"{number} got what was made for another: {body!r}")
            what = request.notes["cache"]
            self.check(what != "collapsed" or self.clock.now() in self.ends[key], f"{number} waited after {key} was there")
        except GatewayError as error:
            what = error.code
            self.check(self.clock.now() <= end, f"{number} got an error after its deadline")
        self.trace.append((self.clock.now(), number, key, what))

    def take(self, stream):
        """Read a stream as a client does."""
        pieces = []
        try:
            for piece in stream:
                pieces.append(piece)
        finally:
            stream.close()
        return b"".join(pieces)

    def upstream(self, request):
        key, number = request.path, request.header("X-Number")
        self.fetching[key] += 1
        self.check(self.fetching[key] <= 1 or key != "/shared" or key not in self.stored, f"two fetches of {key} at once")
        try:
            return self.answer(request, key, number)
        finally:
            self.fetching[key] -= 1
            self.ends[key].add(self.clock.now())

    def answer(self, request, key, number):
        seconds = self.random.expovariate(1.0 if key == "/slow" else 5.0)
        left = request.deadline.left()
        self.clock.sleep(min(seconds, left))
        if seconds >= left:
            raise DeadlineExceeded("over")
        if self.random.random() < (0.4 if key == "/failing" else 0.0):
            raise self.random.choice((UpstreamClosed, ClientDisconnected))("gone")
        self.stored.add(key)
        body = f"{key} {number}".encode()
        headers = [("Cache-Control", KEYS[key]), ("ETag", f'"{number}"')]
        return Response(200, headers, Pieces(self, key, body) if key == "/streamed" else body)

    def check(self, holds, text):
        if not holds:
            self.violations.append(f"at {self.clock.now():.3f}: {text}")


class Pieces:
    """A body whose second half comes later."""

    def __init__(self, simulation, key, body):
        self.simulation, self.key, self.body = simulation, key, body

    def __iter__(self):
        yield self.body[:5]
        self.simulation.clock.sleep(self.simulation.random.uniform(0.0, 0.2))
        self.simulation.ends[self.key].add(self.simulation.clock.now())
        yield self.body[5:]

    def close(self):
        pass


@pytest.mark.parametrize("seed", range(5))
def test_the_invariants_hold(seed):
    simulation = Simulation(seed).run()
    assert simulation.violations == [] and len(simulation.trace) == simulation.number > SECONDS * RATE / 2
    assert {what for _, _, _, what in simulation.trace} >= {
        "hit", "uri-miss", "stale", "collapsed", "stale-if-error", "client_disconnected", "deadline_exceeded"}


def test_a_seed_gives_the_same_events():
    assert Simulation(7).run().trace == Simulation(7).run().trace


def wakes_nobody(flight, state, value=None):
    flight.state, flight.value = state, value


def never_lands(land):
    abandoned = FlightState.ABANDONED
    return lambda flights, flight, state, value=None: None if state is abandoned else land(flights, flight, state, value)


@pytest.mark.skipif(COMPILED, reason="no method of a compiled class can be replaced")
@pytest.mark.parametrize("where, name, fault, words", [
    (Flight, "land", wakes_nobody, "waited after"),
    (Flights, "land", never_lands(Flights.land), "has not landed"),
    (Admission, "_sharable", lambda admission, entry: True, "made for another"),
    (Predictor, "worth_waiting", lambda predictor, key: False, "two fetches"),
    (Flight, "wait", lambda flight, deadline, patience=0.0: (flight.clock.sleep(5.0), flight.state)[1], "after its deadline"),
])
def test_a_planted_fault_is_seen(monkeypatch, where, name, fault, words):
    monkeypatch.setattr(where, name, fault)
    violations = Simulation(1).run().violations
    assert any(words in violation for violation in violations), violations[:5]
