"""An upstream: a named service with several instances, which answers calls.

``send`` is the loop of attempts: choose an instance, render the request for it, make one attempt, tell the instance its outcome,
and let ``retry.decide`` say whether there is another. An instance that could not be connected pauses (backoff.py).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from time import monotonic

from ..backoff import Backoff
from ..config import UpstreamSettings as Settings
from ..errors import ConfigError, GatewayError, PoolExhausted, UpstreamError, UpstreamTimeout
from ..loop.send_queue import LARGEST
from ..message import Attempt, Body, Call, Response
from ..values import Address, parse_instance
from .balancer import RULES, Balancer
from .connecting import Connector, Follower
from .dns import Resolver, SocketAddress
from .exchange import Exchange, note
from .limit import Limit
from .pool import Pool, WaitOver
from .rendering import render_head
from .retry import IDEMPOTENT, SUCCESS, Next, Outcome, Result, decide, judge
from .sending import small_body
from .tls import build_context, check_name
from .transport import Connection


class Instance:
    """One address of an upstream. ``authority`` is its Host, ``in_flight`` the number of exchanges not yet over."""

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
        self.follower = Follower(connector, lambda: pool.open > 0)
        connector.changed = pool.keep_only

    def connection(self, call: Call, limit: Limit, fresh: bool, careful: bool, patient: bool) -> Connection:
        """A connection of the pool's, or a new one; ``patient``: while all are busy, one is waited for. Raises PoolExhausted,
        ConnectFailed, ConnectTimeout, OutOfFiles and what ``limit`` does."""
        left = limit.left()
        place = self.connector.next() if self.connector.many else None
        if not fresh and (unused := self.pool.unused(careful, place)) is not None:
            return unused
        patience = self.pool_timeout if patient else 0.0
        if left is not None and left <= patience:
            patience = left
        try:
            connection = self.pool.take(patience, fresh)
        except WaitOver:
            if patience == left:
                raise limit.over() from None
            raise PoolExhausted(f"all {self.pool.maximum} connections were busy for {patience:g} s") from None
        return self._connect(call, limit, place) if connection is None else connection

    def _connect(self, call: Call, limit: Limit, place: SocketAddress | None) -> Connection:
        """A new connection. Where the call has a time of its own for that, it does not count as the attempt's."""
        seconds = call.connect_timeout
        try:
            if seconds is None:
                connection = self.connector.connect(limit, place)
            else:
                connection = self.connector.connect(Limit(limit.deadline, None, limit.error), place, seconds)
                limit.restart()
        except BaseException:
            self.pool.drop()
            raise
        self.follower.start()
        return self.pool.add(connection)

    def settle(self, outcome: Outcome, begun: float, now: float) -> None:
        """An attempt that began at ``begun`` came to this."""
        if outcome.result is Result.FAILURE:
            self.backoff.fail(begun, now)
        elif outcome.result is Result.SUCCESS and self.backoff.failures:
            self.backoff.reset()

    def close(self) -> None:
        """Close what is unused; what is in use is closed when it comes back."""
        self.follower.stop()
        self.pool.close()

    def release(self, connection: Connection | None, reusable: bool) -> None:
        """The exchange on ``connection`` is over; None: the connection has another owner."""
        self.in_flight -= 1
        if reusable and connection is not None:
            connection.served += 1
            self.pool.give(connection)
            return
        if connection is not None:
            connection.close()
        self.pool.drop()

    def __repr__(self) -> str:
        return f"Instance({self.name}, {self.in_flight} in flight, {self.pool!r})"


NOBODY: tuple[Instance, ...] = ()


