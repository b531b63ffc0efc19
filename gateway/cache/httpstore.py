"""Where the HTTP cache keeps its answers: the memory of the worker, and behind it what workers and machines share.

::

    get ---> memory --miss--> shared tiers, nearest first --miss--> None
               |  ^                |
               |  +-- kept here <--+
               v
             held against the purges made since it was last looked at

An entry goes into every tier. The memory is asked without waiting; a shared tier may cost at most what it allows itself
(redis_tier.py), and one that fails is a miss. What memory holds may be out of date when another worker has got a newer answer:
so when it has expired, the shared tiers are asked once more, at most every AGAIN seconds.

Nothing runs before ``start``: no connection, no greenlet. Without it, purges made elsewhere are not heard.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Any, Protocol

from . import format
from .entry import Variants
from .memory import Memory
from .purge import POLL, Journal, Marks, Purge, parsed_purge

AGAIN = 1.0                     # seconds
POLL_FIRST, POLL_MOST = 0.005, 0.05     # seconds between two looks for what another worker is fetching
CLOCK_BACK = 0.001

log = logging.getLogger("gateway")


class Lease(Protocol):
    """The right to fetch what is under a key, until it is released or its time is over."""

    def release(self) -> None: ...


class Shared(Protocol):
    """A tier of bytes by key. It never raises: a failure is counted, and is None or nothing done."""

    name: str
    shift: float                # seconds that the tier's clock, in which it keeps times, is ahead of ours

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, data: bytes, seconds: float) -> None: ...

    def delete(self, key: str) -> None: ...


class Channel(Protocol):
    """A way on which purges travel. ``write`` is whether it is on its way; ``follow`` gives those of others as they come."""

    def write(self, purge: Purge) -> bool: ...

    def start(self, heard: Callable[[Purge], None]) -> None: ...

    def stop(self) -> None: ...


class Counts:
    """What is counted, each a function of a number. ``tier`` is memory, redis, memcached or file."""

    def __init__(self, counter: Callable[[str, str], Callable[[float], None]] = lambda name, tier: ignore) -> None:
        self._counter = counter
        self._made: dict[tuple[str, str], Callable[[float], None]] = {}

    def of(self, name: str, tier: str) -> Callable[[float], None]:
        """``name`` is hits, misses, stored, evicted, corrupt, refused, errors or bytes (a gauge)."""
        made = self._made.get((name, tier))
        if made is None:
            made = self._made[name, tier] = self._counter(name, tier)
        return made


def ignore(number: float) -> None:
    """Counts nothing."""
