"""An upstream: a named service with several instances, which answers calls.

``send`` is the loop of attempts: choose an instance, make one attempt, and when it failed let ``_again`` say whether there is
another. That is the one place to decide on retries. Today there is one reason: the connection had served before and ended before
a byte of the answer came, most likely because its time was over while the request was on its way (RFC 9112 section 9.3.1).
Then the request goes once more, on a fresh connection, if

- it never left, whatever it is; or
- its method is idempotent (RFC 9110 section 9.2.2) and its body can be sent again.

Nothing is sent twice otherwise.
"""

from __future__ import annotations

import ssl
from time import monotonic

from ..config import Upstream as Settings
from ..errors import ConfigError, GatewayError, PoolExhausted, UpstreamTimeout
from ..message import Attempt, Body, Call, Response
from ..outbox import LARGEST
from ..values import Address, parse_instance
from .balancer import RULES, Balancer
from .connecting import Connector
from .dns import Resolver
from .exchange import Exchange, Stale, note
from .limit import Limit
from .pool import Pool, WaitOver
from .rendering import render_head
from .sending import small_body
from .tls import build_context, check_name
from .transport import Connection

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


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

    def connection(self, limit: Limit, fresh: bool, careful: bool) -> Connection:
        """A connection of the pool's, or a new one. Raises PoolExhausted, ConnectFailed, ConnectTimeout, what ``limit`` does."""
        left = limit.left()
        if not fresh and (unused := self.pool.unused(careful)) is not None:
            return unused
        patience = self.pool_timeout if left is None or self.pool_timeout < left else left
        try:
            connection = self.pool.take(patience, fresh)
        except WaitOver:
            if patience == left:
                raise limit.over() from None
            raise PoolExhausted(f"all {self.pool.maximum} connections were busy for {patience:g} s") from None
        if connection is not None:
            return connection
        try:
            return self.connector.connect(limit)
        except BaseException:
            self.pool.drop()
            raise

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


class Upstream:
    """``send`` and ``upgrade`` make a Call. Building one opens nothing, so that it may happen before a fork.
    Raises ConfigError and ValueError for settings that cannot be used."""

    def __init__(self, name: str, settings: Settings, resolver: Resolver | None = None) -> None:
        self.name = name
        self.settings = settings
        self.resolver = resolver or Resolver(settings.dns_ttl)
        addresses = [parse_instance(url) for url in settings.instances]
        try:
            context = self._context(addresses)
        except ConfigError as error:
            raise ConfigError([f'upstream "{name}": {problem}' for problem in error.problems], error.source) from error
        self.instances = [
            Instance(url, Connector(address, self.resolver, settings.connect_timeout, context, settings.tls.server_name),
                     Pool(settings.max_connections, settings.idle_timeout), settings.pool_timeout)
            for url, address in zip(settings.instances, addresses)]
        self.balancer = Balancer(self.instances, RULES[settings.balance])

    def send(self, call: Call) -> Response:
        """The answer to ``call``. Raises UpstreamError and its kinds, DeadlineExceeded, BadRequest for what cannot be sent, and
        what reading the call's body raises. A stream that is its body must be closed, and so must the connection behind a 101
        (``upgraded``), which is the caller's."""
        body = call.body
        if body is not None:
            body = small_body(call, self.settings.read_timeout)
        instance = self.balancer.pick()
        request = render_head(call, body, instance.authority)
        repeatable = call.method in IDEMPOTENT and not isinstance(body, Body)
        fresh = False
        while True:
            try:
                return self._attempt(call, request, body, instance, fresh, repeatable)
            except GatewayError as error:
                if fresh or not self._again(error, call, body):
                    raise
                fresh = True

    def close(self) -> None:
        """Close all unused connections; those in use are closed when they come back."""
        for instance in self.instances:
            instance.pool.close()

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

    def _again(self, error: GatewayError, call: Call, body: bytes | Body | None) -> bool:
        """Whether to make another attempt, after one on a connection that had served before."""
        if not isinstance(error, Stale) or isinstance(body, Body) and body.started:
            return False
        return error.unsent or call.method in IDEMPOTENT

    def _attempt(self, call: Call, request: bytes, body: bytes | Body | None, instance: Instance, fresh: bool,
                 repeatable: bool) -> Response:
        begun = monotonic()
        attempt = Attempt(self.name, instance.name)
        call.attempts.append(attempt)
        timeout = self.settings.timeout if call.timeout is None else call.timeout
        limit = Limit(call.deadline, timeout, lambda: UpstreamTimeout(f"no answer within {timeout:g} s"))
        exchange = None
        instance.in_flight += 1
        try:
            posted = repeatable and instance.plain and body is None and len(request) <= LARGEST
            connection = instance.connection(limit, fresh, not posted)
            attempt.reused = connection.served > 0
            exchange = Exchange(connection, limit, self.settings.read_timeout, instance.release, attempt)
            exchange.send(request, body, posted)
            head = exchange.read_head(call)
            attempt.status = head.status
            attempt.seconds = monotonic() - begun
            if head.status == 101:
                head.upgraded = exchange.detach()
                return head
            connection.keep = head.idle
            head.body = exchange.read_body(head, not call.head_first)
            return head
        except BaseException as error:
            if not attempt.status:
                attempt.seconds = monotonic() - begun
            if isinstance(error, GatewayError):
                note(error, attempt)
            if exchange is None:
                instance.in_flight -= 1
            else:
                exchange.finish(False)
            raise

    def __repr__(self) -> str:
        return f"Upstream({self.name}, {self.balancer!r})"
