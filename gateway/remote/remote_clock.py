"""Clock offset of a remote machine, with its margin of error. Pure: both clocks are parameters.

Cristian's algorithm: ask for the time several times; the quickest answer tells most, and is wrong by half of its round trip at
most.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

SAMPLES = 5


class RemoteClock:
    """``shift`` is how many seconds the other clock is ahead of ours, ``margin`` by how many that may be wrong."""

    __slots__ = ("shift", "margin")

    def __init__(self) -> None:
        self.shift = self.margin = 0.0

    def compare(self, ask: Callable[[], tuple[int, int]], now: Callable[[], float], samples: int = SAMPLES) -> float:
        """Compare with the other clock, whose seconds and microseconds ``ask`` returns. Returns the seconds of the quickest round
        trip."""
        best, ahead = inf, 0.0
        for _ in range(samples):
            before = now()
            seconds, micros = ask()
            after = now()
            if after - before < best:
                best, ahead = after - before, seconds + micros / 1e6 - (before + after) / 2
        self.shift, self.margin = ahead, max(0.0, best / 2)
        if abs(ahead) <= self.margin:                    # most likely the same clock; it may be off by that, and by the margin
            self.shift, self.margin = 0.0, self.margin * 2
        return best

    def __repr__(self) -> str:
        return f"RemoteClock({self.shift:+.6f} s, give or take {self.margin:.6f} s)"
