"""Request coalescing (single-flight): concurrent requests for one key cause one request to the upstream.

The first request that misses leads a Flight; those that arrive meanwhile follow it, each at most until its own deadline::

    FLYING --> STORED       followers get the entry, if they may have it
           --> UNCACHEABLE  followers fetch in parallel, as soon as the head of the response is here; the key is remembered, so
                            that later requests do not wait at all
           --> FAILED       followers get the error
           --> ABANDONED    the outcome says nothing about the next one (the leader's client left, its deadline passed, the answer
                            was purged meanwhile): one of the followers leads the next flight

A leader whose response is streamed lands when its client, which may be slow, has received it. ``stream`` seconds after the head
of that response a follower leads a flight of its own; after two such flights it fetches alone.

Whether a response is shared is only known when its head is here. Waiting for one that is not shared doubles the latency, and not
waiting for one that is multiplies the requests. The history of the key decides (predictor.py), and ``WaitLimits`` has the times:

===================================  ==========================================================================================
key                                  followers
===================================  ==========================================================================================
whose last answer was not shared     do not wait
new, of a kind ...
... of which one was shared          wait
... without history                  wait for ``unknown``; then at most ``small_crowd`` fetch beside the leader, more wait on
... of which none was shared         wait for ``unlikely_shared``; then ``max_parallel`` fetch beside the leader, the rest waits on
===================================  ==========================================================================================

Nothing here depends on HTTP. A Flights belongs to one route in one worker; across workers the leases of the store coalesce.
Followers wait by ``clock``, and by the deadline of each.
"""


from __future__ import annotations

from enum import Enum
from math import inf
from typing import Any, NamedTuple

from ..deadline import Deadline
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..tasks import Event


class FlightState(Enum):
    """The state of a flight, as above."""

    FLYING = "flying"
    STORED = "stored"
    UNCACHEABLE = "uncacheable"
    FAILED = "failed"
    ABANDONED = "abandoned"


class WaitLimits(NamedTuple):
    """How long followers wait, in seconds: ``stream`` for the rest of a streamed response, ``unlikely_shared`` for one that is
    unlikely to be shared, ``unknown`` for one without history, ``lease`` for another worker. ``max_parallel`` is the number of
    followers that fetch beside the leader when sharing is unlikely, ``small_crowd`` that of additional requests that an upstream
    can serve once, for a new route."""

    stream: float = 1.0
    unlikely_shared: float = 0.25
    unknown: float = 0.5
    lease: float = 10.0
    max_parallel: int = 64
    small_crowd: int = 24


class Flight:
    """One fetch with its followers. ``value`` is the entry when STORED, the error when FAILED. ``lease`` keeps other workers
    waiting. ``crowd`` is the number of followers so far, ``parallel`` that of those that fetch beside the leader; ``demand`` is set
    when the first one waits."""

    __slots__ = ("key", "state", "value", "lease", "crowd", "parallel", "demand", "clock", "patience", "_landing", "_until")

    def __init__(self, key: Any, clock: MonotonicClock = CLOCK, patience: float = WaitLimits().stream) -> None:
        self.key = key
        self.clock = clock
        self.patience = patience
        self.state = FlightState.FLYING
        self.value: Any = None
        self.lease: Any = None
        self.crowd = 0
        self.parallel = 0
        self.demand = Event()
        self._landing = Event()
        self._until = inf

    @property
    def streaming(self) -> bool:
        """Is the response being streamed to the leader's client?"""
        return self._until != inf

    def stream(self) -> None:
        """Limit the wait of followers to ``patience`` seconds from now: the rest depends on how fast the leader's client reads."""
        self._until = self.clock.now() + self.patience
        if self.lease is not None:
            self.lease.extend(self.patience)

    def land(self, state: FlightState, value: Any = None) -> None:
        self.state, self.value = state, value
        self._landing.set()
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release(state is FlightState.STORED)

    def wait(self, deadline: Deadline, patience: float = inf) -> FlightState:
        """Wait until the flight has landed, and return its state; FLYING when ``patience`` is over, or the limit for a streamed
        response. Raises DeadlineExceeded."""
        until = self.clock.now() + patience
        self.demand.set()
        while self.state is FlightState.FLYING and (left := min(until, self._until) - self.clock.now()) > 0:
            self.clock.wait(self._landing, min(deadline.left(), left, self.patience))
        return self.state

    def __repr__(self) -> str:
        return f"Flight({self.key!r}, {self.state.value})"


class Flights:
    """The flights in progress, by key."""

    def __init__(self, clock: MonotonicClock = CLOCK, limits: WaitLimits = WaitLimits()) -> None:
        self.clock = clock
        self.limits = limits
        self.flying: dict[Any, Flight] = {}

    def lead(self, key: Any) -> Flight:
        """Start a flight, replacing one of the same key that takes too long. The caller must land it."""
        flight = self.flying[key] = Flight(key, self.clock, self.limits.stream)
        return flight

    def land(self, flight: Flight | None, state: FlightState, value: Any = None) -> None:
        """End the flight with this state, and wake its followers. Only the first call has an effect; none for None."""
        if flight is not None and flight.state is FlightState.FLYING:
            if self.flying.get(flight.key) is flight:
                del self.flying[flight.key]
            flight.land(state, value)

    def __repr__(self) -> str:
        return f"Flights({len(self.flying)} flying)"
