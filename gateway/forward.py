"""Target: the request goes to an upstream as it came, and its answer comes back as it is.

What is left out, both ways, belongs to one connection and not to the message (RFC 9110 section 7.6.1): Connection and all it
names, Keep-Alive, Proxy-*, TE, Trailer, Transfer-Encoding, Upgrade. ``Expect: 100-continue`` is answered by the worker when the
body is first read and not passed on. Trailers are dropped: neither WSGI nor most clients can take them.

What is added for the upstream: X-Forwarded-For, -Proto, -Host, -Port, Forwarded (RFC 7239), Via and X-Request-Id. The values a
trusted proxy sent are continued; those of anybody else are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .config import Route
from .disconnect import unwatch, watch
from .message import Call, Headers, Request, Response, Stream

CONNECTION_FIELDS = frozenset({
    "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade"})
REPLACED_FIELDS = frozenset({
    "host", "content-length", "expect", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port",
    "forwarded", "via", "x-request-id"})
NOT_SENT = CONNECTION_FIELDS | REPLACED_FIELDS
DEFAULT_PORT = {"http": "80", "https": "443"}


class Forward:
    """``send`` is the upstream's. ``path`` gives the path to send (None: as it came), ``edit`` the route's request header
    rules, ``publish`` makes an upstream's own addresses in the answer public ones."""

    def __init__(self, route: Route, send: Callable[[Call], Response], *, upstream: str, host: str, forwarding: Forwarding,
                 path: Callable[[str, dict[str, str]], str] | None = None, edit: Callable[[Headers], Headers] | None = None,
                 publish: Callable[[Headers, Request], Headers] | None = None) -> None:
        self.send = send
        self.upstream = upstream
        self.preserve_host = host == "preserve"
        self.host = None if host in ("upstream", "preserve") else host
        self.forwarding = forwarding
        self.via = forwarding.via
        self.path = path
        self.edit = edit
        self.publish = publish
        self._rewritten = route.strip_prefix or route.rewrite or ""

    def __call__(self, request: Request) -> Response:
        connection = request.connection
        if connection is None:
            return self.finish(self.send(self.call(request)), request)
        token = watch(connection.socket)
        streamed = False
        try:
            response = self.finish(self.send(self.call(request)), request)
            if not isinstance(response.body, bytes):
                response.body = Watched(response.body, token)
                streamed = True
            return response
        finally:
            if not streamed:
                unwatch(token)

    def target(self, request: Request) -> str:
        """The request-target for the upstream."""
        if self.path is None:
            return request.target
        path = self.path(request.path, request.params)
        return path if request.query is None else f"{path}?{request.query}"

    def call(self, request: Request) -> Call:
        """What is sent for ``request``."""
        dropped = dropped_fields(request.headers, NOT_SENT)
        headers = [field for field in request.headers if field[0].lower() not in dropped]
        headers += self.forwarding(request)
        if self.edit is not None:
            headers = self.edit(headers)
        return Call(request.method, self.target(request), headers, request.body, deadline=request.deadline,
                    host=request.host or None if self.preserve_host else self.host, attempts=request.attempts)

    def finish(self, response: Response, request: Request) -> Response:
        """The upstream's answer as the client gets it."""
        dropped = dropped_fields(response.headers, CONNECTION_FIELDS)
        headers = [field for field in response.headers if field[0].lower() not in dropped]
        headers.append(("Via", self.via))
        response.headers = headers if self.publish is None else self.publish(headers, request)
        return response

    def __repr__(self) -> str:
        return f"forward to {self.upstream}" + (f", path {self._rewritten}" if self._rewritten else "")


class Forwarding:
    """``forwarding(request) -> headers``: the fields that tell an upstream who asked, and through whom."""

    def __init__(self, via: str) -> None:
        self.via = f"1.1 {via}"

    def __call__(self, request: Request) -> Headers:
        peer, scheme, host = request.peer or "unknown", request.scheme, request.host
        chain, element, via = peer, forwarded_element(peer, scheme, host), self.via
        if request.trusted:
            before = ", ".join(request.header_list("X-Forwarded-For"))
            chain = f"{before}, {peer}" if before else peer
            before = ", ".join(request.header_list("Forwarded"))
            element = f"{before}, {element}" if before else element
        before = ", ".join(request.header_list("Via"))
        port = host.rpartition(":")[2] if ":" in host and not host.endswith("]") else DEFAULT_PORT.get(scheme, "80")
        return [("X-Forwarded-For", chain), ("X-Forwarded-Proto", scheme), ("X-Forwarded-Host", host),
                ("X-Forwarded-Port", port), ("Forwarded", element), ("Via", f"{before}, {via}" if before else via),
                ("X-Request-Id", request.id)]


class Watched:
    """An answer's body while it is passed on; the client stays watched until it ends."""

    __slots__ = ("_stream", "_token")

    def __init__(self, stream: Stream, token: int) -> None:
        self._stream = stream
        self._token = token

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        unwatch(self._token)
        self._stream.close()


def dropped_fields(headers: Headers, always: frozenset[str]) -> frozenset[str]:
    """``always`` and what Connection nominates, in lower case."""
    for name, value in headers:
        if len(name) == 10 and name.lower() == "connection":
            break
    else:
        return always
    named = {token.strip().lower() for name, value in headers if name.lower() == "connection" for token in value.split(",")}
    return always if named <= {"close", "keep-alive", ""} else always | named


def forwarded_element(peer: str, scheme: str, host: str) -> str:
    """One element of Forwarded: an IPv6 address and a host with a port are quoted (RFC 7239 section 4)."""
    node = f'"[{peer}]"' if ":" in peer else peer
    return f'for={node};proto={scheme};host="{host}"' if host else f"for={node};proto={scheme}"
