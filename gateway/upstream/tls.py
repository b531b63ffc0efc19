"""TLS to an instance: its context, a TLS stream over a non-blocking socket, and a Connection on top of that.

The stream runs on two memory buffers (``ssl.SSLObject``), so that only the connection reads and writes the socket, and it tells how
the connection ended: in order with close_notify, truncated without it (RFC 9112 section 9.8).

Certificates are verified as ``requests`` does: names in subjectAltName only, TLS 1.2 and later.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from socket import SHUT_RDWR, SHUT_WR
from typing import Any

from ..config import Tls
from ..errors import ConfigError, with_cause
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from .dns import SocketAddress
from .limit import Limit, SilenceLimit
from .transport import CLOSED_HERE, PIECE, Connection, ConnectionLost

RECORDS = 65536
CUT = "UNEXPECTED_EOF_WHILE_READING"                     # OpenSSL's reason for an end without close_notify


def build_context(tls: Tls) -> ssl.SSLContext:
    """The context for ``tls``. Raises ConfigError naming the file that cannot be used."""
    return _context(tls.verify, _file("ca", tls.ca), _file("certificate", tls.certificate), _file("key", tls.key))


def check_name(context: ssl.SSLContext, name: str) -> None:
    """Raises ConfigError for a name TLS cannot ask for."""
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
    except ValueError as error:                          # UnicodeError is a ValueError
        raise with_cause(ConfigError([f"tls.server_name {name!r}: {error}"]), error)


def _file(name: str, path: str | None) -> tuple[str, int] | None:
    """The path of a file and its modification time, so that a file that has changed is another key."""
    try:
        return None if path is None else (path, os.stat(path).st_mtime_ns)
    except OSError as error:
        raise with_cause(ConfigError([f"tls.{name} {path}: {error.strerror}"]), error)


@lru_cache(maxsize=64)
def _context(verify: bool, ca: tuple[str, int] | None, certificate: tuple[str, int] | None,
             key: tuple[str, int] | None) -> ssl.SSLContext:
    """One context for all settings that name the same files: reading the system's certificates takes 20 ms."""
    try:
        context = ssl.create_default_context(cafile=ca and ca[0])
    except OSError as error:                             # ssl.SSLError is one
        raise with_cause(ConfigError([f"tls.ca {ca and ca[0]}: {error}"]), error)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False          # the names are in subjectAltName alone (RFC 9110 section 4.3.4)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        try:
            context.load_cert_chain(certificate[0], key and key[0], password=_no_password)
        except (OSError, ValueError) as error:
            where = key[0] if key else "in the same file"
            raise with_cause(ConfigError([f"tls.certificate {certificate[0]}, key {where}: {error}"]), error)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)     # a cut body must not pass for a whole one
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


class TlsStream:
    """A TLS client on a ``socket`` that is connected and non-blocking. Nothing happens before ``handshake``."""

    def __init__(self, socket: Any, context: ssl.SSLContext, server_name: str) -> None:
        self._socket = socket
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._unsent = b""                               # ciphertext the socket has not taken
        self._plain_size = 0                               # size of the caller's data that it encrypts

    def handshake(self) -> None:
        """Continue the handshake. Raises ssl.SSLWantReadError (wait, ``feed`` and call again), BlockingIOError (wait until the
        socket takes more and call again), and other OSErrors when it failed."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            raise
        except ssl.SSLError:
            with suppress(OSError):                      # the alert that says why, if it can still be sent
                self._flush()
            raise
        self._flush()

    def feed(self) -> None:
        """Read what the socket has, or its end, into the stream."""
        try:
            data = self._socket.recv(RECORDS)
        except BlockingIOError:
            return
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def read(self, size: int) -> bytes | None:
        """Up to ``size`` of the bytes fed, b"" at an end in order, None when more must be fed. Raises ssl.SSLEOFError when the
        connection was cut."""
        try:
            return self.tls.read(size)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as error:                    # before 3.11.4 Python has no class of its own for that reason
            raise ssl.SSLEOFError(*error.args) if error.reason == CUT else error

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt and send up to 64 KB of ``data``: how many bytes have gone. Raises BlockingIOError when the socket takes no
        more; it must then be called again with the same."""
        if not self._plain_size:
            self._plain_size = self.tls.write(data[:RECORDS])
        self._flush()
        size, self._plain_size = self._plain_size, 0
        return size

    def close_notify(self) -> None:
        """Send close_notify, if that needs no wait."""
        with suppress(OSError):
            self.tls.unwrap()
        with suppress(OSError):
            self._flush()

    def _flush(self) -> None:
        self._unsent += self._outgoing.read()
        while self._unsent:
            size = self._socket.send(self._unsent)
            self._unsent = self._unsent[size:]