class Upstream:
    """``send`` and ``upgrade`` make a Call. Building one opens nothing, so that it may happen before a fork.
    Raises ConfigError and ValueError for settings that cannot be used."""

    def __init__(self, name: str, settings: Settings, resolver: Resolver | None = None,
                 clock: Callable[[], float] = monotonic) -> None:
        self.name = name
        self.clock = clock
        self.settings = settings
        self.resolver = resolver or Resolver(settings.dns_ttl)
        addresses = [parse_instance(url) for url in settings.instances]
        try:
            context = self._context(addresses)
        except ConfigError as error:
            raise ConfigError([f'upstream "{name}": {problem}' for problem in error.problems], error.source) from error
        self.instances = [
            Instance(url, Connector(address, self.resolver, settings.connect_timeout, context, settings.tls.server_name),
                     Pool(settings.max_connections, settings.idle_timeout, settings.max_connection_age), settings.pool_timeout)
            for url, address in zip(settings.instances, addresses)]
        self.balancer = Balancer(self.instances, RULES[settings.balance])

    def send(self, call: Call) -> Response:
        """The answer to ``call``. Raises UpstreamError and its kinds, DeadlineExceeded, BadRequest for what cannot be sent, and
        what reading the call's body raises. A stream that is its body must be closed, and so must the connection behind a 101
        (``upgraded``), which is the caller's."""
        body = call.body
        if body is not None:
            body = small_body(call, call.read_timeout or self.settings.read_timeout)
        now = self.clock()
        instance = self.balancer.choose(now)
        request = render_head(call, body, instance.authority)
        tried, fresh = NOBODY, False
        while True:
            try:
                return self._attempt(call, request, body, instance, fresh, not tried, now)
            except UpstreamError as error:
                then = decide(error.outcome, call.method, fresh, isinstance(body, Body) and body.started)
                if then is Next.STOP:
                    raise
                now, fresh = self.clock(), then is Next.FRESH
                if then is Next.OTHER:
                    tried = *tried, instance
                    other = self.balancer.other(now, tried)
                    if other is None:
                        raise
                    instance = other
                    request = render_head(call, body, instance.authority)

    def close(self) -> None:
        """Close all unused connections; those in use are closed when they come back."""
        for instance in self.instances:
            instance.close()

    def _context(self, addresses: list[Address]) -> ssl.SSLContext | None:
        """For all https instances, checked with the names they are asked for by."""
        tls = self.settings.tls
        names = [tls.server_name or address.host for address in addresses if address.scheme == "https"]
        if not names:
            return None
        context = build_context(tls)
        for name in names:
            check_name(context, name)
        return context

    def _attempt(self, call: Call, request: bytes, body: bytes | Body | None, instance: Instance, fresh: bool, patient: bool,
                 begun: float) -> Response:
        attempt = Attempt(self.name, instance.name)
        call.attempts.append(attempt)
        timeout = self.settings.timeout if call.timeout is None else call.timeout
        limit = Limit(call.deadline, timeout, lambda: UpstreamTimeout(f"no answer within {timeout:g} s"))
        exchange = None
        instance.in_flight += 1
        try:
            posted = instance.plain and body is None and call.method in IDEMPOTENT and len(request) <= LARGEST
            connection = instance.connection(call, limit, fresh, not posted, patient)
            attempt.reused = connection.served > 0
            exchange = Exchange(connection, limit, call.read_timeout or self.settings.read_timeout, instance.release, attempt)
            exchange.send(request, body, posted)
            head = exchange.read_head(call)
            attempt.status = head.status
            attempt.seconds = (now := self.clock()) - begun
            instance.settle(SUCCESS, begun, now)
            if head.status == 101:
                head.upgraded = exchange.detach()
                return head
            connection.keep = head.idle
            head.body = exchange.read_body(head, not call.head_first)
            return head
        except BaseException as error:
            if not attempt.status:
                now = self.clock()
                attempt.seconds = now - begun
                instance.settle(judge(error, exchange is not None), begun, now)
            if isinstance(error, GatewayError):
                note(error, attempt)
            if exchange is None:
                instance.in_flight -= 1
            else:
                exchange.finish(False)
            raise

    def __repr__(self) -> str:
        return f"Upstream({self.name}, {self.balancer!r})"
