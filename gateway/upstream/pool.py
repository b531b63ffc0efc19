"""The connections to one instance: idle ones, busy ones, and the queue of waiters.

- At most ``maximum`` are open. Idle connections are taken last in, first out, so that in quiet times the others grow old.
- A timer closes an idle connection after ``idle_timeout`` (or the time for which its server promised to keep it). One that the
  other side closed, or that got stray bytes, is closed at the end of that turn of the loop. A caller that takes one checks it as
  well: by what the loop has seen of it, which is enough where a request may be sent again, else by asking the system.
- A connection that is to ``retire`` (by its age, or because its address left the name) is not taken again.
- Waiters are served first in, first out. What becomes free goes to the first: a connection, or a slot to open one. A waiter that is
  killed or times out hands what it got to the next, so no slot is ever lost.

Invariant: there are waiters only while ``maximum`` connections are busy and none is idle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from math import inf
from random import uniform
from typing import Any

from gevent.event import AsyncResult
from gevent.hub import get_hub

from ..loop.monotonic_clock import CLOCK, MonotonicClock
from .dns import SocketAddress
from .transport import Connection

MARGIN = 0.8                                             # of the time a server promises to keep a connection
SLACK = 0.01                                             # seconds: those that expire together are closed together


class WaitOver(Exception):
    """No connection became free in time."""


class Pool:
    """A caller gets a connection by ``reuse`` or else by ``take``, and ends with ``give`` or ``drop``, each exactly once. ``open``
    counts idle and busy connections. ``random(low, high)`` spreads the ages."""

    def __init__(self, maximum: int, idle_timeout: float, max_age: float = inf, clock: MonotonicClock = CLOCK,
                 random: Callable[[float, float], float] = uniform) -> None:
        self.maximum = maximum
        self.idle_timeout = idle_timeout
        self.max_age = max_age
        self.clock = clock
        self.random = random
        self.open = 0
        self.idle: deque[Connection] = deque()           # the one used last is the last
        self.waiting: deque[AsyncResult] = deque()       # each gets a Connection, or None for a slot
        self.closed = False
        self.alarm = clock.alarm()                       # set as long as there are idle ones
        self._endpoints: Collection[SocketAddress] | None = None      # None: all are right
        self._sweeping = False                           # at the end of this turn of the loop
        self._hub: Any = None

    def add(self, connection: Connection) -> Connection:
        """Take in a new connection, which is busy. Its age counts from now; ages are spread, so that those opened at once do not
        retire at once."""
        connection.retires = self.clock.now() + self.max_age * self.random(0.9, 1.0)
        connection.readable.at_rest = self.on_activity
        return connection

    def reuse(self, careful: bool, endpoint: SocketAddress | None = None) -> Connection | None:
        """The idle connection used last that may serve again, if there is one. ``careful``: ask the system whether it may, else
        what the loop has seen is enough. ``endpoint``: only one that leads there, as long as another can be opened."""
        idle = self.idle
        if self._hub is not get_hub():
            self._own()
        if endpoint is not None and self.open < self.maximum:
            self._warm_up(endpoint)
            if not idle or idle[-1].endpoint != endpoint:
                return None
        while idle:
            connection = idle.pop()
            if connection.expires > self.clock.now() and (connection.readable.is_watched and not careful or connection.alive()):
                return connection
            self._close(connection)
        return None

    def take(self, seconds: float | None, fresh: bool = False) -> Connection | None:
        """A connection that another caller gave back, or None for a slot to open one. ``fresh``: always a slot. Waits up to
        ``seconds``; raises WaitOver."""
        if self._hub is not get_hub():
            self._own()
        if self.open >= self.maximum and self.idle:
            self._close(self.idle.popleft())
        if self.open < self.maximum:
            self.open += 1
            return None
        connection = self._wait(seconds)
        if connection is not None and (fresh or not connection.alive()):
            connection.close()
            return None
        return connection

    def give(self, connection: Connection) -> None:
        """Give back a connection that may serve again."""
        now = self.clock.now()
        if self._endpoints is not None and connection.endpoint not in self._endpoints:
            connection.retires = now
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
        """Free the slot of a connection that is closed, or was never opened."""
        if self.waiting:
            self.waiting.popleft().set(None)
        else:
            self.open -= 1

    def keep_only(self, endpoints: Collection[SocketAddress]) -> None:
        """Close idle connections to other endpoints; busy ones retire when they come back."""
        self._endpoints = endpoints
        for connection in self.idle:
            if connection.endpoint not in endpoints:
                connection.expires = 0.0
        self.sweep()

    def sweep(self) -> None:
        """Close idle connections that expired or were closed by the other side, and set the timer for the next."""
        self._sweeping = False
        self.alarm.stop()
        now = self.clock.now()
        for _ in range(len(self.idle)):
            connection = self.idle.popleft()
            if connection.expires <= now or not connection.readable.is_watched and not connection.alive():
                self._close(connection)
            else:
                connection.readable.watch()
                self.idle.append(connection)
        if self.idle:
            self._set_alarm(now)

    def on_activity(self) -> None:
        """In the hub: bytes or an end came on an idle connection. Many may end at once, so one sweep looks at all."""
        if self.idle and not self._sweeping:
            self._sweeping = True
            get_hub().loop.run_callback(self.sweep)

    def close(self) -> None:
        """Close idle connections; busy ones are closed when they come back."""
        self.closed = True
        self.alarm.stop()
        while self.idle:
            self._close(self.idle.popleft())

    def forget(self) -> None:
        """Let go of the idle connections: nobody refers to the pool any more but the loop, by way of them and of the alarm."""
        self.alarm.stop()
        while self.idle:
            self.idle.pop()
            self.open -= 1

    def _set_alarm(self, now: float) -> None:
        self.alarm.set(min([connection.expires for connection in self.idle]) - now + SLACK, self.sweep)

    def _warm_up(self, endpoint: SocketAddress) -> None:
        """Move the connection to ``endpoint`` that was used last, if there is one, to the end that is taken first."""
        for connection in reversed(self.idle):
            if connection.endpoint == endpoint:
                self.idle.remove(connection)
                self.idle.append(connection)
                return

    def _own(self) -> None:
        """Bind the pool to the event loop of the thread that uses it first; another cannot use its connections."""
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
        """Leave the queue; hand a connection or slot already received to the next waiter."""
        if not turn.ready():
            self.waiting.remove(turn)
        elif turn.value is None:
            self.drop()
        else:
            self.give(turn.value)

    def _close(self, connection: Connection) -> None:
        """Close an idle connection; there are no waiters while there are any."""
        connection.close()
        self.open -= 1

    def __repr__(self) -> str:
        return f"Pool({self.open} of {self.maximum} open, {len(self.idle)} idle, {len(self.waiting)} waiting)"
