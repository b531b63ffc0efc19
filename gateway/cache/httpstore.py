"""Where the HTTP cache keeps its answers: the memory of the worker, and behind it what workers and machines share.

::

    get ---> memory --miss--> shared tiers, nearest first --miss--> None
               |  ^                |
               |  +-- kept here <--+
               v
             held against the purges made since it was last looked at

An entry goes into every tier. The memory is asked without waiting; a shared tier may cost at most what it allows itself
(redis_tier.py), and one that fails is a miss. What memory holds may be out of date when another worker has got a newer answer:
so when it has expired, the shared tiers are asked once more, at most every AGAIN seconds.

Nothing runs before ``start``: no connection, no greenlet. Without it, purges made elsewhere are not heard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from sys import intern
from time import monotonic, sleep, time
from typing import Protocol

from . import format
from .entry import Entry, Variants
from .memory import Memory, Node
from .purge import Marks, Purge, parsed_purge

AGAIN = 1.0                     # seconds
POLL_FIRST, POLL_MOST = 0.005, 0.05     # seconds between two looks for what another worker is fetching

log = logging.getLogger("gateway")


class Lease(Protocol):
    """The right to fetch what is under a key, until it is released or its time is over."""

    def release(self) -> None: ...


class Shared(Protocol):
    """A tier of bytes by key. It never raises: a failure is counted, and is None or nothing done."""

    name: str
    shift: float                # seconds that the tier's clock, in which it keeps times, is ahead of ours
    margin: float               # seconds by which that may be wrong: what is written down is not younger than it is

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, data: bytes, seconds: float) -> None: ...

    def delete(self, key: str) -> None: ...

    def close(self) -> None: ...


class Leases(Protocol):
    """Who gives leases. ``leased`` is whether somebody has one."""

    def lease(self, key: str, seconds: float) -> Lease | None: ...

    def leased(self, key: str) -> bool: ...


class Channel(Protocol):
    """A way on which purges travel. ``write`` is whether it is on its way; after ``start`` those of others are heard."""

    def write(self, purge: Purge) -> bool: ...

    def waiting_purges(self) -> int: ...

    def start(self, heard: Callable[[Purge], None]) -> None: ...

    def stop(self) -> None: ...


ENTRY = 400                     # bytes of an entry with its list and its numbers, but for what is counted below


def compacted(entry: Entry, key: str) -> int:
    """How many bytes an entry takes. What it has in common with others, or with itself, it has once from now on."""
    size = ENTRY + len(entry.body) + entry.pack()
    if entry.tags:
        entry.tags = tuple(map(intern, entry.tags))
        size += 50 + sum(60 + len(tag) for tag in entry.tags)
    else:
        entry.tags = ()                                  # an empty set takes 216 bytes
    if entry.url == key:
        entry.url = key
    else:
        size += 50 + len(entry.url)
    if entry.stale_while_revalidate == entry.expires:
        entry.stale_while_revalidate = entry.expires
    if entry.stale_if_error == entry.expires:
        entry.stale_if_error = entry.expires
    return size


class Counts:
    """What is counted, each a function of a number. ``tier`` is memory, redis, memcached or file."""

    def __init__(self, counter: Callable[[str, str], Callable[[float], None]] = lambda name, tier: ignore) -> None:
        self._counter = counter
        self._made: dict[tuple[str, str], Callable[[float], None]] = {}

    def of(self, name: str, tier: str) -> Callable[[float], None]:
        """``name`` is hits, misses, stored, evicted, corrupt, refused or errors; bytes and entries are gauges."""
        made = self._made.get((name, tier))
        if made is None:
            made = self._made[name, tier] = self._counter(name, tier)
        return made


def ignore(what: object) -> None:
    """Does nothing."""


class HttpStore:
    """``get``, ``put``, ``delete`` and ``purge`` over all tiers.

    ``memory`` holds Variants, ``tiers`` are asked in their order, on ``channels`` purges travel, ``leases`` is the tier that
    gives leases (None: there are none), ``compress`` the bodies in the shared tiers.
    """

    def __init__(self, memory: Memory, tiers: Sequence[Shared] = (), channels: Sequence[Channel] = (), *,
                 leases: Leases | None = None, compress: bool = False, counts: Counts | None = None) -> None:
        self.memory = memory
        self.tiers = tuple(tiers)
        self.channels = tuple(channels)
        self.leases = leases
        self.compress = compress
        self.counts = counts or Counts()
        self.marks = Marks()
        self.views_cleared = 0.0                         # the cache of view code, whose purges travel along: when last
        self.view_purged: Callable[[Purge], None] = ignore
        self._hit = self.counts.of("hits", "memory")
        self._bytes = self.counts.of("bytes", "memory")
        self._entries = self.counts.of("entries", "memory")
        memory.evicted = self.counts.of("evicted", "memory")

    # Answers

    def get(self, key: str) -> Variants | None:
        """What is stored under ``key``, the object itself, for reading only; None when there is nothing, or it was purged."""
        node = self.memory.find(key)
        if node is None or node.seen != self.marks.number and not self._still_there(node):
            return self._fetch(key, None)
        variants: Variants = node.value
        if self.tiers and variants[0].expires <= time():
            return self._renewed(key, node)
        self._hit(1.0)
        return variants

    def _still_there(self, node: Node) -> bool:
        """Hold what is in memory against the purges that it has not seen."""
        number = self.marks.number
        left = self.marks.apply(node.value)
        if left is None:
            self.memory.delete(node.key)
            self._measure()
            return False
        node.value, node.seen = left, number
        return True

    def _renewed(self, key: str, node: Node) -> Variants:
        """What memory has has expired: another worker may have put a newer one into a shared tier."""
        now = monotonic()
        if node.asked + AGAIN <= now:
            node.asked = now
            if (found := self._fetch(key, node)) is not None:
                return found
        self._hit(1.0)
        return node.value

    def _fetch(self, key: str, known: Node | None) -> Variants | None:
        """From the first shared tier that has it, kept in memory from now on. With ``known``, only what is newer than that."""
        for tier in self.tiers:
            data = tier.get(key)
            found = self._read(tier, key, data) if data is not None else None
            node = self.memory.nodes.get(key)
            if node is not None and node is not known:   # it was stored here while the tier was waited for
                return node.value if node.seen == self.marks.number or self._still_there(node) else None
            if found is None:
                self.counts.of("misses", tier.name)(1.0)
                continue
            if node is not None and found.entries[0].stored_at <= node.value.entries[0].stored_at:
                return None
            self.counts.of("hits", tier.name)(1.0)
            self._keep(key, found)
            return found
        if known is None:
            self.counts.of("misses", "memory")(1.0)
        return None

    def _read(self, tier: Shared, key: str, data: bytes) -> Variants | None:
        """A record without what was purged. A record that is none is removed."""
        try:
            found = self.marks.apply(format.decode(key, data, tier.shift))
        except format.Corrupt as error:
            log.warning("the cache tier %s has an unusable record: %s", tier.name, error)
            self.counts.of("corrupt", tier.name)(1.0)
            found = None
        if found is None:
            tier.delete(key)
        return found

    def put(self, key: str, variants: Variants, keep: float, begun: float) -> bool:
        """Store ``variants``, whose first is new, for ``keep`` seconds. ``begun`` is the wall clock time at which the request
        for it was sent: an answer to a request that began before a purge is not stored. Whether no purge refused it."""
        newest = variants[0]
        if self.marks.number:
            hard, _ = self.marks.purged(newest)
            left = self.marks.apply(variants) if begun > hard else None
            if left is None:
                self.counts.of("refused", "memory")(1.0)
                return False
            variants = left
        if self._keep(key, variants):
            self.counts.of("stored", "memory")(1.0)
        for tier in self.tiers:
            try:
                data = format.encode(key, variants, tier.shift - tier.margin, self.compress)
            except ValueError as error:
                log.warning("the cache cannot write down %s: %s", newest.url, error)
                self.counts.of("errors", tier.name)(1.0)
                continue
            tier.put(key, data, keep)
        return True

    def _keep(self, key: str, variants: Variants) -> bool:
        kept = self.memory.put(key, variants, sum([compacted(entry, key) for entry in variants]), self.marks.number)
        self._measure()
        return kept

    def _measure(self) -> None:
        self._bytes(self.memory.bytes)
        self._entries(len(self.memory))

    def delete(self, key: str) -> None:
        """Forget one key, in every worker. What is stored under it afterwards is not affected; a purge is."""
        self.memory.delete(key)
        self._measure()
        for tier in self.tiers:
            tier.delete(key)
        self.announce(Purge("key", key, False, time()))

    def look(self, key: str) -> Variants | None:
        """What ``get`` would give, for an operator: nothing is counted, kept or removed."""
        if (node := self.memory.nodes.get(key)) is not None:
            return self.marks.apply(node.value)
        for tier in self.tiers:
            data = tier.get(key)
            try:
                found = self.marks.apply(format.decode(key, data, tier.shift)) if data is not None else None
            except format.Corrupt:
                continue
            if found is not None:
                return found
        return None

    # Purges

    def purge(self, *, url: str | None = None, prefix: str | None = None, tag: str | None = None, everything: bool = False,
              soft: bool = False) -> int:
        """Purge one of these, here at once and elsewhere within a second. How many ways it has gone: 0 is this worker only.

        Raises ValueError when it is not one of them, or is no address.
        """
        purge = parsed_purge(url, prefix, tag, everything, soft, time())
        self.heard(purge)
        return self.announce(purge)

    def announce(self, purge: Purge) -> int:
        """Tell the other workers; how many ways it has gone."""
        return sum(channel.write(purge) for channel in self.channels)

    def waiting(self) -> int:
        """How many purges other machines do not know of yet."""
        return sum(channel.waiting_purges() for channel in self.channels)

    def heard(self, purge: Purge) -> None:
        """A purge made here or elsewhere."""
        if purge.kind == "key":
            self.memory.delete(purge.value)
            return
        if purge.kind == "view":
            if not purge.value:
                self.views_cleared = max(self.views_cleared, purge.at)
            self.view_purged(purge)
            return
        self.marks.add(purge)
        if purge.kind == "everything" and not purge.soft:
            self.memory.clear()
        self._measure()

    # One fetch for all workers

    def lease(self, key: str, seconds: float) -> Lease | None:
        """The right to fetch what is under ``key``, for at most that long; None when another worker has it, or nobody gives it."""
        return self.leases.lease(key, seconds) if self.leases is not None else None

    def wait(self, key: str, seconds: float) -> Variants | None:
        """What the worker that has the lease gets, as soon as it is there; None after ``seconds``, or when it got nothing."""
        if self.leases is None:
            return None
        until, pause = monotonic() + seconds, POLL_FIRST
        while self.leases.leased(key):
            if (left := until - monotonic()) <= 0:
                return None
            sleep(min(pause, left))
            pause = min(pause * 1.5, POLL_MOST)
        node = self.memory.nodes.get(key)
        found = self._fetch(key, node)
        return found if found is not None or node is None else node.value

    # The life of the worker

    def start(self) -> None:
        """In each worker process, after the fork."""
        for channel in self.channels:
            channel.start(self.heard)

    def stop(self) -> None:
        for channel in self.channels:
            channel.stop()
        for tier in self.tiers:
            tier.close()

    def __repr__(self) -> str:
        return f"HttpStore({', '.join(map(repr, (self.memory, *self.tiers)))})"
