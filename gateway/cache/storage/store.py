"""The store of the HTTP cache: the memory of the worker, then the tiers that workers and machines share.

::

    get ---> memory --miss--> shared tiers, nearest first --miss--> None
               |  ^                |
               |  +-- stored <-----+
               v
             compared with the purges since its last hit (purging/purge_index.py), after the notices of other workers were read
             (the stamp of the bus)

    put ---> memory, and in the background (write_behind.py) every tier

A lookup in memory does not block. A request waits at most ``patience`` seconds for the lookup in the shared tiers and the lease
together, and never for a write. Concurrent requests for one key share one lookup (lookups.py). A tier that fails is a miss.

Another worker may have stored a newer entry than the one in memory: so when that has expired, the shared tiers are looked up again,
at most every ``again`` seconds (Intervals).

Before ``start`` there is no connection and no greenlet, and purges of other workers do not arrive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

from ...bus.bus import Bus
from ...bus.clock import BUS_CLOCK
from ...bus.notice import Notice
from ...loop.monotonic_clock import CLOCK, MonotonicClock
from ...loop.native_threads import run_in_thread
from ...tasks import Event
from ..entry import Variants, compact
from ..purging.purger import Purger
from . import codec
from .lease import SHORT, TICK, Lease, Leases
from .lookups import Lookup, Lookups
from .memory import MemoryTier, Node, Share, whole_steps
from .tiers import LeasingTier, Operation, SharedTier, TierCounters
from .write_behind import PendingWrite, WriteBehind

TOPIC = "keys"                  # of the bus: keys that were deleted
PATIENCE = 0.05                 # seconds
RECENT = 1.0                    # seconds after a look-up in which it belongs to the same request
DRAIN = 0.5                     # seconds that a worker which ends takes for what is still to be written
FLUSH = 20.0                    # seconds
HEAVY = 16 * 1024               # bytes of a record that takes the loop's time: compressed it may be a thousand times as long

log = logging.getLogger("gateway")
last_lookup: ContextVar[tuple[float, float]] = ContextVar("last_lookup", default=(0.0, 0.0))     # when it ended, its duration


class Intervals(NamedTuple):
    """Seconds. For an expired entry in memory the shared tiers are looked up at most every ``again``. While another worker fetches,
    they are polled after ``poll``, then up to every ``longest_poll``, and every ``calm_poll`` while no request waits. A lease is
    valid for ``lease``, and extended every ``extension``."""

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

    def __init__(self, memory: MemoryTier, tiers: Sequence[SharedTier] = (), bus: Bus | None = None, *,
                 leases: LeasingTier | None = None, compress: bool = False, counts: TierCounters | None = None,
                 patience: float = PATIENCE, largest: int = codec.LARGEST, intervals: Intervals = Intervals(),
                 clock: Callable[[], float] = BUS_CLOCK.now, timer: MonotonicClock = CLOCK) -> None:
        self.memory = memory
        self.tiers = tuple(tiers)
        self.bus = bus or Bus()
        self.stamp = self.bus.stamp
        self.purger = Purger(self.bus, self._clear, clock)
        self.marks = self.purger.marks
        self.bus.subscribe(TOPIC, lambda notice: self._forget(notice.key), lambda at: self._clear())
        self.counts = counts or TierCounters()
        self.patience = patience
        self.intervals = intervals
        self.clock = clock
        self.timer = timer
        self.lookups = Lookups()
        self.leases = leases
        self.compress = compress
        self.largest = largest
        self._writers: dict[str, WriteBehind] = {}
        self._leases: Leases | None = None
        self.caches: Callable[[str], bool] = lambda path: True      # does a route with a cache have this path?
        self._hit = self.counts.of("hits", "memory")
        self._bytes, self._entries = self.counts.of("bytes", "memory"), self.counts.of("entries", "memory")
        memory.count_evictions = self.counts.of("evicted", "memory")

    def owner(self, route: str) -> Share:
        """The share of a route in memory, for its metrics."""
        return Share(self.counts.of("bytes", "memory", route), self.counts.of("entries", "memory", route),
                     self.counts.of("evicted", "memory", route))

    @property
    def number(self) -> int:
        """The number of purges so far, after reading those of other workers: while it is the same, nothing was purged."""
        self.bus.catch_up()
        return self.marks.number

    # Answers

    def get(self, key: str, owner: Share | None = None) -> Variants | None:
        """The variants under ``key``, shared and read-only; None when there are none, or all were purged."""
        node = self.memory.find(key)
        if node is None or (node.purges != self.marks.number or self.stamp.last_read != self.stamp.cell[0]
                            ) and not self._survives(node):
            return self._fetch(key, None, owner)
        variants: Variants = node.value
        if self.tiers and variants[0].expires <= self.clock():
            return self._renew(key, node, owner)
        self._hit(1.0)
        return variants

    def peek(self, key: str) -> Variants | None:
        """The variants in memory that are not purged, without a lookup in the tiers and without counting."""
        self.bus.catch_up()
        node = self.memory.nodes.get(key)
        if node is None or node.purges != self.marks.number and not self._survives(node):
            return None
        return node.value

    def _survives(self, node: Node) -> bool:
        """Compare the variants in memory with new purges, and drop or stale them; returns whether any are left."""
        self.bus.catch_up()
        number = self.marks.number
        if self.memory.nodes.get(node.key) is not node:  # while those were read
            return False
        left = self.marks.apply(node.value)
        if left is None:
            self.memory.delete(node.key)
            self._measure()
            return False
        node.value, node.purges = left, number
        return True

    def _renew(self, key: str, node: Node, owner: Share | None) -> Variants | None:
        """Look up an expired entry in the shared tiers, where another worker may have stored a newer one."""
        now = self.timer.now()
        if node.last_renewal + self.intervals.again <= now:
            node.last_renewal = now
            if (variants := self._fetch(key, node, owner)) is not None:
                return variants
        self._hit(1.0)
        return self.peek(key)

    def _fetch(self, key: str, present: Node | None, owner: Share | None = None) -> Variants | None:
        """Look up in the shared tiers and store the result in memory, if it is newer than what memory has."""
        self.bus.catch_up()
        variants = self._await_lookup(key, present, owner) if self.tiers else None
        if variants is None and present is None:
            self.counts.of("misses", "memory")(1.0)
        return variants

    def _await_lookup(self, key: str, present: Node | None, owner: Share | None) -> Variants | None:
        """The result of the lookup of this key, if there is one within the patience of a request; else None."""
        began = self.timer.now()
        result = self.lookups.ask(key, lambda look: (self._look_up(key, present, owner, look), self.marks.number), self.patience)
        last_lookup.set((end := self.timer.now(), end - began))
        if result is None:
            return None
        variants, number = result
        return variants if variants is None or number == self.marks.number else self.marks.apply(variants)

    def _look_up(self, key: str, present: Node | None, owner: Share | None, look: Lookup) -> Variants | None:
        for tier in self.tiers:
            variants = self._read(tier, key)
            node = self.memory.nodes.get(key)
            if node is not None and node is not present:  # it was stored while the tier was asked
                return node.value if node.purges == self.marks.number or self._survives(node) else None
            if variants is None or look.invalidated:
                self.counts.of("misses", tier.name)(1.0)
                continue
            if node is not None and variants[0].stored_at <= node.value[0].stored_at:
                return None
            self.counts.of("hits", tier.name)(1.0)
            self._remember(key, variants, owner)
            return variants
        return None

    def _read(self, tier: SharedTier, key: str, forget: bool = True) -> Variants | None:
        """The variants in a tier or queued for it, without those that were purged. A corrupt record is removed."""
        pending = self._writer(tier).pending(key)
        if pending is not None:
            return self.marks.apply(pending.value) if pending.value is not None else None
        data = tier.get(key)
        if data is None:
            return None
        try:
            variants = self._decode(key, data, tier.shift)
            if max(entry.request_time for entry in variants) > self.clock() + tier.margin:
                return None                              # by a clock that was stepped since: no purge could be held against it
            return self.marks.apply(variants)
        except codec.CorruptRecord as error:
            if forget:
                log.warning("the cache tier %s has an unusable record: %s", tier.name, error)
                self.counts.of("corrupt", tier.name)(1.0)
                if key not in self.memory.nodes and self._writer(tier).pending(key) is None:     # nothing newer came meanwhile
                    self._write(tier, key, PendingWrite(lambda: ("delete", key)))
        return None

    def _decode(self, key: str, data: bytes, shift: float) -> Variants:
        """Decode a record; a large one in a native thread, so that it does not block the loop."""
        if len(data) < HEAVY:
            return codec.decode(key, data, shift, self.largest)
        variants: Variants = run_in_thread(codec.decode, key, data, shift, self.largest)
        return variants

    def put(self, key: str, variants: Variants, keep: float, request_time: float, owner: Share | None = None) -> Variants | None:
        """Store ``variants``, whose first is new, for ``keep`` seconds. ``request_time`` is the time of its request by ``clock``:
        an answer requested before a purge is not stored. Returns the variants as stored, stale after a soft purge; None when
        they were purged."""
        self.bus.catch_up()
        if self.marks.number:
            hard, _ = self.marks.purge_times(variants[0])
            left = self.marks.apply(variants) if request_time > hard else None
            if left is None:
                self.counts.of("refused", "memory")(1.0)
                return None
            variants = left
        if self._remember(key, variants, owner):
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

    def _record(self, tier: SharedTier, key: str, variants: Variants, until: float) -> Operation | None:
        """The operation that writes the record, created when it is sent; None when the variants were purged or have expired."""
        left, seconds = self.marks.apply(variants), until - self.clock()
        if left is None or seconds <= 0:
            return None
        try:
            data = codec.encode(key, left, tier.shift - tier.margin, self.compress)
        except ValueError as error:
            log.warning("the cache cannot encode %s: %s", variants[0].url, error)
            self.counts.of("errors", tier.name)(1.0)
            return None
        return "put", key, data, seconds

    def _write(self, tier: SharedTier, key: str, write: PendingWrite) -> None:
        self._writer(tier).add(key, write)

    def _writer(self, tier: SharedTier) -> WriteBehind:
        writer = self._writers.get(tier.name)
        if writer is None:
            writer = self._writers[tier.name] = WriteBehind(tier.write, self.counts.of("dropped", tier.name))
        return writer

    def _remember(self, key: str, variants: Variants, owner: Share | None) -> bool:
        size = whole_steps(sum([compact(entry, key) for entry in variants]), key)
        fits = self.memory.put(key, variants, size, self.marks.number, owner)
        self._measure()
        return fits

    def delete(self, key: str) -> None:
        """Delete one key in every worker and tier. Unlike a purge, that does not affect answers that arrive afterwards."""
        self._forget(key)
        send = partial(self.bus.send, Notice(TOPIC, key, None, False, self.clock()))
        for tier in self.tiers:                          # the others hear of it when it is gone from the tiers
            self._write(tier, key, PendingWrite(lambda: ("delete", key), after=send))
        if not self.tiers:
            send()

    def _forget(self, key: str | None) -> None:
        """Remove a key from memory, and invalidate its running lookup."""
        if key is not None:
            self.memory.delete(key)
            self.lookups.forget(key)
            self._measure()

    def _clear(self) -> None:
        self.memory.clear()
        self._measure()

    def _measure(self) -> None:
        self._bytes(self.memory.bytes)
        self._entries(len(self.memory))

    def inspect(self, key: str) -> Variants | None:
        """What ``get`` would return, for an operator, without counting, storing or removing anything."""
        if (node := self.memory.nodes.get(key)) is not None:
            return self.marks.apply(node.value)
        return next((variants for tier in self.tiers if (variants := self._read(tier, key, forget=False)) is not None), None)

    # One fetch for all workers

    def lease(self, key: str, seconds: float) -> Lease | None:
        """Take the lease of ``key`` for at most ``seconds``; None when another worker has it, or no tier grants leases. Waits for
        what the lookup has left of the request's patience."""
        if self.leases is None or not self.leases.usable:
            return None
        if self._leases is None:
            self._leases = Leases(self.leases, self._writer(self.leases), short=self.intervals.lease,
                                  tick=self.intervals.extension, timer=self.timer)
        end, duration = last_lookup.get()
        patience = self.patience - (duration if self.timer.now() < end + RECENT else 0.0)
        return self._leases.take(key, seconds, patience)

    def is_leased(self, key: str) -> bool:
        """Does a worker have the lease of ``key``?"""
        return bool(self._lease_state(key))

    def _lease_state(self, key: str) -> bool | None:
        """Does a worker have the lease of ``key``? None when no tier grants leases, or it does not answer in time."""
        leases = self.leases
        return None if leases is None else self.lookups.ask(f"\0lease\n{key}", lambda _: leases.is_leased(key), self.patience)

    def wait(self, key: str, seconds: float, lease: str = "", demand: Event | None = None) -> Variants | None:
        """Wait until the worker that has the lease releases it, at most ``seconds``, and return the variants then stored; None when
        there are none, or no tier grants leases. ``lease`` is the key of the lease, if it is not ``key``. Polling is slow until
        ``demand`` is set."""
        until, pause = self.timer.now() + seconds, self.intervals.poll
        while is_leased := self._lease_state(lease or key):
            if (left := until - self.timer.now()) <= 0:
                break
            if demand is not None and not self.timer.wait(demand, min(self.intervals.calm_poll, left)):
                continue
            self.timer.sleep(min(pause, left))
            pause = min(pause * 1.5, self.intervals.longest_poll)
        if is_leased is None:                            # nobody can be asked, nor for the answer
            return None
        variants = self._fetch(key, self.memory.nodes.get(key))
        return variants if variants is not None else self.peek(key)

    # The life of the worker

    def start(self) -> None:
        """Start the bus and the generation. Called in each worker process, after the fork."""
        if self.purger.generation is not None:
            self.purger.generation.start()
        self.bus.start()

    def flush(self, seconds: float = FLUSH) -> bool:
        """Wait until all queued writes are done, at most ``seconds``; returns whether they are."""
        until = self.timer.now() + seconds
        return all([writer.flush(max(0.0, until - self.timer.now())) for writer in self._writers.values()])

    def stop(self) -> None:
        until = self.timer.now() + DRAIN
        if self._leases is not None:
            self._leases.stop()
        for writer in self._writers.values():
            writer.stop(max(0.0, until - self.timer.now()))
        self.lookups.stop(max(0.0, until - self.timer.now()))
        self.bus.stop(max(0.0, until - self.timer.now()))
        if self.purger.generation is not None:
            self.purger.generation.stop()
        for tier in self.tiers:
            tier.close()

    def __repr__(self) -> str:
        return f"HttpStore({', '.join(map(repr, (self.memory, *self.tiers)))})"