class TlsConnection(Connection):
    """A connection with TLS on it."""

    __slots__ = ("tls",)

    def __init__(self, socket: Any, context: ssl.SSLContext, server_name: str, clock: MonotonicClock = CLOCK) -> None:
        super().__init__(socket, clock)
        self.tls = TlsStream(socket, context, server_name)

    def establish(self, endpoint: SocketAddress, limit: Limit) -> None:
        super().establish(endpoint, limit)
        while (wait := self._handshake()) is not None:
            wait(limit)

    def _handshake(self) -> Callable[[Limit], None] | None:
        """Continue the handshake. Returns the wait that it needs, None at its end."""
        try:
            self.tls.feed()
            self.tls.handshake()
        except ssl.SSLWantReadError:
            return self.wait_for_data
        except BlockingIOError:
            return self.wait_writable
        except OSError as error:
            raise with_cause(ConnectionLost(error), error)
        return None

    def receive(self, limit: Limit) -> bytes:
        data = self._read()
        while data is None:
            self.wait_for_data(limit)
            data = self._read(feed=True)
        return data

    def _read(self, feed: bool = False) -> bytes | None:
        if self.closed:
            raise ConnectionLost(ConnectionAbortedError(errno.ECONNABORTED, CLOSED_HERE))
        try:
            if feed:
                self.tls.feed()
            return self.tls.read(PIECE)
        except OSError as error:
            raise with_cause(ConnectionLost(error), error)

    def send(self, data: bytes | memoryview) -> int:
        try:
            return self.tls.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise with_cause(ConnectionLost(error), error)

    def alive(self) -> bool:
        """As above; session tickets do no harm, but data and an end do, also those fed already."""
        self.readable.watch()
        try:
            while self.tls.read(1) is None:
                if super().alive():
                    return True
                self.tls.feed()
        except OSError:                                  # cut, which is why it cannot serve again
            return False
        return False

    def close(self) -> None:
        if not self.closed:
            self.tls.close_notify()
        super().close()

    def detach(self) -> Any:
        return TlsSocket(self)


class TlsSocket:
    """The methods of a socket that splicing needs, on a connection with TLS: what ``detach`` returns. They raise OSError."""

    def __init__(self, connection: TlsConnection) -> None:
        self._connection = connection
        self._unread = b""
        self._limit = Limit(None, None, TimeoutError)

    def settimeout(self, seconds: float | None) -> None:
        self._limit = Limit(None, None, TimeoutError) if seconds is None else SilenceLimit(None, seconds, TimeoutError)

    def recv(self, size: int) -> bytes:
        try:
            data = self._unread or self._connection.receive(self._limit)
        except ConnectionLost as error:
            if not isinstance(error.problem, ssl.SSLEOFError):
                raise error.problem
            data = b""                                   # an end is an end here: the protocol spoken now has its own
        self._unread = data[size:]
        return data[:size]

    def sendall(self, data: bytes) -> None:
        try:
            self._connection.send_all(data, self._limit)
        except ConnectionLost as error:
            raise error.problem

    def fileno(self) -> int:
        return self._connection.socket.fileno()

    def shutdown(self, how: int) -> None:
        if how in (SHUT_WR, SHUT_RDWR):
            self._connection.tls.close_notify()
        self._connection.socket.shutdown(how)

    def close(self) -> None:
        self._connection.close()
