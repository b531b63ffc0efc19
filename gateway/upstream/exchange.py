"""One request and its answer on one connection.

The order is fixed: ``send``, ``read_head``, ``read_body``, and ``finish`` exactly once, when the exchange is over. The head and a
body in memory go out in one write. A streamed body is sent by a greenlet of its own while the answer is read: both may flow at
once, and an early answer is read at once.

At the end of the exchange its connection is

- reset, if the request was not sent to its end;
- kept for the next one, if the answer is complete, no bytes follow it, and neither side said ``Connection: close``;
- closed otherwise, also after a 204 or 304 that announces a body (Transfer-Encoding; with 204 also a Content-Length).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import GatewayError, UpstreamClosed, UpstreamError, UpstreamProtocolError, UpstreamTimeout, with_cause
from ..http.grammar import BODILESS
from ..message import Attempt, Body, Call
from .framing import ByLength, ChunkedFraming, Framing, UntilClose
from .head import CHUNKED, UNTIL_CLOSE, Head, parse_head
from .limit import Limit, SilenceLimit
from .sending import Sender
from .stream import BodyStream
from .transport import PIECE, Connection, ConnectionLost

IN_MEMORY = 65536                                        # bytes: an announced body up to this size is not streamed
MAX_INTERIM = 100                                        # interim answers before the final one

Release = Callable[[Connection | None, bool], None]


def note(error: GatewayError, attempt: Attempt) -> None:
    """Note in the error where it happened, and in the attempt what."""
    attempt.flag = error.flag
    if isinstance(error, UpstreamError) and not error.instance:
        error.upstream, error.instance = attempt.upstream, attempt.instance


class Exchange:
    """``release(connection, reusable)`` is called once, at the end; with None for a connection that is no longer the pool's.
    ``limit`` holds until the head of the answer, ``silence`` bounds each wait after it, in seconds."""

    __slots__ = ("connection", "limit", "silence", "attempt", "sender", "_release", "_rest")

    def __init__(self, connection: Connection, limit: Limit, silence: float, release: Release, attempt: Attempt) -> None:
        self.connection = connection
        self.limit = limit
        self.silence = silence
        self.attempt = attempt
        self.sender: Sender | None = None
        self._release: Release | None = release
        self._rest = b""                                 # bytes behind the head

    def send(self, head: bytes, body: bytes | Body | None, post: bool = False) -> None:
        """Send the request, or begin to. Raises UpstreamClosed. ``post``: on a reused connection it may leave at the end of this
        turn of the loop. If that fails, ``read_head`` raises, and there is another attempt."""
        connection = self.connection
        if post and connection.requests:
            connection.post(head)
            return
        data, more = head, b""
        if isinstance(body, bytes):
            data = head + body[:PIECE]
            more = body[PIECE:]
        try:
            size = connection.send(data)
        except ConnectionLost as error:
            raise with_cause(self._closed_error(str(error), unsent=True), error.problem)
        if size < len(data) or more or isinstance(body, Body):
            rest = [memoryview(data)[size:], memoryview(more)]
            self.sender = Sender(self.connection, rest, body if isinstance(body, Body) else None, self.limit, self.silence)

    def read_head(self, call: Call) -> Head:
        """The head of the final answer to ``call``; interim answers go to its hearer. Raises UpstreamClosed, UpstreamProtocolError
        and what the limit does."""
        data = self._receive(False)
        head = parse_head(data)
        if head is None or head.status < 200:
            data, head = self._final_head(data, head, call)
        self._rest = data[head.end:]
        if call.method == "HEAD" or head.status in BODILESS:
            if call.method != "HEAD" and (head.size == CHUNKED or head.status == 204 and head.size > 0):
                head.keep_alive = False                  # a body may follow, although none is allowed
            head.size = 0
        return head

    def _final_head(self, data: bytes, head: Head | None, call: Call) -> tuple[bytes, Head]:
        """The bytes that begin with the final head, and that head. ``data`` are those received so far, ``head`` is the one they
        begin with if that is complete."""
        for _ in range(MAX_INTERIM):
            while head is None:
                size = len(data)
                data += self._receive(True)
                head = parse_head(data, size)
            if head.status == 101 and not call.upgrade:
                raise UpstreamProtocolError("101 without having been asked")
            if head.status == 101 and self.sender is not None and not self.sender.complete:
                raise UpstreamProtocolError("101 before the request was sent")       # the rest would be part of the new protocol
            if head.status >= 200 or head.status == 101:
                return data, head
            if call.hearer is not None and head.status > 101:                # 100 answers what we have asked
                call.hearer.interim(head.status, head.reason, head.headers, call.interim)
            data = data[head.end:]
            head = parse_head(data)
        raise UpstreamProtocolError(f"more than {MAX_INTERIM} interim answers")

    def read_body(self, head: Head, whole: bool = True) -> bytes | BodyStream:
        """The body: bytes, when all of it is here or, with ``whole``, when its announced size is small; else a stream. Raises
        UpstreamTruncated, UpstreamTimeout, UpstreamProtocolError, DeadlineExceeded."""
        size, rest = head.size, self._rest
        if 0 <= size <= len(rest):
            self.finish(head.keep_alive and size == len(rest))
            return rest[:size]
        framing: Framing = ByLength(size) if size >= 0 else ChunkedFraming() if size == CHUNKED else UntilClose()
        keep_alive = head.keep_alive and size != UNTIL_CLOSE
        in_memory = 0 <= size <= IN_MEMORY
        self.limit = SilenceLimit(self.limit.deadline if in_memory else None, self.silence, self._silence_error, self.limit.clock)
        self.limit.sender = self.sender
        first = framing.feed(rest) if rest else b""
        if framing.complete:
            self.finish(keep_alive and not framing.excess)
            return first
        stream = BodyStream(self, framing, first, keep_alive)
        return stream.read() if in_memory and whole else stream

    def detach(self) -> UpgradedConnection:
        """Take the connection out of the pool, for another protocol."""
        release, self._release = self._release, None
        tunnel = UpgradedConnection(self.connection.detach(), self._rest)
        if release is not None:
            release(None, False)
        return tunnel

    def finish(self, reusable: bool, block: bool = True) -> None:
        """Release the connection. Only the first call counts."""
        release, self._release = self._release, None
        if release is None:
            return
        sender = self.sender
        if sender is None or sender.complete:
            release(self.connection, reusable)
            return
        try:
            sender.stop(block)
        finally:
            self.connection.abort()
            release(self.connection, False)

    def note_error(self, error: GatewayError) -> None:
        """What ``note`` does, for the stream."""
        note(error, self.attempt)

    def _receive(self, in_head: bool) -> bytes:
        try:
            piece = self.connection.receive(self.limit)
        except ConnectionLost as error:
            unsent = self.connection.post_error is not None
            raise with_cause(self._closed_error(str(error), in_head=in_head, unsent=unsent), error.problem)
        if not piece:
            raise self._closed_error(f"the connection was closed{' within the head' if in_head else ''}", in_head=in_head)
        return piece

    def _closed_error(self, text: str, *, in_head: bool = False, unsent: bool = False) -> UpstreamClosed:
        """``in_head``: a part of the head came; ``unsent``: no byte of the request has left. Without any answer on a reused
        connection the request is ``stale``: most likely the server closed before it saw the request."""
        error = UpstreamClosed(text)
        error.unsent = unsent
        error.stale = not in_head and self.connection.requests > 0
        return error

    def _silence_error(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"no byte of the body came for {self.silence:g} s")

    def __repr__(self) -> str:
        return f"Exchange({self.connection!r}{', over' if self._release is None else ''})"


class UpgradedConnection:
    """A connection after 101. ``sock`` belongs to the caller; ``leftover`` are the bytes that came behind the head."""

    def __init__(self, sock: Any, leftover: bytes) -> None:
        self.sock = sock
        self.leftover = leftover
