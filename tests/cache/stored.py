"""Answers to store, and waiting for what happens elsewhere, for the tests of the cache's storage."""

from __future__ import annotations

import time

from gateway.breaker import Breaker
from gateway.cache.entry import Entry, Variants


def short_pauses() -> Breaker:
    """A breaker whose pauses a test can wait for."""
    return Breaker(first=0.05, longest=0.2)


def entry_of(url: str = "http://shop.test/a", body: bytes = b"body", *, tags=(), at: float | None = None, lifetime: float = 60.0,
             stale: float = 30.0, headers=(("Content-Type", "text/plain"),), **more) -> Entry:
    """An answer requested at ``at`` (now), fresh for ``lifetime`` and then usable stale for ``stale`` seconds."""
    at = time.time() if at is None else at
    return Entry(200, "OK", list(headers), body, request_time=at, response_time=at, born=at, expires=at + lifetime,
                 stale_while_revalidate=at + lifetime + stale, stale_if_error=at + lifetime + 2 * stale, url=url,
                 tags=frozenset(tags), stored_at=at, **more)


def variants_of(*args, **more) -> Variants:
    return Variants([entry_of(*args, **more)])


class Counted:
    """What was counted: ``numbers[name, tier]``, and ``numbers[name, tier, route]`` of routes."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, ...], float] = {}

    def __call__(self, name: str, tier: str, route: str = ""):
        place = (name, tier, route) if route else (name, tier)

        def count(number: float) -> None:
            before = 0.0 if name in ("bytes", "entries") else self.numbers.get(place, 0.0)
            self.numbers[place] = before + number
        return count


def numbers_of(store) -> dict[tuple[str, ...], float]:
    """What was counted of a store whose counters are Counted."""
    return store.counts.counter.numbers
