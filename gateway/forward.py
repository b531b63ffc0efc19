"""Target: forward the request to an upstream as it is, and its answer back to the client as it is.

Fields of one connection are dropped, both ways (RFC 9110 section 7.6.1): Connection and all it nominates, Keep-Alive, Proxy-*, TE,
Trailer, Transfer-Encoding, Upgrade. ``Expect: 100-continue`` is answered by the worker at the first read of the body and dropped.
So are trailers: neither WSGI nor most clients can take them.

These fields are added for the upstream: X-Forwarded-For, -Proto, -Host, -Port, Forwarded (RFC 7239), Via and X-Request-Id. From a
trusted proxy, the chain that the gateway believes (X-Forwarded-For or Forwarded) is continued, and the other one is made from it;
from any other client both are replaced. Fields with the same meaning (X-Real-IP, X-Original-URL...) pass from a trusted proxy only.
Via names the version of HTTP of the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from .config import Route
from .http.closing_stream import ClosingStream
from .http.fields import CONNECTION_FIELDS, PROXY_WORDS, Kinds, nominations
from .loop.disconnect import unwatch, watch
from .message import Call, Headers, Interim, NextHop, Request, Response

REPLACED_FIELDS = frozenset({
    "host", "content-length", "expect", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port",
    "forwarded", "via", "x-request-id"})
PASS, DROP, CONNECTION = range(3)
TRUSTED_KINDS = Kinds({**dict.fromkeys(CONNECTION_FIELDS | REPLACED_FIELDS, DROP), "connection": CONNECTION})
STRANGER_KINDS = Kinds({**TRUSTED_KINDS.table, **dict.fromkeys(PROXY_WORDS - REPLACED_FIELDS, DROP)})
VIA = Kinds({"via": 1})
RESPONSE_KINDS = Kinds({**dict.fromkeys(CONNECTION_FIELDS, DROP), "connection": CONNECTION})
# Fields that are dropped from interim answers: of the connection, of the body, and cookies, which no client expects there
NOT_IN_INTERIM = CONNECTION_FIELDS | {"content-length", "set-cookie", "set-cookie2", "wicketgate-cache-control"}
# Fields that the gateway sets on a request, whatever the target. Host is part of the key of a stored answer
GATEWAY_FIELDS = REPLACED_FIELDS - {"host", "content-length", "expect"}
MOST_CHAINS = 1024
LONGEST_CHAIN = 200                   # characters of a chain in the cache
NODE = re.compile(r"[A-Za-z0-9._:-]+")
DEFAULT_PORT = {"http": "80", "https": "443"}


class FieldEdit(Protocol):
    """A change of header fields. ``names`` are those it may change, in lower case."""

    names: frozenset[str]

    def __call__(self, headers: Headers) -> Headers: ...


class Forward:
    """``send`` is that of the upstream. ``path`` returns the path to send (None: unchanged), ``edit`` applies the request header
    rules of the route, ``publish`` replaces the upstream's own addresses in the answer by public ones, ``interim`` is the setting
    for 102 and 103."""

    __slots__ = ("send", "upstream", "preserve_host", "host", "forwarding", "path", "edit", "publish", "interim", "passes_interim",
                 "sees_cookies", "_rewrite")

    def __init__(self, route: Route, send: Callable[[Call], Response], *, upstream: str, host: str, forwarding: Forwarding,
                 path: Callable[[str, dict[str, str]], str] | None = None, edit: FieldEdit | None = None,
                 publish: Callable[[Headers, Request], Headers] | None = None, interim: str = "browsers") -> None:
        self.send = send
        self.upstream = upstream
        self.preserve_host = host == "preserve"
        self.host = None if host in ("upstream", "preserve") else host
        self.forwarding = forwarding
        self.path = path
        self.edit = edit
        self.publish = publish
        self.passes_interim = interim != "off"
        rules = route.response_headers                       # fields that they add are of the final answer
        withheld = NOT_IN_INTERIM | frozenset(name.lower() for name in (*rules.remove, *rules.set))
        self.interim = Interim(withheld, anyone=interim == "all")
        self.sees_cookies = not any(name.lower() == "cookie" for name in route.request_headers.remove)
        self._rewrite = route.strip_prefix or route.rewrite or ""

    def __call__(self, request: Request) -> Response:
        connection = request.connection
        if connection is None:
            return self.finish(self.send(self.call(request)), request)
        token = watch(connection.socket)
        is_streaming = False
        try:
            response = self.finish(self.send(self.call(request)), request)
            if not isinstance(response.body, bytes):
                response.body = ClosingStream(response.body, partial(unwatch, token), response.body.close)
                is_streaming = True
            return response
        finally:
            if not is_streaming:
                unwatch(token)

    def target(self, request: Request) -> str:
        """The request-target for the upstream."""
        if self.path is None:
            return request.target
        path = self.path(request.path, request.params)
        return path if request.query is None else f"{path}?{request.query}"

    @property
    def own_fields(self) -> frozenset[str]:
        """The names of the fields that may differ between the request and what is sent for it, in lower case."""
        names = self.edit.names if self.edit is not None else frozenset()
        return CONNECTION_FIELDS | PROXY_WORDS | GATEWAY_FIELDS | names

    def call(self, request: Request) -> Call:
        """The Call that is sent for ``request``."""
        headers = end_to_end(request.headers, TRUSTED_KINDS if request.trusted else STRANGER_KINDS)
        headers += self.forwarding(request)
        if self.edit is not None:
            headers = self.edit(headers)
        return Call(request.method, self.target(request), headers, request.body, deadline=request.deadline,
                    host=request.host or None if self.preserve_host else self.host, attempts=request.attempts,
                    hearer=request.connection if self.passes_interim and not request.trusted else None, interim=self.interim,
                    head_first=request.head_first, upgrade=request.upgrade)

    def onward(self, request: Request) -> Headers:
        """The fields that are sent for ``request``."""
        return self.call(request).headers

    def destinations(self, request: Request) -> Iterator[NextHop]:
        yield NextHop(f'upstream "{self.upstream}"', self.upstream, request.method, self.target(request))

    def finish(self, response: Response, request: Request) -> Response:
        """The answer of the upstream, edited for the client."""
        headers, hop = response.fields, response.hop         # an upstream's head was not written before
        if hop is None:
            headers = end_to_end(headers, RESPONSE_KINDS)
        elif hop:
            headers = drop_hop(headers, hop)
        headers.append(self.forwarding.own[response.version])
        if not isinstance(response.body, bytes) and is_event_stream(headers):
            headers.append(("X-Accel-Buffering", "no"))      # nginx in front would hold events back until a buffer is full
        response.fields = headers if self.publish is None else self.publish(headers, request)
        return response

    def __repr__(self) -> str:
        return f"forward to {self.upstream}" + (f", path {self._rewrite}" if self._rewrite else "")


class Forwarding:
    """``forwarding(request) -> headers``: the fields that describe the client and the proxies to an upstream."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.own = {version: ("Via", self.via(version)) for version in ("1.0", "1.1")}      # our element, as a field
        self._cache: dict[tuple[str, ...], Headers] = {}

    def __call__(self, request: Request) -> Headers:
        chain = ""
        key: tuple[str, ...] = request.peer, request.scheme, request.host
        if request.trusted:
            name, chain = request.chain or ("", "")
            key += request.client, request.port, name, chain
        fields = self._cache.get(key)
        if fields is None:
            fields = self._fields(*key)
            if len(chain) <= LONGEST_CHAIN:
                if len(self._cache) >= MOST_CHAINS:
                    self._cache.clear()
                self._cache[key] = fields
        via = [value for name, value in request.headers if VIA[name]]
        if via or request.version == "1.0":
            fields = [*fields[:-1], ("Via", ", ".join([*via, self.via(request.version)]))]
        return [*fields, ("X-Request-Id", request.id)]

    def via(self, version: str) -> str:
        """The gateway's own element of Via (RFC 9110 section 7.6.3)."""
        return f"{version} {self.name}"

    def _fields(self, peer: str, scheme: str, host: str, client: str = "", port: str = "", name: str = "",
                chain: str = "") -> Headers:
        """The fields for a request of ``peer``. ``chain`` is the value of the field ``name`` of a trusted proxy, which is
        continued; the other field is made from ``client``, the first address of the chain that is believed, and ``peer``."""
        peer = peer or "unknown"
        hops = [peer] if client in ("", peer) else [client if NODE.fullmatch(client) else "unknown", peer]
        addresses = hops if name != "X-Forwarded-For" else [chain, peer]
        elements = [forwarded_element(hops[0], scheme, host), *(f"for={node(hop)}" for hop in hops[1:])]
        if name == "Forwarded":
            elements = [chain, forwarded_element(peer, scheme, host)]
        port = port or (host.rpartition(":")[2] if ":" in host and not host.endswith("]") else DEFAULT_PORT.get(scheme, "80"))
        return [("X-Forwarded-For", ", ".join(addresses)), ("X-Forwarded-Proto", scheme),
                *([("X-Forwarded-Host", host)] if host else ()), ("X-Forwarded-Port", port),
                ("Forwarded", ", ".join(elements)), ("Via", self.via("1.1"))]


