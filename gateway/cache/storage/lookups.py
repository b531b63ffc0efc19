"""What a request may wait for behind memory: whatever it asks of the shared tiers, it goes on when its time is over.

::

    ask(key) --> what is under way for this key, else a greenlet of its own --its answer--> the request has it
                                                      |
                                                      +--too late--> the request goes on without; the work goes on beside it

So it does not matter for the request what takes long: connecting, waiting for a connection, one tier after the other, or what
somebody else began. The work itself is not cut off: how long an operation takes tells its circuit (remote/circuit.py) how the tier
is, a late answer is found by the next request, and a client that leaves breaks off nothing that others wait for.
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
    """One that is under way. ``void``: what it is about was forgotten meanwhile, and what it finds may be older than that."""

    __slots__ = ("greenlet", "void")

    def __init__(self) -> None:
        self.greenlet: Any = None
        self.void = False


class Lookups:
    """Of one worker, at most ``limit`` at once."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._under_way: dict[str, Lookup] = {}
        self._doing: set[Any] = set()

    def ask(self, key: str, work: Callable[[Lookup], T], seconds: float) -> T | None:
        """What ``work`` returns, or whatever is under way for the same key; None when that is not there within ``seconds``."""
        look = self._under_way.get(key)
        if look is None:
            if len(self._under_way) >= self.limit:
                return None
            look = self._under_way[key] = Lookup()
            look.greenlet = spawn_apart(self._run, key, partial(work, look))
        joined([look.greenlet], seconds)
        return value_of(look.greenlet)

    def _run(self, key: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception:                                # whoever asked may have gone on already
            log.exception("what the cache asked of its tiers failed")
            return None
        finally:
            del self._under_way[key]

    def forget(self, key: str) -> None:
        if (look := self._under_way.get(key)) is not None:
            look.void = True

    def do(self, work: Iterable[Callable[[], T]], seconds: float) -> list[T | None]:
        """What each of these returns, all at once; None for those that have not ended within ``seconds``, and go on."""
        doing = [spawn_apart(each) for each in work]
        self._doing.update(doing)
        for greenlet in doing:
            greenlet.link(self._doing.discard)
        joined(doing, seconds)
        return [value_of(each) for each in doing]

    def stop(self, seconds: float) -> None:
        """What is to be done has ``seconds`` to end; what was asked is of no use to anybody any more."""
        for look in list(self._under_way.values()):
            look.greenlet.kill()
        self._under_way.clear()
        joined(list(self._doing), seconds)
        for greenlet in list(self._doing):
            greenlet.kill()

    def __repr__(self) -> str:
        return f"Lookups({len(self._under_way)} under way)"


def joined(greenlets: Iterable[Any], seconds: float) -> None:
    """Wait until all of these have ended, for at most that long."""
    with suppress(Slow), LoopLimit(seconds, Slow()):
        for greenlet in greenlets:
            greenlet.join()


def value_of(greenlet: Any) -> Any:
    """None while there is none, and when it was told to end."""
    return None if isinstance(greenlet.value, Killed) else greenlet.value
