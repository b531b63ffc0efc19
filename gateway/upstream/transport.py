"""Connections that wait: native non-blocking sockets on the event loop, the sender of a request's body, the stream of an answer's.

A wait costs one watcher, one timer and two switches, half of what a gevent socket with a timeout takes. One greenlet may read
and one may write at a time. Times are given as a Limit, and what it raises ends the wait.

A connection ends in one of two ways. ``close()`` says goodbye. ``abort()`` resets (RST), so that the other side can never take
what it got for a complete request, not even when it reads until the end.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from collections.abc import Iterator
from contextlib import suppress
from socket import AF_UNIX, IPPROTO_TCP, SO_ERROR, SO_LINGER, SOCK_STREAM, SOL_SOCKET, TCP_NODELAY
from typing import Any, Protocol

import gevent
from gevent import monkey
from gevent.hub import Waiter, get_hub
from gevent.socket import socket as GeventSocket

from ..errors import BodyTimeout, ClientDisconnected, GatewayError, InternalError, TruncatedBody, UpstreamTimeout, UpstreamTruncated
from ..message import Body, Call
from .dns import Place
from .framing import Framing
from .limit import Limit, Silence

NativeSocket = monkey.get_original("socket", "socket")
NativePoll = monkey.get_original("select", "poll")

PIECE = 65536                                            # bytes: the most that is read or written at once
RESET = struct.pack("ii", 1, 0)
BACKLOG_PAUSE = 0.005                                    # seconds between tries on a unix socket whose backlog is full
EAGER = 4                                                # reads in a row without waiting
READY, OVER, WOKEN = range(3)
CLOSED_HERE = "the connection was closed on this side"


class Lost(Exception):
    """The connection failed; ``problem`` is how. It is no OSError itself: those may be thrown into a greenlet that waits here, by
    whoever limits its time, and say nothing of the connection."""

    def __init__(self, problem: OSError) -> None:
        super().__init__(str(problem))
        self.problem = problem


def native_socket(family: int) -> Any:
    """A stream socket of the operating system's, non-blocking, that gevent knows nothing of. Raises Lost."""
    try:
        socket = NativeSocket(family, SOCK_STREAM)
    except OSError as error:                             # no descriptor left, most likely
        raise Lost(error) from error
    socket.setblocking(False)
    return socket


