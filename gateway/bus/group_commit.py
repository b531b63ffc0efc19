"""Group commit of notices to one transport: what is added while one batch is written goes with the next.

There may be thousands in a second, many with the same key: of these a batch has the latest, behind what was added before it. When
too many different ones wait, gaps take their place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..tasks import Event, spawn_apart
from .notice import Identity, Notice, gaps

LIMIT = 100_000                 # notices that wait for a transport

log = logging.getLogger("gateway")


class Batch:
    """Notices that are written together. ``completion`` is set when they were, or could not be; then ``success`` says which."""

    __slots__ = ("notices", "completion", "success")

    def __init__(self) -> None:
        self.notices: dict[Identity, Notice] = {}
        self.completion = Event()
        self.success = False

    def settle(self, success: bool) -> None:
        self.success = success
        self.completion.set()

    def __repr__(self) -> str:
        return f"Batch({len(self.notices)} notices)"


class GroupCommit:
    """``write`` takes any number of notices, and may wait; its result is whether the transport has them."""

    def __init__(self, write: Callable[..., bool], limit: int = LIMIT) -> None:
        self.write = write
        self.limit = limit
        self._next = Batch()
        self._greenlet: Any = None

    def add(self, notice: Notice) -> Batch:
        """The batch with which the notice is written."""
        notices = self._next.notices
        if notices.pop(notice.identity, None) is None and len(notices) >= self.limit:
            replacement = gaps(notices, notice.at)
            notices.clear()
            notices.update(replacement)
        notices[notice.identity] = notice
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = spawn_apart(self._run)
        return self._next

    def _run(self) -> None:
        while self._next.notices:
            batch, self._next = self._next, Batch()
            success = False
            try:
                success = self.write(*batch.notices.values())
            except Exception:                            # a defect of this transport: what comes next is written all the same
                log.exception("%d notices are lost", len(batch.notices))
            finally:
                batch.settle(success)

    def flush(self, seconds: float) -> None:
        """Wait until everything is written, for at most that long."""
        if self._greenlet is not None:
            self._greenlet.join(seconds)
            self._greenlet.kill()

    def __repr__(self) -> str:
        return f"GroupCommit({len(self._next.notices)} wait)"
