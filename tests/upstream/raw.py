"""Both ends of raw HTTP for tests: reading a request as a service does, and a Call to send."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gateway.deadline import Deadline
from gateway.loop.monotonic_clock import CLOCK, MonotonicClock
from gateway.message import Body, Call
from gateway.upstream.client import Upstream
from gateway.upstream.stream import BodyStream

LATE = 30.0                                              # seconds: by then it surely has happened
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def get(target: str = "/", *headers: tuple[str, str], seconds: float = LATE, clock: MonotonicClock = CLOCK, **rest: Any) -> Call:
    return Call("GET", target, list(headers), deadline=Deadline(seconds, clock.now), **rest)


def post(body: bytes | Body | None, method: str = "POST", seconds: float = LATE, clock: MonotonicClock = CLOCK,
         **rest: Any) -> Call:
    return Call(method, "/", [], body, deadline=Deadline(seconds, clock.now), **rest)


def body_of(pieces: Iterable[bytes], length: int | None) -> Body:
    """A body that gives ``pieces``; an exception among them is raised."""
    source = iter(pieces)

    def read(size: int) -> bytes:
        piece = next(source, b"")
        if isinstance(piece, Exception):
            raise piece
        return piece

    return Body(read, length)


class Peer:
    """The service's side of one connection: ``request()`` reads one, None at the end."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.unread = b""

    def until(self, mark: bytes) -> bytes | None:
        while mark not in self.unread:
            data = self.sock.recv(65536)
            if not data:
                return None
            self.unread += data
        found, _, self.unread = self.unread.partition(mark)
        return found + mark

    def exactly(self, size: int) -> bytes:
        while len(self.unread) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(f"{len(self.unread)} of {size} bytes")
            self.unread += data
        found, self.unread = self.unread[:size], self.unread[size:]
        return found

    def request(self) -> tuple[bytes, bytes] | None:
        """Head and body, the latter decoded."""
        head = self.until(b"\r\n\r\n")
        if head is None:
            return None
        lower = head.lower()
        if b"\r\ntransfer-encoding: chunked\r\n" in lower:
            return head, b"".join(iter(self.chunk, b""))
        if b"\r\ncontent-length: " in lower:
            return head, self.exactly(int(lower.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]))
        return head, b""

    def chunk(self) -> bytes:
        line = self.until(b"\r\n")
        assert line is not None
        data = self.exactly(int(line, 16))
        assert self.exactly(2) == b"\r\n"
        return data


class Service:
    """``serve(Service(answer))``: every request is appended to ``requests`` and answered by ``answer(head, body)``: bytes, or None
    to close. ``connections`` counts those accepted, ``open`` those not yet ended."""

    def __init__(self, answer: Callable[[bytes, bytes], bytes | None] | bytes = OK) -> None:
        self.answer = answer if callable(answer) else lambda head, body: answer
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.open = 0

    def __call__(self, sock: Any, address: Any) -> None:
        self.connections += 1
        self.open += 1
        try:
            peer = Peer(sock)
            while request := peer.request():
                self.requests.append(request)
                answer = self.answer(*request)
                if answer is None:
                    return
                sock.sendall(answer)
        except (OSError, EOFError):                      # the gateway hung up: what the test looks at is its side
            return
        finally:
            self.open -= 1
            sock.close()


def stall(*parts: bytes) -> Callable[[Any, Any], None]:
    """A service that sends ``parts`` and then neither answers nor closes."""
    def handle(sock: Any, address: Any) -> None:
        peer = Peer(sock)
        try:
            peer.request()
            for part in parts:
                sock.sendall(part)
            peer.request()
        except (OSError, EOFError):
            return
        finally:
            sock.close()
    return handle


def content(body: bytes | BodyStream) -> bytes:
    return body if isinstance(body, bytes) else body.read()


def pool_of(upstream: Upstream) -> tuple[int, int, int]:
    """Open, unused, in flight."""
    instance = upstream.instances[0]
    return instance.pool.open, len(instance.pool.idle), instance.in_flight
