"""Reads a client's request: its head, its body, its connection (RFC 9112, PEP 3333).

connection.py accepts and waits; writer.py writes the answer.

``GunicornRequest``   Gunicorn's own strict parser, which also keeps the header lines in the case they were sent in
                      (gunicorn_request.py).
``BodyReader``        ``wsgi.input``: the body exactly, or MalformedBody or TruncatedBody; a part never passes for the whole.
``ClientConnection``  ``environ["gateway.connection"]``: the header list, the socket, and the right to take it over.
"""

from __future__ import annotations

import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import InvalidChunkSize, NoMoreData, ParseException

from ..errors import BodyTimeout, GatewayError, MalformedBody, TruncatedBody, with_cause
from ..http import chunked
from ..http.grammar import TOKEN
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..message import Body, Headers, Interim
from .gunicorn_request import GunicornRequest

PIECE = 65536                   # bytes: the most read at once, and the most of an unread body read away to keep a connection
SLOWEST = 240                   # bytes a second, on average over the time spent waiting for a body
GRACE = 1 / 6                   # of the longest silence: the waiting before that counts
FEW = 16384                     # bytes read at once of small chunks: so many take 3 ms at most, and then others have their turn
RESET = struct.pack("ii", 1, 0)
TOKEN_BYTES = TOKEN.pattern.encode()
QUOTED_STRING = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'


class PlainRequest:
    """What the fast lane has read: a request, the bytes it took, and whether the client wants the connection closed after it."""

    __slots__ = ("method", "target", "host", "headers", "body", "size", "close")
    version = (1, 1)

    def __init__(self, method: str, target: str, host: str, headers: Headers, body: Body | None, size: int, close: bool) -> None:
        self.method = method
        self.target = target
        self.host = host
        self.headers = headers
        self.body = body
        self.size = size
        self.close = close

    @property
    def uri(self) -> str:
        return self.target

    def should_close(self) -> bool:
        return self.close

    def __repr__(self) -> str:
        return f"PlainRequest({self.method} {self.target}, {self.size} bytes)"


class ChunkedBody(chunked.Chunked):
    """A chunked body. Extensions are names with or without a value."""

    __slots__ = ()

    line = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*" % (
        TOKEN_BYTES, TOKEN_BYTES, QUOTED_STRING))
    error = MalformedBody


class Pace:
    """How fast a body comes, counting only the time spent waiting for it. Too slow is an attack, or as bad as one: each such body
    holds a request open for as long as its sender likes."""

    __slots__ = ("grace", "seconds", "size")

    def __init__(self, silence: float) -> None:
        self.grace = silence * GRACE                         # seconds
        self.seconds = 0.0                                    # seconds
        self.size = 0                                    # bytes

    def add(self, seconds: float, size: int) -> None:
        """``size`` bytes came after ``seconds`` of waiting. Raises BodyTimeout."""
        self.seconds += seconds
        self.size += size
        if self.seconds > self.grace and self.size < self.seconds * SLOWEST:
            raise BodyTimeout(f"{self.size} bytes in {self.seconds:.0f} s; at least {SLOWEST} a second are asked for")


