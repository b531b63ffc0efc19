"""The protocol of the shared tiers, as the store (store.py) uses them, and their metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

# What is written beside the requests (write_behind.py): ("put", key, data, seconds), ("delete", key), and where the tier gives
# leases ("lease", key, token, seconds), ("extend", key, token, seconds), ("release", key, token, stored)
Operation = tuple[Any, ...]


class SharedTier(Protocol):
    """A key-value tier of bytes. It never raises: a failure is counted, and the result is None or nothing. ``put`` returns whether
    the record is stored."""

    name: str

    @property
    def shift(self) -> float: ...                # seconds that the tier's clock, in which it keeps times, is ahead of ours

    @property
    def margin(self) -> float: ...               # seconds by which that may be wrong: what is written is not younger than it is

    @property
    def usable(self) -> bool: ...

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, data: bytes, seconds: float) -> bool: ...

    def delete(self, key: str) -> None: ...

    def write(self, operations: Sequence[Operation]) -> int | None: ...      # how many were lost, where that is known

    def close(self) -> None: ...


class LeasingTier(SharedTier, Protocol):
    """A tier that also grants leases, each identified by a token. The result is None when the tier is not available."""

    def lease(self, key: str, token: str, seconds: float) -> bool | None: ...

    def is_leased(self, key: str) -> bool | None: ...


class TierCounters:
    """The metrics of the tiers, each a function that takes a number. ``tier`` is memory, redis, memcached or file; ``route`` is
    empty for all."""

    def __init__(self, counter: Callable[[str, str, str], Callable[[float], None]] = lambda name, tier, route: no_op) -> None:
        self.counter = counter
        self._counters: dict[tuple[str, str, str], Callable[[float], None]] = {}

    def of(self, name: str, tier: str, route: str = "") -> Callable[[float], None]:
        """``name`` is hits, misses, stored, evicted, corrupt, refused, errors or dropped; bytes and entries are gauges. Of routes
        there are evicted, bytes and entries."""
        count = self._counters.get((name, tier, route))
        if count is None:
            count = self._counters[name, tier, route] = self.counter(name, tier, route)
        return count


def no_op(what: object) -> None:
    """A counter that discards what it gets."""
