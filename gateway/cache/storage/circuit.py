"""What a tier behind a network may cost: one operation its time, once; then nobody asks until the tier is back.

::

    usable --an operation failed or took too long--> paused --its time is over--> usable
                                                       |  ^                          ^
                                                       +--+ others under way fail    | resume(): someone who follows the tier
                                                                                     | has found it well (purge/redis_stream.py)

A circuit that is followed never ends a pause by itself: no request pays for finding out. The first pause is FIRST seconds long,
each that follows soon twice as long, up to MOST.

Nothing is paused for what is not the tier's fault: a refusal concerns one operation only, such as a full memory; Busy is one that
was never sent, because as many as may be were under way; and an operation's time runs as the loop sees it (tasks.LoopLimit).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TypeVar

from ...tasks import LoopLimit, Semaphore

FIRST, MOST = 1.0, 15.0         # seconds
CALM = 60.0                     # seconds without a failure after which the next pause is a first one again

log = logging.getLogger("gateway")
T = TypeVar("T")


class Slow(Exception):
    """An operation took longer than it may."""


class Refused(Exception):
    """The tier is well, and will not do this one thing."""


class Busy(Exception):
    """As many operations as may be are under way: the tier was not asked."""


class Slots:
    """At most ``count`` operations at once; the others wait for ``patience`` seconds. ``run`` raises Busy."""

    def __init__(self, count: int, patience: float) -> None:
        self.patience = patience
        self._free = Semaphore(count)

    def run(self, operation: Callable[[], T]) -> T:
        if not self._free.acquire(timeout=self.patience):
            raise Busy
        try:
            return operation()
        finally:
            self._free.release()


class Circuit:
    """``timeout`` is in seconds, ``errors`` are those that pause; ``failed`` is called with 1 for each failure."""

    def __init__(self, name: str, timeout: float, errors: tuple[type[Exception], ...], *,
                 failed: Callable[[float], None] = lambda number: None, clock: Callable[[], float] = monotonic) -> None:
        self.name = name
        self.timeout = timeout
        self.errors: tuple[type[Exception], ...] = (*errors, OSError, Slow)
        self.failed = failed
        self.clock = clock
        self.failure = ""                                # why it is paused, or was refused last
        self._followed = self._paused = False
        self._until, self._length, self._failed_at = 0.0, 0.0, -inf

    @property
    def usable(self) -> bool:
        return not self._paused or not self._followed and self.clock() >= self._until

    def attempt(self, operation: Callable[[], T]) -> T | None:
        """The result, or None when the tier is paused, busy, or the operation fails. It limits its time itself (``limited``)."""
        if self._paused and not self.usable:
            return None
        try:
            result = operation()
        except Busy:
            return None
        except Refused as error:
            self.failed(1.0)
            if str(error) != self.failure:
                self.failure = str(error)
                log.warning("%s refuses what the cache asks: %s", self.name, error)
            return None
        except self.errors as error:
            self.failed(1.0)
            self.pause(error)
            return None
        if self._paused and not self._followed:
            self.resume()
        return result

    def limited(self, operation: Callable[[], T], seconds: float | None = None) -> T:
        """The result, within ``seconds``, or the time that an operation has. Raises what it raises, and Slow."""
        seconds = seconds or self.timeout
        with LoopLimit(seconds, Slow(f"no answer within {seconds * 1000:.0f} ms")):
            return operation()

    def pause(self, error: Exception) -> None:
        now = self.clock()
        if self._paused and now < self._until:
            return                                       # others that were under way fail too
        self._length = FIRST if now - self._failed_at > CALM else min(MOST, self._length * 2)
        self._failed_at, self._until = now, now + self._length
        failure = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if failure != self.failure:
            log.warning("the cache goes on without %s: %s", self.name, failure)
        self._paused, self.failure = True, failure

    def resume(self) -> None:
        """The tier is well."""
        if self._paused and self.failure:
            log.warning("the cache uses %s again", self.name)
        self._paused, self.failure = False, ""

    def follow(self) -> None:
        """From now on somebody calls ``resume`` when the tier can be used, the first time too."""
        self._followed = self._paused = True

    def left(self) -> float:
        """Seconds until it is worth trying again."""
        return max(0.0, self._until - self.clock())

    def __repr__(self) -> str:
        return "usable" if self.usable else f"paused, {self.failure or 'not tried yet'}"
