"""The pause after a failure to connect: exponential, and short. Pure: the time comes as a parameter.

::

    ready --a failure--> pausing --the pause is over--> ready for one trial --success--> ready
                            ^-------------------- failure, twice as long ---------'

Failures of attempts that began before the last failure are one failure. A trial that ends without a result (its client left) is
over after one more pause.
"""

from __future__ import annotations

FIRST, LONGEST = 1.0, 8.0                                # seconds


class Backoff:
    """``until`` is the end of the pause, on the clock of the caller; 0 without one."""

    __slots__ = ("failures", "until", "_last_failure")

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0
        self._last_failure = 0.0

    def fail(self, start: float, now: float) -> None:
        """Begin a pause: an attempt that began at ``start`` could not connect."""
        if self.failures and start < self._last_failure:
            return
        self.failures += 1
        self._last_failure = now
        self.until = now + self.pause

    def claim(self, now: float) -> None:
        """Begin a trial: for all other attempts the pause goes on."""
        if self.failures:
            self.until = now + self.pause

    def reset(self) -> None:
        self.failures = 0
        self.until = 0.0

    @property
    def pause(self) -> float:
        return min(FIRST * 2.0 ** (self.failures - 1), LONGEST)

    def __repr__(self) -> str:
        return f"Backoff({self.failures} failures)"
