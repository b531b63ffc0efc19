"""Bounded waits for what is behind memory: a request goes on when its time is over, the work goes on beside it.

::

    ask(key) --> the work that runs for this key, else a greenlet of its own --in time--> its result
                                                      |
                                                      +--too late--> None; a later request finds what it has found

So it does not matter for the request what takes long: connecting, waiting for a connection, one tier after the other, or what
another request began. The work itself is not cut off: how long an operation takes tells its circuit (remote/circuit.py) how the
tier is, a late answer is found by the next request, and a client that leaves breaks off nothing that others wait for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from ...loop.time_limit import LoopLimit
from ...remote.circuit import Slow
from ...tasks import Killed, spawn_apart

LIMIT = 10_000                  # under way at once: a disk that hangs is not asked for ever more

log = logging.getLogger("gateway")
T = TypeVar("T")


class Lookup:
    """Work that runs. ``void``: its key was forgotten meanwhile, and what it finds may be older than that."""

    __slots__ = ("greenlet", "void")

    def __init__(self) -> None:
        self.greenlet: Any = None
        self.void = False


class Lookups:
    """Of one worker, at most ``limit`` at once."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._running: dict[str, Lookup] = {}
        self._jobs: set[Any] = set()

    def ask(self, key: str, work: Callable[[Lookup], T], seconds: float) -> T | None:
        """The result of ``work``, or of the work that runs for the same key already; None when it is not there within
        ``seconds``."""
        look = self._running.get(key)
        if look is None:
            if len(self._running) >= self.limit:
                return None
            look = self._running[key] = Lookup()
            look.greenlet = spawn_apart(self._run, key, partial(work, look))
        join_all([look.greenlet], seconds)
        return value_of(look.greenlet)

    def _run(self, key: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception:                                # whoever asked may have gone on already
            log.exception("a lookup in the tiers of the cache failed")
            return None
        finally:
            del self._running[key]

    def forget(self, key: str) -> None:
        if (look := self._running.get(key)) is not None:
            look.void = True

    def do(self, work: Iterable[Callable[[], T]], seconds: float) -> list[T | None]:
        """The results of these, all at once; None for those that have not ended within ``seconds``, and go on."""
        jobs = [spawn_apart(each) for each in work]
        self._jobs.update(jobs)
        for greenlet in jobs:
            greenlet.link(self._jobs.discard)
        join_all(jobs, seconds)
        return [value_of(each) for each in jobs]

    def stop(self, seconds: float) -> None:
        """Jobs have ``seconds`` to end; lookups are of no use to anybody any more."""
        for look in list(self._running.values()):
            look.greenlet.kill()
        self._running.clear()
        join_all(list(self._jobs), seconds)
        for greenlet in list(self._jobs):
            greenlet.kill()

    def __repr__(self) -> str:
        return f"Lookups({len(self._running)} running)"


def join_all(greenlets: Iterable[Any], seconds: float) -> None:
    """Wait until all of these have ended, for at most that long."""
    with suppress(Slow), LoopLimit(seconds, Slow()):
        for greenlet in greenlets:
            greenlet.join()


def value_of(greenlet: Any) -> Any:
    """None while there is none, and when it was told to end."""
    return None if isinstance(greenlet.value, Killed) else greenlet.value
