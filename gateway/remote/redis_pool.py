"""The connection pool of one worker for Redis, and clients for a single Redis, one behind Sentinel, and a Cluster.

::

    take --idle connection--------------------------------> in use --give--> idle
      |                                                        ^
      +--none idle--> waits for the next one that is given ----+
             +------> a greenlet connects one more and gives it

Connecting takes several round trips, so no request connects: it waits for the next idle connection, which may be the new one or
that of another request. If none comes in time while connections are in use, the pool is exhausted and Redis was not asked (Busy).
If there is no connection at all, and none can be made, the error is that of connecting.

The library's client of a Cluster has a pool of its own for each node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from ..loop.time_limit import LoopLimit
from ..tasks import Semaphore, spawn_apart
from .bounded_socket import LARGEST, bounded_class
from .circuit import Busy, Slow

CONNECT = 1.0                   # seconds that each step of connecting may take, beside the requests


class Connections:
    """A pool of at most ``most`` connections. ``make`` returns an unconnected one, ``is_owned`` whether one is still to the current
    server, ``errors`` are those of connecting."""

    def __init__(self, make: Callable[[], Any], is_owned: Callable[[Any], Any], most: int,
                 errors: tuple[type[Exception], ...]) -> None:
        self.make = make
        self.is_owned = is_owned
        self.most = most
        self.errors = errors
        self.open = 0                                    # idle or in use
        self._idle: list[Any] = []
        self._news = Semaphore(0)                        # at least one for each idle connection and each failure to connect
        self._connectors: set[Any] = set()
        self._failures = 0
        self._error: Exception = Slow("no connection")
        self._closed = False

    def take(self, seconds: float) -> Any:
        """Take a connection within ``seconds``; the caller gives it back or drops it. Raises Busy, Slow, or the error of
        connecting."""
        try:
            with LoopLimit(seconds, Slow(f"no connection within {seconds * 1000:.0f} ms")):
                return self._next()
        except Slow:
            if self.open:
                raise Busy from None
            raise

    def _next(self) -> Any:
        failures, has_grown = self._failures, False
        while True:
            if not self._news.acquire(blocking=False):
                if not has_grown:
                    has_grown = True
                    self._grow()
                self._news.acquire()
            if self._idle:
                connection = self._idle.pop()
                if self._is_idle_and_open(connection):
                    return connection
                self.drop(connection)
            elif not self.open and self._failures > failures:
                raise self._error.with_traceback(None)

    def _is_idle_and_open(self, connection: Any) -> bool:
        """Is the connection open, to the current server, and without a byte of an earlier answer?"""
        try:
            return self.is_owned(connection) and not connection.can_read()
        except self.errors:
            return False

    def give(self, connection: Any) -> None:
        if self._closed:
            self.drop(connection)
            return
        self._idle.append(connection)
        self._news.release()

    def drop(self, connection: Any) -> None:
        self.open -= 1
        connection.disconnect()

    def _grow(self) -> None:
        if self.open + len(self._connectors) < self.most:
            connector = spawn_apart(self._connect)
            self._connectors.add(connector)
            connector.link(self._connectors.discard)

    def _connect(self) -> None:
        connection = self.make()
        try:
            connection.connect()
        except self.errors as error:
            self._error = error.with_traceback(None)
            self._failures += 1
            self._news.release()
        except BaseException:                            # killed: no connection is left open
            connection.disconnect()
            raise
        else:
            self.open += 1
            self.give(connection)

    def close(self) -> None:
        self._closed = True
        for each in list(self._connectors):
            each.kill()
        while self._idle:
            self.drop(self._idle.pop())

    def __repr__(self) -> str:
        return f"Connections({len(self._idle)} of {self.open} idle)"


def connections_of(client: Any, most: int, errors: tuple[type[Exception], ...]) -> Connections:
    """The pool for a client of one Redis, or of one behind Sentinel."""
    pool = client.connection_pool
    return Connections(lambda: pool.connection_class(**pool.connection_kwargs), pool.owns_connection, most, errors)


def without_credentials(url: str) -> str:
    """The URL without user and password, for logs."""
    scheme, _, rest = url.partition("://")
    before, at, after = rest.rpartition("@")
    return f"{scheme}://{after if at else rest}"


def is_cluster(url: str) -> bool:
    return url.partition("://")[0].endswith("+cluster")


def connect(url: str, timeout: float, connections: int, largest: int = LARGEST) -> Any:
    """A client of redis-py, which connects when it is first used. ``timeout`` in seconds limits each read and write. There are no
    retries: those are the caller's. ``largest`` limits the values in an answer, in bytes."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    timeouts = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    options: dict[str, Any] = {**timeouts, "retry": Retry(NoBackoff(), 0), "protocol": 2}
    scheme, _, rest = url.partition("://")
    kind = scheme.partition("+")[2]
    if not kind:
        return with_bounds(redis.Redis.from_url(url, max_connections=connections, **options), largest)
    if scheme.startswith("rediss"):
        options["ssl"] = True
    login, _, location = rest.rpartition("@")
    user, _, password = login.partition(":")
    if login:
        options.update(username=unquote(user) or None, password=unquote(password))
    hosts, _, path = location.partition("/")
    addresses = [address_of(each, 6379 if kind == "cluster" else 26379) for each in hosts.split(",")]
    if kind == "cluster":
        nodes = [redis.cluster.ClusterNode(host, port) for host, port in addresses]
        kind_of_node = bounded_class(redis.SSLConnection if options.pop("ssl", False) else redis.Connection, largest)
        host, port = addresses[0]                        # only a client that was made with a URL takes the class of its connections
        return redis.RedisCluster(url=f"redis://{f'[{host}]' if ':' in host else host}:{port}", startup_nodes=nodes,
                                  connection_class=kind_of_node, max_connections=connections, **options)
    name, _, database = path.partition("/")
    sentinel = redis.Sentinel(addresses, sentinel_kwargs={**timeouts, "protocol": 2}, db=int(database or 0), **options)
    for each in sentinel.sentinels:
        with_bounds(each, 0)
    return with_bounds(sentinel.master_for(name, max_connections=connections), largest)


def with_bounds(client: Any, largest: int) -> Any:
    """Let the client's connections bound their answers (bounded_socket.py), and return it."""
    pool = client.connection_pool
    pool.connection_class = bounded_class(pool.connection_class, largest)
    return client


def disconnect(client: Any) -> None:
    """Close every connection of a client."""
    pool = getattr(client, "connection_pool", None)
    if pool is None:                                     # a Cluster's client, which has a pool for each node
        client.close()
        return
    pool.disconnect()
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        sentinel.connection_pool.disconnect()


def address_of(text: str, port: int) -> tuple[str, int]:
    """Parse ``host``, ``host:port`` or ``[::1]:port`` into host and port; ``port`` is the default."""
    host, colon, number = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), port
    return host.strip("[]"), int(number)
