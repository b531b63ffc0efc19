"""The messages of the pipeline: Request in, Response out, and Call, one exchange with an upstream.

Text is latin-1 ``str`` with one character per byte, so that what came in can go out unchanged. Header fields are lists of
``(name, value)`` in the order and the case in which they were received. A body has one owner: whoever reads it first. A step
that needs a body that others read too asks for ``buffer(limit)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from mypy_extensions import mypyc_attr

from .deadline import Deadline
from .errors import BodyTooLarge
from .http.fields import fields_of

Headers = list[tuple[str, str]]
DEFAULT_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")    # allowed where routes do not say


class Body:
    """The body of a request, read once, piece by piece.

    ``length`` is its announced size in bytes, or None when it is chunked. ``read`` is ``(size) -> bytes``, empty at the end; it
    raises TruncatedBody or MalformedBody, so a body cut short is never taken for a complete one. When all of it has arrived,
    whoever reads it, ``deadline`` starts anew.
    """

    __slots__ = ("length", "_read", "is_started", "_data", "_deadline", "_missing")

    def __init__(self, read: Callable[[int], bytes], length: int | None, deadline: Deadline | None = None) -> None:
        self._read = read
        self.length = length
        self.is_started = False
        self._data: bytes | None = None
        self._deadline = deadline                            # None too once it was started anew
        self._missing = length

    @classmethod
    def of(cls, data: bytes) -> Body:
        """A body that has arrived completely."""
        body = cls(bytes, len(data))                         # its reader is never asked
        body._data = data
        return body

    def read(self, size: int = 65536) -> bytes:
        self.is_started = True
        if self._data is not None:
            piece, self._data = self._data[:size], self._data[size:]
            return piece
        return self._receive(size)

    def _receive(self, size: int) -> bytes:
        piece = self._read(size)
        if self._deadline is not None:
            if self._missing is not None:
                self._missing -= len(piece)
            if self._missing == 0 or (size and not piece):
                self._deadline.restart()
                self._deadline = None
        return piece

    def buffer(self, limit: int, bound: Callable[[], AbstractContextManager[Any]] = nullcontext) -> bytes:
        """The whole body, which later reads give again. Raises BodyTooLarge above ``limit`` bytes; the body is then spent.
        ``bound()`` is around each wait for a piece."""
        if self._data is not None:
            return self._data
        if self.length is not None and self.length > limit:
            raise BodyTooLarge(f"{self.length} bytes, {limit} allowed")
        self.is_started = True
        pieces, size = [], 0
        while size != self.length:
            with bound():
                piece = self._receive(65536)
            if not piece:
                break
            size += len(piece)
            if size > limit:
                raise BodyTooLarge(f"more than {limit} bytes")
            pieces.append(piece)
        self._data = b"".join(pieces)
        self.length = size
        self.is_started = False
        return self._data

    def __repr__(self) -> str:
        return f"Body({'chunked' if self.length is None else f'{self.length} bytes'}{', started' if self.is_started else ''})"


class Stream(Protocol):
    """The body of a response that is not held in memory: pieces of bytes, and ``close`` whatever happens."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


def first_value(headers: Headers, name: str, default: str) -> str:
    """The first value of the field ``name``, whatever its case."""
    name = name.lower()
    for key, value in headers:
        if key.lower() == name:
            return value
    return default


def all_values(headers: Headers, name: str) -> list[str]:
    """All values of the field ``name``, in order."""
    name = name.lower()
    return [value for key, value in headers if key.lower() == name]


