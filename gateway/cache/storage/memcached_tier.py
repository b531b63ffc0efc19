"""Memcached as the tier that all workers and machines share: records by key, without leases and without the bus.

So a purge reaches the workers of one machine only, and does not outlive a restart of the gateway, after which records purged before
are served again: purges need Redis where that matters. Time limit and circuit breaker are in remote/circuit.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...breaker import Breaker
from ...errors import ConfigError
from ...remote.bounded_socket import LARGEST, Sockets
from ...remote.circuit import Circuit, OperationRefused, Slots
from ...tasks import gather
from .tiers import Operation

CONNECTIONS = 32                # of one worker to each host; more wait, half as long as a look may take
AT_ONCE = 8                     # writes beside the requests
LONGEST = 30 * 24 * 3600        # seconds: memcached takes more for a date


class MemcachedTier:
    """``hosts`` is ``host:port``, or several separated by commas, over which the keys are distributed."""

    name = "memcached"
    shift = margin = 0.0

    def __init__(self, hosts: str, prefix: str = "wicketgate:", timeout: float = 0.05, *, largest: int = LARGEST,
                 on_failure: Callable[[float], None] = lambda number: None, breaker: Breaker | None = None) -> None:
        try:
            from pymemcache.exceptions import MemcacheError, MemcacheServerError
        except ImportError:
            raise ConfigError(["cache.memcached: needs the extra memcached: pip install 'wicketgate[memcached]'"]) from None
        self.hosts = hosts
        self.prefix = prefix
        self.largest = largest
        self.circuit = Circuit("Memcached", timeout, (MemcacheError, ValueError, KeyError), on_failure=on_failure,
                               breaker=breaker)
        self.slots = Slots(CONNECTIONS, timeout / 2)
        self._refusal = MemcacheServerError              # too large, out of memory
        self._client: Any = None

    @property
    def usable(self) -> bool:
        return self.circuit.usable

    @property
    def client(self) -> Any:
        if self._client is None:
            from pymemcache import HashClient
            timeout = self.circuit.timeout
            self._client = HashClient(self.hosts.split(","), connect_timeout=timeout, timeout=timeout, use_pooling=True,
                                      max_pool_size=CONNECTIONS, retry_attempts=0, dead_timeout=1, no_delay=True,
                                      socket_module=Sockets(self.largest))
        return self._client

    def get(self, key: str) -> bytes | None:
        return self._attempt(lambda: self.client.get(self._name(key)))

    def put(self, key: str, data: bytes, seconds: float) -> bool:
        return self._write("put", key, data, seconds) is not None

    def delete(self, key: str) -> None:
        self._write("delete", key)

    def write(self, operations: Sequence[Operation]) -> int:
        """Send operations on different keys; returns how many were lost."""
        return gather(*(partial(self._write, *operation) for operation in operations), limit=AT_ONCE).count(None)

    def _write(self, what: str, key: str, data: bytes = b"", seconds: float = 0.0) -> Any:
        """Send one operation; None when it failed."""
        if what == "delete":
            return self._attempt(lambda: self.client.delete(self._name(key), noreply=False))
        keep = min(LONGEST, max(1, int(seconds)))
        return self._attempt(lambda: self.client.set(self._name(key), data, expire=keep, noreply=False))

    def _name(self, key: str) -> str:
        """The key in Memcached, hashed: Memcached allows no spaces and at most 250 bytes."""
        return self.prefix + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()

    def _attempt(self, operation: Callable[[], Any]) -> Any:
        return self.circuit.attempt(lambda: self.slots.run(lambda: self.circuit.limit(lambda: self._translate(operation))))

    def _translate(self, operation: Callable[[], Any]) -> Any:
        """Run an operation and return its result. Raises OperationRefused for an error reply of Memcached."""
        try:
            return operation()
        except self._refusal as error:
            raise OperationRefused(str(error)) from error

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def __repr__(self) -> str:
        return f"memcached {self.hosts}: {self.circuit!r}"
