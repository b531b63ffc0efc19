"""Waiting until a native socket has something to read: one switch to the event loop and back, and nothing to start or stop.

The socket is watched from its first wait on. What comes while nobody waits ends the watching, until somebody waits again: a peer
that sends more than is read costs nothing. So ``is_watched`` also says, of a connection at rest, that nothing has come since the
loop last looked: neither bytes nor an end; who is interested in that puts ``at_rest`` there, which is called when something
does. A time limit is an alarm that is set once and then left alone, unless a wait is to end before
it: when it rings, whoever waits looks at its own clock.

::

    unwatched --wait, watch()--> watched --it is ready and nobody waits, unwatch()--> unwatched

Whoever waits is switched to by the loop only, and only while it waits: as ``reader`` it is looked up at that moment. Anything may
be thrown at it meanwhile, which ends the wait.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from gevent import get_hub, getcurrent

from .monotonic_clock import CLOCK, MonotonicClock
from .time_limit import Turns

READY, WOKEN, RANG = range(3)


class Readable:
    """The reading side of a socket; at most one greenlet waits for it. It belongs to the event loop of the thread that made it.

    The loop holds on to it, so it must not refer to the connection it is for, which must ``close`` it when it is no longer used.
    """

    __slots__ = ("hub", "is_watched", "reader", "at_rest", "_clock", "_watcher", "_alarm", "_alarm_at")

    def __init__(self, descriptor: int, clock: MonotonicClock = CLOCK) -> None:
        self.hub = get_hub()
        self._clock = clock
        self.is_watched = False
        self.reader: Any = None
        self.at_rest: Callable[[], None] | None = None
        self._watcher = self.hub.loop.io(descriptor, 1)
        self._alarm: Any = None
        self._alarm_at = inf                                # on the clock

    def watch(self) -> None:
        if not self.is_watched:
            self.is_watched = True
            self._watcher.start(self._ready)

    def unwatch(self) -> None:
        """Stop watching: before somebody else waits for the socket, or closes it."""
        if self.is_watched:
            self.is_watched = False
            self._watcher.stop()

    def wait(self, until: float = inf) -> int:
        """READY: there is something to read. RANG: ``until`` may have come. WOKEN: somebody has called ``wake``."""
        if not self.is_watched:
            self.is_watched = True
            self._watcher.start(self._ready)
        if until < self._alarm_at:
            self._set_alarm(until)
        self.reader = getcurrent()
        try:
            event: int = self.hub.switch()
            return event
        finally:
            self.reader = None

    def wake(self) -> None:
        """End the wait, if somebody waits. From any greenlet."""
        if self.reader is not None:
            self.hub.loop.run_callback(self._resume, WOKEN)

    def close(self) -> None:
        """Stop watching, for good."""
        self.is_watched = False
        self.at_rest = None
        self._watcher.close()
        if self._alarm is not None:
            self._alarm.close()

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.close()
        self._alarm_at = at
        self._alarm = self.hub.loop.timer(max(0.0, at - self._clock.now()), ref=False, priority=-1)
        self._alarm.start(self._ring, update=True)

    # In the hub

    def _ready(self) -> None:
        reader = self.reader
        if reader is None:
            self.is_watched = False
            self._watcher.stop()
            if self.at_rest is not None:
                self.at_rest()
        else:
            reader.switch(READY)

    def _ring(self) -> None:
        self._alarm.close()
        self._alarm = Turns(self._after_turns)

    def _after_turns(self) -> None:
        self._alarm_at = inf
        self._resume(RANG)

    def _resume(self, event: int) -> None:
        if self.reader is not None:
            self.reader.switch(event)
