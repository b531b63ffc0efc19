"""Connections to upstreams: native non-blocking sockets on the event loop.

A wait for an answer costs two switches and nothing else: the socket stays watched (loop/readiness.py), and the time of a wait is
checked only when the connection's alarm rings, which is set once and moved only for a wait that ends before it. One greenlet may
read and one may write at a time. Times are given as a Limit, and what it raises ends the wait.

A connection ends in one of two ways. ``close()`` ends it in order (FIN). ``abort()`` resets it (RST), so that the other side never
takes what it got for a complete request, not even when it reads until the end.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from contextlib import suppress
from math import inf
from socket import AF_UNIX, IPPROTO_TCP, SO_ERROR, SO_LINGER, SOCK_STREAM, SOL_SOCKET, TCP_NODELAY
from typing import Any

from gevent import monkey
from gevent.hub import Waiter
from gevent.socket import socket as GeventSocket

from ..errors import with_cause
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..loop.readiness import READY, WOKEN, Readable
from ..loop.send_queue import send_queue
from ..loop.time_limit import LimitTimer
from .dns import SocketAddress
from .limit import Limit

NativeSocket = monkey.get_original("socket", "socket")
NativePoll = monkey.get_original("select", "poll")

PIECE = 65536                                            # bytes: the most that is read or written at once
RESET = struct.pack("ii", 1, 0)
BACKLOG_PAUSE = 0.005                                    # seconds between tries on a unix socket whose backlog is full
EAGER = 4                                                # reads in a row without waiting
OVER = -1                                                # after READY and WOKEN
CLOSED_HERE = "the connection was closed on this side"


class ConnectionLost(Exception):
    """The connection failed with ``problem``. It is no OSError itself: whoever limits the time of a greenlet may throw one into a
    wait here, and that says nothing of the connection."""

    def __init__(self, problem: OSError) -> None:
        super().__init__(str(problem))
        self.problem = problem


def native_socket(family: int) -> Any:
    """A stream socket of the operating system's, non-blocking, that gevent knows nothing of. Raises ConnectionLost."""
    try:
        socket = NativeSocket(family, SOCK_STREAM)
    except OSError as error:                             # no descriptor left, most likely
        raise with_cause(ConnectionLost(error), error)
    socket.setblocking(False)
    return socket


