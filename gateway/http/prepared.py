"""The head of an answer, as far as it can be written before there is a request: once for a stored answer, or a route that always
says the same, not for each client.

``head_lines_of`` writes it and ``PreparedResponse`` carries it. What is different each time is appended as lines, too. A step that
reads or changes the fields uses ``headers``, as with any other Response: the lines are then parsed again, and written when they are
sent.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..message import Headers, Response, Stream
from .fields import WRITTEN, Kinds, UnsafeField
from .grammar import BODILESS

STATUS = re.compile(r"[1-9][0-9]{2}(?: [ \t\x21-\x7e\x80-\xff]*)?")
SENDERS = Kinds({"content-length": 1} | dict.fromkeys((              # what whoever sends an answer looks at, or writes itself
    "connection", "upgrade", "transfer-encoding", "keep-alive", "proxy-connection", "te", "trailer", "x-request-id"), 2))


class PreparedResponse(Response):
    """A response with ``head_lines``, which include the Content-Length of ``body``, and neither X-Request-Id nor fields of the
    connection."""

    __slots__ = ()

    def __init__(self, status: int, reason: str, head_lines: bytes, body: bytes) -> None:
        self.status = status                                 # what super().__init__ does, for every request
        self.reason = reason
        self.body: bytes | Stream = body
        self.version = "1.1"
        self.hop = self.takeover = None
        self.whole = self.tunnel = None
        self.head_lines: bytes | None = head_lines


def head_lines_of(status: int, headers: Headers, size: int) -> bytes | None:
    """``headers`` as lines, for a body of ``size`` bytes. None when they need checking at the time of sending: unsafe fields,
    fields of the connection, another Content-Length."""
    special = [(SENDERS[name], value) for name, value in headers if SENDERS[name]]
    if status < 200 or special != ([] if status in BODILESS else [(1, str(size))]):
        return None
    try:
        return b"".join([WRITTEN[field] for field in headers])
    except UnsafeField:
        return None


@lru_cache(maxsize=1024)
def first_line(status: int, reason: str) -> bytes:
    """The status line. Raises ValueError."""
    return f"HTTP/1.1 {status_line(f'{status} {reason}')[1]}\r\n".encode("latin-1")


@lru_cache(maxsize=1024)
def status_line(status: object) -> tuple[int, str]:
    """The code and the rest of the status line. Raises ValueError."""
    if not isinstance(status, str) or not STATUS.fullmatch(status):
        raise ValueError(f"{status!r} is no HTTP status")
    return int(status[:3]), status if len(status) > 3 else status + " "
