"""What a server may cost the requests that ask it: one operation its time, once; then nobody asks until it is well again.

A Circuit is a breaker (breaker.py) with a time limit for each operation. An operation that fails or takes too long opens it. After
the pause one operation at a time finds out whether the server is well; a circuit that is followed (``follow``) leaves that to
someone who follows the server anyway (bus/redis_stream.py) and calls ``resume``, so that no request pays for it.

Nothing is paused for what is not the server's fault: a refusal (Refused) concerns one operation only, such as a full memory; Busy
is an operation that was never sent, because as many as may be were under way; and an operation's time runs as the loop sees it
(LoopLimit).
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


class Refused(Exception):
    """The server is well, and will not do this one thing."""


class Busy(Exception):
    """As many operations as may be are under way: the server was not asked."""


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
    """``timeout`` is in seconds, ``errors`` are those that pause; ``on_failure`` is called with 1 for each failure."""

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
        """The result; None when the circuit is paused, the server busy, or the operation fails. The operation limits its time
        itself (``limit``)."""
        permit = self.breaker.admit(self.clock())
        if permit is None:
            return None
        try:
            result = operation()
        except Busy:
            self.breaker.cancel(permit)
            return None
        except Refused as error:
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
        except BaseException:                            # the caller's own error, or its death
            self.breaker.cancel(permit)
            raise
        if self.breaker.succeed(permit):
            self._report_recovery()
        return result

    def limit(self, operation: Callable[[], T], seconds: float | None = None) -> T:
        """The result, within ``seconds``, or the time that an operation has. Raises what it raises, and Slow."""
        seconds = seconds or self.timeout
        with LoopLimit(seconds, Slow(f"no answer within {seconds * 1000:.0f} ms")):
            return operation()

    def pause(self, error: Exception) -> None:
        """Open for a failure that was noticed in another way than by an operation."""
        if self.breaker.open(self.clock()):
            self._report_failure(error)

    def resume(self) -> None:
        """The server is well."""
        if self.breaker.state(self.clock()) is not State.CLOSED:
            self.breaker.close()
            self._report_recovery()

    def follow(self) -> None:
        """From now on somebody calls ``resume`` when the server can be used, the first time too."""
        self.breaker.hold()

    def left(self) -> float:
        """Seconds until it is worth trying again."""
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
