"""Names to addresses: a cache in front of the resolver, for what the configuration names.

- A numeric address is never looked up.
- An answer is used for ``ttl`` seconds, a failure for one second. When a lookup fails, the answer before it stays in use: an
  upstream does not vanish because its name server does. A caller waits only briefly for a new answer when there is an old one.
- Lookups have native threads of their own (loop/native_threads.py), so that nothing else waits for a name server.
- A name has one lookup at a time, which all callers share. It runs in a greenlet of its own, so that the death of a caller does not
  end it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import gevent
from gevent import monkey
from gevent.event import AsyncResult

from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..loop.native_threads import dns_threads

getaddrinfo = monkey.get_original("socket", "getaddrinfo")

NEGATIVE_TTL = 1.0
PATIENCE = 0.25                                          # seconds for a lookup where there was an answer before

Lookup = Callable[[str, int], list[Any]]


class SocketAddress(NamedTuple):
    """What ``socket`` and ``connect`` take."""

    family: int
    sockaddr: Any


class Answer(NamedTuple):
    """The result of a lookup, valid ``until`` that time: ``endpoints``, or the ``problem`` when there are none."""

    until: float
    endpoints: list[SocketAddress]
    problem: str


class LookupFailed(Exception):
    """The name has no address; the text says why."""


class Resolver:
    """``resolve`` is the cached lookup. ``lookup`` is ``(host, port) -> addrinfo list``, raising OSError."""

    def __init__(self, ttl: float, lookup: Lookup | None = None, clock: MonotonicClock = CLOCK) -> None:
        self.ttl = ttl
        self.lookup = lookup or _system_lookup
        self.clock = clock
        self._answers: dict[tuple[str, int], Answer] = {}
        self._running: dict[tuple[str, int], AsyncResult] = {}

    def resolve(self, host: str, port: int, seconds: float | None = None) -> list[SocketAddress] | None:
        """All endpoints of ``host``, in the order of the answer; None if there is none within ``seconds``. Raises LookupFailed."""
        numeric = numeric_endpoint(host, port)
        if numeric is not None:
            return [numeric]
        key = host, port
        answer = self._answers.get(key)
        if answer is None or self.clock.now() >= answer.until:
            if answer is not None and answer.endpoints:       # the answer before will do
                seconds = PATIENCE if seconds is None else min(seconds, PATIENCE)
            answer = self._refresh_within(key, seconds)
        if answer is None:
            return None
        if not answer.endpoints:
            raise LookupFailed(answer.problem)
        return answer.endpoints

    def renew(self, host: str, port: int) -> list[SocketAddress]:
        """All endpoints of a name, after a new lookup if the answer has expired, however long that takes; empty without any."""
        answer = self._answers.get((host, port))
        if answer is None or self.clock.now() >= answer.until:
            answer = self._refresh_within((host, port), None)
        return answer.endpoints if answer is not None else []

    def _refresh_within(self, key: tuple[str, int], seconds: float | None) -> Answer | None:
        """The answer after a lookup, or the one before when the lookup takes longer than ``seconds``."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = AsyncResult()
            gevent.spawn(self._refresh, key, running)
        self.clock.wait(running, seconds)
        return self._answers.get(key)

    def left(self, host: str, port: int) -> float | None:
        """Seconds until the answer expires; None when there is none, or ``host`` is an address."""
        answer = self._answers.get((host, port))
        return None if answer is None else answer.until - self.clock.now()

    def _refresh(self, key: tuple[str, int], event: AsyncResult) -> None:
        """Look ``key`` up, store the answer and set ``event``."""
        try:
            self._answers[key] = self._look_up(*key)
        finally:
            del self._running[key]
            event.set()

    def _look_up(self, host: str, port: int) -> Answer:
        try:
            endpoints = [SocketAddress(info[0], info[4]) for info in self.lookup(host, port)]
            problem = "" if endpoints else f"{host} has no address"
        except (OSError, UnicodeError) as error:         # UnicodeError: a name that idna cannot encode
            endpoints, problem = [], f"{host}: {error}"
        if endpoints:
            return Answer(self.clock.now() + self.ttl, endpoints, "")
        before = self._answers.get((host, port))
        return Answer(self.clock.now() + NEGATIVE_TTL, before.endpoints if before else [], problem)

    def __repr__(self) -> str:
        return f"Resolver({len(self._answers)} names, {len(self._running)} being looked up)"


def numeric_endpoint(host: str, port: int) -> SocketAddress | None:
    """The endpoint of a host that is an address already, else None."""
    for family, sockaddr in ((socket.AF_INET, (host, port)), (socket.AF_INET6, (host, port, 0, 0))):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):                    # ValueError: a NUL, or not ASCII
            continue
        return SocketAddress(family, sockaddr)
    return None


def _system_lookup(host: str, port: int) -> list[Any]:
    infos: list[Any] = dns_threads.run(getaddrinfo, host, port, 0, socket.SOCK_STREAM)
    return infos
