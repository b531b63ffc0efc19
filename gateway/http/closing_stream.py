"""The body of an answer that holds on to something until it is closed: the client's watch, the current request."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..message import Stream


class ClosingStream:
    """``stream``, whose ``close`` calls ``first()`` and ``then()``, once, the second even if the first raises. One of them closes
    the stream."""

    __slots__ = ("_stream", "_first", "_then", "_closed")

    def __init__(self, stream: Stream, first: Callable[[], object], then: Callable[[], object]) -> None:
        self._stream = stream
        self._first = first
        self._then = then
        self._closed = False

    @property
    def ready(self) -> bool:
        """Is the first piece of the body here?"""
        return getattr(self._stream, "ready", True)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._first()
        finally:
            self._then()

    def __repr__(self) -> str:
        return f"ClosingStream({self._stream!r}{', closed' if self._closed else ''})"
