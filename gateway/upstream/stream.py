"""The body of an answer that is read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ..errors import GatewayError, UpstreamTruncated, with_cause
from .framing import Framing
from .limit import Limit
from .transport import Connection, ConnectionLost


class StreamOwner(Protocol):
    """The exchange a stream belongs to."""

    connection: Connection
    limit: Limit

    def finish(self, reusable: bool, block: bool = True) -> None: ...
    def note_error(self, error: GatewayError) -> None: ...


class BodyStream:
    """The body of an answer: iterate over its pieces as they come, or ``read``.

    ``complete`` is true once all of it has come in order; the connection is then free again, before ``close``. ``close`` before
    that closes the connection. Raises UpstreamTruncated, UpstreamTimeout, UpstreamProtocolError, and what the request's body
    raises. ``first`` are the bytes that the framing has already given.
    """

    def __init__(self, owner: StreamOwner, framing: Framing, first: bytes, keep_alive: bool) -> None:
        self.closed = False
        self._owner = owner
        self._framing = framing
        self._keep_alive = keep_alive
        self._buffer = first                             # from the framing; ``_start`` is the position of the next read
        self._start = 0

    @property
    def complete(self) -> bool:
        return self._framing.complete

    @property
    def ready(self) -> bool:
        """Whether the next read returns without a wait: bytes are buffered, or the body is complete."""
        return bool(self._buffer) or self._framing.complete

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._next()
        if not piece:
            raise StopIteration
        return piece

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes, as soon as there are any, and b"" at the end. -1 or None: everything to the end."""
        if size is None or size < 0:
            return b"".join(self)
        if self._start == len(self._buffer):
            self._buffer, self._start = self._next() if size else b"", 0
        piece = self._buffer[self._start:self._start + size]
        self._start += len(piece)
        return piece

    def close(self) -> None:
        self.closed = True
        self._owner.finish(False)

    def __del__(self) -> None:
        self._owner.finish(False, block=False)

    def _next(self) -> bytes:
        """The next bytes, b"" at the end."""
        if self._start < len(self._buffer):
            piece = self._buffer[self._start:]
            self._buffer, self._start = b"", 0
            return piece
        piece = b""
        while not piece and not self._framing.complete:
            if self.closed:
                raise ValueError("the stream is closed")
            try:
                piece = self._feed(self._receive())
            except BaseException as error:
                self.close()
                if isinstance(error, GatewayError):
                    self._owner.note_error(error)
                raise
        return piece

    def _receive(self) -> bytes:
        try:
            return self._owner.connection.receive(self._owner.limit)
        except ConnectionLost as error:
            raise with_cause(UpstreamTruncated(f"the connection failed within the body: {error}"), error.problem)

    def _feed(self, data: bytes) -> bytes:
        framing = self._framing
        piece = b""
        if data:
            piece = framing.feed(data)
        else:
            framing.eof()
        if framing.complete:
            self._owner.finish(self._keep_alive and not framing.excess)
        return piece

    def __repr__(self) -> str:
        return f"BodyStream({'complete' if self.complete else 'closed' if self.closed else 'open'})"
