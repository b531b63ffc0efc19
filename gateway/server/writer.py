"""Writes a client's answer: ``start_response``, then head and body on the socket (RFC 9112, PEP 3333).

The status line with its reason, Date, Server and every header value are the application's, byte for byte; Date is added when it
gives none. Head and first piece go out in one send. The body is framed by the application's Content-Length, else chunked, else
(HTTP/1.0) by closing. Fields that are the connection's own (Connection, Transfer-Encoding, Keep-Alive...) are this server's; of
the application's it takes ``Connection: close`` as a wish.

An answer that cannot be completed is cut so that the client can tell: the connection ends before the announced end; where only
the closing would be the end, it is reset.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from gunicorn.http.errors import InvalidResponseHeader

from ..errors import ClientDisconnected, InternalError, SendTimeout, with_cause
from ..http.date import date_line
from ..http.fields import WRITTEN, Kinds, UnsafeField
from ..http.prepared import status_line
from ..message import Headers, Response
from .client_socket import ClientGone
from .gunicorn_request import GunicornRequest
from .reader import PIECE, BodyReader, ClientConnection, PlainRequest, reset

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

PLAIN, LENGTH, DATE, CONNECTION, UPGRADE, EXCLUDED = range(6)
KINDS = Kinds({"content-length": LENGTH, "date": DATE, "connection": CONNECTION, "upgrade": UPGRADE, "transfer-encoding": EXCLUDED,
               "keep-alive": EXCLUDED, "proxy-connection": EXCLUDED, "te": EXCLUDED, "trailer": EXCLUDED})


class ShortBody(Exception):
    """The body of the application is shorter than its Content-Length."""


class ResponseWriter:
    """Writes one answer. ``body`` is the request's, None when it has been read; ``is_draining`` tells whether the worker wants its
    connections closed.

    The attributes without an underscore are those of Gunicorn's Response, for its access log and its hooks.
    """

    def __init__(self, request: GunicornRequest | PlainRequest, sock: Any, cfg: Any, connection: ClientConnection,
                 body: BodyReader | None, is_draining: Callable[[], bool]) -> None:
        self.req = request
        self.sock = sock
        self.transmit: Callable[[bytes], None] = sock.sendall                    # the worker has a better one: Client.send
        self.connection = connection
        self.body = body
        self.status: Any = None
        self.status_code = 0
        self.headers: Headers = []
        self.response_length: int | None = None
        self.chunked = False
        self.must_close = not cfg.keepalive
        self.headers_sent = False
        self.sent = 0
        self._is_draining = is_draining
        self._bodiless = False
        self._head = b""

    def start_response(self, status: Any, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333. ``status`` and ``headers`` are the application's, whatever they are: what cannot be sent raises an error."""
        if exc_info:
            try:
                if self.headers_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status is not None:
            raise AssertionError("start_response was called a second time")
        try:
            self.status_code, line = status_line(status)
            fields: Headers = headers if type(headers) is list else list(headers)     # some framework's own
            self._head, self.response_length, close = compose(self.req.version, self.status_code, line, fields)
        except Exception as error:
            self.connection.failure = InternalError(str(error))
            raise
        self.must_close = self.must_close or close
        self.status, self.headers = status, fields
        self._bodiless = self.req.method == "HEAD" or self.status_code in (204, 304) or self.status_code < 200
        self.chunked = self.response_length is None and not self._bodiless and self.req.version >= (1, 1)
        return self.write

    def force_close(self) -> None:
        self.must_close = True

    def should_close(self) -> bool:
        return self.must_close or self._ends_by_closing or self.status_code < 200 or self.req.should_close()

    def write(self, data: bytes) -> None:
        """Send a piece of the body; before the first, the head. An empty one sends the head alone."""
        self._emit(data)

    def answer(self, data: bytes) -> None:
        """Send the whole body and end it."""
        self._check_length(len(data))
        self._emit(data, LAST_CHUNK if self.chunked else b"")

    def finish(self) -> None:
        """End the body. Raises ShortBody when it is shorter than its Content-Length."""
        self._check_length(0)
        self._emit(b"", LAST_CHUNK if self.chunked else b"")

    def send_continue(self) -> None:
        """The interim answer a client waits for before it sends the body; none once the final one has begun."""
        if not self.headers_sent:
            self._send(CONTINUE)

    def cut(self) -> None:
        """End the connection so that the client can tell that the answer is not complete."""
        self.connection.alive = False
        if self.headers_sent and self._ends_by_closing:
            reset(self.sock)
            return
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:                                      # the client has ended it already
            pass
        self.sock.close()

    @property
    def _ends_by_closing(self) -> bool:
        return self.response_length is None and not self.chunked and not self._bodiless

    def _emit(self, data: bytes, end: bytes = b"") -> None:
        if self.connection.taken_over:
            return
        if self.status is None:
            raise AssertionError("start_response was not called before the body")
        if not isinstance(data, bytes):
            raise TypeError(f"the body must be bytes, not {type(data).__name__}")
        if self._bodiless:
            data = b""
        elif self.response_length is not None and len(data) > self.response_length - self.sent:
            data = data[:self.response_length - self.sent]
        self.sent += len(data)
        if self.chunked and data:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        if end:
            data += end
        if not self.headers_sent:
            data = self._start() + data
        if data:
            self._send(data)

    def _start(self) -> bytes:
        """The whole head. Whether the connection stays open is decided now."""
        self.headers_sent = self.connection.started = True
        if self._is_draining() or (self.body is not None and self.body.blocks_reuse):
            self.must_close = True
        tail = (b"Transfer-Encoding: chunked\r\n" if self.chunked else b"",
                b"Connection: upgrade\r\n\r\n" if self.status_code == 101
                else b"Connection: close\r\n\r\n" if self.should_close() else b"Connection: keep-alive\r\n\r\n")
        return self._head + b"".join(tail)

    def _send(self, data: bytes) -> None:
        try:
            self.transmit(data)
        except ClientGone as error:
            self.connection.alive = False
            self.connection.unsent = max(0, error.left - 2) if self.chunked else error.left      # but for the CRLF behind a chunk
            self.connection.failure = (SendTimeout if error.is_stalled else ClientDisconnected)(str(error))
            raise

    def _check_length(self, more: int) -> None:
        if self.response_length is None or self._bodiless or self.connection.taken_over:
            return
        if self.sent + more < self.response_length:
            raise ShortBody(f"the application gave {self.sent + more} of the {self.response_length} bytes it announced")


