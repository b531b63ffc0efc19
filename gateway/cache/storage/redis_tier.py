"""Redis as the tier that all workers and machines share: records by key, and leases. The client is in remote/redis_client.py.

Background writes (write_behind.py) are sent in batches, each in one round trip. After an outage Redis is used only when all purges
from meanwhile have been read: so the bus (bus/redis_stream.py), not a request, detects that it is back.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...remote.redis_client import Command, RedisClient
from .tiers import Operation

DONE_MARK = "done"              # in place of a token, for DONE_FOR ms: who looked for the record before it was there looks again
DONE_FOR = 150
TAKE = """
if redis.call('PTTL', KEYS[1]) == -1 then redis.call('DEL', KEYS[1]) end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
"""                             # what never ends is no lease
LEASE_CHECK = f"if redis.call('PTTL', KEYS[1]) > 0 and redis.call('GET', KEYS[1]) ~= '{DONE_MARK}' then return 1 end return 0"
RELEASE = f"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('SET', KEYS[1], '{DONE_MARK}', 'PX', {DONE_FOR})
"""
EXTEND = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"


class RedisTier:
    """Records of at most ``client.largest`` bytes, and leases."""

    name = "redis"

    def __init__(self, client: RedisClient) -> None:
        self.client = client

    @property
    def usable(self) -> bool:
        return self.client.usable

    @property
    def shift(self) -> float:
        return self.client.clock.shift

    @property
    def margin(self) -> float:
        return self.client.clock.margin

    # Records

    def get(self, key: str) -> bytes | None:
        """Read at most ``largest`` bytes of a record: a truncated one is corrupt, and the store removes it."""
        return self.client.ask("GETRANGE", self.client.name(key), 0, self.client.largest - 1) or None

    def put(self, key: str, data: bytes, seconds: float) -> bool:
        return self.client.ask(*self._command(("put", key, data, seconds))) is not None

    def delete(self, key: str) -> None:
        self.client.ask(*self._command(("delete", key)))

    # Leases

    def lease(self, key: str, token: str, seconds: float) -> bool | None:
        """Take the lease of ``key`` for at most ``seconds``. False when another worker has it or has just released it, None when
        Redis is not available."""
        reply = self.client.ask(*self._command(("lease", key, token, seconds)))
        return None if reply is None else bool(reply)

    def is_leased(self, key: str) -> bool | None:
        """Does any worker have the lease of ``key``? None when Redis is not available."""
        reply = self.client.ask("EVAL", LEASE_CHECK, 1, self._lease(key))
        return None if reply is None else bool(reply)

    def _lease(self, key: str) -> bytes:
        return self.client.name(f"lease:{key}")

    # Beside the requests

    def write(self, operations: Sequence[Operation]) -> int:
        """Send operations in one batch, in order, so that a lease is released after its record is written. Returns how many were
        lost."""
        return self.client.ask_all([self._command(operation) for operation in operations])

    def _command(self, operation: Operation) -> Command:
        match operation:
            case ("put", key, data, seconds):
                return "SET", self.client.name(key), data, "PX", milliseconds(seconds)
            case ("delete", key):
                return "DEL", self.client.name(key)
            case ("lease", key, token, seconds):
                return "EVAL", TAKE, 1, self._lease(key), token, milliseconds(seconds)
            case ("extend", key, token, seconds):
                return "EVAL", EXTEND, 1, self._lease(key), token, milliseconds(seconds)
            case ("release", key, token, stored):
                return "EVAL", RELEASE, 1, self._lease(key), token, int(stored)
        raise ValueError(operation[0])

    def close(self) -> None:
        self.client.close()

    def __repr__(self) -> str:
        return repr(self.client)


def milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
