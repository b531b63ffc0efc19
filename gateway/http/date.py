"""The Date field of an answer, made once a second."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from time import time

_date = (0, b"")


def date_line(clock: Callable[[], float] = time) -> bytes:
    """The field with its CRLF."""
    global _date
    now = int(clock())
    if now != _date[0]:
        _date = (now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _date[1]
