"""The lease of a key: the right of one worker to fetch its answer, while the other workers wait for that.

::

    request --> active, ``short`` seconds at a time, extended every ``tick`` --> release
                  |                                                                | +--> its worker is lost, or the tier away: it
                  expires            +--> not written yet: the next lease of this worker

After a release with a stored answer the lease stays taken for a moment, so that a worker that has just missed looks again.
A request waits for a lease as long as for a lookup in the shared tiers. If the tier has not answered by then, the request continues
as if it had the lease; at worst two workers fetch the same. Extensions and releases are written in the background
(write_behind.py); one that is lost delays other workers by ``short`` seconds.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import Any

from ...loop.monotonic_clock import CLOCK, MonotonicClock
from ...tasks import spawn, spawn_apart
from .tiers import LeasingTier
from .write_behind import PendingWrite, WriteBehind

SHORT, TICK = 2.0, 0.5          # seconds


class Lease:
    """A lease, valid until it is released or expires. Only its owner releases it. No method blocks."""

    __slots__ = ("key", "token", "leases", "is_held", "over", "until", "due")

    def __init__(self, key: str, token: str, leases: Leases) -> None:
        self.key = key
        self.token = token
        self.leases = leases
        self.is_held: bool | None = None                 # what the tier said
        self.over = False
        self.until = self.due = 0.0                      # when it ends at last, and when it is to be extended

    @property
    def name(self) -> str:
        """Its name in the write queue, different from that of any record."""
        return f"lease\n{self.key}\n{self.token}"

    def release(self, is_stored: bool = False) -> None:
        self.over = True
        self.leases.ending[self.key] = self
        self.leases.writer.withdraw(self.name)           # a record may have been put since: that goes first
        self._add("release", self.key, self.token, is_stored, after=partial(self.leases.forget, self))

    def extend(self, seconds: float) -> None:
        """Extend the lease to ``seconds`` from now."""
        self._add("extend", self.key, self.token, self.short(seconds))

    def short(self, seconds: float | None = None) -> float:
        """Set the end to ``seconds`` from now, if given, and return the seconds for which to request it from the tier now."""
        now = self.leases.timer.now()
        if seconds is not None:
            self.until = now + seconds
        self.due = now + self.leases.tick
        return min(self.leases.short, self.until - now)

    def _add(self, *operation: object, after: Any = None) -> None:
        self.leases.writer.add(self.name, PendingWrite(lambda: operation, after=after))

    def __repr__(self) -> str:
        return f"Lease({self.key})"


class Leases:
    """The leases of one worker, in ``tier``. A greenlet extends them while there are any."""

    def __init__(self, tier: LeasingTier, writer: WriteBehind, *, short: float = SHORT, tick: float = TICK,
                 timer: MonotonicClock = CLOCK) -> None:
        self.tier = tier
        self.writer = writer
        self.short = short
        self.tick = tick
        self.timer = timer
        self.active: set[Lease] = set()
        self.ending: dict[str, Lease] = {}               # by key, the last whose release is still to be written
        self._greenlet: Any = None

    def take(self, key: str, seconds: float, patience: float) -> Lease | None:
        """Take the lease of ``key`` for ``seconds``; None when another worker has it, or the tier refuses. Waits at most
        ``patience`` seconds."""
        before = self.ending.get(key)
        if before is not None and before.is_held and self.writer.withdraw(before.name) is not None:
            del self.ending[key]
            lease = Lease(key, before.token, self)       # our own, about to be released: it goes on
            lease.is_held = True
            lease.extend(seconds)
            return self._activate(lease)
        lease = Lease(key, secrets.token_hex(8), self)
        short = lease.short(seconds)
        if patience <= 0:
            self.writer.add(lease.name, PendingWrite(lambda: ("lease", key, lease.token, short)))
            return self._activate(lease)
        greenlet = spawn(self._ask, lease, short)
        try:
            greenlet.join(patience)
        except BaseException:
            lease.release()
            raise
        return self._activate(lease) if lease.is_held or not greenlet.dead else None

    def _ask(self, lease: Lease, seconds: float) -> None:
        lease.is_held = self.tier.lease(lease.key, lease.token, seconds)
        if lease.is_held and lease.over:                 # released before it was there
            lease.release()

    def forget(self, lease: Lease) -> None:
        """Forget a lease whose release was written."""
        if self.ending.get(lease.key) is lease:
            del self.ending[lease.key]

    def _activate(self, lease: Lease) -> Lease:
        self.active.add(lease)
        if self._greenlet is None:
            self._greenlet = spawn_apart(self._extend)
        return lease

    def _extend(self) -> None:
        try:
            while self.active:
                self.timer.sleep(self.tick)
                now = self.timer.now()
                self.active = {lease for lease in self.active if not lease.over and lease.until > now}
                for lease in self.active:
                    if lease.due <= now and self.tier.usable:
                        lease.extend(lease.until - now)
        finally:
            self._greenlet = None

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()

    def __repr__(self) -> str:
        return f"Leases({len(self.active)} active)"
