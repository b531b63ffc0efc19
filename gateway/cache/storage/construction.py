"""The store that a configuration asks for: its tiers, and the ways to the other workers. Nothing runs before its ``start``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...breaker import Breaker
from ...bus.bus import Bus, Transport
from ...bus.journal import Journal
from ...bus.redis_stream import RedisStream
from ...config import CacheStorage, Config
from ...local import run_directory
from ...remote.redis_client import RedisClient
from ..purging import nginx_generation
from ..purging.nginx_generation import Generation
from .codec import LARGEST
from .file_tier import FileTier
from .memcached_tier import MemcachedTier
from .memory import MemoryTier
from .redis_tier import RedisTier
from .store import HttpStore
from .tiers import SharedTier, TierCounters, no_op

SEVERAL = 4                     # of the largest bodies that a route keeps are in one record


def http_store(config: Config, counts: TierCounters | None = None, breaker: Callable[[], Breaker] = Breaker) -> HttpStore:
    """The store of an application, each remote tier with a ``breaker`` of its own. Raises ConfigError without an extra it needs."""
    largest = max([SEVERAL * route.cache.max_object for route in config.routes if route.cache], default=0)
    store = store_of(config.cache, counts, max(LARGEST, largest), breaker)
    if config.nginx.generation is not None and any(route.cache and route.cache.edge for route in config.routes):
        store.purger.generation = generation = Generation(config.nginx.generation)
        store.bus.subscribe(nginx_generation.TOPIC, generation.hear, no_op)
    return store


def store_of(settings: CacheStorage, counts: TierCounters | None = None, largest: int = LARGEST,
             breaker: Callable[[], Breaker] = Breaker) -> HttpStore:
    """The same from the settings themselves. ``largest`` is the size of a record in bytes."""
    counts = counts or TierCounters()
    tiers: list[SharedTier] = []
    transports: list[Transport] = []
    leases = None
    run_dir = run_directory.current()
    if settings.file:
        transports.append(Journal(Path(settings.file) / "notices", make=True))      # purges have to last as long as what they purge
    elif run_dir is not None:
        transports.append(Journal(run_dir.path / "notices"))
    if settings.redis:
        client = RedisClient(settings.redis, settings.prefix, settings.timeout, largest=largest,
                             on_failure=counts.of("errors", "redis"), breaker=breaker())
        leases = RedisTier(client)
        tiers.append(leases)
        transports.append(RedisStream(client))
    if settings.memcached:
        tiers.append(MemcachedTier(settings.memcached, settings.prefix, settings.timeout, largest=largest,
                                   on_failure=counts.of("errors", "memcached"), breaker=breaker()))
    if settings.file:
        tiers.append(FileTier(settings.file, settings.file_size, largest=largest, on_failure=counts.of("errors", "file"),
                              on_eviction=counts.of("evicted", "file")))
    return HttpStore(MemoryTier(settings.memory), tiers, Bus(transports, patience=settings.timeout), leases=leases,
                     compress=settings.compress, counts=counts, patience=settings.timeout, largest=largest)
