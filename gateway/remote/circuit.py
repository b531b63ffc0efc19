"""Circuit breaker with a time limit for operations on Redis and Memcached: a server that fails costs one request its time limit,
once.

An operation that fails or takes too long opens the breaker (breaker.py). After the pause one trial operation at a time finds out
whether the server works. A circuit that is followed (``follow``) has no trials: whoever has a connection to the server anyway
(bus/redis_stream.py) calls ``resume``, so that no request waits for one.

What is not the server's fault does not open it: OperationRefused is the server's refusal of one operation, such as a write at its
memory limit; Busy is an operation that was not sent because too many are in progress; and time counts only while the event loop
runs (LoopLimit).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from ..breaker import Breaker, State
from ..loop.time_limit import LoopLimit
from ..tasks import Semaphore

log = logging.getLogger("gateway")
T = TypeVar("T")


class Slow(Exception):
    """An operation took longer than it may."""


class OperationRefused(Exception):
    """The server works, and refuses this one operation."""


class Busy(Exception):
    """Too many operations are in progress: this one was not sent."""


class Slots:
    """A semaphore: at most ``count`` operations at once. ``run`` waits ``patience`` seconds for its turn, then raises Busy."""

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
    """``timeout`` is the time limit of an operation in seconds, ``errors`` are those that open the breaker besides OSError and
    Slow. ``on_failure`` is called with 1 for each failure."""

    def __init__(self, name: str, timeout: float, errors: tuple[type[Exception], ...], *,
                 on_failure: Callable[[float], None] = lambda number: None, breaker: Breaker | None = None,
                 clock: Callable[[], float] = monotonic) -> None:
        self.name = name
        self.timeout = timeout
        self.errors: tuple[type[Exception], ...] = (*errors, OSError, Slow)
        self.on_failure = on_failure
        self.breaker = breaker or Breaker()
        self.clock = clock
        self.failure = ""                                # why it is paused, or the last refusal

    @property
    def usable(self) -> bool:
        """Would an operation be admitted?"""
        return self.breaker.admits(self.clock())

    @property
    def is_paused(self) -> bool:
        return self.breaker.state(self.clock()) is State.OPEN

    def attempt(self, operation: Callable[[], T]) -> T | None:
        """Run ``operation`` and return its result; None when the circuit is open, or the operation is refused, busy or fails. The
        operation limits its time itself (``limit``)."""
        permit = self.breaker.admit(self.clock())
        if permit is None:
            return None
        try:
            result = operation()
        except Busy:
            self.breaker.cancel(permit)
            return None
        except OperationRefused as error:
            self.on_failure(1.0)
            if self.breaker.succeed(permit):
                self._report_recovery()
            if str(error) != self.failure:
                self.failure = str(error)
                log.warning("%s refuses an operation: %s", self.name, error)
            return None
        except self.errors as error:
            self.on_failure(1.0)
            if self.breaker.fail(permit, self.clock()):
                self._report_failure(error)
            return None
        except BaseException:                            # the caller's own error, or it is killed
            self.breaker.cancel(permit)
            raise
        if self.breaker.succeed(permit):
            self._report_recovery()
        return result

    def limit(self, operation: Callable[[], T], seconds: float | None = None) -> T:
        """Run ``operation`` within ``seconds`` (default: ``timeout``) and return its result. Raises its errors, and Slow."""
        seconds = seconds or self.timeout
        with LoopLimit(seconds, Slow(f"no answer within {seconds * 1000:.0f} ms")):
            return operation()

    def pause(self, error: Exception) -> None:
        """Open the breaker for a failure that was detected outside of ``attempt``."""
        if self.breaker.open(self.clock()):
            self._report_failure(error)

    def resume(self) -> None:
        """Close the breaker: the server works."""
        if self.breaker.state(self.clock()) is not State.CLOSED:
            self.breaker.close()
            self._report_recovery()

    def follow(self) -> None:
        """Hold the breaker open until ``resume``, now and after each failure, in place of trials."""
        self.breaker.hold()

    def left(self) -> float:
        """Seconds until the next trial."""
        return self.breaker.left(self.clock())

    def _report_failure(self, error: Exception) -> None:
        failure = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if failure != self.failure:
            log.warning("%s is not used for now: %s", self.name, failure)
        self.failure = failure

    def _report_recovery(self) -> None:
        if self.failure:
            log.warning("%s is used again", self.name)
        self.failure = ""

    def __repr__(self) -> str:
        return "usable" if self.usable else f"paused, {self.failure or 'not tried yet'}"
