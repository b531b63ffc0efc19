"""Time limits that a busy event loop does not make shorter.

When a loop was busy for longer than a limit, its time is over and the event that somebody waits for has come as well, maybe by way
of other greenlets that have not had their turn yet. So a limit counts from now, not from when the loop last read the clock; its
timer has a low priority, so that events that are ready in the same turn go first; and it is over only after some more turns of the
loop. In a loop with nothing to do those take some microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from gevent import get_hub, getcurrent
from gevent.hub import Waiter

TURNS = 10                                               # more than it takes an answer to pass from greenlet to greenlet
TICKS = 10                                               # of a LoopLimit
AT_ONCE = 1e-9                                           # seconds: 0 would not repeat


class Turns:
    """Calls ``function(*args)`` in the hub when the loop has turned TURNS times, unless it is closed before."""

    __slots__ = ("_left", "_timer")

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._left = TURNS
        self._timer = get_hub().loop.timer(AT_ONCE, AT_ONCE, priority=-1)
        self._timer.start(self._on_turn, function, args, update=True)

    def close(self) -> None:
        self._timer.close()

    def _on_turn(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._left -= 1
        if self._left == 0:
            self.close()
            function(*args)

    def __repr__(self) -> str:
        return f"Turns({self._left} left)"


class LimitTimer:
    """Calls ``function(*args)`` in the hub ``seconds`` from now, as above, unless it is closed before."""

    __slots__ = ("_timer",)

    def __init__(self, seconds: float, function: Callable[..., Any], *args: Any) -> None:
        self._timer: Any = get_hub().loop.timer(max(0.0, seconds), priority=-1)
        self._timer.start(self._ring, function, args, update=True)

    def close(self) -> None:
        self._timer.close()

    def _ring(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._timer.close()
        self._timer = Turns(function, *args)


class TimeLimit:
    """``with TimeLimit(2.0, Late()): ...`` raises that error in this greenlet when the block has not ended in time."""

    __slots__ = ("seconds", "error", "_timer")

    def __init__(self, seconds: float, error: Exception) -> None:
        self.seconds = seconds
        self.error = error
        self._timer: LimitTimer | None = None

    def __enter__(self) -> None:
        self._timer = LimitTimer(self.seconds, getcurrent().throw, self.error)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._timer is not None:
            self._timer.close()

    def __repr__(self) -> str:
        return f"TimeLimit({self.seconds:g} s)"


class LoopLimit:
    """``with LoopLimit(0.05, Late()):`` raises that error in this greenlet when the block has not ended in time, as the loop sees
    it: in TICKS. While the loop is busy with others none passes, however long that takes: what the block waits for may be there
    already, and nobody has looked.
    """

    __slots__ = ("seconds", "error", "_greenlet", "_timer", "_left")

    def __init__(self, seconds: float, error: Exception) -> None:
        self.seconds = seconds
        self.error = error
        self._greenlet: Any = None
        self._timer: Any = None
        self._left = TICKS

    def __enter__(self) -> None:
        self._greenlet = getcurrent()
        self._start()

    def __exit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.close()

    def _start(self) -> None:
        self._timer = get_hub().loop.timer(self.seconds / TICKS, priority=-1)         # what came meanwhile goes first
        self._timer.start(self._on_tick, update=True)

    def _on_tick(self) -> None:
        """In the hub."""
        self._timer.close()
        self._timer = None
        self._left -= 1
        if self._left > 0:
            self._start()
        else:
            self._greenlet.throw(self.error)

    def __repr__(self) -> str:
        return f"LoopLimit({self.seconds:g} s)"


class JoinTimeout(Exception):
    """The time of ``join_all`` is over."""


def join_all(greenlets: Iterable[Any], seconds: float) -> None:
    """Wait until all of these have ended, for at most that long, as the loop sees it."""
    with suppress(JoinTimeout), LoopLimit(seconds, JoinTimeout()):
        for greenlet in greenlets:
            greenlet.join()


def catch_up() -> None:
    """Let the loop turn TURNS times: for a wait whose time is over, before it raises its error."""
    waiter = Waiter()
    turns = Turns(waiter.switch, None)
    try:
        waiter.get()
    finally:
        turns.close()
