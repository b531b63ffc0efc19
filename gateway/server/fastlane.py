"""The fast lane: a request that is plainly simple is read in one piece and answered with one send, without an environ.

**What is plainly simple** (``read``); every doubt goes to Gunicorn's own parser with the bytes untouched, so that what is accepted
or refused never depends on the lane:

- the whole head is there, is no longer than a single line may be, and its lines end with CRLF;
- ``METHOD SP target SP HTTP/1.1``, exactly so, with a usual method and a target of printable ASCII that starts with ``/`` and has
  no ``#``;
- every other line is a header field by the strict reading of http/fields.py, none with an underscore in its name;
- exactly one Host, at most one each of Authorization, Content-Type, Cookie and Connection, the last being ``close`` or
  ``keep-alive``;
- no Transfer-Encoding, Expect, Upgrade, Trailer, TE, HTTP2-Settings;
- no body; or, for POST, PUT and PATCH, one Content-Length in digits whose body has come together with the head.

Header lines that came before are looked up in a table, which is faster than a parser in C whose bytes are still to be decoded and
checked.

**When there is a lane at all** (``is_possible``): the operator has set nothing that Gunicorn would do for each request (hooks, its
access log, the PROXY protocol, trusted forwarder headers, relaxed parsing), and the application is the gateway's.
"""

from __future__ import annotations

import os
import re
from typing import Any

from gunicorn.config import Config
from gunicorn.http.wsgi import base_environ
from gunicorn.util import unquote_to_wsgi_str

from ..http.fields import FORWARDED, READ, WRITTEN
from ..http.grammar import BODILESS
from ..http.prepared import first_line, status_line
from ..message import Body, Headers, Interim, Request, Response
from .reader import ClientConnection, PlainRequest
from .writer import ShortBody, compose

KEEP_ALIVE = b"Connection: keep-alive\r\n\r\n"
CLOSE = b"Connection: close\r\n\r\n"
WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})
REQUEST_LINE = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[\x21\x22\x24-\x7e]*) HTTP/1\.1")

OF_PROXIES = FORWARDED | {"via"}

HOST, CONNECTION, LENGTH, AUTHORIZATION, TYPE, DOUBTFUL, COOKIE = 1, 2, 4, 8, 16, 32, 64


class FieldKinds(dict[str, int]):
    """What a field means for the lane, by its name in lower case. Those of a bit may stand once, DOUBTFUL ones not at all."""

    def __missing__(self, name: str) -> int:
        return DOUBTFUL if "_" in name else 0


FIELD_KINDS = FieldKinds({
    "host": HOST, "connection": CONNECTION, "content-length": LENGTH, "authorization": AUTHORIZATION, "content-type": TYPE,
    "cookie": COOKIE, "transfer-encoding": DOUBTFUL, "expect": DOUBTFUL, "upgrade": DOUBTFUL, "trailer": DOUBTFUL, "te": DOUBTFUL,
    "http2-settings": DOUBTFUL})
FIELD_KINDS.update(dict.fromkeys((
    "accept", "accept-encoding", "accept-language", "user-agent", "referer", "origin", "x-forwarded-for",
    "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-request-id", "x-real-ip", "cache-control", "pragma",
    "if-none-match", "if-modified-since", "range", "traceparent", "tracestate"), 0))

# Settings that must be Gunicorn's defaults or the gateway's own for the lane to be what Gunicorn would do.
STRICT = {"proxy_protocol": "off", "casefold_http_method": False, "strip_header_spaces": False, "permit_obsolete_folding": False,
          "permit_unconventional_http_version": False, "header_map": "refuse",
          "accesslog": None, "statsd_host": None, "logconfig": None, "logconfig_dict": {}}
HOOKS = ("pre_request", "post_request")


def is_possible(cfg: Config) -> bool:
    """Do the settings leave nothing for Gunicorn to do for each request?"""
    return (not os.environ.get("SCRIPT_NAME") and not cfg.is_ssl and not cfg.forwarder_headers
            and not cfg.secure_scheme_headers and all(getattr(cfg, name) == value for name, value in STRICT.items())
            and all(getattr(cfg, name).__module__ == "gunicorn.config" for name in HOOKS))