def end_to_end(headers: Headers, kinds: Kinds) -> Headers:
    """The fields that pass: neither those that ``kinds`` drops, nor those that Connection nominates."""
    rest = [field for field in headers if not kinds[field[0]]]
    if len(rest) < len(headers):
        for name, value in [field for field in headers if kinds[field[0]]]:
            if kinds[name] == CONNECTION and value not in ("close", "keep-alive"):
                return drop_nominated(headers, kinds)
    return rest


def drop_hop(headers: Headers, hop: Headers) -> Headers:
    """As end_to_end, where the fields of the connection are known: ``hop``."""
    for name, value in hop:
        if value != "keep-alive" and value != "close" and name.lower() == "connection":
            return drop_nominated(headers, RESPONSE_KINDS)
    headers = headers.copy()
    for field in hop:
        headers.remove(field)
    return headers


def drop_nominated(headers: Headers, kinds: Kinds) -> Headers:
    """As end_to_end, where Connection nominates other fields (RFC 9110 section 7.6.1)."""
    nominated = nominations(headers)
    return [field for field in headers if not kinds[field[0]] and field[0].lower() not in nominated]


def is_event_stream(headers: Headers) -> bool:
    """Is the answer a stream of server-sent events, without an X-Accel-Buffering of its own?"""
    names = {name.lower(): value for name, value in headers}
    return names.get("content-type", "").lower().startswith("text/event-stream") and "x-accel-buffering" not in names


def forwarded_element(peer: str, scheme: str, host: str) -> str:
    """One element of Forwarded: an IPv6 address and a host with a port are quoted (RFC 7239 section 4)."""
    return f'for={node(peer)};proto={scheme};host="{host}"' if host else f"for={node(peer)};proto={scheme}"


def node(address: str) -> str:
    """An address as Forwarded writes it (RFC 7239 section 6)."""
    return f'"[{address}]"' if ":" in address else address
