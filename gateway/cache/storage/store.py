"""Where the HTTP cache keeps its answers: the memory of the worker, and behind it what workers and machines share.

::

    get ---> memory --miss--> shared tiers, nearest first --miss--> None
               |  ^                |
               |  +-- kept here <--+
               v
             held against the purges made since it was last looked at (marks.py); what other workers of this machine have
             purged is heard before that (the bell of the bus)

    put ---> memory, and beside the request (write_behind.py) every tier

The memory is asked without waiting. A request waits for shared tiers for ``patience`` seconds, the look-up and the lease together,
and for nothing that is written; for each key there is one look-up, beside the requests that wait for it (lookups.py). A tier that
fails is a miss.

What memory holds may be out of date when another worker has got a newer answer: so when it has expired, the shared tiers are asked
once more, at most every ``again`` seconds (Intervals).

Nothing runs before ``start``: no connection, no greenlet. Without it, purges made elsewhere are not heard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

from ...bus import clock
from ...bus.bus import Bus
from ...bus.notice import Notice
from ...loop.monotonic_clock import CLOCK, MonotonicClock
from ...loop.native_threads import run_in_thread
from ...tasks import Event
from ..entry import Variants
from . import codec
from .compaction import compacted
from .lease import SHORT, TICK, Lease, Leases
from .lookups import Lookup, Lookups
from .memory import MemoryTier, Node, Share, whole_steps
from .purger import Purger
from .tiers import Counts, Leasing, Operation, Shared
from .write_behind import PendingWrite, WriteBehind

TOPIC = "keys"                  # of the bus: keys that were deleted
PATIENCE = 0.05                 # seconds
RECENT = 1.0                    # seconds after a look-up in which it belongs to the same request
DRAIN = 0.5                     # seconds that a worker which ends takes for what is still to be written
FLUSH = 20.0                    # seconds
HEAVY = 16 * 1024               # bytes of a record that takes the loop's time: compressed it may be a thousand times as long

log = logging.getLogger("gateway")
_looked: ContextVar[tuple[float, float]] = ContextVar("cache_looked", default=(0.0, 0.0))    # when the last look-up ended, its time


class Intervals(NamedTuple):
    """Seconds. Expired answers in memory are served as they are until ``again`` after the shared tiers were asked. While another
    worker fetches, it is polled after ``poll``, then up to every ``longest_poll``, and every ``calm_poll`` while no request waits.
    A lease holds for ``lease``, and is extended every ``extension``."""

    again: float = 1.0
    poll: float = 0.005
    longest_poll: float = 0.05
    calm_poll: float = 0.5
    lease: float = SHORT
    extension: float = TICK


class HttpStore:
    """``get``, ``put`` and ``delete`` over all tiers; ``purger.purge``.

    ``memory`` holds Variants, ``tiers`` are asked in their order, ``bus`` connects the workers, ``leases`` is the tier that gives
    leases (None: there are none), ``compress`` the bodies in the shared tiers, ``patience`` is for how many seconds a request waits
    for them, ``largest`` the size of a record. ``clock`` is that of the bus, ``timer`` that by which the store waits.
    """

    def __init__(self, memory: MemoryTier, tiers: Sequence[Shared] = (), bus: Bus | None = None, *, leases: Leasing | None = None,
                 compress: bool = False, counts: Counts | None = None, patience: float = PATIENCE, largest: int = codec.LARGEST,
                 intervals: Intervals = Intervals(), clock: Callable[[], float] = clock.now, timer: MonotonicClock = CLOCK) -> None:
        self.memory = memory
        self.tiers = tuple(tiers)
        self.bus = bus or Bus()
        self.bell = self.bus.bell
        self.purger = Purger(self.bus, self._clear, clock)
        self.marks = self.purger.marks
        self.bus.subscribe(TOPIC, lambda notice: self._forget(notice.key), lambda at: self._clear())
        self.counts = counts or Counts()
        self.patience = patience
        self.intervals = intervals
        self.clock = clock
        self.timer = timer
        self.looks = Lookups()
        self.leases = leases
        self.compress = compress
        self.largest = largest
        self._writers: dict[str, WriteBehind] = {}
        self._leases: Leases | None = None
        self.kept: Callable[[str], bool] = lambda path: True         # is there a route that keeps answers with this path?
        self._hit = self.counts.of("hits", "memory")
        self._bytes, self._entries = self.counts.of("bytes", "memory"), self.counts.of("entries", "memory")
        memory.evicted = self.counts.of("evicted", "memory")

    def owner(self, route: str) -> Share:
        """Whose the entries are that a route stores, for the numbers."""
        return Share(self.counts.of("bytes", "memory", route), self.counts.of("entries", "memory", route),
                     self.counts.of("evicted", "memory", route))

    @property
    def number(self) -> int:
        """The number of purges that were heard: while it stays the same, nothing was purged."""
        self.bus.catch_up()
        return self.marks.number

    # Answers

    def get(self, key: str, owner: Share | None = None) -> Variants | None:
        """What is stored under ``key``, the object itself, for reading only; None when there is nothing, or it was purged."""
        node = self.memory.find(key)
        if node is None or (node.seen != self.marks.number or self.bell.heard != self.bell.shared[0]
                            ) and not self._still_there(node):
            return self._fetch(key, None, owner)
        variants: Variants = node.value
        if self.tiers and variants[0].expires <= self.clock():
            return self._renewed(key, node, owner)
        self._hit(1.0)
        return variants

    def held(self, key: str) -> Variants | None:
        """What memory has under ``key``, without what was purged. Nobody is asked, and nothing is counted."""
        self.bus.catch_up()
        node = self.memory.nodes.get(key)
        if node is None or node.seen != self.marks.number and not self._still_there(node):
            return None
        return node.value

    def _still_there(self, node: Node) -> bool:
        """Hold what is in memory against the purges that it has not seen."""
        self.bus.catch_up()
        number = self.marks.number
        if self.memory.nodes.get(node.key) is not node:  # while those were read
            return False
        left = self.marks.apply(node.value)
        if left is None:
            self.memory.delete(node.key)
            self._measure()
            return False
        node.value, node.seen = left, number
        return True

    def _renewed(self, key: str, node: Node, owner: Share | None) -> Variants | None:
        """What memory has has expired: another worker may have put a newer one into a shared tier."""
        now = self.timer.now()
        if node.asked + self.intervals.again <= now:
            node.asked = now
            if (found := self._fetch(key, node, owner)) is not None:
                return found
        self._hit(1.0)
        return self.held(key)

    def _fetch(self, key: str, known: Node | None, owner: Share | None = None) -> Variants | None:
        """From the shared tiers, kept in memory from now on. With ``known``, only what is newer than that."""
        self.bus.catch_up()
        found = self._looked_up(key, known, owner) if self.tiers else None
        if found is None and known is None:
            self.counts.of("misses", "memory")(1.0)
        return found

    def _looked_up(self, key: str, known: Node | None, owner: Share | None) -> Variants | None:
        """What the look-up of this key finds within the time that a request has for it."""
        began = self.timer.now()
        looked = self.looks.ask(key, lambda look: (self._look_up(key, known, owner, look), self.marks.number), self.patience)
        _looked.set((ended := self.timer.now(), ended - began))
        if looked is None:
            return None
        found, number = looked
        return found if found is None or number == self.marks.number else self.marks.apply(found)

    def _look_up(self, key: str, known: Node | None, owner: Share | None, look: Lookup) -> Variants | None:
        for tier in self.tiers:
            found = self._read(tier, key)
            node = self.memory.nodes.get(key)
            if node is not None and node is not known:   # it was stored here while the tier was waited for
                return node.value if node.seen == self.marks.number or self._still_there(node) else None
            if found is None or look.void:
                self.counts.of("misses", tier.name)(1.0)
                continue
            if node is not None and found[0].stored_at <= node.value[0].stored_at:
                return None
            self.counts.of("hits", tier.name)(1.0)
            self._keep(key, found, owner)
            return found
        return None

    def _read(self, tier: Shared, key: str, forget: bool = True) -> Variants | None:
        """What a tier has, or is about to have, without what was purged. A record that is none is removed."""
        queued = self._writer(tier).waiting(key)
        if queued is not None:
            return self.marks.apply(queued.held) if queued.held is not None else None
        data = tier.get(key)
        if data is None:
            return None
        try:
            found = self._decoded(key, data, tier.shift)
            if max(entry.request_time for entry in found) > self.clock() + tier.margin:
                return None                              # by a clock that was stepped since: no purge could be held against it
            return self.marks.apply(found)
        except codec.CorruptRecord as error:
            if forget:
                log.warning("the cache tier %s has an unusable record: %s", tier.name, error)
                self.counts.of("corrupt", tier.name)(1.0)
                if key not in self.memory.nodes and self._writer(tier).waiting(key) is None:     # nothing newer came meanwhile
                    self._write(tier, key, PendingWrite(lambda: ("delete", key)))
        return None

    def _decoded(self, key: str, data: bytes, shift: float) -> Variants:
        """What a record holds. A large one is read beside the loop."""
        if len(data) < HEAVY:
            return codec.decode(key, data, shift, self.largest)
        found: Variants = run_in_thread(codec.decode, key, data, shift, self.largest)
        return found

    def put(self, key: str, variants: Variants, keep: float, begun: float, owner: Share | None = None) -> Variants | None:
        """Store ``variants``, whose first is new, for ``keep`` seconds. ``begun`` is the wall clock time at which the request
        for it was sent: an answer to a request that began before a purge is not stored. What is kept now, made stale where a
        soft purge says so; None when a purge refused it."""
        self.bus.catch_up()
        if self.marks.number:
            hard, _ = self.marks.purged(variants[0])
            left = self.marks.apply(variants) if begun > hard else None
            if left is None:
                self.counts.of("refused", "memory")(1.0)
                return None
            variants = left
        if self._keep(key, variants, owner):
            self.counts.of("stored", "memory")(1.0)
        if self.tiers:
            self._put_behind(key, variants, self.clock() + keep)
        return variants

    def _put_behind(self, key: str, variants: Variants, until: float) -> None:
        size = sum([entry.size for entry in variants])
        for tier in self.tiers:
            if tier.usable and size <= self.largest:
                make = partial(self._record, tier, key, variants, until)
                self._write(tier, key, PendingWrite(make, variants, size))
            else:
                self.counts.of("dropped", tier.name)(1.0)

    def _record(self, tier: Shared, key: str, variants: Variants, until: float) -> Operation | None:
        """What is written down, now that it is; nothing when it was purged, or is of no use to anybody any more."""
        left, seconds = self.marks.apply(variants), until - self.clock()
        if left is None or seconds <= 0:
            return None
        try:
            data = codec.encode(key, left, tier.shift - tier.margin, self.compress)
        except ValueError as error:
            log.warning("the cache cannot write down %s: %s", variants[0].url, error)
            self.counts.of("errors", tier.name)(1.0)
            return None
        return "put", key, data, seconds

    def _write(self, tier: Shared, key: str, written: PendingWrite) -> None:
        self._writer(tier).add(key, written)

    def _writer(self, tier: Shared) -> WriteBehind:
        writer = self._writers.get(tier.name)
        if writer is None:
            writer = self._writers[tier.name] = WriteBehind(tier.write, self.counts.of("dropped", tier.name))
        return writer

    def _keep(self, key: str, variants: Variants, owner: Share | None) -> bool:
        size = whole_steps(sum([compacted(entry, key) for entry in variants]), key)
        kept = self.memory.put(key, variants, size, self.marks.number, owner)
        self._measure()
        return kept

    def delete(self, key: str) -> None:
        """Forget one key, in every worker. What is stored under it afterwards is not affected; a purge is."""
        self._forget(key)
        send = partial(self.bus.send, Notice(TOPIC, key, None, False, self.clock()))
        for tier in self.tiers:                          # the others hear of it when they would not find it any more
            self._write(tier, key, PendingWrite(lambda: ("delete", key), after=send))
        if not self.tiers:
            send()

    def _forget(self, key: str | None) -> None:
        """One key; what is being looked up under it now counts no more either."""
        if key is not None:
            self.memory.delete(key)
            self.looks.forget(key)
            self._measure()

    def _clear(self) -> None:
        self.memory.clear()
        self._measure()

    def _measure(self) -> None:
        self._bytes(self.memory.bytes)
        self._entries(len(self.memory))

    def look(self, key: str) -> Variants | None:
        """What ``get`` would give, for an operator: nothing is counted, kept or removed."""
        if (node := self.memory.nodes.get(key)) is not None:
            return self.marks.apply(node.value)
        return next((found for tier in self.tiers if (found := self._read(tier, key, forget=False)) is not None), None)

    # One fetch for all workers

    def lease(self, key: str, seconds: float) -> Lease | None:
        """The right to fetch what is under ``key``, for at most that long; None when another worker has it, or nobody gives it.
        Waits for what the look-up of this request has left of its time."""
        if self.leases is None or not self.leases.usable:
            return None
        if self._leases is None:
            self._leases = Leases(self.leases, self._writer(self.leases), short=self.intervals.lease,
                                  tick=self.intervals.extension, timer=self.timer)
        ended, spent = _looked.get()
        patience = self.patience - (spent if self.timer.now() < ended + RECENT else 0.0)
        return self._leases.take(key, seconds, patience)

    def leased(self, key: str) -> bool:
        """Has somebody the lease of ``key``?"""
        return bool(self._leased(key))

    def _leased(self, key: str) -> bool | None:
        """None when nobody can be asked, or does not answer in time."""
        leases = self.leases
        return None if leases is None else self.looks.ask(f"\0lease\n{key}", lambda _: leases.leased(key), self.patience)

    def wait(self, key: str, seconds: float, lease: str = "", wanted: Event | None = None) -> Variants | None:
        """What is there when the worker that has the lease is done, or ``seconds`` are over; None when nothing is, or nobody
        can be asked. ``lease`` is the lease's own key, where it is not that of the answer; until ``wanted`` is set there is no
        hurry."""
        until, pause = self.timer.now() + seconds, self.intervals.poll
        while leased := self._leased(lease or key):
            if (left := until - self.timer.now()) <= 0:
                break
            if wanted is not None and not self.timer.wait(wanted, min(self.intervals.calm_poll, left)):
                continue
            self.timer.sleep(min(pause, left))
            pause = min(pause * 1.5, self.intervals.longest_poll)
        if leased is None:                                 # nobody can be asked, nor for the answer
            return None
        found = self._fetch(key, self.memory.nodes.get(key))
        return found if found is not None else self.held(key)

    # The life of the worker

    def start(self) -> None:
        """In each worker process, after the fork."""
        if self.purger.generation is not None:
            self.purger.generation.start()
        self.bus.start()

    def flush(self, seconds: float = FLUSH) -> bool:
        """Wait until all is written that was put, for at most that long; whether it is."""
        until = self.timer.now() + seconds
        return all([writer.flush(max(0.0, until - self.timer.now())) for writer in self._writers.values()])

    def stop(self) -> None:
        until = self.timer.now() + DRAIN
        if self._leases is not None:
            self._leases.stop()
        for writer in self._writers.values():
            writer.stop(max(0.0, until - self.timer.now()))
        self.looks.stop(max(0.0, until - self.timer.now()))
        self.bus.stop(max(0.0, until - self.timer.now()))
        if self.purger.generation is not None:
            self.purger.generation.stop()
        for tier in self.tiers:
            tier.close()

    def __repr__(self) -> str:
        return f"HttpStore({', '.join(map(repr, (self.memory, *self.tiers)))})"