class Lane:
    """``read(data)`` by the limits of ``cfg``; ``render`` makes the bytes of a response that is in memory."""

    def __init__(self, cfg: Config) -> None:
        self.longest = min(cfg.limit_request_line or 8190, cfg.limit_request_field_size or 8190)
        self.fields = cfg.limit_request_fields or 100
        self.base = {**base_environ(cfg), "wsgi.multithread": True, "wsgi.url_scheme": "http", "SCRIPT_NAME": "",
                     "SERVER_PROTOCOL": "HTTP/1.1"}

    def read(self, data: bytes) -> PlainRequest | None:
        """The request at the beginning of ``data``; None when it is not plainly simple."""
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > self.longest:
            return None
        lines = data[:end].split(b"\r\n")
        first = REQUEST_LINE.fullmatch(lines[0])
        if first is None or len(lines) - 1 > self.fields:
            return None
        del lines[0]
        fields = [READ[line] for line in lines]
        if None in fields:
            return None
        length, host, close, present = "", "", False, 0
        for kind, value in [(FIELD_KINDS[name], field[1]) for field, name in fields if FIELD_KINDS[name]]:     # type: ignore[misc]
            if kind & present or kind == DOUBTFUL:
                return None
            present |= kind
            if kind == HOST:
                host = value
            elif kind == CONNECTION:
                option = value.lower()
                if option not in ("close", "keep-alive"):
                    return None
                close = option == "close"
            elif kind == LENGTH:
                length = value
        if not host:
            return None
        method, target = first.groups()
        headers = [field for field, _ in fields]              # type: ignore[misc]
        body, size = None, end + 4
        if method in WITH_BODY:
            if not length.isascii() or not length.isdigit() or len(length) > 9 or len(data) < size + int(length):
                return None
            begin, size = size, size + int(length)
            body = Body.of(data[begin:size])
        elif present & LENGTH:
            return None
        return PlainRequest(method.decode(), target.decode(), host, headers, body, size, close)

    def render(self, plain: PlainRequest, response: Response, body: bytes, draining: bool) -> tuple[bytes, bool]:
        """The whole answer with ``body``, and whether the connection ends after it. Raises what compose() does, and ShortBody."""
        status, lines = response.status, response.head_lines
        if lines is not None:
            closing = plain.close or draining
            if plain.method == "HEAD" or status in BODILESS:
                body = b""
            return b"%b%b%b%b" % (first_line(status, response.reason), lines, CLOSE if closing else KEEP_ALIVE, body), closing
        code, line = status_line(f"{status} {response.reason}")
        head, length, closing = compose(plain.version, code, line, response.fields)
        closing = closing or plain.close or draining
        tail = CLOSE if closing else KEEP_ALIVE
        if plain.method == "HEAD" or status in BODILESS:
            return head + tail, closing
        if length is None:
            return b"%bContent-Length: %d\r\n%b%b" % (head, len(body), tail, body), closing
        if length != len(body):
            raise ShortBody(f"{len(body)} bytes where {length} were announced")
        return head + tail + body, closing

    def environ(self, request: Request, server: Any, peer: Any, sock: Any) -> dict[str, Any]:
        """What Gunicorn gives an application for such a request, but for its fields. ``server`` and ``peer`` are the addresses of
        the two ends."""
        environ = {**self.base, "RAW_URI": request.target, "QUERY_STRING": request.query or "",
                   "PATH_INFO": unquote_to_wsgi_str(request.path), "gunicorn.socket": sock}
        if isinstance(peer, tuple):
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = peer[0], str(peer[1])
        else:
            environ["REMOTE_ADDR"] = peer if isinstance(peer, str) else peer.decode()
        if isinstance(server, tuple):
            environ["SERVER_NAME"], environ["SERVER_PORT"] = server[0], str(server[1])
        else:
            name, _, port = request.host.partition(":")
            environ["SERVER_NAME"], environ["SERVER_PORT"] = name, port or "80"
        return environ


class LaneConnection(ClientConnection):
    """The connection of a request of the lane, which makes the environ when a view asks for it."""

    __slots__ = ("lane", "client")

    def __init__(self, headers: Headers, client: Any, lane: Lane) -> None:
        self.headers = headers                               # what super().__init__ does, for every request
        self.socket = client.sock
        self.peer = client.peer
        self.alive = True
        self.started = False
        self.taken_over = False
        self._unreader = client.unreader
        self.lane = lane
        self.client = client

    def take(self) -> tuple[Any, bytes]:
        self.client.release()
        sock, data = super().take()
        return sock, data + self.client.take_read_ahead()

    def abort(self) -> None:
        self.client.discard()
        self.client.readable.unwatch()
        super().abort()

    def environ(self, request: Request) -> dict[str, Any]:
        environ = self.lane.environ(request, self.client.listener, self.client.addr, self.socket)
        environ["gateway.connection"] = self
        environ["wsgi.early_hints"] = self.early_hints
        return environ

    def early_hints(self, headers: Headers) -> None:
        """Send 103 (RFC 8297), unless the answer has begun. Raises UnsafeField."""
        if not self.started:
            self.client.settle()
            lines = b"".join([WRITTEN[name, value] for name, value in headers])
            self.client.send(b"HTTP/1.1 103 Early Hints\r\n" + lines + b"\r\n")

    def interim(self, status: int, reason: str, headers: Headers, rules: Interim) -> None:
        """Pass on an interim answer of an upstream (RFC 9110 section 15.2), but for the fields withheld and what Connection names.
        Many clients take it for the answer, and the answer for that of their next request: so only to browsers, which load a page
        with this mode, or to anyone; never to a proxy, which shows by what it sends. Nobody waits for the client here."""
        if self.started or self.taken_over or not self.alive:
            return
        fields = [(name.lower(), value) for name, value in self.headers]
        if any(name in OF_PROXIES for name, _ in fields) or not rules.anyone and ("sec-fetch-mode", "navigate") not in fields:
            return
        withheld = rules.withheld.union(word.strip().lower() for name, value in headers if name.lower() == "connection"
                                        for word in value.split(","))
        lines = b"".join([WRITTEN[field] for field in headers if field[0].lower() not in withheld])
        self.client.offer(b"%b%b\r\n" % (first_line(status, reason), lines))
