"""How other workers hear of what unsafe requests have changed: all that a worker has to tell of some milliseconds in one go.

A purge that somebody asks for is told at once, and he hears how far it went. What a POST has changed nobody waits for, and there
may be thousands in a second, many of one thing.
"""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import Any

from ..tasks import spawn_apart
from .purge import Purge

EVERY = 0.02                    # seconds


class Telling:
    """``write`` tells all of a list. It may wait."""

    def __init__(self, write: Callable[[list[Purge]], object]) -> None:
        self.write = write
        self._untold: dict[tuple[str, str, bool], Purge] = {}
        self._greenlet: Any = None

    def add(self, purge: Purge) -> None:
        """To be told soon; of several of one thing the last."""
        self._untold[purge[:3]] = purge
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = spawn_apart(self._tell)

    def _tell(self) -> None:
        while self._untold:
            sleep(EVERY)
            self.now()

    def now(self) -> None:
        untold, self._untold = list(self._untold.values()), {}
        if untold:
            self.write(untold)

    def __repr__(self) -> str:
        return f"Telling({len(self._untold)} to be told)"