class Connection:
    """A TCP or unix connection. ``requests`` counts those it has served, ``endpoint`` is where it leads; ``keep``, ``expires`` and
    ``retires`` are times for the pool, in seconds."""

    __slots__ = ("socket", "clock", "readable", "requests", "endpoint", "keep", "expires", "retires", "closed", "post_error",
                 "_writable", "_writer", "_poll", "_eager", "_outbox", "_post_pending", "__weakref__")

    def __init__(self, socket: Any, clock: MonotonicClock = CLOCK) -> None:
        self.closed = True                               # nothing to close yet
        descriptor = socket.fileno()
        self.socket = socket
        self.clock = clock
        self.readable = Readable(descriptor, clock)
        self.requests = 0
        self.keep: float | None = None
        self.expires = 0.0
        self.retires = inf
        self.endpoint: SocketAddress | None = None
        self.post_error: OSError | None = None          # of a post that did not leave
        self._writable = self.readable.hub.loop.io(descriptor, 2)
        self._writer: Waiter | None = None
        self._outbox = send_queue()
        self._post_pending = False                       # a post has not left yet
        self._eager = 0                                  # reads left that need not wait
        self._poll = NativePoll()
        self._poll.register(descriptor, select.POLLIN)
        self.closed = False

    def establish(self, endpoint: SocketAddress, limit: Limit) -> None:
        """Connect. Raises ConnectionLost, and what ``limit`` raises."""
        self.endpoint = endpoint
        if endpoint.family != AF_UNIX:
            self.socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        while (error := self.socket.connect_ex(endpoint.sockaddr)) == errno.EAGAIN:
            self.clock.sleep(BACKLOG_PAUSE if (left := limit.left()) is None else min(left, BACKLOG_PAUSE))
        if error == errno.EINPROGRESS:
            self.wait_writable(limit)
            error = self.socket.getsockopt(SOL_SOCKET, SO_ERROR)
        if error:
            raise ConnectionLost(OSError(error, os.strerror(error)))

    def receive(self, limit: Limit) -> bytes:
        """What comes next, b"" at the end. Raises ConnectionLost, and what ``limit`` raises."""
        eager = self._eager
        while True:
            if not eager:
                self.wait_for_data(limit)
            if self._post_pending:                       # bytes that are here before the request leaves are no answer to it
                self._outbox.flush()
            try:
                data = self.socket.recv(PIECE)
            except BlockingIOError:
                eager = 0
                continue
            except OSError as error:
                raise with_cause(ConnectionLost(self.post_error or error), error)
            # After a full piece there is most likely more, without a wait; but other greenlets get their turn now and then.
            self._eager = (eager - 1 if eager else EAGER) if len(data) == PIECE else 0
            return data

    def send(self, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting: how many bytes that was. Raises ConnectionLost."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise with_cause(ConnectionLost(error), error)

    def post(self, data: bytes) -> None:
        """Send a small piece at the end of this turn of the loop. If that fails, the next ``receive`` raises ConnectionLost;
        ``post_error`` is set when nothing of it has left."""
        self._post_pending = True
        self._outbox.post(self._deliver, data)

    def send_all(self, data: bytes | memoryview, limit: Limit) -> None:
        """Send everything. Raises ConnectionLost, and what ``limit`` raises."""
        size = self.send(data)
        view = memoryview(data)[size:]
        while view:
            self.wait_writable(limit)
            size = self.send(view)
            view = view[size:]

    def alive(self) -> bool:
        """Ask the system whether an idle connection may serve again: it may not with an end, or with stray bytes."""
        return not self._poll.poll(0)

    def close(self) -> None:
        """Close it in order; a greenlet that waits for it gets ConnectionLost. May be called again."""
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
        """Hand the connection over to a gevent socket, which then owns it."""
        self._stop_watching()
        return GeventSocket(self.socket.family, SOCK_STREAM, fileno=self.socket.detach())

    def _deliver(self, data: bytes) -> None:
        """Send a posted piece. An idle connection that has something to read, or does not take it all, is broken."""
        self._post_pending = False
        if self.closed:
            return
        try:
            if not self.alive():
                raise ConnectionResetError(errno.ECONNRESET, "it was closed, or had stray bytes")
            size = self.socket.send(data)
        except OSError as error:
            self.post_error = error
            self.close()
            return
        if size < len(data):
            self.abort()

    def wake(self) -> None:
        """Have the reader look at its limit again."""
        self.readable.wake()

    def __del__(self) -> None:
        if not self.closed:
            self._stop_watching()

    def _stop_watching(self) -> None:
        self.closed = True
        self.readable.wake()
        if self._writer is not None:
            self._writer.hub.loop.run_callback(self._writer.switch, WOKEN)
        self.readable.close()
        self._writable.close()

    def wait_for_data(self, limit: Limit) -> None:
        """Return once there is something to read, or the end of it."""
        if self.readable.reader is not None:
            raise RuntimeError("two greenlets read from one connection")
        until = limit.begin()
        while not self.closed:
            event = self.readable.wait(until)
            if event == READY:
                return
            if event == WOKEN:
                until = limit.begin()
            else:
                left = limit.left()
                until = inf if left is None else self.clock.now() + left
        raise ConnectionLost(self.post_error or ConnectionAbortedError(errno.ECONNABORTED, CLOSED_HERE))

    def wait_writable(self, limit: Limit) -> None:
        """Return once some bytes can be sent, after at least one turn of the loop."""
        if self._writer is not None:
            raise RuntimeError("two greenlets write to one connection")
        waiter = self._writer = Waiter(self.readable.hub)
        limit.begin()
        try:
            while True:
                seconds = limit.left()
                if self.closed:
                    raise ConnectionLost(ConnectionAbortedError(errno.ECONNABORTED, CLOSED_HERE))
                event = self._wait_writable(waiter, seconds)
                if event == READY:
                    return
                if event == OVER:
                    raise limit.over()
                waiter.clear()
        finally:
            self._writer = None

    def _wait_writable(self, waiter: Waiter, seconds: float | None) -> int:
        self._writable.start(waiter.switch, READY)
        timer = None
        try:
            if seconds is not None:
                timer = LimitTimer(seconds, waiter.switch, OVER)
            event: int = waiter.get()
            return event
        finally:
            if timer is not None:
                timer.close()
            if not self.closed:
                self._writable.stop()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'closed' if self.closed else self.socket.fileno()}, {self.requests} requests)"