class Connection:
    """A TCP or unix connection. ``served`` counts its answers; ``keep`` and ``expires`` are seconds for the pool."""

    __slots__ = ("socket", "hub", "served", "keep", "expires", "closed", "_readable", "_writable", "_reader", "_writer", "_poll",
                 "_eager")

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.hub = get_hub()
        self.served = 0
        self.keep: float | None = None
        self.expires = 0.0
        self.closed = False
        descriptor = socket.fileno()
        self._readable = self.hub.loop.io(descriptor, 1)
        self._writable = self.hub.loop.io(descriptor, 2)
        self._reader: Waiter | None = None
        self._writer: Waiter | None = None
        self._eager = 0                                  # how many more reads need not wait
        self._poll = NativePoll()
        self._poll.register(descriptor, select.POLLIN)

    def establish(self, place: Place, limit: Limit) -> None:
        """Connect. Raises Lost, and what ``limit`` raises."""
        if place.family != AF_UNIX:
            self.socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        while (error := self.socket.connect_ex(place.sockaddr)) == errno.EAGAIN:
            gevent.sleep(BACKLOG_PAUSE if (left := limit.left()) is None else min(left, BACKLOG_PAUSE))
        if error == errno.EINPROGRESS:
            self.wait_writable(limit)
            error = self.socket.getsockopt(SOL_SOCKET, SO_ERROR)
        if error:
            raise Lost(OSError(error, os.strerror(error)))

    def receive(self, limit: Limit) -> bytes:
        """What comes next, b"" at the end. Raises Lost, and what ``limit`` raises."""
        eager = self._eager
        while True:
            if not eager:
                self._wait_readable(limit)
            try:
                data = self.socket.recv(PIECE)
            except BlockingIOError:
                eager = 0
                continue
            except OSError as error:
                raise Lost(error) from error
            # A full piece: most likely there is more, for which nobody needs to wait. But others want their turn now and then.
            self._eager = (eager - 1 if eager else EAGER) if len(data) == PIECE else 0
            return data

    def send(self, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting: how many bytes that was. Raises Lost."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Lost(error) from error

    def send_all(self, data: bytes | memoryview, limit: Limit) -> None:
        """Send everything. Raises Lost, and what ``limit`` raises."""
        sent = self.send(data)
        view = memoryview(data)[sent:]
        while view:
            self.wait_writable(limit)
            view = view[self.send(view):]

    def alive(self) -> bool:
        """May an unused connection serve again? Not when it was closed, or has bytes nobody asked for."""
        return not self._poll.poll(0)

    def wake(self) -> None:
        """Let whoever reads look at its limit again."""
        if self._reader is not None:
            self.hub.loop.run_callback(self._reader.switch, WOKEN)

    def close(self) -> None:
        """A greenlet that still waits for this connection gets Lost. May be called again."""
        if not self.closed:
            self._stop_watching()
            self.socket.close()

    def abort(self) -> None:
        """Close with a reset."""
        if not self.closed:
            with suppress(OSError):                      # some systems refuse it on a socket that is reset already
                self.socket.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
            Connection.close(self)

    def detach(self) -> Any:
        """The connection as a gevent socket, which then owns it."""
        self._stop_watching()
        return GeventSocket(self.socket.family, SOCK_STREAM, fileno=self.socket.detach())

    def _stop_watching(self) -> None:
        self.closed = True
        for waiter in (self._reader, self._writer):
            if waiter is not None:
                self.hub.loop.run_callback(waiter.switch, WOKEN)
        self._readable.close()
        self._writable.close()

    def _wait_readable(self, limit: Limit) -> None:
        if self._reader is not None:
            raise RuntimeError("two greenlets read from one connection")
        waiter = self._reader = Waiter(self.hub)
        try:
            self._wait(self._readable, waiter, limit)
        finally:
            self._reader = None

    def wait_writable(self, limit: Limit) -> None:
        """Return once some bytes can be sent, and not before the loop has looked at all the other sockets too."""
        if self._writer is not None:
            raise RuntimeError("two greenlets write to one connection")
        waiter = self._writer = Waiter(self.hub)
        try:
            self._wait(self._writable, waiter, limit)
        finally:
            self._writer = None

    def _wait(self, watcher: Any, waiter: Waiter, limit: Limit) -> None:
        """Return once ``watcher`` is ready."""
        while True:
            seconds = limit.left()
            if self.closed:
                raise Lost(ConnectionAbortedError(errno.ECONNABORTED, CLOSED_HERE))
            watcher.start(waiter.switch, READY)
            timer = None
            try:
                if seconds is not None:
                    timer = self.hub.loop.timer(seconds)
                    timer.start(waiter.switch, OVER)
                event = waiter.get()
            finally:
                if timer is not None:
                    timer.close()
                if not self.closed:
                    watcher.stop()
            if event == READY:
                return
            if event == OVER:
                raise limit.over()
            waiter.clear()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'closed' if self.closed else self.socket.fileno()}, {self.served} served)"


def small_body(call: Call, silence: float) -> bytes | Body | None:
    """The call's body, in memory if it is small. That takes up to ``silence`` seconds, which do not count against the deadline.
    Raises BodyTimeout, and what reading the body raises."""
    body = call.body
    if not isinstance(body, Body) or body.length is None or body.length > PIECE or body.started:
        return body
    deadline = call.deadline
    begun = deadline.clock()
    with gevent.Timeout(silence, BodyTimeout(f"the body did not come within {silence:g} s")):
        data = body.buffer(PIECE)
    deadline.at += deadline.clock() - begun
    return data


