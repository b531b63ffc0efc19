"""The moment a request must be over, on the monotonic clock, in seconds.

Every wait below the request takes ``left()``, so that no number of steps can add up to more than the whole allows. The deadline
of a request whose body is streamed starts when the body has arrived (``restart``): a slow upload is bounded by its own progress.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from .errors import DeadlineExceeded, GatewayError


class Deadline:
    """``Deadline(2.5)`` is two and a half seconds from now. ``clock`` returns seconds and never goes back. ``error`` makes the
    error for a deadline that passed; None: DeadlineExceeded."""

    __slots__ = ("at", "seconds", "clock", "error")

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic,
                 error: Callable[[], GatewayError] | None = None) -> None:
        self.seconds = seconds
        self.clock = clock
        self.error = error
        self.at = clock() + seconds

    def left(self) -> float:
        """Seconds left, more than 0. Raises ``over()`` when there are none."""
        left = self.at - self.clock()
        if left <= 0:
            raise self.over()
        return left

    def over(self) -> GatewayError:
        """The error for a deadline that passed."""
        return DeadlineExceeded(f"the {self.seconds:g} s of the request are over") if self.error is None else self.error()

    def restart(self) -> None:
        """Give the whole time again from now."""
        self.at = self.clock() + self.seconds

    def change(self, seconds: float) -> None:
        """Replace the whole time by ``seconds`` from the same start."""
        self.at += seconds - self.seconds
        self.seconds = seconds

    def within(self, seconds: float | None, error: Callable[[], GatewayError] | None = None) -> Deadline:
        """The earlier of this deadline and ``seconds`` from now (None: this one). ``error`` is for the latter."""
        if seconds is None or self.clock() + seconds >= self.at:
            return self
        return Deadline(seconds, self.clock, error)

    def __repr__(self) -> str:
        return f"Deadline({self.at - self.clock():.3f} s left of {self.seconds:g} s)"
