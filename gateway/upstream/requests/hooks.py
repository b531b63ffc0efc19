"""Tools that hook in below ``HTTPAdapter.send``: they see governed calls too.

What a tool has replaced decides how a call goes:

- nothing: straight to the upstream;
- methods of ``http.client.HTTPConnection`` (Sentry, New Relic, X-Ray and other tracers): the call is visible to them. Its head
  passes through ``putrequest``, ``putheader`` and ``endheaders`` of a connection without a socket, the head that results is sent,
  and the exchange happens within ``getresponse``;
- connections, pools or adapters of urllib3 and ``requests`` (vcrpy and other recorders): the stock way, as these bring a transport
  of their own.

This is checked for each call, since such tools come and go while a program runs.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable
from enum import Enum
from functools import partial
from http.client import HTTPConnection, HTTPMessage, HTTPResponse
from io import BytesIO
from operator import attrgetter, itemgetter
from types import FunctionType
from typing import Any
from urllib.parse import urlsplit

from requests import adapters
from requests.adapters import HTTPAdapter
from urllib3 import connection, connectionpool, poolmanager

from ...message import Call, Response

Send = Callable[[Call], Response]
HIDDEN = frozenset({"host", "content-length", "transfer-encoding"})


class Way(Enum):
    STRAIGHT = "straight"
    VISIBLE = "visible"
    STOCK = "stock"


# What tools replace: of each class the functions, which are of its module unless somebody has replaced them.
HOOK_POINTS: tuple[tuple[type, Any, tuple[str, ...]], ...] = (
    (HTTPConnection, http.client, ("putrequest", "putheader", "endheaders", "getresponse", "request", "_send_request")),
    (connection.HTTPConnection, connection, ("request", "getresponse", "connect")),
    (connectionpool.HTTPConnectionPool, connectionpool, ("urlopen", "_make_request", "_get_conn", "_new_conn")),
    (poolmanager.PoolManager, poolmanager, ("connection_from_host", "connection_from_pool_key", "urlopen")),
    (HTTPAdapter, adapters, ("get_connection_with_tls_context", "cert_verify", "add_headers", "request_url")),
)
POOLS: dict[Any, type] = {connectionpool.HTTPConnectionPool: connection.HTTPConnection,
                          connectionpool.HTTPSConnectionPool: connection.HTTPSConnection}


class Hooks:
    """``hooks.way()`` is the way of a call that is made now."""

    def __init__(self) -> None:
        self._functions: list[Any] = []
        self._way = Way.STRAIGHT
        self._lookups: list[Callable[[], Any]] = [partial(itemgetter(*names), vars(owner)) for owner, _, names in HOOK_POINTS]
        self._lookups += [partial(attrgetter("ConnectionCls"), pool) for pool in POOLS]

    def way(self) -> Way:
        functions = [look_up() for look_up in self._lookups]
        if functions != self._functions:
            self._functions = functions
            self._way = self._judge()
        return self._way

    def _judge(self) -> Way:
        first, *others = [any(foreign(vars(owner)[name], module) for name in names) for owner, module, names in HOOK_POINTS]
        if any(others) or any(pool.ConnectionCls is not usual for pool, usual in POOLS.items()):
            return Way.STOCK
        return Way.VISIBLE if first else Way.STRAIGHT


def foreign(function: Any, module: Any) -> bool:
    """Is it not a function of the module itself? A wrapper, whatever its name, has the globals of another module."""
    return type(function) is not FunctionType or function.__globals__ is not vars(module)


hooks = Hooks()


def show(call: Call, url: str, send: Send) -> Response:
    """Make the call by ``send``, inside the methods of HTTPConnection that tools have wrapped. Raises what ``send`` does."""
    parts = urlsplit(url)
    connection = HookConnection(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), parts.scheme)
    connection.response_class = partial(HookResponse, connection, call, send)  # type: ignore[assignment]
    connection.putrequest(call.method, call.target, skip_host=True, skip_accept_encoding=True)
    host = call.host or parts.netloc.rpartition("@")[2]
    for name, value in [("Host", host), *call.headers]:
        connection.putheader(name, value)
    connection.endheaders()
    fields = [(name, value) for name, _, value in (line.partition(": ") for line in connection.head.split("\r\n")[1:]) if name]
    call.headers = [field for field in fields if field[0].lower() not in HIDDEN]
    hosts = [value for name, value in fields if name.lower() == "host"]
    if hosts and hosts[-1] != host:
        call.host = hosts[-1]
    return connection.getresponse().answer  # type: ignore[attr-defined]


class HookConnection(HTTPConnection):
    """A connection without a socket: bytes sent on it are appended to ``head``."""

    def __init__(self, host: str, port: int, scheme: str) -> None:
        super().__init__(host, port)
        self.default_port = 443 if scheme == "https" else 80
        self.head = ""

    def connect(self) -> None:
        return

    def send(self, data: Any) -> None:
        self.head += bytes(data).decode("latin-1")


class HookResponse(HTTPResponse):
    """The response that ``getresponse`` returns: the head of ``answer``, without its body, which ``requests`` reads elsewhere."""

    def __init__(self, connection: HookConnection, call: Call, send: Send, sock: Any, debuglevel: int = 0,
                 method: str | None = None) -> None:
        super().__init__(self, method=method)  # type: ignore[arg-type]
        self._make = partial(send, call)

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO()

    def begin(self) -> None:
        self.answer = answer = self._make()
        self.code = self.status = answer.status
        self.reason = answer.reason
        self.version = 11
        self.headers = self.msg = HTTPMessage()
        for name, value in answer.headers:
            self.headers.add_header(name, value)
        self.length, self.chunked, self.will_close = 0, False, False
        self._close_conn()  # type: ignore[attr-defined]
