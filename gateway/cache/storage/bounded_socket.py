"""A socket to a tier that gives no more than may be asked of it: whatever is announced, and however fast it comes.

The clients of Redis and Memcached read a value of any announced size, and the loop waits for as long as data keeps coming. Here an
answer ends after ``most`` bytes, counted from when something was last sent, and others have their turn in between.
"""

from __future__ import annotations

import socket
from time import sleep
from typing import Any

LARGEST = 64 * 1024 ** 2        # bytes of a record
TURN = 256 * 1024               # bytes after which others have their turn
SLACK = 4 * 1024 ** 2           # bytes of what is no record: a list of purges


class TooLarge(OSError):
    """The answer has no end that anybody wants to wait for."""


class Bounded:
    """``sock`` in all else."""

    def __init__(self, sock: Any, most: int) -> None:
        self._sock = sock
        self._most = most + SLACK
        self._got = self._turn = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, *args: Any) -> None:
        self._got = 0
        self._sock.sendall(*args)

    def recv(self, *args: Any) -> bytes:
        data: bytes = self._sock.recv(*args)
        self._count(len(data))
        return data

    def recv_into(self, *args: Any) -> int:
        size: int = self._sock.recv_into(*args)
        self._count(size)
        return size

    def _count(self, size: int) -> None:
        self._got += size
        self._turn += size
        if self._got > self._most:
            raise TooLarge(f"an answer of more than {self._most} bytes")
        if self._turn > TURN:
            self._turn = 0
            sleep(0)

    def __repr__(self) -> str:
        return f"Bounded({self._sock!r})"


class Sockets:
    """The module ``socket``, but that its sockets are bounded."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socket(self, *args: Any, **kwargs: Any) -> Bounded:
        return Bounded(socket.socket(*args, **kwargs), self.most)


def bounded(kind: type[Any], most: int) -> type[Any]:
    """A class of connections of redis-py, with bounded sockets."""

    class BoundedConnection(kind):
        def _connect(self) -> Bounded:
            return Bounded(super()._connect(), most)

    return BoundedConnection
