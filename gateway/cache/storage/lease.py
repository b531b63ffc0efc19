"""The lease of a key: the right of one worker to fetch what is under it, while the others wait for what it gets.

::

    request --> active, ``short`` seconds at a time, extended every ``tick`` --> release
                  |                                                                | +--> its worker is lost, or the tier away: it
                  expires            +--> not written yet: the next lease of this worker

When it is released because the answer is stored, nobody gets it for a moment: a worker that looked just before that looks again.
A request waits for a lease as long as it may wait for the shared tiers. When the tier has not answered by then, the request goes on
as if it had the lease; at worst two workers fetch the same. Whatever extends and ends a lease is written beside the requests
(write_behind.py). What is lost on that way costs the others ``short`` seconds.
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
    """Holds until it is released, or its time is over. Only its own holder releases it. No method waits."""

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
        """Its name in the queue of the writer. No record has one like it."""
        return f"lease\n{self.key}\n{self.token}"

    def release(self, is_stored: bool = False) -> None:
        self.over = True
        self.leases.ending[self.key] = self
        self.leases.writer.withdraw(self.name)           # a record may have been put since: that goes first
        self._add("release", self.key, self.token, is_stored, after=partial(self.leases.forget, self))

    def extend(self, seconds: float) -> None:
        """Hold it for ``seconds`` from now on."""
        self._add("extend", self.key, self.token, self.short(seconds))

    def short(self, seconds: float | None = None) -> float:
        """For how long the tier is asked now, when it is to hold for ``seconds``, or as long as before."""
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
    """Those of one worker, in ``tier``. The greenlet that extends them runs while there are any."""

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
        """The lease of ``key`` for ``seconds``; None when another worker has it, or the tier gives none. Waits ``patience``
        seconds."""
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
        asking = spawn(self._ask, lease, short)
        try:
            asking.join(patience)
        except BaseException:
            lease.release()
            raise
        return self._activate(lease) if lease.is_held or not asking.dead else None

    def _ask(self, lease: Lease, seconds: float) -> None:
        lease.is_held = self.tier.lease(lease.key, lease.token, seconds)
        if lease.is_held and lease.over:                 # released before it was there
            lease.release()

    def forget(self, lease: Lease) -> None:
        """Its release was written."""
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
