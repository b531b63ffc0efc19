"""Lookups in the shared tiers with a bounded wait: when that is over the request continues without, and so does the lookup.

::

    ask(key) --> joins the running lookup of the key, else starts one --in time--> its result
                                                      |
                                                      +--too late--> None; a later request gets the result from memory

So the wait of a request is bounded whatever takes long: connecting, the pool, or one tier after the other. The lookup itself is not
cancelled: its duration tells the circuit (remote/circuit.py) how the tier is, its result serves the next request, and a client that
leaves interrupts nothing that others wait for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from ...loop.time_limit import join_all
from ...tasks import Killed, spawn_apart

LIMIT = 10_000                  # running at once, so that they do not accumulate while a disk hangs

log = logging.getLogger("gateway")
T = TypeVar("T")


class Lookup:
    """A running lookup. ``invalidated``: the key was deleted while it ran, so its result may be from before that."""

    __slots__ = ("greenlet", "invalidated")

    def __init__(self) -> None:
        self.greenlet: Any = None
        self.invalidated = False


class Lookups:
    """The running lookups of one worker, at most ``limit``."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._running: dict[str, Lookup] = {}
        self._jobs: set[Any] = set()

    def ask(self, key: str, work: Callable[[Lookup], T], seconds: float) -> T | None:
        """Join the running lookup of the key, or start ``work``, and return the result; None when there is none within
        ``seconds``."""
        look = self._running.get(key)
        if look is None:
            if len(self._running) >= self.limit:
                return None
            look = self._running[key] = Lookup()
            look.greenlet = spawn_apart(self._run, key, partial(work, look))
        join_all([look.greenlet], seconds)
        return result_of(look.greenlet)

    def _run(self, key: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception:                                # the requests may have continued without it
            log.exception("a lookup in the tiers of the cache failed")
            return None
        finally:
            del self._running[key]

    def forget(self, key: str) -> None:
        if (look := self._running.get(key)) is not None:
            look.invalidated = True

    def do(self, work: Iterable[Callable[[], T]], seconds: float) -> list[T | None]:
        """Run these concurrently and return their results; None for those that have not ended within ``seconds`` and continue."""
        jobs = [spawn_apart(each) for each in work]
        self._jobs.update(jobs)
        for greenlet in jobs:
            greenlet.link(self._jobs.discard)
        join_all(jobs, seconds)
        return [result_of(each) for each in jobs]

    def stop(self, seconds: float) -> None:
        """Kill the lookups, and the jobs that have not ended after ``seconds``."""
        for look in list(self._running.values()):
            look.greenlet.kill()
        self._running.clear()
        join_all(list(self._jobs), seconds)
        for greenlet in list(self._jobs):
            greenlet.kill()

    def __repr__(self) -> str:
        return f"Lookups({len(self._running)} running)"


def result_of(greenlet: Any) -> Any:
    """The result of a greenlet; None while it runs, and when it was killed."""
    return None if isinstance(greenlet.value, Killed) else greenlet.value