@mypyc_attr(allow_interpreted_subclasses=True)     # users derive from it, and nobody compiles theirs
class Request:
    """One request of a client.

    ``target`` is the request-target as sent (origin-form); ``path`` and ``query`` are its parts, not decoded, ``query`` None
    without a ``?``. ``scheme``, ``host`` and ``client`` are what is believed of the client's view: from a trusted proxy's
    headers, else from the connection. ``peer`` is the other end of the connection. ``params`` holds the decoded path parameters
    of the matched ``route``, whose ``entry`` is that of the table. From a trusted proxy come ``port``, the public one in digits
    (else empty), and ``chain``, the field whose word for the client was taken, with all it says (else None). ``attempts`` collects
    one line per upstream attempt for the log, ``notes`` whatever else steps want logged. ``version`` is that of HTTP in which it
    was received. ``connection`` is the worker's handle on the client's connection, None under another server. ``environ`` is what a
    WSGI server gave, for reading alone (wsgi.py); None of a request that the worker's fast lane has read.

    Two wishes are for whichever target answers, and one that cannot fulfil them need not know them: ``head_first``, the answer is
    wanted as soon as its head is known, a body that is not here yet as a stream, however small; ``upgrade``, the protocol to which
    the client wants to switch, empty for none (see Response.tunnel).
    """

    __slots__ = ("method", "target", "headers", "path", "query", "body", "scheme", "host", "client", "peer", "trusted", "port",
                 "chain", "id", "deadline", "entry", "params", "attempts", "notes", "environ", "connection", "head_first",
                 "upgrade", "version")

    def __init__(self, method: str, target: str, headers: Headers, body: Body | None = None, *, scheme: str = "http",
                 host: str = "", peer: str = "", deadline: Deadline | None = None) -> None:
        self.method = method
        self.target = target
        path, mark, query = target.partition("?")
        self.path: str = path
        self.query: str | None = query if mark else None
        self.headers = headers
        self.body = body
        self.scheme = scheme
        self.host = host
        self.client = self.peer = peer
        self.version = "1.1"
        self.trusted = self.head_first = False
        self.port = self.upgrade = ""
        self.chain: tuple[str, str] | None = None
        self.id = ""
        self.deadline = deadline or Deadline(10.0)
        self.entry: RouteEntry | None = None
        self.params: dict[str, str] = {}
        self.attempts: list[Attempt] = []
        self.notes: dict[str, Any] = {}
        self.environ: dict[str, Any] | None = None
        self.connection: Any = None

    def header(self, name: str, default: str = "") -> str:
        """The first value of a header field, whatever its case."""
        return first_value(self.headers, name, default)

    def header_list(self, name: str) -> list[str]:
        """All values of a header field, in order."""
        return all_values(self.headers, name)

    def copy(self) -> Request:
        """A request that shares everything with this one until an attribute is set."""
        copy = Request(self.method, self.target, self.headers, self.body, scheme=self.scheme, host=self.host, peer=self.peer,
                       deadline=self.deadline)
        copy.path, copy.query = self.path, self.query
        copy.client, copy.trusted, copy.port, copy.chain = self.client, self.trusted, self.port, self.chain
        copy.version, copy.upgrade, copy.head_first = self.version, self.upgrade, self.head_first
        copy.id, copy.entry, copy.params = self.id, self.entry, self.params
        copy.attempts, copy.notes = self.attempts, self.notes
        copy.environ, copy.connection = self.environ, self.connection
        return copy

    @property
    def route(self) -> Any:
        """The Route that was matched, None before."""
        return None if self.entry is None else self.entry.route

    def __repr__(self) -> str:
        return f"Request({self.method} {self.scheme}://{self.host}{self.target})"


class RouteEntry:
    """What the table of routes gives: the ``route``, the ``handler`` that is the stack of its steps, its ``timeout`` in seconds if
    it has one of its own, what ``edit`` makes of the fields of an error, and what it counts in (telemetry). ``edits_request``: the
    route's rules have edited the request's fields. ``onward(request)`` are the fields with which a request goes on; those of other
    names than ``own_fields`` (in lower case) are as they came. Few and small: with many routes, what a request looks at of its own
    is in no cache of the processor."""

    __slots__ = ("route", "handler", "timeout", "edit", "edits_request", "numbers", "onward", "own_fields")

    def __init__(self, route: Any, handler: Handler, edit: Callable[[Headers], Headers] | None = None, edits_request: bool = False,
                 onward: Callable[[Request], Headers] | None = None, own_fields: frozenset[str] = frozenset()) -> None:
        self.route = route
        self.handler = handler
        self.timeout: float | None = route.timeout
        self.edit = edit
        self.edits_request = edits_request
        self.numbers: Any = None
        self.onward = onward
        self.own_fields = own_fields if onward is not None else frozenset()

    def __repr__(self) -> str:
        return f"RouteEntry({self.route.name})"


