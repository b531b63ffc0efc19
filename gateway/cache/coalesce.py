"""Many requests for one thing, one request to the upstream.

The first request that misses leads a Flight; those that come meanwhile wait for it, each no longer than its own deadline::

    flying --> STORED       they get the entry, when it is one that they may have
           --> UNCACHEABLE  each asks for itself, all at once; the key is remembered, so that the next ones do not wait at all
           --> FAILED       they get the error
           --> ABANDONED    the leader was the problem (its client left, its own time was over): one of them leads the next flight

A leader whose answer is streamed lands when it has sent it to its client, which may be slow: after PATIENCE a follower leads a
flight of its own, and after two of those it asks alone.

Nothing here knows of HTTP. One Flights belongs to one route in one worker; across workers the store's leases do the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..deadline import Deadline
from ..tasks import Event

FLYING, STORED, UNCACHEABLE, FAILED, ABANDONED = range(5)
PATIENCE = 1.0                                           # seconds a follower waits for the rest of a streamed answer
UNCACHEABLE_FOR = 10.0                                   # seconds
RESTING_FOR = 1.0                                        # seconds after a failure in which a stale answer is given at once
MOST_REMEMBERED = 10_000


class Flight:
    """``value`` is the entry when STORED, the error when FAILED. ``streaming``: the head of the answer is here. ``lease`` is what
    keeps other workers waiting meanwhile."""

    __slots__ = ("key", "state", "value", "streaming", "lease", "_landed")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.state = FLYING
        self.value: Any = None
        self.streaming = False
        self.lease: Any = None
        self._landed = Event()

    def land(self, state: int, value: Any) -> None:
        self.state, self.value = state, value
        self._landed.set()
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()

    def wait(self, deadline: Deadline) -> int:
        """The state after waiting. FLYING: a streamed answer takes too long. Raises DeadlineExceeded."""
        while self.state == FLYING:
            self._landed.wait(min(deadline.left(), PATIENCE))
            if self.streaming:
                break
        return self.state

    def __repr__(self) -> str:
        return f"Flight({self.key!r}, {('flying', 'stored', 'uncacheable', 'failed', 'abandoned')[self.state]})"


class Flights:
    """What is being fetched, and what was learned: keys that are not worth waiting for, and keys whose upstream just failed."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self.flying: dict[Any, Flight] = {}
        self._uncacheable: OrderedDict[Any, float] = OrderedDict()
        self._resting: OrderedDict[Any, float] = OrderedDict()

    def lead(self, key: Any) -> Flight:
        """A new flight, which must land. It takes the place of one that takes too long."""
        flight = self.flying[key] = Flight(key)
        return flight

    def land(self, flight: Flight, state: int, value: Any = None) -> None:
        """Let the followers go. Only the first call counts."""
        if flight.state == FLYING:
            if self.flying.get(flight.key) is flight:
                del self.flying[flight.key]
            flight.land(state, value)

    def learn(self, key: Any, cacheable: bool) -> None:
        if cacheable:
            self._uncacheable.pop(key, None)
            for reached in (True, False):
                self._resting.pop((key, reached), None)
        else:
            self._remember(self._uncacheable, key, UNCACHEABLE_FOR)

    def rest(self, key: Any, reached: bool) -> None:
        """The upstream failed for this key: it answered with an error, or was not ``reached`` at all."""
        self._remember(self._resting, (key, reached), RESTING_FOR)

    def worth_waiting(self, key: Any) -> bool:
        """May the answer be one that several can have?"""
        return not self._holds(self._uncacheable, key)

    def resting(self, key: Any, reached: bool) -> bool:
        return bool(self._resting) and self._holds(self._resting, (key, reached))

    def _remember(self, table: OrderedDict[Any, float], key: Any, seconds: float) -> None:
        table[key] = self.clock() + seconds
        table.move_to_end(key)
        if len(table) > MOST_REMEMBERED:
            table.popitem(last=False)

    def _holds(self, table: OrderedDict[Any, float], key: Any) -> bool:
        until = table.get(key)
        if until is None:
            return False
        if until > self.clock():
            return True
        del table[key]
        return False

    def __repr__(self) -> str:
        return f"Flights({len(self.flying)} flying, {len(self._uncacheable)} uncacheable)"
