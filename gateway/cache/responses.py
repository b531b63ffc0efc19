"""Responses of the cache, from stored entries and from the upstream, with their Cache-Status."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..config import CacheSettings as Policy
from ..message import Headers, Request, Response
from . import rules
from .cache_status import Numbers, Report
from .conditional import answer
from .decide import Decision, NotStored
from .entry import Entry
from .fetch_context import FetchContext
from .response_directives import OWN

WINDOW = re.compile("stale-(while-revalidate|if-error)=([0-9]{1,18})", re.IGNORECASE)
NOT_STORED_THERE = re.compile("no-store|no-cache|private", re.IGNORECASE)


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
        seconds, place = 0.0, 0                              # in front of Cache-Control nginx obeys it whatever that says
        if entry is not None:
            control = ",".join([value for name, value in headers if name.lower() == "cache-control"])
            refresh, error = edge_windows(control)
            seconds = rules.edge_seconds(entry, self.policy, edge, now, refresh, error)
            if error and not NOT_STORED_THERE.search(control):       # before 1.23 nginx heeds the windows only behind them
                place = len(headers)
        headers.insert(place, ("X-Accel-Expires", str(int(seconds))))

    def __repr__(self) -> str:
        return f"Responses({self.report.name})"


def edge_windows(control: str) -> tuple[int, int]:
    """For how many seconds at most nginx serves what has expired by this Cache-Control: while it renews it, and while nobody
    answers. It takes these numbers wherever they stand, whatever else is said beside them."""
    pairs = [(name.lower(), int(seconds)) for name, seconds in WINDOW.findall(control)]
    return (max((seconds for name, seconds in pairs if name == "while-revalidate"), default=0),
            max((seconds for _, seconds in pairs), default=0))
