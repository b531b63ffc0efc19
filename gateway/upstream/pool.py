"""The connections to one instance: those unused, those lent, and who waits for one.

- At most ``maximum`` are open. Unused ones are lent last in, first out, so that in quiet times the cold end grows old.
- An unused one is closed by a timer when it is older than ``idle_timeout`` (or than its server promised to keep it), and at the end
  of the loop's turn in which it was closed by the other side or got stray bytes. Whoever would be lent one looks too: at what the
  loop has seen of it, good enough where a request may be sent again, else the system is asked.
- One that is to ``retire`` (its age, or its address is no longer one of the name's) is not lent again.
- Who waits is served in order. What becomes free is handed to the first in line: a connection, or a place to open one. Who is
  killed or times out while something is handed to it passes it on, so no place is ever lost.

Invariant: somebody waits only while ``maximum`` are lent and none is unused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from math import inf
from random import uniform
from typing import Any
from weakref import WeakMethod, WeakSet

from gevent.event import AsyncResult
from gevent.hub import get_hub

from ..loop.monotonic_clock import CLOCK, MonotonicClock
from .dns import SocketAddress
from .transport import Connection

MARGIN = 0.8                                             # of the time a server promises to keep a connection
SLACK = 0.01                                             # seconds: those that expire together are closed together


class WaitOver(Exception):
    """Nothing became free in time."""


class Pool:
    """``unused``, or else ``take``, and then ``give`` or ``drop``, each exactly once. ``open`` counts what is unused or lent."""

    def __init__(self, maximum: int, idle_timeout: float, max_age: float = inf, clock: MonotonicClock = CLOCK,
                 random: Callable[[float, float], float] = uniform) -> None:
        self.maximum = maximum
        self.idle_timeout = idle_timeout
        self.max_age = max_age
        self.clock = clock
        self.random = random
        self.open = 0
        self.idle: deque[Connection] = deque()           # the warmest is the last
        self.waiting: deque[AsyncResult] = deque()       # each gets a Connection, or None for a place
        self.closed = False
        self._added: WeakSet[Connection] = WeakSet()     # those unused and lent
        self.alarm = clock.alarm(self.sweep)                   # set as long as there are unused ones
        self._sweeping = False                           # at the end of this turn of the loop
        self._hub: Any = None

    def add(self, connection: Connection) -> Connection:
        """A new one, lent: it grows old from now on; not all that were opened at once at the same time."""
        connection.retires = self.clock.now() + self.max_age * self.random(0.9, 1.0)
        connection.readable.at_rest = WeakMethod(self.stirred)
        self._added.add(connection)
        return connection

    def unused(self, careful: bool, place: SocketAddress | None = None) -> Connection | None:
        """The warmest connection that is unused and fit to serve, if there is one. ``careful``: asks the system whether it is; else
        what the loop has seen of it is enough. ``place``: only one that leads there, as long as another can be opened."""
        idle = self.idle
        if self._hub is not get_hub():
            self._own()
        if place is not None and self.open < self.maximum:
            self._warm_up(place)
            if not idle or idle[-1].place != place:
                return None
        while idle:
            connection = idle.pop()
            if connection.expires > self.clock.now() and (connection.readable.watched and not careful or connection.alive()):
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
        now = self.clock.now()
        keep = self.idle_timeout if connection.keep is None else min(self.idle_timeout, connection.keep * MARGIN)
        connection.expires = now + keep if now + keep < connection.retires else connection.retires
        if connection.expires <= now or self.closed:
            connection.close()
            self.drop()
        elif self.waiting:
            self.waiting.popleft().set(connection)
        else:
            connection.readable.watch()
            self.idle.append(connection)
            if not self.alarm.is_set:
                self._set_alarm(now)

    def drop(self) -> None:
        """The connection lent is closed, or was never opened: its place is free."""
        if self.waiting:
            self.waiting.popleft().set(None)
        else:
            self.open -= 1

    def keep_only(self, places: Collection[SocketAddress]) -> None:
        """Close what is unused and leads elsewhere; what is lent is not lent again."""
        for connection in self._added:
            if connection.place not in places:
                connection.retires = connection.expires = 0.0
        self.sweep()

    def sweep(self) -> None:
        """Close those unused that have expired or were closed by the other side, and look again when the next expires."""
        self._sweeping = False
        self.alarm.stop()
        now = self.clock.now()
        for _ in range(len(self.idle)):
            connection = self.idle.popleft()
            if connection.expires <= now or not connection.readable.watched and not connection.alive():
                self._close(connection)
            else:
                connection.readable.watch()
                self.idle.append(connection)
        if self.idle:
            self._set_alarm(now)

    def stirred(self) -> None:
        """In the hub: something has come to a connection for which nobody waits. Many may end at once: one look for all."""
        if self.idle and not self._sweeping:
            self._sweeping = True
            get_hub().loop.run_callback(self.sweep)

    def close(self) -> None:
        """Close what is unused; what is lent is closed when it comes back."""
        self.closed = True
        self.alarm.stop()
        while self.idle:
            self._close(self.idle.popleft())

    def _set_alarm(self, now: float) -> None:
        self.alarm.set(min(connection.expires for connection in self.idle) - now + SLACK)

    def _warm_up(self, place: SocketAddress) -> None:
        """Move the warmest that leads to ``place``, if there is one, to the warm end."""
        for connection in reversed(self.idle):
            if connection.place == place:
                self.idle.remove(connection)
                self.idle.append(connection)
                return

    def _own(self) -> None:
        """The connections live on the event loop of the thread that uses the pool first, and cannot be used from another."""
        if self._hub is not None:
            raise RuntimeError("the pool belongs to another thread")
        self._hub = get_hub()

    def _wait(self, seconds: float | None) -> Connection | None:
        turn = AsyncResult()
        self.waiting.append(turn)
        try:
            if not self.clock.wait(turn, seconds):
                raise WaitOver
        except BaseException:
            self._leave(turn)
            raise
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
