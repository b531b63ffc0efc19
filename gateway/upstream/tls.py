"""TLS to an instance: its context, a TLS stream over a non-blocking socket, and the connection that waits for it.

The stream runs on two memory buffers (``ssl.SSLObject``), so it never touches the socket behind the back of whoever waits for it,
and it sees how the connection ended: with close_notify in order, without it cut (RFC 9112 section 9.8).
"""

from __future__ import annotations

import errno
import ssl
from contextlib import suppress
from functools import lru_cache
from socket import SHUT_RDWR, SHUT_WR
from typing import Any

from ..config import Tls
from ..errors import ConfigError
from .dns import Place
from .limit import Limit, Silence
from .transport import PIECE, Connection

RECORDS = 65536


def build_context(tls: Tls) -> ssl.SSLContext:
    """The context for ``tls``. Raises ConfigError naming the file that cannot be used."""
    if tls == Tls(verify=tls.verify, server_name=tls.server_name):
        return _plain_context(tls.verify)
    context = _new_context(tls.verify, tls.ca)
    if tls.certificate:
        try:
            context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
        except (OSError, ValueError) as error:           # ssl.SSLError is an OSError
            raise ConfigError([f"tls.certificate {tls.certificate}, key {tls.key or 'in the same file'}: {error}"]) from error
    return context


def check_name(context: ssl.SSLContext, name: str) -> None:
    """Raises ConfigError for a name TLS cannot ask for."""
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
    except ValueError as error:                          # UnicodeError is a ValueError
        raise ConfigError([f"tls.server_name {name!r}: {error}"]) from error


@lru_cache(maxsize=2)
def _plain_context(verify: bool) -> ssl.SSLContext:
    """One for all that name no files: reading the system's certificates takes 20 ms."""
    return _new_context(verify, None)


def _new_context(verify: bool, ca: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigError([f"tls.ca {ca}: {error}"]) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF     # Python ignores a missing close_notify; a cut body must not pass
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


class TlsStream:
    """``socket`` is connected and non-blocking. Nothing happens before ``handshake``."""

    def __init__(self, socket: Any, context: ssl.SSLContext, server_name: str) -> None:
        self._socket = socket
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._unsent = b""                               # ciphertext the socket has not taken
        self._accepted = 0                               # how much of the caller's data it stands for

    def handshake(self) -> None:
        """Raises ssl.SSLWantReadError or ssl.SSLWantWriteError for what to wait for, other OSErrors when it fails."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush_handshake()
                self.feed()
            except ssl.SSLError:
                with suppress(OSError):                  # the alert that says why, if it can still be sent
                    self._flush()
                raise
            else:
                return self._flush_handshake()

    def feed(self) -> None:
        """Take what the socket has, or its end. Raises ssl.SSLWantReadError when it has nothing."""
        try:
            data = self._socket.recv(RECORDS)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def read(self, size: int) -> bytes:
        """Up to ``size`` of the bytes fed, b"" at an end in order. Raises ssl.SSLWantReadError when more must be fed, and
        ssl.SSLEOFError when the connection was cut."""
        try:
            return self.tls.read(size)
        except ssl.SSLZeroReturnError:
            return b""

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt and send up to 64 KB of ``data``: how many bytes have gone. Raises BlockingIOError when the socket takes no
        more; it must then be called again with the same."""
        if not self._accepted:
            self._accepted = self.tls.write(data[:RECORDS])
        self._flush()
        accepted, self._accepted = self._accepted, 0
        return accepted

    def close_notify(self) -> None:
        """Say that this is the end, if that can be said without waiting."""
        with suppress(OSError):
            self.tls.unwrap()
        with suppress(OSError):
            self._flush()

    def _flush(self) -> None:
        self._unsent += self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[self._socket.send(self._unsent):]

    def _flush_handshake(self) -> None:
        try:
            self._flush()
        except BlockingIOError:
            raise ssl.SSLWantWriteError from None


class TlsConnection(Connection):
    """A connection with TLS on it."""

    __slots__ = ("tls",)

    def __init__(self, socket: Any, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(socket)
        self.tls = TlsStream(socket, context, server_name)

    def establish(self, place: Place, limit: Limit) -> None:
        super().establish(place, limit)
        while True:
            try:
                return self.tls.handshake()
            except ssl.SSLWantReadError:
                self._wait_readable(limit)
            except ssl.SSLWantWriteError:
                self._wait_writable(limit)

    def receive(self, limit: Limit) -> bytes:
        while True:
            if self.closed:
                raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was closed on this side")
            try:
                return self.tls.read(PIECE)
            except ssl.SSLWantReadError:
                self._wait_readable(limit)
            with suppress(ssl.SSLWantReadError):
                self.tls.feed()

    def send(self, data: bytes | memoryview) -> int:
        try:
            return self.tls.send(data)
        except BlockingIOError:
            return 0

    def alive(self) -> bool:
        """Session tickets and the like may have come, and do no harm; data and an end do."""
        while not super().alive():
            try:
                self.tls.feed()
                self.tls.read(1)
                return False
            except ssl.SSLWantReadError:
                continue
            except OSError:
                return False
        return True

    def close(self) -> None:
        if not self.closed:
            self.tls.close_notify()
        super().close()

    def detach(self) -> Any:
        return TlsSocket(self)


class TlsSocket:
    """What ``detach`` gives for a connection with TLS: the methods of a socket that splicing needs."""

    def __init__(self, connection: TlsConnection) -> None:
        self._connection = connection
        self._unread = b""
        self._limit = Limit(None, None, TimeoutError)

    def settimeout(self, seconds: float | None) -> None:
        self._limit = Limit(None, None, TimeoutError) if seconds is None else Silence(None, seconds, TimeoutError)

    def recv(self, size: int) -> bytes:
        try:
            data = self._unread or self._connection.receive(self._limit)
        except ssl.SSLEOFError:                          # an end is an end here: the protocol spoken now has its own
            data = b""
        self._unread = data[size:]
        return data[:size]

    def sendall(self, data: bytes) -> None:
        self._connection.send_all(data, self._limit)

    def fileno(self) -> int:
        return self._connection.socket.fileno()

    def shutdown(self, how: int) -> None:
        if how in (SHUT_WR, SHUT_RDWR):
            self._connection.tls.close_notify()
        self._connection.socket.shutdown(how)

    def close(self) -> None:
        self._connection.close()
