"""A client of Redis within what a request may spend on it (circuit.py): one Redis, one behind Sentinel, or a Cluster.

::

    redis://host:6379/0    rediss://host    unix:///run/redis.sock?db=0
    redis+sentinel://host:26379,host:26379/mymaster/0        redis+cluster://host:6379,host:6379

An operation has ``timeout`` from when it is sent; half as long it may wait for a connection (redis_pool.py). It never raises what
Redis does to it: a failure is counted, and the answer is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from ..breaker import Breaker
from ..errors import ConfigError
from ..tasks import gather
from .bounded_socket import LARGEST
from .circuit import Busy, Circuit, OperationRefused, Slots
from .redis_pool import CONNECT, Connections, connect, connections_of, disconnect, is_cluster, without_credentials
from .remote_clock import RemoteClock

CONNECTIONS = 32                # of one worker; more wait
CONCURRENCY = 8                 # commands of a batch at once, to a Cluster
BATCH_TIMEOUT = 1.0             # seconds for a batch, for which no request waits
SCRIPTS = ("EVAL",)

Command = tuple[Any, ...]
T = TypeVar("T")


class RedisClient:
    """``url`` is where Redis is, ``prefix`` what the names of all keys begin with, ``timeout`` is in seconds, ``largest`` the bytes
    of the largest value that is read, ``setting`` what asks for Redis, for the error without the extra. ``on_failure`` is called
    with the number of operations that failed."""

    def __init__(self, url: str, prefix: str = "wicketgate:", timeout: float = 0.05, *, largest: int = LARGEST,
                 on_failure: Callable[[float], None] = lambda number: None, most: int = CONNECTIONS, breaker: Breaker | None = None,
                 setting: str = "cache.redis") -> None:
        try:
            import redis
        except ImportError:
            raise ConfigError([f"{setting}: needs the extra redis: pip install 'wicketgate[redis]'"]) from None
        self.url = url
        self.prefix = prefix
        self.timeout = timeout
        self.largest = largest
        self.most = most
        self.clock = RemoteClock()                       # Redis's own
        self.circuit = Circuit("Redis", timeout, (redis.RedisError, redis.RedisClusterException, ValueError), on_failure=on_failure,
                               breaker=breaker)
        self.slots = Slots(most, timeout / 2)            # of a Cluster
        self._refusals = redis.ResponseError
        self._failures = (redis.ReadOnlyError, redis.exceptions.MasterDownError, redis.exceptions.ClusterDownError)
        self._library: Any = None                        # the client of redis-py
        self._connections: Connections | None = None

    @property
    def usable(self) -> bool:
        return self.circuit.usable

    def name(self, key: str) -> bytes:
        """The name of a key in Redis."""
        return (self.prefix + key).encode("utf-8", "surrogatepass")

    def ask(self, *command: Any) -> Any:
        """The answer, or None when Redis is paused, busy, or the command fails."""
        return self.circuit.attempt(lambda: self._translate(lambda: self._ask(command)))

    def ask_all(self, commands: Sequence[Command]) -> int:
        """Send a batch of commands, in order, and return how many failed. For the background: no request waits."""
        if not is_cluster(self.url):
            errors: list[Exception] = []
            success = self.circuit.attempt(lambda: self._send_batch(commands, errors))
            return 0 if success else len(errors) or len(commands)
        failures = 0
        for some in ([each for each in commands if each[0] not in SCRIPTS], [each for each in commands if each[0] in SCRIPTS]):
            failures += gather(*(partial(self.ask, *command) for command in some), limit=CONCURRENCY).count(None)
        return failures

    def _ask(self, command: Command) -> Any:
        if is_cluster(self.url):
            return self.slots.run(lambda: self.circuit.limit(lambda: self.library.execute_command(*command)))
        return self._with_connection(lambda connection: reply_to(connection, command), self.timeout / 2, self.timeout)

    def _send_batch(self, commands: Sequence[Command], errors: list[Exception]) -> bool:
        """Send the commands in one round trip, and add the errors of those that Redis refuses to ``errors``."""
        try:
            errors += self._with_connection(lambda connection: self._exchange(connection, commands), BATCH_TIMEOUT, BATCH_TIMEOUT)
        except Busy:
            self.circuit.on_failure(float(len(commands)))
            raise
        for _ in errors[1:]:
            self.circuit.on_failure(1.0)
        if errors:
            raise OperationRefused(str(errors[0]))
        return True

    def _exchange(self, connection: Any, commands: Sequence[Command]) -> list[Exception]:
        errors = exchange(connection, commands, self._refusals)
        for error in errors:
            if isinstance(error, self._failures):
                raise error
        return errors

    def _with_connection(self, operation: Callable[[Any], T], patience: float, seconds: float) -> T:
        connections = self.connections
        connection = connections.take(patience)
        try:
            if self.circuit.is_paused:                   # since a connection was waited for
                raise Busy
            result = self.circuit.limit(lambda: operation(connection), seconds)
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

    def _translate(self, operation: Callable[[], T]) -> T:
        """Run an operation and return its result. Raises OperationRefused for an error reply of Redis."""
        try:
            return operation()
        except self._refusals as error:
            if isinstance(error, self._failures):
                raise
            raise OperationRefused(str(error)) from error

    @property
    def library(self) -> Any:
        if self._library is None:
            self._library = connect(self.url, CONNECT, self.most, self.largest)
        return self._library

    @property
    def connections(self) -> Connections:
        if self._connections is None:
            self._connections = connections_of(self.library, self.most, self.circuit.errors)
        return self._connections

    def close(self) -> None:
        if self._connections is not None:
            self._connections.close()
            self._connections = None
        if self._library is not None:
            disconnect(self._library)
            self._library = None

    def __repr__(self) -> str:
        return f"redis {without_credentials(self.url)}: {self.circuit!r}"


def reply_to(connection: Any, command: Command) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def exchange(connection: Any, commands: Sequence[Command], refusals: type[Exception]) -> list[Exception]:
    """Send all commands, then read all replies, and return the error replies."""
    connection.send_packed_command(connection.pack_commands(commands))
    errors: list[Exception] = []
    for _ in commands:
        try:
            connection.read_response()
        except refusals as error:
            errors.append(error)
    return errors
