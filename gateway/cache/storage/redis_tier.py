"""Redis as the tier that all workers and machines share: records by key, and leases. One Redis, one behind Sentinel, or a Cluster.

::

    redis://host:6379/0    rediss://host    unix:///run/redis.sock?db=0
    redis+sentinel://host:26379,host:26379/mymaster/0        redis+cluster://host:6379,host:6379

What it may cost, and how it is paused, is in circuit.py. A question has ``timeout`` from when it is sent; half as long it may wait
for a connection (redis_pool.py). What is written beside the requests (write_behind.py) goes in batches, each one round trip.

A Redis that came back is used only after the purges that were missed meanwhile were read: that is why RedisLog
(cache/purge/redis_stream.py), and no request, finds out. """

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from ...errors import ConfigError
from ...tasks import gather
from .circuit import Busy, Circuit, Refused, Slots
from .codec import LARGEST
from .redis_pool import CONNECT, Connections, connect, connections_of, disconnect, is_cluster, place_of
from .tiers import Operation

CONNECTIONS = 32                # of one worker; more wait
AT_ONCE = 8                     # writes to a Cluster
WRITING = 1.0                   # seconds for a batch, for which no request waits
DONE = "done"                   # in place of a token, for DONE_FOR ms: who looked for the record before it was there looks again
DONE_FOR = 150
TAKE = """
if redis.call('PTTL', KEYS[1]) == -1 then redis.call('DEL', KEYS[1]) end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
"""                             # what never ends is no lease
LEASED = f"if redis.call('PTTL', KEYS[1]) > 0 and redis.call('GET', KEYS[1]) ~= '{DONE}' then return 1 end return 0"
RELEASE = f"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('SET', KEYS[1], '{DONE}', 'PX', {DONE_FOR})
"""
EXTEND = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"

Command = tuple[Any, ...]
T = TypeVar("T")


class RedisTier:
    """``url`` is where Redis is, ``prefix`` what the names of all keys begin with, ``timeout`` is in seconds.
    ``largest`` is the size of a record."""

    name = "redis"

    def __init__(self, url: str, prefix: str = "wicketgate:", timeout: float = 0.05, *, largest: int = LARGEST,
                 failed: Callable[[float], None] = lambda number: None) -> None:
        try:
            import redis
        except ImportError:
            raise ConfigError(["cache.redis: needs the extra redis: pip install 'wicketgate[redis]'"]) from None
        self.url = url
        self.prefix = prefix
        self.timeout = timeout
        self.largest = largest
        self.shift = self.margin = 0.0
        self.circuit = Circuit("Redis", timeout, (redis.RedisError, redis.RedisClusterException, ValueError), failed=failed)
        self.slots = Slots(CONNECTIONS, timeout / 2)     # of a Cluster
        self._refusals = redis.ResponseError
        self._failures = (redis.ReadOnlyError, redis.exceptions.MasterDownError, redis.exceptions.ClusterDownError)
        self._client: Any = None
        self._connections: Connections | None = None

    @property
    def usable(self) -> bool:
        return self.circuit.usable

    # Records

    def get(self, key: str) -> bytes | None:
        """At most ``largest`` bytes of it: a record that is cut is none, and removed by whoever reads it."""
        return self.ask("GETRANGE", self._name(key), 0, self.largest - 1) or None

    def put(self, key: str, data: bytes, seconds: float) -> bool:
        return self.ask(*self._command(("put", key, data, seconds))) is not None

    def delete(self, key: str) -> None:
        self.ask(*self._command(("delete", key)))

    # Leases

    def lease(self, key: str, token: str, seconds: float) -> bool | None:
        """Take the lease of ``key`` for at most that long. False when another has it, or had it until a moment ago, None when Redis
        cannot be asked."""
        taken = self.ask(*self._command(("lease", key, token, seconds)))
        return None if taken is None else bool(taken)

    def leased(self, key: str) -> bool | None:
        """Does anybody have the lease of ``key``? None when Redis cannot be asked."""
        held = self.ask("EVAL", LEASED, 1, self._lease(key))
        return None if held is None else bool(held)

    def _lease(self, key: str) -> bytes:
        return self._name(f"lease:{key}")

    def _name(self, key: str) -> bytes:
        return (self.prefix + key).encode("utf-8", "surrogatepass")

    # Beside the requests

    def write(self, operations: Sequence[Operation]) -> int:
        """Records and leases, in this order under each key; leases end after the records before them were written. How many are
        lost."""
        commands = [self._command(operation) for operation in operations]
        if not is_cluster(self.url):
            refused: list[Exception] = []
            done = self.circuit.attempt(lambda: self._written(commands, refused))
            return 0 if done else len(refused) or len(commands)
        lost = 0
        for some in ([c for c in commands if c[0] != "EVAL"], [c for c in commands if c[0] == "EVAL"]):
            lost += gather(*(partial(self.ask, *command) for command in some), limit=AT_ONCE).count(None)
        return lost

    def _command(self, operation: Operation) -> Command:
        match operation:
            case ("put", key, data, seconds):
                return "SET", self._name(key), data, "PX", milliseconds(seconds)
            case ("delete", key):
                return "DEL", self._name(key)
            case ("lease", key, token, seconds):
                return "EVAL", TAKE, 1, self._lease(key), token, milliseconds(seconds)
            case ("extend", key, token, seconds):
                return "EVAL", EXTEND, 1, self._lease(key), token, milliseconds(seconds)
            case ("release", key, token, stored):
                return "EVAL", RELEASE, 1, self._lease(key), token, int(stored)
        raise ValueError(operation[0])

    def _written(self, commands: list[Command], refused: list[Exception]) -> bool:
        """One batch. One that is ``refused`` leaves the others as they are."""
        try:
            refused += self._with_connection(lambda connection: self._exchanged(connection, commands), WRITING, WRITING)
        except Busy:
            self.circuit.failed(float(len(commands)))
            raise
        for _ in refused[1:]:
            self.circuit.failed(1.0)
        if refused:
            raise Refused(str(refused[0]))
        return True

    def _exchanged(self, connection: Any, commands: list[Command]) -> list[Exception]:
        refused = exchange(connection, commands, self._refusals)
        for error in refused:
            if isinstance(error, self._failures):
                raise error
        return refused

    # Asking

    def ask(self, *command: Any) -> Any:
        """The answer, or None when Redis is paused, busy, or the command fails."""
        return self.circuit.attempt(lambda: self._told_apart(lambda: self._asked(command)))

    def _asked(self, command: Command) -> Any:
        if is_cluster(self.url):
            return self.slots.run(lambda: self.circuit.limited(lambda: self.client.execute_command(*command)))
        return self._with_connection(lambda connection: answer(connection, command), self.timeout / 2, self.timeout)

    def _with_connection(self, operation: Callable[[Any], T], patience: float, seconds: float) -> T:
        connections = self.connections
        connection = connections.take(patience)
        try:
            if not self.usable:                          # it became so while a connection was waited for
                raise Busy
            result = self.circuit.limited(lambda: operation(connection), seconds)
        except (Busy, self._refusals) as error:
            if isinstance(error, self._failures):        # there may be another Redis under this address now
                connections.drop(connection)
            else:
                connections.give(connection)
            raise
        except BaseException:                            # what comes next on it may be the answer to this
            connections.drop(connection)
            raise
        connections.give(connection)
        return result

    def _told_apart(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except self._refusals as error:
            if isinstance(error, self._failures):
                raise
            raise Refused(str(error)) from error

    @property
    def client(self) -> Any:
        if self._client is None:
            self._client = connect(self.url, CONNECT, CONNECTIONS, self.largest)
        return self._client

    @property
    def connections(self) -> Connections:
        if self._connections is None:
            self._connections = connections_of(self.client, CONNECTIONS, self.circuit.errors)
        return self._connections

    def close(self) -> None:
        if self._connections is not None:
            self._connections.close()
            self._connections = None
        if self._client is not None:
            disconnect(self._client)
            self._client = None

    def __repr__(self) -> str:
        return f"redis {place_of(self.url)}: {self.circuit!r}"


def answer(connection: Any, command: Command) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def exchange(connection: Any, commands: list[Command], refusals: type[Exception]) -> list[Exception]:
    """Send all, then read all answers: those that are refusals."""
    connection.send_packed_command(connection.pack_commands(commands))
    refused: list[Exception] = []
    for _ in commands:
        try:
            connection.read_response()
        except refusals as error:
            refused.append(error)
    return refused


def milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
