"""Opening a connection to an instance: its name looked up, each of its places tried in order, TLS on top.

Each place has ``connect_timeout`` for TCP and TLS together, within the limit of the attempt; so has the lookup.
"""

from __future__ import annotations

import ssl
from socket import AF_UNIX

from ..errors import ConnectFailed, ConnectTimeout
from ..values import Address
from .dns import LookupFailed, Place, Resolver
from .limit import Limit
from .tls import TlsConnection
from .transport import Connection, Lost, native_socket


class Connector:
    """``connect(limit)`` opens a connection to ``address``. ``context`` and ``server_name`` are for https."""

    def __init__(self, address: Address, resolver: Resolver, timeout: float, context: ssl.SSLContext | None,
                 server_name: str | None) -> None:
        self.address = address
        self.resolver = resolver
        self.timeout = timeout
        self.context = context if address.scheme == "https" else None
        self.server_name = server_name or address.host

    def connect(self, limit: Limit) -> Connection:
        """Raises ConnectFailed, ConnectTimeout, and what ``limit`` raises."""
        problem: Exception | None = None
        for place in self._places(limit):
            try:
                return self._try(place, limit.within(self.timeout, self._late))
            except Lost as error:
                problem = error.problem
            except ConnectTimeout as error:
                problem = error
        if isinstance(problem, ConnectTimeout):
            raise problem
        raise ConnectFailed(f"{self.address.host}: {problem}") from problem

    def _places(self, limit: Limit) -> list[Place]:
        address = self.address
        if address.unix_path is not None:
            return [Place(AF_UNIX, address.unix_path)]
        patience = limit.within(self.timeout, self._late)
        try:
            places = self.resolver.resolve(address.host, address.port, patience.left())
        except LookupFailed as error:
            raise ConnectFailed(str(error)) from error
        if places is None:
            raise patience.over()
        return places

    def _try(self, place: Place, limit: Limit) -> Connection:
        socket = native_socket(place.family)
        connection = Connection(socket) if self.context is None else TlsConnection(socket, self.context, self.server_name)
        try:
            connection.establish(place, limit)
        except BaseException:
            connection.close()
            raise
        return connection

    def _late(self) -> ConnectTimeout:
        return ConnectTimeout(f"{self.address.host}: no connection within {self.timeout:g} s")

    def __repr__(self) -> str:
        return f"Connector({self.address.authority})"
