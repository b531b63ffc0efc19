"""Group commit of notices to one transport: those added while one batch is written form the next.

There may be thousands a second, many with the same topic and key: of these a batch has the latest, at the position of the latest.
When more than ``limit`` different ones wait, gaps replace them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..tasks import Event, spawn_apart
from .notice import Identity, Notice, gaps

LIMIT = 100_000                 # notices in a batch

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
    """``write`` writes any number of notices to the transport and returns whether it has them. It may block."""

    def __init__(self, write: Callable[..., bool], limit: int = LIMIT) -> None:
        self.write = write
        self.limit = limit
        self._next = Batch()
        self._greenlet: Any = None

    def add(self, notice: Notice) -> Batch:
        """Add a notice to the next batch and return that batch."""
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
            except Exception:                            # a defect of this transport must not stop the next batch
                log.exception("%d notices are lost", len(batch.notices))
            finally:
                batch.settle(success)

    def flush(self, seconds: float) -> None:
        """Wait until all notices are written, at most ``seconds``; then give up the rest."""
        if self._greenlet is not None:
            self._greenlet.join(seconds)
            self._greenlet.kill()

    def __repr__(self) -> str:
        return f"GroupCommit({len(self._next.notices)} wait)"
