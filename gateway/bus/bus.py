"""The bus: what a worker publishes is heard by every worker of every instance, by topic.

::

    publish --> subscribers here
      +-------> batch (group_commit.py) --> journal: the workers of this machine    (journal.py)
      +-------> batch --------------------> stream in Redis: those of all machines  (redis_stream.py)

    journal, stream --> deliver --> subscribers

``Delivery.wait`` ends when every transport has what was published, or the ``patience`` of a request is over; the rest goes on. A
worker that then calls ``catch_up`` has heard it: so who has changed something sees the change, whichever worker of the machine gets
the next request.

What subscribers can rely on: the notices of one worker are heard in the order in which it published them; a notice may be heard
more than once, also by the worker that published it, and of several with the same topic and key perhaps only the latest
(notice.py); it is never of later than now. A subscriber that begins late, or may have missed something, hears of a gap: its
``on_gap`` is called with the time up to which notices may be lost.

Nothing runs before ``start``: no connection, no greenlet. Without it, nobody else is heard.
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
from . import clock
from .bell import Bell
from .group_commit import Batch, GroupCommit
from .notice import EVERY, Notice

PATIENCE = 0.05                 # seconds

log = logging.getLogger("gateway")


class Transport(Protocol):
    """A way to other workers. After ``start`` it calls ``hear`` with what they publish; ``write`` returns whether it has the
    notices for them, ``backlog`` how many still wait for it. ``bell`` is None when it has none."""

    @property
    def bell(self) -> Bell | None: ...

    def write(self, *notices: Notice) -> bool: ...

    def backlog(self) -> int: ...

    def start(self, hear: Callable[[Notice], None]) -> None: ...

    def stop(self) -> None: ...


class Subscriber(NamedTuple):
    hear: Callable[[Notice], object]
    on_gap: Callable[[float], object]


class OutOfTime(Exception):
    """The patience of a request is over."""


class Delivery:
    """What was published on its way: a list of batches for each transport."""

    __slots__ = ("transports", "patience")

    def __init__(self, transports: list[list[Batch]], patience: float) -> None:
        self.transports = transports
        self.patience = patience

    def wait(self) -> int:
        """The number of transports that have all of it when all have, or the time of a request is over."""
        if not self.transports:
            return 0
        with suppress(OutOfTime), LoopLimit(self.patience, OutOfTime()):
            for batches in self.transports:
                for batch in batches:
                    batch.completion.wait()
        return sum(bool(batches) and all([batch.success for batch in batches]) for batches in self.transports)


class Bus:
    """``transports`` in their order; the first one with a bell is the journal. ``patience`` is for how many seconds a request waits
    for them."""

    def __init__(self, transports: Sequence[Transport] = (), *, patience: float = PATIENCE,
                 now: Callable[[], float] = clock.now, clock: MonotonicClock = CLOCK) -> None:
        self.transports = tuple(transports)
        self.patience = patience
        self.now = now
        self.clock = clock
        journals: list[Any] = [transport for transport in self.transports if transport.bell is not None]
        self._journal: Any = journals[0] if journals else None
        self.bell: Bell = journals[0].bell if journals else Bell()       # that one never rings
        self._subscribers: dict[str, list[Subscriber]] = {}
        self._commits = [GroupCommit(transport.write) for transport in self.transports]
        self._owner = native_thread()                    # greenlets of another cannot wait for batches
        self._reading: Any = None
        self._started = False

    # Publishing

    def subscribe(self, topic: str, hear: Callable[[Notice], object], on_gap: Callable[[float], object]) -> None:
        """Hear the notices of a topic, those before ``start`` that transports have kept too."""
        subscriber = Subscriber(hear, on_gap)
        self._subscribers.setdefault(topic, []).append(subscriber)
        if self._started:
            self._call(on_gap, self.now())

    def publish(self, *notices: Notice) -> Delivery:
        """Let subscribers hear these, here at once."""
        for notice in notices:
            self.deliver(notice)
        return self.send(*notices)

    def send(self, *notices: Notice) -> Delivery:
        """Let the subscribers of other workers hear these."""
        if native_thread() == self._owner:
            return Delivery([[commit.add(notice) for notice in notices] for commit in self._commits], self.patience)
        batches = []
        for transport in self.transports if notices else ():
            batch = Batch()
            batch.settle(transport.write(*notices))
            batches.append([batch])
        return Delivery(batches, self.patience)

    def backlog(self) -> int:
        """How many notices wait for a transport that cannot take them now."""
        return sum(transport.backlog() for transport in self.transports)

    # Hearing

    def deliver(self, notice: Notice) -> None:
        """Let the subscribers of this worker hear a notice."""
        if notice.at > (now := self.now()):              # by a clock that was set
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
        except Exception:                                # a defect of one subscriber: the others hear it all the same
            log.exception("a subscriber of the bus failed")

    def catch_up(self) -> None:
        """Hear what the other workers of this machine have published up to now, or as much of it as there is time for."""
        bell = self.bell
        if bell.last_read == bell.cell[0]:
            return
        until = self.clock.now() + self.patience
        while (number := bell.cell[0]) != bell.last_read:
            if (left := until - self.clock.now()) <= 0:
                bell.last_read = number                  # the next request need not wait for what is not to be had
                log.warning("notices of other workers cannot be read within %g s", self.patience)
                return
            if self._reading is None or self._reading.dead:
                self._reading = spawn_apart(self._read)
            with suppress(OutOfTime), LoopLimit(left, OutOfTime()):
                self._reading.join()

    def _read(self) -> None:
        number = self.bell.cell[0]                       # before it is read: what comes meanwhile is news again
        try:
            self._journal.catch_up(self.deliver)
        except Exception:                                # a defect: it is not tried again before there is more
            log.exception("notices of other workers cannot be read")
        self.bell.last_read = number

    # The life of the worker

    def start(self) -> None:
        """In each worker process, after the fork."""
        for transport in self.transports:
            transport.start(self.deliver)
        self._started = True

    def stop(self, seconds: float) -> None:
        """What was published has ``seconds`` to leave."""
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
