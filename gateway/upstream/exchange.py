"""One request and its answer on one connection.

The order is fixed: ``send``, ``read_head``, ``read_body``, and ``finish`` exactly once, by whoever comes to the end first. The head
and a body in memory go out in one write. A streamed body is sent by a greenlet of its own while the answer is read, so that both
may flow at once and an early answer is heard.

States of the connection when it ends: it serves again if the answer is complete, nothing came behind it, the request was sent
to its end and neither side said ``Connection: close``. A 204 or 304 that announces a body (Transfer-Encoding; with 204 also a
Content-Length) ends it too. It is reset if the request was not sent to its end. Else it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import GatewayError, UpstreamClosed, UpstreamError, UpstreamProtocolError, UpstreamTimeout
from ..message import Attempt, Body, Call
from .framing import ByLength, ChunkedFraming, Framing, UntilClose
from .head import CHUNKED, UNTIL_CLOSE, Head, parse_head
from .limit import Limit, Silence
from .sending import Sender
from .stream import BodyStream
from .transport import PIECE, Connection, Lost

IN_MEMORY = 65536                                        # bytes: an announced body up to this size is not streamed
MAX_INTERIM = 100                                        # 1xx heads before an answer
BODILESS = frozenset({204, 304})


Release = Callable[[Connection | None, bool], None]


def note(error: GatewayError, attempt: Attempt) -> None:
    """Note in the error where it happened, and in the attempt what."""
    attempt.flag = error.flag
    if isinstance(error, UpstreamError) and not error.instance:
        error.upstream, error.instance = attempt.upstream, attempt.instance


class Exchange:
    """``release(connection, reusable)`` is called once, at the end, without a connection when it is no longer the pool's.
    ``limit`` holds until the head of the answer, ``silence`` is the longest one after it, in seconds."""

    __slots__ = ("connection", "limit", "silence", "attempt", "sender", "_release", "_rest")

    def __init__(self, connection: Connection, limit: Limit, silence: float, release: Release, attempt: Attempt) -> None:
        self.connection = connection
        self.limit = limit
        self.silence = silence
        self.attempt = attempt
        self.sender: Sender | None = None
        self._release: Release | None = release
        self._rest = b""                                 # what came behind the head

    def send(self, head: bytes, body: bytes | Body | None, post: bool = False) -> None:
        """Send the request, or begin to. Raises UpstreamClosed. ``post``: on a connection that has served it may leave a
        little later. If it cannot, that is raised by who reads, and there is another attempt."""
        connection = self.connection
        if post and connection.served:
            connection.post(head)
            return
        data, more = head, b""
        if isinstance(body, bytes):
            data = head + body[:PIECE]
            more = body[PIECE:]
        try:
            sent = connection.send(data)
        except Lost as error:
            raise self._ended(str(error), unsent=True) from error.problem
        if sent < len(data) or more or isinstance(body, Body):
            rest = [memoryview(data)[sent:], memoryview(more)]
            self.sender = Sender(self.connection, rest, body if isinstance(body, Body) else None, self.limit, self.silence)

    def read_head(self, call: Call) -> Head:
        """The head of the answer to ``call``, after all 1xx, which it may have a hearer for. Raises UpstreamClosed,
        UpstreamProtocolError and what the limit does."""
        data = self._receive(False)
        head = parse_head(data)
        if head is None or head.status < 200:
            data, head = self._final_head(data, head, call)
        self._rest = data[head.end:]
        if call.method == "HEAD" or head.status in BODILESS:
            if call.method != "HEAD" and (head.size == CHUNKED or head.status == 204 and head.size > 0):
                head.keep_alive = False                  # a body was announced where none may be: it may be under way
            head.size = 0
        return head

    def _final_head(self, data: bytes, head: Head | None, call: Call) -> tuple[bytes, Head]:
        """The rest of a head that has begun with ``data``, and what follows those that are interim; with the bytes it is in."""
        for _ in range(MAX_INTERIM):
            while head is None:
                seen = len(data)
                data += self._receive(True)
                head = parse_head(data, seen)
            if head.status == 101 and not call.upgrade:
                raise UpstreamProtocolError("101 without having been asked")
            if head.status == 101 and self.sender is not None and not self.sender.sent:
                raise UpstreamProtocolError("101 before the request was sent")       # its rest would be taken for the new protocol
            if head.status >= 200 or head.status == 101:
                return data, head
            if call.hearer is not None and head.status > 101:                # 100 answers what we have asked
                call.hearer.interim(head.status, head.reason, head.headers, call.interim)
            data = data[head.end:]
            head = parse_head(data)
        raise UpstreamProtocolError(f"more than {MAX_INTERIM} interim answers")

    def read_body(self, head: Head, whole: bool = True) -> bytes | BodyStream:
        """The body in memory, when it is here already or, if ``whole``, announced as small; else a stream of it. Raises
        UpstreamTruncated, UpstreamTimeout, UpstreamProtocolError, DeadlineExceeded."""
        size, rest = head.size, self._rest
        if 0 <= size <= len(rest):
            self.finish(head.keep_alive and size == len(rest))
            return rest[:size]
        framing: Framing = ByLength(size) if size >= 0 else ChunkedFraming() if size == CHUNKED else UntilClose()
        keep_alive = head.keep_alive and size != UNTIL_CLOSE
        in_memory = 0 <= size <= IN_MEMORY
        self.limit = Silence(self.limit.deadline if in_memory else None, self.silence, self._silent, self.limit.clock)
        self.limit.sender = self.sender
        first = framing.feed(rest) if rest else b""
        if framing.complete:
            self.finish(keep_alive and not framing.excess)
            return first
        stream = BodyStream(self, framing, first, keep_alive)
        return stream.read() if in_memory and whole else stream

    def detach(self) -> Upgraded:
        """The connection, which is no longer one of the pool's."""
        release, self._release = self._release, None
        upgraded = Upgraded(self.connection.detach(), self._rest)
        if release is not None:
            release(None, False)
        return upgraded

    def finish(self, reusable: bool, block: bool = True) -> None:
        """Let go of the connection. Only the first call counts."""
        release, self._release = self._release, None
        if release is None:
            return
        sender = self.sender
        if sender is None or sender.sent:
            release(self.connection, reusable)
            return
        try:
            sender.stop(block)
        finally:
            self.connection.abort()
            release(self.connection, False)

    def failed(self, error: GatewayError) -> None:
        """What ``note`` does, for the stream."""
        note(error, self.attempt)

    def _receive(self, heard: bool) -> bytes:
        try:
            piece = self.connection.receive(self.limit)
        except Lost as error:
            unsent = self.connection.undelivered is not None
            raise self._ended(str(error), heard=heard, unsent=unsent) from error.problem
        if not piece:
            raise self._ended("the connection was closed within the head" if heard else "the connection was closed", heard=heard)
        return piece

    def _ended(self, text: str, *, heard: bool = False, unsent: bool = False) -> UpstreamClosed:
        """``heard``: a byte of this answer came; ``unsent``: not a byte of the request has left. If nothing was heard, nobody has
        answered it; and on a connection that had served before, most likely nobody has seen it."""
        ended = UpstreamClosed(text)
        ended.unsent = unsent
        ended.stale = not heard and self.connection.served > 0
        return ended

    def _silent(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"no byte of the body came for {self.silence:g} s")

    def __repr__(self) -> str:
        return f"Exchange({self.connection!r}{', over' if self._release is None else ''})"


class Upgraded:
    """A connection that speaks another protocol now. ``sock`` belongs to the caller; ``leftover`` came behind the answer's head."""

    def __init__(self, sock: Any, leftover: bytes) -> None:
        self.sock = sock
        self.leftover = leftover
