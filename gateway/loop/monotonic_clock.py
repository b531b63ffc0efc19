"""The monotonic clock, as an object that is passed in: what reads it waits by it too, so that a simulation can replace both.

``CLOCK`` is the real one, the default of whoever takes a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic
from typing import Protocol

import gevent

from .alarm import Alarm
from .time_limit import TimeLimit, catch_up


class Waitable(Protocol):
    """An event of gevent's: Event and AsyncResult are such."""

    def ready(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> object: ...


class MonotonicClock:
    """``now()`` is in seconds and never goes back."""

    __slots__ = ()

    now: Callable[[], float] = staticmethod(monotonic)

    def wait(self, event: Waitable, seconds: float | None) -> bool:
        """Whether ``event`` has come, after ``seconds`` at the latest (None: no limit)."""
        event.wait(seconds)
        if not event.ready():
            catch_up()
        return event.ready()

    def sleep(self, seconds: float) -> None:
        gevent.sleep(seconds)

    def alarm(self) -> Alarm:
        """An alarm; it is not set yet."""
        return Alarm()

    def time_limit(self, seconds: float, error: Exception) -> AbstractContextManager[None]:
        """A block that raises ``error`` when it has not ended in ``seconds``."""
        return TimeLimit(seconds, error)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.now():.3f} s)"


CLOCK = MonotonicClock()
