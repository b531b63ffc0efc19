"""Where the body of a response ends: by length, by chunks, by the end of the connection. Pure.

RFC 9112 sections 6 and 7.1. Each framing takes the bytes as they came, ``feed(data) -> bytes of the body``, says ``complete`` and
keeps in ``excess`` what came after the end. ``eof()`` tells it that the connection ended, in order; UpstreamTruncated if that
is too early.

Chunks: the size is 1 to 16 hexadecimal digits, extensions are ignored, lines end with CRLF and are at most 4 KB, trailers are
dropped, at most 64 KB of them. Whatever part of a chunk has come is passed on at once.
"""

from __future__ import annotations

import re

from ..errors import UpstreamProtocolError, UpstreamTruncated

MAX_LINE = 4096
MAX_TRAILERS = 65536
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*")


class ByLength:
    """A body of ``length`` bytes."""

    __slots__ = ("left", "length", "complete", "excess")

    def __init__(self, length: int) -> None:
        self.length = length
        self.left = length
        self.complete = length == 0
        self.excess = b""

    def feed(self, data: bytes) -> bytes:
        left = self.left
        if len(data) < left:
            self.left = left - len(data)
            return data
        self.left = 0
        self.complete = True
        if len(data) == left:
            return data
        self.excess = data[left:]
        return data[:left]

    def eof(self) -> None:
        raise UpstreamTruncated(f"{self.length - self.left} of {self.length} bytes came")


class UntilClose:
    """A body that ends with its connection."""

    __slots__ = ("complete", "excess")

    def __init__(self) -> None:
        self.complete = False
        self.excess = b""

    def feed(self, data: bytes) -> bytes:
        return data

    def eof(self) -> None:
        self.complete = True


class Chunked:
    """A chunked body. States: at a size line, in a chunk's data, at the CRLF after it, in the trailers."""

    __slots__ = ("complete", "excess", "_state", "_left", "_line", "_trailers")

    def __init__(self) -> None:
        self.complete = False
        self.excess = b""
        self._state = Chunked._size
        self._left = 0
        self._line = b""                                 # the beginning of a line whose end has not come
        self._trailers = 0

    def feed(self, data: bytes) -> bytes:
        if self._line:
            data, self._line = self._line + data, b""
        pieces: list[bytes] = []
        start, end = 0, len(data)
        while start < end and not self.complete:
            start = self._state(self, data, start, pieces)
        if self.complete:
            self.excess = data[start:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def eof(self) -> None:
        raise UpstreamTruncated("the connection ended between chunks" if self._left == 0
                                else f"{self._left} bytes of a chunk did not come")

    def _take_line(self, data: bytes, start: int) -> int:
        """Where the line that begins at ``start`` ends; -1 when it has not all come, and it is kept."""
        end = data.find(b"\n", start, start + MAX_LINE)
        if end < 0:
            if len(data) - start >= MAX_LINE:
                raise UpstreamProtocolError("a chunk's line is too long")
            self._line = data[start:]
            return -1
        if data[end - 1:end] != b"\r" or end == start:
            raise UpstreamProtocolError("a chunk's line ends with a bare LF")
        return end - 1

    def _size(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        end = self._take_line(data, start)
        if end < 0:
            return len(data)
        match = CHUNK_LINE.fullmatch(data, start, end)
        if not match:
            raise UpstreamProtocolError(f"not a chunk size: {data[start:end][:40]!r}")
        self._left = int(match[1], 16)
        self._state = Chunked._data if self._left else Chunked._trailer
        return end + 2

    def _data(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        piece = data[start:start + self._left]
        pieces.append(piece)
        self._left -= len(piece)
        if self._left == 0:
            self._state = Chunked._after
        return start + len(piece)

    def _after(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        mark = data[start:start + 2]
        if mark == b"\r\n":
            self._state = Chunked._size
            return start + 2
        if mark != b"\r":
            raise UpstreamProtocolError("a chunk is longer than its size says")
        self._line = mark
        return len(data)

    def _trailer(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        end = self._take_line(data, start)
        if end < 0:
            return len(data)
        self._trailers += end + 2 - start
        if self._trailers > MAX_TRAILERS:
            raise UpstreamProtocolError("the trailers are too large")
        if end == start:
            self.complete = True
        elif not TRAILER_LINE.fullmatch(data, start, end):
            raise UpstreamProtocolError(f"not a trailer: {data[start:end][:40]!r}")
        return end + 2


Framing = ByLength | UntilClose | Chunked
