"""The connections to one instance: those unused, those lent, and who waits for one.

- At most ``maximum`` are open. Unused ones are lent last in, first out, so that in quiet times the cold end grows old.
- An unused one is dropped when it is older than ``idle_timeout`` (or than its server promised to keep it), looked at whenever one
  is taken, from the cold end; and when it was closed or holds stray bytes, looked at when it would be lent. The loop sees
  that by itself, if late by what it is just doing: good enough where a request may be sent again, else the system is asked.
- Who waits is served in order. What becomes free is handed to the first in line: a connection, or a place to open one. Who is
  killed or times out while something is handed to it passes it on, so no place is ever lost.

Invariant: somebody waits only while ``maximum`` are lent and none is unused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic

from gevent.event import AsyncResult
from gevent.hub import get_hub

from .transport import Connection

MARGIN = 0.8                                             # of the time a server promises to keep a connection


class WaitOver(Exception):
    """Nothing became free in time."""


class Pool:
    """``unused``, or else ``take``, and then ``give`` or ``drop``, each exactly once. ``open`` counts what is unused or lent."""

    def __init__(self, maximum: int, idle_timeout: float, clock: Callable[[], float] = monotonic) -> None:
        self.maximum = maximum
        self.idle_timeout = idle_timeout
        self.clock = clock
        self.open = 0
        self.idle: deque[Connection] = deque()           # the warmest is the last
        self.waiting: deque[AsyncResult] = deque()       # each gets a Connection, or None for a place
        self.closed = False
        self._hub: object = None

    def unused(self, careful: bool) -> Connection | None:
        """The warmest connection that is unused and fit to serve, if there is one. ``careful``: asks the system whether it is; else
        what the loop has seen of it is enough."""
        idle = self.idle
        if not idle:
            return None
        if self._hub is not get_hub():
            self._own()
        now = self.clock()
        while idle and idle[0].expires <= now:
            self._close(idle.popleft())
        while idle:
            connection = idle.pop()
            if connection.readable.watched and not careful or connection.alive():
                return connection
            self._close(connection)
        return None

    def take(self, seconds: float | None, fresh: bool = False) -> Connection | None:
        """A connection that was handed over, or None: there is a place, open one. ``fresh``: surely not one that was used before.
        Waits up to ``seconds``; raises WaitOver."""
        if self._hub is not get_hub():
            self._own()
        if self.open >= self.maximum and self.idle:
            self._close(self.idle.popleft())
        if self.open < self.maximum:
            self.open += 1
            return None
        handed = self._wait(seconds)
        if handed is not None and (fresh or not handed.alive()):
            handed.close()
            return None
        return handed

    def give(self, connection: Connection) -> None:
        """Back, and fit to serve again."""
        if self.waiting:
            self.waiting.popleft().set(connection)
        elif self.closed:
            self._close(connection)
        else:
            keep = self.idle_timeout if connection.keep is None else min(self.idle_timeout, connection.keep * MARGIN)
            connection.expires = self.clock() + keep
            connection.readable.watch()
            self.idle.append(connection)

    def drop(self) -> None:
        """The connection lent is closed, or was never opened: its place is free."""
        if self.waiting:
            self.waiting.popleft().set(None)
        else:
            self.open -= 1

    def close(self) -> None:
        """Close what is unused; what is lent is closed when it comes back."""
        self.closed = True
        while self.idle:
            self._close(self.idle.popleft())

    def _own(self) -> None:
        """The connections live on the event loop of the thread that uses the pool first, and cannot be used from another."""
        if self._hub is not None:
            raise RuntimeError("the pool belongs to another thread")
        self._hub = get_hub()

    def _wait(self, seconds: float | None) -> Connection | None:
        turn = AsyncResult()
        self.waiting.append(turn)
        try:
            turn.wait(seconds)
        except BaseException:
            self._leave(turn)
            raise
        if not turn.ready():
            self._leave(turn)
            raise WaitOver
        return turn.value

    def _leave(self, turn: AsyncResult) -> None:
        """Out of the line; what was handed over already goes to the next."""
        if not turn.ready():
            self.waiting.remove(turn)
        elif turn.value is None:
            self.drop()
        else:
            self.give(turn.value)

    def _close(self, connection: Connection) -> None:
        """An unused one; nobody waits while there are any."""
        connection.close()
        self.open -= 1

    def __repr__(self) -> str:
        return f"Pool({self.open} of {self.maximum} open, {len(self.idle)} idle, {len(self.waiting)} waiting)"
