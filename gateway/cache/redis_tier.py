"""Redis as the tier that all workers and machines share: records by key, and leases. One Redis, one behind Sentinel, or a Cluster.

::

    redis://host:6379/0    rediss://host    unix:///run/redis.sock?db=0
    redis+sentinel://host:26379,host:26379/mymaster/0        redis+cluster://host:6379,host:6379

What it may cost, and how it is paused, is in circuit.py. A Redis that came back is used only after the purges that were missed
meanwhile were read: that is why RedisLog (redis_log.py), and no request, finds out.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote

from ..errors import ConfigError
from .circuit import Circuit, Refused

CONNECTIONS = 32                # of one worker; more wait
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

T = TypeVar("T")


class RedisTier:
    """``url`` is where Redis is, ``prefix`` what the names of all keys begin with, ``timeout`` is in seconds."""

    name = "redis"

    def __init__(self, url: str, prefix: str = "greengate:", timeout: float = 0.05, *,
                 failed: Callable[[float], None] = lambda number: None) -> None:
        try:
            import redis
        except ImportError:
            raise ConfigError(["cache.redis: needs the extra redis: pip install 'greengate[redis]'"]) from None
        self.url = url
        self.prefix = prefix
        self.shift = self.margin = 0.0
        self.circuit = Circuit("Redis", timeout, (redis.RedisError, redis.RedisClusterException), failed=failed)
        self._refusals = redis.ResponseError
        self._failures = (redis.ReadOnlyError, redis.exceptions.ClusterDownError)
        self._client: Any = None

    @property
    def client(self) -> Any:
        if self._client is None:
            self._client = connect(self.url, self.circuit.timeout)
        return self._client

    # Records

    def get(self, key: str) -> bytes | None:
        return self.attempt(lambda: self.client.get(self.prefix + key))

    def put(self, key: str, data: bytes, seconds: float) -> None:
        self.attempt(lambda: self.client.set(self.prefix + key, data, px=max(1, int(seconds * 1000))))

    def delete(self, key: str) -> None:
        self.attempt(lambda: self.client.delete(self.prefix + key))

    # Leases

    def lease(self, key: str, seconds: float) -> RedisLease | None:
        """The lease of ``key`` for at most that long; None when another has it, or Redis cannot be asked."""
        name, token = f"{self.prefix}lease:{key}", secrets.token_hex(8)
        if self.attempt(lambda: self.client.set(name, token, nx=True, px=max(1, int(seconds * 1000)))):
            return RedisLease(self, name, token)
        return None

    def leased(self, key: str) -> bool:
        """Does anybody have the lease of ``key``? False when Redis cannot be asked: there is no use in waiting."""
        return bool(self.attempt(lambda: self.client.exists(f"{self.prefix}lease:{key}")))

    def release(self, name: str, token: str) -> None:
        self.attempt(lambda: self.client.eval(RELEASE, 1, name, token))

    def attempt(self, operation: Callable[[], T]) -> T | None:
        """The result, or None when Redis is paused or the operation fails."""
        return self.circuit.attempt(lambda: self._told_apart(operation))

    def _told_apart(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except self._refusals as error:
            if isinstance(error, self._failures):
                raise
            raise Refused(str(error)) from error

    def close(self) -> None:
        if self._client is not None:
            disconnect(self._client)
            self._client = None

    def __repr__(self) -> str:
        return f"redis {place_of(self.url)}: {self.circuit!r}"


class RedisLease:
    """Holds until it is released, or Redis lets it go when its time is over. Only its own holder releases it."""

    __slots__ = ("tier", "name", "token")

    def __init__(self, tier: RedisTier, name: str, token: str) -> None:
        self.tier = tier
        self.name = name
        self.token = token

    def release(self) -> None:
        self.tier.release(self.name, self.token)

    def __repr__(self) -> str:
        return f"RedisLease({self.name})"


def place_of(url: str) -> str:
    """The URL without user and password."""
    scheme, _, rest = url.partition("://")
    before, at, after = rest.rpartition("@")
    return f"{scheme}://{after if at else rest}"


def connect(url: str, timeout: float, connections: int = CONNECTIONS) -> Any:
    """A client that connects when it is first used. Nothing is tried twice: whoever asks decides."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
    scheme, _, rest = url.partition("://")
    kind = scheme.partition("+")[2]
    if not kind:
        pool = redis.BlockingConnectionPool.from_url(url, max_connections=connections, timeout=timeout, **options)
        return redis.Redis(connection_pool=pool)
    if scheme.startswith("rediss"):
        options["ssl"] = True
    login, _, place = rest.rpartition("@")
    user, _, password = login.partition(":")
    if login:
        options.update(username=unquote(user) or None, password=unquote(password))
    hosts, _, path = place.partition("/")
    addresses = [address_of(each, 6379 if kind == "cluster" else 26379) for each in hosts.split(",")]
    if kind == "cluster":
        nodes = [redis.cluster.ClusterNode(host, port) for host, port in addresses]
        return redis.RedisCluster(startup_nodes=nodes, max_connections=connections, **options)
    name, _, database = path.partition("/")
    timeouts = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    sentinel = redis.Sentinel(addresses, sentinel_kwargs=timeouts, db=int(database or 0), **options)
    return sentinel.master_for(name, connection_pool_class=blocking_sentinel_pool(), max_connections=connections, timeout=timeout)


def disconnect(client: Any) -> None:
    """Close every connection of a client."""
    pool = getattr(client, "connection_pool", None)
    if pool is None:                                     # a Cluster's, which has pools of its own
        client.close()
        return
    pool.disconnect()
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        sentinel.connection_pool.disconnect()


def blocking_sentinel_pool() -> type:
    """Sentinel's pool that waits for a free connection instead of raising."""
    import redis
    from redis.sentinel import SentinelConnectionPool

    class BlockingSentinelPool(SentinelConnectionPool, redis.BlockingConnectionPool):
        """SentinelConnectionPool chooses the address, BlockingConnectionPool hands connections out."""

    return BlockingSentinelPool


def address_of(text: str, port: int) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port``, ``[::1]:port``."""
    host, colon, number = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), port
    return host.strip("[]"), int(number)
