"""Framing of a response's body: by length, by chunks, by the end of the connection. Pure.

RFC 9112 sections 6 and 7.1. Each framing takes the bytes as they came, ``feed(data) -> bytes of the body``, says ``complete`` and
keeps in ``excess`` what came after the end. ``eof()`` tells it that the connection ended, in order; UpstreamTruncated if that
is too early.

Of chunks (http/chunked.py) extensions are ignored and trailers dropped.
"""

from __future__ import annotations

import re

from ..errors import UpstreamProtocolError, UpstreamTruncated
from ..http import chunked


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


class ChunkedFraming(chunked.Chunked):
    """A chunked body. Extensions are any text."""

    __slots__ = ()

    line = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
    error = UpstreamProtocolError

    def eof(self) -> None:
        raise UpstreamTruncated("the connection ended between chunks" if self.left == 0
                                else f"{self.left} bytes of a chunk did not come")


Framing = ByLength | UntilClose | ChunkedFraming
