"""A client's connection: what it sends next, and answers on their way to it.

A small answer is posted: it leaves at the end of the loop's turn, with those of other connections. What a client is slow to take is
sent beside its next request. The limit on sending is on the client's progress: whoever goes on reading, however slowly, gets all.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
from contextlib import suppress
from typing import Any

import gevent
from gevent import getcurrent, monkey
from gunicorn.http.unreader import SocketUnreader

from ..loop.readiness import Readable
from ..loop.send_queue import LARGEST, send_queue
from .reader import PIECE

LINGER = 2.0                    # seconds a client that is still sending gets to read the answer before the connection is closed
POLL = monkey.get_original("select", "poll")                 # never to wait, only to look


class ClientGone(ConnectionError):
    """Nothing more can be sent to the client, which has not taken ``left`` bytes. ``is_stalled``: it took none for too long, and
    was cut."""

    def __init__(self, error: OSError, left: int) -> None:
        super().__init__(str(error))
        self.left = left
        self.is_stalled = isinstance(error, SendStalled)


class SendStalled(OSError):
    """The client has taken no byte for ``send_timeout``."""


class Client:
    """One accepted connection. ``listener`` and ``addr`` are the addresses of its two ends. ``send_timeout`` is the longest time
    in seconds for which it may take nothing of an answer."""

    __slots__ = ("listener", "sock", "addr", "peer", "greenlet", "unreader", "read_ahead", "native_sock", "readable", "since",
                 "mid_head", "request_count", "proxy_info", "lingers", "is_broken", "send_timeout", "_outbox", "_pending", "_rest")

    def __init__(self, listener: Any, sock: Any, addr: Any, send_timeout: float = 60.0) -> None:
        self.listener = listener
        self.sock = sock
        self.addr = addr
        self.peer: str = addr[0] if isinstance(addr, tuple) else ""      # a unix socket has no address
        self.greenlet = getcurrent()
        self.unreader = SocketUnreader(sock)
        self.unreader.max_body_chunk = PIECE
        self.read_ahead = b""                                # what came behind the last request
        self.native_sock = getattr(sock, "_sock", None)      # for reading and writing where nothing needs to wait; None under TLS
        self.readable = Readable(sock.fileno())
        self.since = 0.0                                     # when it began to wait
        self.mid_head = False                                # has something of the next head arrived?
        self.request_count = 0
        self.proxy_info: dict[str, Any] = {}                 # what the PROXY protocol said of the connection
        self.lingers = False                                 # may the client still be sending?
        self.is_broken = False                               # could an answer not be sent? Then there is no other
        self.send_timeout = send_timeout
        self._outbox = send_queue()
        self._pending = False                                # has an answer not left yet?
        self._rest: gevent.Greenlet | None = None            # what sends an answer that the client is slow to take

    def wait(self) -> bytes:
        """What the client sends next, b"" at the end."""
        if self.native_sock is None:
            return self.sock.recv(PIECE)
        while True:
            self.readable.wait()
            try:
                return self.native_sock.recv(PIECE)
            except BlockingIOError:
                continue

    def post(self, data: bytes) -> None:
        """Send a small answer at the end of this turn of the loop; wait only for the one before it. Raises what ``send`` does for a
        large one."""
        if self._pending or self._rest is not None:
            self.settle()
        if self.native_sock is None or len(data) > LARGEST:
            self.send(data)
            return
        self._pending = True
        self._outbox.post(self._deliver, data)

    def offer(self, data: bytes) -> None:
        """Send what the client may go without, if it has taken all that came before. Never waits."""
        if self._pending:
            self._outbox.flush()
        if self._rest is None and not self.is_broken and self.native_sock is not None:
            self._pending = True
            self._outbox.post(self._deliver, data)

    def settle(self) -> None:
        """Return once what was posted has been sent, or cannot be: before somebody else writes, or the connection is closed."""
        if self._pending:
            self._outbox.flush()
        rest, self._rest = self._rest, None
        if rest is not None:
            rest.join()

    def release(self) -> None:
        """Leave the socket to others, who write to it, wait for it and close it, until the next ``wait``."""
        self.settle()
        self.readable.unwatch()

    def _deliver(self, data: bytes) -> None:
        self._pending = False
        if self.is_broken:
            return
        assert self.native_sock is not None
        try:
            size = self.native_sock.send(data)
        except BlockingIOError:
            size = 0
        except OSError:
            self._lose()
            return
        if size < len(data):
            self._rest = gevent.spawn(self._send_rest, data[size:])

    def _send_rest(self, data: bytes) -> None:
        try:
            self._send_all(memoryview(data))
        except ClientGone:
            self._lose()

    def _lose(self) -> None:
        """The client has gone, or does not take its answer: nothing else may be sent to it, as it would be taken for that."""
        self.is_broken = True
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def discard(self) -> None:
        """The connection is reset: what has not left does not leave."""
        self.is_broken = True
        rest, self._rest = self._rest, None
        if rest is not None:
            rest.kill(block=False)

    def take_read_ahead(self) -> bytes:
        """What came behind the last request."""
        data, self.read_ahead = self.read_ahead, b""
        return data

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it, however long that takes a client that goes on taking it. Raises ClientGone."""
        if self.native_sock is not None:
            try:
                size = self.native_sock.send(data)
            except BlockingIOError:
                size = 0
            except OSError as error:
                raise ClientGone(error, len(data)) from error
            if size == len(data):
                return
            data = memoryview(data)[size:]
        self._send_all(memoryview(data))

    def _send_all(self, left: memoryview) -> None:
        """A socket is writable only once the client has taken much of what it holds: until then, the bytes it holds say whether the
        client goes on. gevent's sendall() would bound the whole."""
        while left:
            queue_size = self._queue_size()
            try:
                with gevent.Timeout(self.send_timeout, SendStalled(f"nothing was taken for {self.send_timeout:g} s")):
                    left = left[self._send_some(left):]
            except OSError as error:
                if not isinstance(error, SendStalled) or self._queue_size() >= queue_size:
                    raise ClientGone(error, len(left)) from error

    def _send_some(self, data: memoryview) -> int:
        while True:
            try:
                return int(self.sock.send(data))
            except TimeoutError as error:
                if error.errno is not None:                  # the connection's; the socket's own timeout is for reading
                    raise

    def _queue_size(self) -> int:
        """Bytes that the client's side has not taken yet."""
        return int(struct.unpack("i", fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])

    def quiet(self) -> bool:
        """Is there nothing to read, not even an end?"""
        poller = POLL()
        poller.register(self.sock.fileno(), select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """End it. A client still sending is heard for a moment first, else the reset would destroy the answer (RFC 9112, 9.6)."""
        self.readable.close()
        try:
            self.settle()
            if self.lingers and self.sock.fileno() >= 0:
                self.sock.shutdown(socket.SHUT_WR)
                with gevent.Timeout(LINGER, False):
                    left = 64 * PIECE
                    while left > 0 and (data := self.sock.recv(PIECE)):
                        left -= len(data)
        except OSError:                                      # it has gone: then there is nothing to hear
            pass
        finally:
            self.sock.close()

    def __repr__(self) -> str:
        return f"Client({self.addr}, {self.request_count} requests)"
