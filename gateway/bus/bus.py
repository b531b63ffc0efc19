"""The bus: publish/subscribe by topic among all workers of all instances.

::

    publish --> subscribers here
      +-------> batch (group_commit.py) --> journal: the workers of this machine    (journal.py)
      +-------> batch --------------------> stream in Redis: those of all machines  (redis_stream.py)

    journal, stream --> deliver --> subscribers

Read your writes: ``Delivery.wait`` returns when every transport has the notices, or when the ``patience`` of a request is over
(delivery then continues in the background). Another worker of the machine that calls ``catch_up`` afterwards has those notices, so
the client that made a change sees it, whichever worker gets its next request.

Guarantees to a subscriber: notices of one worker arrive in the order of their publication, at least once (also at the worker that
published them), never with a time in the future. Of several with the same topic and key perhaps only the latest arrives
(notice.py). A subscriber that starts late or may have missed notices is told of a gap: ``on_gap`` is called with the time up to
which notices may be lost.

Before ``start`` there is no connection and no greenlet, and notices reach the subscribers of this worker only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..loop.native_threads import native_thread
from ..loop.time_limit import LoopLimit
from ..tasks import spawn_apart
from .change_stamp import ChangeStamp
from .clock import BUS_CLOCK
from .group_commit import Batch, GroupCommit
from .notice import EVERY, Deliver, Notice

PATIENCE = 0.05                 # seconds

log = logging.getLogger("gateway")


class Transport(Protocol):
    """A way to other workers. From ``start`` on it calls ``deliver`` with each notice that they publish. ``write`` returns
    whether the notices are written, ``backlog`` the number of those that are not yet. ``stamp`` is None where it has none."""

    @property
    def stamp(self) -> ChangeStamp | None: ...

    def write(self, *notices: Notice) -> bool: ...

    def backlog(self) -> int: ...

    def start(self, deliver: Deliver) -> None: ...

    def stop(self) -> None: ...


class Subscriber(NamedTuple):
    hear: Callable[[Notice], object]
    on_gap: Callable[[float], object]


class OutOfTime(Exception):
    """The patience of a request is over."""


class Delivery:
    """Notices on their way to other workers: for each transport the list of batches with which they are written."""

    __slots__ = ("transports", "patience")

    def __init__(self, transports: list[list[Batch]], patience: float) -> None:
        self.transports = transports
        self.patience = patience

    def wait(self) -> int:
        """Wait until all batches are written, at most ``patience`` seconds. Returns the number of transports that have them all."""
        if not self.transports:
            return 0
        with suppress(OutOfTime), LoopLimit(self.patience, OutOfTime()):
            for batches in self.transports:
                for batch in batches:
                    batch.completion.wait()
        return sum(bool(batches) and all([batch.success for batch in batches]) for batches in self.transports)


class Bus:
    """``transports`` are written to in this order; the first one with a stamp is the journal. ``patience`` is the longest time in
    seconds that a request waits for them."""

    def __init__(self, transports: Sequence[Transport] = (), *, patience: float = PATIENCE,
                 now: Callable[[], float] = BUS_CLOCK.now, clock: MonotonicClock = CLOCK) -> None:
        self.transports = tuple(transports)
        self.patience = patience
        self.now = now
        self.clock = clock
        journals: list[Any] = [transport for transport in self.transports if transport.stamp is not None]
        self._journal: Any = journals[0] if journals else None
        self.stamp: ChangeStamp = journals[0].stamp if journals else ChangeStamp()       # never changes
        self._subscribers: dict[str, list[Subscriber]] = {}
        self._commits = [GroupCommit(transport.write) for transport in self.transports]
        self._owner = native_thread()                    # only greenlets of this thread can wait for batches
        self._reading: Any = None
        self._started = False

    # Publishing

    def subscribe(self, topic: str, hear: Callable[[Notice], object], on_gap: Callable[[float], object]) -> None:
        """Call ``hear`` with each notice of a topic, including those from before ``start`` that transports retain."""
        subscriber = Subscriber(hear, on_gap)
        self._subscribers.setdefault(topic, []).append(subscriber)
        if self._started:
            self._call(on_gap, self.now())

    def publish(self, *notices: Notice) -> Delivery:
        """Deliver notices to the subscribers of this worker immediately, and send them to the other workers."""
        for notice in notices:
            self.deliver(notice)
        return self.send(*notices)

    def send(self, *notices: Notice) -> Delivery:
        """Send notices to the other workers, without delivering them here."""
        if native_thread() == self._owner:
            return Delivery([[commit.add(notice) for notice in notices] for commit in self._commits], self.patience)
        batches = []
        for transport in self.transports if notices else ():
            batch = Batch()
            batch.settle(transport.write(*notices))
            batches.append([batch])
        return Delivery(batches, self.patience)

    def backlog(self) -> int:
        """The number of notices that wait for a transport that cannot write them now."""
        return sum(transport.backlog() for transport in self.transports)

    # Receiving

    def deliver(self, notice: Notice) -> None:
        """Deliver a notice to the subscribers of this worker."""
        if notice.at > (now := self.now()):              # its publisher's clock was set
            notice = notice._replace(at=now)
        if notice.key is not None:
            for subscriber in self._subscribers.get(notice.topic, ()):
                self._call(subscriber.hear, notice)
            return
        for topic, subscribers in self._subscribers.items():
            if notice.topic in (EVERY, topic):
                for subscriber in subscribers:
                    self._call(subscriber.on_gap, notice.at)

    def _call(self, function: Callable[[Any], object], argument: Any) -> None:
        try:
            function(argument)
        except Exception:                                # a defect of one subscriber must not stop the others
            log.exception("a subscriber of the bus failed")

    def catch_up(self) -> None:
        """Read and deliver all notices published on this machine so far, within ``patience`` seconds."""
        stamp = self.stamp
        if stamp.last_read == stamp.cell[0]:
            return
        until = self.clock.now() + self.patience
        while (number := stamp.cell[0]) != stamp.last_read:
            if (left := until - self.clock.now()) <= 0:
                stamp.last_read = number                 # the next request does not wait for the same again
                log.warning("notices of other workers cannot be read within %g s", self.patience)
                return
            if self._reading is None or self._reading.dead:
                self._reading = spawn_apart(self._read)
            with suppress(OutOfTime), LoopLimit(left, OutOfTime()):
                self._reading.join()

    def _read(self) -> None:
        number = self.stamp.cell[0]                      # before reading: what is appended meanwhile is new again
        try:
            self._journal.catch_up(self.deliver)
        except Exception:                                # a defect: not tried again before the next notice
            log.exception("notices of other workers cannot be read")
        self.stamp.last_read = number

    # The life of the worker

    def start(self) -> None:
        """Start the transports. Called in each worker process, after the fork."""
        for transport in self.transports:
            transport.start(self.deliver)
        self._started = True

    def stop(self, seconds: float) -> None:
        """Stop the transports, after at most ``seconds`` in which the remaining notices are written."""
        until = self.clock.now() + seconds
        for commit in self._commits:
            commit.flush(max(0.0, until - self.clock.now()))
        if self._reading is not None:
            self._reading.kill()
        for transport in self.transports:
            transport.stop()
        self._started = False

    def __repr__(self) -> str:
        return f"Bus({', '.join(map(repr, self.transports))})"
