"""What is measured with more than load: idle connections, and requests beside an upstream that hangs."""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from .load import measured, wrk
from .machine import Failed
from .peers.payload import HELLO
from .servers import Running

IDLE = 10_000
HANGING = 500
FEW = 8                                                      # connections of the bystanders
HEAD = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def idle(running: Running, seconds: float) -> dict[str, float]:
    """Bytes of memory for each of many connections that are kept and quiet, after each had an answer."""
    wrk(running.port, "/hello", seconds=1, connections=64)
    with ExitStack() as stack:
        before = settled(running)
        clients = [stack.enter_context(connected(running.port)) for _ in range(IDLE)]
        for client in clients:
            ask(client)
        after = settled(running)
        for client in clients:                               # every one is still there
            ask(client)
    return {"bytes_each": (after - before) / IDLE, "before_mb": before / 1e6, "after_mb": after / 1e6}


def settled(running: Running) -> int:
    """Memory once it has stopped changing, or after five seconds."""
    last, until = running.process.memory(), time.monotonic() + 5
    while time.monotonic() < until:
        time.sleep(0.5)
        now = running.process.memory()
        if abs(now - last) < 100_000:
            return now
        last = now
    return last


def connected(port: int) -> socket.socket:
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=10)
    except OSError as error:
        raise Failed(f"cannot connect: {error}") from error


def ask(client: socket.socket) -> None:
    """One whole answer on a kept connection. Raises Failed."""
    try:
        client.sendall(HEAD.format(path="/hello").encode())
        answer = b""
        while not answer.endswith(HELLO.encode()):
            piece = client.recv(65536)
            if not piece:
                raise Failed(f"a connection was closed after {answer!r}")
            answer += piece
    except OSError as error:
        raise Failed(f"a connection failed: {error}") from error
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise Failed(f"not the answer: {answer[:100]!r}")


def bystanders(running: Running, seconds: float) -> dict[str, float]:
    """Latency of requests to one upstream, alone, and while many requests hang on another."""
    def load() -> dict[str, float]:
        return measured(running, "/json", seconds=seconds, connections=FEW)

    wrk(running.port, "/json", seconds=1, connections=FEW)
    alone = load()
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(HANGING):
            client = stack.enter_context(connected(running.port))
            client.sendall(HEAD.format(path="/hang").encode())
            selector.register(client, selectors.EVENT_READ)
        wait_for_connections(running.upstream.hanging_port)
        beside = load()
        if ended := selector.select(0):
            raise Failed(f"{len(ended)} requests did not hang: {ended[0][0].fileobj.recv(300)!r}")  # type: ignore[union-attr]
    return {"rate": beside["rate"], "p50_ms": beside["p50_ms"], "p99_ms": beside["p99_ms"],
            "alone_rate": alone["rate"], "alone_p50_ms": alone["p50_ms"], "alone_p99_ms": alone["p99_ms"],
            "others": max(alone["others"], beside["others"])}


def wait_for_connections(port: int, seconds: float = 10.0) -> None:
    """Until as many connections to the upstream stand as requests shall hang there."""
    until = time.monotonic() + seconds
    while (count := established(port)) < HANGING:
        if time.monotonic() > until:
            raise Failed(f"only {count} of {HANGING} requests reached the upstream that hangs")
        time.sleep(0.05)


def established(port: int) -> int:
    """Connections to a port of this machine, as the kernel lists them."""
    remote = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(remote) and row[3] == "01" for row in rows)
