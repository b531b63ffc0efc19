"""The body of a request as the file that WSGI wants. Never compiled: the class has a base of the standard library."""

from __future__ import annotations

import io
from typing import Any

from .errors import BodyTimeout
from .loop.time_limit import TimeLimit
from .message import Body
from .tasks import Guard


class RequestBodyFile(io.RawIOBase):
    """A request's body as the file WSGI wants, so that limits and buffering of the steps hold for views too.

    A slow client does not take the view's time: the body only has to keep moving. Raises BodyTimeout when it does not.
    """

    def __init__(self, body: Body, guard: Guard, silence: float) -> None:
        self._body = body
        self._guard = guard
        self._silence = silence

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._guard.suspend_while(self._read, len(buffer))
        buffer[:len(piece)] = piece
        return len(piece)

    def _read(self, size: int) -> bytes:
        with TimeLimit(self._silence, BodyTimeout(f"no byte of the body came for {self._silence:g} s")):
            return self._body.read(size)