def compose(version: tuple[int, int], code: int, line: str, headers: Headers) -> tuple[bytes, int | None, bool]:
    """The head up to where the connection's own fields follow, the Content-Length, and whether the application asks to close.

    Raises InvalidResponseHeader: nothing that could end a line gets into the head.
    """
    first = f"HTTP/1.0 {line}\r\n" if version < (1, 1) else f"HTTP/1.1 {line}\r\n"
    length, has_date, close = None, False, False
    try:
        special = [field for field in headers if KINDS[field[0]]]
        exclusions = []
        for field in special:
            name, value = field
            kind = KINDS[name]
            if kind == LENGTH:
                if not value.isascii() or not value.isdigit() or length not in (None, int(value)):
                    raise InvalidResponseHeader(f"{name}: {value!r}")
                if code == 204 or code < 200 or length is not None:
                    exclusions.append(field)
                else:
                    length = int(value)
            elif kind == DATE:
                has_date = True
            elif kind == CONNECTION:
                close = close or "close" in [option.strip() for option in value.lower().split(",")]
                exclusions.append(field)
            elif kind == EXCLUDED or code != 101:
                exclusions.append(field)
        if exclusions:
            headers = without(headers, exclusions)
        fields = b"".join(map(WRITTEN.__getitem__, headers))
    except (UnsafeField, TypeError, AttributeError, ValueError) as error:     # a name or a value that is no text among them
        raise with_cause(InvalidResponseHeader(str(error)), None)
    return first.encode("latin-1") + fields + (b"" if has_date else date_line()), length, close


def without(headers: Headers, exclusions: Headers) -> Headers:
    """``headers`` without the fields ``exclusions``, each removed as often as it is there, from the end."""
    rest = []
    left = list(exclusions)
    for field in reversed(headers):
        if field in left:
            left.remove(field)
        else:
            rest.append(field)
    return rest[::-1]


def closing_answer(response: Response) -> bytes:
    """A whole answer after which the connection ends."""
    code, line = status_line(f"{response.status} {response.reason}")
    body = response.read(PIECE)
    head, _, _ = compose((1, 1), code, line, [*response.headers, ("Content-Length", str(len(body)))])
    return head + b"Connection: close\r\n\r\n" + body
