"""How long the next wait of an exchange may last, and what it means when that time is over.

A wait says ``begin()``, then asks ``left()`` for its seconds and, when they have passed, raises ``over()``. One whose time is
looked at only when an alarm rings takes from ``begin()`` when that is to be. While a streamed request body is still moving
(``sender.moving``) nothing but the sender's own limit holds: a slow upload is bounded by its progress. What has gone wrong in the
sender is raised by ``left()``, so that it ends the wait of whoever reads the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Protocol

from ..deadline import Deadline

Make = Callable[[], Exception]


class Moving(Protocol):
    """The sender of a request body, as far as a limit looks at it."""

    moving: bool
    failure: BaseException | None


class Limit:
    """The earlier of ``deadline`` and ``seconds`` from now; ``error`` makes what is raised for the latter."""

    __slots__ = ("deadline", "seconds", "until", "error", "sender", "_own")

    def __init__(self, deadline: Deadline | None, seconds: float | None, error: Make) -> None:
        self.deadline = deadline
        self.seconds = seconds
        self.until = None if seconds is None else monotonic() + seconds
        self.error = error
        self.sender: Moving | None = None
        self._own = False

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
        own = self.until - monotonic()
        if left is not None and left <= own:
            self._own = False
            return left
        if own <= 0:
            raise self.error()
        self._own = True
        return own

    def begin(self) -> float:
        """When a wait that begins now is to look again, on the monotonic clock."""
        if self.sender is not None:
            left = self.left()
            return inf if left is None else monotonic() + left
        own = inf if self.until is None else self.until
        deadline = self.deadline
        return own if deadline is None or own < deadline.at else deadline.at

    def over(self) -> Exception:
        """The error for a wait that lasted as long as it might."""
        if self._own or self.deadline is None:
            return self.error()
        return self.deadline.over()

    def restart(self) -> None:
        """Give the seconds again from now."""
        if self.seconds is not None:
            self.until = monotonic() + self.seconds

    def within(self, seconds: float, error: Make) -> Limit:
        """This limit, and not more than ``seconds`` from now."""
        if self.until is not None and self.until - monotonic() <= seconds:
            return self
        return Limit(self.deadline, seconds, error)


class Silence(Limit):
    """Each wait may last ``seconds``: the longest silence, however long the whole takes. The deadline, if any, holds as well."""

    __slots__ = ()

    def begin(self) -> float:
        self.restart()
        return super().begin()
