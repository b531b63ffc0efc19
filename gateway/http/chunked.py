"""A chunked body, taken out of its chunks as the bytes come. Pure.

Requests (server/reader.py) and answers (upstream/framing.py) share it.

RFC 9112 section 7.1. States: at a size line, in a chunk's data, at the CRLF after it, in the trailers. The size is 1 to 16
hexadecimal digits, lines end with CRLF and are at most 4 KB, the trailers have at most 64 KB. Whatever part of a chunk has come is
passed on at once, and what has come of many small ones in one piece.
"""

from __future__ import annotations

import re
from typing import ClassVar

MAX_LINE = 4096
MAX_TRAILERS = 65536
TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*")


class Chunked:
    """One body. ``complete`` at its end, ``excess`` is what came behind it. A kind of its own says how a chunk's first ``line`` has
    to look (group 1 is the size) and which ``error`` it is when something does not."""

    __slots__ = ("complete", "excess", "left", "trailers", "_state", "_line", "_size_of_trailers")

    line: ClassVar[re.Pattern[bytes]]
    error: ClassVar[type[Exception]]

    def __init__(self) -> None:
        self.complete = False
        self.excess = b""
        self._state = Chunked._size
        self.left = 0                                    # bytes of the current chunk that have not come
        self.trailers: list[bytes] = []                  # lines, without CRLF
        self._line = b""                                 # the beginning of a line whose end has not come
        self._size_of_trailers = 0

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in ``data``."""
        if self._line:
            data, self._line = self._line + data, b""
        pieces: list[bytes] = []
        start, end = 0, len(data)
        while start < end and not self.complete:
            start = self._state(self, data, start, pieces)
        if self.complete:
            self.excess = data[start:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_line(self, data: bytes, start: int) -> int:
        """Where the line that begins at ``start`` ends; -1 when it has not all come, and it is kept."""
        end = data.find(b"\n", start, start + MAX_LINE)
        if end < 0:
            if len(data) - start >= MAX_LINE:
                raise self.error("a chunk's line is too long")
            self._line = data[start:]
            return -1
        if end == start or data[end - 1:end] != b"\r":
            raise self.error("a chunk's line ends with a bare LF")
        return end - 1

    def _size(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        end = self._take_line(data, start)
        if end < 0:
            return len(data)
        match = self.line.fullmatch(data, start, end)
        if not match:
            raise self.error(f"not a chunk size: {data[start:end][:40]!r}")
        self.left = int(match[1], 16)
        self._state = Chunked._data if self.left else Chunked._trailer
        return end + 2

    def _data(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        piece = data[start:start + self.left]
        pieces.append(piece)
        self.left -= len(piece)
        if self.left == 0:
            self._state = Chunked._after
        return start + len(piece)

    def _after(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        mark = data[start:start + 2]
        if mark == b"\r\n":
            self._state = Chunked._size
            return start + 2
        if mark != b"\r":
            raise self.error("a chunk is longer than its size says")
        self._line = mark
        return len(data)

    def _trailer(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        end = self._take_line(data, start)
        if end < 0:
            return len(data)
        self._size_of_trailers += end + 2 - start
        if self._size_of_trailers > MAX_TRAILERS:
            raise self.error("the trailers are too large")
        if end == start:
            self.complete = True
        elif TRAILER_LINE.fullmatch(data, start, end):
            self.trailers.append(data[start:end])
        else:
            raise self.error(f"not a trailer: {data[start:end][:40]!r}")
        return end + 2
