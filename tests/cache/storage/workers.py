"""Stores as workers have them, for the tests of the store."""

from __future__ import annotations

import time

from stored import variants_of

from gateway.cache.entry import Variants
from gateway.cache.storage.store import HttpStore
from tests.waiting import until


def begin(one: HttpStore) -> None:
    """Start it, and wait until leases can be had."""
    one.start()
    until(lambda: one.leases is None or one.leases.usable)


def keep(one: HttpStore, key: str = "k", *, begun: float | None = None, seconds: float = 60.0, **more) -> Variants:
    """Store an answer asked for at ``begun`` (now), in shared tiers too."""
    begun = time.time() if begun is None else begun
    variants = variants_of(at=begun, **more)
    one.put(key, variants, seconds, begun)
    assert one.flush()
    return variants