class BodyReader:
    """The body of ``request``. ``read`` waits for all it was asked for, as files do; ``read1`` gives what has arrived.

    ``silence`` is the longest one of the client, in seconds. ``complete``: it was read to its end. Raises errors of the gateway; to
    any other application those of Gunicorn, with the gateway's as their cause.
    """

    def __init__(self, request: GunicornRequest, unreader: Any, silence: float, clock: MonotonicClock = CLOCK) -> None:
        reader = request.body.reader
        self._unreader = unreader
        self._request = request
        self._chunks = ChunkedBody() if isinstance(reader, ChunkedReader) else None
        self._left: int = 0 if self._chunks else reader.length
        self._announce: Callable[[], None] | None = None
        self._buffer = b""                                     # what was received and not read yet, from ``_position`` on
        self._position = 0
        self._silence = silence
        self._clock = clock
        self._pace = Pace(silence)
        self.complete = self._chunks is None and not self._left
        self.error: Exception | None = None

    def announce(self, send: Callable[[], None]) -> None:
        """The client waits for 100 (Continue) before it sends the body: ``send`` it before the first read."""
        if not self.complete:
            self._announce = send

    def read(self, size: int | None = -1) -> bytes:
        left = sys.maxsize if size is None or size < 0 else size
        pieces = []
        while left and (piece := self.read1(min(left, PIECE))):
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read1(self, size: int = PIECE) -> bytes:
        """At most ``size`` bytes, as soon as there are any; empty at the end."""
        if not size:
            return b""
        if size < 0:
            size = PIECE
        buffer = self._buffer or self._pull(size)
        piece = buffer[self._position:self._position + size]
        self._position += len(piece)
        self._buffer, self._position = (buffer, self._position) if self._position < len(buffer) else (b"", 0)
        return piece

    def readline(self, size: int | None = -1) -> bytes:
        left = sys.maxsize if size is None or size < 0 else size
        pieces = []
        while left:
            self._buffer = self._buffer or self._pull(min(left, PIECE))
            if not self._buffer:
                break
            end = self._buffer.find(b"\n", self._position, self._position + left) + 1
            pieces.append(self.read1(end - self._position if end else left))
            left = 0 if end else left - len(pieces[-1])
        return b"".join(pieces)

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        lines, size = [], 0
        for line in self:
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def close(self) -> None:
        """Nothing: the worker ends the connection."""

    @property
    def blocks_reuse(self) -> bool:
        """Is it clear that no other request can follow on this connection?"""
        return self.error is not None or self._announce is not None or self._left > PIECE

    def discard(self) -> bool:
        """Read away what the application did not read. False: it is too much, it is broken, or the client waits for its 100."""
        if self.blocks_reuse:
            return False
        left = PIECE
        try:
            while piece := self.read1():
                left -= len(piece)
                if left < 0:
                    return False
        except (GatewayError, OSError, ParseException):
            return False
        return True

    def _pull(self, size: int) -> bytes:
        """What comes next, more than ``size`` bytes perhaps; empty at the end."""
        if self.error is not None:
            raise self.error
        if self.complete:
            return b""
        try:
            if self._announce is not None:
                announce, self._announce = self._announce, None
                announce()
            return self._from_length(size) if self._chunks is None else self._from_chunks(self._chunks)
        except OSError as error:
            early = TruncatedBody(f"the body ended early: {error}")
            early.__cause__ = error
            raise self._fail(early)
        except (MalformedBody, BodyTimeout) as error:
            raise self._fail(error)

    def _fail(self, error: GatewayError) -> Exception:
        """What is raised for ``error``, now and at every read from now on."""
        if self._request.gateway:
            self.error = error
        else:
            self.error = gunicorn_error(error)
            self.error.__cause__ = error
        return self.error

    def _receive(self, size: int) -> bytes:
        start = self._clock.now()
        with self._clock.time_limit(self._silence, BodyTimeout(f"no byte of the body came for {self._silence:g} s")):
            data: bytes = self._unreader.read(None, read_ahead=size)
        self._pace.add(self._clock.now() - start, len(data))
        return data

    def _from_length(self, size: int) -> bytes:
        size = min(size, self._left)
        data = self._receive(size)
        if not data:
            raise OSError(f"{self._left} bytes are missing")
        if len(data) > size:
            self._unreader.unread(data[size:])
            data = data[:size]
        self._left -= len(data)
        self.complete = not self._left
        return data

    def _from_chunks(self, chunks: ChunkedBody) -> bytes:
        piece = b""
        while not piece and not chunks.complete:
            data = self._receive(max(chunks.left, FEW))
            if not data:
                raise OSError("the last chunk is missing")
            piece = chunks.feed(data)
        if chunks.complete:
            self._unreader.unread(chunks.excess)
            self._check_trailers(chunks.trailers)
            self.complete = True
        return piece

    def _check_trailers(self, lines: list[bytes]) -> None:
        """By Gunicorn, which knows the fields that may not stand there. Raises MalformedBody."""
        if lines:
            try:
                self._request.trailers = self._request.parse_headers(b"\r\n".join(lines), from_trailer=True)
            except ParseException as error:
                raise with_cause(MalformedBody(str(error)), error)


def gunicorn_error(error: GatewayError) -> Exception:
    """The error that Gunicorn would raise, for an application that is not the gateway's."""
    if isinstance(error, MalformedBody):
        return error.__cause__ if isinstance(error.__cause__, ParseException) else InvalidChunkSize(str(error).encode())
    return TimeoutError(str(error)) if isinstance(error, BodyTimeout) else NoMoreData(str(error))


class ClientConnection:
    """The client's connection during one request. ``headers`` are as sent, ``peer`` is the other end's address or "unix".

    ``alive`` is over when the request is, or the client cannot be reached any more. ``failure`` is why an answer was not sent to
    its end, ``unsent`` how many bytes given to the socket did not leave; both are there only when that happened.
    """

    failure: GatewayError
    unsent: int

    __slots__ = ("headers", "socket", "peer", "alive", "started", "taken_over", "failure", "unsent", "_unreader")

    def __init__(self, headers: Headers, sock: Any, peer: str, unreader: Any) -> None:
        self.headers = headers
        self.socket = sock
        self.peer = peer
        self.alive = True
        self.started = False                                 # something of the answer was sent
        self.taken_over = False
        self._unreader = unreader

    def interim(self, status: int, reason: str, headers: Headers, rules: Interim) -> None:
        """An interim answer of an upstream. Here it is dropped: whether the client takes it now is not known (fastlane.py)."""

    def take(self) -> tuple[Any, bytes]:
        """The socket and the bytes already read from it. The worker leaves it alone until the application returns, then ends it.

        Raises RuntimeError once the answer has begun.
        """
        if self.taken_over or self.started or not self.alive:
            raise RuntimeError("the connection cannot be taken over any more")
        self.taken_over = True
        self.socket.settimeout(None)
        return self.socket, self._unreader.take_buffered()

    def abort(self) -> None:
        """End the connection at once, by a reset."""
        if self.alive:
            self.alive = False
            reset(self.socket)

    def __repr__(self) -> str:
        return f"ClientConnection({self.peer}{', taken' if self.taken_over else ''}{'' if self.alive else ', over'})"


def reset(sock: Any) -> None:
    """Close a connection by a reset, dropping what is not sent yet."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    except OSError:                                          # not connected any more
        pass
    sock.close()
