"""Sends the body of a request while its answer is read: both may flow at once, and an early answer is read at once."""

from __future__ import annotations

import gevent

from ..errors import BodyTimeout, ClientDisconnected, GatewayError, InternalError, TruncatedBody, UpstreamTimeout
from ..loop.monotonic_clock import MonotonicClock
from ..message import Body, Call
from .limit import Limit, SilenceLimit
from .transport import PIECE, Connection, ConnectionLost


def small_body(call: Call, silence: float, clock: MonotonicClock) -> bytes | Body | None:
    """The body of the call, read into memory if it is small. Raises BodyTimeout when nothing comes for ``silence`` seconds, and
    what reading the body raises."""
    body = call.body
    if not isinstance(body, Body) or body.length is None or body.length > PIECE or body.is_started:
        return body
    return body.buffer(PIECE, lambda: clock.time_limit(silence, BodyTimeout(f"no byte of the body came for {silence:g} s")))


class Sender:
    """Sends the rest of a request in a greenlet of its own, while the answer is read.

    ``rest`` are the bytes of the request that are still to be sent, ``body`` follows them. ``moving`` is true while a ``body`` is
    being sent; at its end the time for the answer (``limit``) starts anew, and ``complete`` becomes true. ``failure`` is the error
    of the client's side, or a timeout when the upstream takes nothing for ``silence`` seconds. An upstream that closes before it
    has the body is no failure here: it may have answered, and if not, the reader finds that out.
    """

    def __init__(self, connection: Connection, rest: list[memoryview], body: Body | None, limit: Limit, silence: float) -> None:
        self.moving = body is not None
        self.complete = False
        self.failure: BaseException | None = None
        self._connection = connection
        self._limit = limit
        self._silence = silence
        limit.sender = self
        self._greenlet = gevent.spawn(self._run, rest, body)

    def stop(self, block: bool = True) -> None:
        """End it. With ``block``, it no longer reads the client's body when this returns."""
        self._greenlet.kill(block=block)

    def _run(self, rest: list[memoryview], body: Body | None) -> None:
        limit = SilenceLimit(None, self._silence, self._stall_error, self._limit.clock)
        try:
            for data in rest:
                self._connection.send_all(data, limit)
            if body is not None:
                self._send_body(body, limit)
            self.complete = self.failure is None
        except ConnectionLost:
            self.complete = False                            # the reader finds out why
        except GatewayError as error:
            self.failure = error
        finally:
            self.moving = False
            self._connection.wake()

    def _send_body(self, body: Body, limit: Limit) -> None:
        left = body.length
        while left != 0 and (piece := self._read(body)):
            if left is None:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            elif len(piece) <= left:
                left -= len(piece)
            else:
                raise InternalError(f"the body is longer than its {body.length} bytes")
            self._connection.wait_writable(limit)        # with both sockets ready nothing else here waits: give others a turn
            self._connection.send_all(piece, limit)
        if self.failure is not None:
            return
        if left:
            raise TruncatedBody(f"{left} of {body.length} bytes are missing")
        if left is None:
            self._connection.send_all(b"0\r\n\r\n", limit)
        if self._limit.deadline is not None:
            self._limit.deadline.restart()
        self._limit.restart()

    def _read(self, body: Body) -> bytes:
        """The next piece of the client's body; b"" at the end and after a failure."""
        try:
            with self._limit.clock.time_limit(self._silence, BodyTimeout(f"no byte of the body came for {self._silence:g} s")):
                return body.read(PIECE)
        except OSError as error:                         # the client's connection failed
            self.failure = ClientDisconnected(str(error))
            self.failure.__cause__ = error
        except Exception as error:
            self.failure = error
        return b""

    def _stall_error(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"the upstream took no byte of the body for {self._silence:g} s")
