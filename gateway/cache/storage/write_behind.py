"""Write-behind: records, deletions and leases go to a tier beside the requests, in batches. No request waits for it.

::

    add --> queue: under each name the last operation --> a batch --> the tier, one batch after the other
     |
     +--- full: the operation is dropped, and counted, as is what the tier does not take

Order: what was added under a name later is written later, or instead; names are written in the order in which they were
first added, unless what waited was withdrawn first. So a worker that sees a lease gone sees the record that was put before it.
Deletions and leases find room when records do not.

An operation is made when it is its turn (``make``), so that a purge that came meanwhile counts. The greenlet that writes begins
with the first operation and ends after the last: there is none before the fork, and none while nothing waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ...tasks import spawn_apart
from .tiers import Operation

RECORDS, BYTES = 1000, 32 * 1024 ** 2   # that wait
OTHERS = 10_000                         # deletions and leases that wait
BATCH, BATCH_BYTES = 64, 256 * 1024     # of one batch, which may be a single large record

log = logging.getLogger("gateway")


class PendingWrite:
    """A queued operation. ``make`` creates it when it is sent, or returns None when it is obsolete. ``value`` is what it stores,
    for lookups until then; ``size`` that of a record in bytes, else 0. ``after`` is called when it, or its replacement, was
    written or has failed."""

    __slots__ = ("make", "value", "size", "after")

    def __init__(self, make: Callable[[], Operation | None], value: Any = None, size: int = 0,
                 after: Callable[[], object] | None = None) -> None:
        self.make = make
        self.value = value
        self.size = size
        self.after = after


class WriteBehind:
    """The write queue of one tier, whose ``write`` takes a batch and returns how many operations were lost. ``on_drop`` is called
    with the number of those, and of those that the full queue rejected. The queue is limited in ``records``, their bytes, and
    ``others``; a batch likewise."""

    def __init__(self, write: Callable[[Sequence[Operation]], int | None], on_drop: Callable[[float], None], *,
                 records: int = RECORDS, record_bytes: int = BYTES, others: int = OTHERS, batch: int = BATCH,
                 batch_bytes: int = BATCH_BYTES) -> None:
        self.write = write
        self.on_drop = on_drop
        self.limits = records, record_bytes, others
        self.batch_limits = batch, batch_bytes
        self.bytes = 0
        self._records = 0
        self._queue: dict[str, PendingWrite] = {}
        self._sending: dict[str, PendingWrite] = {}
        self._greenlet: Any = None

    def __len__(self) -> int:
        return len(self._queue) + len(self._sending)

    def add(self, name: str, write: PendingWrite) -> bool:
        """Queue a write, replacing one of the same name; returns False when the queue is full."""
        before = self._queue.get(name)
        self._leave(before)
        if before is not None and write.after is None:
            write.after = before.after
        if not self._has_room(write):
            if self._queue.pop(name, None) is not None:  # what was to be written before is not right any more
                self.on_drop(1.0)
            self.on_drop(1.0)
            if write.after is not None:
                write.after()
            return False
        self._queue[name] = write
        self.bytes += write.size
        self._records += bool(write.size)
        if self._greenlet is None:
            self._greenlet = spawn_apart(self._run)
        return True

    def _has_room(self, write: PendingWrite) -> bool:
        records, record_bytes, others = self.limits
        if write.size:
            return self._records < records and self.bytes + write.size <= record_bytes
        return len(self._queue) < others

    def _leave(self, write: PendingWrite | None) -> None:
        if write is not None:
            self.bytes -= write.size
            self._records -= bool(write.size)

    def pending(self, name: str) -> PendingWrite | None:
        """The write of this name that is queued or being sent; None when there is none."""
        return self._queue.get(name) or self._sending.get(name)

    def withdraw(self, name: str) -> PendingWrite | None:
        """Cancel the queued write of this name and return it; None when there is none, or it is being sent."""
        write = self._queue.pop(name, None)
        self._leave(write)
        return write

    def _run(self) -> None:
        try:
            while self._queue:
                self._write(self._batch())
        finally:
            self._greenlet = None

    def _batch(self) -> dict[str, PendingWrite]:
        batch: dict[str, PendingWrite] = {}
        (most, most_bytes), size = self.batch_limits, 0
        for name, write in self._queue.items():
            if batch and (len(batch) >= most or size + write.size > most_bytes):
                break
            batch[name] = write
            size += write.size
        for name in batch:
            self._leave(self._queue.pop(name))
        return batch

    def _write(self, batch: dict[str, PendingWrite]) -> None:
        self._sending = batch
        try:
            operations = [operation for write in batch.values() if (operation := write.make()) is not None]
            if operations and (losses := self.write(operations)):
                self.on_drop(float(losses))
        except Exception:
            log.exception("what the cache writes beside the requests is lost")
            self.on_drop(float(len(batch)))
        finally:
            self._sending = {}
        for write in batch.values():
            if write.after is not None:
                write.after()

    def flush(self, seconds: float) -> bool:
        """Wait until everything is written, at most ``seconds``; returns whether it is."""
        if self._greenlet is not None:
            self._greenlet.join(seconds)
        return not len(self)

    def stop(self, seconds: float) -> None:
        """Wait as ``flush`` does, then drop the remaining writes."""
        if not self.flush(seconds):
            greenlet = self._greenlet
            self.on_drop(float(len(self)))
            self._queue.clear()
            self.bytes = self._records = 0
            greenlet.kill()

    def __repr__(self) -> str:
        return f"WriteBehind({len(self)} waiting, {self.bytes} bytes)"
