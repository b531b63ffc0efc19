"""The fields in which the cache's responses describe it, Cache-Status (RFC 9211), Age and X-Accel-Expires, and its metrics.

``Report`` writes the Cache-Status of a route, ``Responses`` makes its responses, from stored entries and from the upstream's, and
counts them in ``Numbers``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..config import CacheSettings as Policy
from ..message import Headers, Request, Response
from . import rules
from .conditional import answer
from .entry import Entry
from .fetch_context import FetchContext
from .reasons import Decision, NotStored
from .response_directives import OWN
from .storage.memory import Share
from .syntax import SF_TOKEN

OUTCOMES = "Requests of routes with a cache: hit; served stale: stale-while-revalidate, stale-if-error (RFC 5861), max-stale; " \
           "collapsed (waited for another's answer); else why it went to the upstream (RFC 9211)."
WINDOW = re.compile("stale-(while-revalidate|if-error)=([0-9]{1,18})", re.IGNORECASE)
NOT_STORED_THERE = re.compile("no-store|no-cache|private", re.IGNORECASE)
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
        self.name = name if SF_TOKEN.fullmatch(name) else quote(name)
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


class Responses:
    """Creates and counts the responses of one route."""

    def __init__(self, policy: Policy, report: Report, numbers: Numbers, clock: Callable[[], float]) -> None:
        self.policy = policy
        self.report = report
        self.numbers = numbers
        self.clock = clock

    def note(self, context: FetchContext, decision: Decision) -> None:
        """Count the decision, and note it for the log line of the request."""
        self.numbers.count_outcome(decision.label)
        context.request.notes["cache"] = decision.label

    def collapsed_response(self, context: FetchContext, entry: Entry) -> Response:
        """The answer of the flight that this request followed."""
        self.note(context, Decision.COLLAPSED)
        return self.stored_response(context, entry, self.report.forward(context.decision.fwd, 0, context.key, collapsed=True))

    def stale(self, context: FetchContext, entry: Entry, detail: str) -> Response:
        """The stale entry in place of an error that another request got."""
        self.note(context, Decision.STALE_IF_ERROR)
        return self.stored_response(context, entry, self.report.hit(entry, self.clock(), context.key, detail))

    def replacement(self, context: FetchContext, entry: Entry, status: int, detail: str) -> Response:
        """The stale entry in place of an error that this request got: a response with ``status``, or none, with 0."""
        self.note(context, Decision.STALE_IF_ERROR)
        text = self.report.replacement(context.decision.fwd, status, entry, self.clock(), context.key, detail)
        return self.stored_response(context, entry, text)

    def stored_response(self, context: FetchContext, entry: Entry, status: str, aged: bool = True) -> Response:
        """A response from a stored entry, with Age unless it is new. ``status`` is its Cache-Status."""
        now = self.clock()
        response = answer(entry, context.directives, now)
        if self.policy.offload:
            response.whole = entry
        if aged or now - entry.born >= 1.0:
            response.headers.append(("Age", str(max(0, int(now - entry.born)))))
        response.headers.append(("Cache-Status", status))
        self.tell_edge(response.headers, entry, now)
        return response

    def upstream_response(self, context: FetchContext, response: Response, result: Entry | NotStored, status: int = 0) -> Response:
        """The upstream's response. ``result`` is the entry as stored, or why it is not; ``status`` the upstream's where the client
        gets another one: 206 or 304 (RFC 9211 section 2.3)."""
        response.headers = [field for field in response.headers if field[0].lower() != OWN]
        entry, refusal = (None, str(result)) if isinstance(result, NotStored) else (result, "")
        text = self.report.forward(context.decision.fwd, status or response.status, context.key, stored=entry is not None,
                                   detail=refusal)
        response.headers.append(("Cache-Status", text))
        self.tell_edge(response.headers, entry, self.clock())
        return response

    def nothing(self, request: Request, key: str) -> Response:
        """504 for only-if-cached (section 5.2.1.7). The Cache-Status has neither hit nor fwd."""
        label = Decision.ONLY_IF_CACHED.label
        self.numbers.count_outcome(label)
        request.notes["cache"] = label
        status = f"{self.report.name}{self.report.more(key, label)}"
        return Response(504, [("Cache-Control", "no-store"), ("Content-Length", "0"), ("Cache-Status", status)], b"")

    def tell_edge(self, headers: Headers, entry: Entry | None, now: float) -> None:
        """Set X-Accel-Expires, the TTL for nginx in front, and remove the upstream's."""
        edge = self.policy.edge
        if edge is None:
            return
        headers[:] = [field for field in headers if field[0].lower() != "x-accel-expires"]
        seconds, position = 0.0, 0                              # in front of Cache-Control nginx obeys it whatever that says
        if entry is not None:
            control = ",".join([value for name, value in headers if name.lower() == "cache-control"])
            refresh, error = edge_windows(control)
            seconds = rules.edge_seconds(entry, self.policy, edge, now, refresh, error)
            if error and not NOT_STORED_THERE.search(control):       # before 1.23 nginx heeds the windows only behind them
                position = len(headers)
        headers.insert(position, ("X-Accel-Expires", str(int(seconds))))

    def __repr__(self) -> str:
        return f"Responses({self.report.name})"


def ttl(entry: Entry, now: float) -> int:
    """Seconds until it expires, below 0 since it has expired; rounded towards 0."""
    return int(entry.expires - now) if entry.expires >= now else -int(now - entry.expires)


def quote(text: str) -> str:
    """A Structured Field string; what cannot be in one is percent-encoded."""
    plain = "".join(char if " " <= char <= "~" else "".join(f"%{byte:02X}" for byte in char.encode()) for char in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def edge_windows(control: str) -> tuple[int, int]:
    """For how many seconds at most nginx serves what has expired by this Cache-Control: while it renews it, and while nobody
    answers. It takes these numbers wherever they stand, whatever else is said beside them."""
    pairs = [(name.lower(), int(seconds)) for name, seconds in WINDOW.findall(control)]
    return (max((seconds for name, seconds in pairs if name == "while-revalidate"), default=0),
            max((seconds for _, seconds in pairs), default=0))
