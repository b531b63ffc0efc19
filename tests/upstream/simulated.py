"""A network on a virtual clock: instances with latency and failures, the connections to them, and a name server.

The upstream in front of it is the real one, with its attempt loop, pools, names and parsers; only its sockets are replaced
(``Network.open``). All chance comes from one ``random.Random``. What an instance sees of its clients it checks against the limits
of the pool, and notes as violations.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from random import Random
from socket import AF_INET, SOCK_STREAM
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import Event

from gateway.upstream.dns import SocketAddress
from gateway.upstream.limit import Limit
from gateway.upstream.transport import ConnectionLost
from tests.clocks import VirtualClock

PORT = 80
EPSILON = 1e-6                                           # seconds: sums of times are rounded
DEADLINE = b"\r\nX-Deadline: "
BEHAVIOURS = {                                           # how often an instance answers a request in which way
    "answer": 800, "stream": 60, "chunked": 60, "until close": 20, "slow": 20, "unavailable": 40, "say close": 40, "promise": 40,
    "close silently": 40, "close at once": 10, "reset": 10, "stall": 5, "cut": 10, "stall in the body": 5, "garbage": 5, "stray": 5}


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Network:
    """The instances by their address. ``open`` is what an Upstream takes."""

    def __init__(self, clock: VirtualClock, random: Random, *, max_connections: int, idle_timeout: float, max_age: float) -> None:
        self.clock = clock
        self.random = random
        self.max_connections = max_connections
        self.idle_timeout = idle_timeout
        self.max_age = max_age
        self.machines: dict[Any, Machine] = {}
        self.names: dict[str, list[str]] = {}
        self.name_server = True
        self.violations: list[str] = []
        self.trace: list[tuple[Any, ...]] = []

    def machine(self, address: str, **rates: int) -> Machine:
        machine = self.machines[address, PORT] = Machine(self, address, {**BEHAVIOURS, **rates})
        return machine

    def open(self, endpoint: SocketAddress) -> SimulatedConnection:
        return SimulatedConnection(self, self.machines[endpoint.sockaddr])

    def look_up(self, host: str, port: int) -> list[Any]:
        self.clock.sleep(self.random.uniform(0.001, 0.02))
        if not self.name_server:
            raise failure(errno.ETIMEDOUT)
        return [(AF_INET, SOCK_STREAM, 6, "", (address, port)) for address in self.names[host]]

    def note(self, *event: Any) -> None:
        self.trace.append((round(self.clock.now(), 9), *event))

    def check(self, holds: bool, text: str) -> None:
        if not holds:
            self.violations.append(f"at {self.clock.now():.3f}: {text}")


class Machine:
    """An address that may be ``up`` or not, the connections ``open`` to it, and the time of its last request."""

    def __init__(self, network: Network, address: str, rates: dict[str, int]) -> None:
        self.network = network
        self.address = address
        self.up = True
        self.open: list[SimulatedConnection] = []
        self.last_request = 0.0
        self.outages = 0
        self._behaviours, self._weights = list(rates), list(rates.values())

    def accept(self, connection: SimulatedConnection) -> OSError | None:
        """What connecting comes to."""
        self.network.note("connect", self.address, self.up)
        if not self.up:
            return failure(errno.ECONNREFUSED)
        self.open.append(connection)
        self.network.check(len(self.open) <= self.network.max_connections, f"{len(self.open)} connections to {self.address}")
        return None

    def go_down(self) -> None:
        """Every connection ends at once, and no new one is accepted."""
        self.network.note("down", self.address)
        self.up = False
        self.outages += 1
        for connection in list(self.open):
            connection.arrive(failure(errno.ECONNRESET))

    def come_back(self) -> None:
        self.network.note("up", self.address)
        self.up = True

    def serve(self, connection: SimulatedConnection, head: bytes) -> None:
        """Answer one request, or do not."""
        network, random = self.network, self.network.random
        deadline = float(head.partition(DEADLINE)[2].partition(b"\r\n")[0])
        network.check(network.clock.now() < deadline + EPSILON, f"a request came to {self.address} after its deadline")
        behaviour = random.choices(self._behaviours, self._weights)[0]
        self.last_request = network.clock.now()
        network.note("request", self.address, behaviour)
        latency = random.expovariate(1 / 0.05) + (random.uniform(1.0, 4.0) if behaviour == "slow" else 0.0)
        network.clock.call_later(latency, self._answer, connection, behaviour)

    def _answer(self, connection: SimulatedConnection, behaviour: str) -> None:
        if connection.ended or connection.closed:
            return
        body = b"x" * self.network.random.choice([0, 2, 500, 70000])
        length = b"Content-Length: %d\r\n" % len(body)
        status = b"503 Unavailable" if behaviour == "unavailable" else b"200 OK"
        fields = {"say close": length + b"Connection: close\r\n", "promise": length + b"Keep-Alive: timeout=2\r\n",
                  "until close": b"", "chunked": b"Transfer-Encoding: chunked\r\n"}.get(behaviour, length)
        head = b"HTTP/1.1 %b\r\nCache-Control: max-age=1\r\n%b\r\n" % (status, fields)
        pieces: list[Any] = [head + body]
        if behaviour in ("stream", "chunked", "until close"):
            parts = [body[start:start + 25000] for start in range(0, len(body), 25000)]
            if behaviour == "chunked":
                parts = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts] + [b"0\r\n\r\n"]
            pieces = [head, *parts, *([b""] if behaviour == "until close" else [])]
        elif behaviour in ("close at once", "reset", "garbage"):
            pieces = [{"close at once": b"", "reset": failure(errno.ECONNRESET), "garbage": b"SSH-2.0-x\r\n\r\n"}[behaviour]]
        elif behaviour in ("cut", "stall in the body"):
            pieces = [head.replace(length, b"Content-Length: 100000\r\n") + b"x" * 30000, *([b""] if behaviour == "cut" else [])]
        elif behaviour == "stall":
            pieces = []
        elif behaviour == "say close":
            pieces.append(b"")
        elif behaviour == "stray":
            pieces.append(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        connection.idle_since = self.network.clock.now()
        connection.promise = 2.0 if behaviour == "promise" else None
        for number, piece in enumerate(pieces):
            self.network.clock.call_later(0.01 * number, connection.arrive, piece)
            if piece not in (b"",):
                connection.idle_since = self.network.clock.now() + 0.01 * number
        if behaviour == "close silently":
            self.network.clock.call_later(self.network.random.uniform(0.0, 3.0), connection.arrive, b"")


class SimulatedConnection:
    """Both ends of a connection: to the upstream what transport.Connection is, to the machine ``arrive``."""

    def __init__(self, network: Network, machine: Machine) -> None:
        self.network = network
        self.machine = machine
        self.clock = network.clock
        self.readable = self                             # of which the pool takes these:
        self.is_watched = False
        self.at_rest: Any = None
        self.requests = 0
        self.keep: float | None = None
        self.expires = 0.0
        self.retires = float("inf")
        self.endpoint: SocketAddress | None = None
        self.post_error: OSError | None = None
        self.closed = False
        self.ended = False                               # by the machine
        self.opened = 0.0
        self.idle_since: float | None = None
        self.promise: float | None = None
        self._request = b""
        self._incoming: deque[Any] = deque()
        self._arrival = Event()
        self._reading = False

    # The machine's side

    def arrive(self, piece: Any) -> None:
        """Bytes, b"" for an end in order, or an OSError."""
        if self.closed or self.ended:
            return
        if not isinstance(piece, bytes) or not piece:
            self.ended = True
            self.machine.open.remove(self)
        self._incoming.append(piece)
        self._arrival.set()
        if self.is_watched and not self._reading:
            self.is_watched = False
            if self.at_rest is not None:
                self.at_rest()

    # The upstream's side

    def establish(self, endpoint: SocketAddress, limit: Limit) -> None:
        self.endpoint = endpoint
        latency = self.network.random.uniform(0.0005, 0.005)
        left = limit.left()
        if left is not None and left <= latency:
            self.clock.sleep(left)
            raise limit.over()
        self.clock.sleep(latency)
        if (error := self.machine.accept(self)) is not None:
            raise ConnectionLost(error)
        self.opened = self.clock.now()

    def send(self, data: bytes | memoryview) -> int:
        if self.closed or self.ended:
            raise ConnectionLost(failure(errno.EPIPE))
        if not self._request:
            self._check_reuse()
        self._request += bytes(data)
        head, end, body = self._request.partition(b"\r\n\r\n")
        length = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        if end and len(body) == int(length or b"0"):
            self._request = b""
            self.idle_since = None
            self.machine.serve(self, head + end)
        return len(data)

    def send_all(self, data: bytes | memoryview, limit: Limit) -> None:
        self.send(data)

    def post(self, data: bytes) -> None:
        get_hub().loop.run_callback(self._deliver, data)

    def receive(self, limit: Limit) -> bytes:
        limit.begin()
        while not self.closed:
            if self._incoming:
                piece = self._incoming[0]
                if isinstance(piece, OSError):
                    raise ConnectionLost(piece)
                return self._incoming.popleft() if piece else b""
            left = limit.left()
            self._arrival.clear()
            self._reading = True
            try:
                if not self.clock.wait(self._arrival, left):
                    raise limit.over()
            finally:
                self._reading = False
        raise ConnectionLost(self.post_error or failure(errno.ECONNABORTED))

    def wait_writable(self, limit: Limit) -> None:
        limit.left()
        gevent.sleep(0)

    def alive(self) -> bool:
        return not self._incoming

    def watch(self) -> None:
        self.is_watched = True

    def wake(self) -> None:
        self._arrival.set()

    def close(self) -> None:
        if self.closed:
            return
        if self.idle_since is not None:
            unused = self.clock.now() - self.idle_since
            self.network.check(unused <= self.network.idle_timeout + 0.05,
                               f"a connection to {self.machine.address} was unused for {unused:.3f} s")
        self.network.note("close", self.machine.address)
        self.closed = True
        self._arrival.set()
        if self in self.machine.open:
            self.machine.open.remove(self)

    abort = close

    def _deliver(self, data: bytes) -> None:
        if self.closed:
            return
        if not self.alive():
            self.post_error = failure(errno.ECONNRESET)
            self.close()
        else:
            self.send(data)

    def _check_reuse(self) -> None:
        now, network = self.clock.now(), self.network
        network.check(now - self.opened <= network.max_age + EPSILON, f"a connection {now - self.opened:.3f} s old is used")
        if self.idle_since is not None:
            idle = network.idle_timeout if self.promise is None else min(network.idle_timeout, self.promise)
            network.check(now - self.idle_since <= idle + EPSILON, f"a connection unused for {now - self.idle_since:.3f} s is used")
