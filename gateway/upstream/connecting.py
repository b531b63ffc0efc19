"""Opening a connection to an instance: look up its name, connect to one of its endpoints after the other, then TLS.

An *endpoint* is a socket address. Each one has ``connect_timeout`` for TCP and TLS together, within the limit of the attempt; so
has the lookup. All endpoints of a name take turns; one that could not be connected pauses (backoff.py) and comes last. As long as
there are connections to a name, it is looked up again after each ttl, beside the requests, and connections to an endpoint that is
no longer in the answer are drained.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection
from socket import AF_UNIX

from gevent import spawn

from ..backoff import Backoff
from ..errors import NO_ROOM, ConnectFailed, ConnectTimeout, OutOfFiles, with_cause
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..values import Address
from .dns import LookupFailed, Resolver, SocketAddress
from .limit import Limit
from .tls import TlsConnection
from .transport import Connection, ConnectionLost, native_socket

SOONEST = 0.05                                           # seconds between two lookups, however short the ttl
Open = Callable[[SocketAddress], Connection]             # a connection that is still to be established. Raises ConnectionLost


class Connector:
    """``connect(limit)`` opens a connection to ``address``. ``context`` and ``server_name`` are for https. ``many``: the name has
    several endpoints. ``open`` makes the connections (None: native sockets)."""

    def __init__(self, address: Address, resolver: Resolver, timeout: float, context: ssl.SSLContext | None,
                 server_name: str | None, clock: MonotonicClock = CLOCK, open: Open | None = None) -> None:
        self.address = address
        self.resolver = resolver
        self.timeout = timeout
        self.context = context if address.scheme == "https" else None
        self.server_name = server_name or address.host
        self.clock = clock
        self.open = open
        self.many = False
        self.on_change: Callable[[Collection[SocketAddress]], None] | None = None    # called with the endpoints of a new answer
        self.endpoints: list[SocketAddress] = []
        self._turn = 0
        self._backoffs: dict[SocketAddress, Backoff] = {}        # of those that failed

    def connect(self, limit: Limit, first: SocketAddress | None = None, timeout: float | None = None) -> Connection:
        """A new connection, to ``first`` if that is one of the endpoints. ``timeout`` replaces the connector's. Raises
        ConnectFailed, ConnectTimeout, OutOfFiles and what ``limit`` raises."""
        problem: Exception | None = None
        seconds = self.timeout if timeout is None else timeout

        def late() -> ConnectTimeout:
            return ConnectTimeout(f"{self.address.host}: no connection within {seconds:g} s")

        for endpoint in self._order(self._look_up(limit.within(seconds, late)), first):
            start = self.clock.now()
            if endpoint in self._backoffs:
                self._backoffs[endpoint].claim(start)
            try:
                connection = self._try(endpoint, limit.within(seconds, late))
            except ConnectionLost as error:
                if error.problem.errno in NO_ROOM:
                    raise with_cause(OutOfFiles(str(error)), error.problem)
                problem = error.problem
            except ConnectTimeout as timed_out:
                problem = timed_out
            else:
                self._backoffs.pop(endpoint, None)
                return connection
            self._backoffs.setdefault(endpoint, Backoff()).fail(start, self.clock.now())
        if isinstance(problem, ConnectTimeout):
            raise problem
        raise with_cause(ConnectFailed(f"{self.address.host}: {problem}"), problem)

    def next(self) -> SocketAddress:
        """The endpoint whose turn it is; of those that do not pause, if there are such."""
        return self._order(self.endpoints, None)[0]

    def set_endpoints(self, endpoints: list[SocketAddress]) -> None:
        """Take the endpoints of a new answer."""
        self.endpoints = endpoints
        self.many = len(endpoints) > 1
        if self.on_change is not None:
            self.on_change(endpoints)
        for endpoint in self._backoffs.keys() - set(endpoints):
            del self._backoffs[endpoint]

    def _order(self, endpoints: list[SocketAddress], first: SocketAddress | None) -> list[SocketAddress]:
        if len(endpoints) == 1:
            return endpoints
        if first is None:
            self._turn += 1
        start = endpoints.index(first) if first in endpoints else (self._turn - 1) % len(endpoints)
        order = endpoints[start:] + endpoints[:start]
        if self._backoffs:
            now = self.clock.now()
            order.sort(key=lambda endpoint: endpoint in self._backoffs and self._backoffs[endpoint].until > now)
        return order

    def _look_up(self, patience: Limit) -> list[SocketAddress]:
        address = self.address
        if address.unix_path is not None:
            return [SocketAddress(AF_UNIX, address.unix_path)]
        try:
            endpoints = self.resolver.resolve(address.host, address.port, patience.left())
        except LookupFailed as error:
            raise with_cause(ConnectFailed(str(error)), error)
        if endpoints is None:
            raise patience.over()
        if endpoints is not self.endpoints:
            self.set_endpoints(endpoints)
        return endpoints

    def _try(self, endpoint: SocketAddress, limit: Limit) -> Connection:
        connection = self._open(endpoint) if self.open is None else self.open(endpoint)
        try:
            connection.establish(endpoint, limit)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self, endpoint: SocketAddress) -> Connection:
        socket = native_socket(endpoint.family)
        if self.context is None:
            return Connection(socket, self.clock)
        return TlsConnection(socket, self.context, self.server_name, self.clock)

    def __repr__(self) -> str:
        return f"Connector({self.address.authority})"


class Follower:
    """Looks the name of a connector up again when its answer expires, as long as it is ``in_use()``: a timer does it, and no
    request waits for it."""

    def __init__(self, connector: Connector, in_use: Callable[[], bool]) -> None:
        self.connector = connector
        self.in_use = in_use
        self.alarm = connector.clock.alarm()

    def start(self) -> None:
        """Set the timer: there is a connection now."""
        address = self.connector.address
        left = self.connector.resolver.left(address.host, address.port)
        if left is not None:
            self.alarm.set(max(left, SOONEST), self._look_later)

    def stop(self) -> None:
        self.alarm.stop()

    def _look_later(self) -> None:
        self.alarm.stop()
        if self.in_use():
            spawn(self._look)

    def _look(self) -> None:
        connector = self.connector
        endpoints = connector.resolver.renew(connector.address.host, connector.address.port)
        if endpoints and endpoints is not connector.endpoints:
            connector.set_endpoints(endpoints)
        if self.in_use():
            self.start()
