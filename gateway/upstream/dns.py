"""Names to addresses: a cache in front of the resolver, for what the configuration names.

- A numeric address is never looked up.
- An answer is used for ``ttl`` seconds, a failure for one second. When a lookup fails and there was an answer before, the old
  one goes on being used: an upstream does not vanish because its name server does. Nor does anybody wait long for a new answer
  then.
- Lookups have native threads of their own (tasks.py), so that nothing else waits for a name server.
- One lookup at a time for a name, however many wait for it; it runs in a greenlet of its own, so that a caller that is killed
  takes nothing from the others.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

import gevent
from gevent import monkey
from gevent.event import AsyncResult

from ..loop.time_limit import catch_up
from ..tasks import names

getaddrinfo = monkey.get_original("socket", "getaddrinfo")

NEGATIVE_TTL = 1.0
PATIENCE = 0.25                                          # seconds for a lookup where there was an answer before

Lookup = Callable[[str, int], list[Any]]


class SocketAddress(NamedTuple):
    """What ``socket`` and ``connect`` take."""

    family: int
    sockaddr: Any


class Known(NamedTuple):
    """An answer to be used ``until`` then; without places, the ``problem``."""

    until: float
    places: list[SocketAddress]
    problem: str


class LookupFailed(Exception):
    """The name has no address; the text says why."""


class Resolver:
    """``resolve`` is the cached lookup. ``lookup`` is ``(host, port) -> addrinfo list``, raising OSError; ``clock`` in seconds."""

    def __init__(self, ttl: float, lookup: Lookup | None = None, clock: Callable[[], float] = monotonic) -> None:
        self.ttl = ttl
        self.lookup = lookup or _system_lookup
        self.clock = clock
        self._known: dict[tuple[str, int], Known] = {}
        self._running: dict[tuple[str, int], AsyncResult] = {}

    def resolve(self, host: str, port: int, seconds: float | None = None) -> list[SocketAddress] | None:
        """All places of ``host``, in the order to try them; None if that is not known in ``seconds``. Raises LookupFailed."""
        numeric = numeric_place(host, port)
        if numeric is not None:
            return [numeric]
        key = host, port
        known = self._known.get(key)
        if known is None or self.clock() >= known.until:
            if known is not None and known.places:       # what was known before will do
                seconds = PATIENCE if seconds is None else min(seconds, PATIENCE)
            known = self._renewed(key, seconds)
        if known is None:
            return None
        if not known.places:
            raise LookupFailed(known.problem)
        return known.places

    def renew(self, host: str, port: int) -> list[SocketAddress]:
        """All places of a name, looked up if the time of the answer is over, however long that takes; empty if there are none."""
        known = self._known.get((host, port))
        if known is None or self.clock() >= known.until:
            known = self._renewed((host, port), None)
        return known.places if known is not None else []

    def _renewed(self, key: tuple[str, int], seconds: float | None) -> Known | None:
        """The answer to a lookup that takes no longer than ``seconds``, else the one before."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = AsyncResult()
            gevent.spawn(self._refresh, key, running)
        running.wait(seconds)
        if not running.ready():
            catch_up()
        return self._known.get(key)

    def left(self, host: str, port: int) -> float | None:
        """How many seconds the answer is still used; None when there is none, or no name."""
        known = self._known.get((host, port))
        return None if known is None else known.until - self.clock()

    def _refresh(self, key: tuple[str, int], done: AsyncResult) -> None:
        """Look ``key`` up and remember the answer."""
        try:
            self._known[key] = self._look_up(*key)
        finally:
            del self._running[key]
            done.set()

    def _look_up(self, host: str, port: int) -> Known:
        try:
            places = [SocketAddress(info[0], info[4]) for info in self.lookup(host, port)]
            problem = "" if places else f"{host} has no address"
        except (OSError, UnicodeError) as error:         # UnicodeError: a name that idna cannot encode
            places, problem = [], f"{host}: {error}"
        if places:
            return Known(self.clock() + self.ttl, places, "")
        before = self._known.get((host, port))
        return Known(self.clock() + NEGATIVE_TTL, before.places if before else [], problem)

    def __repr__(self) -> str:
        return f"Resolver({len(self._known)} names, {len(self._running)} being looked up)"


def numeric_place(host: str, port: int) -> SocketAddress | None:
    """The place of a host that is an address already, else None."""
    for family, sockaddr in ((socket.AF_INET, (host, port)), (socket.AF_INET6, (host, port, 0, 0))):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):                    # ValueError: a NUL, or not ASCII
            continue
        return SocketAddress(family, sockaddr)
    return None


def _system_lookup(host: str, port: int) -> list[Any]:
    infos: list[Any] = names.run(getaddrinfo, host, port, 0, socket.SOCK_STREAM)
    return infos
