"""Cache-Status for the client (RFC 9211), and the metrics of the cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .entry import Entry
from .storage.memory import Share

OUTCOMES = "Requests of routes with a cache: hit; served stale: stale-while-revalidate, stale-if-error (RFC 5861), max-stale; " \
           "collapsed (waited for another's answer); else why it went to the upstream (RFC 9211)."
TOKEN = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")           # of a Structured Field (RFC 9651 section 3.3.4)
Count = Callable[[], None]


class Numbers:
    """Counters of one route, each made when it is first needed. ``counter`` is the registry's. Labels are those of the decisions
    (decide.py)."""

    def __init__(self, counter: Callable[..., Any], route: str) -> None:
        self.counter = counter
        self.route = route
        self.owner: Share | None = None                  # of what it stores
        self.hit: Count = counter("gateway_cache_requests_total", OUTCOMES, {"route": route, "outcome": "hit"}).inc
        self.count_stored: Count = counter(
            "gateway_cache_stored_total", "Answers stored, or kept after a validation.", {"route": route}).inc
        self._counts: dict[tuple[str, str], Count] = {}

    def count_outcome(self, outcome: str) -> None:
        self._count("gateway_cache_requests_total", OUTCOMES, "outcome", outcome)

    def count_refusal(self, reason: str) -> None:
        self._count("gateway_cache_refused_total", "Answers not stored, by the reason.", "reason", reason)

    def count_refresh(self, result: str) -> None:
        self._count("gateway_cache_refreshes_total", "Refreshes in the background, by their result.", "result", result)

    def _count(self, name: str, help: str, label: str, value: str) -> None:
        count = self._counts.get((name, value))
        if count is None:
            count = self._counts[name, value] = self.counter(name, help, {"route": self.route, label: value}).inc
        count()


def tier_numbers(registry: Any) -> Callable[[str, str, str], Callable[[float], None]]:
    """The metrics of the tiers: ``count(name, tier, route)`` returns the function that adds or sets one; ``route`` is empty for
    all."""
    def count(name: str, tier: str, route: str) -> Callable[[float], None]:
        kind, labels = ("route", {"route": route}) if route else ("tier", {"tier": tier})
        if name in ("bytes", "entries"):
            of = "route_" if route else ""
            help = f"Stored answers of a route in memory, in {name}." if route else f"Stored answers in a tier, in {name}."
            return registry.gauge(f"gateway_cache_{of}{name}", help, labels).set
        help = f"What memory counts as {name} for a route." if route else f"What a tier of the cache counts as {name}."
        return registry.counter(f"gateway_cache_{kind}_{name}_total", help, labels).inc
    return count


class Report:
    """The Cache-Status of one route; ``explain`` adds the key, and why an answer is not stored.

    ``hit`` and ``fwd`` exclude each other: a response for which a request was forwarded is no hit, whatever the upstream answered.
    """

    def __init__(self, name: str, explain: bool = False) -> None:
        self.name = name if TOKEN.fullmatch(name) else quote(name)
        self.explain = explain
        self._hit = f"{self.name}; hit; ttl="
        self._hit_line = f"Cache-Status: {self._hit}".encode() + b"%d\r\n"

    def hit(self, entry: Entry, now: float, key: str, detail: str = "") -> str:
        """The value for a stored answer; its ttl is below 0 when it is stale."""
        text = f"{self._hit}{ttl(entry, now)}"
        if self.explain or detail:
            text += self.more(key, detail)
        return text

    def hit_line(self, entry: Entry, now: float, key: str) -> bytes:
        """The field line of a plain hit."""
        if self.explain:
            return f"Cache-Status: {self.hit(entry, now, key)}\r\n".encode()
        return self._hit_line % (entry.expires - now)

    def replacement(self, reason: str, status: int, entry: Entry, now: float, key: str, detail: str) -> str:
        """The value for a stale answer in place of an error. ``status`` is 0 when there was no response: without fwd-status the
        detail has the error."""
        text = f"{self.name}; fwd={reason}" + (f"; fwd-status={status}" if status else "") + f"; ttl={ttl(entry, now)}"
        return text + (f"; key={quote(key)}" if self.explain else "") + f"; detail={quote(detail)}"

    def forward(self, reason: str, status: int, key: str, *, stored: bool = False, collapsed: bool = False,
                detail: str = "") -> str:
        text = f"{self.name}; fwd={reason}"
        if status:
            text += f"; fwd-status={status}"
        if stored:
            text += "; stored"
        if collapsed:
            text += "; collapsed"
        return text + self.more(key, detail)

    def more(self, key: str, detail: str) -> str:
        if not self.explain:
            return ""
        return (f"; key={quote(key)}" if key else "") + (f"; detail={quote(detail)}" if detail else "")


def ttl(entry: Entry, now: float) -> int:
    """Seconds until it expires, below 0 since it has expired; rounded towards 0."""
    return int(entry.expires - now) if entry.expires >= now else -int(now - entry.expires)


def quote(text: str) -> str:
    """A Structured Field string; what cannot be in one is percent-encoded."""
    plain = "".join(char if " " <= char <= "~" else "".join(f"%{byte:02X}" for byte in char.encode()) for char in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