@mypyc_attr(allow_interpreted_subclasses=True)     # users derive from it, and nobody compiles theirs
class Response:
    """An answer. ``body`` is bytes, or a Stream when it is not all here yet. ``reason`` may be empty and is sent as it is.
    ``version`` is that of HTTP in which it was received. ``whole`` is the stored answer of which this is all or a part, where nginx
    in front may send that (nginx/accel_redirect.py), else None. ``hop`` are those of its fields that belong to the connection it
    came on, when whoever read it has noted them. ``tunnel`` is the connection behind a 101, with ``sock`` and ``leftover``, else
    None.

    ``head_lines`` are its fields as lines with CRLF, of an answer whose head was written before (http/prepared.py); None of any
    other, and once ``headers`` was used. ``fields`` is the list behind ``headers``, for whoever knows that there are no lines."""

    __slots__ = ("status", "reason", "fields", "head_lines", "body", "version", "takeover", "whole", "hop", "tunnel")

    def __init__(self, status: int, headers: Headers, body: bytes | Stream = b"", reason: str | None = None) -> None:
        self.status = status
        self.reason = REASONS.get(status, "") if reason is None else reason
        self.fields = headers
        self.body = body
        self.version = "1.1"
        self.hop: Headers | None = None
        self.whole: Any
        self.tunnel: Any
        self.head_lines: bytes | None
        self.whole = self.tunnel = self.head_lines = None
        self.takeover: Callable[[], None] | None = None     # set by an Upgrade: called with the connection, which ends after it

    @property
    def headers(self) -> Headers:
        if self.head_lines is not None:
            self.fields = fields_of(self.head_lines)
            self.head_lines = None
        return self.fields

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self.fields = headers
        self.head_lines = None

    def header(self, name: str, default: str = "") -> str:
        """The first value of a header field, whatever its case."""
        return first_value(self.headers, name, default)

    def header_list(self, name: str) -> list[str]:
        """All values of a header field, in order."""
        return all_values(self.headers, name)

    def append(self, lines: bytes) -> None:
        """Add fields, each a line that is safe to send, with its CRLF."""
        if self.head_lines is not None:
            self.head_lines += lines
        else:
            self.fields += fields_of(lines)

    def read(self, limit: int) -> bytes:
        """The whole body in memory, closing the stream. Raises BodyTooLarge above ``limit`` bytes."""
        if isinstance(self.body, bytes):
            if len(self.body) > limit:
                raise BodyTooLarge(f"more than {limit} bytes")
            return self.body
        pieces, size = [], 0
        try:
            for piece in self.body:
                size += len(piece)
                if size > limit:
                    raise BodyTooLarge(f"more than {limit} bytes")
                pieces.append(piece)
        finally:
            self.body.close()
        self.body = b"".join(pieces)
        return self.body

    def __repr__(self) -> str:
        size = f"{len(self.body)} bytes" if isinstance(self.body, bytes) else "stream"
        return f"Response({self.status} {self.reason}, {size})"


class Call:
    """One exchange to be made with an upstream, by whatever needs one: a forwarded request, a part, a view's ``requests`` call.

    ``headers`` are final and end-to-end, without Host, Content-Length and Transfer-Encoding: ``host`` (None: the instance's own)
    and ``body`` decide those. ``timeout`` bounds one attempt in seconds, ``connect_timeout`` the opening of a connection and
    ``read_timeout`` each silence of a body (None: the upstream's settings). ``attempts`` gets one Attempt for each try. ``hearer``
    hears the interim answers, ``interim(status, reason, headers, rules)``, by the rules ``interim``. ``head_first`` and
    ``upgrade`` are as in Request.
    """

    __slots__ = ("method", "target", "headers", "body", "host", "deadline", "timeout", "connect_timeout", "read_timeout",
                 "attempts", "hearer", "interim", "head_first", "upgrade")

    def __init__(self, method: str, target: str, headers: Headers, body: bytes | Body | None = None, *, deadline: Deadline,
                 host: str | None = None, timeout: float | None = None, connect_timeout: float | None = None,
                 read_timeout: float | None = None, attempts: list[Attempt] | None = None, hearer: Any = None,
                 interim: Interim | None = None, head_first: bool = False, upgrade: str = "") -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.host = host
        self.deadline = deadline
        self.timeout, self.connect_timeout, self.read_timeout = timeout, connect_timeout, read_timeout
        self.attempts = attempts if attempts is not None else []
        self.hearer = hearer
        self.interim = interim
        self.head_first, self.upgrade = head_first, upgrade

    def __repr__(self) -> str:
        return f"Call({self.method} {self.target})"


class Interim(NamedTuple):
    """Which interim answers a client gets: without the fields ``withheld``, in lower case; ``anyone``: not only browsers."""

    withheld: frozenset[str]
    anyone: bool


class NextHop(NamedTuple):
    """Where a target sends a request, for ``gateway explain``: ``method`` and ``target`` to ``upstream`` (empty: it stays here).
    ``refusal``: why nothing is sent."""

    label: str
    upstream: str = ""
    method: str = ""
    target: str = ""
    refusal: str = ""


class Attempt:
    """One try on one instance, for the log: seconds until the answer's head, its status, or the flag of the error."""

    __slots__ = ("upstream", "instance", "seconds", "status", "flag", "reuse")

    def __init__(self, upstream: str, instance: str) -> None:
        self.upstream = upstream
        self.instance = instance
        self.seconds = 0.0
        self.status = 0
        self.flag = ""
        self.reuse = False

    def __repr__(self) -> str:
        return f"Attempt({self.upstream} {self.instance} {self.status or self.flag} {self.seconds * 1000:.1f} ms)"


Handler = Callable[[Request], Response]

REASONS = {
    100: "Continue", 101: "Switching Protocols", 200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information",
    204: "No Content", 205: "Reset Content", 206: "Partial Content", 300: "Multiple Choices", 301: "Moved Permanently",
    302: "Found", 303: "See Other", 304: "Not Modified", 307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 406: "Not Acceptable", 408: "Request Timeout", 409: "Conflict", 410: "Gone",
    411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large", 414: "URI Too Long",
    415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed", 421: "Misdirected Request",
    422: "Unprocessable Content", 425: "Too Early", 426: "Upgrade Required", 428: "Precondition Required",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
    499: "Client Closed Request", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}
