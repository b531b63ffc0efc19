"""One address of an upstream: its connections, what is in flight on it, and the pause after a failure to connect (backoff.py).

There is one Instance for each address, and it is never copied: its state is one, whoever calls. Each attempt on it has one Outcome,
which ``settle`` delivers to all who subscribe. Subscribers are called in the order in which they came, and must not wait or raise.
"""

from __future__ import annotations

from collections.abc import Callable

from ..backoff import Backoff
from ..errors import PoolExhausted, UpstreamError, with_cause
from ..message import Attempt, Call
from .connecting import Connector, Follower
from .dns import SocketAddress
from .limit import Limit
from .pool import Pool, WaitOver
from .retry import Outcome
from .transport import Connection

Subscriber = Callable[[Attempt, Outcome, float, float], None]          # the attempt, its outcome, when it began and ended


class Instance:
    """``authority`` is its Host, ``in_flight`` the number of exchanges that are not over."""

    def __init__(self, url: str, connector: Connector, pool: Pool, pool_timeout: float) -> None:
        self.name = url.rstrip("/")
        self.scheme = connector.address.scheme
        self.authority = connector.address.authority
        self.connector = connector
        self.pool = pool
        self.pool_timeout = pool_timeout
        self.plain = connector.context is None               # no TLS: what is given to a socket is what is sent
        self.in_flight = 0
        self.backoff = Backoff()
        self.settle: Subscriber = backoff_subscriber(self.backoff)
        self.subscribers: tuple[Subscriber, ...] = (self.settle,)
        self.follower = Follower(connector, lambda: pool.open > 0)
        connector.on_change = pool.keep_only

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have the outcome of each attempt delivered to ``subscriber``, once."""
        self.subscribers = (*self.subscribers, subscriber)
        self.settle = each_of(self.subscribers)

    def connection(self, call: Call, limit: Limit, fresh: bool, careful: bool, patient: bool) -> Connection:
        """An unused connection, or a new one. ``fresh``: not one that was used before; ``careful``: ask the system whether it may
        serve again; ``patient``: while all are busy, wait for one. Raises PoolExhausted, ConnectFailed, ConnectTimeout, OutOfFiles
        and what ``limit`` does."""
        left = limit.left()
        endpoint = self.connector.next() if self.connector.many else None
        if not fresh and (idle := self.pool.reuse(careful, endpoint)) is not None:
            return idle
        patience = self.pool_timeout if patient else 0.0
        if left is not None and left <= patience:
            patience = left
        try:
            connection = self.pool.take(patience, fresh)
        except WaitOver:
            if patience == left:
                raise with_cause(busy_error(limit.over()), None)
            raise with_cause(PoolExhausted(f"all {self.pool.maximum} connections were busy for {patience:g} s"), None)
        return self._connect(call, limit, endpoint) if connection is None else connection

    def _connect(self, call: Call, limit: Limit, endpoint: SocketAddress | None) -> Connection:
        """A new connection. Where the call has a time of its own for that, it does not count as the attempt's."""
        seconds = call.connect_timeout
        try:
            if seconds is None:
                connection = self.connector.connect(limit, endpoint)
            else:
                connection = self.connector.connect(Limit(limit.deadline, None, limit.error, limit.clock), endpoint, seconds)
                limit.restart()
        except BaseException:
            self.pool.drop()
            raise
        self.follower.start()
        return self.pool.add(connection)

    def release(self, connection: Connection | None, reusable: bool) -> None:
        """The exchange on ``connection`` is over; None: the connection has another owner."""
        self.in_flight -= 1
        if reusable and connection is not None:
            connection.requests += 1
            self.pool.give(connection)
        else:
            if connection is not None:
                connection.close()
            self.pool.drop()

    def close(self) -> None:
        """Close what is unused; what is in use is closed when it comes back."""
        self.follower.stop()
        self.pool.close()

    def __del__(self) -> None:
        """The loop does not keep an instance alive, but what it has set there: its timers, and the watchers of its connections."""
        self.follower.stop()
        self.pool.forget()

    def __repr__(self) -> str:
        return f"Instance({self.name}, {self.in_flight} in flight, {self.pool!r})"


def busy_error(error: Exception) -> Exception:
    """Note in the error of a limit that it passed while all connections were busy."""
    if isinstance(error, UpstreamError):
        error.busy = True
    return error


def backoff_subscriber(backoff: Backoff) -> Subscriber:
    """The subscriber that backs off after a failure to connect, and resets the backoff after any answer."""
    def settle(attempt: Attempt, outcome: Outcome, start: float, now: float) -> None:
        if attempt.status:
            if backoff.failures:
                backoff.reset()
        elif outcome.is_connect_failure:
            backoff.fail(start, now)
    return settle


def each_of(subscribers: tuple[Subscriber, ...]) -> Subscriber:
    """One subscriber that passes each outcome on to all of these."""
    def settle(attempt: Attempt, outcome: Outcome, start: float, now: float) -> None:
        for subscriber in subscribers:
            subscriber(attempt, outcome, start, now)
    return settle
