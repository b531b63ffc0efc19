"""The body of an answer that is stored while it is passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..message import Stream


class Tee:
    """``on_end(body, reason)`` is called once: with the whole body when the stream came to its end; else with None and the reason:
    ``cut`` (short, or nobody read on) or ``size`` (above ``limit`` bytes). The client gets such a body all the same."""

    __slots__ = ("_stream", "_limit", "_on_end", "_pieces", "_size")

    def __init__(self, stream: Stream, limit: int, on_end: Callable[[bytes | None, str], None]) -> None:
        self._stream = stream
        self._limit = limit
        self._on_end: Callable[[bytes | None, str], None] | None = on_end
        self._pieces: list[bytes] = []
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            if self._on_end is not None:
                self._keep(piece)
            yield piece
        self._end(b"".join(self._pieces), "")

    def close(self) -> None:
        """A body that is not complete by now is not stored."""
        try:
            self._stream.close()
        finally:
            self._end(None, "cut")

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            self._end(None, "size")
        else:
            self._pieces.append(piece)

    def _end(self, body: bytes | None, reason: str) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            self._pieces = []
            on_end(body, reason)

    def __repr__(self) -> str:
        return f"Tee({self._stream!r}, {self._size} bytes)"
