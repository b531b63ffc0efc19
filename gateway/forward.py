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
from .fields import Kinds
from .message import Call, Headers, Request, Response, Stream

CONNECTION_FIELDS = frozenset({
    "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade"})
REPLACED_FIELDS = frozenset({
    "host", "content-length", "expect", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port",
    "forwarded", "via", "x-request-id"})
KEPT, LEFT_OUT, CONNECTION = range(3)
REQUEST_KINDS = Kinds({**dict.fromkeys(CONNECTION_FIELDS | REPLACED_FIELDS, LEFT_OUT), "connection": CONNECTION})
RESPONSE_KINDS = Kinds({**dict.fromkeys(CONNECTION_FIELDS, LEFT_OUT), "connection": CONNECTION})
REMEMBERED = 1024
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
        self._via_field = ("Via", forwarding.via)
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
        headers = end_to_end(request.headers, REQUEST_KINDS)
        headers += self.forwarding(request)
        if self.edit is not None:
            headers = self.edit(headers)
        return Call(request.method, self.target(request), headers, request.body, deadline=request.deadline,
                    host=request.host or None if self.preserve_host else self.host, attempts=request.attempts)

    def finish(self, response: Response, request: Request) -> Response:
        """The upstream's answer as the client gets it."""
        headers = end_to_end(response.headers, RESPONSE_KINDS)
        headers.append(self._via_field)
        if not isinstance(response.body, bytes) and is_event_stream(headers):
            headers.append(("X-Accel-Buffering", "no"))      # nginx in front would hold events back until a buffer is full
        response.headers = headers if self.publish is None else self.publish(headers, request)
        return response

    def __repr__(self) -> str:
        return f"forward to {self.upstream}" + (f", path {self._rewritten}" if self._rewritten else "")


class Forwarding:
    """``forwarding(request) -> headers``: the fields that tell an upstream who asked, and through whom."""

    def __init__(self, via: str) -> None:
        self.via = f"1.1 {via}"
        self._known: dict[tuple[str, str, str], Headers] = {}

    def __call__(self, request: Request) -> Headers:
        key = request.peer, request.scheme, request.host
        fields = self._known.get(key)
        if fields is None:
            fields = self._first_hop(*key)
            if len(self._known) < REMEMBERED:
                self._known[key] = fields
        via = request.header_list("Via")
        if request.trusted or via:
            fields = self._continued(request, fields, via)
        return [*fields, ("X-Request-Id", request.id)]

    def _first_hop(self, peer: str, scheme: str, host: str) -> Headers:
        peer = peer or "unknown"
        port = host.rpartition(":")[2] if ":" in host and not host.endswith("]") else DEFAULT_PORT.get(scheme, "80")
        return [("X-Forwarded-For", peer), ("X-Forwarded-Proto", scheme), ("X-Forwarded-Host", host),
                ("X-Forwarded-Port", port), ("Forwarded", forwarded_element(peer, scheme, host)), ("Via", self.via)]

    def _continued(self, request: Request, fields: Headers, via: list[str]) -> Headers:
        """Behind what a trusted proxy sent of X-Forwarded-For and Forwarded, and anybody of Via."""
        before = {"Via": via}
        if request.trusted:
            before["X-Forwarded-For"] = request.header_list("X-Forwarded-For")
            before["Forwarded"] = request.header_list("Forwarded")
        return [(name, ", ".join([*before.get(name, ()), value])) for name, value in fields]


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


def end_to_end(headers: Headers, kinds: Kinds) -> Headers:
    """The fields that go on: not those of the connection, nor what Connection nominates."""
    kept: Headers = []
    for field in headers:
        kind = kinds[field[0]]
        if not kind:
            kept.append(field)
        elif kind == CONNECTION and field[1] not in ("close", "keep-alive"):
            return without_nominated(headers, kinds)
    return kept


def without_nominated(headers: Headers, kinds: Kinds) -> Headers:
    """end_to_end, where Connection names other fields (RFC 9110 section 7.6.1)."""
    nominated = {token.strip().lower() for name, value in headers if kinds[name] == CONNECTION for token in value.split(",")}
    return [field for field in headers if not kinds[field[0]] and field[0].lower() not in nominated]


def is_event_stream(headers: Headers) -> bool:
    """Is the answer a stream of server-sent events that says nothing of its buffering itself?"""
    names = {name.lower(): value for name, value in headers}
    return names.get("content-type", "").lower().startswith("text/event-stream") and "x-accel-buffering" not in names


def forwarded_element(peer: str, scheme: str, host: str) -> str:
    """One element of Forwarded: an IPv6 address and a host with a port are quoted (RFC 7239 section 4)."""
    node = f'"[{peer}]"' if ":" in peer else peer
    return f'for={node};proto={scheme};host="{host}"' if host else f"for={node};proto={scheme}"
