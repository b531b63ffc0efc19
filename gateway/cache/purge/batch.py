"""Group commit of purges on one channel (cache/storage/tiers.py): what comes while one batch is written goes with the next, once
for each thing.

There may be thousands in a second, many of one thing. Who has changed something waits until the batch with his purge is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ...tasks import Event, spawn_apart
from .marks import Purge, floor

MOST = 100_000                  # purges that wait for a channel

log = logging.getLogger("gateway")


class PurgeBatch:
    """``write`` tells all of a list. It may wait."""

    def __init__(self, write: Callable[..., object]) -> None:
        self.write = write
        self._untold: dict[tuple[str, str, bool], Purge] = {}
        self._written = Event()
        self._greenlet: Any = None

    def add(self, purge: Purge) -> Event:
        """To be told at once; of several of one thing the last, and for too many a floor. What is returned is set when the channel
        has it, or cannot take it."""
        if len(self._untold) >= MOST and purge[:3] not in self._untold:
            self._untold = {lost[:3]: lost for lost in floor(purge.at)}
        self._untold[purge[:3]] = purge
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = spawn_apart(self._tell)
        return self._written

    def _tell(self) -> None:
        while self._untold:
            untold, self._untold = self._untold, {}
            written, self._written = self._written, Event()
            try:
                self.write(*untold.values())
            except Exception:                            # a defect of this channel: what comes next is told all the same
                log.exception("the purges of %d things are not told", len(untold))
            finally:
                written.set()

    def flush(self, seconds: float) -> None:
        """Wait until all is told, for at most that long."""
        if self._greenlet is not None:
            self._greenlet.join(seconds)
            self._greenlet.kill()

    def __repr__(self) -> str:
        return f"PurgeBatch({len(self._untold)} to be told)"
