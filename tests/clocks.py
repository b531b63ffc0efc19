"""Clocks for tests: one that is set by hand, and one whose time passes as fast as what waits by it can run."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

import gevent
from gevent.hub import Waiter, get_hub

from gateway.loop.monotonic_clock import MonotonicClock, Waitable


class ManualClock(MonotonicClock):
    """``now()`` is what the test says; waits take real time."""

    def __init__(self, time: float = 1000.0) -> None:
        self.time = time

    def now(self) -> float:
        return self.time


class Timer:
    """A call at a time to come."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.function: Callable[..., Any] | None = function
        self.args = args

    def close(self) -> None:
        self.function = None


class VirtualClock(MonotonicClock):
    """Time passes only when nothing is left to run, and then up to the next timer at once: ``run(seconds)`` does that.

    What happens depends on nothing but the order of the timers, so that a simulation is the same each time.
    """

    def __init__(self, time: float = 1000.0) -> None:
        self.time = time
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()

    def now(self) -> float:
        return self.time

    def call_later(self, seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
        """Call ``function`` in the hub; it must not wait there."""
        timer = Timer(function, args)
        heappush(self._timers, (self.time + max(0.0, seconds), next(self._numbers), timer))
        return timer

    def run(self, seconds: float) -> None:
        """Let that much time pass. Everything that can run has run when it returns."""
        end = self.time + seconds
        callback = get_hub().loop.run_callback
        gevent.idle()
        while self._timers and self._timers[0][0] <= end:
            at, _, timer = heappop(self._timers)
            if timer.function is not None:
                self.time = at
                callback(timer.function, *timer.args)
                gevent.idle()
        self.time = end

    def wait(self, event: Waitable, seconds: float | None) -> bool:
        if not event.ready():
            waiter = Waiter()
            wake = waiter.switch
            timer = None if seconds is None else self.call_later(seconds, wake, None)
            event.rawlink(wake)
            try:
                waiter.get()
            finally:
                event.unlink(wake)
                if timer is not None:
                    timer.close()
        return event.ready()

    def sleep(self, seconds: float) -> None:
        waiter = Waiter()
        timer = self.call_later(seconds, waiter.switch, None)
        try:
            waiter.get()
        finally:
            timer.close()

    def alarm(self) -> VirtualAlarm:
        return VirtualAlarm(self)

    def time_limit(self, seconds: float, error: Exception) -> VirtualTimeLimit:
        return VirtualTimeLimit(self, seconds, error)


class VirtualAlarm:
    """Like Alarm."""

    def __init__(self, clock: VirtualClock) -> None:
        self.is_set = False
        self._clock = clock
        self._timer: Timer | None = None

    def set(self, seconds: float, function: Callable[[], None]) -> None:
        if not self.is_set:
            self.is_set = True
            self._timer = self._clock.call_later(seconds, function)

    def stop(self) -> None:
        if self.is_set:
            self.is_set = False
            self._timer.close()


class VirtualTimeLimit:
    """Like TimeLimit."""

    def __init__(self, clock: VirtualClock, seconds: float, error: Exception) -> None:
        self._start = lambda: clock.call_later(seconds, gevent.getcurrent().throw, error)

    def __enter__(self) -> None:
        self._timer = self._start()

    def __exit__(self, *error: object) -> None:
        self._timer.close()
