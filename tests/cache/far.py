"""A TCP proxy that makes a server far away: every byte arrives ``delay`` seconds later, each way."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import gevent
from gevent.queue import Queue
from gevent.server import StreamServer

Seen = Callable[[bytes], object]


class Far:
    """In front of ``port`` on loopback. ``said`` are the commands of Redis that arrived there, in their order."""

    def __init__(self, port: int, delay: float) -> None:
        self.target = port
        self.delay = delay
        self.said: list[str] = []
        self.server = StreamServer(("127.0.0.1", 0), self._handle)
        self.server.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server.server_port}/0"

    def _handle(self, client: socket.socket, address: object) -> None:
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            ways = [gevent.spawn(self._carry, client, server, self._heard), gevent.spawn(self._carry, server, client)]
            gevent.joinall(ways, count=1)
            gevent.killall(ways)

    def _carry(self, source: socket.socket, sink: socket.socket, seen: Seen = len) -> None:
        pieces: Queue = Queue()
        late = gevent.spawn(self._deliver, pieces, sink, seen)
        try:
            while data := source.recv(65536):
                pieces.put((time.monotonic() + self.delay, data))
        except OSError:
            pass                                         # a client that was killed
        finally:
            late.kill()

    def _deliver(self, pieces: Queue, sink: socket.socket, seen: Seen) -> None:
        while True:
            due, data = pieces.get()
            gevent.sleep(max(0.0, due - time.monotonic()))
            seen(data)
            sink.sendall(data)

    def _heard(self, data: bytes) -> None:
        self.said += commands(data)

    def stop(self) -> None:
        self.server.stop(timeout=0)


def commands(data: bytes) -> list[str]:
    """The names of the commands in what a client sent, without those of connecting; of a script, what it does."""
    found = []
    for piece in data.split(b"*")[1:]:
        words = piece.split(b"\r\n")
        if len(words) > 2 and words[0].isdigit() and words[2].isalpha():
            script = words[4] if words[2] == b"EVAL" else b""
            kind = next((kind for kind in ("PEXPIRE", "'NX'", "ARGV[2] ==", "PTTL", "XADD", "XLEN") if kind.encode() in script), "")
            if words[2] in (b"CLIENT", b"PING"):
                continue
            found.append({"PEXPIRE": "extend", "'NX'": "lease", "ARGV[2] ==": "release"}.get(kind, kind) or words[2].decode())
    return found
