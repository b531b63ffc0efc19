"""Wait for what happens by itself in another greenlet, thread or process. What the test does itself it waits for with an event.

SAFETY is the limit of every wait whose length is not what is tested.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

import gevent

Value = TypeVar("Value")

SAFETY = 60.0                                            # seconds: long for a machine that does something else too
PATIENT = f"{SAFETY:g}s"                                 # the same in a configuration
PAUSES = 0.001, 0.05                                     # seconds: the first one, and what the others grow up to


def until(condition: Callable[[], Value], what: str | Callable[[], str] = "", *, limit: float = SAFETY) -> Value:
    """Let the others run until ``condition()`` is true, and return its value. What it raises ends the wait.

    After ``limit`` seconds it is evaluated for the last time, and AssertionError says ``what`` has not happened: a text, a function
    that gives one (such as the log of a process), or else the source of the condition.
    """
    pause, longest = PAUSES
    end = monotonic() + limit
    while True:
        late = monotonic() >= end
        if value := condition():
            return value
        if late:
            raise AssertionError(f"not within {limit:g} s: {what() if callable(what) else what or source_of(condition)}")
        gevent.sleep(pause)
        pause = min(pause * 1.5, longest)


def source_of(function: Callable[[], object]) -> str:
    """The first line of a function; its repr when it has no source."""
    code = getattr(function, "__code__", None)
    return linecache.getline(code.co_filename, code.co_firstlineno).strip() if code else repr(function)
