"""Time limit of the next wait of an exchange, and the error that ends it.

A wait calls ``begin()``, then takes its seconds from ``left()`` and, when they have passed, raises ``over()``. A wait that looks at
its time only when an alarm rings takes the time of the alarm from ``begin()``. While a streamed request body is still being sent
(``sender.moving``) only the sender's own limit holds: a slow upload is bounded by its progress. A failure of the sender is raised
by ``left()``, so that it ends the wait of whoever reads the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

from ..deadline import Deadline
from ..loop.monotonic_clock import CLOCK, MonotonicClock

MakeError = Callable[[], Exception]


class BodySender(Protocol):
    """The sender of a request body, as far as a limit looks at it."""

    moving: bool
    failure: BaseException | None


class Limit:
    """The earlier of ``deadline`` and ``seconds`` from now; ``error`` makes what is raised for the latter. ``clock`` is the one of
    the deadline."""

    __slots__ = ("deadline", "seconds", "clock", "until", "error", "sender")

    def __init__(self, deadline: Deadline | None, seconds: float | None, error: MakeError, clock: MonotonicClock = CLOCK) -> None:
        self.deadline = deadline
        self.seconds = seconds
        self.clock = clock
        self.until = None if seconds is None else clock.now() + seconds
        self.error = error
        self.sender: BodySender | None = None

    def left(self) -> float | None:
        """Seconds for the next wait, more than 0; None: no limit. Raises when there are none."""
        sender = self.sender
        if sender is not None:
            if sender.failure is not None:
                raise sender.failure
            if sender.moving:
                return None
        left = None if self.deadline is None else self.deadline.left()
        if self.until is None:
            return left
        own = self.until - self.clock.now()
        if left is not None and left <= own:
            return left
        if own <= 0:
            raise self.error()
        return own

    def begin(self) -> float:
        """When a wait that begins now is to look at its time again, on the clock."""
        if self.sender is not None:
            left = self.left()
            return inf if left is None else self.clock.now() + left
        own = inf if self.until is None else self.until
        deadline = self.deadline
        return own if deadline is None or own < deadline.at else deadline.at

    def over(self) -> Exception:
        """The error for a wait that lasted as long as it might."""
        deadline = self.deadline
        if deadline is None or self.until is not None and self.until < deadline.at:
            return self.error()
        return deadline.over()

    def restart(self) -> None:
        """Give the seconds again from now."""
        if self.seconds is not None:
            self.until = self.clock.now() + self.seconds

    def within(self, seconds: float, error: MakeError) -> Limit:
        """This limit, and not more than ``seconds`` from now."""
        if self.until is not None and self.until - self.clock.now() <= seconds:
            return self
        return Limit(self.deadline, seconds, error, self.clock)


class SilenceLimit(Limit):
    """A limit whose ``seconds`` bound each wait, not the whole: the longest silence. The deadline, if any, holds as well."""

    __slots__ = ()

    def begin(self) -> float:
        self.restart()
        return super().begin()
