"""Many requests for one thing, one request to the upstream.

The first request that misses leads a Flight; those that come meanwhile wait for it, each no longer than its own deadline::

    flying --> STORED       they get the entry, when it is one that they may have
           --> UNCACHEABLE  each asks for itself, all at once, as soon as the head says so; the key is remembered, so that the next
                            ones do not wait at all
           --> FAILED       they get the error
           --> ABANDONED    it says nothing about the next one (the leader's client left, its own time was over, what it got was
                            purged meanwhile): one of them leads the next flight

A leader whose answer is streamed lands when it has sent it to its client, which may be slow: PATIENCE after the head of that
answer a follower leads a flight of its own, and after two of those it asks alone.

Whether an answer is for several is only known when it is here. Waiting for one that is not costs its time twice, not waiting for
one that is costs as many requests. What is known decides:

===================================  ==========================================================================================
a key whose answer was for one       nobody waits
a key that is new, of a kind ...
... of which one was for several     they wait
... of which nothing is known        they wait for UNKNOWN; then they ask beside the leader if they are FEW, else they wait on
... of which all were for one        they wait for DOUBT; then COMPANY of them ask beside the leader, and the rest waits on
===================================  ==========================================================================================

Nothing here knows of HTTP. One Flights belongs to one route in one worker; across workers the store's leases do the same.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

from ..deadline import Deadline
from ..loop.time_limit import catch_up
from ..tasks import Event

FLYING, STORED, UNCACHEABLE, FAILED, ABANDONED = range(5)
PATIENCE = 1.0                                           # seconds a follower waits for the rest of a streamed answer
DOUBT = 0.25                                             # seconds it waits for an answer that is most likely for one only
COMPANY = 64                                             # followers that then ask beside the leader
UNKNOWN = 0.5                                            # seconds it waits for an answer that may be for one or for several
FEW = 24                                                 # so many requests more an upstream can bear once, for a route that is new
UNCACHEABLE_FOR = 120.0                                  # seconds
RESTING_FOR = 1.0                                        # seconds after a failure in which a stale answer is given at once
RECENT = 32                                              # new keys whose answers are remembered of each kind
MOST_REMEMBERED = 10_000


class Flight:
    """``value`` is the entry when STORED, the error when FAILED. ``lease`` is what keeps other workers waiting meanwhile,
    ``crowd`` how many follow, or did, ``company`` how many ask beside the leader, ``wanted`` is set when somebody has waited."""

    __slots__ = ("key", "state", "value", "lease", "crowd", "company", "wanted", "_landed", "_until")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.state = FLYING
        self.value: Any = None
        self.lease: Any = None
        self.crowd = 0
        self.company = 0
        self.wanted = Event()
        self._landed = Event()
        self._until = inf

    @property
    def streaming(self) -> bool:
        """Is the head of the answer here, and the rest on its way to the leader's client?"""
        return self._until != inf

    def stream(self) -> None:
        """From now on it depends on the leader's client how long this takes: nobody waits for that longer than PATIENCE."""
        self._until = monotonic() + PATIENCE
        if self.lease is not None:
            self.lease.extend(PATIENCE)

    def land(self, state: int, value: Any = None) -> None:
        self.state, self.value = state, value
        self._landed.set()
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release(state == STORED)

    def wait(self, deadline: Deadline, patience: float = inf) -> int:
        """The state after waiting. FLYING: ``patience`` is over, or a streamed answer takes too long. Raises DeadlineExceeded."""
        until = monotonic() + patience
        self.wanted.set()
        while self.state == FLYING and (left := min(until, self._until) - monotonic()) > 0:
            if not self._landed.wait(min(deadline.left(), left, PATIENCE)):
                catch_up()
        return self.state

    def __repr__(self) -> str:
        return f"Flight({self.key!r}, {('flying', 'stored', 'uncacheable', 'failed', 'abandoned')[self.state]})"


class Flights:
    """What is being fetched, and what was learned: keys that are not worth waiting for, keys whose upstream just failed, and how
    new keys of each kind turned out. Keys may be long, so their hashes are remembered: two keys with the same one share what was
    learned, which costs a wait or spares one."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self.flying: dict[Any, Flight] = {}
        self._uncacheable: OrderedDict[int, float] = OrderedDict()
        self._resting: OrderedDict[int, float] = OrderedDict()
        self._recent: dict[Any, deque[bool]] = {}

    def lead(self, key: Any) -> Flight:
        """A new flight, which must land. It takes the place of one that takes too long."""
        flight = self.flying[key] = Flight(key)
        return flight

    def land(self, flight: Flight | None, state: int, value: Any = None) -> None:
        """Let the followers go. Only the first call counts. None: there are none."""
        if flight is not None and flight.state == FLYING:
            if self.flying.get(flight.key) is flight:
                del self.flying[flight.key]
            flight.land(state, value)

    def learn(self, key: Any, cacheable: bool, kind: Any = None) -> None:
        """What the answer was like. ``kind`` is that of a key of which nothing was stored; there are few kinds."""
        if kind is not None and not self._holds(self._uncacheable, key):     # each key counts once, however often it is asked for
            self._recent.setdefault(kind, deque(maxlen=RECENT)).append(cacheable)
        if cacheable:
            self._uncacheable.pop(hash(key), None)
            for reached in (True, False):
                self._resting.pop(hash((key, reached)), None)
        else:
            self._remember(self._uncacheable, key, UNCACHEABLE_FOR)

    def rest(self, key: Any, reached: bool) -> None:
        """The upstream failed for this key: it answered with an error, or was not ``reached`` at all."""
        self._remember(self._resting, (key, reached), RESTING_FOR)

    def worth_waiting(self, key: Any) -> bool:
        """May the answer be one that several can have?"""
        return not self._holds(self._uncacheable, key)

    def hopeful(self, kind: Any) -> bool:
        """Was one of the last new keys of this kind for several?"""
        return any(self._recent.get(kind, ()))

    def unknown(self, kind: Any) -> bool:
        """Was there no new key of this kind yet?"""
        return kind not in self._recent

    def doubtful(self, kind: Any) -> bool:
        """Were all of the last new keys of this kind for one only?"""
        return kind in self._recent and not any(self._recent[kind])

    def resting(self, key: Any, reached: bool) -> bool:
        return bool(self._resting) and self._holds(self._resting, (key, reached))

    def _remember(self, table: OrderedDict[int, float], key: Any, seconds: float) -> None:
        table[hash(key)] = self.clock() + seconds
        table.move_to_end(hash(key))
        if len(table) > MOST_REMEMBERED:
            table.popitem(last=False)

    def _holds(self, table: OrderedDict[int, float], key: Any) -> bool:
        until = table.get(hash(key))
        if until is None:
            return False
        if until > self.clock():
            return True
        del table[hash(key)]
        return False

    def __repr__(self) -> str:
        return f"Flights({len(self.flying)} flying, {len(self._uncacheable)} uncacheable)"