class Sender:
    """Sends the rest of a request in a greenlet of its own, while the answer is read.

    ``rest`` are bytes of the request not yet sent, ``body`` what follows them. ``moving`` is true while a ``body`` is on its way;
    when it has been sent, the time for the answer (``limit``) starts anew. ``sent`` is true once everything has been sent.
    ``failure`` is what went wrong on the client's side, or that the upstream took nothing for ``silence`` seconds. An upstream
    that no longer takes the body is no failure here: it may have answered, and if it has not, the reader finds that out.
    """

    def __init__(self, connection: Connection, rest: list[memoryview], body: Body | None, limit: Limit, silence: float) -> None:
        self.moving = body is not None
        self.sent = False
        self.failure: BaseException | None = None
        self._connection = connection
        self._limit = limit
        self._silence = silence
        limit.sender = self
        self._greenlet = gevent.spawn(self._run, rest, body)

    def stop(self, block: bool = True) -> None:
        """End it; when this returns (``block``) it reads the client's body no more."""
        self._greenlet.kill(block=block)

    def _run(self, rest: list[memoryview], body: Body | None) -> None:
        limit = Silence(None, self._silence, self._stalled)
        try:
            for data in rest:
                self._connection.send_all(data, limit)
            if body is not None:
                self._send_body(body, limit)
            self.sent = self.failure is None
        except Lost:
            self.sent = False                            # see above: the reader finds out why
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
            self._connection.wait_writable(limit)        # others' turn: with both sockets ready nothing else here waits
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
        """The client's next piece; b"" at the end, and when that failed."""
        try:
            with gevent.Timeout(self._silence, BodyTimeout(f"no byte of the body came for {self._silence:g} s")):
                return body.read(PIECE)
        except OSError as error:                         # the client's connection failed
            self.failure = ClientDisconnected(str(error))
            self.failure.__cause__ = error
        except Exception as error:
            self.failure = error
        return b""

    def _stalled(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"the upstream took no byte of the body for {self._silence:g} s")


class Owner(Protocol):
    """The exchange a stream belongs to."""

    connection: Connection
    limit: Limit

    def finish(self, reusable: bool, block: bool = True) -> None: ...
    def failed(self, error: GatewayError) -> None: ...


class BodyStream:
    """The body of an answer, piece by piece as it comes.

    Iterate over it, or ``read``. ``complete`` is true once all of it has come in order; the connection is then free again, without
    waiting for ``close``. ``close`` before that closes the connection. Raises UpstreamTruncated, UpstreamTimeout,
    UpstreamProtocolError, and what the request's body raised. ``first`` is what the framing has given already.
    """

    def __init__(self, owner: Owner, framing: Framing, first: bytes, keep_alive: bool) -> None:
        self.closed = False
        self._owner = owner
        self._framing = framing
        self._keep_alive = keep_alive
        self._kept = first                               # taken from the framing, given out up to ``_start``
        self._start = 0

    @property
    def complete(self) -> bool:
        return self._framing.complete

    @property
    def ready(self) -> bool:
        """Has something come that was not given out yet, or will nothing more come?"""
        return bool(self._kept) or self._framing.complete

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._next()
        if not piece:
            raise StopIteration
        return piece

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes, as soon as there are any, and b"" at the end. -1 or None: everything to the end."""
        if size is None or size < 0:
            return b"".join(self)
        if self._start == len(self._kept):
            self._kept, self._start = self._next() if size else b"", 0
        piece = self._kept[self._start:self._start + size]
        self._start += len(piece)
        return piece

    def close(self) -> None:
        self.closed = True
        self._owner.finish(False)

    def __del__(self) -> None:
        self._owner.finish(False, block=False)

    def _next(self) -> bytes:
        """The next bytes, b"" at the end."""
        if self._start < len(self._kept):
            piece = self._kept[self._start:]
            self._kept, self._start = b"", 0
            return piece
        piece = b""
        while not piece and not self._framing.complete:
            if self.closed:
                raise ValueError("the stream is closed")
            try:
                piece = self._feed(self._receive())
            except BaseException as error:
                self.close()
                if isinstance(error, GatewayError):
                    self._owner.failed(error)
                raise
        return piece

    def _receive(self) -> bytes:
        try:
            return self._owner.connection.receive(self._owner.limit)
        except Lost as error:
            raise UpstreamTruncated(f"the connection failed within the body: {error}") from error.problem

    def _feed(self, data: bytes) -> bytes:
        framing = self._framing
        piece = b""
        if data:
            piece = framing.feed(data)
        else:
            framing.eof()
        if framing.complete:
            self._owner.finish(self._keep_alive and not framing.excess)
        return piece

    def __repr__(self) -> str:
        return f"BodyStream({'complete' if self.complete else 'closed' if self.closed else 'open'})"
