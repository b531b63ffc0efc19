"""Request coalescing (single-flight): many requests for one thing, one request to the upstream.

The first request that misses leads a Flight; those that come meanwhile follow it, each no longer than its own deadline::

    FLYING --> STORED       they get the entry, when it is one that they may have
           --> UNCACHEABLE  each fetches for itself, all at once, as soon as the head says so; the key is remembered, so that the
                            next ones do not wait at all
           --> FAILED       they get the error
           --> ABANDONED    it says nothing about the next one (the leader's client left, its own time was over, what it got was
                            purged meanwhile): one of them leads the next flight

A leader whose answer is streamed lands when it has sent it to its client, which may be slow: ``stream`` seconds after the head of
that answer a follower leads a flight of its own, and after two of those it fetches alone.

Whether an answer is for several is only known when it is here. Waiting for one that is not costs its time twice, not waiting for
one that is costs as many requests. What is known of the key decides (predictor.py), and ``Patience`` says for how long:

===================================  ==========================================================================================
a key whose answer was for one       nobody waits
a key that is new, of a kind ...
... of which one was for several     they wait
... of which nothing is known        they wait for ``unknown``; then they fetch beside the leader if they are ``few``, else they
                                     wait on
... of which all were for one        they wait for ``doubtful``; then ``company`` of them fetch beside the leader, and the rest
                                     waits on
===================================  ==========================================================================================

Nothing here knows of HTTP. One Flights belongs to one route in one worker; across workers the store's leases do the same. Time is
that of ``clock``, by which followers wait, too, and of the deadline of each.
"""


from __future__ import annotations

from enum import Enum
from math import inf
from typing import Any, NamedTuple

from ..deadline import Deadline
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..tasks import Event


class FlightState(Enum):
    """Of a flight: see above."""

    FLYING = "flying"
    STORED = "stored"
    UNCACHEABLE = "uncacheable"
    FAILED = "failed"
    ABANDONED = "abandoned"


class Patience(NamedTuple):
    """How long followers wait, in seconds: ``stream`` for the rest of a streamed answer, ``doubtful`` for one that is most likely
    for one only, ``unknown`` for one that may be for one or for several, ``lease`` at most for another worker. ``company`` is how
    many followers in doubt fetch beside the leader, ``few`` how many requests more an upstream can bear once, for a route that is
    new."""

    stream: float = 1.0
    doubtful: float = 0.25
    unknown: float = 0.5
    lease: float = 10.0
    company: int = 64
    few: int = 24


class Flight:
    """``value`` is the entry when STORED, the error when FAILED. ``lease`` is what keeps other workers waiting meanwhile, ``crowd``
    the number of its followers so far, ``company`` how many fetch beside the leader, ``demand`` is set when somebody waits."""

    __slots__ = ("key", "state", "value", "lease", "crowd", "company", "demand", "clock", "patience", "_landing", "_until")

    def __init__(self, key: Any, clock: MonotonicClock = CLOCK, patience: float = Patience().stream) -> None:
        self.key = key
        self.clock = clock
        self.patience = patience
        self.state = FlightState.FLYING
        self.value: Any = None
        self.lease: Any = None
        self.crowd = 0
        self.company = 0
        self.demand = Event()
        self._landing = Event()
        self._until = inf

    @property
    def streaming(self) -> bool:
        """Is the head of the answer here, and the rest on its way to the leader's client?"""
        return self._until != inf

    def stream(self) -> None:
        """From now on it depends on the leader's client how long this takes: nobody waits for that longer than ``patience``."""
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
        """The state after waiting. FLYING: ``patience`` is over, or a streamed answer takes too long. Raises DeadlineExceeded."""
        until = self.clock.now() + patience
        self.demand.set()
        while self.state is FlightState.FLYING and (left := min(until, self._until) - self.clock.now()) > 0:
            self.clock.wait(self._landing, min(deadline.left(), left, self.patience))
        return self.state

    def __repr__(self) -> str:
        return f"Flight({self.key!r}, {self.state.value})"


class Flights:
    """What is being fetched, by its key."""

    def __init__(self, clock: MonotonicClock = CLOCK, patience: Patience = Patience()) -> None:
        self.clock = clock
        self.patience = patience
        self.flying: dict[Any, Flight] = {}

    def lead(self, key: Any) -> Flight:
        """A new flight, which must land. It takes the place of one that takes too long."""
        flight = self.flying[key] = Flight(key, self.clock, self.patience.stream)
        return flight

    def land(self, flight: Flight | None, state: FlightState, value: Any = None) -> None:
        """Let the followers go. Only the first call counts. None: there are none."""
        if flight is not None and flight.state is FlightState.FLYING:
            if self.flying.get(flight.key) is flight:
                del self.flying[flight.key]
            flight.land(state, value)

    def __repr__(self) -> str:
        return f"Flights({len(self.flying)} flying)"
