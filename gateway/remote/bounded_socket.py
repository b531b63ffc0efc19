"""A socket with a bound on what an answer may be: whatever is announced, and however fast it comes.

The libraries for Redis and Memcached read a line of any length, a value of any announced size and an array of any number of
elements, and the loop waits for as long as data keeps coming. Here an answer is followed as it arrives (``Framing``), and ends with
TooLarge before the library has read what no answer has. Others have their turn in between, after as much work as TURN bytes are.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import sleep
from typing import Any

LARGEST = 64 * 1024 ** 2        # bytes of a value
TURN = 256 * 1024               # bytes after which others have their turn
CALL, LINE = 1024, 256          # bytes that a call for more, and a line, are worth: what they cost the client
SLACK = 4 * 1024 ** 2           # bytes of what is no record: a list of notices
LONGEST_LINE = 64 * 1024        # bytes; a value is none
MOST_LINES = 16 * 1024          # of one answer: of 1000 notices there are 9000
DEEPEST = 16                    # arrays in arrays
DIGITS = 20                     # of a number


class TooLarge(OSError):
    """The answer is larger than any that is expected."""


class Framing:
    """Splits a byte stream into lines and values. ``value`` returns the size of the value that follows a line, 0 without one."""

    def __init__(self, value: Callable[[bytes], int], most: int) -> None:
        self.value = value
        self.most = most
        self.lines = 0                                   # of this answer
        self._partial_line = b""                         # a line without its end
        self._skip = 0                                   # bytes of a value that are still to come

    def follow(self, data: bytes) -> int:
        """Parse the next bytes and return how many lines end in them. Raises TooLarge."""
        skip, before = self._skip, self.lines
        if skip >= len(data):                            # the middle of a value
            self._skip = skip - len(data)
            return 0
        data, at = self._partial_line + data if self._partial_line else data, skip
        while at < len(data):
            end = data.find(b"\r\n", at, at + LONGEST_LINE)
            if end < 0:
                break
            size = self.value(data[at:end])
            self._count_line(size)
            at = end + 2 + size
        self._skip, self._partial_line = max(0, at - len(data)), data[at:]
        if len(self._partial_line) >= LONGEST_LINE:
            raise TooLarge(f"a line of more than {LONGEST_LINE} bytes")
        return self.lines - before

    def _count_line(self, size: int) -> None:
        self.lines += 1
        if self.lines > MOST_LINES:
            raise TooLarge(f"an answer of more than {MOST_LINES} lines")
        if not 0 <= size <= self.most:
            raise TooLarge(f"a value of {size} bytes")


class RedisLines:
    """The ``value`` of the protocol of Redis (RESP): the sizes of bulk strings. It also limits how deep arrays nest."""

    def __init__(self) -> None:
        self._left: list[int] = []                       # elements of the arrays that have begun

    def __call__(self, line: bytes) -> int:
        left = self._left
        if left:
            left[-1] -= 1
        kind, size = line[:1], 0
        if kind == b"$":
            length = number(line[1:])
            size = length + 2 if length != -1 else 0     # -1: there is none
        elif kind == b"*" and (count := number(line[1:])) > 0:
            if count > MOST_LINES or len(left) >= DEEPEST:
                raise TooLarge(f"an array of {count} elements in {len(left)} others")
            left.append(count)
        while left and not left[-1]:
            left.pop()
        return size


def memcached_value(line: bytes) -> int:
    """``VALUE key flags size``, and in an answer to ``gets`` one word more."""
    words = line.split(None, 4)
    return number(words[3]) + 2 if line.startswith(b"VALUE") and len(words) > 3 else 0


def number(text: bytes) -> int:
    """Parse a size. Raises TooLarge when it is no number: the answer may have any length."""
    try:
        return int(text[:DIGITS + 1])                    # longer ones are too large anyway
    except ValueError:
        raise TooLarge(f"no number: {text[:DIGITS]!r}") from None


class BoundedSocket:
    """A proxy of the socket ``sock`` that bounds what it receives. ``value`` is that of Framing, for the protocol."""

    def __init__(self, sock: Any, most: int, value: Callable[[bytes], int]) -> None:
        self._sock = sock
        self._most = most + SLACK
        self._framing = Framing(value, self._most)
        self._size = self._turn = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, *args: Any) -> None:
        self._size = self._framing.lines = 0
        self._sock.sendall(*args)

    def recv(self, *args: Any) -> bytes:
        data: bytes = self._sock.recv(*args)
        self._count(data)
        return data

    def recv_into(self, buffer: Any, *args: Any) -> int:
        size: int = self._sock.recv_into(buffer, *args)
        self._count(bytes(memoryview(buffer)[:size]))
        return size

    def _count(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most:
            raise TooLarge(f"an answer of more than {self._most} bytes")
        self._turn += len(data) + CALL + LINE * self._framing.follow(data)
        if self._turn > TURN:
            self._turn = 0
            sleep(0)

    def __repr__(self) -> str:
        return f"BoundedSocket({self._sock!r})"


class Sockets:
    """A stand-in for the module ``socket`` whose sockets are bounded, for the protocol of Memcached."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socket(self, *args: Any, **kwargs: Any) -> BoundedSocket:
        return BoundedSocket(socket.socket(*args, **kwargs), self.most, memcached_value)


def bounded_class(kind: type[Any], most: int) -> type[Any]:
    """A class of connections of redis-py, with bounded sockets."""

    class BoundedConnection(kind):
        def _connect(self) -> BoundedSocket:
            return BoundedSocket(super()._connect(), most, RedisLines())

    return BoundedConnection
